"""What a version says of its balance: per cell and per value what was asked and reached, and how even the whole is.

Everything is counted over identities. A cell is what the reader finds most probable; soft counts spread an identity
over the cells by its probabilities, and adjusted shares undo the reader's known errors.

Legend: N identities, C cells, E embedding dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.domain import balance_figures as measure
from pipeline.domain.balance import Targets
from pipeline.domain.balance_figures import wilson_interval
from pipeline.domain.labels import agreement
from pipeline.domain.records import Cell, Float32, template_of
from pipeline.domain.selection import largest_balanced
from pipeline.flow.parts import Parts
from pipeline.flow.past import members_before

Confusion = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class People:
    """Who a version holds.

    Attributes:
        cells: the cell of every published identity.
        enrolled: identities enrolled per cell, the reserve too.
        failed: identities per cell that were worked on in this generation and are not published.
        filled: identities per cell that this generation filled.
        posteriors: per published identity, `field=value` -> probability; None where an identity has none.
        templates: cell -> templates (n, E) of the published identities that were compared.
    """

    cells: Sequence[Cell]
    enrolled: Mapping[Cell, int] = field(default_factory=dict)
    failed: Mapping[Cell, int] = field(default_factory=dict)
    filled: Mapping[Cell, int] = field(default_factory=dict)
    posteriors: Sequence[Mapping[str, float]] | None = None
    templates: Mapping[Cell, Float32] = field(default_factory=dict)


def posteriors_of(parts: Parts, ordinals: Sequence[int]) -> list[Mapping[str, float]] | None:
    """Return the pooled probabilities of these identities' probes, in their order; None where one has none."""
    names = [path.rpartition("/")[2].removesuffix(".json") for path in parts.store.list("receipts/enrol-")]
    generations = [int(name.split("-")[1].removeprefix("g")) for name in names]
    members = members_before(parts, max(generations, default=-1) + 1)
    ordinal_of = {m.candidate: m.ordinal for m in members}
    wanted = set(ordinals)
    found: dict[int, Mapping[str, float]] = {}
    for name in sorted(names):
        columns = parts.segments.read_columns(parts.store, name, ["candidate", "posterior"])
        for candidate, posterior in zip(columns["candidate"], columns["posterior"], strict=True):
            ordinal = ordinal_of.get(int(candidate))
            if ordinal in wanted and posterior:
                found[ordinal] = dict(posterior)
    return [found[o] for o in ordinals] if all(o in found for o in ordinals) else None


def templates_by_cell(emb_NE: Float32, labels: Sequence[int], cells: Sequence[str]) -> dict[Cell, Float32]:
    """Return the templates of identities by cell, given the embeddings of their images with label and cell of each."""
    rows: dict[int, list[int]] = {}
    for n, label in enumerate(labels):
        rows.setdefault(label, []).append(n)
    out: dict[Cell, list[Float32]] = {}
    for _, mine in sorted(rows.items()):
        out.setdefault(Cell.parse(cells[mine[0]]), []).append(template_of(emb_NE[mine]))
    return {cell: np.stack(templates) for cell, templates in out.items()}


def balance_figures(
    people: People, quota: Mapping[Cell, int], targets: Targets, confusion: Confusion
) -> dict[str, Any]:
    """Return asked and reached identities per cell and value, with intervals, and figures over all cells.

    Args:
        people: who is published, and who is not.
        quota: identities asked for per cell.
        targets: what balance asks for.
        confusion: the readers', per field.
    """
    cells, fields = list(targets.cells), [name for name, _ in targets.fields]
    reached = Counter(people.cells)
    counts = [reached[c] for c in cells]
    return {
        "by": fields,
        "exact": all(reached[c] == n for c, n in quota.items()),
        "tolerance": targets.tolerance,
        "agreement": targets.agreement,
        "cells": _cell_rows(people, quota, targets, confusion),
        "values": _value_rows(counts, quota, targets),
        "summary": _summary(counts, quota, targets) if fields else {},
        "association": measure.association(cells, counts, targets.fields),
        "largest_balanced": _largest(reached, targets) if fields else {},
        "labellers": _labellers(people.posteriors, targets),
    }


def _cell_rows(
    people: People, quota: Mapping[Cell, int], targets: Targets, confusion: Confusion
) -> list[dict[str, Any]]:
    cells, fields = list(targets.cells), [name for name, _ in targets.fields]
    reached, total = Counter(people.cells), len(people.cells)
    read = np.array([reached[c] / max(total, 1) for c in cells])
    adjusted, soft, error = None, None, None
    if fields and all(f in confusion for f in fields):
        adjusted = measure.adjusted_shares(read, measure.confusion_of_cells(cells, fields, confusion))
    if fields and people.posteriors:
        soft, error = measure.soft_counts(people.posteriors, cells, fields)
    rows = []
    for n, cell in enumerate(cells):
        worked = people.filled.get(cell, 0) + people.failed.get(cell, 0)
        templates = people.templates.get(cell)
        rows.append(
            {
                "cell": str(cell),
                "asked": quota.get(cell, 0),
                "reached": reached[cell],
                "share": float(read[n]),
                "share_95": list(wilson_interval(reached[cell], total)),
                "adjusted_share": None if adjusted is None else float(adjusted[n]),
                "soft_count": None if soft is None else float(soft[n]),
                "soft_count_95": None if soft is None or error is None else _around(soft[n], error[n]),
                "enrolled": people.enrolled.get(cell, 0),
                "retention": people.filled.get(cell, 0) / worked if worked else None,
                "mean_pairwise_cos": None if templates is None else measure.mean_pairwise_cos(templates),
            }
        )
    return rows


def _around(value: float, error: float, z: float = 1.96) -> list[float]:
    return [max(0.0, float(value - z * error)), float(value + z * error)]


def _value_rows(counts: Sequence[int], quota: Mapping[Cell, int], targets: Targets) -> list[dict[str, Any]]:
    """Return asked and reached per value of each field, over all cells that hold it."""
    cells, total = targets.cells, sum(counts)
    rows = []
    for position, (name, values) in enumerate(targets.fields):
        for value in values:
            mine = [n for n, c in enumerate(cells) if c.values[position] == value]
            reached = sum(counts[n] for n in mine)
            rows.append(
                {
                    "field": name,
                    "value": value,
                    "asked": sum(quota.get(cells[n], 0) for n in mine),
                    "reached": reached,
                    "share": reached / total if total else 0.0,
                    "share_95": list(wilson_interval(reached, total)),
                }
            )
    return rows


def _summary(counts: Sequence[int], quota: Mapping[Cell, int], targets: Targets) -> dict[str, Any]:
    """Return the figures of all cells together, against the numbers asked for.

    Where a tolerance let numbers of a joint target give way, they are held against the shares of the recipe instead.
    """
    cells = targets.cells
    asked = np.array([quota.get(c, 0) for c in cells], np.float64)
    target = asked / asked.sum() if asked.sum() else asked
    if targets.joint is not None and not targets.fixed:
        target = np.array(targets.proportional)
    parity, least = measure.representation(counts, target)
    return {
        "cells": len(cells),
        "cells_asked": int((asked > 0).sum()),
        "cells_empty": [str(c) for c, n, a in zip(cells, counts, asked, strict=True) if a and not n],
        "effective_cells": measure.effective_number(counts),
        "evenness": measure.evenness(counts),
        "kl_to_target_nats": measure.divergence(counts, target),
        "kl_smoothing_identities": measure.SMOOTHING,
        "total_variation": measure.total_variation(counts, target),
        "parity_min_to_max": parity,
        "least_representation": least,
    }


def _largest(reached: Mapping[Cell, int], targets: Targets) -> dict[str, Any]:
    """Return the largest balanced set among those who are there, and which cells would enlarge it."""
    found = largest_balanced(targets, reached, rounded=True)
    return {
        "identities": found.size,
        "cells": {str(c): n for c, n in found.counts.items()},
        "next_cells": [str(c) for c in found.next_cells],
    }


def _labellers(posteriors: Sequence[Mapping[str, float]] | None, targets: Targets) -> list[dict[str, Any]]:
    """Return, per field that several labellers read, the share of identities on whom all of them agree."""
    rows = []
    for name, values in targets.fields if posteriors else ():
        found = [agreement(p, name, values) for p in posteriors or ()]
        if found and len(found[0].answers) > 1:
            agreed = sum(a.agreed for a in found)
            rows.append(
                {
                    "field": name,
                    "labellers": [labeller or "primary" for labeller in found[0].answers],
                    "agree": agreed / len(found),
                    "agree_95": list(wilson_interval(agreed, len(found))),
                }
            )
    return rows
