"""A part of a store seen as a store of its own: an export's target inside the dataset it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from pipeline.adapters.stores.paths import checked_path, checked_prefix
from pipeline.domain.ports import Store, Stored
from pipeline.domain.storage import Range, Sink


class PrefixedStore:
    """The part of another store that lies below a prefix, as a store of its own: an export's target."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._below = checked_path(prefix.rstrip("/")) + "/"
        self.uri = f"{store.uri.rstrip('/')}/{self._below}".rstrip("/")

    @property
    def exclusive(self) -> bool:
        """Return what the whole store says."""
        return self._store.exclusive

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return False where it exists already."""
        return self._store.put_if_absent(self._at(path), data)

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path`."""
        self._store.put(self._at(path), data)

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file."""
        self._store.put_file(self._at(path), source)

    def writing(self, path: str, *, about_bytes: int = 0) -> AbstractContextManager[Sink]:
        """Create or replace `path` by what is written within the block."""
        return self._store.writing(self._at(path), about_bytes=about_bytes)

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        return self._store.get(self._at(path))

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        return self._store.get_range(self._at(path), offset, length)

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Return what `get_range` does for each range, in the order asked."""
        return self._store.get_ranges([(self._at(path), offset, length) for path, offset, length in ranges])

    def blocks(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes from the first to the last."""
        return self._store.blocks(self._at(path))

    def get_many(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return path -> bytes; absent ones are left out."""
        found = self._store.get_many([self._at(p) for p in paths])
        return {p.removeprefix(self._below): data for p, data in found.items()}

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        return self._store.size(self._at(path))

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted, without the part that this store hides."""
        found = self._store.list(self._below + checked_prefix(prefix))
        return [p.removeprefix(self._below) for p in found]

    def entries(self, prefix: str) -> Sequence[Stored]:
        """Return what `list` does, with sizes and times."""
        found = self._store.entries(self._below + checked_prefix(prefix))
        return [replace(e, path=e.path.removeprefix(self._below)) for e in found]

    def leftovers(self, before_s: float) -> Sequence[str]:
        """Return nothing: what killed writers left is asked of the whole store, which removes it as a whole."""
        return ()

    def remove_leftovers(self, before_s: float) -> int:
        """Remove nothing: see `leftovers`."""
        return 0

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        self._store.delete(self._at(path))

    def _at(self, path: str) -> str:
        return self._below + checked_path(path)
