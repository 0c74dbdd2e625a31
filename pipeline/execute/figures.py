"""What a version says of itself: counts over every candidate, and figures under judge and auditor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.domain.manifest import Counts, IndexRow, Receipt
from pipeline.domain.records import Cell, Float32
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.leaks import leakage_figures
from pipeline.execute.session import Session
from pipeline.flow import audit
from pipeline.flow.balance_report import People, balance_figures, posteriors_of, templates_by_cell
from pipeline.flow.enrol import separation_cos
from pipeline.flow.past import Past
from pipeline.flow.rounds import Standing
from pipeline.flow.thresholds import filter_fmr, separation_fmr
from pipeline.flow.variation import variation_figures

MOST_IMAGES = 200_000
"""Similarity is measured over whole identities, evenly chosen, of at most so many images in all."""


def counts_of(
    session: Session,
    past: Past,
    standing: Standing,
    known: Mapping[str, Receipt],
    units: Sequence[Unit],
    rows: Sequence[IndexRow],
) -> dict[str, Any]:
    """Return the counts of a version; enrolment and making are counted over all generations."""
    recipe = session.parts.recipe
    stages = {s.value: Counts.total(r.counts for r in known.values() if r.unit["stage"] == s.value) for s in Stage}
    closed = Counts.total(r.counts for r in known.values() if r.unit["stage"] == "enrolled")
    there, given = len(past.labels or {}) + len(standing.filled), past.next_label + len(standing.filled)
    return {
        "identities": there,
        # where somebody was erased labels have a gap, which nobody fills
        **({"labels_given": given} if given > there else {}),
        "identities_expected": recipe.identities.count,
        "images": len(rows),
        "images_expected": recipe.identities.count * recipe.identities.images_per_identity,
        "missing_by_cell": {str(c): n for c, n in sorted(standing.open_cells.items())},
        "identities_short": {
            str(o): recipe.identities.images_per_identity - n
            for o, n in sorted(Counter(r.identity for r in rows).items())
            if n < recipe.identities.images_per_identity
        },
        "identities_new": len(standing.filled),
        "enrolled": closed.accepted,
        "candidates_refused_at_enrolment": dict(closed.reasons),
        "identities_failed": tally(standing.failed.values()),
        "units_quarantined": sorted(u.name for u in units if u.name not in known),
        "rounds": max((u.round for u in units), default=0) + 1,
        "enrol": stages["enrol"].to_dict(),
        "make": stages["make"].to_dict(),
    }


def figures_of(
    session: Session,
    past: Past,
    standing: Standing,
    cells: Mapping[int, Cell],
    quota: Mapping[Cell, int],
    rows: Sequence[IndexRow],
) -> dict[str, Any]:
    """Return balance, similarity, thresholds and what was not measured."""
    parts, recipe = session.parts, session.parts.recipe
    compared, judge, auditor = _embeddings(session, rows)
    labels = np.array([r.label for r in compared], np.int64)
    confusion = {k: v for m in parts.measurers for k, v in m.confusion.items()}
    there = [*(past.labels or {}), *standing.filled]
    people = People(
        cells=[cells[o] for o in there],
        enrolled=Counter(cells.values()),
        failed=Counter(cells[o] for o in standing.failed),
        filled=Counter(cells[o] for o in standing.filled),
        posteriors=posteriors_of(parts, there) if recipe.balance.by else None,
        templates=templates_by_cell(judge, labels.tolist(), [str(cells[r.identity]) for r in compared]),
    )
    # under marginal targets the cells of a place may change while they are filled
    reached = Counter(people.cells)
    asked = {c: reached[c] + standing.open_cells.get(c, 0) for c in quota}
    calibration = parts.judge.calibration
    return {
        "identities_measured": len(np.unique(labels)),
        "judge": audit.similarity_figures(judge, labels, calibration),
        "auditor": audit.similarity_figures(auditor, labels, parts.auditor.calibration),
        "balance": balance_figures(people, quota if parts.targets.fixed else asked, parts.targets, confusion),
        "thresholds": {
            f.name: {k: v for k, v in _fields(f).items() if isinstance(v, int | float | str)}
            | filter_fmr(f, calibration, recipe.enrol.probes)
            for f in parts.filters(len(cells))
        },
        "separation_cos": {
            "enrolment": separation_cos(recipe, calibration, recipe.enrol.probes),
            "made": separation_cos(recipe, calibration, recipe.identities.images_per_identity),
        },
        "separation_fmr": separation_fmr(recipe, calibration),
        "variation": variation_figures(parts, rows, cells),
        "leakage": leakage_figures(session, compared, judge, auditor),
        "mixed_devices": recipe.compute.mixed_devices,
    }


def tally(words: Iterable[str]) -> dict[str, int]:
    """Return how often each word comes, by word."""
    out: dict[str, int] = {}
    for word in words:
        out[word] = out.get(word, 0) + 1
    return dict(sorted(out.items()))


def _embeddings(session: Session, rows: Sequence[IndexRow]) -> tuple[list[IndexRow], Float32, Float32]:
    """Return the rows of evenly chosen identities, and the judge and auditor embeddings of their images."""
    parts = session.parts
    step = max(1, -(-len(rows) // MOST_IMAGES))
    by_segment: dict[str, dict[str, IndexRow]] = defaultdict(dict)
    for row in rows:
        if row.label % step == 0:
            by_segment[row.segment][row.key] = row
    compared: list[IndexRow] = []
    judge, auditor = [], []
    for segment, wanted in sorted(by_segment.items()):
        found = parts.segments.read_audit(parts.store, segment)
        chosen = np.array([k in wanted for k in found.keys], bool)
        auditor.append(found.auditor_NE[chosen])
        compared += [wanted[k] for k in found.keys if k in wanted]
        # the audit has one row per accepted candidate, in the order of the segment's rows
        columns = parts.segments.read_columns(parts.store, segment, ["accepted", "embedding"])
        judge.append(columns["embedding"][columns["accepted"]][chosen])
    return compared, np.concatenate(judge), np.concatenate(auditor)


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a frozen dataclass, slotted or not; of a filter that observes those inside, and its mode."""
    if (inner := getattr(value, "inner", None)) is not None:
        return {**_fields(inner), "mode": "observe"}
    return {k: getattr(value, k) for k in getattr(value, "__dataclass_fields__", {})}
