"""Selection: the largest balanced set is that, within what there is, one answer, and its best are in it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.balance import Targets, quotas, targets_of
from pipeline.domain.records import Cell
from pipeline.domain.selection import (
    fewest_more,
    largest_balanced,
    rank_in_cell,
    stable_order,
)

KNOWN = {"tone": ("light", "dark"), "presentation": ("feminine", "masculine")}
HALF = {"tone": {"light": 0.5, "dark": 0.5}, "presentation": {"feminine": 0.5, "masculine": 0.5}}
SKEWED = {"tone": {"light": 0.75, "dark": 0.25}}
SHARES = {"light/feminine": 0.5, "dark/feminine": 0.25, "dark/masculine": 0.25}
KINDS = {
    "equal": targets_of(list(KNOWN), KNOWN, None, None),
    "joint": targets_of(list(KNOWN), KNOWN, SHARES, None),
    "marginal": targets_of(list(KNOWN), KNOWN, None, HALF),
    "one marginal": targets_of(list(KNOWN), KNOWN, None, SKEWED),
    "tolerant": targets_of(list(KNOWN), KNOWN, None, HALF, tolerance=0.15),
    "tolerant joint": targets_of(list(KNOWN), KNOWN, None, None, tolerance=0.1),
}


def balanced(targets: Targets, counts: tuple[int, ...], off_by: float = 0.0) -> bool:
    """Return whether counts hold every group's share, by the definition."""
    total = sum(counts)
    return all(
        abs(sum(counts[c] for c in g.cells) - g.share * total) <= targets.tolerance * total + off_by + 1e-9
        for g in targets.groups
    )


@pytest.mark.parametrize("kind", KINDS)
@given(available=st.lists(st.integers(0, 6), min_size=4, max_size=4), rounded=st.booleans())
@settings(max_examples=25, deadline=None)
def test_largest_balanced_set_is_as_large_as_the_best_of_all_choices(
    kind: str, available: list[int], rounded: bool
) -> None:
    """Of all choices within what there is, none that is balanced is larger than the answer, which is balanced."""
    targets = KINDS[kind]
    off_by = 1 - 1e-4 if rounded else 0.0
    every = product(*(range(n + 1) for n in available))
    best = max(sum(x) for x in every if balanced(targets, x, off_by))

    found = largest_balanced(targets, dict(zip(targets.cells, available, strict=True)), rounded=rounded)
    counts = tuple(found.counts[c] for c in targets.cells)

    assert found.size == best
    assert balanced(targets, counts, off_by)
    assert all(0 <= x <= n for x, n in zip(counts, available, strict=True))


@given(st.permutations(list(range(4))), st.lists(st.integers(0, 30), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_largest_balanced_set_is_one_answer(order: list[int], available: list[int]) -> None:
    """The order in which shares and availability are written does not decide between equally large sets."""
    targets = KINDS["marginal"]
    tally = dict(zip(targets.cells, available, strict=True))
    turned = {f: dict(reversed(s.items())) for f, s in reversed(HALF.items())}
    again = targets_of(list(KNOWN), KNOWN, None, turned)

    assert (
        largest_balanced(targets, tally).counts
        == largest_balanced(again, {targets.cells[n]: available[n] for n in order}).counts
    )


def test_equal_cells_are_capped_by_the_scarcest_which_is_named_as_the_next_to_make() -> None:
    """With 3 of the scarcest of four equal cells the set has 12, and each further one of it is worth four."""
    targets = KINDS["equal"]
    available = dict.fromkeys(targets.cells, 50) | {Cell(("dark", "feminine")): 3}

    found = largest_balanced(targets, available)

    assert set(found.counts.values()) == {3}
    assert found.next_cells == (Cell(("dark", "feminine")),)
    assert found.gains[Cell(("dark", "feminine"))] == pytest.approx(4.0)


def test_a_scarce_value_is_next_in_every_cell_that_holds_it() -> None:
    """Where dark is scarce under marginal targets, a further dark identity of either presentation is worth two."""
    targets = KINDS["marginal"]
    available = {c: (10 if c.values[0] == "dark" else 100) for c in targets.cells}

    found = largest_balanced(targets, available)

    assert found.size == 40
    assert {c.values[0] for c in found.next_cells} == {"dark"}
    assert all(found.gains[c] == pytest.approx(2.0) for c in found.next_cells)


def test_nothing_balanced_takes_everybody() -> None:
    """Without fields the largest set is all that there is."""
    targets = targets_of([], KNOWN, None, None)

    assert largest_balanced(targets, {Cell(()): 7}).counts == {Cell(()): 7}


def test_shares_of_a_third_lose_nobody_to_rounding_where_it_is_allowed() -> None:
    """Ten of each value under shares 0.333, 0.333 and 0.334 are a set of 30 rounded, and of none exactly."""
    three = {"tone": ("a", "b", "c")}
    targets = targets_of(["tone"], three, {"a": 0.333, "b": 0.333, "c": 0.334}, None)
    available = dict.fromkeys(targets.cells, 10)

    assert largest_balanced(targets, available).size == 0
    assert largest_balanced(targets, available, rounded=True).size == 30


@given(st.lists(st.integers(0, 8), min_size=4, max_size=4), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_fewest_more_is_the_least_of_all_tables_with_the_marginals(have: list[int], count: int) -> None:
    """No table of the wanted size and marginals, of all there are, lacks fewer identities."""
    targets = KINDS["marginal"]
    cells, available = targets.cells, dict(zip(targets.cells, have, strict=True))
    plain = quotas(targets, count)
    tone, presentation = (
        [sum(n for c, n in plain.items() if c.values[p] == v) for v in KNOWN[f]] for p, f in enumerate(KNOWN)
    )
    tables = [
        (a, tone[0] - a, presentation[0] - a, tone[1] - presentation[0] + a)
        for a in range(min(tone[0], presentation[0]) + 1)
        if tone[1] - presentation[0] + a >= 0
    ]
    least = min(sum(max(0, x - n) for x, n in zip(t, have, strict=True)) for t in tables)

    quota = fewest_more(targets, count, available)

    assert sum(max(0, quota[c] - available[c]) for c in cells) == least
    assert tuple(quota[c] for c in cells) in tables


def test_a_cell_that_hardly_comes_out_is_left_to_others_under_marginal_targets() -> None:
    """At a price of 20 for dark/feminine the quota asks for none of it, and the totals stand."""
    targets = KINDS["marginal"]
    price = dict.fromkeys(targets.cells, 2.0) | {Cell(("dark", "feminine")): 20.0}

    quota = fewest_more(targets, 20, dict.fromkeys(targets.cells, 0), cost=price)

    assert quota == {
        Cell(("light", "feminine")): 10, Cell(("light", "masculine")): 0,
        Cell(("dark", "feminine")): 0, Cell(("dark", "masculine")): 10,
    }  # fmt: skip


def test_a_joint_target_has_one_quota_whatever_is_missing() -> None:
    """Prices change nothing where every cell has its share."""
    targets = KINDS["equal"]

    assert fewest_more(targets, 8, {}, cost={targets.cells[0]: 99.0}) == dict.fromkeys(targets.cells, 2)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**40), unique=True, min_size=2, max_size=50))
def test_stable_order_is_one_to_one_and_asks_nobody_else(seed: int, numbers: list[int]) -> None:
    """An identity's key follows from seed and number alone, and no two share one."""
    keys = stable_order(seed, np.array(numbers, np.uint64))

    assert len(set(keys.tolist())) == len(numbers)
    assert keys[-1] == stable_order(seed, np.array(numbers[-1:], np.uint64))[0]


def test_stable_order_depends_on_the_seed_and_is_even() -> None:
    """Another seed gives another order, and low and high numbers come first equally often."""
    numbers = np.arange(20_000, dtype=np.uint64)
    a, b = stable_order(1, numbers), stable_order(2, numbers)

    assert abs(np.corrcoef(a.astype(float), b.astype(float))[0, 1]) < 0.03
    assert abs(np.corrcoef(a.astype(float), numbers.astype(float))[0, 1]) < 0.03


def test_ranks_run_by_quality_then_by_order_inside_each_cell() -> None:
    """The best comes first, equal ones by their key, one without a number last; cells do not mix."""
    cells = np.array([0, 1, 0, 0, 1, 0])
    quality = np.array([0.5, 0.1, 0.9, 0.5, 0.2, np.nan])
    order = np.array([7, 0, 3, 2, 1, 0], np.uint64)

    assert rank_in_cell(cells, quality, order).tolist() == [2, 1, 0, 1, 0, 3]
    assert rank_in_cell(cells[:0], quality[:0], order[:0]).tolist() == []


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_nobody_stands_behind_a_worse_one_of_the_same_cell(seed: int, count: int) -> None:
    """Ranks of a cell are 0, 1, 2... by falling quality, and whoever has none stands behind all who have one."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 4, count)
    quality = np.where(rng.random(count) < 0.1, np.nan, rng.integers(0, 5, count) / 4)
    ranks = rank_in_cell(cells, quality, stable_order(3, np.arange(count, dtype=np.uint64)))

    for cell in range(4):
        mine = np.flatnonzero(cells == cell)
        ordered = quality[mine[np.argsort(ranks[mine])]]
        known = ordered[~np.isnan(ordered)]
        assert sorted(ranks[mine].tolist()) == list(range(len(mine)))
        assert (np.diff(known) <= 0).all()
        assert np.isnan(ordered[len(known) :]).all()


def test_ranks_do_not_depend_on_where_a_candidate_stands() -> None:
    """The same identities have the same ranks whatever the order in which they are handed over."""
    rng = np.random.default_rng(0)
    cells, quality, numbers = rng.integers(0, 4, 200), rng.integers(0, 3, 200) / 2, np.arange(200, dtype=np.uint64)
    turned = rng.permutation(200)

    first = rank_in_cell(cells, quality, stable_order(1, numbers))
    second = rank_in_cell(cells[turned], quality[turned], stable_order(1, numbers[turned]))

    assert second.tolist() == first[turned].tolist()
