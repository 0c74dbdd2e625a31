"""Numbers that recipes ask for, by name -> what networks take: guidance, heads to look at, expressions.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.domain.errors import BadVectorError, SpaceMismatchError
from pipeline.domain.records import Conditions, Float32
from pipeline.domain.space import Space

GUIDANCE = "guidance"
GUIDANCE_RANGE = (1.0, 20.0)


def guidance_of(conditions: Sequence[Conditions], default: float) -> Float32 | None:
    """Return the scale of each row, float32, shape (N,); None where the recipe runs without guidance."""
    if default <= 1.0:
        return None
    return np.array([c.get(GUIDANCE, default) for c in conditions], np.float32)


def guidance_range(default: float) -> Mapping[str, tuple[float, float]]:
    """Return the condition by which a row's guidance is asked for; nothing where the recipe runs without."""
    return {GUIDANCE: GUIDANCE_RANGE} if default > 1.0 else {}


def unit_vectors(vectors_ND: Float32, space: Space) -> Float32:
    """Return identity vectors as C-contiguous float32, after checking that they can be of a space of unit vectors.

    Raises:
        SpaceMismatchError: they have another length, or are a recogniser's bare output.
        BadVectorError: a row is NaN, infinite or zero.
    """
    rows = np.ascontiguousarray(vectors_ND, np.float32)
    if rows.ndim != 2 or rows.shape[1] != space.dimensions:
        raise SpaceMismatchError(
            f"got vectors of shape {rows.shape} where {space.name!r} has {space.dimensions} dimensions; embed the "
            "images again with the recogniser of this space"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 1e-6)))
    if bad.size:
        raise BadVectorError(
            f"identity vectors: row {bad[0]} has length {lengths[bad[0]]:.6g} ({bad.size} of {len(rows)} rows); give "
            "finite vectors of unit length"
        )
    if (np.abs(lengths - 1.0) > 1e-3).any():
        row = int(np.argmax(np.abs(lengths - 1.0)))
        raise SpaceMismatchError(
            f"got a vector of length {lengths[row]:.4g} in row {row} where {space.name!r} has unit vectors; vectors of "
            "a raw space are another space's, or have to be scaled to unit length first"
        )
    return rows
