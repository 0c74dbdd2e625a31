"""Admission: the driver closes a round of enrolment and decides who is enrolled, and whom the next round proposes.

Balance and separation are decided here, on few images per candidate, before the expensive ones are made. Candidates
stand in the order of their numbers, after everybody of earlier generations: of two that collide the later gives way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.domain.balance import Targets, proposals, quotas
from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Float32, Identity, Member, unit_rows
from pipeline.domain.separation import separate
from pipeline.domain.unit import Proposal, Stage, Unit
from pipeline.flow.enrol import cell_of, draw_vector, separation_cos
from pipeline.flow.parts import Parts

COLLIDES = "template_collides"
TOO_NEAR = "vector_too_near"
"""Why a candidate was not probed: its vector lies at that of an earlier one."""
EXPECTED_YIELD = 0.7
"""Share of proposals taken to be enrolled in the cell they were drawn towards, before any was measured."""
NO_CELL = Cell(())
PROBE_COLUMNS = ("candidate", "cell_asked", "posterior", "vector", "template", "quality", "accepted", "reasons")


@dataclass(slots=True)
class Probed:
    """What the enrol units of a generation found, candidate by candidate in the order of their numbers."""

    candidates: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    vectors: list[Float32] = field(default_factory=list)
    """Blocks of shape (n, D)."""
    templates: list[Float32] = field(default_factory=list)
    """Blocks of shape (n, E)."""

    def add(self, columns: Mapping[str, Any], targets: Targets) -> None:
        """Take in the rows of one unit, with PROBE_COLUMNS."""
        self.candidates += [int(c) for c in columns["candidate"]]
        self.asked += columns["cell_asked"]
        # a candidate whose probes have no numbers has no posterior either, and is accepted in no cell
        self.cells += [cell_of(dict(p), targets) if p else NO_CELL for p in columns["posterior"]]
        self.accepted += [bool(a) for a in columns["accepted"]]
        self.quality += [float(q) for q in columns["quality"]]
        for reasons in columns["reasons"]:
            self.reasons.update(reasons)
        self.vectors.append(columns["vector"])
        self.templates.append(columns["template"])


@dataclass(frozen=True, slots=True)
class Before:
    """What earlier generations hold that this one must not collide with, and may use.

    Attributes:
        members: everybody enrolled before.
        templates_ME: their templates; None where there are none.
        vectors_PD: the vectors of everybody probed before; None where there are none.
        published: identities published per cell.
        reserve: identities per cell that are enrolled and were never worked on.
    """

    members: tuple[Member, ...] = ()
    templates_ME: Float32 | None = None
    vectors_PD: Float32 | None = None
    published: Mapping[Cell, int] = field(default_factory=dict)
    reserve: Mapping[Cell, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where a generation's enrolment stands after some rounds.

    Attributes:
        identities: everyone that it enrolled so far, in ordinal order.
        have: identities per cell that are published, in reserve, or newly enrolled.
        quota: what each cell owes in all.
        wanted: quota plus reserve.
        yield_of: share of each cell's proposals that were enrolled in it.
        refused: candidates that were not enrolled, by reason.
        candidates: how many were drawn.
    """

    identities: tuple[Identity, ...]
    have: Mapping[Cell, int]
    quota: Mapping[Cell, int]
    wanted: Mapping[Cell, int]
    yield_of: Mapping[Cell, float]
    refused: Mapping[str, int]
    candidates: int

    @property
    def complete(self) -> bool:
        """Return whether quota and reserve are there."""
        return all(self.have.get(c, 0) >= n for c, n in self.wanted.items())

    @property
    def sufficient(self) -> bool:
        """Return whether the quota alone is there."""
        return all(self.have.get(c, 0) >= n for c, n in self.quota.items())


def close_enrolment(
    recipe: Recipe, targets: Targets, calibration: Calibration, probed: Probed, before: Before, too_near: int = 0
) -> Enrolment:
    """Decide who is enrolled, given the probes of all rounds of this generation so far.

    `too_near` candidates were numbered and not probed, as their vectors lay at those of earlier ones.
    """
    passed = [n for n, accepted in enumerate(probed.accepted) if accepted]
    refused = Counter(probed.reasons)
    refused[TOO_NEAR] += too_near
    templates = np.concatenate(probed.templates)[passed] if passed else np.empty((0, 0), np.float32)
    if passed:
        threshold = separation_cos(recipe, calibration, recipe.enrol.probes)
        kept = separate(templates, threshold, kept_before_ME=before.templates_ME).kept_N
        refused[COLLIDES] += int((~kept).sum())
        passed = [n for n, keeps in zip(passed, kept, strict=True) if keeps]
        templates = templates[kept]
    vectors = np.concatenate(probed.vectors)[passed] if passed else templates
    ranks: Counter[Cell] = Counter(m.cell for m in before.members)
    first = before.members[-1].ordinal + 1 if before.members else 0
    identities = []
    for place, n in enumerate(passed):
        cell = probed.cells[n]
        identities.append(
            Identity(
                ordinal=first + place,
                candidate=probed.candidates[n],
                cell=cell,
                rank=ranks[cell],
                vector_D=vectors[place],
                template_E=templates[place],
                template_images=recipe.enrol.probes,
                quality=probed.quality[n],
            )
        )
        ranks[cell] += 1
    have = Counter(before.published) + Counter(before.reserve) + Counter(i.cell for i in identities)
    quota = quota_within(targets, recipe.identities.count, have, before.published)
    return Enrolment(
        identities=tuple(identities),
        have=dict(have),
        quota=quota,
        wanted=_wanted(recipe, quota, before.published),
        yield_of=_yields(probed, passed),
        refused={k: v for k, v in sorted(refused.items()) if v},
        candidates=len(probed.candidates) + too_near,
    )


def quota_within(
    targets: Targets, count: int, available: Mapping[Cell, int], published: Mapping[Cell, int]
) -> dict[Cell, int]:
    """Return quotas; marginal targets choose cells within what is enrolled, or without limit while that fails.

    Raises:
        RecipeError: a cell would have to lose somebody who is published.
    """
    try:
        return quotas(targets, count, available, published)
    except TargetNotReachedError:
        return quotas(targets, count, None, published)


def plan_enrol_round(
    parts: Parts,
    generation: int,
    round_number: int,
    first_unit: int,
    first_candidate: int,
    now: Enrolment | None,
    before: Before,
    probed: Probed,
) -> tuple[list[Unit], int]:
    """Return the units of an enrolment round, and how many candidates it numbered.

    Both follow from the recipe and from earlier rounds' outcomes alone. Candidates whose vector lies too near to that
    of an earlier one are not probed, and their numbers are not given again: a number stands for one vector.

    Args:
        parts: the ports.
        generation: the growth step.
        round_number: 0 for the generation's first.
        first_unit: index of the round's first unit.
        first_candidate: number of the round's first candidate.
        now: where enrolment stands; None before the first round.
        before: what earlier generations left.
        probed: what this generation's earlier rounds found.
    """
    recipe = parts.recipe
    if now is None:
        have: Mapping[Cell, int] = Counter(before.published) + Counter(before.reserve)
        quota = quota_within(parts.targets, recipe.identities.count, have, before.published)
        owed: Mapping[Cell, int] = _wanted(recipe, quota, before.published)
        yields: Mapping[Cell, float] = dict.fromkeys(owed, EXPECTED_YIELD)
    else:
        have, owed, yields = now.have, now.wanted, now.yield_of
    cap = max(16, 4 * max(owed.values(), default=0))
    short = proposals(owed, have, yields, cap=cap)
    # cells take turns, so that units are alike and a killed one costs every cell the same
    turns = [(turn, c) for c, n in sorted(short.items()) for turn in range(n)]
    cells = [c for _, c in sorted(turns)]
    fresh = [Proposal(first_candidate + n, str(c)) for n, c in enumerate(cells)]
    if not fresh:
        return [], 0
    drawn = unit_rows(np.stack([draw_vector(parts, p) for p in fresh]), "candidate vectors")
    earlier = [*([] if before.vectors_PD is None else [before.vectors_PD]), *probed.vectors]
    past = unit_rows(np.concatenate(earlier), "candidate vectors") if earlier else None
    kept = separate(drawn, recipe.enrol.vector_separation_cos, kept_before_ME=past).kept_N
    probes = [p for p, k in zip(fresh, kept, strict=True) if k]
    size = recipe.enrol.unit_candidates
    units = [
        Unit(Stage.ENROL, generation, first_unit + n, round_number, proposals=tuple(probes[start : start + size]))
        for n, start in enumerate(range(0, len(probes), size))
    ]
    return units, len(fresh)


def require_sufficient(state: Enrolment, recipe: Recipe) -> None:
    """Raise TargetNotReachedError, with the yield per cell and the knob to turn, unless the quota is enrolled."""
    if state.sufficient:
        return
    short = "; ".join(
        f"{c}: {state.have.get(c, 0)} of {n} (yield {100 * state.yield_of.get(c, 0.0):.0f} %)"
        for c, n in sorted(state.quota.items())
        if state.have.get(c, 0) < n
    )
    why = ", ".join(f"{name} {number}" for name, number in state.refused.items()) or "none"
    raise TargetNotReachedError(
        f"after {recipe.enrol.rounds} enrolment rounds and {state.candidates} candidates these cells are short: "
        f"{short}; refused: {why}; raise enrol.rounds and run again, or, with another --out, loosen enrol.separation, "
        "enrol.vector_separation_cos or enrol.consistency, or change balance"
    )


def _wanted(recipe: Recipe, quota: Mapping[Cell, int], published: Mapping[Cell, int]) -> dict[Cell, int]:
    """Return quotas with a reserve for those whose images are still to be made."""
    return {c: n + _reserve(n - published.get(c, 0), recipe.enrol.reserve) for c, n in quota.items()}


def _reserve(places: int, share: float) -> int:
    return max(1, math.ceil(places * share)) if places > 0 and share else 0


def _yields(probed: Probed, passed: Sequence[int]) -> dict[Cell, float]:
    hits = Counter(probed.asked[n] for n in passed if str(probed.cells[n]) == probed.asked[n])
    tried = Counter(probed.asked)
    return {Cell.parse(name): hits[name] / number for name, number in tried.items()}
