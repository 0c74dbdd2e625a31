"""Local files of an export: hashed while they grow, and how a disk without room is told of."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store

GATHERED_bytes = 1 << 20
COMPARED_bytes = 1 << 23
"""How much of a stored file is fetched at a time where it is held against a digest."""


class HashedFile(io.RawIOBase):
    """A local file that only grows, and knows the SHA-256 of what went into it.

    What has been gathered is hashed and written by a thread, while the next is gathered.
    """

    def __init__(self, file: io.FileIO, writer: ThreadPoolExecutor) -> None:
        self._file, self._writer, self._sha256, self._bytes = file, writer, hashlib.sha256(), 0
        self._gathered = bytearray()
        self._begun: Future[None] | None = None

    def writable(self) -> bool:
        """Return True; pyarrow asks."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._bytes

    def write(self, data: Any) -> int:
        """Take all of `data`."""
        # small parts make one large one: hashing and writing cost per call
        self._gathered += data
        self._bytes += len(data)
        if len(self._gathered) >= GATHERED_bytes:
            self._wait()
            self._begun, self._gathered = self._writer.submit(self._take, self._gathered), bytearray()
        return len(data)

    def finish(self) -> None:
        """Hash and write the rest; raises OSError where the disk refuses, as an earlier `write` may."""
        self._wait()
        self._take(self._gathered)
        self._gathered = bytearray()

    def _wait(self) -> None:
        if self._begun is not None:
            self._begun.result()

    def _take(self, block: bytearray) -> None:
        self._sha256.update(block)
        rest = memoryview(block)
        while rest:
            # an unbuffered file may take less than it is given
            rest = rest[self._file.write(rest) :]

    def entry(self, path: str) -> FileEntry:
        """Return digest and size under the path at which the file will be stored; `finish` comes before."""
        return FileEntry(path, self._sha256.hexdigest(), self._bytes)


@contextmanager
def hashed(local: Path) -> Iterator[HashedFile]:
    """Open a new local file for hashing; it is complete on leaving. A disk that refuses raises OSError."""
    with local.open("wb", buffering=0) as file, ThreadPoolExecutor(1, thread_name_prefix="export") as writer:
        out = HashedFile(file, writer)
        yield out
        out.finish()


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """Give a temporary directory in which to make `what`, gone on leaving.

    Raises:
        StoreError: in place of every OSError of the work inside.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="facemint-") as name:
            yield Path(name)
    except OSError as error:
        raise StoreError(
            f"cannot make {what} in {tempfile.gettempdir()} ({error.strerror or error}); "
            "make room there for it, or name another directory in the environment variable TMPDIR"
        ) from error


def stands(store: Store, entry: FileEntry) -> bool:
    """Return whether exactly this file is stored: size first, then its digest, in bounded memory."""
    if store.size(entry.path) != entry.bytes:
        return False
    digest = hashlib.sha256()
    for start in range(0, entry.bytes, COMPARED_bytes):
        digest.update(store.get_range(entry.path, start, min(COMPARED_bytes, entry.bytes - start)))
    return digest.hexdigest() == entry.sha256
