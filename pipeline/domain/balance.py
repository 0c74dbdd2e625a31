"""Demographic balance: targets -> quotas by cell, tallies -> what is short, candidates -> the chosen set.

A target is either *joint* (a share for every cell, equal by default) or *marginal* (shares per field). Joint
quotas follow by largest remainder. Marginal quotas leave the cells free: an integer programme chooses cell
counts that meet every marginal exactly, and a second solve breaks ties towards the proportional table, so that
the answer is one answer. Shares are of identities, never of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp, nnls

from pipeline.domain.errors import RecipeError, TargetNotReachedError
from pipeline.domain.records import Cell


@dataclass(frozen=True, slots=True)
class Targets:
    """What balance asks for.

    Attributes:
        fields: attribute fields in order with their values; empty where nothing is balanced.
        joint: share of every cell, summing to 1; None for marginal targets.
        marginal: field -> value -> share; empty for joint targets.
    """

    fields: tuple[tuple[str, tuple[str, ...]], ...]
    joint: Mapping[Cell, float] | None
    marginal: Mapping[str, Mapping[str, float]]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, in the order of the fields' values."""
        return tuple(Cell(values) for values in product(*(values for _, values in self.fields)))


def targets_of(
    by: Sequence[str],
    known: Mapping[str, tuple[str, ...]],
    shares: Mapping[str, float] | None,
    marginal: Mapping[str, Mapping[str, float]] | None,
) -> Targets:
    """Return validated targets.

    Args:
        by: fields to balance over.
        known: field -> values that the measures can estimate.
        shares: joint shares by cell name; None for equal shares.
        marginal: shares by field and value; excludes `shares`.
    """
    for name in by:
        if list(by).count(name) > 1:
            raise RecipeError(f"balance.by: {name!r} is named twice; name each field once")
        if name not in known:
            raise RecipeError(
                f"balance.by: no measure estimates {name!r}; the measures of this recipe estimate "
                f"{', '.join(sorted(known)) or 'no attribute'}"
            )
    fields = tuple((name, known[name]) for name in by)
    cells = tuple(Cell(values) for values in product(*(values for _, values in fields)))
    if marginal:
        if shares:
            raise RecipeError("balance: give either `shares` (by cell) or `marginal` (by field), not both")
        checked = {name: _checked(f"balance.marginal.{name}", marginal[name], known.get(name, ())) for name in marginal}
        missing = [name for name in marginal if name not in by]
        if missing:
            raise RecipeError(f"balance.marginal: {', '.join(missing)} not named in balance.by")
        return Targets(fields, None, checked)
    if shares is None:
        return Targets(fields, {c: 1.0 / len(cells) for c in cells}, {})
    joint = _checked("balance.shares", shares, tuple(str(c) for c in cells))
    return Targets(fields, {c: joint.get(str(c), 0.0) for c in cells}, {})


def _checked(where: str, shares: Mapping[str, float], known: Sequence[str]) -> dict[str, float]:
    for name, share in shares.items():
        if name not in known:
            raise RecipeError(f"{where}: unknown {name!r}; it is one of {', '.join(known)}")
        if not share >= 0:
            raise RecipeError(f"{where}.{name}: got {share}; a share is at least 0")
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        raise RecipeError(f"{where}: shares add up to {total:g}; they must add up to 1")
    return dict(shares)


def largest_remainder(shares: Sequence[float], count: int) -> list[int]:
    """Return whole numbers near `shares * count` that sum to `count`; ties go to the earlier entry."""
    total = sum(shares)
    ideal = [s / total * count for s in shares]
    # 1e-9 keeps 0.1 * 30 from flooring to 2
    floors = [int(np.floor(x + 1e-9)) for x in ideal]
    order = sorted(range(len(shares)), key=lambda i: (-(ideal[i] - floors[i]), i))
    for i in order[: count - sum(floors)]:
        floors[i] += 1
    return floors


def quotas(
    targets: Targets,
    count: int,
    available: Mapping[Cell, int] | None = None,
    at_least: Mapping[Cell, int] | None = None,
) -> dict[Cell, int]:
    """Return how many identities each cell owes so that `count` identities meet the targets exactly.

    Args:
        targets: what balance asks for.
        count: identities in all.
        available: for marginal targets, the most that a cell can give; unlimited where None.
        at_least: identities that are published already, and stay.

    Raises:
        RecipeError: joint targets owe a cell fewer identities than it has published.
        TargetNotReachedError: no choice within `available` and `at_least` meets the marginals.
    """
    cells, floor = targets.cells, at_least or {}
    if targets.joint is None:
        return _marginal_quotas(targets, count, available, floor)
    shares = [targets.joint[c] for c in cells]
    owed = _keeping([floor.get(c, 0) for c in cells], [str(c) for c in cells], shares, count)
    return dict(zip(cells, owed, strict=True))


def _keeping(published: Sequence[int], names: Sequence[str], shares: Sequence[float], count: int) -> list[int]:
    """Return whole numbers near `shares * count`, none below what is published.

    With a larger count a remainder can round the other way (the Alabama paradox): one identity, which stays, and is
    taken from the others, who may then fall below what they have.

    Raises:
        RecipeError: the shares themselves ask for fewer than are published.
    """
    owed = largest_remainder(shares, count)
    over = [i for i, n in enumerate(owed) if n < published[i]]
    if any(published[i] - owed[i] > 1 for i in over):
        shown = "; ".join(f"{names[i]}: {owed[i]} asked, {published[i]} published" for i in over[:4])
        raise RecipeError(
            f"balance: a version drops nobody, but {len(over)} cells would have to shrink ({shown}); "
            "raise identities.count, or give shares that leave each cell what it has"
        )
    stays: dict[int, int] = {}
    while over:
        stays |= {i: published[i] for i in over}
        rest = [i for i in range(len(shares)) if i not in stays]
        given = largest_remainder([shares[i] for i in rest], count - sum(stays.values())) if rest else []
        owed = [stays[i] if i in stays else given[rest.index(i)] for i in range(len(shares))]
        over = [i for i in rest if owed[i] < published[i]]
    return owed


def _marginal_quotas(
    targets: Targets, count: int, available: Mapping[Cell, int] | None, at_least: Mapping[Cell, int]
) -> dict[Cell, int]:
    cells = targets.cells
    rows, wanted = [np.ones(len(cells))], [count]
    for position, (name, values) in enumerate(targets.fields):
        shares = targets.marginal.get(name)
        if shares is None:
            continue
        held = [sum(n for c, n in at_least.items() if c.values[position] == v) for v in values]
        owed = _keeping(held, values, [shares.get(v, 0.0) for v in values], count)
        for value, number in zip(values, owed, strict=True):
            rows.append(np.array([float(c.values[position] == value) for c in cells]))
            wanted.append(number)
    upper = np.array([float(count if available is None else available.get(c, 0)) for c in cells])
    lower = np.array([float(at_least.get(c, 0)) for c in cells])
    upper = np.maximum(upper, lower)
    ideal = np.array([count * _proportional(targets, c) for c in cells])
    # variables: cell counts x, then deviations d >= |x - ideal|; first minimise the total deviation
    n = len(cells)
    eye = np.eye(n)
    a = np.vstack(
        [np.hstack([np.array(rows), np.zeros((len(rows), n))]), np.hstack([eye, -eye]), np.hstack([eye, eye])]
    )
    low = np.concatenate([np.array(wanted, float), np.full(n, -np.inf), ideal])
    high = np.concatenate([np.array(wanted, float), ideal, np.full(n, np.inf)])
    bounds = Bounds(np.concatenate([lower, np.zeros(n)]), np.concatenate([upper, np.full(n, np.inf)]))
    integrality = np.concatenate([np.ones(n), np.zeros(n)])
    cost = np.concatenate([np.zeros(n), np.ones(n)])
    exact = {"mip_rel_gap": 0.0}  # HiGHS would stop within 1e-4 of the best
    first = milp(
        cost, constraints=LinearConstraint(a, low, high), bounds=bounds, integrality=integrality, options=exact
    )
    if first.x is None:
        have = ", ".join(f"{c} {int(u)}" for c, u in zip(cells, upper, strict=True))
        raise TargetNotReachedError(
            f"no choice of {count} identities meets the marginal targets; available by cell: {have}; "
            "enrol more candidates (enrol.rounds) or relax balance.marginal"
        )
    # second solve: among equally near tables take one by weights under which no two tables weigh the same
    a2 = np.vstack([a, cost])
    tie = np.concatenate([_tie_weights(n), np.zeros(n)])
    limits = LinearConstraint(a2, np.append(low, -np.inf), np.append(high, float(first.fun) + 1e-6))
    second = milp(tie, constraints=limits, bounds=bounds, integrality=integrality, options=exact)
    best = second.x if second.x is not None else first.x
    return {c: round(float(x)) for c, x in zip(cells, best[:n], strict=True)}


def _tie_weights(n: int) -> npt.NDArray[np.float64]:
    """Return square roots of the first n primes: no whole-number combination of them is 0, so sums never tie."""
    primes: list[int] = []
    number = 2
    while len(primes) < n:
        if all(number % p for p in primes):
            primes.append(number)
        number += 1
    return np.sqrt(np.array(primes, np.float64))


def _proportional(targets: Targets, cell: Cell) -> float:
    share = 1.0
    for (name, values), value in zip(targets.fields, cell.values, strict=True):
        share *= targets.marginal.get(name, {}).get(value, 0.0) if name in targets.marginal else 1.0 / len(values)
    return share


def proposals(
    owed: Mapping[Cell, int], have: Mapping[Cell, int], yield_of: Mapping[Cell, float], *, cap: int
) -> dict[Cell, int]:
    """Return how many candidates to propose per cell next: shortfall over measured yield, capped per cell.

    `yield_of` is the share of a cell's proposals that were enrolled in it, in (0, 1].
    """
    out = {}
    for cell, number in owed.items():
        short = max(0, number - have.get(cell, 0))
        out[cell] = min(cap, int(np.ceil(short / max(yield_of.get(cell, 1.0), 0.05)))) if short else 0
    return out


def adjusted_shares(read_C: npt.NDArray[np.float64], confusion_CC: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the true shares most consistent with the read ones, given the reader's confusion.

    Args:
        read_C: share of identities read as each cell.
        confusion_CC: row = true cell, column = read cell, rows sum to 1.

    Solves `confusion.T @ true = read` for non-negative shares by least squares (Lawson & Hanson's NNLS) and
    scales them to sum to 1. The figure inherits the error of the confusion matrix.
    """
    weight = 1e3  # holds the sum at 1 without a constrained solver
    a = np.vstack([confusion_CC.T, np.full((1, len(read_C)), weight)])
    true, _ = nnls(a, np.append(read_C, weight))
    total = float(true.sum())
    return np.asarray(true / total) if total > 0 else np.asarray(read_C)


def confusion_of_cells(
    cells: Sequence[Cell], fields: Sequence[str], confusion: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> npt.NDArray[np.float64]:
    """Return the cell confusion as the product of the fields' (errors taken as independent); rows are true cells.

    `confusion[field][true][read]` is the share of images of value `true` that are read as `read`.
    """
    out = np.ones((len(cells), len(cells)))
    for i, true in enumerate(cells):
        for j, read in enumerate(cells):
            for position, name in enumerate(fields):
                out[i, j] *= confusion[name][true.values[position]].get(read.values[position], 0.0)
    return out


def wilson_interval(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927), 95 % by default."""
    if total == 0:
        return 0.0, 1.0
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
