"""A webhook: one JSON object is posted to an address. The address may hold a secret, so nothing ever shows it whole."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from pipeline.domain.errors import FacemintError, UserError

TIMEOUT_S = 10.0
TRIES = 3
PAUSE_S = 2.0


class WebhookError(FacemintError):
    """Nobody took what was posted."""


def is_webhook(place: str) -> bool:
    """Return whether a place is an address to post to; raises UserError where it is one that cannot be."""
    scheme, host = urlsplit(place).scheme, urlsplit(place).hostname
    if scheme not in ("http", "https"):
        return False
    if not host:
        raise UserError(f"--summary: an address of {scheme} without a host; give {scheme}://HOST/PATH, or a file")
    return True


def post(url: str, body: bytes, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Post a JSON body; it is tried again where the failure may pass.

    Raises:
        WebhookError: nobody took it; the message names the host alone.
    """
    request = urllib.request.Request(  # noqa: S310 - `is_webhook` lets http and https through alone
        url, data=body, headers={"Content-Type": "application/json", "User-Agent": "facemint"}, method="POST"
    )
    why = ""
    for number in range(TRIES):
        if number:
            sleep(PAUSE_S * number)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as above
                return
        except urllib.error.HTTPError as error:
            why = f"status {error.code}"
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
    raise WebhookError(f"{urlsplit(url).hostname} did not take the summary ({why}); look whether the address is right")
