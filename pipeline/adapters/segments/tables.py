"""Parquet with repeatable bytes: typed columns from a short spec, rows in groups of 4,096, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.adapters.segments.files import StoredFile, altered, hashed
from pipeline.domain.errors import BadVectorError, StoreError
from pipeline.domain.manifest import SCHEMA_VERSION, FileEntry
from pipeline.domain.ports import Store

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
"""Column -> kind: bool, int32, int64, double, string, strings, map (name -> double), vector (float32) and
verdicts; a `?` after the kind lets a value be None."""
Row = Mapping[str, Any]


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
    import pyarrow.parquet as pq

    remaining = iter(rows)
    group = list(islice(remaining, ROW_GROUP))
    schema = _schema(spec, _sizes(spec, group, empty), marks)
    with hashed(local) as out, pq.ParquetWriter(out, schema, **SETTINGS) as writer:
        while group:
            writer.write_table(_table(group, spec, schema), row_group_size=ROW_GROUP)
            group = list(islice(remaining, ROW_GROUP))
    return out.entry(path)


def read_table(store: Store, path: str, columns: Sequence[str] | None) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return a stored parquet's metadata and its rows: maps as dicts, vectors as float32 arrays of their own.

    With `columns`, only these are fetched, and each row has them in this order.

    Raises:
        FileNotFoundError: `path` is absent.
        StoreError: the file is truncated, damaged or of another schema version.
        ValueError: a column is unknown.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(store.get(path)) if columns is None else pa.PythonFile(StoredFile(store, path), "r")
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        marks = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
        _check(path, marks, file.schema_arrow.names, columns)
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise altered(path, f"not readable as parquet ({' '.join(str(error).split())[:120]})") from error
    names = table.schema.names if columns is None else list(columns)
    values = [_values(table.column(name)) for name in names]
    return marks, [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def finite(value: Any, what: str) -> float:
    """Return `value` as a float; raises ValueError on NaN and infinity, which no threshold can judge."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}; a stored number is finite: give a bound, or leave the number out")
    return number


def pairs(values: Mapping[str, float], whose: str) -> list[tuple[str, float]]:
    """Return a map's entries sorted by name, each checked to be finite."""
    return sorted((name, finite(value, f"{whose}: {name}")) for name, value in values.items())


def _sizes(spec: Spec, rows: Sequence[Row], empty: int) -> dict[str, int]:
    vectors = [name for name, kind in spec.items() if kind.startswith("vector")]
    return {name: next((len(r[name]) for r in rows if r[name] is not None), empty) for name in vectors}


def _schema(spec: Spec, sizes: Mapping[str, int], marks: Mapping[str, str]) -> Any:
    import pyarrow as pa

    verdict = pa.struct(
        [
            ("filter", pa.string()),
            ("passed", pa.bool_()),
            ("reason", pa.string()),
            ("value", pa.float64()),
            ("threshold", pa.float64()),
        ]
    )
    kinds = {
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "string": pa.string(),
        "strings": pa.list_(pa.string()),
        "map": pa.map_(pa.string(), pa.float64()),
        "verdicts": pa.list_(verdict),
    }
    fields = []
    for name, kind in spec.items():
        plain = kind.removesuffix("?")
        type_ = pa.list_(pa.float32(), sizes[name]) if plain == "vector" else kinds[plain]
        fields.append(pa.field(name, type_, nullable=kind.endswith("?")))
    return pa.schema(fields, metadata={"facemint_schema": str(SCHEMA_VERSION), **marks})


def _table(rows: Sequence[Row], spec: Spec, schema: Any) -> Any:
    import pyarrow as pa

    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        vector = spec[field.name].startswith("vector")
        columns.append(_vectors(values, field) if vector else pa.array(values, type=field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _vectors(values: Sequence[Any], field: Any) -> Any:
    """Return a fixed-size list column; vectors that are None are null."""
    import pyarrow as pa

    size = field.type.list_size
    flat = np.zeros((len(values), size), np.float32)
    for i, value in enumerate(values):
        if value is None:
            continue
        if np.shape(value) != (size,) or not np.isfinite(value).all():
            raise BadVectorError(
                f"{field.name}, row {i} of its group: shape {np.shape(value)}, finite: "
                f"{bool(np.isfinite(value).all())}; the vectors of a file are finite and of shape ({size},)"
            )
        flat[i] = value
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=field.type, mask=missing)


def _check(path: str, marks: Mapping[str, str], known: Sequence[str], asked: Sequence[str] | None) -> None:
    found = marks.get("facemint_schema")
    if found != str(SCHEMA_VERSION):
        raise StoreError(
            f"{path}: schema version {found} where {SCHEMA_VERSION} is read; "
            "open the dataset with the version of facemint that made it"
        )
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise ValueError(f"{path}: no column {', '.join(unknown)}; it has {', '.join(known)}")


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        return [vector for chunk in column.chunks for vector in _chunk_vectors(chunk)]
    if pa.types.is_map(column.type):
        return [dict(entries) for entries in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _chunk_vectors(chunk: Any) -> Iterator[Any]:
    present = chunk.is_valid().to_pylist()
    # flatten leaves out the slots of nulls, so rows follow each other; the copy frees the file's buffer
    flat = chunk.flatten().to_numpy(zero_copy_only=False).reshape(sum(present), chunk.type.list_size).copy()
    rows = iter(flat)
    for there in present:
        yield next(rows) if there else None
