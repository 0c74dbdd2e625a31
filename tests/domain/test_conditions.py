"""Conditions are spread evenly over an identity's slots, at any number of slots."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.domain.conditions import MAX_CONDITIONS, Choice, Constant, Normal, Uniform, slot_conditions, sobol
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
