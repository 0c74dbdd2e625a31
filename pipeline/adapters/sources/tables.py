"""Parquet files with a column of images: what Hugging Face datasets are stored as.

An image is bytes, or a struct of `bytes` and `path`. Every other plain column comes along as text; a class that Hugging
Face's metadata give names to comes by its name, because its number means another thing elsewhere. Images are read a
batch of rows at a time, whatever the size of a row group.
Source: Apache Parquet and Hugging Face `datasets` (Image feature).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, repeat
from typing import Any, Literal

from pipeline.adapters.sources.beside import class_names, is_bytes, is_plain
from pipeline.adapters.sources.facts import label_of
from pipeline.adapters.sources.files import Files, Found
from pipeline.domain.intake import Fault, Input, SourceNode, Unreadable

NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "photo", "picture")
"""Columns that are looked for, in this order, where the recipe names none."""
_ROWS = 64


class TableOptions(SourceNode):
    """A folder with parquet files."""

    use: Literal["parquet"] = "parquet"
    image: str = ""
    """The column of images; left out: the first of the usual names that holds bytes."""
    label: str = "label"
    """The column that says whose face it is; `none` for no label."""


class TableSource:
    """Implements `Source` over parquet files."""

    def __init__(self, options: TableOptions, files: Files) -> None:
        self.name = files.name
        self._options, self._files = options, files

    def listing(self) -> Iterator[Input]:
        """Yield every row, in the order of files and rows."""
        for one in self._files.walk():
            if one.fault is not None:
                yield Input(one.path, stamp=one.stamp, fault=one.fault)
            elif one.path.endswith(".parquet"):
                yield from self._rows(one)

    def read(self, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield each row's image; rows of one file are best asked for together and in their order."""
        for (path, stamp), group in groupby(inputs, key=lambda i: (i.path, i.stamp)):
            yield from self._images(path, stamp, list(group))

    def _rows(self, table: Found) -> Iterator[Input]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        stream = self._files.open(table.path, table.stamp)
        if isinstance(stream, Unreadable):
            yield Input(table.path, stamp=table.stamp, fault=stream)
            return
        number = 0
        with stream:
            try:
                file = pq.ParquetFile(stream)
                image = self._image_column(file.schema_arrow)
                if image is None:
                    there = ", ".join(file.schema_arrow.names)
                    fault = Unreadable(Fault.NO_IMAGE, f"no column of images; columns here: {there}")
                    yield Input(table.path, stamp=table.stamp, fault=fault)
                    return
                plain = [f.name for f in file.schema_arrow if f.name != image and is_plain(f.type)]
                words = class_names(file.schema_arrow)
                for batch in file.iter_batches(batch_size=4096, columns=plain):
                    columns = batch.to_pydict()
                    for n in range(batch.num_rows):
                        yield self._row(table, number, {k: _said_by(words.get(k), v[n]) for k, v in columns.items()})
                        number += 1
                if number < file.metadata.num_rows and not plain:
                    # with no other column there is nothing to iterate over
                    yield from (self._row(table, n, {}) for n in range(file.metadata.num_rows))
            except (pa.ArrowException, OSError, ValueError) as error:
                yield Input(table.path, str(number), 0, -1, table.stamp, fault=_said(Fault.BAD_ARCHIVE, error))

    def _row(self, table: Found, number: int, values: dict[str, Any]) -> Input:
        said = values.get(self._options.label) if self._options.label != "none" else None
        columns = self._options.passed(
            {k: str(v) for k, v in values.items() if v is not None and k != self._options.label}
        )
        label = None if said is None else label_of(str(said)) or None
        return Input(table.path, str(number), 0, -1, table.stamp, label, columns)

    def _image_column(self, schema: Any) -> str | None:
        there = [name for name in schema.names if _holds_images(schema.field(name).type)]
        if self._options.image:
            return self._options.image if self._options.image in there else None
        return next((name for name in NAMES if name in there), there[0] if len(there) == 1 else None)

    def _images(self, path: str, stamp: str, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield an answer for each; what is wrong with one row, or one row group, is no fault of the others."""
        values = self._values(path, stamp, [int(one.member) for one in inputs if one.fault is None])
        for one in inputs:
            yield one.fault or next(values)

    def _values(self, path: str, stamp: str, rows: Sequence[int]) -> Iterator[bytes | Unreadable]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        stream = self._files.open(path, stamp)
        if isinstance(stream, Unreadable):
            yield from repeat(stream, len(rows))
            return
        with stream:
            try:
                file = pq.ParquetFile(stream)
                image = self._image_column(file.schema_arrow) or ""
            except (pa.ArrowException, OSError, ValueError) as error:
                yield from repeat(_said(Fault.BAD_RECORD, error), len(rows))
                return
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = [0, *accumulate(sizes)]
            for group, some in groupby(rows, key=lambda row: bisect_right(starts, row) - 1):
                yield from _of_group(file, image, group, starts, list(some))


def _of_group(
    file: Any, image: str, group: int, starts: Sequence[int], rows: Sequence[int]
) -> Iterator[bytes | Unreadable]:
    """Yield the images of rows of one row group, or why there are none."""
    import pyarrow as pa

    done, said = 0, Unreadable(Fault.BAD_RECORD, f"the table ends before this row, though it claims {starts[-1]:,}")
    try:
        for value in _read(file, image, group, starts[group], rows) if group < len(starts) - 1 else ():
            done += 1
            yield value
    except (pa.ArrowException, OSError, ValueError) as error:
        said = _said(Fault.BAD_RECORD, error)
    yield from repeat(said, len(rows) - done)


def _read(file: Any, image: str, group: int, start: int, rows: Sequence[int]) -> Iterator[bytes | Unreadable]:
    """Yield the images of rows of one row group, a batch of it at a time; it may hold fewer than it claims."""
    at, before = 0, -1
    while before < at < len(rows):
        before, first = at, start
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[image]):
            column = batch.column(0)
            while at < len(rows) and first <= rows[at] < first + batch.num_rows:
                yield _bytes(column[rows[at] - first].as_py())
                at += 1
            first += batch.num_rows
            if at == len(rows) or rows[at] < first:
                break


def _said(fault: Fault, error: Exception) -> Unreadable:
    return Unreadable(fault, " ".join(str(error).split())[:200])


def _bytes(value: Any) -> bytes | Unreadable:
    found = value.get("bytes") if isinstance(value, dict) else value
    if found is None:
        where = value.get("path") if isinstance(value, dict) else None
        return Unreadable(Fault.NO_IMAGE, f"no bytes, only the path {where!r}" if where else "no bytes")
    return bytes(found)


def _said_by(words: Sequence[str] | None, value: Any) -> Any:
    """Return the word that a number of a class stands for; None for one that says that there is no class (-1)."""
    if words is None or not isinstance(value, int):
        return value
    if value < 0:
        return None
    return words[value] if value < len(words) else value


def _holds_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and is_bytes(field.type) for field in kind)
    return is_bytes(kind)
