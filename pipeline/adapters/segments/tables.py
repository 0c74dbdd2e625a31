"""Parquet with repeatable bytes: typed columns from a short spec, rows in groups of 4,096."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.segments.files import HashedFile, hashed
from pipeline.domain.errors import BadVectorError
from pipeline.domain.manifest import SCHEMA_VERSION, FileEntry

ROW_GROUP = 4096
"""Rows per row group: another number gives other bytes."""
SETTINGS: Mapping[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": False,
    "data_page_version": "1.0",
    "data_page_size": 1 << 20,
    "write_batch_size": 1024,
    "write_statistics": True,
    "write_page_checksum": True,
    "store_schema": True,
}
"""Every writer setting that bytes depend on, so that a library's new default does not change a dataset."""

Spec = Mapping[str, str]
"""Column -> kind: bool, int32, int64, double, string, binary, strings, map (name -> double), words (name -> string),
vector (float32) and verdicts; a `?` after the kind lets a value be None."""
Row = Mapping[str, Any]
Columns = Mapping[str, Any]
"""Column -> arrow array, all of one length."""


def write_table(
    local: Path, path: str, spec: Spec, rows: Iterable[Row], marks: Mapping[str, str], empty: int
) -> FileEntry:
    """Write rows to the local file; return its entry under `path`.

    Args:
        local: where to write.
        path: where it will be stored.
        spec: the columns.
        rows: one mapping per row with a value for every column; consumed in groups, so memory is bounded.
        marks: further metadata of the schema.
        empty: length of vectors in the schema where no row shows it.

    Raises:
        ValueError: a number is NaN or infinite.
        BadVectorError: a vector is not finite or not as long as the first of its column.
    """
    return write_groups(local, path, spec, _grouped(rows, spec, empty), marks, empty)


def write_groups(
    local: Path, path: str, spec: Spec, groups: Iterable[Columns], marks: Mapping[str, str], empty: int
) -> FileEntry:
    """Write row groups to the local file as `write_table` does rows.

    Args:
        local: where to write.
        path: where it will be stored.
        spec: the columns.
        groups: columns of 4,096 rows each, the last of fewer; vectors of one column are equally long in all.
        marks: further metadata of the schema.
        empty: length of vectors in the schema where there is no group.
    """
    remaining = iter(groups)
    group = next(remaining, None)
    with growing(local, spec, vector_sizes(spec, group, empty), marks) as table:
        while group:
            table.add(group)
            # let go of this group before the next one is made
            del group
            group = next(remaining, None)
    return table.out.entry(path)


@dataclass(frozen=True, slots=True)
class Growing:
    """A parquet file to which row groups are added; `out` knows its digest once it is closed."""

    out: HashedFile
    _writer: Any
    _schema: Any

    def add(self, group: Columns) -> None:
        """Write a row group."""
        import pyarrow as pa

        table = pa.Table.from_arrays([group[name] for name in self._schema.names], schema=self._schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP)


def vector_sizes(spec: Spec, first: Columns | None, empty: int) -> dict[str, int]:
    """Return how long the vectors of each column are, as the first group shows it; `empty` where there is none."""
    vectors = [name for name, kind in spec.items() if kind.startswith("vector")]
    return {name: first[name].type.list_size if first else empty for name in vectors}


@contextmanager
def growing(local: Path, spec: Spec, sizes: Mapping[str, int], marks: Mapping[str, str]) -> Iterator[Growing]:
    """Open a local file for row groups; it is complete on leaving.

    Args:
        local: where to write.
        spec: the columns.
        sizes: how long the vectors of each column are.
        marks: further metadata of the schema.
    """
    import pyarrow.parquet as pq

    schema = _schema(spec, sizes, marks)
    with hashed(local) as out, pq.ParquetWriter(out, schema, **SETTINGS) as writer:
        yield Growing(out, writer, schema)


def arrow_type(kind: str) -> Any:
    """Return the arrow type of a kind of column other than `vector`, whose type depends on the vectors' length."""
    import pyarrow as pa

    if kind == "verdicts":
        text, double = pa.string(), pa.float64()
        fields = [("filter", text), ("passed", pa.bool_()), ("reason", text), ("value", double), ("threshold", double)]
        return pa.list_(pa.struct(fields))
    kinds = {
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "strings": pa.list_(pa.string()),
        "map": pa.map_(pa.string(), pa.float64()),
        "words": pa.map_(pa.string(), pa.string()),
    }
    return kinds[kind.removesuffix("?")]


def vector_column(rows_NE: npt.NDArray[np.float32], name: str, missing: Sequence[bool] = ()) -> Any:
    """Return vectors as a column; rows that are `missing` become null.

    Raises:
        BadVectorError: a number is not finite, or the vectors have no length at all.
    """
    import pyarrow as pa

    if len(rows_NE) and not rows_NE.shape[1]:
        # arrow divides by the length, and the process dies
        raise BadVectorError(f"{name}: vectors of shape (0,); the vectors of a file have at least one dimension")
    finite_N = np.isfinite(rows_NE).all(axis=1)
    if not finite_N.all():
        raise BadVectorError(
            f"{name}, row {int(np.argmin(finite_N))} of its group: not finite; the vectors of a file are finite"
        )
    type_ = pa.list_(pa.float32(), rows_NE.shape[1])
    mask = pa.array(missing, type=pa.bool_()) if any(missing) else None
    return pa.FixedSizeListArray.from_arrays(pa.array(rows_NE.reshape(-1)), type=type_, mask=mask)


def odd_vector(value: Any, name: str, row: int, size: int) -> BadVectorError:
    """Return the error of a vector that is not as long as the first of its column."""
    return BadVectorError(
        f"{name}, row {row} of its group: shape {np.shape(value)}; the vectors of a file are of shape ({size},)"
    )


def finite(value: Any, what: str) -> float:
    """Return `value` as a float; raises ValueError on NaN and infinity, which no threshold can judge."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}; a stored number is finite: give a bound, or leave the number out")
    return number


def pairs(values: Mapping[str, float], whose: str) -> list[tuple[str, float]]:
    """Return a map's entries sorted by name, each checked to be finite."""
    return sorted((name, finite(value, f"{whose}: {name}")) for name, value in values.items())


def _grouped(rows: Iterable[Row], spec: Spec, empty: int) -> Iterator[Columns]:
    remaining = iter(rows)
    sizes: dict[str, int] = {}
    while group := list(islice(remaining, ROW_GROUP)):
        sizes = sizes or _sizes(spec, group, empty)
        yield {name: _values(name, kind, [row[name] for row in group], sizes) for name, kind in spec.items()}


def _sizes(spec: Spec, rows: Sequence[Row], empty: int) -> dict[str, int]:
    vectors = [name for name, kind in spec.items() if kind.startswith("vector")]
    return {name: next((len(r[name]) for r in rows if r[name] is not None), empty) for name in vectors}


def _values(name: str, kind: str, values: Sequence[Any], sizes: Mapping[str, int]) -> Any:
    import pyarrow as pa

    if not kind.startswith("vector"):
        return pa.array(values, type=arrow_type(kind))
    rows_NE = np.zeros((len(values), sizes[name]), np.float32)
    for row, value in enumerate(values):
        if value is not None:
            if np.shape(value) != (sizes[name],):
                raise odd_vector(value, name, row, sizes[name])
            rows_NE[row] = value
    return vector_column(rows_NE, name, [value is None for value in values])


def _schema(spec: Spec, sizes: Mapping[str, int], marks: Mapping[str, str]) -> Any:
    import pyarrow as pa

    fields = []
    for name, kind in spec.items():
        type_ = pa.list_(pa.float32(), sizes[name]) if name in sizes else arrow_type(kind)
        fields.append(pa.field(name, type_, nullable=kind.endswith("?")))
    return pa.schema(fields, metadata={"facemint_schema": str(SCHEMA_VERSION), **marks})
