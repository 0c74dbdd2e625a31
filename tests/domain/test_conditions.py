"""Conditions are spread evenly over an identity's slots, at any number of slots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.domain.conditions import (
    MAX_CONDITIONS,
    AnyDistribution,
    Choice,
    Constant,
    Normal,
    Uniform,
    slot_conditions,
    sobol,
)
from pipeline.domain.rng import Stream

UNIT = {name: Uniform(use="uniform", low=0, high=1) for name in "abcdefgh"}


@pytest.mark.parametrize("slots", [4, 8, 16, 32])
def test_every_power_of_two_of_slots_is_exactly_stratified(slots: int) -> None:
    """On every axis each of the n equal shares holds exactly one of an identity's first n values."""
    for identity in range(10):
        drawn = [slot_conditions(UNIT, 1, Stream.SAMPLE_CONDITION, identity, k) for k in range(slots)]
        for axis in UNIT:
            assert sorted(int(d[axis] * slots) for d in drawn) == list(range(slots))


@pytest.mark.parametrize("slots", [5, 7, 10, 25, 50])
def test_any_number_of_slots_leaves_no_large_gap(slots: int) -> None:
    """No gap between an identity's sorted values is four times the even one."""
    for identity in range(20):
        drawn = [slot_conditions(UNIT, 1, Stream.SAMPLE_CONDITION, identity, k) for k in range(slots)]
        for axis in UNIT:
            values = np.sort([d[axis] for d in drawn])
            assert np.diff(np.concatenate([[0.0], values, [1.0]])).max() < 4 / slots


def test_the_sequence_is_that_of_joe_and_kuo() -> None:
    """Unshifted points equal those of scipy's Sobol engine on every axis."""
    from scipy.stats import qmc

    theirs = qmc.Sobol(MAX_CONDITIONS, scramble=False, bits=32).random(64)
    ours = [[sobol(axis, k) / 2**32 for axis in range(MAX_CONDITIONS)] for k in range(64)]
    np.testing.assert_array_equal(ours, theirs)


def test_axes_are_not_tied_to_each_other() -> None:
    """Any two conditions of an identity with 64 slots are nearly uncorrelated, so hard ones do not always meet."""
    drawn = [slot_conditions(UNIT, 1, Stream.SAMPLE_CONDITION, 5, k) for k in range(64)]
    values = np.array([[d[axis] for axis in UNIT] for d in drawn])
    correlation = np.corrcoef(values.T) - np.eye(len(UNIT))
    assert np.abs(correlation).max() < 0.3


def test_a_longer_dataset_keeps_the_conditions_of_its_first_slots() -> None:
    """A slot's conditions do not depend on how many slots there are, and retries share them."""
    first = [slot_conditions(UNIT, 1, Stream.SAMPLE_CONDITION, 3, k) for k in range(4)]
    again = [slot_conditions(UNIT, 1, Stream.SAMPLE_CONDITION, 3, k) for k in range(40)]
    assert again[:4] == first


def test_over_identities_the_target_distribution_is_reached() -> None:
    """Means and spreads over many identities are those of the truncated normal and the choice asked for."""
    target = {
        "yaw_deg": Normal(use="normal", std=10, low=-20, high=20),
        "glasses": Choice(use="choice", values=(0, 1), shares=(0.75, 0.25)),
        "size": Constant(use="constant", value=3),
    }
    drawn = [slot_conditions(target, 1, Stream.SAMPLE_CONDITION, i, k) for i in range(300) for k in range(5)]
    yaw = np.array([d["yaw_deg"] for d in drawn])
    assert abs(yaw.mean()) < 0.3
    assert yaw.std() == pytest.approx(8.796, abs=0.2), "normal(0, 10) cut at two standard deviations"
    assert np.abs(yaw).max() <= 20
    assert np.mean([d["glasses"] for d in drawn]) == pytest.approx(0.25, abs=0.02)
    assert {d["size"] for d in drawn} == {3.0}


ANY: TypeAdapter[AnyDistribution] = TypeAdapter(AnyDistribution)
EDGES, SHARES = [-90, -60, -30, 30, 60, 90], [0.1, 0.2, 0.4, 0.2, 0.1]
POSE: dict[str, object] = {"use": "histogram", "edges": EDGES, "shares": SHARES}


def drawn(raw: dict[str, object], points: int = 4000) -> npt.NDArray[np.float64]:
    """Return a distribution's values at evenly spaced shares."""
    target = ANY.validate_python(raw)
    return np.array([target.quantile((n + 0.5) / points) for n in range(points)])


def test_a_histogram_fills_its_bins_in_their_shares() -> None:
    """Every bin gets its share, evenly within; an empty bin gets nothing, and its edges are in no image."""
    found, _ = np.histogram(drawn(POSE), EDGES)
    np.testing.assert_allclose(found / 4000, SHARES, atol=1 / 4000)
    gap = drawn({"use": "histogram", "edges": [0, 1, 2, 3, 4], "shares": [0, 0.5, 0, 0.5]})
    assert ((gap >= 1) & (gap <= 2)).mean() == 0.5
    assert ((gap >= 3) & (gap <= 4)).mean() == 0.5
    even, _ = np.histogram(drawn(POSE), [-30, -15, 0, 15, 30])
    np.testing.assert_allclose(even, 400, atol=1)


def test_empirical_quantiles_are_met_and_joined_by_straight_lines() -> None:
    """The given quantiles come back at their shares, and half way between two of them half way in value."""
    target = ANY.validate_python({"use": "empirical", "quantiles": [0, 1, 10, 10, 40]})
    assert [target.quantile(u) for u in (0.25, 0.375, 0.5, 0.6, 0.875)] == [1, 5.5, 10, 10, 25]
    assert target.bounds() == (0, 40)


def test_a_mixture_gives_each_part_its_share_and_its_own_law() -> None:
    """Four in five frontal, one in five far turned: shares and the law within each part are those asked for."""
    frontal, turned = {"use": "normal", "std": 10, "low": -20, "high": 20}, {"use": "uniform", "low": 60, "high": 90}
    values = drawn({"use": "mixture", "parts": [{"share": 0.8, "of": frontal}, {"share": 0.2, "of": turned}]})
    far = values[values >= 60]
    assert len(far) / len(values) == pytest.approx(0.2, abs=1e-3)
    np.testing.assert_allclose(np.sort(far), np.linspace(60, 90, len(far)), atol=0.1)
    np.testing.assert_allclose(np.sort(values[values < 60]), drawn(frontal, len(values) - len(far)), atol=0.1)


LAWS: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.floats(-90, 90).map(lambda v: {"use": "constant", "value": v}),
    st.tuples(st.floats(-90, 0), st.floats(0.5, 90)).map(lambda e: {"use": "uniform", "low": e[0], "high": e[1]}),
    st.lists(st.floats(-90, 90), min_size=2, max_size=6).map(lambda q: {"use": "empirical", "quantiles": sorted(q)}),
    st.lists(st.integers(1, 9), min_size=1, max_size=5).map(
        lambda parts: {
            "use": "histogram", "edges": list(range(len(parts) + 1)), "shares": [p / sum(parts) for p in parts],
        }
    ),
    st.lists(st.floats(-90, 90), min_size=1, max_size=4).map(lambda v: {"use": "choice", "values": v}),
)  # fmt: skip


@given(law=LAWS, other=LAWS, share=st.floats(0.05, 0.95), u=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_no_distribution_asks_for_more_than_it_says(
    law: dict[str, object], other: dict[str, object], share: float, u: float
) -> None:
    """Whatever u, the value lies within `bounds`: what is checked against a generator's range is all it will see."""
    both = {"use": "mixture", "parts": [{"share": share, "of": law}, {"share": 1 - share, "of": other}]}
    for raw in (law, both):
        target = ANY.validate_python(raw)
        low, high = target.bounds()
        assert low - 1e-9 <= target.quantile(u) <= high + 1e-9


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"use": "histogram", "edges": [0, 1], "shares": [0.5, 0.5]}, "2 shares for 1 bins between 2 edges"),
        ({"use": "histogram", "edges": [0, 2, 1], "shares": [0.5, 0.5]}, "must rise"),
        ({"use": "histogram", "edges": [0, 1, 2], "shares": [0.5, 0.4]}, r"add up to 0\.9"),
        ({"use": "empirical", "quantiles": [1, 0]}, "quantiles never fall"),
        ({"use": "mixture", "parts": [{"share": 0.4, "of": {"use": "constant", "value": 1}}]}, r"add up to 0\.4"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_words(raw: dict[str, object], why: str) -> None:
    """Shares that are not whole, edges that do not rise, quantiles that fall: each is said in one sentence."""
    with pytest.raises(ValidationError, match=why):
        ANY.validate_python(raw)


@pytest.mark.parametrize("slots", [8, 16, 64])
def test_a_pose_plan_is_stratified_over_an_identity(slots: int) -> None:
    """Of n slots each bin of the plan gets its share of n, give or take one image."""
    target = {"yaw_deg": ANY.validate_python(POSE)}
    for identity in range(20):
        yaw = [slot_conditions(target, 3, Stream.SAMPLE_CONDITION, identity, k)["yaw_deg"] for k in range(slots)]
        found, _ = np.histogram(yaw, EDGES)
        assert np.abs(found - np.array(SHARES) * slots).max() <= 1.0 + 1e-9
