"""Feasibility: what a sample of candidates tells about many more is borne out by separating them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.errors import BadVectorError
from pipeline.domain.feasibility import Feasibility
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.separation import separate

Population = Callable[[np.random.Generator, int], np.ndarray]
CENTRES = np.random.default_rng(99).standard_normal((50, 32))


def sphere(dims: int) -> Population:
    """Candidates that lie evenly on a sphere."""
    return lambda rng, count: rng.standard_normal((count, dims))


def flattened(dims: int, decay: float) -> Population:
    """Candidates that vary less and less along their axes, as those of a bank do."""
    return lambda rng, count: rng.standard_normal((count, dims)) * np.exp(-decay * np.arange(dims))


def off_centre(dims: int, by: float) -> Population:
    """Candidates around one direction: some parts of the sphere are crowded."""
    return lambda rng, count: rng.standard_normal((count, dims)) + by * np.eye(dims)[0]


def clusters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Candidates that are fifty people, seen again and again."""
    return CENTRES[rng.integers(0, 50, count)] + 0.3 * rng.standard_normal((count, 32))


@pytest.mark.parametrize(
    ("population", "t", "within"),
    [
        pytest.param(sphere(3), 0.9, 0.2, id="a packing that is full"),
        pytest.param(sphere(8), 0.8, 0.2, id="a packing that fills"),
        pytest.param(sphere(32), 0.5, 0.25, id="sphere"),
        pytest.param(sphere(200), 0.24, 0.25, id="high sphere"),
        pytest.param(sphere(64), 0.5, 0.1, id="hardly any collision"),
        pytest.param(flattened(64, 0.05), 0.6, 0.2, id="flattened"),
        pytest.param(flattened(64, 0.1), 0.7, 0.25, id="flatter"),
        pytest.param(off_centre(64, 4), 0.5, 0.25, id="crowded"),
        pytest.param(off_centre(128, 5), 0.4, 0.25, id="crowded, higher"),
        pytest.param(clusters, 0.8, 0.25, id="people seen again"),
    ],
)
def test_what_was_expected_is_what_separation_keeps(population: Population, t: float, within: float) -> None:
    """From 2,000 candidates the number kept of 8,000 others is foretold, nearly always within the interval."""
    inside = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rows = unit_rows(population(rng, 10_000), "candidates")
        told = Feasibility.of(rows[:2000], t).kept(8000)
        kept = int(separate(rows[2000:], t).kept_N.sum())
        assert told.low <= told.number <= told.high
        assert abs(told.number / kept - 1) <= within
        inside += told.low <= kept <= told.high

    assert inside >= 2


def test_growth_is_foretold_beside_what_is_kept() -> None:
    """New candidates beside many kept ones are fewer to stay, and how many is foretold from a sample all the same."""
    rows = unit_rows(np.random.default_rng(3).standard_normal((11_000, 32)), "candidates")
    before = rows[3000:7000][separate(rows[3000:7000], 0.5).kept_N]
    grown = int(separate(rows[7000:], 0.5, kept_before_ME=before).kept_N.sum())
    sample = Feasibility.of(rows[:3000], 0.5)
    told = sample.kept(4000, before=len(before))

    assert told.low <= grown <= told.high
    assert told.high < sample.kept(4000).low


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 60),
    t=st.floats(-0.5, 0.95),
    wanted=st.integers(1, 10**6),
    before=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_numbers_are_in_order_whatever_the_sample(seed: int, count: int, t: float, wanted: int, before: int) -> None:
    """Bounds enclose the number, no more is kept than proposed, and more candidates never keep fewer."""
    sample = Feasibility.of(unit_rows(np.random.default_rng(seed).standard_normal((count, 6)), "candidates"), t)
    told, more = sample.kept(wanted, before), sample.kept(2 * wanted, before)
    need = sample.candidates(wanted, before)

    assert 0 <= told.low <= told.number <= told.high <= wanted
    assert told.number <= more.number
    assert wanted * (1 - 1e-6) <= need.low <= need.number <= need.high


def test_candidates_are_the_inverse_of_kept() -> None:
    """What so many candidates are expected to keep takes about so many candidates."""
    sample = Feasibility.of(unit_rows(np.random.default_rng(5).standard_normal((2000, 32)), "candidates"), 0.5)

    assert sample.candidates(round(sample.kept(5000).number)).number == pytest.approx(5000, rel=0.02)


def test_more_than_fit_take_infinitely_many() -> None:
    """Where what is wanted exceeds the packing, no number of candidates is said to do."""
    sample = Feasibility.of(unit_rows(np.random.default_rng(6).standard_normal((2000, 3)), "candidates"), 0.9)

    assert math.isinf(sample.candidates(10_000).number)
    assert sample.kept(10**9).high < 500


def test_a_sample_without_collisions_says_little_about_a_thousand_times_as_many() -> None:
    """Nothing collided: everything is expected to be kept, but the interval widens with the number of candidates."""
    sample = Feasibility.of(unit_rows(np.eye(300) + 1e-3, "candidates"), 0.5)

    assert sample.sample_kept == 300
    assert sample.kept(300).low > 280
    assert sample.kept(300_000).high > 3 * sample.kept(300_000).low


def test_a_sample_that_tells_nothing_is_refused() -> None:
    """One candidate cannot collide, and NaN is no candidate."""
    one: Float32 = np.eye(3, dtype=np.float32)[:1]
    with pytest.raises(ValueError, match="a sample of 1 candidates tells nothing"):
        Feasibility.of(one, 0.5)
    with pytest.raises(BadVectorError, match="row 0 has length nan"):
        Feasibility.of(np.full((3, 3), np.nan, np.float32), 0.5)
