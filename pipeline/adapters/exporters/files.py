"""Files of an export: hashed while they grow, where they will stand or in a temporary directory."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store
from pipeline.domain.storage import Sink

GATHERED_bytes = 1 << 20
BEGUN = 16
"""Gathered pieces of a file that wait, at most, until they are hashed and written: what memory holds of it."""
COMPARED_bytes = 1 << 23
"""How much of a stored file is fetched at a time where it is held against a digest."""


class HashedFile(io.RawIOBase):
    """A file that only grows, and knows the SHA-256 of what went into it.

    What has been gathered is hashed and written by a thread, while the next is gathered.
    """

    def __init__(self, sink: Sink, writer: ThreadPoolExecutor) -> None:
        self._sink, self._writer, self._sha256, self._bytes = sink, writer, hashlib.sha256(), 0
        self._gathered: list[bytes] = []
        self._full_bytes = GATHERED_bytes
        self._begun: deque[Future[None]] = deque()

    def writable(self) -> bool:
        """Return True; pyarrow asks."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._bytes

    def write(self, data: Any) -> int:
        """Take all of `data`; its owner may change it afterwards."""
        self.extend((data if type(data) is bytes else bytes(data),), len(data))
        return len(data)

    def extend(self, parts: Iterable[bytes], size: int) -> None:
        """Take parts one after another; `size` is what they are together."""
        # small parts make one large one: hashing and writing cost per call
        self._gathered += parts
        self._bytes += size
        if self._bytes >= self._full_bytes:
            self._wait(BEGUN - 1)
            self._begun.append(self._writer.submit(self._take, self._gathered))
            self._gathered = []
            self._full_bytes = self._bytes + GATHERED_bytes

    def finish(self) -> None:
        """Hash and write the rest; raises what the sink raises, as an earlier `write` may."""
        self._wait(0)
        self._take(self._gathered)
        self._gathered = []

    def _wait(self, left: int) -> None:
        while len(self._begun) > left:
            self._begun.popleft().result()

    def _take(self, parts: list[bytes]) -> None:
        block = b"".join(parts)
        self._sha256.update(block)
        self._sink.write(block)

    def entry(self, path: str) -> FileEntry:
        """Return digest and size under the path at which the file will be stored; `finish` comes before."""
        return FileEntry(path, self._sha256.hexdigest(), self._bytes)


class _Local:
    """A local file as a sink."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        rest = memoryview(data)
        while rest:
            # an unbuffered file may take less than it is given
            rest = rest[self._file.write(rest) :]


@contextmanager
def hashed(local: Path) -> Iterator[HashedFile]:
    """Open a new local file for hashing; it is complete on leaving. A disk that refuses raises OSError."""
    with local.open("wb", buffering=0) as file, ThreadPoolExecutor(1, thread_name_prefix="export") as writer:
        out = HashedFile(_Local(file), writer)
        yield out
        out.finish()


class _Replacement:
    """What is written takes the place of what stands there only from where it differs.

    A file that stands already is read along, and nothing is written as long as it is the same.
    """

    def __init__(self, store: Store, path: str, about_bytes: int, stack: ExitStack) -> None:
        self._store, self._path, self._about_bytes, self._stack = store, path, about_bytes, stack
        self._there_bytes = store.size(path) or 0
        self._same_bytes = 0
        self._new: Sink | None = None if self._there_bytes else self._begun()

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        if self._new is None and self._goes_on_with(data):
            self._same_bytes += len(data)
            return
        self._new = self._new or self._begun()
        self._new.write(data)

    def finish(self) -> None:
        """Shorten what stands there, if it goes on."""
        if self._new is None and self._same_bytes < self._there_bytes:
            self._begun()

    def _goes_on_with(self, data: bytes) -> bool:
        if self._same_bytes + len(data) > self._there_bytes:
            return False
        return self._store.get_range(self._path, self._same_bytes, len(data)) == data

    def _begun(self) -> Sink:
        new = self._stack.enter_context(self._store.writing(self._path, about_bytes=self._about_bytes))
        for start in range(0, self._same_bytes, COMPARED_bytes):
            new.write(self._store.get_range(self._path, start, min(COMPARED_bytes, self._same_bytes - start)))
        return new


@contextmanager
def growing(store: Store, path: str, about_bytes: int) -> Iterator[HashedFile]:
    """Open a stored file for hashing: it grows where it will stand, and does so on leaving without an error.

    A file that stands there with these very bytes is not written again. `about_bytes` is roughly how many come.
    """
    # left in this order: no thread writes any more when the file is closed
    with ExitStack() as stack, ThreadPoolExecutor(1, thread_name_prefix="export") as writer:
        sink = _Replacement(store, path, about_bytes, stack)
        out = HashedFile(sink, writer)
        yield out
        out.finish()
        sink.finish()


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
    for block in store.blocks(entry.path):
        digest.update(block)
    return digest.hexdigest() == entry.sha256
