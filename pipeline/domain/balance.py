"""Demographic balance: targets -> how many identities each cell owes.

A target is either *joint* (a share for every cell, equal by default) or *marginal* (shares per field). Joint
quotas follow by largest remainder. Marginal quotas leave the cells free: an integer programme chooses cell
counts that meet every marginal exactly, and a second solve breaks ties towards the proportional table, so that
the answer is one answer. A tolerance lets a total miss its number by so many points of share, and is used only where
what is available forces it. Shares are of identities, never of images.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from pipeline.domain.errors import RecipeError, TargetNotReachedError
from pipeline.domain.records import Cell

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Cells whose identities together owe a share: one cell of a joint target, or one value of a field.

    Attributes:
        name: `dark/feminine`, or `tone=dark`.
        share: of all identities, in [0, 1].
        cells: positions of its cells in `Targets.cells`.
    """

    name: str
    share: float
    cells: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Targets:
    """What balance asks for.

    Attributes:
        fields: attribute fields in order with their values; empty where nothing is balanced.
        joint: share of every cell, summing to 1; None for marginal targets.
        marginal: field -> value -> share; empty for joint targets.
        tolerance: points of share, in [0, 1), by which a cell (joint) or a value (marginal) may miss its share where
            what is available forces it; 0 asks for exact numbers.
        agreement: how many of a field's labellers must read the value that an identity is counted under: `all`,
            `majority`, or `none` where the primary one decides alone.
    """

    fields: tuple[tuple[str, tuple[str, ...]], ...]
    joint: Mapping[Cell, float] | None
    marginal: Mapping[str, Mapping[str, float]]
    tolerance: float = 0.0
    agreement: str = "none"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, in the order of the fields' values."""
        return tuple(Cell(values) for values in product(*(values for _, values in self.fields)))

    @property
    def fixed(self) -> bool:
        """Return whether every cell owes one number, whatever is available."""
        return self.joint is not None and not self.tolerance

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return what owes a share: every cell of a joint target, every value of a marginal one."""
        cells = self.cells
        if self.joint is not None:
            return tuple(Group(str(c), self.joint[c], (n,)) for n, c in enumerate(cells))
        out = []
        for position, (name, values) in enumerate(self.fields):
            for value in values if name in self.marginal else ():
                mine = tuple(n for n, c in enumerate(cells) if c.values[position] == value)
                out.append(Group(f"{name}={value}", self.marginal[name].get(value, 0.0), mine))
        return tuple(out)

    @property
    def proportional(self) -> tuple[float, ...]:
        """Return the share of every cell, fields taken as independent where the target is marginal."""
        if self.joint is not None:
            return tuple(self.joint[c] for c in self.cells)
        shares = [
            [self.marginal[name].get(v, 0.0) if name in self.marginal else 1.0 / len(values) for v in values]
            for name, values in self.fields
        ]
        return tuple(math.prod(combination) for combination in product(*shares))


def targets_of(
    by: Sequence[str],
    known: Mapping[str, tuple[str, ...]],
    shares: Mapping[str, float] | None,
    marginal: Mapping[str, Mapping[str, float]] | None,
    *,
    tolerance: float = 0.0,
    agreement: str = "none",
) -> Targets:
    """Return validated targets.

    Args:
        by: fields to balance over.
        known: field -> values that the measures can estimate.
        shares: joint shares by cell name; None for equal shares.
        marginal: shares by field and value; excludes `shares`.
        tolerance: see `Targets`.
        agreement: see `Targets`.

    Raises:
        RecipeError: a field, cell or value that nobody estimates, or shares that do not add up.
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
        if missing := [name for name in marginal if name not in by]:
            raise RecipeError(f"balance.marginal: {', '.join(missing)} not named in balance.by")
        checked = {name: _checked(f"balance.marginal.{name}", marginal[name], known[name]) for name in marginal}
        return Targets(fields, None, checked, tolerance, agreement)
    if shares is None:
        return Targets(fields, {c: 1.0 / len(cells) for c in cells}, {}, tolerance, agreement)
    joint = _checked("balance.shares", shares, tuple(str(c) for c in cells))
    return Targets(fields, {c: joint.get(str(c), 0.0) for c in cells}, {}, tolerance, agreement)


def _checked(where: str, shares: Mapping[str, float], known: Sequence[str]) -> dict[str, float]:
    for name, share in shares.items():
        if name not in known:
            raise RecipeError(f"{where}: unknown {name!r}; {_allowed(name, known)}")
        if not share >= 0:
            raise RecipeError(f"{where}.{name}: got {share}; a share is at least 0")
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        raise RecipeError(f"{where}: shares add up to {total:g}; they must add up to 1")
    return dict(shares)


def _allowed(name: str, known: Sequence[str]) -> str:
    """Return which names there are: all of a few, the nearest of many; a cell's values in another order are found."""
    turned = [k for k in known if sorted(k.split("/")) == sorted(name.split("/"))]
    near = turned or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"{hint}it is one of {shown}"


def require_room(targets: Targets, count: int) -> None:
    """Refuse a count so small that a cell or value with a share would get nobody.

    Raises:
        RecipeError: says which, and the least count that gives everyone a place.
    """
    empty = [name for name, share, number in _owed_by_group(targets, count) if share > 0 and number == 0]
    if empty:
        least = count + 1
        while any(share > 0 and number == 0 for _, share, number in _owed_by_group(targets, least)):
            least += 1
        raise RecipeError(
            f"identities.count: {count} identities leave nobody for {len(empty)} of the shares of balance "
            f"({', '.join(empty[:4])}{', ...' if len(empty) > 4 else ''}); give at least {least}, or no share to what "
            "is not wanted"
        )


def _owed_by_group(targets: Targets, count: int) -> list[tuple[str, float, int]]:
    """Return (name, share, exact number) of every group."""
    groups, out = targets.groups, []
    for family in families_of(groups):
        owed = largest_remainder([groups[g].share for g in family], count)
        out += [(groups[g].name, groups[g].share, n) for g, n in zip(family, owed, strict=True)]
    return out


def families_of(groups: Sequence[Group]) -> list[list[int]]:
    """Return the positions of groups whose shares add up to 1: those of one field, or all cells."""
    families: dict[str, list[int]] = {}
    for n, group in enumerate(groups):
        families.setdefault(group.name.partition("=")[0] if "=" in group.name else "", []).append(n)
    return list(families.values())


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
    """Return how many identities each cell owes so that `count` identities meet the targets.

    Args:
        targets: what balance asks for.
        count: identities in all.
        available: for marginal targets, and where there is a tolerance, the most that a cell can give; unlimited
            where None.
        at_least: identities that are published already, and stay.

    Raises:
        RecipeError: the targets owe a cell or a value fewer identities than it has published.
        TargetNotReachedError: no choice within `available` and `at_least` meets the targets.
    """
    cells, floor = targets.cells, at_least or {}
    if targets.fixed or (targets.joint is not None and available is None):
        names = [str(c) for c in cells]
        owed = _keeping([floor.get(c, 0) for c in cells], names, targets.proportional, count)
        return dict(zip(cells, owed, strict=True))
    upper = np.array([float(count if available is None else available.get(c, 0)) for c in cells])
    lower = np.array([float(floor.get(c, 0)) for c in cells])
    return dict(zip(cells, _nearest_table(targets, count, lower, np.maximum(upper, lower)), strict=True))


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


def _nearest_table(targets: Targets, count: int, lower_C: Float64, upper_C: Float64) -> list[int]:
    """Return the cell counts within bounds that meet every group's number, nearest to the proportional table."""
    # exact first: what a tolerance allows is not used before it must
    for slack in sorted({0, math.floor(targets.tolerance * count + 1e-9)}):
        limits = _number_limits(targets, count, lower_C, slack)
        chosen = nearest(limits, lower_C, upper_C, count * np.array(targets.proportional))
        if chosen is not None:
            return chosen
    have = ", ".join(f"{c} {int(u)}" for c, u in zip(targets.cells, upper_C, strict=True))
    raise TargetNotReachedError(
        f"no choice of {count} identities meets the targets of balance; available by cell: {have}; "
        "enrol more candidates (enrol.rounds), or give balance.tolerance"
    )


def _number_limits(targets: Targets, count: int, lower_C: Float64, slack: int) -> LinearConstraint:
    """Return that all cells hold `count` and every group its exact number, give or take `slack`."""
    groups, n = targets.groups, len(targets.cells)
    rows, low, high = [np.ones(n)], [float(count)], [float(count)]
    for family in families_of(groups):
        held = [int(sum(lower_C[c] for c in groups[g].cells)) for g in family]
        shares = [groups[g].share for g in family]
        for g, number in zip(family, _keeping(held, [groups[g].name for g in family], shares, count), strict=True):
            rows.append(members(groups[g], n))
            low.append(float(number - slack))
            high.append(float(number + slack))
    return LinearConstraint(np.array(rows), low, high)


def members(group: Group, cells: int) -> Float64:
    """Return 1 for each of the group's cells and 0 for the others, shape (C,)."""
    row = np.zeros(cells)
    row[list(group.cells)] = 1.0
    return row


EXACT = {"mip_rel_gap": 0.0}
"""HiGHS would stop within 1e-4 of the best."""


def nearest(limits: LinearConstraint, lower_C: Float64, upper_C: Float64, ideal_C: Float64) -> list[int] | None:
    """Return the whole numbers within limits whose absolute differences from `ideal_C` sum to least; None if none are.

    Among equally near ones the second solve takes the one of least weight, under weights with which no two weigh the
    same, so that neither solver nor order decides. A variable whose ideal is NaN may be anything.
    """
    n = len(ideal_C)
    # variables: counts x, then deviations d >= |x - ideal|
    eye, inf = np.eye(n), np.full(n, np.inf)
    a = np.vstack([np.hstack([limits.A, np.zeros((len(limits.A), n))]), np.hstack([eye, -eye]), np.hstack([eye, eye])])
    measured = ~np.isnan(ideal_C)
    low = np.concatenate([limits.lb, -inf, np.where(measured, ideal_C, -np.inf)])
    high = np.concatenate([limits.ub, np.where(measured, ideal_C, np.inf), inf])
    bounds = Bounds(np.concatenate([lower_C, np.zeros(n)]), np.concatenate([upper_C, inf]))
    whole = np.concatenate([np.ones(n), np.zeros(n)])
    cost = np.concatenate([np.zeros(n), np.ones(n)])
    first = milp(cost, constraints=LinearConstraint(a, low, high), bounds=bounds, integrality=whole, options=EXACT)
    if first.x is None:
        return None
    as_near = LinearConstraint(np.vstack([a, cost]), np.append(low, -np.inf), np.append(high, float(first.fun) + 1e-6))
    tie = np.concatenate([tie_weights(n), np.zeros(n)])
    second = milp(tie, constraints=as_near, bounds=bounds, integrality=whole, options=EXACT)
    best = second.x if second.x is not None else first.x
    return [round(float(x)) for x in best[:n]]


def tie_weights(n: int) -> Float64:
    """Return square roots of the first n primes: no whole-number combination of them is 0, so sums never tie."""
    primes: list[int] = []
    number = 2
    while len(primes) < n:
        if all(number % p for p in primes):
            primes.append(number)
        number += 1
    return np.sqrt(np.array(primes, np.float64))
