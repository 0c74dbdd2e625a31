"""The process of the S3 server: moto on a free port of loopback, until its standard input is closed.

Requests are answered one after the other. A real store decides a conditional write in one step; moto looks first and
writes then, and between the two another thread could do the same.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class Quiet(MotoRequestHandler):
    """Answers without a line per request."""

    def log(self, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until nobody listens any more."""
    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with one_at_a_time:
            return [b"".join(moto(environ, start_response))]

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
