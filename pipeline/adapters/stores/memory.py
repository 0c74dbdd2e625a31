"""Bytes in a dictionary: the model that every other store is compared with, and a place for tests."""

from __future__ import annotations

import errno
import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.adapters.stores.paths import checked_path, checked_prefix, checked_range, exactly
from pipeline.domain.ports import Stored
from pipeline.domain.storage import Range, Sink


class MemoryStore:
    """Bytes in a dictionary: what every other store must behave like. Safe to share between threads."""

    exclusive = True

    def __init__(self, uri: str = "memory://") -> None:
        self.uri = uri
        self._files: dict[str, bytes] = {}
        self._modified_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return False where it exists already."""
        checked_path(path)
        with self._lock:
            if path in self._files:
                return False
            self._keep(path, data)
            return True

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path`."""
        checked_path(path)
        with self._lock:
            self._keep(path, data)

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file."""
        self.put(path, Path(source).read_bytes())

    @contextmanager
    def writing(self, path: str, *, about_bytes: int = 0) -> Iterator[Sink]:
        """Create or replace `path` by what is written within the block."""
        checked_path(path)
        grown = io.BytesIO()
        yield grown
        self.put(path, grown.getvalue())

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        with self._lock:
            if checked_path(path) not in self._files:
                raise FileNotFoundError(errno.ENOENT, "no such file in this store", path)
            return self._files[path]

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises StoreError where there are fewer."""
        checked_range(offset, length)
        return exactly(self.get(path)[offset : offset + length], path, offset, length)

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Return what `get_range` does for each range, in the order asked."""
        return [self.get_range(*wanted) for wanted in ranges]

    def blocks(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes in one block."""
        yield memoryview(self.get(path))

    def get_many(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return path -> bytes; absent ones are left out."""
        with self._lock:
            return {p: self._files[p] for p in paths if checked_path(p) in self._files}

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        with self._lock:
            data = self._files.get(checked_path(path))
        return None if data is None else len(data)

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted."""
        checked_prefix(prefix)
        with self._lock:
            return sorted(p for p in self._files if p.startswith(prefix))

    def entries(self, prefix: str) -> Sequence[Stored]:
        """Return what `list` does, with sizes and times."""
        checked_prefix(prefix)
        with self._lock:
            found = [(p, data) for p, data in self._files.items() if p.startswith(prefix)]
            return sorted(Stored(p, len(data), self._modified_s.get(p, 0.0)) for p, data in found)

    def leftovers(self, before_s: float) -> Sequence[str]:
        """Return nothing: what is kept here dies with its writer."""
        return ()

    def remove_leftovers(self, before_s: float) -> int:
        """Remove nothing."""
        return 0

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        checked_path(path)
        with self._lock:
            self._files.pop(path, None)
            self._modified_s.pop(path, None)

    def _keep(self, path: str, data: bytes) -> None:
        # a copy: a caller that goes on filling its bytearray must not change what is stored
        self._files[path] = bytes(data)
        self._modified_s[path] = time.time()
