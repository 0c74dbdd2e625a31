"""The account of inputs: every one ends as kept, refused or unreadable, and the three add up to what was listed.

An input is kept where at least one of its faces is published. What cleaning assigned and the filters refused is counted
under the filters' reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.intake import says_ai_made
from pipeline.domain.manifest import IndexRow
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.records import slot_of
from pipeline.flow.curating.listing import listed_again
from pipeline.flow.curating.outcomes import outcome_path
from pipeline.flow.curating.rows import UNREADABLE, WHERE
from pipeline.flow.curating.write import MARKS
from pipeline.flow.parts import Parts

NOT_PUBLISHED = "identity_not_published"
STAGES = (*WHERE, "clean", "filter")


def account_of(
    parts: Parts,
    tables: PlainTables,
    newest: int,
    rows: Sequence[IndexRow],
    left_out: Mapping[tuple[int, int], str] | None = None,
) -> dict[str, Any]:
    """Return how many inputs were listed up to a generation, kept, refused and unreadable, and why, by stage.

    Raises:
        StoreError: they do not add up.
    """
    standing = {(r.identity, slot_of(r.key)) for r in rows}
    listed = kept = refused = unreadable = 0
    why: Counter[tuple[str, str]] = Counter()
    # what a later listing has again is counted there
    again = listed_again(parts, newest + 1)
    for generation in range(newest + 1):
        if parts.store.size(outcome_path(generation)) is None:
            continue
        reasons = {**_reasons(parts, generation), **(left_out or {})}
        names = ["row", "stage", "reason", "identity", "slot"]
        held = tables.read(parts.store, outcome_path(generation), names)
        last = {}
        for row, stage, reason, identity, slot in zip(
            held["row"].tolist(), held["stage"], held["reason"], held["identity"].tolist(), held["slot"].tolist(),
            strict=True,
        ):  # fmt: skip
            if row in again:
                continue
            if (identity, slot) in standing:
                last[row] = ("", "")
            elif last.get(row) != ("", ""):
                told = ("filter", reasons.get((identity, slot), NOT_PUBLISHED))
                if identity < 0 or reason:
                    told = (stage, reason)
                last[row] = max(last.get(row, told), told, key=lambda t: STAGES.index(t[0]))
        listed += len(last)
        for stage, reason in last.values():
            kept += not stage
            unreadable += stage in UNREADABLE
            refused += bool(stage) and stage not in UNREADABLE
            if stage:
                why[stage, reason] += 1
    if kept + refused + unreadable != listed:
        raise StoreError(f"{listed} inputs, but {kept} kept, {refused} refused, {unreadable} unreadable: not published")
    by_stage: dict[str, dict[str, int]] = {}
    for (stage, reason), number in sorted(why.items(), key=lambda item: (STAGES.index(item[0][0]), item[0][1])):
        by_stage.setdefault(stage, {})[reason] = number
    return {"listed": listed, "kept": kept, "refused": refused, "unreadable": unreadable, "reasons": by_stage}


def ai_made_of(parts: Parts, rows: Sequence[IndexRow]) -> int:
    """Return how many published images say of themselves that a model made them."""
    keys: dict[str, set[str]] = {}
    for row in rows:
        keys.setdefault(row.segment, set()).add(row.key)
    found = 0
    for unit, mine in sorted(keys.items()):
        columns = parts.segments.read_columns(parts.store, unit, ["key", "sourced"])
        said = (dict(words).get(MARKS, "") for words in columns["sourced"])
        found += sum(k in mine and says_ai_made(words.split()) for k, words in zip(columns["key"], said, strict=True))
    return found


def _reasons(parts: Parts, generation: int) -> dict[tuple[int, int], str]:
    """Return (identity, slot) -> the first reason, of everything that write units of a generation refused."""
    out: dict[tuple[int, int], str] = {}
    prefix = f"receipts/make-g{generation}-"
    for path in parts.store.list(prefix):
        name = path.removeprefix("receipts/").removesuffix(".json")
        columns = parts.segments.read_columns(parts.store, name, ["identity", "slot", "accepted", "reasons"])
        for identity, slot, accepted, reasons in zip(
            columns["identity"].tolist(), columns["slot"].tolist(), columns["accepted"].tolist(), columns["reasons"],
            strict=True,
        ):  # fmt: skip
            if not accepted:
                out[identity, slot] = reasons[0]
    return out
