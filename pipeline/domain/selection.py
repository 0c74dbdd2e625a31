"""Selection: candidates per cell -> the largest set that meets the balance targets, and who comes first in a cell.

Three questions of one integer programme (HiGHS through scipy): how large can a balanced set be, of which cell would
more candidates enlarge it, and which candidates are missing to a wanted size. Inside a cell the best by quality are
taken, equal ones in a stable keyed order. What is chosen is an identity, never an image.

Legend: N candidates, C cells, G groups that owe a share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from pipeline.domain.balance import EXACT, Float64, Targets, families_of, members, nearest, quotas
from pipeline.domain.records import Cell

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

ALMOST_ONE = 1 - 1e-4
"""Identities that a rounded group may be off by: fewer than one, by more than the solver's tolerance."""


TRIES = 24
"""Sizes that are tried one by one before all are left to the solver."""
SIZES_TOGETHER = 4096


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest balanced choice.

    Attributes:
        counts: identities per cell.
        gains: by how many identities the set would grow per further candidate of a cell, as the dual prices of the
            relaxed programme without rounding say; 0 where a cell has enough. Cells that are scarce together share
            their gain in one of the ways that the programme allows.
    """

    counts: Mapping[Cell, int]
    gains: Mapping[Cell, float]

    @property
    def size(self) -> int:
        """Return how many identities it has."""
        return sum(self.counts.values())

    @property
    def next_cells(self) -> tuple[Cell, ...]:
        """Return the cells of which more candidates would enlarge it, the most worthwhile first."""
        worth = [c for c, gain in self.gains.items() if gain > 1e-9]
        return tuple(sorted(worth, key=lambda c: (-round(self.gains[c], 9), c)))


def largest_balanced(targets: Targets, available: Mapping[Cell, int], *, rounded: bool = False) -> Largest:
    """Return the largest choice of N identities in which every group holds its share of N, within the tolerance.

    Maximises the sum of x_c over 0 <= x_c <= available_c with |sum of x in g - share_g N| <= tolerance N for every
    group g. Among equally large ones that nearest to the proportional table is taken, by a second solve.

    Args:
        targets: what balance asks for.
        available: candidates per cell.
        rounded: let every group be less than one identity off besides, as shares of a whole number always are; without
            it, shares of a third end at multiples of three.
    """
    upper = np.array([float(max(0, available.get(c, 0))) for c in targets.cells])
    off_by = ALMOST_ONE if rounded else 0.0
    strict = _relaxed(targets, upper, 0.0)
    # dual prices of the availability; scipy counts them for a minimum
    gains = np.maximum(0.0, -np.asarray(strict.upper.marginals, np.float64))
    most = _relaxed(targets, upper, off_by).fun if rounded else strict.fun
    counts = _largest(targets, upper, int(np.floor(-most + 1e-3)), off_by)
    return Largest(
        counts=dict(zip(targets.cells, counts, strict=True)),
        gains=dict(zip(targets.cells, gains.tolist(), strict=True)),
    )


def _relaxed(targets: Targets, upper_C: Float64, off_by: float) -> Any:
    """Return scipy's solution of the programme without whole numbers."""
    limits = _share_limits(targets, off_by)
    box = np.column_stack([np.zeros_like(upper_C), upper_C])
    return linprog(-np.ones(len(upper_C)), A_ub=limits.A, b_ub=limits.ub, bounds=box)


def _largest(targets: Targets, upper_C: Float64, most: int, off_by: float) -> list[int]:
    """Return the counts of the largest balanced choice, of `most` identities or fewer.

    Sizes are tried from the relaxed programme's downwards: with the size given, each group's number lies between two
    whole ones, which is easy to solve, and the first size that can be had is the largest. Where many cannot, the
    programme over all sizes is solved.
    """
    ideal = np.array(targets.proportional)
    none = np.zeros(len(upper_C))
    for size in islice(_sizes(targets, most, off_by), TRIES):
        chosen = nearest(_limits_at(targets, size, off_by), none, upper_C, size * ideal)
        if chosen is not None:
            return chosen
    best = milp(
        -np.ones(len(upper_C)), constraints=_share_limits(targets, off_by), bounds=Bounds(none, upper_C),
        integrality=np.ones(len(upper_C)), options=EXACT,
    )  # fmt: skip
    size = round(-float(best.fun))
    chosen = nearest(_limits_at(targets, size, off_by), none, upper_C, size * ideal)
    return chosen if chosen is not None else [round(float(x)) for x in best.x]


def _sizes(targets: Targets, most: int, off_by: float) -> Iterator[int]:
    """Yield the sizes, from `most` down, at which every group's number can be whole and a field's numbers add up."""
    shares = np.array([g.share for g in targets.groups])
    families = [np.array(f) for f in families_of(targets.groups)]
    for start in range(most, -1, -SIZES_TOGETHER):
        sizes = np.arange(start, max(-1, start - SIZES_TOGETHER), -1)
        low, high = _whole_numbers(sizes[:, None], shares, targets.tolerance, off_by)
        possible = np.all(low <= high, axis=1)
        for family in families:
            possible &= (low[:, family].sum(axis=1) <= sizes) & (sizes <= high[:, family].sum(axis=1))
        yield from sizes[possible].tolist()


def _whole_numbers(size: Any, share: Any, tolerance: float, off_by: float) -> tuple[Float64, Float64]:
    """Return the least and the most identities that a group may have in a set of a size."""
    slack = tolerance * size + off_by + 1e-6
    return np.maximum(0.0, np.ceil(share * size - slack)), np.floor(share * size + slack)


def _limits_at(targets: Targets, size: int, off_by: float) -> LinearConstraint:
    """Return the limits of a set of one size."""
    n, groups = len(targets.cells), targets.groups
    low, high = _whole_numbers(size, np.array([g.share for g in groups]), targets.tolerance, off_by)
    rows = np.array([np.ones(n), *(members(g, n) for g in groups)])
    return LinearConstraint(rows, np.append(float(size), low), np.append(float(size), high))


def _share_limits(targets: Targets, off_by: float) -> LinearConstraint:
    """Return |sum of x in g - share_g N| <= tolerance N + off_by as rows over x, two per group."""
    n = len(targets.cells)
    rows, high = [np.zeros(n)], [0.0]
    for group in targets.groups:
        mine = members(group, n)
        rows += [mine - (group.share + targets.tolerance), (group.share - targets.tolerance) - mine]
        high += [off_by, off_by]
    return LinearConstraint(np.array(rows), np.full(len(rows), -np.inf), np.array(high))


def fewest_more(
    targets: Targets,
    count: int,
    available: Mapping[Cell, int],
    at_least: Mapping[Cell, int] | None = None,
    cost: Mapping[Cell, float] | None = None,
) -> dict[Cell, int]:
    """Return the quota of `count` identities that needs the fewest candidates more than are available.

    A joint target has one quota. A marginal one leaves the cells free, so that a cell which is hard to fill is
    avoided where others can make up for it; of equally cheap ones that nearest to the proportional table is taken.

    Args:
        targets: what balance asks for.
        count: identities in all.
        available: candidates per cell that are there.
        at_least: identities per cell that stay.
        cost: what one more candidate of a cell costs, above 0; 1 where not given.

    Raises:
        RecipeError: the targets owe a cell or a value fewer identities than it has published.
    """
    plain = quotas(targets, count, None, at_least)
    if targets.fixed:
        return plain
    cells, floor = targets.cells, at_least or {}
    n = len(cells)
    have = np.array([float(available.get(c, 0)) for c in cells])
    lower = np.array([float(floor.get(c, 0)) for c in cells])
    prices = np.array([(cost or {}).get(c, 1.0) for c in cells])
    group_rows, numbers = [np.ones(n)], [float(count)]
    for group in targets.groups:
        group_rows.append(members(group, n))
        numbers.append(float(sum(plain[cells[c]] for c in group.cells)))
    slack = np.append(0.0, np.full(len(numbers) - 1, np.floor(targets.tolerance * count + 1e-9)))
    # variables: quotas x, then what is missing y >= x - have
    eye = np.eye(n)
    a = np.vstack([np.hstack([np.array(group_rows), np.zeros((len(numbers), n))]), np.hstack([eye, -eye])])
    low = np.concatenate([numbers - slack, np.full(n, -np.inf)])
    high = np.concatenate([numbers + slack, have])
    bounds = Bounds(np.concatenate([lower, np.zeros(n)]), np.full(2 * n, np.inf))
    first = milp(
        np.concatenate([np.zeros(n), prices]), constraints=LinearConstraint(a, low, high), bounds=bounds,
        integrality=np.ones(2 * n), options=EXACT,
    )  # fmt: skip
    if first.x is None:
        return plain
    spent = np.concatenate([np.zeros(n), prices])
    limits = LinearConstraint(np.vstack([a, spent]), np.append(low, -np.inf), np.append(high, float(first.fun) + 1e-6))
    ideal = np.concatenate([count * np.array(targets.proportional), np.full(n, np.nan)])
    x = nearest(limits, bounds.lb, bounds.ub, ideal) or [round(float(v)) for v in first.x]
    return dict(zip(cells, x[:n], strict=True))


def stable_order(seed: int, numbers_N: UInt64) -> UInt64:
    """Return a key per identity that orders equals: evenly mixed, one to one, and the same wherever it is asked.

    A keyed permutation of 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), before and after
    the seed's own mixed value is added. It is a hash, not a draw: it decides between equals and nothing else.
    """
    with np.errstate(over="ignore"):
        return _mixed(_mixed(np.asarray(numbers_N, np.uint64)) + _mixed(np.array([seed], np.uint64)))


def _mixed(z: UInt64) -> UInt64:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64 = z ^ (z >> np.uint64(31))
    return mixed


def rank_in_cell(cells_N: Int64, quality_N: Float64, order_N: UInt64) -> Int64:
    """Return each candidate's place inside its cell: best quality first, equal ones by `order_N`; shape (N,).

    A candidate whose quality is NaN stands behind everybody who has one.
    """
    worst_last = np.where(np.isnan(quality_N), np.inf, -quality_N)
    ranks = np.empty(len(cells_N), np.int64)
    by_cell = np.argsort(cells_N, kind="stable")
    starts = np.flatnonzero(np.diff(cells_N[by_cell], prepend=-1))
    for rows in np.split(by_cell, starts[1:]):
        ranks[rows[np.lexsort((order_N[rows], worst_last[rows]))]] = np.arange(len(rows))
    return ranks
