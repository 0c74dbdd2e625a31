"""Stored parquet back as rows or as columns; of a part of the columns only these are fetched, in few requests.

Legend: N rows, E length of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.adapters.segments.files import StoredFile, altered
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import SCHEMA_VERSION
from pipeline.domain.ports import Store

CONTENTS_bytes = 1 << 16
"""How much of a file's end is fetched at first: the table of contents of a few row groups, or a small file whole."""


def read_table(
    store: Store,
    path: str,
    columns: Sequence[str] | None,
    check: Callable[[Mapping[str, str], str], object] = lambda _marks, _path: None,
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return a stored parquet's metadata and its rows: maps as dicts, vectors as float32 arrays of their own.

    With `columns`, only these are fetched, and each row has them in this order. `check` is as for `read_columns`.

    Raises:
        FileNotFoundError: `path` is absent.
        StoreError: the file is truncated, damaged or of another schema version.
        ValueError: a column is unknown.
    """
    import pyarrow as pa

    source = pa.BufferReader(store.get(path)) if columns is None else _remote(store, path)
    rows: list[dict[str, Any]] = []
    with _damage_named(path):
        file, marks = _opened(path, source)
        check(marks, path)
        _require_known(path, file, columns or ())
        names = file.schema_arrow.names if columns is None else list(columns)
        for group in _groups(file, source, names):
            values = [_row_values(group[name]) for name in names]
            rows += [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    return marks, rows


def read_columns(
    store: Store, path: str, columns: Sequence[str], check: Callable[[Mapping[str, str], str], object]
) -> dict[str, Any]:
    """Return some columns of a stored parquet, in the order asked for; only these are fetched.

    Args:
        store: where it lies.
        path: the file.
        columns: names.
        check: called with the file's metadata and its path before anything else is looked at; raises to refuse it.

    Returns:
        Name -> column of N rows: numbers and truth values as arrays (N,) of the stored type, NaN where there is none;
        vectors as float32 (N, E), rows of NaN where there is none; maps as list of dict, strings and lists as list.
        Arrays may be views of arrow's memory that cannot be written to.

    Raises:
        FileNotFoundError: `path` is absent.
        StoreError: the file is truncated, damaged or of another schema version.
        ValueError: a column is unknown.
    """
    source = _remote(store, path)
    with _damage_named(path):
        file, marks = _opened(path, source)
        check(marks, path)
        _require_known(path, file, columns)
        if file.num_row_groups == 1:
            # the arrays are arrow's own: nothing is copied
            (group,) = _groups(file, source, columns)
            return {name: _column(group[name]) for name in columns}
        count, done = file.metadata.num_rows, 0
        found = {name: _room(file.schema_arrow.field(name).type, count) for name in columns}
        # group by group into one array each: the peak is the result and one row group
        for number, group in enumerate(_groups(file, source, columns)):
            rows = file.metadata.row_group(number).num_rows
            for name, room in found.items():
                if isinstance(room, list):
                    room.extend(_column(group[name]))
                else:
                    room[done : done + rows] = _column(group[name])
            done += rows
    return found


def read_names(store: Store, path: str, check: Callable[[Mapping[str, str], str], object]) -> list[str]:
    """Return the names of a stored parquet's columns; arguments and errors are those of `read_columns`."""
    source = _remote(store, path)
    with _damage_named(path):
        file, marks = _opened(path, source)
        check(marks, path)
        return list(file.schema_arrow.names)


def read_group_columns(
    store: Store, path: str, columns: Sequence[str], chosen: Callable[[Mapping[str, str]], Sequence[int]]
) -> list[dict[str, Any]]:
    """Return some columns of some row groups, one mapping per group; only these are fetched.

    `chosen` is given the file's metadata and says which groups, by their place. Columns and errors are those of
    `read_columns`.
    """
    source = _remote(store, path)
    with _damage_named(path):
        file, marks = _opened(path, source)
        _require_known(path, file, columns)
        groups = _groups(file, source, columns, chosen(marks))
        return [{name: _column(group[name]) for name in columns} for group in groups]


def joined(parts: Sequence[Any]) -> Any:
    """Return the parts of a column as one, at least one of them."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [value for part in parts for value in part]


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise altered(path, f"not readable as parquet ({' '.join(str(error).split())[:120]})") from error


def _remote(store: Store, path: str) -> StoredFile:
    source = StoredFile(store, path)
    source.hold_end(CONTENTS_bytes)
    return source


def _opened(path: str, source: Any) -> tuple[Any, dict[str, str]]:
    """Return the parquet file and its metadata, after checking its schema's version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remote = isinstance(source, StoredFile)
    file = pq.ParquetFile(pa.PythonFile(source, "r") if remote else source, page_checksum_verification=True)
    marks = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    found = marks.get("facemint_schema")
    if found != str(SCHEMA_VERSION):
        raise StoreError(
            f"{path}: schema version {found} where {SCHEMA_VERSION} is read; "
            "open the dataset with the version of facemint that made it"
        )
    return file, marks


def _require_known(path: str, file: Any, columns: Sequence[str]) -> None:
    known = file.schema_arrow.names
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise ValueError(f"{path}: no column {', '.join(unknown)}; it has {', '.join(known)}")


def _groups(
    file: Any, source: Any, names: Sequence[str], numbers: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield name -> arrow array of each row group, or of those at some places."""
    for number in range(file.num_row_groups) if numbers is None else numbers:
        if isinstance(source, StoredFile):
            source.hold(_places(file.metadata.row_group(number), set(names)))
        table = file.read_row_group(number, columns=list(dict.fromkeys(names)), use_threads=False)
        columns = {name: table.column(name) for name in names}
        yield {name: c.chunk(0) if c.num_chunks == 1 else c.combine_chunks() for name, c in columns.items()}


def _places(group: Any, names: set[str]) -> Iterator[tuple[int, int]]:
    """Yield where the pages of columns begin and end in the file."""
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema.partition(".")[0] in names:
            first = chunk.data_page_offset
            if chunk.has_dictionary_page:
                first = min(first, chunk.dictionary_page_offset)
            yield first, first + chunk.total_compressed_size


def _room(type_: Any, count: int) -> Any:
    """Return an array for `count` rows of a type, or an empty list where rows become Python values."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(type_):
        return np.empty((count, type_.list_size), np.float32)
    if _is_number(type_):
        return np.empty(count, type_.to_pandas_dtype())
    return []


def _column(array: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(array.type):
        return _matrix_NE(array)
    return _numbers(array) if _is_number(array.type) else _python(array)


def _numbers(array: Any) -> Any:
    """Return what `to_numpy` does, which imports all of pandas where that is installed."""
    import pyarrow as pa

    data, end = array.buffers()[1], array.offset + len(array)
    if array.null_count or data is None:
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=end, bitorder="little")
        return bits[array.offset :].view(np.bool_)
    return np.frombuffer(data, array.type.to_pandas_dtype(), end)[array.offset :]


def _is_number(type_: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_))


def _matrix_NE(array: Any) -> Any:
    """Return vectors as float32 (N, E), a view where there are no nulls; rows of nulls are NaN."""
    size = array.type.list_size
    # flatten leaves out the slots of nulls, so the others follow each other
    present = _numbers(array.flatten()).reshape(len(array) - array.null_count, size)
    if not array.null_count:
        return present
    whole = np.full((len(array), size), np.nan, np.float32)
    whole[array.is_valid().to_numpy(zero_copy_only=False)] = present
    return whole


def _row_values(array: Any) -> list[Any]:
    """Return one Python value per row; vectors as arrays that share no memory with the file, None where absent."""
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(array.type):
        return _python(array)
    rows, present = list(_matrix_NE(array).copy()), array.is_valid().to_pylist()
    return [row if there else None for row, there in zip(rows, present, strict=True)]


def _python(array: Any) -> list[Any]:
    """Return what `to_pylist` does, with maps as dicts, and of words that come often one object: faster and smaller."""
    import pyarrow as pa

    if array.null_count:
        plain: list[Any] = array.to_pylist()
    elif pa.types.is_map(array.type):
        names, values, at = _words(array.keys), array.items.to_pylist(), array.offsets.to_pylist()
        plain = [dict(zip(names[a:b], values[a:b], strict=True)) for a, b in pairwise(at)]
    elif pa.types.is_list(array.type):
        inner = _words(array.values) if pa.types.is_string(array.type.value_type) else _python(array.values)
        at = array.offsets.to_pylist()
        plain = [inner[a:b] for a, b in pairwise(at)]
    elif pa.types.is_struct(array.type):
        fields = [array.type.field(n) for n in range(array.type.num_fields)]
        columns = [
            _words(c) if pa.types.is_string(f.type) else _python(c)
            for f, c in zip(fields, array.flatten(), strict=True)
        ]
        plain = [dict(zip([f.name for f in fields], row, strict=True)) for row in zip(*columns, strict=True)]
    else:
        plain = array.to_pylist()
    return plain


def _words(array: Any) -> list[str]:
    """Return strings of which few differ, each as one object."""
    if array.null_count:
        plain: list[str] = array.to_pylist()
        return plain
    coded = array.dictionary_encode()
    words = coded.dictionary.to_pylist()
    return [words[code] for code in coded.indices.to_pylist()]
