"""The funnel by cell: how many images of its identities were made, refused why, accepted, and published."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.domain.manifest import IndexRow, Receipt
from pipeline.domain.records import Cell
from pipeline.domain.unit import Stage
from pipeline.flow.parts import Parts
from pipeline.flow.twins import candidate_columns


def funnel_of(
    parts: Parts, known: Mapping[str, Receipt], cells: Mapping[int, Cell], rows: Sequence[IndexRow]
) -> dict[str, Any]:
    """Return cell -> candidates, refused by first reason, accepted, published; each candidate is counted once.

    Segments are read one after the other, three columns of each.

    Args:
        parts: the ports.
        known: every receipt of the dataset.
        cells: ordinal -> cell, of everybody enrolled.
        rows: the index, without twins.
    """
    out: dict[str, dict[str, Any]] = defaultdict(lambda: {"candidates": 0, "reasons": Counter(), "accepted": 0})
    for name, receipt in sorted(known.items()):
        if receipt.unit["stage"] != Stage.MAKE.value:
            continue
        columns = candidate_columns(parts, name, ("identity", "accepted", "reasons"))
        for ordinal, accepted, reasons in _rows(columns):
            cell = out[str(cells[ordinal])]
            cell["candidates"] += 1
            if accepted:
                cell["accepted"] += 1
            else:
                cell["reasons"][reasons[0]] += 1
    published = Counter(str(cells[row.identity]) for row in rows)
    return {
        cell: {**facts, "reasons": dict(sorted(facts["reasons"].items())), "published": published[cell]}
        for cell, facts in sorted(out.items())
    }


def _rows(columns: Mapping[str, Any]) -> Iterable[tuple[int, bool, Sequence[str]]]:
    return zip(columns["identity"].tolist(), columns["accepted"].tolist(), columns["reasons"], strict=True)
