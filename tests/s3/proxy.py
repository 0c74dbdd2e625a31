"""A proxy before the S3 server that loses, spoils and refuses as a test tells it to, and notes what it was asked.

    with Proxy(server.running()) as proxy:
        proxy.plan(lost_reply, "PUT", "/receipts/")     # the next such request is stored, its answer never arrives

A fault is a function of the request and of `forward`, which asks the real server; it returns what the client gets.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tests.s3.server import Server


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets. Of the body only `sent` bytes come, then nothing for `stall_s`, then the connection ends."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: int | None = None
    stall_s: float = 0.0


Forward = Callable[[Request], Answer]
Fault = Callable[[Request, Forward], Answer | None]


def lost_request(request: Request, forward: Forward) -> Answer | None:
    """Close the connection; the server never hears of the request."""
    return None


def lost_reply(request: Request, forward: Forward) -> Answer | None:
    """Let the server do it and close the connection instead of answering."""
    forward(request)
    return None


def refusal(status: int, code: str) -> Fault:
    """Answer with an error in the server's place."""

    def fault(request: Request, forward: Forward) -> Answer:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made up by a test</Message></Error>"
        return Answer(status, {"Content-Type": "application/xml"}, b"" if request.method == "HEAD" else body.encode())

    return fault


def done_then(status: int, code: str) -> Fault:
    """Let the server do it and answer with an error."""

    def fault(request: Request, forward: Forward) -> Answer | None:
        forward(request)
        return refusal(status, code)(request, forward)

    return fault


def without_condition(request: Request, forward: Forward) -> Answer:
    """Leave out of an error which condition failed, as some stores do."""
    answer = forward(request)
    return replace(answer, body=re.sub(rb"<Condition>.*?</Condition>", b"", answer.body))


def unconditionally(request: Request, forward: Forward) -> Answer:
    """Ignore conditions, as some stores do."""
    return forward(replace(request, headers={k: v for k, v in request.headers.items() if k.lower() != "if-none-match"}))


def without_metadata(request: Request, forward: Forward) -> Answer:
    """Keep no metadata, as a store might."""
    kept = {k: v for k, v in request.headers.items() if not k.lower().startswith("x-amz-meta-")}
    return forward(replace(request, headers=kept))


def cut_body(stall_s: float = 0.0) -> Fault:
    """Send half of the body, wait, and close the connection."""

    def fault(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        return replace(answer, sent=len(answer.body) // 2, stall_s=stall_s)

    return fault


@dataclass(slots=True)
class _Plan:
    fault: Fault
    method: str
    part: str
    left: float


class Proxy:
    """A proxy on a free port of loopback, from entering its context to leaving it."""

    def __init__(self, server: Server) -> None:
        self.seen: list[Request] = []
        self._server = server
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._listening = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._listening.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Return the address that stands for the server's."""
        return f"http://127.0.0.1:{self._listening.server_address[1]}"

    def plan(self, fault: Fault, method: str = "", part: str = "", times: float = 1) -> None:
        """Do this to the next requests of a method (or any) whose target contains a text; plans run in their order."""
        with self._lock:
            self._plans.append(_Plan(fault, method, part, times))

    def forget(self) -> None:
        """Drop every plan and what was seen."""
        with self._lock:
            self._plans.clear()
            self.seen.clear()

    def asked(self, method: str, part: str = "") -> int:
        """Return how many requests of a method came whose target contains a text."""
        with self._lock:
            return sum(r.method == method and part in r.target for r in self.seen)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._listening.shutdown()
        self._listening.server_close()
        self._thread.join()

    def _answer(self, request: Request) -> Answer | None:
        with self._lock:
            self.seen.append(replace(request, body=b""))
            fits = (
                p for p in self._plans if p.left > 0 and p.method in ("", request.method) and p.part in request.target
            )
            plan = next(fits, None)
            if plan is not None:
                plan.left -= 1
        return plan.fault(request, self._forward) if plan is not None else self._forward(request)

    def _forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        try:
            dropped = ("connection", "expect")
            headers = {k: v for k, v in request.headers.items() if k.lower() not in dropped}
            connection.request(request.method, request.target, body=request.body, headers=headers)
            got = connection.getresponse()
            return Answer(got.status, dict(got.getheaders()), got.read())
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def answer(self) -> None:
                """Read a request, have it answered, send what comes of it."""
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = proxy._answer(Request(self.command, self.path, dict(self.headers), body))
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                dropped = ("connection", "content-length", "transfer-encoding")
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in dropped}
                length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
                for name, value in {**kept, "Content-Length": length or str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body[: answer.sent])
                if answer.sent is not None:
                    self.wfile.flush()
                    proxy._over.wait(answer.stall_s)
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def handle(self) -> None:
                """Serve a connection until the client goes, which is no error."""
                try:
                    super().handle()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        return Handler
