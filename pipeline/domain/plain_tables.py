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
        """Write rows in the order given; kinds of `columns` are those of `GroupedTables`."""
        ...

    def read(
        self, store: Store, path: str, columns: Sequence[str], *, rows: tuple[int, int] | None = None
    ) -> Mapping[str, Any]:
        """Return columns: numbers as arrays (N,), words as lists; of a half-open range of rows, or of all.

        FileNotFoundError where absent.
        """
        ...


class GroupedTables(Protocol):
    """Writes and reads tables of which a part can be read without the rest: rows in groups, each with a number."""

    def write(
        self, store: Store, path: str, columns: Mapping[str, str], groups: Mapping[int, Sequence[Mapping[str, Any]]]
    ) -> FileEntry:
        """Write groups by rising number, those without rows left out.

        `columns` are names -> kinds: bool, int32, int64, double, string, binary, strings, map (name -> double), vector
        (float32, equally long in a file), words (name -> text); a `?` after the kind lets a value be None.
        """
        ...

    def groups(self, store: Store, path: str) -> Sequence[int]:
        """Return the numbers of a file's groups, rising."""
        ...

    def read(self, store: Store, path: str, columns: Sequence[str], group: int | None = None) -> Mapping[str, Any]:
        """Return columns of one group, or of all in their order: arrays (N,), vectors (N, E), the rest as lists.

        FileNotFoundError where the file is absent; no rows where the group is.
        """
        ...
