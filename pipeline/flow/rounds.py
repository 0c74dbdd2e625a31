"""Rounds of making: who is worked on first, who filled, who gave way, and which reserve comes next.

Rounds are barriers: what round r + 1 holds follows from the recipe, the enrolment and the receipts of rounds up to r.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Identity, template_of
from pipeline.domain.separation import separate
from pipeline.domain.unit import Stage, Unit

ROW_COLUMNS = ("key", "order", "identity", "slot", "attempt", "embedding", "accepted", "off_target", "reasons")
"""What the driver reads of a segment to close a round."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where making stands after some rounds.

    Attributes:
        filled: ordinals whose every slot is filled and that collide with nobody, in order of precedence.
        failed: ordinal -> why it will not be published.
        open_cells: how many places each cell still has.
        images: ordinal -> slot -> key of the image that fills it.
        unit_of: ordinal -> name of the unit that made it.
    """

    filled: tuple[int, ...]
    failed: Mapping[int, str]
    open_cells: Mapping[Cell, int]
    images: Mapping[int, Mapping[int, str]]
    unit_of: Mapping[int, str]


def first_choice(identities: Sequence[Identity], quota: Mapping[Cell, int]) -> list[int]:
    """Return the ordinals that are worked on first: the lowest ranks of each cell, in ordinal order."""
    return sorted(i.ordinal for i in identities if i.rank < quota.get(i.cell, 0))


def plan_make_round(recipe: Recipe, round_number: int, first_unit: int, ordinals: Sequence[int]) -> list[Unit]:
    """Return the make units of a round: ranges of its ordinals, all slots of an identity in one unit."""
    size = recipe.unit.identities
    slots = (0, recipe.identities.images_per_identity)
    return [
        Unit(Stage.MAKE, 0, first_unit + n, round_number, ordinals=tuple(ordinals[start : start + size]), slots=slots)
        for n, start in enumerate(range(0, len(ordinals), size))
    ]


def close_round(
    recipe: Recipe,
    identities: Mapping[int, Identity],
    quota: Mapping[Cell, int],
    units: Sequence[Unit],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    threshold_cos: float,
) -> Standing:
    """Return where making stands, given every unit of the rounds so far and their segments' rows.

    Templates of the accepted images are compared exhaustively: of a colliding pair the later by round, then ordinal,
    gives way.

    Args:
        recipe: the recipe.
        identities: enrolled identities by ordinal.
        quota: places per cell.
        units: every make unit so far, in order.
        rows: unit name -> its rows with ROW_COLUMNS.
        threshold_cos: the cosine at which two such templates collide.
    """
    images: dict[int, dict[int, str]] = {}
    templates = {}
    unit_of = {}
    failed: dict[int, str] = {}
    order: list[int] = []
    for unit in units:
        by_identity: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows[unit.name]:
            by_identity[row["identity"]].append(row)
        for ordinal in unit.ordinals:
            kept = sorted((r for r in by_identity[ordinal] if r["accepted"]), key=lambda r: r["slot"])
            unit_of[ordinal] = unit.name
            order.append(ordinal)
            if len(kept) < recipe.identities.images_per_identity:
                failed[ordinal] = "attempts_used_up"
                continue
            images[ordinal] = {r["slot"]: r["key"] for r in kept}
            templates[ordinal] = template_of(np.stack([r["embedding"] for r in kept]))
    full = [o for o in order if o not in failed]
    if full:
        outcome = separate(np.stack([templates[o] for o in full]), threshold_cos)
        for ordinal, keeps in zip(full, outcome.kept_N, strict=True):
            if not keeps:
                failed[ordinal] = "made_template_collides"
    filled = [o for o in full if o not in failed]
    count = Counter(identities[o].cell for o in filled)
    open_cells = {c: n - count[c] for c, n in quota.items() if count[c] < n}
    return Standing(tuple(filled), failed, open_cells, images, unit_of)


def replacements(identities: Sequence[Identity], worked: Sequence[int], open_cells: Mapping[Cell, int]) -> list[int]:
    """Return the next unused reserves of the cells that have open places, in ordinal order."""
    used = set(worked)
    out = []
    for cell, number in open_cells.items():
        unused = [i for i in identities if i.cell == cell and i.ordinal not in used]
        out += [i.ordinal for i in sorted(unused, key=lambda i: i.rank)[:number]]
    return sorted(out)
