"""What a report says of each measure: its histograms, its quantiles by cell, and the bounds that filters set it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.domain.errors import FacemintError
from pipeline.domain.histograms import Histograms
from pipeline.domain.ports import Filter
from pipeline.domain.records import Sample
from pipeline.domain.report import MeasureFacts
from pipeline.flow.judge import OWN
from pipeline.flow.reporting.survey import LEFT_OUT, PUBLISHED, REFUSED, Subject, Survey

BINS = 40
UNITS = ("cos", "px", "deg", "s", "bytes", "years", "bits", "share", "p")
SHARES = (0.05, 0.5, 0.95)
OBSERVED = " (observed)"
"""Stands behind the name of a filter that was asked and refused nobody."""
_ASKED = 64
"""Rows that filters are asked about, to learn which measure they read."""
_COLUMNS = ("key", "identity", "slot", "attempt", "conditions", "measures", "embedding")


def measure_facts(subject: Subject, found: Survey, filters: Sequence[Filter]) -> list[MeasureFacts]:
    """Return the facts of every measure that segments hold, by name."""
    bounds = bounds_of(subject, filters)
    return [_facts(name, h, found, bounds.get(name, ())) for name, h in sorted(found.measures.items())]


def _facts(name: str, held: Histograms, found: Survey, bounds: Sequence[tuple[str, float]]) -> MeasureFacts:
    shown = held.shown(BINS)
    counts = {status: shown.counts_GB[found.groups(status)].sum(axis=0) for status in (PUBLISHED, LEFT_OUT, REFUSED)}
    by_cell = {}
    for cell in found.cells:
        (group,) = found.groups(PUBLISHED, cell)
        if number := int(held.counts_GL[group].sum()):
            by_cell[cell] = (number, *held.quantiles([group], SHARES))
    return MeasureFacts(
        name=name,
        unit=unit_of(name),
        edges=tuple(shown.edges_B1.tolist()),
        accepted=tuple((counts[PUBLISHED] + counts[LEFT_OUT]).tolist()),
        refused=tuple(counts[REFUSED].tolist()),
        missing=int(held.missing_G.sum()),
        by_cell=by_cell,  # type: ignore[arg-type]  # four numbers each
        bounds=tuple(bounds),
        published=tuple(counts[PUBLISHED].tolist()),
    )


def unit_of(name: str) -> str:
    """Return the unit in a measure's name, which stands behind its last `_`; empty where it has none."""
    plain = name.partition("@")[0]  # behind it stands who measured
    last = plain.rpartition("_")[2]
    return last if "_" in plain and last in UNITS else ""


def bounds_of(subject: Subject, filters: Sequence[Filter]) -> dict[str, list[tuple[str, float]]]:
    """Return measure -> (filter, threshold) of the filters that compare this measure, and no other number, with it.

    Filters are asked about some stored rows: the measure whose number a verdict's value always is, is the one that the
    filter reads. One that needs other numbers than those stored, such as siblings, says nothing.
    """
    rows = _rows(subject)
    out: dict[str, list[tuple[str, float]]] = {}
    for judging in filters:
        try:
            verdicts = [judging.judge(row) for row in rows]
        except (FacemintError, KeyError):
            continue
        alike = [name for name in (rows[0].measures if rows else ()) if _reads(name, rows, [v.value for v in verdicts])]
        for name in alike[:1]:
            found = sorted({v.threshold for v in verdicts})
            # one that observes stands around the filter that it is, and drew no line
            shown = judging.name + (OBSERVED if hasattr(judging, "inner") else "")
            out.setdefault(name, []).extend((shown, threshold) for threshold in found)
    return out


def _reads(name: str, rows: Sequence[Sample], values: Sequence[float]) -> bool:
    return all(row.measures.get(name) == value for row, value in zip(rows, values, strict=True))


def _rows(subject: Subject) -> list[Sample]:
    """Return some rows of the newest make unit that has candidates, evenly chosen."""
    names = sorted((n for n, r in subject.made.items() if r.counts.candidates), key=lambda n: _age(subject, n))
    if not names:
        return []
    columns = subject.segments.read_columns(subject.store, names[-1], _COLUMNS)
    number = len(columns["key"])
    at = np.arange(number) if number <= _ASKED else np.arange(_ASKED) * number // _ASKED
    rows = [_sample(columns, int(n)) for n in at]
    # no filter was asked about a face that could not be embedded
    return [row for row in rows if OWN in row.measures]


def _age(subject: Subject, name: str) -> tuple[int, int]:
    unit = subject.made[name].unit
    return int(unit["generation"]), int(unit["index"])


def _sample(columns: Mapping[str, Sequence[object]], n: int) -> Sample:
    raw = {name: columns[name][n] for name in _COLUMNS}
    return Sample(
        key=str(raw["key"]),
        identity=int(raw["identity"]),  # type: ignore[call-overload]
        slot=int(raw["slot"]),  # type: ignore[call-overload]
        attempt=int(raw["attempt"]),  # type: ignore[call-overload]
        conditions=dict(raw["conditions"]),  # type: ignore[call-overload]
        measures=dict(raw["measures"]),  # type: ignore[call-overload]
        embedding_E=raw["embedding"],  # type: ignore[arg-type]
    )
