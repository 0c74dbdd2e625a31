"""Expressions as 55 numbers of the FLAME head model, drawn for an image by its own key.

The published adapter of Arc2Face takes 50 expression components, two eyelids and three angles of the jaw, and was shown
with those of photographs. Here nobody's photograph is needed: components are drawn. T. Li et al., "Learning a model of
facial shape and expression from 4D scans", ACM TOG 36(6), 2017.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.domain.records import Conditions, Float32
from pipeline.domain.rng import KEY_LIMIT, Key, Stream

COMPONENTS = 50
EXPRESSION_DIMENSIONS = 55
EXPRESSION_RANGES: Mapping[str, tuple[float, float]] = {
    "expression_draw": (0.0, 1.0),
    "expression_strength": (0.0, 3.0),
    "eyes_closed": (0.0, 1.0),
    "jaw_open_deg": (0.0, 30.0),
}
"""`expression_draw` says which expression: ask for it uniformly in [0, 1], and each slot has one of 2**32 of its own,
drawn with the slot's conditions and kept over its attempts. `expression_strength` is the standard deviation of its
components, 1 where only the draw is asked for."""


def expression_rows(conditions: Sequence[Conditions]) -> tuple[Float32, Float32]:
    """Return vectors for the adapter, float32, shape (N, 55), and 1 for each row that asks for one, shape (N,)."""
    vectors = np.stack([_vector(c) for c in conditions])
    given = np.array([any(name in c for name in EXPRESSION_RANGES) for c in conditions], np.float32)
    return vectors, given


def _vector(asked: Conditions) -> Float32:
    out = np.zeros(EXPRESSION_DIMENSIONS, np.float32)
    if "expression_draw" in asked:
        # 32 bits of a stratified condition are a seed: equal for every attempt of a slot, and another for other slots
        number = min(int(asked["expression_draw"] * KEY_LIMIT), KEY_LIMIT - 1)
        drawn = Key(number, Stream.EXPRESSION).generator().standard_normal(COMPONENTS, dtype=np.float32)
        out[:COMPONENTS] = np.float32(asked.get("expression_strength", 1.0)) * drawn
    out[COMPONENTS : COMPONENTS + 2] = asked.get("eyes_closed", 0.0)
    out[COMPONENTS + 2] = np.deg2rad(asked.get("jaw_open_deg", 0.0))
    return out
