"""Exact greedy separation: keep a vector if it collides with nothing kept before it.

A pair collides when the float64 dot product of its float32 unit vectors, summed in index order, is >= t.
Blocked float32 products decide wherever they lie further from t than their proven rounding error; the float64
product decides the rest. So neither block size nor device nor increment can change the kept set.

The error bound is Higham's, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1:
|fl(x.y) - x.y| <= g |x||y| with g = n u / (1 - n u), for any order of summation, u = 2**-24 for float32. A
product handed in must therefore compute in full float32 (on a GPU: TF32 off).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import Float32, require_unit_rows

Product = Callable[[Float32, Float32], Float32]
"""(A, E), (B, E) -> (A, B) float32 dot products."""

BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Separation:
    """The outcome of a greedy pass.

    Attributes:
        kept_N: bool, which of the new rows stay.
        collided_with_N: int64, index of the first kept row that a refused row collides with (earlier kept rows
            count from 0, new rows from `len(kept_before)`); -1 where kept.
        cos_N: float64, the colliding cosine; NaN where kept.
    """

    kept_N: npt.NDArray[np.bool_]
    collided_with_N: npt.NDArray[np.int64]
    cos_N: npt.NDArray[np.float64]


def exact_cos(a_E: Float32, b_E: Float32) -> float:
    """Return the float64 dot product of two float32 vectors, summed in index order."""
    return float(np.cumsum(a_E.astype(np.float64) * b_E.astype(np.float64))[-1])


def rounding_margin(dimensions: int) -> float:
    """Return the largest error of a float32 dot product of two unit vectors, in any summation order.

    Rows may be longer than 1 by the unit tolerance; doubling covers that and the rounding of t itself.
    """
    nu = dimensions * 2.0**-24
    return 2.0 * nu / (1.0 - nu)


def separate(
    new_NE: Float32,
    threshold_cos: float,
    *,
    kept_before_ME: Float32 | None = None,
    product: Product | None = None,
    block: int = BLOCK,
) -> Separation:
    """Keep each new row, in order, unless it collides with a row kept before it.

    Args:
        new_NE: float32 unit rows in order of precedence.
        threshold_cos: t in (-1, 1]; a cosine >= t is a collision.
        kept_before_ME: rows that stand whatever happens; they are not compared with each other.
        product: float32 matrix product, e.g. on a torch device; numpy by default.
        block: rows per product; memory is block x block.
    """
    new = require_unit_rows(new_NE, "separation")
    before = np.empty((0, new.shape[1]), np.float32)
    if kept_before_ME is not None:
        before = require_unit_rows(kept_before_ME, "separation")
    multiply = product or _numpy_product
    count, offset = len(new), len(before)
    partner = np.full(count, -1, np.int64)
    cos = np.full(count, np.nan)
    for start in range(0, count, block):
        rows = np.arange(start, min(start + block, count))
        for other in range(0, offset, block):
            refs = np.arange(other, min(other + block, offset))
            open_rows = rows[partner[rows] < 0]
            _mark(new, open_rows, before, refs, refs, threshold_cos, multiply, partner, cos)
        for other in range(0, start, block):
            refs = np.arange(other, other + block)
            refs = refs[partner[refs] < 0]
            open_rows = rows[partner[rows] < 0]
            _mark(new, open_rows, new, refs, refs + offset, threshold_cos, multiply, partner, cos)
        _within(new, rows, offset, threshold_cos, multiply, partner, cos)
    return Separation(kept_N=partner < 0, collided_with_N=partner, cos_N=cos)


def max_cos_to_others(
    probes_NE: Float32, templates_ME: Float32, own_N: npt.NDArray[np.int64]
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Return, for each probe, the largest cosine to a template that is not its own, and that template's row.

    `own_N` holds each probe's own template row, or -1 where it has none among `templates_ME`. With no other
    template the cosine is -1 and the row -1. The value is the float64 cosine of the float32 winner, rounded
    once, so it does not depend on how many templates share the product.
    """
    probes = require_unit_rows(probes_NE, "nearest other")
    best = np.full(len(probes), -1.0, np.float32)
    row = np.full(len(probes), -1, np.int64)
    for i, probe in enumerate(probes):
        cos = templates_ME @ probe
        if own_N[i] >= 0:
            cos[own_N[i]] = -np.inf
        margin = rounding_margin(probes.shape[1])
        close = np.flatnonzero(cos >= cos.max(initial=-np.inf) - 2 * margin)
        close = close[np.isfinite(cos[close])]
        if close.size:
            exact = [exact_cos(templates_ME[j], probe) for j in close]
            winner = int(np.argmax(exact))
            best[i], row[i] = exact[winner], close[winner]
    return best, row


def _numpy_product(a_AE: Float32, b_BE: Float32) -> Float32:
    out: Float32 = a_AE @ b_BE.T
    return out


def _decide(
    product_AB: Float32, a_AE: Float32, b_BE: Float32, threshold_cos: float
) -> tuple[npt.NDArray[np.bool_], dict[tuple[int, int], float]]:
    """Return which pairs collide, and the exact cosine of the pairs that float32 could not decide."""
    margin = rounding_margin(a_AE.shape[1])
    product64 = product_AB.astype(np.float64)
    hit = product64 >= threshold_cos
    exact: dict[tuple[int, int], float] = {}
    for i, j in np.argwhere(np.abs(product64 - threshold_cos) <= margin):
        cos = exact_cos(a_AE[i], b_BE[j])
        exact[(int(i), int(j))] = cos
        hit[i, j] = cos >= threshold_cos
    return hit, exact


def _mark(
    new: Float32,
    rows: npt.NDArray[np.int64],
    refs_from: Float32,
    refs: npt.NDArray[np.int64],
    names: npt.NDArray[np.int64],
    threshold_cos: float,
    multiply: Product,
    partner: npt.NDArray[np.int64],
    cos: npt.NDArray[np.float64],
) -> None:
    """Refuse every open row that collides with one of `refs`, naming the first."""
    if not rows.size or not refs.size:
        return
    a, b = new[rows], refs_from[refs]
    hit, _ = _decide(multiply(a, b), a, b, threshold_cos)
    for i in np.flatnonzero(hit.any(axis=1)):
        j = int(np.argmax(hit[i]))
        partner[rows[i]] = names[j]
        cos[rows[i]] = exact_cos(a[i], b[j])


def _within(
    new: Float32,
    rows: npt.NDArray[np.int64],
    offset: int,
    threshold_cos: float,
    multiply: Product,
    partner: npt.NDArray[np.int64],
    cos: npt.NDArray[np.float64],
) -> None:
    """Run the greedy pass inside one block: a row is compared with the rows of the block kept before it."""
    a = new[rows]
    hit, _ = _decide(multiply(a, a), a, a, threshold_cos)
    for i in range(len(rows)):
        if partner[rows[i]] >= 0:
            continue
        earlier = np.flatnonzero(hit[i, :i] & (partner[rows[:i]] < 0))
        if earlier.size:
            partner[rows[i]] = offset + rows[earlier[0]]
            cos[rows[i]] = exact_cos(a[i], a[earlier[0]])
