"""Percentiles of learned scores: they rise with the score and are what the population says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.percentiles import percentile_name, percentile_of, quantiles_of, require_quantiles

LINE = np.linspace(10.0, 20.0, 101)
"""A population whose scores are spread evenly from 10 to 20."""


@pytest.mark.parametrize(
    ("raw", "place"), [(10.0, 0), (12.5, 25), (12.54, 25.4), (20.0, 100), (9.0, 0), (21.0, 100), (math.inf, 100)]
)
def test_a_score_stands_where_the_population_says(raw: float, place: float) -> None:
    """A quarter of the way up is the 25th percentile; beyond either end is that end."""
    assert percentile_of([raw], LINE) == pytest.approx([place], abs=1e-9)


def test_a_common_score_has_the_middle_of_its_places() -> None:
    """Where half of the population shares a score, it is neither the best nor the worst of them."""
    shared = np.concatenate([np.full(50, 1.0), np.full(51, 2.0)])
    assert percentile_of([1.0, 2.0, 1.5], shared).tolist() == [24.5, 75.0, 49.5]


def test_a_score_that_is_none_stays_none() -> None:
    """NaN has no place, so no threshold passes it."""
    assert np.isnan(percentile_of([math.nan, 12.0], LINE)).tolist() == [True, False]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.lists(st.floats(-120, 120), min_size=2, max_size=20))
def test_places_rise_with_scores(population: list[float], scores: list[float]) -> None:
    """A larger score never stands lower, and every place lies in 0 to 100."""
    quantiles = require_quantiles(quantiles_of(population), "test")
    places = percentile_of(sorted(scores), quantiles)
    assert (np.diff(places) >= -1e-9).all()
    assert ((places >= 0) & (places <= 100)).all()


@pytest.mark.parametrize("wrong", [[0.0] * 100, [math.nan] * 101, [*range(100), 98]])
def test_quantiles_are_a_hundred_and_one_that_never_fall(wrong: list[float]) -> None:
    """Too few, no numbers, and a falling one are refused, naming whose they are."""
    with pytest.raises(ValueError, match=r"model-x: .* a card states 101"):
        require_quantiles(wrong, "model-x")


@pytest.mark.parametrize(("score", "name"), [("fiqa", "fiqa_percentile"), ("fiqa@b", "fiqa_percentile@b")])
def test_a_percentile_is_named_after_its_score_and_keeps_the_labeller(score: str, name: str) -> None:
    """What a labeller's measure gives and what the filter looks for is one name."""
    assert percentile_name(score) == name
