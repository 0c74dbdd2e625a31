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

from pipeline.domain.balance import Targets, quotas
from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import RecipeError, TargetNotReachedError
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Float32, Identity, Member, unit_rows
from pipeline.domain.selection import fewest_more, rank_in_cell, stable_order
from pipeline.domain.separation import Separator, separate
from pipeline.domain.steering import LEAST_YIELD, Landings, steer
from pipeline.domain.unit import Proposal, Stage, Unit
from pipeline.flow.agreed import agreed_cell
from pipeline.flow.enrol import collision_cos, draw_vector
from pipeline.flow.parts import Parts
from pipeline.flow.shortfall import Shortfall, explain

COLLIDES = "template_collides"
TOO_NEAR = "vector_too_near"
"""Why a candidate was not probed: its vector lies at that of an earlier one."""
DISAGREE = "labellers_disagree"
"""Why a candidate has no cell: `balance.agreement` asks for more agreement than its labellers show."""
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
        for posterior, accepted in zip(columns["posterior"], columns["accepted"], strict=True):
            # a candidate whose probes have no numbers has no posterior either, and is accepted in no cell
            cell = agreed_cell(dict(posterior), targets) if posterior else NO_CELL
            self.cells.append(NO_CELL if cell is None else cell)
            self.accepted.append(bool(accepted) and cell is not None)
            if accepted and cell is None:
                self.reasons[DISAGREE] += 1
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
        enrolled: how many were ever enrolled, the erased too: no ordinal is given twice.
    """

    members: tuple[Member, ...] = ()
    templates_ME: Float32 | None = None
    vectors_PD: Float32 | None = None
    published: Mapping[Cell, int] = field(default_factory=dict)
    reserve: Mapping[Cell, int] = field(default_factory=dict)
    enrolled: int = 0


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where a generation's enrolment stands after some rounds.

    Attributes:
        identities: everyone that it enrolled so far, in ordinal order.
        have: identities per cell that are published, in reserve, or newly enrolled.
        quota: what each cell owes in all.
        wanted: quota plus reserve.
        refused: candidates that were not enrolled, by reason.
        candidates: how many were drawn.
        landed: cell asked -> cell read -> candidates of this generation that were enrolled there.
        tried: cell asked -> candidates of this generation that were probed.
        probed: candidates of all generations that were probed.
    """

    identities: tuple[Identity, ...]
    have: Mapping[Cell, int]
    quota: Mapping[Cell, int]
    wanted: Mapping[Cell, int]
    refused: Mapping[str, int]
    candidates: int
    landed: Landings
    tried: Mapping[Cell, int]
    probed: int

    @property
    def complete(self) -> bool:
        """Return whether quota and reserve are there."""
        return all(self.have.get(c, 0) >= n for c, n in self.wanted.items())

    @property
    def sufficient(self) -> bool:
        """Return whether the quota alone is there."""
        return all(self.have.get(c, 0) >= n for c, n in self.quota.items())


def close_enrolment(
    recipe: Recipe,
    targets: Targets,
    calibration: Calibration,
    probed: Probed,
    before: Before,
    too_near: int = 0,
    *,
    apart: Separator = separate,
) -> Enrolment:
    """Decide who is enrolled, given the probes of all rounds of this generation so far.

    `too_near` candidates were numbered and not probed, as their vectors lay at those of earlier ones. `apart` separates
    templates.
    """
    passed = [n for n, accepted in enumerate(probed.accepted) if accepted]
    refused = Counter(probed.reasons)
    refused[TOO_NEAR] += too_near
    templates = np.concatenate(probed.templates)[passed] if passed else np.empty((0, 0), np.float32)
    if passed:
        threshold = collision_cos(recipe, calibration, recipe.enrol.probes)
        kept = apart(templates, threshold, kept_before_ME=before.templates_ME).kept_N
        refused[COLLIDES] += int((~kept).sum())
        passed = [n for n, keeps in zip(passed, kept, strict=True) if keeps]
        templates = templates[kept]
    vectors = np.concatenate(probed.vectors)[passed] if passed else templates
    taken: Counter[Cell] = Counter()
    for member in before.members:
        # not their number: who was erased leaves a gap
        taken[member.cell] = max(taken[member.cell], member.rank + 1)
    ranks = _ranks(recipe, [probed.cells[n] for n in passed], [probed.quality[n] for n in passed],
                   [probed.candidates[n] for n in passed])  # fmt: skip
    first = max(before.enrolled, before.members[-1].ordinal + 1 if before.members else 0)
    identities = []
    for place, n in enumerate(passed):
        cell = probed.cells[n]
        identities.append(
            Identity(
                ordinal=first + place,
                candidate=probed.candidates[n],
                cell=cell,
                rank=taken[cell] + ranks[place],
                vector_D=vectors[place],
                template_E=templates[place],
                template_images=recipe.enrol.probes,
                quality=probed.quality[n],
            )
        )
    have = Counter(before.published) + Counter(before.reserve) + Counter(i.cell for i in identities)
    landed, tried = _landings(probed, passed)
    quota = quota_within(targets, recipe.identities.count, have, before.published, _prices(targets, landed, tried))
    return Enrolment(
        identities=tuple(identities),
        have=dict(have),
        quota=quota,
        wanted=_wanted(recipe, quota, before.published),
        refused={k: v for k, v in sorted(refused.items()) if v},
        candidates=len(probed.candidates) + too_near,
        landed=landed,
        tried=tried,
        probed=len(probed.candidates) + _rows(before.vectors_PD),
    )


def _ranks(recipe: Recipe, cells: Sequence[Cell], quality: Sequence[float], candidates: Sequence[int]) -> list[int]:
    """Return in which place of its cell each new identity is used: those whose probes agree best come first."""
    numbers = {c: n for n, c in enumerate(sorted(set(cells)))}
    order = stable_order(recipe.seed, np.array(candidates, np.uint64))
    ranks = rank_in_cell(np.array([numbers[c] for c in cells], np.int64), np.array(quality, float), order)
    return [int(r) for r in ranks]


def quota_within(
    targets: Targets,
    count: int,
    available: Mapping[Cell, int],
    published: Mapping[Cell, int],
    price: Mapping[Cell, float] | None = None,
) -> dict[Cell, int]:
    """Return quotas; marginal targets choose cells within what is enrolled, or, while that fails, beyond it.

    Beyond it they are the proportional table; or, with `price`, what one more identity of each cell costs in
    candidates, the table that costs least, so that a cell which hardly comes out holds nothing up that others can give.

    Raises:
        RecipeError: a cell would have to lose somebody who is published.
    """
    try:
        return quotas(targets, count, available, published)
    except TargetNotReachedError:
        if price is None:
            return quotas(targets, count, None, published)
        return fewest_more(targets, count, available, published, price)


def quota_among(
    targets: Targets, count: int, quota: Mapping[Cell, int], held: Mapping[Cell, int], waiting: Mapping[Cell, int]
) -> Mapping[Cell, int]:
    """Return quotas under which those who wait can take every open place; `quota` where there are none.

    Under marginal targets, or with a tolerance, the reserve of one cell so serves another that has none left.

    Args:
        targets: what balance asks for.
        count: identities in all.
        quota: what the cells owe so far.
        held: identities per cell that have their place.
        waiting: identities per cell that nobody worked on.
    """
    if targets.fixed:
        return quota
    try:
        return quotas(targets, count, {c: held.get(c, 0) + waiting.get(c, 0) for c in targets.cells}, held)
    except (TargetNotReachedError, RecipeError):
        return quota


def _prices(targets: Targets, landed: Landings, tried: Mapping[Cell, int]) -> dict[Cell, float]:
    """Return how many candidates one more identity of each cell takes, by what was measured."""
    out = {}
    for cell in targets.cells:
        share = landed.get(cell, {}).get(cell, 0) / tried[cell] if tried.get(cell) else EXPECTED_YIELD
        out[cell] = 1 / max(share, LEAST_YIELD)
    return out


def plan_enrol_round(
    parts: Parts,
    generation: int,
    round_number: int,
    first_unit: int,
    first_candidate: int,
    now: Enrolment | None,
    before: Before,
    probed: Probed,
    *,
    compared: bool = True,
) -> tuple[list[Unit], int]:
    """Return the units of an enrolment round, and how many candidates it numbered.

    Both follow from the recipe and from earlier rounds' outcomes alone. Candidates whose vector lies too near to that
    of an earlier one are not probed, and their numbers are not given again: a number stands for one vector. Where the
    recipe's budget ends the round is cut there, after a whole unit.

    Args:
        parts: the ports.
        generation: the growth step.
        round_number: 0 for the generation's first.
        first_unit: index of the round's first unit.
        first_candidate: number of the round's first candidate.
        now: where enrolment stands; None before the first round.
        before: what earlier generations left.
        probed: what this generation's earlier rounds found.
        compared: False reckons with every candidate, and neither draws a vector nor compares any: for plans of so many
            that this would take as long as it takes the run.
    """
    recipe = parts.recipe
    if now is None:
        have: Mapping[Cell, int] = Counter(before.published) + Counter(before.reserve)
        quota = quota_within(parts.targets, recipe.identities.count, have, before.published)
        owed: Mapping[Cell, int] = _wanted(recipe, quota, before.published)
        landed: Landings = {}
        tried: Mapping[Cell, int] = {}
    else:
        have, owed, landed, tried = now.have, now.wanted, now.landed, now.tried
    lacking = {c: max(0, n - have.get(c, 0)) for c, n in owed.items()}
    short = steer(lacking, landed, tried, expected=EXPECTED_YIELD, least_cap=_least_cap(owed))
    # cells take turns, so that units are alike and a killed one costs every cell the same
    turns = [(turn, c) for c, n in sorted(short.items()) for turn in range(n)]
    cells = [c for _, c in sorted(turns)]
    if parts.sampler.candidates is not None:  # a sampler that ends has no numbers beyond its last
        cells = cells[: max(0, parts.sampler.candidates - first_candidate)]
    fresh = [Proposal(first_candidate + n, str(c)) for n, c in enumerate(cells)]
    if not fresh:
        return [], 0
    probes = _apart(parts, fresh, before, probed) if compared else fresh
    left = _left(recipe, _rows(before.vectors_PD) + len(probed.candidates))
    numbered = len(fresh)
    if left is not None and left < len(probes):
        probes = probes[:left]
        numbered = probes[-1].candidate + 1 - first_candidate if probes else 0
    size = recipe.enrol.unit_candidates
    units = [
        Unit(Stage.ENROL, generation, first_unit + n, round_number, proposals=tuple(probes[start : start + size]))
        for n, start in enumerate(range(0, len(probes), size))
    ]
    return units, numbered


def _apart(parts: Parts, fresh: Sequence[Proposal], before: Before, probed: Probed) -> list[Proposal]:
    """Return the proposals whose vectors do not lie too near to those of earlier ones."""
    drawn = unit_rows(np.stack([draw_vector(parts, p) for p in fresh]), "candidate vectors")
    earlier = [*([] if before.vectors_PD is None else [before.vectors_PD]), *probed.vectors]
    past = unit_rows(np.concatenate(earlier), "candidate vectors") if earlier else None
    threshold = parts.recipe.enrol.vector_separation_cos
    kept = separate(drawn, threshold, kept_before_ME=past, product=parts.product()).kept_N
    return [p for p, k in zip(fresh, kept, strict=True) if k]


def require_sufficient(state: Enrolment, recipe: Recipe, used_up: int | None = None) -> None:
    """Raise TargetNotReachedError, with the yield per cell and the knob to turn, unless the quota is enrolled.

    `used_up` is how many candidates the sampler had, where all of them were proposed.
    """
    if state.sufficient:
        return
    end = Shortfall(
        have=state.have,
        quota=state.quota,
        landed=state.landed,
        tried=state.tried,
        refused=state.refused,
        candidates=state.candidates,
        rounds=recipe.enrol.rounds,
        least_cap=_least_cap(state.wanted),
        probed=state.probed,
        budget=recipe.enrol.budget,
        spent=_left(recipe, state.probed) == 0,
        used_up=used_up,
    )
    raise TargetNotReachedError(explain(end))


def _least_cap(owed: Mapping[Cell, int]) -> int:
    """Return how many proposals towards a cell a round may always hold."""
    return max(16, 4 * max(owed.values(), default=0))


def _left(recipe: Recipe, probed: int) -> int | None:
    """Return how many more candidates may be probed, in whole units, so that a raised budget finds them as they are."""
    if recipe.enrol.budget is None:
        return None
    size = recipe.enrol.unit_candidates
    return max(0, recipe.enrol.budget - probed) // size * size


def _wanted(recipe: Recipe, quota: Mapping[Cell, int], published: Mapping[Cell, int]) -> dict[Cell, int]:
    """Return quotas with a reserve for those whose images are still to be made."""
    return {c: n + _reserve(n - published.get(c, 0), recipe.enrol.reserve) for c, n in quota.items()}


def _reserve(places: int, share: float) -> int:
    return max(1, math.ceil(places * share)) if places > 0 and share else 0


def _landings(probed: Probed, passed: Sequence[int]) -> tuple[dict[Cell, dict[Cell, int]], dict[Cell, int]]:
    """Return what was enrolled, by the cell asked and the cell read, and how many candidates were tried per cell."""
    landed: dict[Cell, dict[Cell, int]] = {}
    for n in passed:
        row = landed.setdefault(Cell.parse(probed.asked[n]), {})
        row[probed.cells[n]] = row.get(probed.cells[n], 0) + 1
    return landed, {Cell.parse(name): number for name, number in sorted(Counter(probed.asked).items())}


def _rows(vectors_PD: Float32 | None) -> int:
    return 0 if vectors_PD is None else len(vectors_PD)
