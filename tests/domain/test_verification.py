"""Verification figures: held against computations written here from the protocol's description, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.errors import BadVectorError, UserError
from pipeline.domain.verification import (
    Share,
    combined,
    folds_of,
    gap_of,
    rates,
    shares_by_cell,
    squared_distances,
    ten_fold,
)


def made_up(pairs: int, seed: int, apart: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distances and truths: genuine pairs lie nearer by `apart`, on a grid that thresholds meet."""
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    dist = np.clip(rng.normal(1.2 - apart * same, 0.35), 0, 4)
    # many distances exactly on a threshold, so that strict and loose comparison differ
    return np.where(rng.random(pairs) < 0.3, np.round(dist, 2), dist), same


def naive(dist: np.ndarray, same: np.ndarray) -> tuple[list[float], list[float]]:
    """Return accuracy and threshold of each fold, computed pair by pair as the protocol is described."""
    order = list(range(len(dist)))
    accuracies, thresholds = [], []
    start = 0
    for fold in range(10):
        size = len(dist) // 10 + (1 if fold < len(dist) % 10 else 0)
        held = order[start : start + size]
        others = order[:start] + order[start + size :]
        start += size
        best, best_hits = 0.0, -1
        for threshold in np.arange(0, 4, 0.01):
            hits = sum(bool(dist[p] < threshold) == bool(same[p]) for p in others)
            if hits > best_hits:
                best, best_hits = float(threshold), hits
        thresholds.append(best)
        accuracies.append(sum(bool(dist[p] < best) == bool(same[p]) for p in held) / size)
    return accuracies, thresholds


@given(pairs=st.integers(10, 63), seed=st.integers(0, 10**6), apart=st.floats(0, 1))
@settings(max_examples=15)
def test_ten_folds_agree_with_a_naive_computation(pairs: int, seed: int, apart: float) -> None:
    """Thresholds and accuracies of the folds, their mean and standard deviation are those of pair-by-pair counting."""
    dist, same = made_up(pairs, seed, apart)
    found = ten_fold(dist, same)
    accuracies, thresholds = naive(dist, same)

    assert found.fold_threshold == pytest.approx(thresholds)
    assert found.fold_accuracy == pytest.approx(accuracies)
    assert found.accuracy == pytest.approx(sum(accuracies) / 10)
    mean = sum(accuracies) / 10
    assert found.accuracy_std == pytest.approx(math.sqrt(sum((a - mean) ** 2 for a in accuracies) / 10))


def test_the_outcome_of_each_pair_adds_up_to_the_accuracy() -> None:
    """What is said of single pairs is what the folds count: cells are told by it."""
    dist, same = made_up(400, 3)
    found = ten_fold(dist, same)

    assert [found.right_P[p].mean() for p in folds_of(400)] == pytest.approx(found.fold_accuracy)


def test_val_agrees_with_a_naive_computation() -> None:
    """VAL takes the threshold of a FAR of 0.1 % from nine folds, and counts genuine pairs below it in the tenth."""
    dist, same = made_up(3000, 5, apart=0.9)
    found = ten_fold(dist, same)
    grid = np.arange(0, 4, 0.001)
    vals, fars = [], []
    for fold in range(10):
        held = np.zeros(3000, bool)
        held[300 * fold : 300 * (fold + 1)] = True
        impostors = dist[~held & ~same]
        far = [float((impostors < t).mean()) for t in grid]
        place = max(i for i, f in enumerate(far) if f <= 1e-3)
        threshold = grid[place] + (1e-3 - far[place]) / (far[place + 1] - far[place]) * 0.001
        vals.append(float((dist[held & same] < threshold).mean()))
        fars.append(float((dist[held & ~same] < threshold).mean()))

    assert found.val == pytest.approx(np.mean(vals), abs=1e-9)
    assert found.val_std == pytest.approx(np.std(vals), abs=1e-9)
    assert found.val_far == pytest.approx(np.mean(fars), abs=1e-9)


def test_val_is_zero_where_its_rate_is_out_of_reach() -> None:
    """Where no threshold lets 0.1 % of the impostors pass, the threshold is 0 and nothing is accepted."""
    dist = np.array([0.1, 4.0] * 20)
    found = ten_fold(dist, np.array([True, False] * 20))

    assert (found.val, found.val_far) == (0.0, 0.0)
    assert found.accuracy == 1.0


def test_val_is_missing_where_a_fold_has_one_kind_only() -> None:
    """A fold without impostor pairs has no FAR, so VAL is not given; the accuracy is."""
    found = ten_fold(np.linspace(0.1, 2, 20), np.arange(20) < 10)

    assert found.val is None
    assert 0 <= found.accuracy <= 1


def test_a_distance_on_the_threshold_is_not_accepted() -> None:
    """The comparison is strict: pairs at exactly 0 are never called the same at threshold 0."""
    found = ten_fold(np.zeros(20), np.array([False] * 20))

    assert found.fold_threshold == (0.0,) * 10
    assert found.accuracy == 1.0


@pytest.mark.parametrize(
    ("pairs", "sizes"),
    [(6000, [600] * 10), (23, [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]), (10, [1] * 10)],
)
def test_folds_are_contiguous_and_the_first_take_the_rest(pairs: int, sizes: list[int]) -> None:
    """Folds lie as an unshuffled k-fold lays them: each pair in one, in order, the remainder on the first."""
    parts = folds_of(pairs)

    assert [p.stop - p.start for p in parts] == sizes
    assert np.concatenate([np.arange(pairs)[p] for p in parts]).tolist() == list(range(pairs))


def test_embeddings_are_summed_before_they_are_scaled() -> None:
    """A picture whose mirror image has a longer embedding leans towards that one."""
    raw, mirrored = np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])

    unit = combined(raw, mirrored)

    assert unit[0] == pytest.approx(np.array([1, 3]) / math.sqrt(10))
    assert squared_distances(unit, -unit)[0] == pytest.approx(4.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_embeddings_without_direction_are_refused(bad: float) -> None:
    """NaN, infinity and zero are no vectors, and nothing is said of pairs with them."""
    with pytest.raises(BadVectorError, match="1 of 2"):
        combined(np.array([[1.0, 0.0], [bad, bad]]), np.zeros((2, 2)))


def test_distances_that_are_no_numbers_are_refused() -> None:
    """A NaN would be called different, silently."""
    with pytest.raises(BadVectorError):
        ten_fold(np.array([math.nan] * 20), np.ones(20, bool))
    with pytest.raises(BadVectorError):
        rates(np.array([math.nan]), np.array([0.5]))


def test_fewer_pairs_than_folds_are_refused() -> None:
    """Nine pairs cannot be ten folds."""
    with pytest.raises(UserError, match="9 pairs"):
        ten_fold(np.zeros(9), np.ones(9, bool))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_rates_agree_with_a_naive_computation(seed: int) -> None:
    """At each supported level TAR counts from the lowest threshold that lets no more impostors pass."""
    rng = np.random.default_rng(seed)
    genuine, impostor = np.round(rng.normal(0.5, 0.2, 150), 2), np.round(rng.normal(0.0, 0.15, 3100), 2)

    found = rates(genuine, impostor)

    assert [r.far for r in found.at] == [1e-1, 1e-2]
    assert found.insufficient == (1e-3, 1e-4)
    for row in found.at:
        allowed = int(row.far * 3100)
        steps = sorted({*impostor.tolist(), *genuine.tolist(), 2.0})
        lowest = next(t for t in steps if int((impostor >= t).sum()) <= allowed)
        assert row.tar == pytest.approx((genuine >= lowest).mean())
        assert (impostor >= row.cos).sum() <= allowed
        assert row.tar_low <= row.tar <= row.tar_high
    gaps = [abs((impostor >= t).mean() - (genuine < t).mean()) for t in steps]
    best = steps[int(np.argmin(gaps))]
    assert found.eer == pytest.approx(((impostor >= best).mean() + (genuine < best).mean()) / 2)


def test_levels_need_thirty_expected_errors() -> None:
    """299 impostor pairs support no level, 300 the first one; without either kind there is no rate."""
    genuine = np.linspace(0.2, 0.9, 50)

    assert rates(genuine, np.linspace(-1, 0.3, 299)).at == ()
    assert [r.far for r in rates(genuine, np.linspace(-1, 0.3, 300)).at] == [0.1]
    with pytest.raises(UserError, match="both kinds"):
        rates(genuine, np.empty(0))


def test_cells_are_counted_and_pairs_of_no_cell_left_out() -> None:
    """Shares are per cell, by name; pairs across cells belong to none."""
    found = shares_by_cell(["b", "a", "", "a", "b"], [True, False, True, True, True])

    assert {cell: (s.hits, s.total) for cell, s in found.items()} == {"a": (1, 2), "b": (2, 2)}
    assert list(found) == ["a", "b"]


def test_the_gap_has_newcombes_interval() -> None:
    """56 of 70 against 48 of 80 differ by 0.2, from 0.0524 to 0.3339: the example of Newcombe (1998), method 10."""
    gap = gap_of({"x": Share(56, 70), "y": Share(48, 80)})

    assert gap is not None
    assert (gap.highest, gap.lowest) == ("x", "y")
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_small_cells_make_no_gap() -> None:
    """A cell of fewer than thirty pairs is not called the worst; one cell alone has no gap."""
    assert gap_of({"x": Share(56, 70), "y": Share(0, 29)}) is None
    assert gap_of({"x": Share(56, 70), "y": Share(0, 29), "z": Share(35, 70)}) == gap_of(
        {"x": Share(56, 70), "z": Share(35, 70)}
    )
