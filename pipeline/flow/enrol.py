"""The enrol unit: candidate identities are probed with a few images each.

A candidate is a vector, a few probe images, and what the judge and the measures say of them: a template, its
consistency, a cell. Who is enrolled is decided when a round closes, in `admission`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.domain.balance import Targets
from pipeline.domain.calibration import Calibration
from pipeline.domain.conditions import slot_conditions
from pipeline.domain.leakage import REASON as LEAKS
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.recipe import Recipe, Threshold
from pipeline.domain.records import Cell, Float32, minted_key, template_of
from pipeline.domain.rng import Key, Stream
from pipeline.domain.separation import exact_cos
from pipeline.domain.unit import Proposal, Unit
from pipeline.flow.aligning import NO_FACE, aligned
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.judge import UNREADABLE
from pipeline.flow.make import generate_fixed
from pipeline.flow.parts import Parts, embed_each, finite_rows, measure_fixed

INCONSISTENT = "probes_inconsistent"
NEVER_cos = 2.0
"""No two vectors have this cosine."""


def draw_vector(parts: Parts, proposal: Proposal) -> Float32:
    """Return a candidate's vector, from its key alone."""
    key = Key(parts.recipe.seed, Stream.CANDIDATE_VECTOR, proposal.candidate)
    return parts.sampler.draw(proposal.candidate, Cell.parse(proposal.cell), key.generator())


def enrol_unit(unit: Unit, parts: Parts) -> Receipt:
    """Probe the unit's candidates, write one row for each, commit; return the receipt."""
    started_s = parts.clock.now_s()
    recipe, probes = parts.recipe, parts.recipe.enrol.probes
    vectors = np.stack([draw_vector(parts, p) for p in unit.proposals])
    asked = [(n, p.candidate, k) for n, p in enumerate(unit.proposals) for k in range(probes)]
    decoded, seen_faces = [], []
    for start in range(0, len(asked), parts.generator_batch):
        block = asked[start : start + parts.generator_batch]
        conditions = [
            slot_conditions(recipe.conditions, recipe.seed, Stream.PROBE_CONDITION, c, k) for _, c, k in block
        ]
        noise = [Key(recipe.seed, Stream.PROBE_NOISE, c, k) for _, c, k in block]
        faces, seen = aligned(parts, generate_fixed(parts, vectors[[n for n, _, _ in block]], conditions, noise))
        seen_faces.append(seen)
        decoded.append(np.stack([parts.codec.decode(parts.codec.encode(face)) for face in faces]))
    images = np.concatenate(decoded)
    flat, sound = embed_each(parts.judge, images, parts.judge_batch)
    emb = flat.reshape(len(unit.proposals), probes, -1)
    measures = measure_fixed(parts.measurers, images, parts.judge_batch)
    finite = sound & finite_rows(measures, len(images))
    screened: dict[str, Float32] = {}
    if parts.screen is not None:
        screened, seen = parts.screen.embedded(images, flat)
        finite &= seen
    found = np.all(np.concatenate(seen_faces).reshape(-1, probes), axis=1).tolist()
    readable = (np.all(finite.reshape(-1, probes), axis=1) & found).tolist()
    near = _near_galleries(parts, screened, np.flatnonzero(readable).tolist())
    threshold = consistency_cos(recipe, parts.judge.calibration)
    rows = []
    for n, proposal in enumerate(unit.proposals):
        if not readable[n]:
            rows.append(_unreadable(proposal, vectors[n], probes, UNREADABLE if found[n] else NO_FACE))
            continue
        pooled = {k: float(v.reshape(-1, probes)[n].mean()) for k, v in measures.items()}
        quality = leave_one_out(emb[n])
        reasons = [] if quality >= threshold or recipe.enrol.mode == "observe" else [INCONSISTENT]
        if parts.screen is not None and parts.screen.refuses and parts.screen.leaks(near[n], probes):
            reasons.append(LEAKS)
        rows.append(
            {
                "candidate": proposal.candidate,
                "cell_asked": proposal.cell,
                "probes": probes,
                "measures": {k: v for k, v in pooled.items() if "=" not in k} | near.get(n, {}),
                "posterior": {k: v for k, v in pooled.items() if "=" in k},
                "vector": vectors[n],
                "template": template_of(emb[n]),
                "quality": quality,
                "probe_keys": [minted_key(proposal.candidate, k, 0) for k in range(probes)],
                "accepted": not reasons,
                "reasons": reasons,
            }
        )
    files = parts.segments.write_probes(parts.store, unit.name, rows)
    counts = Counts.of((bool(r["accepted"]), False, tuple(r["reasons"])) for r in rows)
    receipt = receipt_of(unit, parts, counts, files, started_s)
    commit(parts, receipt)
    return receipt


def _near_galleries(parts: Parts, screened: Mapping[str, Float32], rows: list[int]) -> dict[int, dict[str, float]]:
    """Return how near the templates of these candidates come to the galleries; nothing where nothing is screened."""
    if parts.screen is None or not rows:
        return {}
    probes = parts.recipe.enrol.probes
    templates = {
        role: np.stack([template_of(emb[n * probes : (n + 1) * probes]) for n in rows])
        for role, emb in screened.items()
    }
    return dict(zip(rows, parts.screen.numbers(templates), strict=True))


def _unreadable(proposal: Proposal, vector_D: Float32, probes: int, why: str) -> dict[str, Any]:
    """Return the row of a candidate that has a probe without numbers: it has no template, and nothing to compare."""
    return {
        "candidate": proposal.candidate,
        "cell_asked": proposal.cell,
        "probes": probes,
        "measures": {},
        "posterior": {},
        "vector": vector_D,
        "template": None,
        "quality": None,
        "probe_keys": [minted_key(proposal.candidate, k, 0) for k in range(probes)],
        "accepted": False,
        "reasons": [why],
    }


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


def collision_cos(recipe: Recipe, calibration: Calibration, images: int) -> float:
    """Return the cosine at which of two such templates one gives way: that of `separation_cos`, or none is reached."""
    return NEVER_cos if recipe.enrol.mode == "observe" else separation_cos(recipe, calibration, images)


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
