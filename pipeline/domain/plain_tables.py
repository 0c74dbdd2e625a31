"""The promise of what keeps plain tables: a few named columns of numbers and words, with repeatable bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from pipeline.domain.manifest import FileEntry
from pipeline.domain.storage import Store


class PlainTables(Protocol):
    """Writes and reads tables whose bytes follow from their content."""

    def write(
        self, store: Store, path: str, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]
    ) -> FileEntry:
        """Write rows in the order given; `columns` are names -> kinds: int64, int32, double, string, bool."""
        ...

    def read(self, store: Store, path: str, columns: Sequence[str]) -> Mapping[str, Any]:
        """Return columns: numbers as arrays (N,), words as lists; FileNotFoundError where absent."""
        ...
