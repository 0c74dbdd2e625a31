"""Starts the S3 server once per process of tests, and talks to it plainly, without any library under test."""

from __future__ import annotations

import atexit
import functools
import http.client
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

_SOMEBODY = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""The server asks who it is, and not whether that is true."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running S3 server."""

    port: int

    @property
    def url(self) -> str:
        """Return its address, as AWS_ENDPOINT_URL wants it."""
        return f"http://127.0.0.1:{self.port}"

    def bucket(self) -> str:
        """Make a bucket with a name of its own; return the name."""
        name = f"b{uuid.uuid4().hex}"
        assert self.ask("PUT", f"/{name}")[0] == 200
        return name

    def plant(self, bucket: str, key: str, data: bytes) -> None:
        """Put an object there, whatever lies there."""
        assert self.ask("PUT", f"/{bucket}/{quote(key)}", data)[0] == 200

    def peek(self, bucket: str, key: str) -> bytes | None:
        """Return an object's bytes, or None."""
        status, body = self.ask("GET", f"/{bucket}/{quote(key)}")
        return body if status == 200 else None

    def keys(self, bucket: str) -> list[str]:
        """Return every key of a bucket that has at most 1,000."""
        return re.findall(r"<Key>(.*?)</Key>", self.ask("GET", f"/{bucket}?list-type=2")[1].decode())

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of unfinished uploads."""
        return re.findall(r"<Key>(.*?)</Key>", self.ask("GET", f"/{bucket}?uploads")[1].decode())

    def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        """Make one request; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Length": str(len(body)), "Authorization": _SOMEBODY}
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@functools.cache
def running() -> Server:
    """Return the server of this session, started when first asked for; it ends with this process."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("serve.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip().isdecimal(), "the S3 server did not start; its error stands above"

    owner = os.getpid()

    def stop() -> None:
        if os.getpid() != owner:
            return  # a forked process that ends; the server is not its own
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    atexit.register(stop)
    return Server(int(line))


def environment(url: str) -> dict[str, str]:
    """Return the variables with which a process talks to the server at an address, and to nobody else."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1",
    }


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Point this process at the server at an address until the test ends."""
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
