"""Rounds of making: who is worked on first, who filled, who gave way, and which reserve comes next.

Rounds are barriers: what round r + 1 holds follows from the recipe, the enrolment and the receipts of rounds up to r.
A generation's first round begins with the published identities that owe more images; they are never replaced, and
whatever happens they keep the images that are published.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.leakage import REASON as LEAKS
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Float32, Member, unit_rows
from pipeline.domain.separation import Separation, Separator, separate
from pipeline.domain.unit import Stage, Unit

HARVEST_COLUMNS = ("identity", "slot", "embedding", "accepted")
"""What the driver reads of a segment to close a round."""
USED_UP, COLLIDES, QUARANTINED = "attempts_used_up", "made_template_collides", "unit_quarantined"


@dataclass(frozen=True, slots=True)
class Harvest:
    """What a make unit brought in, identity by identity.

    Attributes:
        unit: its name.
        ordinals: whom it worked on.
        owed_N: int64, slots that each of them owed.
        filled_N: int64, how many were filled.
        template_NE: float32 unit rows of all accepted images, published ones included; NaN where there is no image.
        grown: whether its identities are published already.
    """

    unit: str
    ordinals: tuple[int, ...]
    owed_N: npt.NDArray[np.int64]
    filled_N: npt.NDArray[np.int64]
    template_NE: Float32
    grown: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """Where making stands after some rounds.

    Attributes:
        filled: new ordinals whose every slot is filled and that collide with nobody, in order of precedence.
        failed: new ordinal -> why it will not be published.
        open_cells: how many places each cell still has.
        unit_of: ordinal -> name of the unit that made its images of this generation.
        short: published ordinal -> how many of its new slots stayed empty.
        withdrawn: published ordinals whose new images would make them collide; they keep what they had.
    """

    filled: tuple[int, ...]
    failed: Mapping[int, str]
    open_cells: Mapping[Cell, int]
    unit_of: Mapping[int, str]
    short: Mapping[int, int] = field(default_factory=dict)
    withdrawn: frozenset[int] = frozenset()


def plan_make_round(
    recipe: Recipe,
    generation: int,
    round_number: int,
    first_unit: int,
    ordinals: Sequence[int],
    slots: tuple[int, int],
    siblings_of: str = "",
    open_slots: Mapping[int, tuple[int, ...]] | None = None,
) -> list[Unit]:
    """Return the make units of a round: ranges of its ordinals, all slots of an identity in one unit.

    `siblings_of` is the version that holds earlier images of the identities; `open_slots` are those that each owes,
    where it does not owe all of `slots`.
    """
    size = recipe.unit.identities
    units = []
    for n, start in enumerate(range(0, len(ordinals), size)):
        mine = tuple(ordinals[start : start + size])
        owes = tuple(open_slots[o] for o in mine) if open_slots else ()
        units.append(
            Unit(
                Stage.MAKE, generation, first_unit + n, round_number,
                ordinals=mine, slots=slots, open_slots=owes, siblings_of=siblings_of,
            )
        )  # fmt: skip
    return units


def next_in_line(members: Sequence[Member], used: set[int], places: Mapping[Cell, int]) -> list[int]:
    """Return who takes the open places: of each cell the lowest ranks that nobody worked on, in ordinal order."""
    waiting: dict[Cell, list[Member]] = defaultdict(list)
    for member in members:
        if places.get(member.cell, 0) and member.ordinal not in used:
            waiting[member.cell].append(member)
    chosen = [m for cell, mine in waiting.items() for m in sorted(mine, key=lambda m: m.rank)[: places[cell]]]
    return sorted(m.ordinal for m in chosen)


def harvest(unit: Unit, columns: Mapping[str, Any], published_sums: Mapping[int, npt.NDArray[np.float64]]) -> Harvest:
    """Return what a unit brought in.

    Args:
        unit: a make unit.
        columns: its rows' HARVEST_COLUMNS.
        published_sums: ordinal -> float64 sum of the published embeddings, of those that are published.
    """
    accepted = np.flatnonzero(columns["accepted"])
    # slot by slot: the order in which embeddings are added is part of a template
    accepted = accepted[np.lexsort((columns["slot"][accepted], columns["identity"][accepted]))]
    owner, emb = columns["identity"][accepted], columns["embedding"][accepted]
    filled, templates = [], []
    for ordinal in unit.ordinals:
        mine = emb[owner == ordinal].astype(np.float64)
        filled.append(len(mine))
        total = np.cumsum(mine, axis=0)[-1] if len(mine) else np.zeros(emb.shape[1])
        total = total + published_sums[ordinal] if ordinal in published_sums else total
        templates.append(
            unit_rows(total[None], f"template of identity {ordinal}")[0] if total.any() else total * np.nan
        )
    return Harvest(
        unit=unit.name,
        ordinals=unit.ordinals,
        owed_N=np.array([len(unit.slots_of(o)) for o in unit.ordinals], np.int64),
        filled_N=np.array(filled, np.int64),
        template_NE=np.array(templates, np.float32),
        grown=unit.adds,
    )


def close_round(
    cells: Mapping[int, Cell],
    quota: Mapping[Cell, int],
    harvests: Sequence[Harvest],
    lost: Mapping[int, int],
    published: tuple[Sequence[int], Float32],
    threshold_cos: float,
    leaking: frozenset[int] = frozenset(),
    *,
    apart: Separator = separate,
) -> Standing:
    """Return where making stands, given every unit of the generation's rounds so far.

    Templates of the accepted images are compared exhaustively: of a colliding pair the later by generation, round,
    then ordinal gives way.

    Args:
        cells: ordinal -> cell, of everybody enrolled.
        quota: places per cell, in all.
        harvests: what the units brought in, in the order of the plan.
        lost: ordinal -> slots that a quarantined unit should have made for it.
        published: ordinals in label order, and their templates (M, E).
        threshold_cos: the cosine at which two such templates collide.
        leaking: ordinals whose template comes too near to somebody of a gallery: they give way to everybody.
        apart: separates templates.
    """
    before, templates_ME = list(published[0]), published[1].copy()
    unit_of = {o: h.unit for h in harvests for o in h.ordinals}
    grown = [h for h in harvests if h.grown]
    short, withdrawn = _grow(before, templates_ME, grown, threshold_cos, leaking, apart)
    failed = {o: QUARANTINED for o in lost if o not in before}
    short |= {o: owed for o, owed in lost.items() if o in before}
    full: list[int] = []
    rows: list[Float32] = []
    for brought in harvests:
        for n, ordinal in enumerate(brought.ordinals if not brought.grown else ()):
            if brought.filled_N[n] < brought.owed_N[n]:
                failed[ordinal] = USED_UP
            elif ordinal in leaking:
                failed[ordinal] = LEAKS
            else:
                full.append(ordinal)
                rows.append(brought.template_NE[n])
    if full:
        kept = apart(np.stack(rows), threshold_cos, kept_before_ME=templates_ME if before else None).kept_N
        failed |= {o: COLLIDES for o, keeps in zip(full, kept, strict=True) if not keeps}
    filled = [o for o in full if o not in failed]
    count = Counter(cells[o] for o in [*before, *filled])
    open_cells = {c: n - count[c] for c, n in quota.items() if count[c] < n}
    return Standing(tuple(filled), failed, open_cells, unit_of, short, frozenset(withdrawn))


def _grow(
    before: Sequence[int],
    templates_ME: Float32,
    grown: Sequence[Harvest],
    threshold_cos: float,
    leaking: frozenset[int],
    apart: Separator,
) -> tuple[dict[int, int], list[int]]:
    """Put the templates of grown identities into `templates_ME`; return who is short, and whose growth is withdrawn."""
    if not grown:
        return {}, []
    place = {o: n for n, o in enumerate(before)}
    as_published = templates_ME.copy()
    short: dict[int, int] = {}
    for brought in grown:
        for n, ordinal in enumerate(brought.ordinals):
            if brought.filled_N[n] < brought.owed_N[n]:
                short[ordinal] = int(brought.owed_N[n] - brought.filled_N[n])
            templates_ME[place[ordinal]] = brought.template_NE[n]
    owed = {o: int(n) for h in grown for o, n in zip(h.ordinals, h.owed_N, strict=True)}
    withdrawn = [o for o in owed if o in leaking]
    for ordinal in withdrawn:
        templates_ME[place[ordinal]] = as_published[place[ordinal]]
        short[ordinal] = owed[ordinal]
    while gives_way := giving_way(
        apart(templates_ME, threshold_cos), [o in owed and o not in withdrawn for o in before]
    ):
        # as published again, it may be met by another that grew towards it: looked at anew
        for row in gives_way:
            templates_ME[row] = as_published[row]
            short[before[row]] = owed[before[row]]
            withdrawn.append(before[row])
    return short, withdrawn


def giving_way(found: Separation, grows: Sequence[bool]) -> list[int]:
    """Return the rows whose growth is taken back: the later of a pair, or the earlier where the later cannot."""
    out = set()
    for later in np.flatnonzero(~found.kept_N).tolist():
        earlier = int(found.collided_with_N[later])
        if grows[later] or grows[earlier]:
            out.add(later if grows[later] else earlier)
    return sorted(out)
