"""Tables in numbered groups: one parquet row group each, so that one group is read without the others.

What ingest finds is read again label by label: a group holds the rows of one bucket of labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.adapters.segments.files import altered, hashed, scratch
from pipeline.adapters.segments.reads import joined, read_group_columns
from pipeline.adapters.segments.tables import SETTINGS, Row, Spec, _schema, _sizes, _values
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store

GROUPS = "facemint_groups"
"""Metadata of the schema: the numbers of the row groups, in their order."""


class GroupedParquet:
    """Implements `GroupedTables`.

    Args:
        dimensions: length of vectors in a file that has none from which it could be read.
    """

    def __init__(self, dimensions: int = 0) -> None:
        self._dimensions = dimensions

    def write(self, store: Store, path: str, columns: Spec, groups: Mapping[int, Sequence[Row]]) -> FileEntry:
        """Write groups by rising number, those without rows left out.

        Raises:
            ValueError: a number is not finite.
            BadVectorError: a vector is not finite, or not as long as the first of its column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        numbers = [n for n in sorted(groups) if groups[n]]
        every = [row for n in numbers for row in groups[n]]
        sizes = _sizes(columns, every, self._dimensions)
        schema = _schema(columns, sizes, {GROUPS: json.dumps(numbers, separators=(",", ":"))})
        with scratch() as here:
            local = here / "rows.parquet"
            with hashed(local) as out, pq.ParquetWriter(out, schema, **SETTINGS) as writer:
                for number in numbers:
                    rows = groups[number]
                    held = {name: _values(name, kind, [r[name] for r in rows], sizes) for name, kind in columns.items()}
                    table = pa.Table.from_arrays([held[name] for name in schema.names], schema=schema)
                    writer.write_table(table, row_group_size=max(1, len(table)))
            store.put_file(path, local)
        return out.entry(path)

    def groups(self, store: Store, path: str) -> list[int]:
        """Return the numbers of a file's groups, rising; errors are those of `read`."""
        found: list[int] = []

        def noted(marks: Mapping[str, str]) -> list[int]:
            found.extend(_numbers(marks, path))
            return []

        read_group_columns(store, path, (), noted)
        return found

    def read(self, store: Store, path: str, columns: Sequence[str], group: int | None = None) -> Mapping[str, Any]:
        """Return columns of one group, or of all in their order.

        Raises:
            FileNotFoundError: `path` is absent.
            StoreError: the file is damaged, or holds no groups.
            ValueError: a column is unknown.
        """

        def chosen(marks: Mapping[str, str]) -> list[int]:
            return [n for n, number in enumerate(_numbers(marks, path)) if group is None or number == group]

        held = read_group_columns(store, path, columns, chosen)
        if len(held) == 1:
            return held[0]
        return {name: joined([h[name] for h in held]) if held else [] for name in columns}


def _numbers(marks: Mapping[str, str], path: str) -> list[int]:
    try:
        return [int(n) for n in json.loads(marks[GROUPS])]
    except (KeyError, ValueError, TypeError):
        raise altered(path, "it holds no numbered groups") from None
