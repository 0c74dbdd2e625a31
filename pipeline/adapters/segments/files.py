"""The files beneath tar and parquet: one hashed while it is written, one fetched where it is read."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store

GATHERED_bytes = 1 << 20
NEAR_bytes = 1 << 16
"""Gaps up to this long are fetched along with what lies around them: a request costs more than they do."""


class HashedFile(io.RawIOBase):
    """A local file that only grows, and knows the SHA-256 of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256, self._bytes = file, hashlib.sha256(), 0
        self._gathered = bytearray()

    def writable(self) -> bool:
        """Return True; pyarrow asks."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._bytes

    def write(self, data: Any) -> int:
        """Take all of `data`; raises StoreError where the disk refuses, at the latest in `finish`."""
        # small parts make one large one: hashing and writing cost per call
        self._gathered += data
        self._bytes += len(data)
        if len(self._gathered) >= GATHERED_bytes:
            self.finish()
        return len(data)

    def finish(self) -> None:
        """Hash and write what has been gathered."""
        try:
            self._file.write(self._gathered)
        except OSError as error:
            raise full(error) from error
        self._sha256.update(self._gathered)
        self._gathered.clear()

    def entry(self, path: str) -> FileEntry:
        """Return digest and size under the path at which the file will be stored; `finish` comes before."""
        return FileEntry(path, self._sha256.hexdigest(), self._bytes)


class StoredFile(io.RawIOBase):
    """A stored file for readers that seek; only what they read is fetched, or what is held for them beforehand.

    Raises:
        FileNotFoundError: `path` is absent.
    """

    def __init__(self, store: Store, path: str) -> None:
        size = store.size(path)
        if size is None:
            raise FileNotFoundError(path)
        self._store, self._path, self._place, self._bytes = store, path, 0, size
        self._end: list[tuple[int, bytes]] = []
        self._held: list[tuple[int, bytes]] = []

    def hold_end(self, length: int) -> None:
        """Fetch and keep the last `length` bytes, where parquet has its table of contents, or the whole small file."""
        start = max(0, self._bytes - length)
        self._end = [(start, self._fetched(start, self._bytes - start))]

    def hold(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch (start, stop) ranges that will be read soon, in place of those held so far; near ones in one request.

        Whatever lies outside the file is left out.
        """
        merged: list[tuple[int, int]] = []
        for start, stop in sorted((max(0, start), min(stop, self._bytes)) for start, stop in ranges):
            if merged and start - merged[-1][1] <= NEAR_bytes:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            elif start < stop:
                merged.append((start, stop))
        self._held = [(start, self._fetched(start, stop - start)) for start, stop in merged]

    def readable(self) -> bool:
        """Return True; buffered readers and pyarrow ask."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start (0), from here (1) or from the end (2)."""
        self._place = offset + (0, self._place, self._bytes)[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, without the copies that a read through `readinto` makes."""
        there = max(0, self._bytes - self._place)
        data = self._fetched(self._place, there if size is None or size < 0 else min(size, there))
        self._place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fetched(self, start: int, length: int) -> bytes:
        for begin, data in (*self._end, *self._held):
            if begin <= start and start + length <= begin + len(data):
                return data[start - begin : start - begin + length]
        return self._store.get_range(self._path, start, length) if length else b""


@contextmanager
def hashed(local: Path) -> Iterator[HashedFile]:
    """Open a new local file for hashing; it is complete on leaving."""
    try:
        file = local.open("wb")
    except OSError as error:
        raise full(error) from error
    try:
        out = HashedFile(file)
        yield out
        out.finish()
    finally:
        # what is still buffered is written here, and may find the disk full
        try:
            file.close()
        except OSError as error:
            raise full(error) from error


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary directory, gone on leaving."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="facemint-")
    except OSError as error:
        raise full(error) from error
    with directory as name:
        yield Path(name)


def full(error: OSError) -> StoreError:
    """Return the error of a temporary directory that takes no more."""
    return StoreError(
        f"cannot write temporary files in {tempfile.gettempdir()} ({error.strerror or error}); "
        "make room there, or name another directory in the environment variable TMPDIR"
    )


def altered(path: str, what: str) -> StoreError:
    """Return the error of a stored file that is not what was written."""
    return StoreError(
        f"{path}: {what}; the file is not as it was written: restore it from a copy, "
        "or remove it with its receipt and run again"
    )
