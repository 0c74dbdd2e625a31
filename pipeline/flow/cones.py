"""The vectors handed to the generator: an identity's own, or one turned away from it where `vector_cos` asks for it.

Probes at enrolment are made from the identity's own vector whatever the recipe asks: a template stands for the
middle of its cone. The direction belongs to the slot: a retry changes the noise and leaves the vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.domain.cones import VECTOR_COS, on_cone
from pipeline.domain.records import Conditions, Float32
from pipeline.domain.rng import Key, Stream


def slot_vector(vector_D: Float32, conditions: Conditions, run_seed: int, identity: int, slot: int) -> Float32:
    """Return the vector of one slot of one identity, float32, shape (D,).

    Args:
        vector_D: the identity's own.
        conditions: what is asked of the slot; without `vector_cos` the own vector is returned.
        run_seed: the recipe's.
        identity: its ordinal.
        slot: the slot.
    """
    target_cos = conditions.get(VECTOR_COS)
    if target_cos is None:
        return vector_D
    # a quantile function may round to a hair above its upper bound
    return on_cone(vector_D, min(target_cos, 1.0), Key(run_seed, Stream.CONE, identity, slot).generator())


def slot_vectors(
    vectors: Sequence[Float32], conditions: Sequence[Conditions], run_seed: int, places: Sequence[tuple[int, int]]
) -> Float32:
    """Return vectors_ND for a batch; `places` are (identity ordinal, slot)."""
    return np.stack(
        [
            slot_vector(vector, asked, run_seed, identity, slot)
            for vector, asked, (identity, slot) in zip(vectors, conditions, places, strict=True)
        ]
    )
