"""Streaming histograms against counting everything at once: exact, in whatever parts the numbers come."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.histograms import FINEST, Histograms

NUMBERS = st.lists(
    st.one_of(st.floats(-1e9, 1e9), st.floats(-1, 1), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])),
    max_size=60,
)


def in_parts(values: list[float], group: list[int], cuts: list[int], most: int) -> Histograms:
    """Return histograms of three groups that took the numbers in parts."""
    held = Histograms(3, most)
    edges = [0, *sorted(c % (len(values) + 1) for c in cuts), len(values)]
    for start, stop in pairwise(edges):
        held.add(np.array(values[start:stop]), np.array(group[start:stop], np.int64))
    return held


@given(NUMBERS, st.lists(st.integers(0, 100), max_size=5), st.integers(2, 40), st.integers(0, 99))
def test_counts_are_those_of_all_numbers_at_once(values: list[float], cuts: list[int], most: int, seed: int) -> None:
    """Edges and counts are those of numpy over all numbers, whatever the parts and their order."""
    group = [n % 3 for n in range(len(values))]
    held = in_parts(values, group, cuts, most)
    mixed = np.random.default_rng(seed).permutation(len(values)).tolist()
    other = in_parts([values[n] for n in mixed], [group[n] for n in mixed], [len(values) // 2], most)
    assert held.width == other.width
    np.testing.assert_array_equal(held.edges_L1, other.edges_L1)
    np.testing.assert_array_equal(held.counts_GL, other.counts_GL)
    sound = [v for v in values if math.isfinite(v)]
    for g in range(3):
        mine = [v for v, owner in zip(values, group, strict=True) if owner == g]
        assert held.missing_G[g] == sum(not math.isfinite(v) for v in mine)
        if sound:
            # a value on an edge counts above it, so the last edge lies beyond every number
            naive = [sum(low <= v < high for v in mine) for low, high in pairwise(held.edges_L1)]
            assert held.counts_GL[g].tolist() == naive
    if sound:
        assert held.edges_L1[0] <= min(sound) < held.edges_L1[1]
        assert held.edges_L1[-2] <= max(sound) < held.edges_L1[-1]
        assert len(held.edges_L1) - 1 <= most
        at_most = math.floor(max(sound) / (held.width / 2)) - math.floor(min(sound) / (held.width / 2)) + 1
        assert held.width == 2.0**FINEST or at_most > most or max(map(abs, sound)) / held.width >= 2**51


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=80), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_lie_in_the_bin_of_the_ranked_number(values: list[float], shares: list[float]) -> None:
    """A quantile is within half a bin of the number of that rank among all of its groups'."""
    held = Histograms(2)
    held.add(values, [n % 2 for n in range(len(values))])
    for share, found in zip(shares, held.quantiles([0, 1], shares), strict=True):
        ranked = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
        assert abs(found - ranked) <= held.width / 2


def test_quantiles_of_no_number_are_refused() -> None:
    """A group without numbers has no quantile."""
    held = Histograms(2)
    with pytest.raises(ValueError, match="no number"):
        held.quantiles([0], [0.5])
    held.add([1.0], [1])
    with pytest.raises(ValueError, match="no number"):
        held.quantiles([0], [0.5])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=300), st.integers(1, 50))
def test_what_is_shown_loses_nobody(values: list[float], bins: int) -> None:
    """Few bins hold every number, in at most as many bins as asked for, equally wide."""
    held = Histograms(1)
    held.add(values, np.zeros(len(values), int))
    shown = held.shown(bins)
    assert shown.counts_GB.sum() == len(values)
    assert 1 <= shown.counts_GB.shape[1] == len(shown.edges_B1) - 1 <= bins
    assert np.allclose(np.diff(shown.edges_B1), np.diff(shown.edges_B1)[0])
    for n, (low, high) in enumerate(pairwise(shown.edges_B1)):
        first, last = n == 0, n == len(shown.edges_B1) - 2
        naive = sum((v >= low or first) and (v < high or last) for v in values)
        assert shown.counts_GB[0, n] == naive


def test_a_few_far_numbers_do_not_squeeze_the_rest_into_one_bin() -> None:
    """The range that is shown leaves a thousandth at either end to the outermost bins."""
    values = np.concatenate([np.linspace(0, 1, 10_000), [40.0, -35.0]])
    held = Histograms(1)
    held.add(values, np.zeros(len(values), int))
    shown = held.shown(20)
    assert shown.edges_B1[0] >= -0.1
    assert shown.edges_B1[-1] <= 1.2
    assert shown.counts_GB.sum() == len(values)
    assert (shown.counts_GB > 0).all()


def test_nothing_has_no_bins() -> None:
    """Without a number, and with NaN alone, there are no bins and nothing is lost."""
    held = Histograms(2)
    held.add([math.nan, math.nan], [0, 1])
    assert held.counts_GL.shape == (2, 0)
    assert held.shown(10).counts_GB.shape == (2, 0)
    assert held.missing_G.tolist() == [1, 1]


@pytest.mark.parametrize(("groups", "most"), [(0, 10), (1, 1)])
def test_senseless_histograms_are_refused(groups: int, most: int) -> None:
    """There is at least one group, and at least two bins."""
    with pytest.raises(ValueError, match="at least 1 group"):
        Histograms(groups, most)
