"""Figures of balance: each against a value computed by hand, and laws that hold for any counts."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.balance_figures import (
    adjusted_shares,
    association,
    confusion_of_cells,
    cramers_v,
    divergence,
    effective_number,
    evenness,
    mean_pairwise_cos,
    representation,
    soft_counts,
    total_variation,
    wilson_interval,
)
from pipeline.domain.records import Cell, unit_rows


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_adjusted_shares_invert_a_known_confusion(cells: int, seed: int) -> None:
    """Shares read through a known confusion come back as the true ones."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(cells))
    confusion = 0.7 * np.eye(cells) + 0.3 * rng.dirichlet(np.ones(cells), cells)

    np.testing.assert_allclose(adjusted_shares(true @ confusion, confusion), true, atol=1e-6)


def test_adjusted_shares_are_shares_where_reading_is_impossible() -> None:
    """A reading that no truth could give still ends in shares that are at least 0 and sum to 1."""
    confusion = np.array([[0.8, 0.2], [0.2, 0.8]])
    got = adjusted_shares(np.array([0.05, 0.95]), confusion)

    np.testing.assert_allclose(got, [0.0, 1.0], atol=1e-9)


def test_confusion_of_cells_is_the_product_of_the_fields() -> None:
    """A cell is read right where every field is; rows sum to 1."""
    confusion = {
        "a": {"x": {"x": 0.9, "y": 0.1}, "y": {"y": 1.0}},
        "b": {"p": {"p": 0.8, "q": 0.2}, "q": {"p": 0.3, "q": 0.7}},
    }
    cells = [Cell(v) for v in product("xy", "pq")]
    table = confusion_of_cells(cells, ["a", "b"], confusion)

    np.testing.assert_allclose(table[0], [0.72, 0.18, 0.08, 0.02])
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    assert table[2, 0] == 0.0


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval_of_published_cases(hits: int, total: int, low: float, high: float) -> None:
    """The 95 % interval is that of the published formula, also at 0 and at 1."""
    assert wilson_interval(hits, total) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_of_nothing_is_everything() -> None:
    """Without observations any share is possible."""
    assert wilson_interval(0, 0) == (0.0, 1.0)


COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=8).filter(any)


@pytest.mark.parametrize(
    ("counts", "number", "even"),
    [
        ([10, 10, 10, 10], 4.0, 1.0),
        ([8, 0, 0], 1.0, 0.0),
        ([1, 1, 0, 0], 2.0, 0.5),
        ([3, 1], 1.7547654, 0.8112781),  # exp(ln 4 - 0.75 ln 3), and that entropy in bits
        ([0, 0], 0.0, None),
        ([5], 1.0, None),
    ],
)
def test_effective_number_and_evenness_of_known_counts(counts: list[int], number: float, even: float | None) -> None:
    """The effective number of cells and its evenness come out as computed by hand."""
    assert effective_number(counts) == pytest.approx(number, abs=1e-6)
    assert evenness(counts) == (None if even is None else pytest.approx(even, abs=1e-6))


@given(COUNTS)
def test_effective_number_lies_between_one_and_the_cells_that_somebody_is_in(counts: list[int]) -> None:
    """No spread of people over k cells counts as fewer than one cell or more than k."""
    filled = sum(n > 0 for n in counts)

    assert 1 - 1e-9 <= effective_number(counts) <= filled + 1e-9


def test_divergence_of_known_counts() -> None:
    """Three and one against halves: with half an identity added everywhere, 0.7 ln 1.4 + 0.3 ln 0.6."""
    assert divergence([3, 1], [0.5, 0.5]) == pytest.approx(0.7 * math.log(1.4) + 0.3 * math.log(0.6))
    assert divergence([4, 4], [0.5, 0.5]) == 0.0
    assert divergence([0, 0], [0.5, 0.5]) == 0.0


@given(COUNTS, st.data())
def test_divergence_is_finite_and_not_negative(counts: list[int], data: st.DataObject) -> None:
    """Empty cells and targets of zero stay finite, and only equal shares are at no distance."""
    raw = data.draw(st.lists(st.integers(0, 9), min_size=len(counts), max_size=len(counts)).filter(any))
    target = [w / sum(raw) for w in raw]

    assert 0.0 <= divergence(counts, target) < math.inf
    assert divergence(counts, [n / sum(counts) for n in counts]) == pytest.approx(0.0, abs=1e-12)


def test_total_variation_and_representation_of_known_counts() -> None:
    """Three of four where a half is asked: a quarter lies wrong, and the other half is represented by half."""
    assert total_variation([3, 1], [0.5, 0.5]) == 0.25
    assert representation([3, 1], [0.5, 0.5]) == pytest.approx((1 / 3, 0.5))
    assert representation([6, 2, 0], [0.75, 0.25, 0.0]) == (1.0, 1.0)
    assert representation([4, 0], [0.5, 0.5]) == (0.0, 0.0)
    assert total_variation([0, 0], [0.5, 0.5]) is None
    assert representation([0, 0], [0.5, 0.5]) == (None, None)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[5, 5], [5, 5]], 0.0),
        ([[7, 0], [0, 3]], 1.0),
        ([[3, 1], [1, 3]], 0.5),  # chi2 = 4 * 1 / 2 = 2 over 8 people
        ([[4, 0, 0], [0, 4, 4]], 1.0),
        ([[4, 2], [0, 0]], None),
        ([[0, 0], [0, 0]], None),
    ],
)
def test_cramers_v_of_known_tables(table: list[list[int]], expected: float | None) -> None:
    """Independence is 0, one field following from the other is 1, and one row alone says nothing."""
    assert cramers_v(table) == (None if expected is None else pytest.approx(expected))


def test_association_names_each_pair_of_fields_once() -> None:
    """Three fields give three pairs, each with the table summed over the third."""
    fields = [("a", ("x", "y")), ("b", ("p", "q")), ("c", ("u", "v"))]
    cells = [Cell(v) for v in product(*(values for _, values in fields))]
    counts = [4.0 if (c.values[0] == "x" and c.values[1] == "p") or c.values[:2] == ("y", "q") else 0.0 for c in cells]

    found = association(cells, counts, fields)

    assert [f["between"] for f in found] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert [f["cramers_v"] for f in found] == pytest.approx([1.0, 0.0, 0.0])


def test_soft_counts_of_two_identities_by_hand() -> None:
    """Probabilities multiply over fields and add up over identities; what is certain has no error."""
    cells = [Cell(v) for v in product("xy", "pq")]
    certain = {"a=x": 1.0, "a=y": 0.0, "b=p": 1.0, "b=q": 0.0}
    torn = {"a=x": 0.5, "a=y": 0.5, "b=p": 0.8, "b=q": 0.2}

    counts, error = soft_counts([certain, torn], cells, ["a", "b"])

    np.testing.assert_allclose(counts, [1.4, 0.1, 0.4, 0.1])
    np.testing.assert_allclose(error, np.sqrt(2) * np.array([0.3, 0.05, 0.2, 0.05]))
    np.testing.assert_allclose(soft_counts([certain, certain], cells, ["a", "b"])[1], 0.0)


def test_soft_counts_scale_posteriors_that_do_not_sum_to_one() -> None:
    """Pooled probabilities that sum to a little more than 1 still make one identity."""
    counts, _ = soft_counts([{"a=x": 0.9, "a=y": 0.3}], [Cell(("x",)), Cell(("y",))], ["a"])

    np.testing.assert_allclose(counts, [0.75, 0.25])


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_mean_pairwise_cosine_is_that_of_all_pairs(count: int, seed: int) -> None:
    """The sum of vectors gives what writing out the pairs does."""
    unit = unit_rows(np.random.default_rng(seed).standard_normal((count, 5)), "test")
    cos = unit.astype(np.float64) @ unit.astype(np.float64).T

    assert mean_pairwise_cos(unit) == pytest.approx(cos[np.triu_indices(count, 1)].mean(), abs=1e-6)
    assert mean_pairwise_cos(unit[:1]) is None
