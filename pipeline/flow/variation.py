"""What was asked of the published images against what is measured in them, read from the segments one at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import Measurer
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell
from pipeline.domain.variation import Tally, bins_of
from pipeline.flow.parts import Parts

_COLUMNS = ("key", "conditions", "measures", "off_target")


def readings(recipe: Recipe, measurers: Iterable[Measurer]) -> dict[str, str]:
    """Return condition -> the measure that reads it: as a filter of the recipe says, or else the one of its name."""
    given = {name for measurer in measurers for name in measurer.names}
    out = {name: name for name in recipe.conditions if name in given}
    for node in recipe.filters:
        condition, measure = getattr(node, "condition", None), getattr(node, "measure", None)
        if condition in recipe.conditions and measure is not None:
            out[condition] = measure
    return dict(sorted(out.items()))


def variation_figures(parts: Parts, rows: Sequence[IndexRow], cells_of: Mapping[int, Cell]) -> list[dict[str, Any]]:
    """Return, per condition that a measure reads, what was planned, asked and delivered; see `Tally.facts`.

    Every row is counted; one segment's columns are in memory at a time.

    Args:
        parts: the ports; the segments are read.
        rows: the index.
        cells_of: ordinal -> cell, of everybody in it.
    """
    recipe = parts.recipe
    tallies = [
        Tally(condition, measure, bins_of(recipe.conditions[condition]))
        for condition, measure in readings(recipe, parts.measurers).items()
    ]
    by_segment: dict[str, dict[str, IndexRow]] = defaultdict(dict)
    for row in rows if tallies else ():
        by_segment[row.segment][row.key] = row
    for segment in sorted(by_segment):
        columns = parts.segments.read_columns(parts.store, segment, _COLUMNS)
        _count(tallies, columns, by_segment.pop(segment), cells_of)
    return [tally.facts() for tally in tallies]


def _count(
    tallies: Sequence[Tally],
    columns: Mapping[str, Any],
    published: Mapping[str, IndexRow],
    cells_of: Mapping[int, Cell],
) -> None:
    wanted = [n for n, key in enumerate(columns["key"]) if key in published]
    rows = [published[columns["key"][n]] for n in wanted]
    off_target = np.asarray(columns["off_target"], bool)[wanted]
    cells, owners = [str(cells_of[r.identity]) for r in rows], [r.identity for r in rows]
    for tally in tallies:
        asked = np.array([columns["conditions"][n].get(tally.condition, np.nan) for n in wanted], np.float64)
        measured = np.array([columns["measures"][n].get(tally.measure, np.nan) for n in wanted], np.float64)
        told = np.isfinite(asked)
        here = np.flatnonzero(told).tolist()
        tally.add(asked[told], measured[told], off_target[told], [cells[n] for n in here], [owners[n] for n in here])
