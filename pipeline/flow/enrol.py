"""Enrolment: candidates are probed in units; the driver closes each round and decides who is enrolled.

A candidate is a vector, a few probe images, and what the judge and the measures say of them: a template, its
consistency, a cell. Balance and separation are decided here, on few images, before the expensive ones are made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.domain.balance import Targets, proposals, quotas
from pipeline.domain.calibration import Calibration
from pipeline.domain.conditions import slot_conditions
from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.recipe import Recipe, Threshold
from pipeline.domain.records import Cell, Float32, Identity, minted_key, template_of, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.separation import exact_cos, separate
from pipeline.domain.unit import Proposal, Stage, Unit
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.make import generate_fixed
from pipeline.flow.parts import Parts, embed_fixed, measure_fixed

INCONSISTENT = "probes_inconsistent"
EXPECTED_YIELD = 0.7
"""Share of proposals taken to be enrolled in the cell they were drawn towards, before any was measured."""


def draw_vector(parts: Parts, proposal: Proposal) -> Float32:
    """Return a candidate's vector, from its key alone."""
    key = Key(parts.recipe.seed, Stream.CANDIDATE_VECTOR, proposal.candidate)
    return parts.sampler.draw(Cell.parse(proposal.cell), key.generator())


def enrol_unit(unit: Unit, parts: Parts) -> Receipt:
    """Probe the unit's candidates, write one row for each, commit; return the receipt."""
    started_s = parts.clock.now_s()
    recipe, probes = parts.recipe, parts.recipe.enrol.probes
    vectors = np.stack([draw_vector(parts, p) for p in unit.proposals])
    asked = [(n, p.candidate, k) for n, p in enumerate(unit.proposals) for k in range(probes)]
    decoded = []
    for start in range(0, len(asked), parts.generator_batch):
        block = asked[start : start + parts.generator_batch]
        conditions = [
            slot_conditions(recipe.conditions, recipe.seed, Stream.PROBE_CONDITION, c, k) for _, c, k in block
        ]
        noise = [Key(recipe.seed, Stream.PROBE_NOISE, c, k) for _, c, k in block]
        faces = generate_fixed(parts, vectors[[n for n, _, _ in block]], conditions, noise)
        decoded.append(np.stack([parts.codec.decode(parts.codec.encode(face)) for face in faces]))
    images = np.concatenate(decoded)
    emb = embed_fixed(parts.judge, images, parts.judge_batch).reshape(len(unit.proposals), probes, -1)
    measures = measure_fixed(parts.measurers, images, parts.judge_batch)
    threshold = consistency_cos(recipe, parts.judge.calibration)
    rows = []
    for n, proposal in enumerate(unit.proposals):
        pooled = {k: float(v.reshape(-1, probes)[n].mean()) for k, v in measures.items()}
        quality = leave_one_out(emb[n])
        accepted = quality >= threshold
        rows.append(
            {
                "candidate": proposal.candidate,
                "cell_asked": proposal.cell,
                "probes": probes,
                "measures": {k: v for k, v in pooled.items() if "=" not in k},
                "posterior": {k: v for k, v in pooled.items() if "=" in k},
                "vector": vectors[n],
                "template": template_of(emb[n]),
                "quality": quality,
                "probe_keys": [minted_key(proposal.candidate, k, 0) for k in range(probes)],
                "accepted": accepted,
                "reasons": [] if accepted else [INCONSISTENT],
            }
        )
    files = parts.segments.write_probes(parts.store, unit.name, rows)
    counts = Counts.of((bool(r["accepted"]), False, tuple(r["reasons"])) for r in rows)
    receipt = receipt_of(unit, parts, counts, files, started_s)
    commit(parts, receipt)
    return receipt


def leave_one_out(emb_KE: Float32) -> float:
    """Return the mean cosine of each probe to the template of the others; 1 for a single probe."""
    count = len(emb_KE)
    if count == 1:
        return 1.0
    return float(np.mean([exact_cos(emb_KE[k], template_of(np.delete(emb_KE, k, axis=0))) for k in range(count)]))


def consistency_cos(recipe: Recipe, calibration: Calibration) -> float:
    """Return the least leave-one-out cosine at which probes count as one person."""
    if recipe.enrol.probes == 1:
        return -1.0
    kind_images = recipe.enrol.probes - 1
    return resolve(recipe.enrol.consistency, calibration, 1, kind_images)


def separation_cos(recipe: Recipe, calibration: Calibration, images: int) -> float:
    """Return the cosine at which two templates of this many images collide."""
    return resolve(recipe.enrol.separation, calibration, images, images)


def resolve(threshold: Threshold, calibration: Calibration, probe_images: int, reference_images: int) -> float:
    """Return a threshold as a cosine for templates of these sizes."""
    if threshold.cos is not None:
        return threshold.cos
    assert threshold.fmr is not None
    kind = calibration.kind(probe_images=probe_images, reference_images=reference_images)
    return calibration.threshold_cos(threshold.fmr, kind)


def cell_of(posterior: Mapping[str, float], targets: Targets) -> Cell:
    """Return the most probable cell: each field's most probable value, the earlier one on a tie."""
    return Cell(tuple(max(values, key=lambda v: posterior[f"{name}={v}"]) for name, values in targets.fields))


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where enrolment stands after some rounds.

    Attributes:
        identities: everyone enrolled so far, in ordinal order.
        quota: what each cell owes.
        wanted: quota plus reserve.
        yield_of: share of each cell's proposals that were enrolled in it.
        refused: candidates that were not enrolled, by reason.
        candidates: how many were proposed.
    """

    identities: tuple[Identity, ...]
    quota: Mapping[Cell, int]
    wanted: Mapping[Cell, int]
    yield_of: Mapping[Cell, float]
    refused: Mapping[str, int]
    candidates: int

    @property
    def have(self) -> dict[Cell, int]:
        """Return how many are enrolled per cell."""
        return dict(Counter(i.cell for i in self.identities))

    @property
    def complete(self) -> bool:
        """Return whether quota and reserve are there."""
        return all(self.have.get(c, 0) >= n for c, n in self.wanted.items())

    @property
    def sufficient(self) -> bool:
        """Return whether the quota alone is there."""
        return all(self.have.get(c, 0) >= n for c, n in self.quota.items())


def close_enrolment(
    recipe: Recipe, targets: Targets, calibration: Calibration, rows: Sequence[Mapping[str, Any]]
) -> Enrolment:
    """Decide who is enrolled, given the probe rows of all rounds so far.

    Candidates stand in the order of their numbers: of two that collide the later gives way.
    """
    ordered = sorted(rows, key=lambda r: r["candidate"])
    refused = Counter(reason for r in ordered for reason in r["reasons"])
    passed = [r for r in ordered if r["accepted"]]
    images = recipe.enrol.probes
    if passed:
        kept = separate(np.stack([r["template"] for r in passed]), separation_cos(recipe, calibration, images)).kept_N
        refused["template_collides"] += int((~kept).sum())
        passed = [r for r, k in zip(passed, kept, strict=True) if k]
    ranks: Counter[Cell] = Counter()
    identities = []
    for ordinal, row in enumerate(passed):
        cell = cell_of(row["posterior"], targets)
        identities.append(
            Identity(
                ordinal=ordinal,
                candidate=row["candidate"],
                cell=cell,
                rank=ranks[cell],
                vector_D=row["vector"],
                template_E=row["template"],
                template_images=images,
                quality=row["quality"],
            )
        )
        ranks[cell] += 1
    quota = _quota(targets, recipe.identities.count, ranks)
    wanted = {c: n + _reserve(n, recipe.enrol.reserve) for c, n in quota.items()}
    return Enrolment(
        identities=tuple(identities),
        quota=quota,
        wanted=wanted,
        yield_of=_yields(passed, ordered, targets),
        refused={k: v for k, v in sorted(refused.items()) if v},
        candidates=len(ordered),
    )


def _quota(targets: Targets, count: int, available: Mapping[Cell, int]) -> dict[Cell, int]:
    """Return quotas; marginal targets choose cells within what is enrolled, or without limit while that fails."""
    try:
        return quotas(targets, count, available)
    except TargetNotReachedError:
        return quotas(targets, count)


def _reserve(quota: int, share: float) -> int:
    return max(1, math.ceil(quota * share)) if quota and share else 0


def _yields(
    passed: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]], targets: Targets
) -> dict[Cell, float]:
    hits = Counter(r["cell_asked"] for r in passed if str(cell_of(r["posterior"], targets)) == r["cell_asked"])
    tried = Counter(r["cell_asked"] for r in asked)
    return {Cell.parse(name): hits[name] / number for name, number in tried.items()}


def plan_enrol_round(
    parts: Parts,
    round_number: int,
    first_unit: int,
    first_candidate: int,
    past: Sequence[Proposal],
    now: Enrolment | None,
) -> tuple[list[Unit], int]:
    """Return the units of an enrolment round, and how many candidates it numbered.

    Both follow from the recipe and from earlier rounds' outcomes alone. Candidates whose vector lies too near to that
    of an earlier one are not probed, and their numbers are not given again: a number stands for one vector.

    Args:
        parts: the ports.
        round_number: 0 for the first.
        first_unit: index of the round's first unit.
        first_candidate: number of the round's first candidate.
        past: every proposal of earlier rounds that was probed.
        now: where enrolment stands; None before the first round.
    """
    recipe = parts.recipe
    owed = now.wanted if now else _first_wanted(parts)
    yields = now.yield_of if now else dict.fromkeys(owed, EXPECTED_YIELD)
    have = now.have if now else {}
    cap = max(16, 4 * max(owed.values(), default=0))
    short = proposals(owed, have, yields, cap=cap)
    # cells take turns, so that units are alike and a killed one costs every cell the same
    turns = [(turn, c) for c, n in sorted(short.items()) for turn in range(n)]
    cells = [c for _, c in sorted(turns)]
    fresh = [Proposal(first_candidate + n, str(c)) for n, c in enumerate(cells)]
    if not fresh:
        return [], 0
    space_rows = unit_rows(np.stack([draw_vector(parts, p) for p in fresh]), "candidate vectors")
    before = unit_rows(np.stack([draw_vector(parts, p) for p in past]), "candidate vectors") if past else None
    kept = separate(space_rows, recipe.enrol.vector_separation_cos, kept_before_ME=before).kept_N
    probed = [p for p, k in zip(fresh, kept, strict=True) if k]
    size = recipe.enrol.unit_candidates
    units = [
        Unit(Stage.ENROL, 0, first_unit + n, round_number, proposals=tuple(probed[start : start + size]))
        for n, start in enumerate(range(0, len(probed), size))
    ]
    return units, len(fresh)


def _first_wanted(parts: Parts) -> dict[Cell, int]:
    quota = quotas(parts.targets, parts.recipe.identities.count)
    return {c: n + _reserve(n, parts.recipe.enrol.reserve) for c, n in quota.items()}


def require_sufficient(state: Enrolment, recipe: Recipe) -> None:
    """Raise TargetNotReachedError, with the yield per cell and the knob to turn, unless the quota is enrolled."""
    if state.sufficient:
        return
    have = state.have
    short = "; ".join(
        f"{c}: {have.get(c, 0)} of {n} (yield {100 * state.yield_of.get(c, 0.0):.0f} %)"
        for c, n in sorted(state.quota.items())
        if have.get(c, 0) < n
    )
    why = ", ".join(f"{name} {number}" for name, number in state.refused.items()) or "none"
    raise TargetNotReachedError(
        f"after {recipe.enrol.rounds} enrolment rounds and {state.candidates} candidates these cells are short: "
        f"{short}; refused: {why}; raise enrol.rounds, loosen enrol.separation or enrol.consistency, or change balance"
    )
