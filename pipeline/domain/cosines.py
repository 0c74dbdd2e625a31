"""The cosine that decides, and block products that find the few pairs it has to be computed for.

A pair's cosine is the float64 dot product of its two float32 unit vectors, summed in index order. It is too slow to
compute for every pair, so a block product names the *contenders*: every pair whose cosine may reach a floor, by a
faster product and a proven bound on that product's error. The contenders alone are decided by the definition. So no
block size, device, library or precision can change a result; they change only how many contenders there are.

The bound of a float32 product is Higham's, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1:
|fl(x.y) - x.y| <= g |x||y| with g = n u / (1 - n u), for any order of summation, u = 2**-24.

Legend: A rows of one block, B rows of the other, E dimensions, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import Float32

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Pairs = tuple[Int64, Int64]
"""Rows of the one block and of the other, each int64 of shape (P,), ordered by the first and then the second."""

PAIRS_AT_ONCE = 4096
"""Exact cosines computed together: their float64 products are what has to fit into memory."""


class BlockProduct(Protocol):
    """Names the pairs of two blocks whose cosine may reach a floor, wherever and however it computes."""

    block: tuple[int, int]
    """How many rows of the one and of the other it likes to be handed at once."""

    def hold(self, rows_BE: Float32) -> Any:
        """Return unit rows as `contenders` wants them, e.g. in a device's memory."""
        ...

    def contenders(self, held_AE: Any, held_BE: Any, floor_cos: float) -> Pairs:
        """Return at least every pair whose exact cosine is >= `floor_cos`, ordered."""
        ...


class NumpyProduct:
    """Implements `BlockProduct` by float32 products on the CPU."""

    block = (1024, 1024)

    def __init__(self, multiply: Callable[[Float32, Float32, Float32], object] | None = None) -> None:
        """Take another `multiply(a_AE, b_EB, out_AB)` where wanted: in full float32, in any order of summation."""
        self._multiply = multiply or _into
        self._scratch = np.empty(0, np.float32)

    def hold(self, rows_BE: Float32) -> Float32:
        """Return the rows: they are where they are needed."""
        return rows_BE

    def contenders(self, held_AE: Float32, held_BE: Float32, floor_cos: float) -> Pairs:
        """Return the pairs whose float32 product is not further below the floor than its rounding error."""
        product_AB = self.product(held_AE, held_BE)
        floor = float32_below(floor_cos - rounding_margin(held_AE.shape[1]))
        # one pass over what is still in the cache; far apart is what nearly all blocks are
        if product_AB.size == 0 or product_AB.max() < floor:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows, columns = np.divmod(np.flatnonzero(product_AB >= floor), product_AB.shape[1])
        return rows, columns

    def product(self, a_AE: Float32, b_BE: Float32) -> Float32:
        """Return the float32 dot products, (A, B), in memory that the next call uses again."""
        size = len(a_AE) * len(b_BE)
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.float32)
        out_AB = self._scratch[:size].reshape(len(a_AE), len(b_BE))
        self._multiply(a_AE, b_BE.T, out_AB)
        return out_AB


def exact_cos(a_E: Float32, b_E: Float32) -> float:
    """Return the float64 dot product of two float32 vectors, summed in index order."""
    return float(np.cumsum(a_E.astype(np.float64) * b_E.astype(np.float64))[-1])


def exact_cosines(a_AE: Float32, rows_P: Int64, b_BE: Float32, columns_P: Int64) -> Float64:
    """Return the exact cosines of P pairs of rows, float64, shape (P,)."""
    out_P = np.empty(len(rows_P))
    for start in range(0, len(rows_P), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        products_PE = a_AE[rows_P[part]].astype(np.float64)
        products_PE *= b_BE[columns_P[part]]
        # accumulated, as a plain sum would add in another order
        out_P[part] = np.cumsum(products_PE, axis=1, out=products_PE)[:, -1]
    return out_P


def rounding_margin(dimensions: int) -> float:
    """Return the largest error of a float32 dot product of two unit vectors, in any summation order.

    Rows may be longer than 1 by the unit tolerance; doubling covers that and the rounding of the definition's own sum.
    """
    nu = dimensions * 2.0**-24
    return 2.0 * nu / (1.0 - nu)


def float32_below(value: float) -> np.float32:
    """Return a float32 that is not above `value`, so that a floor never rises by being rounded."""
    near = np.float32(value)
    return near if float(near) <= value else np.nextafter(near, np.float32(-np.inf))


def _into(a_AE: Float32, b_EB: Float32, out_AB: Float32) -> None:
    np.matmul(a_AE, b_EB, out=out_AB)
