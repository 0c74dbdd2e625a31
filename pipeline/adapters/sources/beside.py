"""What stands beside images in tables: img2dataset's parquet of a tar, and the words that Hugging Face's numbers mean.

Sources: img2dataset's README (output format: `00000.parquet` beside `00000.tar`, column `key`); Hugging Face `datasets`
(features in the schema's metadata, ClassLabel).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.adapters.sources.files import Files, Found
from pipeline.domain.intake import Fault, Unreadable

LARGEST_TABLE_bytes = 200_000_000
"""A table beside one tar that is larger is none of img2dataset's, whose tars hold ten thousand images."""
_KEY = "key"
_LARGEST_SCHEMA_bytes = 10_000_000


def rows_beside(files: Files, table: Found) -> Mapping[str, Mapping[str, str]] | Unreadable:
    """Return key -> columns as text of a table with a column `key`, or why it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table.bytes > LARGEST_TABLE_bytes:
        found = f"{table.bytes:,} bytes; of a table beside a tar at most {LARGEST_TABLE_bytes:,} are read"
        return Unreadable(Fault.TOO_LARGE, found)
    stream = files.open(table.path, table.stamp)
    if isinstance(stream, Unreadable):
        return stream
    rows: dict[str, dict[str, str]] = {}
    with stream:
        try:
            file = pq.ParquetFile(stream)
            names = [f.name for f in file.schema_arrow if is_plain(f.type)]
            if _KEY not in names:
                return Unreadable(Fault.BAD_ARCHIVE, f"a table beside a tar without the column {_KEY!r}")
            for batch in file.iter_batches(batch_size=4096, columns=names):
                columns = batch.to_pydict()
                for n, key in enumerate(columns[_KEY]):
                    rows[str(key)] = {k: str(v[n]) for k, v in columns.items() if v[n] is not None}
        except (pa.ArrowException, OSError, ValueError) as error:
            return Unreadable(Fault.BAD_ARCHIVE, " ".join(str(error).split())[:200])
    return rows


def class_names(schema: Any) -> Mapping[str, tuple[str, ...]]:
    """Return column -> words that its numbers stand for, where Hugging Face's metadata say so."""
    told = (schema.metadata or {}).get(b"huggingface", b"")
    if not told or len(told) > _LARGEST_SCHEMA_bytes:
        return {}
    try:
        features = json.loads(told)["info"]["features"]
        return {
            name: tuple(str(word) for word in feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def is_plain(kind: Any) -> bool:
    """Return whether values of an Arrow type are one number or word each, and no bytes."""
    import pyarrow as pa

    return not (pa.types.is_nested(kind) or is_bytes(kind))


def is_bytes(kind: Any) -> bool:
    """Return whether values of an Arrow type are bytes."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
