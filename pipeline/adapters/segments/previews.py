"""Previews as parquet: one row per refused image that a make unit keeps for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.adapters.segments.files import altered, scratch
from pipeline.adapters.segments.reads import read_table
from pipeline.adapters.segments.tables import Spec, finite, write_table
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store
from pipeline.domain.previews import Preview, preview_path

COLUMNS: Spec = {
    "key": "string",
    "identity": "int64",
    "cell": "string",
    "reason": "string",
    "value": "double",
    "threshold": "double",
    "jpeg": "binary",
}


def write_previews(store: Store, unit: str, rows: Sequence[Preview]) -> FileEntry:
    """Write `previews/<unit>.parquet` in the order given.

    Raises:
        ValueError: a key comes twice, an image has no bytes, or a number is not finite.
    """
    keys = [row.key for row in rows]
    if len(set(keys)) < len(keys) or not all(row.jpeg for row in rows):
        raise ValueError(f"previews of {unit}: a key comes twice or an image has no bytes; each is given once, whole")
    path = preview_path(unit)
    with scratch() as here:
        local = here / "rows.parquet"
        entry = write_table(local, path, COLUMNS, [_row(row) for row in rows], {"facemint_unit": unit}, 0)
        store.put_file(path, local)
    return entry


def read_previews(store: Store, unit: str) -> list[Preview]:
    """Return what `write_previews` wrote.

    Raises:
        FileNotFoundError: the unit keeps no previews.
        StoreError: the file is damaged, or not that of this unit.
    """
    path = preview_path(unit)
    marks, rows = read_table(store, path, None)
    if marks.get("facemint_unit") != unit:
        raise altered(path, f"it says that it belongs to unit {marks.get('facemint_unit')}")
    return [Preview(**row) for row in rows]


def _row(preview: Preview) -> dict[str, Any]:
    row = {name: getattr(preview, name) for name in COLUMNS}
    return row | {name: finite(row[name], f"{preview.key}: {name}") for name in ("value", "threshold")}
