"""What the audit finds about a make unit: where its images lie, and how the auditor sees them.

Legend: N images, E dimensions of the auditor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.adapters.segments.files import scratch
from pipeline.adapters.segments.joining import belonging_to
from pipeline.adapters.segments.reads import read_columns
from pipeline.adapters.segments.tables import ROW_GROUP, Columns, Spec, arrow_type, vector_column, write_groups
from pipeline.domain.manifest import FileEntry, audit_path
from pipeline.domain.ports import Store
from pipeline.domain.privacy import private_path
from pipeline.domain.records import Audited

AUDIT: Spec = {"key": "string", "offset": "int64", "length": "int64", "embedding": "vector"}


def write_audit(store: Store, unit: str, found: Audited, *, private: bool) -> FileEntry:
    """Write `audits/<unit>.parquet`: key, offset, length and the auditor's embedding of each image.

    Where private, it lies under `private/`.

    Raises:
        ValueError: the fields of `found` differ in length, or a key comes twice.
        BadVectorError: an embedding is not finite.
    """
    rows = len(found.keys)
    parts = (found.offset_N, found.length_N, found.auditor_NE)
    if any(len(part) != rows for part in parts) or found.auditor_NE.ndim != 2:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"audit of {unit}: {rows} keys with offsets, lengths and embeddings of shapes {shapes}")
    path, marks = audit_path(unit), {"facemint_unit": unit}
    if private:
        path = private_path(path)
    with scratch() as here:
        entry = write_groups(here / "rows.parquet", path, AUDIT, _groups(found), marks, 0)
        store.put_file(path, here / "rows.parquet")
    return entry


def read_audit(store: Store, unit: str) -> Audited:
    """Return what `write_audit` wrote; the embeddings' shape is (0, 0) where there is no row.

    Raises:
        FileNotFoundError: the unit has not been audited.
        StoreError: the file is not the parquet that was written for this unit.
    """
    found = _read(store, unit, list(AUDIT))
    return Audited(tuple(found["key"]), found["offset"], found["length"], found["embedding"])


def read_places(store: Store, unit: str) -> dict[str, tuple[int, int]]:
    """Return key -> (offset, length) as the audit found them; errors are those of `read_audit`."""
    found = _read(store, unit, ["key", "offset", "length"])
    spans = zip(found["offset"].tolist(), found["length"].tolist(), strict=True)
    return dict(zip(found["key"], spans, strict=True))


def _groups(found: Audited) -> Iterator[Columns]:
    import pyarrow as pa

    for start in range(0, len(found.keys), ROW_GROUP):
        part = slice(start, start + ROW_GROUP)
        plain = {"key": list(found.keys[part]), "offset": found.offset_N[part], "length": found.length_N[part]}
        columns = {name: pa.array(values, type=arrow_type(AUDIT[name])) for name, values in plain.items()}
        emb_NE = np.ascontiguousarray(found.auditor_NE[part], dtype=np.float32)
        yield columns | {"embedding": vector_column(emb_NE, "embedding")}


def _read(store: Store, unit: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return columns of an audit, wherever it lies; raises FileNotFoundError where it lies nowhere."""
    path = audit_path(unit)
    try:
        return read_columns(store, path, columns, belonging_to(unit))
    except FileNotFoundError:
        return read_columns(store, private_path(path), columns, belonging_to(unit))
