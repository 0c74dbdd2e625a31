"""Cones for variation: a vector at an exact cosine from its identity's, and how wide cones may be without meeting.

The condition `vector_cos` asks for an image of somebody who lies that far from the identity's own vector. It is obeyed
by the flow, which turns the vector before the generator sees it, so every generator obeys it and none needs to know.

Two identities are separated by `enrol.vector_separation_cos` s: the angle between their vectors is larger than
arccos(s). Cones of half that angle around each therefore never meet, and whatever lies in one is nearer to its own
identity than to any other (the half-angle rule, with s in the place of the nearest identity's cosine).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pipeline.domain.errors import BadVectorError
from pipeline.domain.records import Conditions, Float32

VECTOR_COS = "vector_cos"
"""Reserved name of the condition: the cosine between the vector handed to the generator and the identity's own."""


def overlap_free_cos(separation_cos: float) -> float:
    """Return cos(arccos(s) / 2): cones at this cosine or nearer never meet where vectors are separated by s."""
    return math.sqrt((1.0 + separation_cos) / 2.0)


def on_cone(vector_D: Float32, target_cos: float, rng: np.random.Generator) -> Float32:
    """Return a float32 vector of the same length whose cosine to `vector_D` is `target_cos`, in a random direction.

    Computed in float64 and rounded once, so that the cosine is met to better than 1e-6. At a cosine of 1 the vector
    itself is returned, bit for bit.

    Raises:
        BadVectorError: the vector is not finite, has no length, or has one dimension only.
        ValueError: the cosine is outside [-1, 1].
    """
    if not -1.0 <= target_cos <= 1.0:
        raise ValueError(f"{VECTOR_COS} {target_cos}: a cosine lies in [-1, 1]")
    if target_cos == 1.0:
        return vector_D
    own = vector_D.astype(np.float64)
    length = math.sqrt(float(np.cumsum(own * own)[-1]))
    if not (math.isfinite(length) and length > 1e-12) or len(own) < 2:
        raise BadVectorError(f"a vector of length {length:.6g} and {len(own)} dimensions has no cone around it")
    unit = own / length
    across = _across(unit, rng)
    turned = target_cos * unit + math.sqrt(1.0 - target_cos**2) * across
    out: Float32 = (length * turned).astype(np.float32)
    return out


def _across(unit_D: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random unit vector at right angles to another, evenly over all of them."""
    side = rng.standard_normal(len(unit_D))
    # the part along the vector is taken away twice: once leaves what rounding put back
    for _ in range(2):
        side -= float(np.cumsum(side * unit_D)[-1]) * unit_D
    return np.asarray(side / math.sqrt(float(np.cumsum(side * side)[-1])))


def without_cone(conditions: Conditions) -> Conditions:
    """Return what is left for the generator to obey."""
    return {k: v for k, v in conditions.items() if k != VECTOR_COS} if VECTOR_COS in conditions else conditions


def names_for_generator(conditions: Mapping[str, object]) -> tuple[str, ...]:
    """Return the conditions of a recipe that its generator must obey."""
    return tuple(name for name in conditions if name != VECTOR_COS)
