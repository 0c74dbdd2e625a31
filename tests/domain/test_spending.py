"""Budgets and deadlines as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.domain.compute import Compute
from pipeline.domain.errors import UserError
from pipeline.domain.spending import budget_overrides, deadline_s, moment

NOON = 1_900_000_000.0


@pytest.mark.parametrize(
    ("text", "after_s"),
    [("6h", 21_600), ("90min", 5_400), ("45s", 45), ("1d12h", 129_600), ("2h30min", 9_000), ("1d1h1min1s", 90_061)],
)
def test_a_duration_counts_from_the_start(text: str, after_s: int) -> None:
    """Days, hours, minutes and seconds, in this order, each at most once."""
    assert deadline_s(text, NOON) == NOON + after_s


@given(st.integers(0, 4_000_000_000))
def test_a_moment_with_its_zone_is_that_moment_whenever_it_is_read(at_s: int) -> None:
    """What we write of a moment is read as that moment, whatever the time is now."""
    assert deadline_s(moment(at_s), NOON) == at_s


@pytest.mark.parametrize(
    ("text", "now", "then"),
    [
        ("06:00Z", "2031-05-01T02:00Z", "2031-05-01T06:00Z"),
        ("06:00Z", "2031-05-01T06:00Z", "2031-05-02T06:00Z"),
        ("06:00Z", "2031-12-31T22:30Z", "2032-01-01T06:00Z"),
        ("06:00+02:00", "2031-05-01T03:59Z", "2031-05-01T04:00Z"),
        ("06:00+02:00", "2031-05-01T23:00Z", "2031-05-02T04:00Z"),
        ("01:30-05:00", "2031-05-01T05:00Z", "2031-05-01T06:30Z"),
    ],
)
def test_a_time_of_day_is_the_next_one(text: str, now: str, then: str) -> None:
    """So a schedule that begins in the evening ends in the morning, in the zone that it says."""
    assert deadline_s(text, deadline_s(now, 0.0)) == deadline_s(then, 0.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2031-05-01T06:00+02:00", None),
        ("2031-05-01T06:00", "without a zone"),
        ("06:00", "without a zone"),
        ("26:00Z", "no time"),
        ("06:00Z", None),
        ("tomorrow", "no time; give a duration such as 6h"),
        ("", "no time"),
        ("0h", "no time"),
        ("-3h", "no time"),
        ("5m", "no time"),
        ("3h2d", "no time"),
    ],
)
def test_what_is_no_deadline_is_refused_with_what_to_give(text: str, told: str | None) -> None:
    """In a recipe it is a mistake of one line; minutes are `min`, so that nobody waits for months."""
    if told is None:
        assert Compute(deadline=text).deadline == text
        return
    with pytest.raises(ValidationError, match=told):
        Compute(deadline=text)


def test_a_moment_that_yaml_has_read_already_is_taken() -> None:
    """YAML makes a date of a moment with seconds; it means the same."""
    import yaml

    said = yaml.safe_load("deadline: 2031-05-01T06:00:00Z")
    assert deadline_s(str(Compute.model_validate(said).deadline), 0.0) == deadline_s("2031-05-01T06:00Z", 0.0)


def test_budgets_become_overrides() -> None:
    """Several at once or one by one, by their names on the command line."""
    assert budget_overrides(["gpu-hours=2.5, images=1000", "worker-hours=8"]) == [
        "compute.budget.gpu_hours=2.5",
        "compute.budget.images=1000",
        "compute.budget.worker_hours=8",
    ]


@pytest.mark.parametrize("text", ["hours=3", "gpu-hours", "", "gpu-hours:3", "images=1,=2"])
def test_a_budget_of_nothing_that_is_counted_is_refused(text: str) -> None:
    """One line names those that there are."""
    with pytest.raises(UserError, match=r"give one or more of gpu-hours=N, worker-hours=N, images=N"):
        budget_overrides([text])


@pytest.mark.parametrize(
    ("budget", "gpus", "told"),
    [
        ({"gpu_hours": 1}, 0.0, "never spent while gpus is 0"),
        ({"gpu_hours": -1}, 1.0, "greater than 0"),
        ({"images": 0}, 0.0, "greater than or equal to 1"),
        ({"worker_hours": float("nan")}, 0.0, "finite"),
        ({"hours": 1}, 0.0, "Extra inputs"),
    ],
)
def test_a_budget_that_would_end_nothing_or_everything_is_refused(
    budget: dict[str, float], gpus: float, told: str
) -> None:
    """GPU hours without a GPU, and amounts that are no amounts."""
    with pytest.raises(ValidationError, match=told):
        Compute.model_validate({"budget": budget, "gpus": gpus})
