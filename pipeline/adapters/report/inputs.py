"""The account of inputs, as a curated report shows it: what was listed, kept, refused, unreadable, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.adapters.report.funnel import bar

STAGES: Mapping[str, str] = {
    "read": "could not be read",
    "decode": "could not be decoded",
    "detect": "no face, or not the one meant",
    "align": "could not be cut",
    "measure": "no numbers",
    "clean": "cleaned out",
    "filter": "refused by a filter",
}


def inputs_view(counts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rows, bars and sums of the account; None of a dataset whose images were made."""
    told = counts.get("inputs")
    if told is None:
        return None
    listed, lost = told["listed"], told["refused"] + told["unreadable"]
    rows = [
        (name, told[name], bar(told[name], listed, "kept" if name in ("listed", "kept") else "refused"))
        for name in ("listed", "kept", "refused", "unreadable")
    ]
    reasons = [
        (STAGES.get(stage, stage), reason, number, bar(number, lost, "refused"))
        for stage in STAGES
        for reason, number in sorted(told["reasons"].get(stage, {}).items(), key=lambda e: (-e[1], e[0]))
    ]
    parts = f"{told['kept']:,} kept + {told['refused']:,} refused + {told['unreadable']:,} unreadable"
    summed = sum(number for _, _, number, _ in reasons)
    return {
        "rows": rows,
        "reasons": reasons,
        "sums": [
            (f"{listed:,} listed = {parts}", listed == told["kept"] + lost),
            (f"{lost:,} not kept = the sum over {len(reasons):,} reasons", lost == summed),
        ],
        "steps": list(counts.get("curated", ())),
        "sources": [s for s in counts.get("sources", ()) if "licence" in s],
        "since": next((s for s in counts.get("sources", ()) if "gone_since" in s), None),
    }
