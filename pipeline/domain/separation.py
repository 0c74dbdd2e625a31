"""Exact greedy separation: keep a vector if it collides with nothing kept before it.

A pair collides when its cosine, as `pipeline.domain.cosines` defines it, is >= t. Rows are compared block by block
with what is kept; a block product names the pairs that may collide, and the definition decides them. So neither block
size nor device nor increment can change the kept set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import (
    BlockProduct,
    Float64,
    Int64,
    NumpyProduct,
    exact_cos,
    exact_cosines,
    rounding_margin,
)
from pipeline.domain.errors import BadVectorError
from pipeline.domain.one_to_many import max_cos_to_others
from pipeline.domain.records import Float32, require_unit_rows

__all__ = ["Progress", "Separation", "Separator", "exact_cos", "max_cos_to_others", "rounding_margin", "separate"]

Progress = Callable[[int, int], object]
"""Is told how many pairs of rows are done with, of how many."""

LEAF = 256
"""Rows that are compared among each other in one product: half of it is of no use, so it is small."""


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
    collided_with_N: Int64
    cos_N: Float64


class Separator(Protocol):
    """What `separate` is to those who leave to others where it computes and who watches."""

    def __call__(self, new_NE: Float32, threshold_cos: float, *, kept_before_ME: Float32 | None = None) -> Separation:
        """Keep each new row, in order, unless it collides with a row kept before it."""
        ...


def separate(
    new_NE: Float32,
    threshold_cos: float,
    *,
    kept_before_ME: Float32 | None = None,
    product: BlockProduct | None = None,
    block: int | None = None,
    progress: Progress | None = None,
) -> Separation:
    """Keep each new row, in order, unless it collides with a row kept before it.

    A row is compared with kept rows only, and no further than the first that it collides with. Beside the arguments
    and one copy of what is kept, memory is that of one block product.

    Args:
        new_NE: float32 unit rows in order of precedence.
        threshold_cos: t; a cosine >= t is a collision, and above 1 nothing collides.
        kept_before_ME: rows that stand whatever happens; they are not compared with each other.
        product: finds the pairs that may collide, e.g. on a device; float32 numpy by default.
        block: rows per product, where another number than the product's own is wanted.
        progress: told after every block of new rows.

    Raises:
        BadVectorError: a row is NaN, infinite or not of unit length, or the two differ in dimensions.
    """
    new = require_unit_rows(new_NE, "separation")
    before = np.empty((0, new.shape[1]), np.float32)
    if kept_before_ME is not None:
        before = require_unit_rows(kept_before_ME, "separation")
    if before.shape[1] != new.shape[1]:
        raise BadVectorError(
            f"separation: {new.shape[1]} dimensions where what is kept has {before.shape[1]}; compare vectors of one "
            "space"
        )
    finder = product or NumpyProduct()
    rows, refs = (block, block) if block else finder.block
    greedy = _Greedy(new, before, threshold_cos, finder, refs)
    total = _pairs(len(new), len(before))
    for start in range(0, len(new), rows):
        stop = min(start + rows, len(new))
        greedy.take(np.arange(start, stop))
        if progress:
            progress(_pairs(stop, len(before)), total)
    return Separation(kept_N=greedy.partner_N < 0, collided_with_N=greedy.partner_N, cos_N=greedy.cos_N)


def _pairs(new: int, before: int) -> int:
    return new * before + new * (new - 1) // 2


class _Greedy:
    """The state of one pass: who is refused, and what is kept, in blocks that the product holds."""

    def __init__(self, new: Float32, before: Float32, t: float, finder: BlockProduct, refs: int) -> None:
        self.partner_N = np.full(len(new), -1, np.int64)
        self.cos_N = np.full(len(new), np.nan)
        self._new, self._before, self._t, self._finder, self._refs = new, before, t, finder, refs
        self._near = NumpyProduct()
        self._full: list[tuple[Any, Int64]] = []
        """Held blocks of kept new rows, and which rows they are."""
        self._tail = np.empty(0, np.int64)
        """Kept new rows that do not fill a block yet."""
        self._full_before = [
            (finder.hold(before[at : at + refs]), np.arange(at, min(at + refs, len(before))))
            for at in range(0, len(before), refs)
        ]

    def take(self, rows: Int64) -> None:
        """Decide new rows that follow those taken so far."""
        held = self._finder.hold(self._new[rows[0] : rows[-1] + 1])
        left = rows
        for source, refs, names in self._kept():
            found = self._refuse(left, held, source, refs, names)
            if found:
                left = left[self.partner_N[left] < 0]
                if not left.size:
                    return
                held = self._finder.hold(self._new[left])
        self._among(left)
        self._keep(left[self.partner_N[left] < 0])

    def _kept(self) -> Iterator[tuple[Float32, Any, Int64]]:
        """Yield the blocks of what is kept in order of precedence: rows' source, held rows, which rows of it."""
        for refs, names in self._full_before:
            yield self._before, refs, names
        for refs, names in self._full:
            yield self._new, refs, names
        if self._tail.size:
            yield self._new, self._finder.hold(_rows(self._new, self._tail)), self._tail

    def _keep(self, rows: Int64) -> None:
        kept = np.concatenate([self._tail, rows])
        while len(kept) >= self._refs:
            names, kept = kept[: self._refs], kept[self._refs :]
            self._full.append((self._finder.hold(_rows(self._new, names)), names))
        self._tail = kept

    def _among(self, rows: Int64) -> None:
        """Decide rows that collide with nothing before them among themselves: by halves, down to a leaf."""
        if len(rows) <= LEAF:
            self._leaf(rows)
            return
        first, second = np.array_split(rows, 2)
        self._among(first)
        first = first[self.partner_N[first] < 0]
        held = self._finder.hold(_rows(self._new, second))
        self._refuse(second, held, self._new, self._finder.hold(_rows(self._new, first)), first)
        self._among(second[self.partner_N[second] < 0])

    def _leaf(self, rows: Int64) -> None:
        a = _rows(self._new, rows)
        product = self._near.product(a, a)
        margin = rounding_margin(a.shape[1])
        np.fill_diagonal(product, -np.inf)
        if not rows.size or product.max() < self._t - 2 * margin:
            return
        wide = product.astype(np.float64)
        hit = np.tril(wide >= self._t, -1)
        unsure = np.nonzero(np.tril(np.abs(wide - self._t) <= margin, -1))
        hit[unsure] = exact_cosines(a, unsure[0], a, unsure[1]) >= self._t
        for i in np.flatnonzero(hit.any(axis=1)):
            partners = np.flatnonzero(hit[i] & (self.partner_N[rows] < 0))
            if partners.size:
                self.partner_N[rows[i]] = len(self._before) + rows[partners[0]]
                self.cos_N[rows[i]] = exact_cos(a[i], a[partners[0]])

    def _refuse(self, rows: Int64, held: Any, source: Float32, refs: Any, names: Int64) -> bool:
        """Refuse every one of `rows` that collides with one of `refs`, naming the first; return whether any was."""
        mine, theirs = self._finder.contenders(held, refs, self._t)
        if not mine.size:
            return False
        pair, cos = _first_collisions(self._new, rows[mine], source, names[theirs], self._t)
        refused = rows[mine[pair]]
        self.partner_N[refused] = names[theirs[pair]] + (0 if source is self._before else len(self._before))
        self.cos_N[refused] = cos
        return bool(refused.size)


def _first_collisions(
    new: Float32, rows_P: Int64, source: Float32, refs_P: Int64, t: float
) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Return, of each row that collides, the position of its first colliding pair, and its cosine.

    Pairs come ordered by row. A row's pairs are looked at one, then two, then four at a time: where many collide the
    first does.
    """
    begin = np.flatnonzero(np.diff(rows_P, prepend=-1))
    end = np.append(begin[1:], len(rows_P))
    found: list[Int64] = []
    cosines: list[Float64] = []
    width = 1
    while begin.size:
        count = np.minimum(end - begin, width)
        row = np.repeat(np.arange(len(begin)), count)
        pair = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + begin[row]
        cos = exact_cosines(new, rows_P[pair], source, refs_P[pair])
        colliding = np.flatnonzero(cos >= t)
        hit_rows, first = np.unique(row[colliding], return_index=True)
        found.append(pair[colliding[first]])
        cosines.append(cos[colliding[first]])
        begin = begin + count
        going = begin < end
        going[hit_rows] = False
        begin, end = begin[going], end[going]
        width *= 2
    return np.concatenate(found), np.concatenate(cosines)


def _rows(source: Float32, names: Int64) -> Float32:
    """Return the named rows, which ascend: without a copy where they lie together."""
    if names.size and names[-1] - names[0] + 1 == len(names):
        return source[names[0] : names[-1] + 1]
    out: Float32 = source[names]
    return out
