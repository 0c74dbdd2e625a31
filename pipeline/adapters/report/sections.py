"""The sections of the report, one function each: from what is known to what the templates show.

A section that has nothing to show is None, and the page says that it was not measured. Mappings are read in sorted
order, so that facts read back from a manifest give the page that facts in memory gave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.adapters.report import plots
from pipeline.adapters.report.words import UNITS, known, number, odds, of, share
from pipeline.domain.report import Curves, MeasureFacts, ReportFacts, Spread

CONTROL = "control"
MOST_CELL_ROWS = 3_000
"""Rows that the measures' tables by cell have together at most, half a kilobyte each: with 126 cells the first 23
measures have one, the others say that theirs is left out."""
FIRST_MEASURES = (
    "sharpness", "yaw_deg", "pitch_deg", "roll_deg", "smile", "own_template_cos", "nearest_other_cos",
)  # fmt: skip
"""Quality and pose come first; other measures follow by name, estimates of attributes last."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of the headline: what it is called, its value, and what that means."""

    name: str
    value: Any
    said: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A range on a track of 0 to 100 per cent, with a point on it and a mark of what was asked for."""

    low: float
    high: float
    at: float
    asked: float | None
    said: str


def headline(facts: ReportFacts) -> dict[str, Any]:
    """Return what the reader sees first."""
    manifest, counts = facts.manifest, facts.manifest["counts"]
    generator = str(facts.models.get("generator", {}).get("name", ""))
    return {
        "identities": counts["identities"],
        "images": counts["images"],
        "short": _short(counts),
        "purpose": manifest.get("use", {}).get("purpose", ""),
        "commercial": manifest.get("use", {}).get("commercial"),
        "parent": manifest.get("parent"),
        "rehearsal": bool(manifest.get("figures", {}).get("rehearsal")),
        "phantom": "phantom" in generator,
        "made_up": facts.recipe.get("kind") != "curate",
        "tiles": [_yield(facts), _errors(facts), _unique(facts), _parity(facts), _leaks(facts)],
    }


def _short(counts: Mapping[str, Any]) -> str:
    """Return what is missing from the plan; empty where nothing is."""
    missing = [
        f"{counts[name]:,} of {counts[f'{name}_expected']:,} {name}"
        for name in ("identities", "images")
        if f"{name}_expected" in counts and counts[name] < counts[f"{name}_expected"]
    ]
    return " and ".join(missing)


def _yield(facts: ReportFacts) -> Tile:
    if facts.manifest["counts"].get("merged"):
        return Tile("yield", number(None), "copied from other datasets; their reports say what was refused", "funnel")
    if (told := facts.manifest["counts"].get("inputs")) is not None:
        said = f"{told['kept']:,} of {told['listed']:,} inputs are published"
        return Tile("kept", of(told["kept"], told["listed"]), said, "inputs")
    made, kept = facts.funnel.candidates, facts.funnel.accepted
    said = f"{kept:,} of {made:,} pictures made were good enough"
    if again := facts.funnel.judged_again:
        made, kept = again["candidates"], again["accepted"]
        said = f"{kept:,} of {made:,} pictures made are good enough for the filters of this version"
    return Tile("yield", of(kept, made), said, "funnel")


def _errors(facts: ReportFacts) -> Tile:
    curves = by_role(facts.curves)
    role = "auditor" if "auditor" in curves else next(iter(curves), None)
    value = curves[role].eer if role else None
    said = f"equal error rate of the {role}: how often it errs on who is who" if role else "nobody compared people"
    return Tile(f"EER, {role}" if role else "EER", share(value), said, "similarity")


def _unique(facts: ReportFacts) -> Tile:
    spread = {s.role: s for s in facts.spread}
    role = "auditor" if "auditor" in spread else next(iter(spread), None)
    value = spread[role].uniqueness if role else None
    said = f"of people resemble no other one of the set, says the {role}" if role else "nobody compared people"
    return Tile("uniqueness", share(value), said, "distinctness")


def _parity(facts: ReportFacts) -> Tile:
    balance = facts.manifest["figures"].get("balance") or {}
    value = (balance.get("summary") or {}).get("parity_min_to_max")
    said = "the least served group against the best served one; 1 is even"
    return Tile("balance parity", number(value, 3), said if known(value) else "no balance was asked for", "balance")


def _leaks(facts: ReportFacts) -> Tile:
    leakage = facts.manifest["figures"].get("leakage")
    found = leakage.get("found", {}) if isinstance(leakage, Mapping) else {}
    told = {role: row["compared"] for role, row in found.items() if isinstance(row["compared"], Mapping)}
    role = "auditor" if "auditor" in told else next(iter(sorted(told)), None)
    row = told[role].get("images to samples") if role else None
    if row is None:
        return Tile("leakage", number(None), "not compared with real people", "leakage")
    said = f"of {row['n']:,} pictures come too near to a real face of the galleries, says the {role}"
    return Tile("leakage", f"{row['flagged']:,}", said, "leakage")


def by_role(curves: Sequence[Curves]) -> dict[str, Curves]:
    """Return curves by the role of their recogniser."""
    return {c.role: c for c in curves}


def similarity(facts: ReportFacts) -> list[dict[str, Any]] | None:
    """Return, per recogniser, its plot, its thresholds with their letters and its calibration."""
    return [
        {
            "curves": c,
            "plot": plots.curves_plot(c),
            "thresholds": [(letter, t, odds(t.fmr)) for letter, t in plots.ruled(c.thresholds)],
        }
        for c in facts.curves
    ] or None


def errors(facts: ReportFacts) -> dict[str, Any] | None:
    """Return the plot of errors and its figures."""
    plot = plots.error_plot(facts.curves)
    return {"plot": plot, "curves": facts.curves} if facts.curves else None


def distinctness(facts: ReportFacts) -> tuple[Spread, ...] | None:
    """Return uniqueness, consistency and diversity per recogniser."""
    return facts.spread or None


def variation(facts: ReportFacts) -> dict[str, Any] | None:
    """Return every condition's bins, and by how much each cell misses its plan."""
    told = facts.manifest["figures"].get("variation") or ()
    if not told:
        return None
    cells = sorted({c["cell"] for one in told for c in one["cells"]})
    short = {(one["condition"], c["cell"]): c["largest_deficit_points"] for one in told for c in one["cells"]}
    return {
        "conditions": [{**one, "rows": [_bin(row, one["bins"]) for row in one["bins"]]} for one in told],
        "cells": [(cell, [short.get((one["condition"], cell)) for one in told]) for cell in cells],
    }


def _bin(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Interval]:
    """Return a bin with the bar of what was delivered and the mark of what was planned, on one scale for all bins."""
    top = max((max(r["planned"], r["delivered"]) for r in rows), default=0.0) or 1.0
    planned, delivered = (round(100 * row[name] / top, 2) for name in ("planned", "delivered"))
    said = f"planned {share(row['planned'])}, delivered {share(row['delivered'])}"
    return row, Interval(0.0, delivered, delivered, planned, said)


def measures(facts: ReportFacts) -> dict[str, Any] | None:
    """Return every measure with its plot and cells: quality, pose and what filters read first, attributes last."""
    place = {name: n for n, name in enumerate(FIRST_MEASURES)}
    split: dict[str, list[dict[str, Any]]] = {"quality": [], "others": [], "attributes": []}
    for m in sorted(facts.measures, key=lambda m: (place.get(m.name, len(place)), m.name)):
        group = "attributes" if "=" in m.name else "quality" if m.name in place or m.bounds else "others"
        split[group].append(_measure(m))
    if not split["quality"]:
        split["quality"], split["others"] = split["others"], []
    left = MOST_CELL_ROWS
    for one in (*split["quality"], *split["others"], *split["attributes"]):
        one["cut"] = len(one["rows"]) > left
        one["rows"] = [] if one["cut"] else one["rows"]
        left -= len(one["rows"])
    return split if facts.measures else None


def _measure(facts: MeasureFacts) -> dict[str, Any]:
    low, high = facts.edges[0], facts.edges[-1]
    across = plots.Scale(low, high if high > low else low + 1)
    rows = []
    for cell, (count, p5, p50, p95) in sorted(facts.by_cell.items()):
        there = all(known(v) for v in (p5, p50, p95))
        bar = Interval(across(p5), across(p95), across(p50), None, f"middle of {cell}") if there else None
        rows.append((cell, count, p5, p50, p95, bar))
    bounds = sorted(facts.bounds, key=lambda bound: bound[1])
    return {
        "facts": facts,
        "unit": UNITS.get(facts.unit, ""),
        "plot": plots.measure_plot(facts),
        "bounds": [(plots.letter(n), *bound) for n, bound in enumerate(bounds)],
        "rows": rows,
        "accepted": sum(facts.accepted),
        "refused": sum(facts.refused),
    }


def balance(facts: ReportFacts) -> dict[str, Any] | None:
    """Return cells and values with their intervals, and the figures of all cells together."""
    told = facts.manifest["figures"].get("balance") or {}
    rows = [row for row in told.get("cells", ()) if row["cell"] != "all"]
    if not rows:
        return None
    return {
        "by": told["by"],
        "cells": _shares(rows),
        "values": _shares(told.get("values", ())) if len(told["by"]) > 1 else [],
        "summary": told.get("summary") or {},
        "association": told.get("association", ()),
        "labellers": told.get("labellers", ()),
        "exact": told.get("exact"),
        "largest": told.get("largest_balanced"),
    }


def _shares(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Interval]]:
    """Return rows with their interval drawn on one scale, and the share that was asked for marked on it."""
    whole: Counter[str] = Counter()
    for row in rows:
        whole[row.get("field", "")] += row["asked"]
    wanted = [row["asked"] / whole[row.get("field", "")] if row["asked"] else 0.0 for row in rows]
    top = max([row["share_95"][1] for row in rows] + wanted, default=0.0) or 1.0
    out = []
    for row, asked in zip(rows, wanted, strict=True):
        low, high = row["share_95"]
        said = f"share {share(row['share'])}, between {share(low)} and {share(high)}, asked {share(asked)}"
        left, right, at, mark = (round(100 * value / top, 2) for value in (low, high, row["share"], asked))
        out.append((row, Interval(left, right, at, mark, said)))
    return out


def leakage(facts: ReportFacts) -> dict[str, Any] | None:
    """Return the table of how near the set comes to galleries of real people; None where nothing was screened."""
    told = facts.manifest["figures"].get("leakage")
    if not isinstance(told, Mapping) or "found" not in told:
        return None
    rows = [
        (role, what, row)
        for role, reader in sorted(told["found"].items())
        if isinstance(reader["compared"], Mapping)
        for what, row in sorted(reader["compared"].items())
    ]
    return {
        "rows": rows,
        "apart": [role for role, r in sorted(told["found"].items()) if not isinstance(r["compared"], Mapping)],
        "galleries": sorted((name, g) for name, g in told["galleries"].items() if name != CONTROL),
        "control": told["galleries"].get(CONTROL),
        "mode": told["mode"],
        "images_refused": told.get("images_refused", True),
        "copies": told["copies"] if isinstance(told["copies"], Mapping) else None,
    }


def thresholds(facts: ReportFacts) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Return what each filter of the version compared with, without what every filter has; `mode` if it observed."""
    told = facts.manifest["figures"].get("thresholds") or {}
    internal = ("epoch", "name")
    return [
        (name, [(k, v) for k, v in sorted(fields.items()) if k not in internal and not k.startswith("judges_")])
        for name, fields in sorted(told.items())
    ]
