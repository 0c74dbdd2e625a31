"""The files beneath tar and parquet: one hashed while it is written, one fetched where it is read."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store


class HashedFile(io.RawIOBase):
    """A local file that only grows, and knows the SHA-256 of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256, self._bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Return True; pyarrow asks."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._bytes

    def write(self, data: Any) -> int:
        """Write all of `data`; raises StoreError where the disk refuses."""
        try:
            self._file.write(data)
        except OSError as error:
            raise full(error) from error
        self._sha256.update(data)
        self._bytes += len(data)
        return len(data)

    def entry(self, path: str) -> FileEntry:
        """Return digest and size under the path at which the file will be stored."""
        return FileEntry(path, self._sha256.hexdigest(), self._bytes)


class StoredFile(io.RawIOBase):
    """A stored file for readers that seek; only what they read is fetched.

    Raises:
        FileNotFoundError: `path` is absent.
    """

    def __init__(self, store: Store, path: str) -> None:
        size = store.size(path)
        if size is None:
            raise FileNotFoundError(path)
        self._store, self._path, self._place, self._bytes = store, path, 0, size

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

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes."""
        length = max(0, min(len(buffer), self._bytes - self._place))
        if length:
            buffer[:length] = self._store.get_range(self._path, self._place, length)
            self._place += length
        return length


@contextmanager
def hashed(local: Path) -> Iterator[HashedFile]:
    """Open a new local file for hashing; it is complete on leaving."""
    try:
        file = local.open("wb")
    except OSError as error:
        raise full(error) from error
    try:
        yield HashedFile(file)
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
