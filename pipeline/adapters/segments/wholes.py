"""Whole pictures: where a segment's tar holds what its crops were cut from, as its parquet says it."""

from __future__ import annotations

from pipeline.adapters.segments.candidates import WHOLES
from pipeline.adapters.segments.joining import belonging_to
from pipeline.adapters.segments.reads import read_names, read_table
from pipeline.domain.manifest import segment_path
from pipeline.domain.ports import Store
from pipeline.domain.records import Whole


def read_wholes(store: Store, unit: str) -> dict[str, Whole] | None:
    """Return key -> where its whole picture lies in the tar, and its digest; None where the unit keeps none.

    Raises:
        FileNotFoundError: there is no such segment.
        StoreError: the file is not the parquet that was written for this unit.
    """
    path, check = segment_path(unit, "parquet"), belonging_to(unit)
    if not WHOLES.keys() <= set(read_names(store, path, check)):
        return None
    rows = read_table(store, path, ["key", *WHOLES], check)[1]
    return {
        row["key"]: Whole(row["whole_offset"], row["whole_length"], row["whole_sha256"])
        for row in rows
        if None not in row.values()
    }
