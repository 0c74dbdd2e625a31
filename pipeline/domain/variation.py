"""The variation plan against what came out: what was asked of the images, and what a measure reads in them.

Shares are compared bin by bin. *Planned* is the share that the recipe's distribution gives a bin, *asked* the share of
the kept images that were asked to lie in it, *delivered* the share that a measure reads there. Retries change noise
only, so asked is planned up to the rounding of slots, whatever was refused; what is short of planned in delivered is
the deficit, in points (hundredths of all images). A tally takes images segment by segment and keeps counts only.

Legend: N images, B bins, C cells, P identities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.conditions import Distribution, Histogram

BINS = 5
"""Bins of equal planned share, where the plan has no bins of its own."""
MOST_VALUES = 32
"""A plan of at most so many single values has a bin for each."""
TOLERANCE_points = 5.0
"""A plan is met where no bin is short by more than this."""
OVERALL = "all cells"
_GRID = 4096

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """How a condition's values are counted.

    Attributes:
        names: B names, as printed.
        inner_B: the B - 1 rising edges between bins; a value on an edge counts above it. The outermost bins are open.
        planned_B: the share of the target in each bin; sums to 1.
    """

    names: tuple[str, ...]
    inner_B: Float64
    planned_B: Float64

    def of(self, values_N: Float64) -> npt.NDArray[np.int64]:
        """Return the bin of each value; values are finite."""
        return np.searchsorted(self.inner_B, values_N, side="right").astype(np.int64)


def bins_of(target: Distribution, count: int = BINS) -> Bins:
    """Return a histogram's own bins, one bin per value where these are few, or `count` bins of equal planned share.

    A value that holds a share of its own is never cut: edges lie between values.
    """
    if isinstance(target, Histogram):
        inner, ends = np.array(target.edges[1:-1], np.float64), (target.edges[0], target.edges[-1])
        shares = np.array(target.shares, np.float64)
        return Bins(_ranges(inner, ends), inner, shares / shares.sum())
    drawn = np.sort([target.quantile((n + 0.5) / _GRID) for n in range(_GRID)])
    values = np.unique(drawn)
    if len(values) <= MOST_VALUES:
        inner = (values[:-1] + values[1:]) / 2
        names: tuple[str, ...] = tuple(f"{v:.4g}" for v in values)
    else:
        cuts = {_between(drawn, n * _GRID // count) for n in range(1, count)}
        inner = np.array(sorted(c for c in cuts if c is not None), np.float64)
        names = _ranges(inner, target.bounds())
    planned = np.bincount(np.searchsorted(inner, drawn, side="right"), minlength=len(inner) + 1) / _GRID
    return Bins(names, inner, planned)


def _between(drawn: Float64, place: int) -> float | None:
    """Return an edge near `drawn[place]` that lies on no repeated value; None where there is none."""
    first = int(np.searchsorted(drawn, drawn[place], side="left"))
    last = int(np.searchsorted(drawn, drawn[place], side="right"))
    ends = [end for end in (first, last) if 0 < end < len(drawn)]
    near = min(ends, key=lambda end: abs(end - place), default=0)
    return float((drawn[near - 1] + drawn[near]) / 2) if near else None


def _ranges(inner: Float64, ends: tuple[float, float]) -> tuple[str, ...]:
    edges = [ends[0], *inner.tolist(), ends[1]]
    return tuple(f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges))


_ASKED, _OFF_TARGET, _DELIVERED = range(3)
_IMAGES, _UNREAD, _ERROR, _DISTANCE = range(4)
_MOMENTS = slice(4, 9)


@dataclass(slots=True)
class Tally:
    """One condition's images, counted per cell and per identity.

    Args:
        condition: what was asked.
        measure: what reads it, in the same unit.
        bins: how both are counted.
    """

    condition: str
    measure: str
    bins: Bins
    _cells: dict[str, int] = field(default_factory=dict)
    _counts_C3B: npt.NDArray[np.int64] = field(init=False)
    _sums_C9: Float64 = field(init=False)
    _people: dict[int, int] = field(default_factory=dict)
    _short_PB: npt.NDArray[np.int32] = field(init=False)
    _images_P: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        """Start with nothing counted."""
        self._counts_C3B = np.zeros((0, 3, len(self.bins.planned_B)), np.int64)
        self._sums_C9 = np.zeros((0, 9))
        self._short_PB = np.zeros((0, len(self.bins.planned_B)), np.int32)
        self._images_P = np.zeros(0, np.int32)

    def add(
        self,
        asked_N: Float64,
        measured_N: Float64,
        off_target_N: npt.NDArray[np.bool_],
        cells: Sequence[str],
        identities: Sequence[int],
    ) -> None:
        """Count N images: what was asked (finite), what is read (NaN where it is not), whose they are."""
        cell_N = np.array([self._cells.setdefault(cell, len(self._cells)) for cell in cells], np.int64)
        self._counts_C3B, self._sums_C9 = (_grown(x, len(self._cells)) for x in (self._counts_C3B, self._sums_C9))
        read = np.isfinite(measured_N)
        a, m = asked_N[read], measured_N[read]
        where_N, there = self.bins.of(asked_N), self.bins.of(m)
        self._count(_ASKED, cell_N, where_N)
        self._count(_OFF_TARGET, cell_N[off_target_N], where_N[off_target_N])
        self._count(_DELIVERED, cell_N[read], there)
        self._sum(_IMAGES, cell_N, np.ones(len(cell_N)))
        self._sum(_UNREAD, cell_N, (~read).astype(np.float64))
        for column, values in enumerate((m - a, np.abs(m - a), a, m, a * a, m * m, a * m), start=_ERROR):
            self._sum(column, cell_N[read], values)
        person_N = np.array([self._people.setdefault(int(o), len(self._people)) for o in identities], np.int64)[read]
        self._short_PB, self._images_P = (_grown(x, len(self._people)) for x in (self._short_PB, self._images_P))
        np.add.at(self._images_P, person_N, 1)
        np.add.at(self._short_PB, (person_N, where_N[read]), 1)
        np.subtract.at(self._short_PB, (person_N, there), 1)

    def _count(self, what: int, cell_N: npt.NDArray[np.int64], bin_N: npt.NDArray[np.int64]) -> None:
        cells, _, bins = self._counts_C3B.shape
        found = np.bincount(cell_N * bins + bin_N, minlength=cells * bins)
        self._counts_C3B[:, what] += found.reshape(cells, bins)

    def _sum(self, column: int, cell_N: npt.NDArray[np.int64], values_N: Float64) -> None:
        self._sums_C9[:, column] += np.bincount(cell_N, weights=values_N, minlength=len(self._sums_C9))

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says, JSON-ready: overall, per cell, and over identities.

        An identity's deficit is the largest share of its images that were asked to lie in a bin and do not.
        """
        whole = _facts(self.bins, self._counts_C3B.sum(axis=0), self._sums_C9.sum(axis=0))
        cells = [
            {"cell": cell, **_facts(self.bins, self._counts_C3B[n], self._sums_C9[n])}
            for cell, n in sorted(self._cells.items())
        ]
        return {
            "condition": self.condition,
            "measure": self.measure,
            **whole,
            "cells": cells,
            "identities": self._identity_facts(),
        }

    def _identity_facts(self) -> dict[str, Any]:
        read = self._images_P > 0
        if not read.any():
            return {"identities": 0}
        points = 100 * self._short_PB[read].max(axis=1) / self._images_P[read]
        half, most = np.quantile(points, (0.5, 0.9))
        return {
            "identities": int(read.sum()),
            "deficit_points_median": float(half),
            "deficit_points_p90": float(most),
            "deficit_points_max": float(points.max()),
        }


def _grown(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return an array with rows of zeros added until it has `count`."""
    missing = count - len(rows)
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)]) if missing > 0 else rows


def _facts(bins: Bins, counts_3B: npt.NDArray[np.int64], sums_9: Float64) -> dict[str, Any]:
    """Return what is said of some images; None for what needs more of them."""
    images, unread = int(sums_9[_IMAGES]), int(sums_9[_UNREAD])
    read = images - unread
    asked, delivered = counts_3B[_ASKED] / max(images, 1), counts_3B[_DELIVERED] / max(read, 1)
    deficit = 100 * (bins.planned_B - delivered)
    return {
        "images": images,
        "off_target": int(counts_3B[_OFF_TARGET].sum()),
        "unread": unread,
        "mean_error": float(sums_9[_ERROR] / read) if read else None,
        "mean_absolute_error": float(sums_9[_DISTANCE] / read) if read else None,
        "correlation": _correlation(sums_9[_MOMENTS] / read) if read > 1 else None,
        "largest_deficit_points": max(0.0, float(deficit.max())) if read else None,
        "bins": [
            {
                "bin": name,
                "planned": float(bins.planned_B[n]),
                "asked": float(asked[n]),
                "delivered": float(delivered[n]),
                "deficit_points": float(deficit[n]),
                "off_target": int(counts_3B[_OFF_TARGET, n]),
            }
            for n, name in enumerate(bins.names)
        ],
    }


def _correlation(moments_5: Float64) -> float | None:
    """Return Pearson's correlation from the means of a, m, aa, mm and am; None where one does not vary."""
    a, m, aa, mm, am = moments_5.tolist()
    spreads = (aa - a * a, mm - m * m)
    # a constant has no spread but for rounding
    if not all(s > 1e-12 * square + 1e-24 for s, square in zip(spreads, (aa, mm), strict=True)):
        return None
    return float(np.clip((am - a * m) / (math.sqrt(spreads[0]) * math.sqrt(spreads[1])), -1.0, 1.0))


@dataclass(frozen=True, slots=True, order=True)
class Shortfall:
    """A bin of a plan that was not met, in a cell or overall; sorted, the largest comes first."""

    minus_points: float
    condition: str
    cell: str
    bin: str
    planned: float
    asked: float
    delivered: float
    off_target: int

    @property
    def points(self) -> float:
        """Return by how many points the bin is short."""
        return -self.minus_points


def shortfalls(
    variation: Sequence[Mapping[str, Any]], tolerance_points: float = TOLERANCE_points
) -> Iterator[Shortfall]:
    """Yield every bin that is short by more than the tolerance, overall and per cell, condition by condition.

    One that lacks a single image is not short: in a small cell that is what the rounding of slots can do.
    """
    for facts in variation:
        parts = [{**facts, "cell": OVERALL}, *facts["cells"]]
        # one cell is everybody
        for part in parts[:1] if len(facts["cells"]) == 1 else parts:
            read = part["images"] - part["unread"]
            for row in part["bins"] if read else ():
                if row["deficit_points"] > max(tolerance_points, (1 + 1e-6) * 100 / read):
                    yield Shortfall(
                        -row["deficit_points"], facts["condition"], part["cell"], row["bin"],
                        row["planned"], row["asked"], row["delivered"], row["off_target"],
                    )  # fmt: skip
