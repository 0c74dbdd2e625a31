"""Files that are written piece by piece into a store across a network."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pipeline.domain.errors import StoreError
from pipeline.domain.storage import Sink


@contextmanager
def spooled(path: str, keep: Callable[[Path], None]) -> Iterator[Sink]:
    """Give a sink into a temporary file; when the block is left without an error, `keep` gets that file.

    Raises:
        StoreError: the temporary directory has no room for what becomes `path`.
    """
    with _having_room(path):
        file = tempfile.NamedTemporaryFile(prefix="facemint-")  # noqa: SIM115 - closed below; an error inside is not ours
    try:
        yield _Spool(file, path)
        with _having_room(path):
            file.flush()
        keep(Path(file.name))
    finally:
        # what the disk refuses of a file that is thrown away is no loss
        with suppress(OSError):
            file.close()


class _Spool:
    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        with _having_room(self._path):
            self._file.write(data)


@contextmanager
def _having_room(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot make {path} in {tempfile.gettempdir()} ({error.strerror or error}); "
            "make room there for it, or name another directory in the environment variable TMPDIR"
        ) from error


class Parts:
    """Cuts what is written into parts of one size, and sends a few of them at a time.

    Args:
        part_bytes: of every part but the last.
        send: sends a part, given its number from 1 on, and returns what tells of it; runs in threads.
        at_once: how many parts are on their way, and so in memory, at a time.
    """

    def __init__(self, part_bytes: int, send: Callable[[int, bytes], Any], at_once: int) -> None:
        self._part_bytes, self._send, self._at_once = part_bytes, send, at_once
        self._gathered, self._number = bytearray(), 0
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="upload")
        self._begun: deque[Future[Any]] = deque()
        self._sent: list[Any] = []

    def write(self, data: bytes) -> None:
        """Append all of `data`; raises what `send` raised for an earlier part."""
        self._gathered += data
        while len(self._gathered) >= self._part_bytes:
            self._cut()

    def finish(self) -> list[Any]:
        """Send the rest and return what tells of every part, in order."""
        if self._gathered:
            self._cut()
        while self._begun:
            self._sent.append(self._begun.popleft().result())
        return self._sent

    def close(self) -> None:
        """Wait for what is on its way, whatever becomes of it."""
        self._pool.shutdown(cancel_futures=True)

    def _cut(self) -> None:
        if len(self._begun) == self._at_once:
            self._sent.append(self._begun.popleft().result())
        part = bytes(memoryview(self._gathered)[: self._part_bytes])
        del self._gathered[: self._part_bytes]
        self._number += 1
        self._begun.append(self._pool.submit(self._send, self._number, part))
