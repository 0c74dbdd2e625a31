"""What was asked against what came out, counted bin by bin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.domain.conditions import AnyDistribution, Distribution
from pipeline.domain.variation import OVERALL, Bins, Tally, bins_of, shortfalls

ANY: TypeAdapter[AnyDistribution] = TypeAdapter(AnyDistribution)


def target(**raw: object) -> Distribution:
    """Return a distribution."""
    found: Distribution = ANY.validate_python(raw)
    return found


def tallied(
    plan: Distribution,
    asked: list[float],
    measured: list[float],
    *,
    cells: str = "",
    off: Sequence[bool] = (),
    owners: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the facts of some images; one letter per image names its cell."""
    tally = Tally("yaw_deg", "yaw_deg", bins_of(plan))
    missed = np.array(off or [False] * len(asked), bool)
    mine = owners or range(len(asked))
    tally.add(np.array(asked, float), np.array(measured, float), missed, list(cells or "a" * len(asked)), mine)
    return tally.facts()


@pytest.mark.parametrize(
    ("plan", "names", "planned"),
    [
        (target(use="constant", value=3), ("3",), [1]),
        (target(use="choice", values=(0, 1), shares=(0.75, 0.25)), ("0", "1"), [0.75, 0.25]),
        (
            target(use="histogram", edges=(-90, -30, 30, 90), shares=(0.2, 0.6, 0.2)),
            ("-90 to -30", "-30 to 30", "30 to 90"),
            [0.2, 0.6, 0.2],
        ),
        (
            target(use="uniform", low=0, high=10),
            ("0 to 2", "2 to 4", "4 to 6", "6 to 8", "8 to 10"),
            [0.2, 0.2, 0.2, 0.2, 0.2],
        ),
    ],
)
def test_bins_are_the_plans_own_or_of_equal_share(
    plan: Distribution, names: tuple[str, ...], planned: list[float]
) -> None:
    """Single values have a bin each, a histogram its own, anything else five of equal share."""
    bins = bins_of(plan)
    assert bins.names == names
    np.testing.assert_allclose(bins.planned_B, planned, atol=1e-3)


def test_a_value_with_a_share_of_its_own_is_not_cut_by_an_edge() -> None:
    """A third exactly 0 and the rest spread: a reading just beside 0 falls into the bin that was planned for it."""
    still, spread = {"use": "constant", "value": 0}, {"use": "uniform", "low": 0.5, "high": 1.5}
    plan = target(use="mixture", parts=({"share": 0.35, "of": still}, {"share": 0.65, "of": spread}))
    bins = bins_of(plan)
    zero = bins.of(np.array([0.0, -0.1, 0.1]))
    assert len(set(zero.tolist())) == 1
    assert bins.planned_B[zero[0]] == pytest.approx(0.35, abs=1e-3)
    assert bins.planned_B.sum() == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_every_value_has_one_bin(count: int) -> None:
    """Readings beyond the plan count in its outermost bins, and n bins of equal share hold 1 in n of the plan."""
    plan = target(use="normal", std=20, low=-40, high=40)
    bins = bins_of(plan, count)
    assert bins.of(np.array([-500.0, 500.0])).tolist() == [0, count - 1]
    where = bins.of(np.array([plan.quantile((n + 0.5) / 1000) for n in range(1000)]))
    np.testing.assert_allclose(np.bincount(where, minlength=count) / 1000, 1 / count, atol=2e-3)


def test_the_figures_of_a_small_case_by_hand() -> None:
    """Ten images, half asked to each side, one of them read on the wrong side: 10 points, correlation, distance."""
    plan = target(use="histogram", edges=(-10, 0, 10), shares=(0.5, 0.5))
    asked = [-5.0] * 5 + [5.0] * 5
    measured = [-5.0] * 5 + [5.0] * 4 + [-5.0]
    facts = tallied(plan, asked, measured, off=[False] * 9 + [True])
    left, right = facts["bins"]
    assert (left["asked"], right["asked"]) == (0.5, 0.5)
    assert (left["delivered"], right["delivered"]) == (0.6, 0.4)
    assert (left["deficit_points"], right["deficit_points"]) == pytest.approx((-10, 10))
    assert (left["off_target"], right["off_target"], facts["off_target"]) == (0, 1, 1)
    assert facts["largest_deficit_points"] == pytest.approx(10)
    assert facts["mean_absolute_error"] == pytest.approx(1.0)
    assert facts["mean_error"] == pytest.approx(-1.0)
    assert facts["correlation"] == pytest.approx(np.corrcoef(asked, measured)[0, 1])


def test_the_deficit_of_a_cell_is_named_although_the_whole_is_met() -> None:
    """Where one cell turns too far and the other not far enough, the whole looks right and each cell is told."""
    plan = target(use="histogram", edges=(-10, 0, 10), shares=(0.5, 0.5))
    facts = tallied(plan, [-5, 5, -5, 5] * 2, [-5, -5, 5, 5] * 2, cells="aabbaabb")
    assert facts["largest_deficit_points"] == 0
    found = {(s.cell, s.bin): s.points for s in shortfalls([facts])}
    assert found == {("a", "0 to 10"): 50.0, ("b", "-10 to 0"): 50.0}
    whole = tallied(plan, [-5, 5] * 2, [-5, -5] * 2)
    assert [s.cell for s in shortfalls([whole])] == [OVERALL], "one cell is everybody: said once"
    single = tallied(plan, [-5, 5], [-5, -5])
    assert not list(shortfalls([single])), "one image short is rounding"


def test_an_identity_is_short_of_what_was_asked_of_it() -> None:
    """Of two people one got a frontal image in place of a turned one: half of its two images."""
    plan = target(use="histogram", edges=(-10, 0, 10), shares=(0.5, 0.5))
    facts = tallied(plan, [-5, 5, -5, 5], [-5, -5, -5, 5], owners=[7, 7, 3, 3])
    assert facts["identities"] == {
        "identities": 2,
        "deficit_points_median": 25.0,
        "deficit_points_p90": 45.0,
        "deficit_points_max": 50.0,
    }


def test_an_image_that_was_not_read_is_counted_and_stands_in_no_bin() -> None:
    """A missing reading is not a reading of zero; and figures without images are None, which JSON can hold."""
    plan = target(use="uniform", low=-10, high=10)
    facts = tallied(plan, [-5, 5], [float("nan"), 5])
    assert (facts["images"], facts["unread"]) == (2, 1)
    assert sum(row["delivered"] for row in facts["bins"]) == 1
    nothing = tallied(plan, [-5, 5], [float("nan")] * 2)
    assert nothing["correlation"] is None
    assert nothing["mean_absolute_error"] is None
    assert not list(shortfalls([nothing])), "what nobody read is unknown, not short"
    json.dumps([facts, nothing], allow_nan=False)


Image = tuple[float, float, bool, str, int]
DEGREES = st.integers(-600, 600).map(lambda n: n / 10)
IMAGE = st.tuples(DEGREES, DEGREES, st.booleans(), st.sampled_from("ab"), st.integers(0, 3))
TURNED = bins_of(target(use="normal", std=20, low=-45, high=45))


@given(st.lists(IMAGE, min_size=1, max_size=30), st.integers(0, 30))
def test_segment_by_segment_gives_the_figures_of_all_at_once(images: list[Image], cut: int) -> None:
    """Where segments end changes no count and no moment."""

    def facts(*blocks: list[Image]) -> dict[str, Any]:
        tally = Tally("yaw_deg", "yaw_deg", TURNED)
        for block in blocks:
            asked, measured, off, cells, owners = zip(*block, strict=True) if block else ((), (), (), (), ())
            tally.add(np.array(asked, float), np.array(measured, float), np.array(off, bool), cells, owners)
        return tally.facts()

    assert flat(facts(images[:cut], images[cut:])) == pytest.approx(flat(facts(images)), rel=1e-6, abs=1e-4)


def flat(facts: Any) -> list[float]:
    """Return every number of a tree, None as -2."""
    if isinstance(facts, dict):
        return [n for inner in facts.values() for n in flat(inner)]
    if isinstance(facts, list):
        return [n for inner in facts for n in flat(inner)]
    return [] if isinstance(facts, str) else [-2.0 if facts is None else float(facts)]


@pytest.mark.parametrize("constant", [0.0, 30.0, 1e6])
def test_a_constant_has_no_correlation(constant: float) -> None:
    """Where nothing varies there is nothing to correlate, whatever rounding leaves."""
    facts = tallied(target(use="constant", value=constant), [constant] * 7, [1.1, 2.2, 3.3, 4.4, 5.5, 6.6, 7.7])
    assert facts["correlation"] is None


def test_bins_are_a_value() -> None:
    """Edges between n bins are n - 1, rising."""
    bins = bins_of(target(use="empirical", quantiles=(0, 1, 5, 20)))
    assert isinstance(bins, Bins)
    assert len(bins.inner_B) == len(bins.names) - 1 == 4
    assert (np.diff(bins.inner_B) > 0).all()
