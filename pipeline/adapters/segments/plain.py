"""Plain tables as parquet: numbers and words by name, written with the settings of the segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.adapters.segments.files import altered, scratch
from pipeline.adapters.segments.reads import joined, read_columns, read_group_columns
from pipeline.adapters.segments.tables import ROW_GROUP, Row, Spec, write_table
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store


class ParquetTables:
    """Implements `PlainTables`; the schema's version stands in the metadata, as everywhere."""

    def write(self, store: Store, path: str, columns: Spec, rows: Iterable[Row]) -> FileEntry:
        """Write rows in the order given, in memory of one row group.

        Raises:
            ValueError: a number is not finite.
        """
        with scratch() as here:
            entry = write_table(here / "rows.parquet", path, columns, rows, {}, 0)
            store.put_file(path, here / "rows.parquet")
        return entry

    def read(
        self, store: Store, path: str, columns: Sequence[str], *, rows: tuple[int, int] | None = None
    ) -> Mapping[str, Any]:
        """Return columns in the order asked for; of some rows, no more than the row groups that hold them is fetched.

        Raises:
            FileNotFoundError: `path` is absent.
            StoreError: the file is damaged, lacks a column, or is not one of ours.
        """
        try:
            if rows is not None:
                return _part(store, path, columns, rows)
            return read_columns(store, path, columns, lambda _marks, _path: None)
        except ValueError as error:
            raise altered(path, str(error).removeprefix(f"{path}: ")) from None


def _part(store: Store, path: str, columns: Sequence[str], rows: tuple[int, int]) -> Mapping[str, Any]:
    first, last = rows[0] // ROW_GROUP, max(rows[0], rows[1] - 1) // ROW_GROUP
    groups = read_group_columns(store, path, columns, lambda _marks: range(first, last + 1))
    start, stop = rows[0] - first * ROW_GROUP, rows[1] - first * ROW_GROUP
    return {name: joined([group[name] for group in groups])[start:stop] for name in columns}
