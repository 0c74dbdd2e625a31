"""Balance: quotas add up, meet their targets exactly, and are one answer."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.balance import (
    largest_remainder,
    quotas,
    require_room,
    targets_of,
)
from pipeline.domain.errors import RecipeError, TargetNotReachedError
from pipeline.domain.records import Cell

KNOWN = {"tone": ("light", "mid", "dark"), "presentation": ("feminine", "masculine")}
EVEN = {"tone": {"light": 0.5, "mid": 0.25, "dark": 0.25}, "presentation": {"feminine": 0.5, "masculine": 0.5}}
SHARES = st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any).map(lambda w: [x / sum(w) for x in w])


@given(SHARES, st.integers(0, 10**7))
def test_largest_remainder_gives_every_share_its_floor_or_one_more(shares: list[float], count: int) -> None:
    """Numbers sum to the count and each is the floor of its ideal or one above."""
    numbers = largest_remainder(shares, count)

    assert sum(numbers) == count
    for share, number in zip(shares, numbers, strict=True):
        assert share * count - 1 - 1e-6 < number < share * count + 1 + 1e-6
        assert number == 0 or share > 0


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ([1 / 6] * 6, 100, [17, 17, 17, 17, 16, 16]),
        ([0.1] * 10, 30, [3] * 10),
        ([0.5, 0.5], 1, [1, 0]),
        ([0.47, 0.16, 0.37], 10, [5, 1, 4]),
        ([1.0, 0.0], 7, [7, 0]),
        ([0.5000005, 0.5000005], 10**7, [5 * 10**6, 5 * 10**6]),
        ([0.4999995, 0.4999995], 10**7, [5 * 10**6, 5 * 10**6]),
    ],
)
def test_largest_remainder_of_known_cases(shares: list[float], count: int, expected: list[int]) -> None:
    """Known cases come out as computed by hand, ties going to the earlier entry."""
    assert largest_remainder(shares, count) == expected


def test_equal_shares_over_all_cells_by_default() -> None:
    """Six cells and 100 identities owe 17, 17, 17, 17, 16 and 16, in the order of the fields' values."""
    owed = quotas(targets_of(["tone", "presentation"], KNOWN, None, None), 100)

    assert list(owed.values()) == [17, 17, 17, 17, 16, 16]
    assert str(next(iter(owed))) == "light/feminine"


def test_joint_shares_are_met_and_unnamed_cells_owe_nothing() -> None:
    """Shares by cell name decide; a cell that is not named owes none."""
    owed = quotas(targets_of(["tone"], KNOWN, {"light": 0.25, "dark": 0.75}, None), 8)

    assert {str(c): n for c, n in owed.items()} == {"light": 2, "mid": 0, "dark": 6}


def test_nothing_balanced_is_one_cell() -> None:
    """Without fields all identities lie in the cell `all`."""
    assert quotas(targets_of([], KNOWN, None, None), 5) == {Cell(()): 5}


@given(st.integers(1, 5000))
@settings(max_examples=12)
def test_marginal_quotas_meet_every_marginal_exactly(count: int) -> None:
    """Whatever the count, each field's totals are the largest-remainder numbers of its shares."""
    owed = quotas(targets_of(["tone", "presentation"], KNOWN, None, EVEN), count)

    for position, (field, values) in enumerate(KNOWN.items()):
        totals = [sum(n for c, n in owed.items() if c.values[position] == v) for v in values]
        assert totals == largest_remainder([EVEN[field][v] for v in values], count)
    assert min(owed.values()) >= 0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 11])
def test_marginal_quotas_are_a_nearest_table(count: int) -> None:
    """No table with the same marginals lies nearer to the proportional one, found by trying them all."""
    targets = targets_of(["tone", "presentation"], KNOWN, None, EVEN)
    owed = quotas(targets, count)
    cells = targets.cells
    ideal = [count * EVEN["tone"][c.values[0]] * EVEN["presentation"][c.values[1]] for c in cells]
    tone = largest_remainder(list(EVEN["tone"].values()), count)
    feminine = largest_remainder([0.5, 0.5], count)[0]
    tables = [
        [n for t, f in zip(tone, row, strict=True) for n in (f, t - f)]
        for row in product(*(range(t + 1) for t in tone))
        if sum(row) == feminine
    ]
    best = min(sum(abs(a - b) for a, b in zip(table, ideal, strict=True)) for table in tables)

    assert sum(abs(owed[c] - i) for c, i in zip(cells, ideal, strict=True)) == pytest.approx(best, abs=1e-6)


def test_tie_between_nearest_tables_has_one_answer() -> None:
    """Where two tables are equally near, the bounds and the order of the recipe do not decide between them."""
    half = {"a": {"x": 0.5, "y": 0.5}, "b": {"p": 0.5, "q": 0.5}}
    known = {"a": ("x", "y"), "b": ("p", "q")}
    first = quotas(targets_of(["a", "b"], known, None, half), 2)

    roomy = quotas(targets_of(["a", "b"], known, None, half), 2, dict.fromkeys(first, 9))
    reversed_shares = {f: dict(reversed(shares.items())) for f, shares in reversed(half.items())}
    again = quotas(targets_of(["a", "b"], known, None, reversed_shares), 2)

    assert first == roomy == again
    assert sorted(first.values()) == [0, 0, 1, 1]


def test_marginal_quotas_stay_within_what_is_available() -> None:
    """Where a cell is short the others make up for it, the marginals still exact."""
    targets = targets_of(["tone", "presentation"], KNOWN, None, EVEN)
    available = dict.fromkeys(targets.cells, 100) | {Cell(("light", "feminine")): 3}

    owed = quotas(targets, 40, available)

    assert owed[Cell(("light", "feminine"))] == 3
    assert sum(n for c, n in owed.items() if c.values[0] == "light") == 20
    assert sum(n for c, n in owed.items() if c.values[1] == "feminine") == 20


def test_target_that_no_choice_meets_ends_with_what_there_is() -> None:
    """Too few of one value is an error that names the availability by cell and the knob to turn."""
    targets = targets_of(["tone", "presentation"], KNOWN, None, EVEN)
    available = dict.fromkeys(targets.cells, 100) | {Cell(("dark", p)): 2 for p in KNOWN["presentation"]}

    with pytest.raises(TargetNotReachedError, match=r"40 identities.*dark/feminine 2.*enrol\.rounds"):
        quotas(targets, 40, available)


@pytest.mark.parametrize(
    ("by", "shares", "marginal", "message"),
    [
        (["age"], None, None, "no measure estimates 'age'.*presentation, tone"),
        (["tone"], {"light": 0.5, "dark": 0.4}, None, "add up to 0.9"),
        (["tone"], {"light": 1.5, "dark": -0.5}, None, "got -0.5; a share is at least 0"),
        (["tone"], {"light": float("nan"), "dark": 0.5}, None, "got nan; a share is at least 0"),
        (["tone"], {"pale": 1.0}, None, "unknown 'pale'; it is one of light, mid, dark"),
        (["tone"], {"ligth": 1.0}, None, "unknown 'ligth'; did you mean 'light'"),
        (["tone", "presentation"], {"feminine/light": 1.0}, None, "did you mean 'light/feminine'"),
        (["tone", "presentation"], {"light": 1.0}, None, "unknown 'light'; .*it is one of light/feminine, light/masc"),
        (["tone"], None, {"tone": {"light": 0.5, "feminine": 0.5}}, "balance.marginal.tone: unknown 'feminine'"),
        (["tone"], {"light": 1.0}, {"tone": {"light": 1.0}}, "either `shares`"),
        (["tone"], None, {"presentation": {"feminine": 1.0}}, "presentation not named in balance.by"),
    ],
)
def test_impossible_target_is_refused_by_name(by: list[str], shares: object, marginal: object, message: str) -> None:
    """A target that cannot be meant is an error that names the field and what is allowed."""
    with pytest.raises(RecipeError, match=message):
        targets_of(by, KNOWN, shares, marginal)  # type: ignore[arg-type]


def test_many_cells_are_not_all_listed() -> None:
    """An unknown cell among 126 names the nearest and how many there are, not all of them."""
    known = {"race": tuple("abcdefg"), "presentation": ("feminine", "masculine"), "age": tuple("123456789")}

    with pytest.raises(RecipeError, match=r"did you mean 'a/feminine/1'\? it is one of .* and 114 more$"):
        targets_of(list(known), known, {"1/a/feminine": 1.0}, None)


@pytest.mark.parametrize(
    ("shares", "marginal", "count", "least"),
    [
        (None, None, 5, 6),
        ({"light/feminine": 0.9, "dark/feminine": 0.1}, None, 5, 6),
        (None, {"tone": {"light": 0.8, "mid": 0.1, "dark": 0.1}}, 4, 7),
    ],
)
def test_a_count_that_leaves_a_share_empty_is_refused_with_the_least_that_does_not(
    shares: dict[str, float] | None, marginal: dict[str, dict[str, float]] | None, count: int, least: int
) -> None:
    """Fewer identities than shares is a mistake that names them; the count it gives is enough."""
    targets = targets_of(["tone", "presentation"], KNOWN, shares, marginal)

    with pytest.raises(
        RecipeError, match=rf"identities.count: {count} identities leave nobody .* at least {least}, or"
    ):
        require_room(targets, count)
    require_room(targets, least)


def test_a_cell_without_a_share_needs_no_room() -> None:
    """A share of zero owes nobody, however small the count."""
    require_room(targets_of(["tone"], KNOWN, {"light": 1.0, "dark": 0.0}, None), 1)


@pytest.mark.parametrize("marginal", [None, EVEN])
def test_a_tolerance_is_used_only_where_what_is_available_forces_it(
    marginal: dict[str, dict[str, float]] | None,
) -> None:
    """With enough of everything numbers are exact; a cell that is short by less than the tolerance stays short."""
    by = ["tone", "presentation"]
    targets = targets_of(by, KNOWN, None, marginal, tolerance=0.05)
    exact = quotas(targets_of(by, KNOWN, None, marginal), 60)
    few = {c: n - 1 if c.values[0] == "dark" else 100 for c, n in exact.items()}

    assert quotas(targets, 60, dict.fromkeys(exact, 100)) == exact
    chosen = quotas(targets, 60, few)
    assert sum(chosen.values()) == 60
    assert all(chosen[c] == few[c] for c in few if c.values[0] == "dark")
    with pytest.raises(TargetNotReachedError, match=r"60 identities.*balance\.tolerance"):
        quotas(targets, 60, {c: n if c.values[0] != "dark" else 0 for c, n in few.items()})
