"""JSON files that recipes name: read where the recipe is, and whatever stands there instead is one line."""

from __future__ import annotations

import json
import math
from typing import Any

from jobs.wiring.local_files import UnreadableError, read_whole
from pipeline.domain.errors import RecipeError

LARGEST_bytes = 16 << 20
"""A file larger than this was written by no verb, and is not read to its end."""


def read_named(path: str, where: str, verb: str) -> Any:
    """Return what a JSON file holds; no number in it is NaN or infinite.

    Args:
        path: as the recipe names it.
        where: the key that names it; messages begin with it.
        verb: of facemint, the one that writes such files.

    Raises:
        RecipeError: it is missing, cannot be read, is too large or no JSON, or holds what is no number.
    """
    allowed = f"name a file of facemint {verb}"
    try:
        text = read_whole(path, LARGEST_bytes, allowed).decode("utf-8")
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except UnreadableError as error:
        raise RecipeError(f"{where}: {path} {error}") from None
    except (ValueError, RecursionError):
        raise RecipeError(f"{where}: {path} is not JSON, or holds NaN or Infinity; {allowed}") from None


def _finite(text: str) -> float:
    """Return the number that a text states; raises ValueError for `NaN`, `Infinity`, and what is as large (`1e999`)."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
