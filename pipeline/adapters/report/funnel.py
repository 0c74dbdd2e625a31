"""The funnel as the report shows it: what became of every candidate, overall, by reason and by cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.domain.report import Funnel

NAMED_REASONS = 6
"""Reasons with a hatching of their own in the bars by cell; further ones share one."""
OTHERS = "other reasons"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar, in per cent of the bar's room; `style` is a class of the style sheet."""

    x: float
    width: float
    style: str
    said: str


def funnel_view(funnel: Funnel) -> dict[str, Any]:
    """Return rows, bars and sums of the funnel."""
    made, enrolment = funnel.candidates, dict(funnel.enrolment)
    return {
        "people": _people(enrolment),
        "people_reasons": sorted(dict(enrolment.get("reasons", {})).items(), key=lambda e: (-e[1], e[0])),
        "images": [
            ("made", made, bar(made, made, "kept")),
            ("refused", funnel.refused, bar(funnel.refused, made, "refused")),
            ("accepted", funnel.accepted, bar(funnel.accepted, made, "kept")),
            ("left out", funnel.left_out, bar(funnel.left_out, made, "spare")),
            ("published", funnel.published, bar(funnel.published, made, "kept")),
        ],
        "reasons": [
            (reason, first, ever, [*bar(first, funnel.refused, "refused"), *_rest(first, ever, funnel.refused)])
            for reason, first, ever in funnel.reasons
        ],
        "sums": _sums(funnel),
        "again": _again(funnel.judged_again),
        **_cells(funnel),
    }


def bar(part: int, whole: int, style: str) -> list[Part]:
    """Return the one piece of a bar that is a share of a whole."""
    return [Part(0.0, _percent(part, whole), style, f"{part:,}")] if part > 0 else []


def _rest(first: int, ever: int, whole: int) -> list[Part]:
    """Return the piece for images that were refused for another reason first, and for this one too."""
    if ever <= first:
        return []
    return [Part(_percent(first, whole), _percent(ever - first, whole), "also", f"{ever - first:,} more")]


def _people(enrolment: Mapping[str, Any]) -> list[tuple[str, int, list[Part]]]:
    if not enrolment.get("candidates"):
        return []
    drawn = enrolment["candidates"]
    probed = enrolment.get("probed", drawn)
    return [
        ("proposed", drawn, bar(drawn, drawn, "kept")),
        *([("tried with pictures", probed, bar(probed, drawn, "kept"))] if probed != drawn else []),
        ("refused", enrolment["refused"], bar(enrolment["refused"], drawn, "refused")),
        ("enrolled", enrolment["accepted"], bar(enrolment["accepted"], drawn, "kept")),
    ]


def _again(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what judging again came to; None where the version is judged as it was made."""
    if not told:
        return None
    reasons = [dict(told.get(name) or {}) for name in ("reasons", "left_out_by_reason")]
    names = sorted({*reasons[0], *reasons[1]}, key=lambda name: (-reasons[0].get(name, 0), name))
    return {
        **{name: told.get(name) for name in ("candidates", "accepted", "refused", "images_left_out")},
        "rows": [(name, reasons[0].get(name, 0), reasons[1].get(name, 0)) for name in names],
    }


def _sums(funnel: Funnel) -> list[tuple[str, bool]]:
    """Return what must add up, each with whether it does."""
    reasons = [first for _, first, _ in funnel.reasons]
    cells = sum(int(facts["candidates"]) for facts in funnel.by_cell.values())
    said = [
        (
            f"{funnel.candidates:,} made = {funnel.accepted:,} accepted + {funnel.refused:,} refused",
            funnel.candidates == funnel.accepted + funnel.refused,
        ),
        (
            f"{funnel.refused:,} refused = {' + '.join(f'{n:,}' for n in reasons) or '0'}, by first reason",
            funnel.refused == sum(reasons),
        ),
    ]
    if funnel.left_out:
        said.append(
            (
                f"{funnel.accepted:,} accepted = {funnel.published:,} published + {funnel.left_out:,} left out",
                funnel.accepted == funnel.published + funnel.left_out,
            )
        )
    if funnel.by_cell:
        equal = f"{funnel.candidates:,} made = the sum over {len(funnel.by_cell):,} cells"
        said.append((equal, funnel.candidates == cells))
    return said


def _cells(funnel: Funnel) -> dict[str, Any]:
    """Return a bar per cell, divided into what became of its images, and what the pieces mean."""
    total: Counter[str] = Counter()
    for facts in funnel.by_cell.values():
        total.update(facts["reasons"])
    ranked = sorted(total, key=lambda reason: (-total[reason], reason))
    named = ranked[:NAMED_REASONS]
    longest = max((int(facts["candidates"]) for facts in funnel.by_cell.values()), default=0)
    rows = [(cell, facts, _pieces(facts, named, longest)) for cell, facts in sorted(funnel.by_cell.items())]
    legend = [("kept", "published"), ("spare", "accepted, left out")]
    legend += [(f"r{n}", reason) for n, reason in enumerate(named)]
    legend += [("others", OTHERS)] if len(ranked) > len(named) else []
    seen = {part.style for _, _, parts in rows for part in parts}
    return {"cells": rows, "legend": [entry for entry in legend if entry[0] in seen]}


def _pieces(facts: Mapping[str, Any], named: Sequence[str], longest: int) -> list[Part]:
    reasons = dict(facts["reasons"])
    pieces = [("kept", "published", facts["published"])]
    pieces.append(("spare", "accepted, left out", facts["accepted"] - facts["published"]))
    pieces += [(f"r{n}", reason, reasons.get(reason, 0)) for n, reason in enumerate(named)]
    pieces.append(("others", OTHERS, sum(n for reason, n in reasons.items() if reason not in named)))
    out, left = [], 0
    for style, said, size in pieces:
        if size > 0:
            out.append(Part(_percent(left, longest), _percent(size, longest), style, f"{said}: {size:,}"))
            left += size
    return out


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
