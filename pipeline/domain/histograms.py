"""Histograms of numbers that come in parts and whose range nobody knows beforehand: exact counts, one pass.

Bins are dyadic: each is `width` wide, a power of two, and begins at a multiple of it. When a number comes that the bins
do not reach, they are merged two by two until they do. Since a bin of width 2w is exactly two of width w, merging loses
nothing, and the width that is reached in the end follows from the smallest and the largest number alone. So the counts
are those of all numbers together, in whatever parts and order they came, on every machine.

Legend: N numbers, G groups, L bins held, B bins shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MOST_BINS = 1024
FINEST = -20
"""Exponent of the narrowest bins: 2**-20, about a millionth."""
_DIGITS = 52
"""A number's bin is a whole number that a float64 holds exactly."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A histogram with few bins, to be drawn.

    Attributes:
        edges_B1: float64, B + 1 rising edges; what lies outside them counts in the outermost bins.
        counts_GB: int64, per group.
    """

    edges_B1: Float64
    counts_GB: Int64


class Histograms:
    """Counts numbers of G groups in common bins.

    Args:
        groups: G.
        most: bins held at most, at least 2; the range of all numbers is cut into more than half as many, or into bins
            of the finest width.
    """

    def __init__(self, groups: int, most: int = MOST_BINS) -> None:
        if groups < 1 or most < 2:
            raise ValueError(f"histograms of {groups} groups in {most} bins; at least 1 group and 2 bins")
        self.missing_G = np.zeros(groups, np.int64)
        """Numbers that were NaN or infinite."""
        self._most, self._exponent, self._first = most, FINEST, 0
        self._counts_GL = np.zeros((groups, 0), np.int64)
        self._low, self._high = math.inf, -math.inf

    def add(self, values_N: npt.ArrayLike, group_N: npt.ArrayLike) -> None:
        """Count numbers, each in its group, from 0 to G - 1."""
        values, group = np.asarray(values_N, np.float64), np.asarray(group_N, np.int64)
        groups = len(self.missing_G)
        sound = np.isfinite(values)
        if not sound.all():
            self.missing_G += np.bincount(group[~sound], minlength=groups)
            values, group = values[sound], group[sound]
        if not values.size:
            return
        self._reach(float(values.min()), float(values.max()))
        bins = _bins(values, self._exponent) - self._first
        held = self._counts_GL.shape[1]
        # one place per number: counting into a fresh table would cost a look at every bin of every group
        np.add.at(self._counts_GL.reshape(-1), group * held + bins, 1)

    @property
    def width(self) -> float:
        """Return the width of a bin."""
        return math.ldexp(1.0, self._exponent)

    @property
    def edges_L1(self) -> Float64:
        """Return the L + 1 edges of the bins held; of no number at all, one edge."""
        return np.ldexp(np.arange(self._counts_GL.shape[1] + 1, dtype=np.float64) + self._first, self._exponent)

    @property
    def counts_GL(self) -> Int64:
        """Return the counts per group and bin held."""
        return self._counts_GL

    def quantiles(self, groups: Sequence[int], shares: Sequence[float]) -> tuple[float, ...]:
        """Return below which number a share of some groups' numbers lies, to half a bin.

        It is the middle of the bin that holds the ceil(share * n)-th smallest, the smallest for a share of 0.

        Raises:
            ValueError: these groups have no number.
        """
        reached = np.cumsum(self._counts_GL[list(groups)].sum(axis=0))
        if not reached.size or not reached[-1]:
            raise ValueError("quantiles of no number; ask for those of groups that have some")
        ranks = [max(1, math.ceil(share * int(reached[-1]))) for share in shares]
        places = np.searchsorted(reached, ranks, "left")
        return tuple(float(v) for v in np.ldexp(places + self._first + 0.5, self._exponent))

    def shown(self, bins: int, outside: float = 0.001) -> Shown:
        """Return at most so many bins, equally wide, of the range that all but a share of `outside` at either end need.

        Each is a whole number of the bins held. Without a number there is no bin.
        """
        total = self._counts_GL.sum(axis=0)
        reached = np.cumsum(total)
        if not reached.size:
            return Shown(np.zeros(1), np.zeros((len(self.missing_G), 0), np.int64))
        number = int(reached[-1])
        low = int(np.searchsorted(reached, int(outside * number), "right"))
        high = int(np.searchsorted(reached, number - int(outside * number), "left"))
        step = -(-(high - low + 1) // bins)
        count = -(-(high - low + 1) // step)
        place = np.clip((np.arange(len(total)) - low) // step, 0, count - 1)
        counts = np.zeros((len(self.missing_G), count), np.int64)
        np.add.at(counts.T, place, self._counts_GL.T)
        edges = np.ldexp((self._first + low + step * np.arange(count + 1)).astype(np.float64), self._exponent)
        return Shown(edges, counts)

    def _reach(self, low: float, high: float) -> None:
        """Widen and merge the bins until they hold both numbers and all before."""
        if self._low <= low and high <= self._high:
            return
        self._low, self._high = min(low, self._low), max(high, self._high)
        exponent = max(FINEST, math.frexp(max(abs(self._low), abs(self._high)))[1] - _DIGITS)
        while _bin(self._high, exponent) - _bin(self._low, exponent) >= self._most:
            exponent += 1
        first, last = _bin(self._low, exponent), _bin(self._high, exponent)
        merged = np.zeros((len(self.missing_G), last - first + 1), np.int64)
        if self._counts_GL.size:
            # shifting a whole number rounds down, as the floor of a division by two does
            old = (np.arange(self._counts_GL.shape[1]) + self._first) >> (exponent - self._exponent)
            np.add.at(merged.T, old - first, self._counts_GL.T)
        self._counts_GL, self._first, self._exponent = merged, first, exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _bins(values_N: Float64, exponent: int) -> Int64:
    return np.floor(np.ldexp(values_N, -exponent)).astype(np.int64)
