"""Filters on siblings, quality, cell and age: a row for just inside, on the threshold, just outside and NaN."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import (
    apparent_minor,
    cell_agreement,
    dynamic_range,
    exposure,
    face_size,
    pose,
    quality_percentile,
    sibling_duplicate,
    sibling_spread,
)
from filters.apparent_minor import ApparentMinor, begins_years
from filters.cell_agreement import CellAgreement
from filters.dynamic_range import DynamicRange
from filters.exposure import Exposure
from filters.face_size import FaceSize
from filters.observing import Observing
from filters.pose import Pose
from filters.quality_percentile import QualityPercentile
from filters.sibling_duplicate import SiblingDuplicate
from filters.sibling_spread import SiblingSpread
from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import UserError
from pipeline.domain.ports import Filter, FilterContext
from pipeline.domain.recipe import Node
from pipeline.domain.records import Sample
from pipeline.domain.space import Space
from pipeline.flow.siblings import SIBLING_MEASURES

CONTEXT = FilterContext(Calibration(Space("none", "ab" * 32, "none", "unit", 16), "none", {}, {}), 4, 10)
COPY = SiblingDuplicate(max_cos=0.95)
SPREAD = SiblingSpread(mean_cos=0.5, tolerance=0.125, least=2)
STRICT = dataclasses.replace(SPREAD, judges_condition=False)
LIGHT = Exposure(min_mean=0.25, max_mean=0.75, max_over=0.125, max_under=0.5)
RANGE = DynamicRange(min_bits=5.5)
TURNED = Pose(max_yaw_deg=45, max_pitch_deg=20, max_roll_deg=15)
SIZE = FaceSize(min_px=30)
SCORE = QualityPercentile(score="fiqa", min_percentile=20)
SOURCED_SCORE = QualityPercentile(score="fiqa@b", min_percentile=20)
CELL = CellAgreement(min_probability=0.5)
FIELD = CellAgreement(min_probability=0.5, field="shade")
BANDS = ApparentMinor(age_years=18, age_group="age", max_probability=0.25)
YEARS = ApparentMinor(age_years=18, years="age_years", margin_years=4)
ALL: tuple[Filter, ...] = (COPY, SPREAD, LIGHT, RANGE, TURNED, SIZE, SCORE, CELL, FIELD, BANDS, YEARS)

LIT = {"luminance_mean": 0.5, "over_exposed_share": 0.0, "under_exposed_share": 0.0}
FRONTAL = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0}
AGES = {"age=3-9": 0.0, "age=10-19": 0.0, "age=20-29": 1.0, "age=more than 70": 0.0}


def sample(measures: dict[str, float]) -> Sample:
    """Return a sample with these numbers."""
    return Sample("i00000001-s0002-a00", 1, 2, 0, {}, measures, np.eye(16, dtype=np.float32)[0])


def family(siblings: float, after: float, before: float) -> dict[str, float]:
    """Return the numbers about siblings that the spread reads."""
    return {"siblings": siblings, "sibling_mean_cos": after, "sibling_mean_cos_before": before}


NAN = math.nan
ROWS: list[tuple[Filter, dict[str, float], str, float, float]] = [
    (COPY, {"nearest_sibling_cos": 0.9499}, "", 0.9499, 0.95),
    (COPY, {"nearest_sibling_cos": 0.95}, "near_duplicate_of_sibling", 0.95, 0.95),
    (COPY, {"nearest_sibling_cos": 1.0}, "near_duplicate_of_sibling", 1.0, 0.95),
    (COPY, {"nearest_sibling_cos": -1.0}, "", -1.0, 0.95),
    (COPY, {"nearest_sibling_cos": NAN}, "near_duplicate_of_sibling", NAN, 0.95),
    # inside the band, edges included
    (SPREAD, family(3, 0.5, 0.5), "", 0.5, 0.375),
    (SPREAD, family(3, 0.625, 0.5), "", 0.625, 0.625),
    (SPREAD, family(3, 0.375, 0.5), "", 0.375, 0.375),
    # outside it, and further away than before
    (SPREAD, family(3, 0.63, 0.6), "siblings_too_alike", 0.63, 0.625),
    (SPREAD, family(3, 0.37, 0.4), "siblings_too_unlike", 0.37, 0.375),
    # outside it, and no further away than before, on either side
    (SPREAD, family(3, 0.75, 0.875), "", 0.75, 0.625),
    (SPREAD, family(3, 0.75, 0.75), "", 0.75, 0.625),
    (SPREAD, family(3, 0.25, 0.125), "", 0.25, 0.375),
    (SPREAD, family(3, 0.25, 0.75), "", 0.25, 0.375),
    (SPREAD, family(3, 0.125, 0.75), "siblings_too_unlike", 0.125, 0.375),
    # too few siblings to be judged
    (SPREAD, family(0, -1.0, -1.0), "", -1.0, 0.375),
    (SPREAD, family(1, 0.99, -1.0), "", 0.99, 0.625),
    # one sibling is judged where the recipe says so: there is no mean before, so the band alone decides
    (SiblingSpread(mean_cos=0.5, tolerance=0.125, least=1), family(1, 0.625, -1.0), "", 0.625, 0.625),
    (SiblingSpread(mean_cos=0.5, tolerance=0.125, least=1), family(1, 0.7, -1.0), "siblings_too_alike", 0.7, 0.625),
    (SPREAD, family(3, NAN, 0.5), "siblings_too_unlike", NAN, 0.375),
    (SPREAD, family(3, 0.5, NAN), "siblings_too_unlike", 0.5, 0.375),
    (SPREAD, family(NAN, 0.5, 0.5), "siblings_too_unlike", 0.5, 0.375),
    (SPREAD, family(0, NAN, -1.0), "siblings_too_unlike", NAN, 0.375),
    (LIGHT, {**LIT, "luminance_mean": 0.25}, "", 0.25, 0.25),
    (LIGHT, {**LIT, "luminance_mean": 0.24}, "too_dark", 0.24, 0.25),
    (LIGHT, {**LIT, "luminance_mean": 0.75}, "", 0.75, 0.75),
    (LIGHT, {**LIT, "luminance_mean": 0.76}, "too_bright", 0.76, 0.75),
    (LIGHT, {**LIT, "over_exposed_share": 0.125}, "", 0.125, 0.125),
    (LIGHT, {**LIT, "over_exposed_share": 0.126}, "over_exposed", 0.126, 0.125),
    (LIGHT, {**LIT, "under_exposed_share": 0.5}, "", 0.5, 0.5),
    (LIGHT, {**LIT, "under_exposed_share": 0.51}, "under_exposed", 0.51, 0.5),
    (LIGHT, {**LIT, "luminance_mean": NAN}, "too_dark", NAN, 0.25),
    (LIGHT, {**LIT, "over_exposed_share": NAN}, "over_exposed", NAN, 0.125),
    (LIGHT, {**LIT, "under_exposed_share": NAN}, "under_exposed", NAN, 0.5),
    (Exposure(max_mean=0.5), {"luminance_mean": NAN}, "too_bright", NAN, 0.5),
    (Exposure(max_over=0.5), {"over_exposed_share": 0.2}, "", 0.2, 0.5),
    (RANGE, {"dynamic_range_bits": 5.51}, "", 5.51, 5.5),
    (RANGE, {"dynamic_range_bits": 5.5}, "", 5.5, 5.5),
    (RANGE, {"dynamic_range_bits": 5.49}, "low_dynamic_range", 5.49, 5.5),
    (RANGE, {"dynamic_range_bits": NAN}, "low_dynamic_range", NAN, 5.5),
    (TURNED, {**FRONTAL, "yaw_deg": 45.0}, "", 45.0, 45),
    (TURNED, {**FRONTAL, "yaw_deg": -45.0}, "", 45.0, 45),
    (TURNED, {**FRONTAL, "yaw_deg": 46.0}, "yaw_too_large", 46.0, 45),
    (TURNED, {**FRONTAL, "yaw_deg": -46.0}, "yaw_too_large", 46.0, 45),
    (TURNED, {**FRONTAL, "pitch_deg": -20.5}, "pitch_too_large", 20.5, 20),
    (TURNED, {**FRONTAL, "roll_deg": 15.5}, "roll_too_large", 15.5, 15),
    (TURNED, {"yaw_deg": 60.0, "pitch_deg": 60.0, "roll_deg": 60.0}, "yaw_too_large", 60.0, 45),
    (TURNED, FRONTAL, "", 0.0, 15),
    (TURNED, {**FRONTAL, "yaw_deg": NAN}, "yaw_too_large", NAN, 45),
    (TURNED, {**FRONTAL, "roll_deg": NAN}, "roll_too_large", NAN, 15),
    (Pose(max_pitch_deg=20), {"pitch_deg": -5.0}, "", 5.0, 20),
    (SIZE, {"inter_eye_px": 30.0}, "", 30.0, 30),
    (SIZE, {"inter_eye_px": 29.9}, "face_too_small", 29.9, 30),
    (SIZE, {"inter_eye_px": NAN}, "face_too_small", NAN, 30),
    (SCORE, {"fiqa_percentile": 20.0}, "", 20.0, 20),
    (SCORE, {"fiqa_percentile": 19.9}, "fiqa_percentile_too_low", 19.9, 20),
    (SCORE, {"fiqa_percentile": NAN}, "fiqa_percentile_too_low", NAN, 20),
    (SOURCED_SCORE, {"fiqa_percentile@b": 21.0, "fiqa_percentile": 1.0}, "", 21.0, 20),
    (SOURCED_SCORE, {"fiqa_percentile@b": 19.0}, "fiqa@b_percentile_too_low", 19.0, 20),
    (CELL, {"own_cell_probability": 0.5}, "", 0.5, 0.5),
    (CELL, {"own_cell_probability": 0.49}, "disagrees_with_own_cell", 0.49, 0.5),
    (CELL, {"own_cell_probability": NAN}, "disagrees_with_own_cell", NAN, 0.5),
    (FIELD, {"own_cell_probability:shade": 0.51}, "", 0.51, 0.5),
    (FIELD, {"own_cell_probability:shade": 0.1}, "disagrees_with_own_cell_shade", 0.1, 0.5),
    (BANDS, AGES, "", 0.0, 0.25),
    (BANDS, {**AGES, "age=10-19": 0.125, "age=3-9": 0.0625}, "", 0.1875, 0.25),
    (BANDS, {**AGES, "age=10-19": 0.125, "age=3-9": 0.125}, "apparent_minor", 0.25, 0.25),
    (BANDS, {**AGES, "age=10-19": 1.0}, "apparent_minor", 1.0, 0.25),
    (BANDS, {**AGES, "age=3-9": NAN}, "apparent_minor", NAN, 0.25),
    (dataclasses.replace(BANDS, age_years=21), {**AGES, "age=20-29": 1.0}, "apparent_minor", 1.0, 0.25),
    (dataclasses.replace(BANDS, minors=("young",)), {"age=young": 0.3, "age=10-19": 0.0}, "apparent_minor", 0.3, 0.25),
    (dataclasses.replace(BANDS, minors=("young",)), {"age=young": 0.0, "age=10-19": 1.0}, "", 0.0, 0.25),
    (YEARS, {"age_years": 22.0}, "", 18.0, 18),
    (YEARS, {"age_years": 21.9}, "apparent_minor", 21.9 - 4, 18),
    (YEARS, {"age_years": NAN}, "apparent_minor", NAN, 18),
]


@pytest.mark.parametrize(("judge", "numbers", "reason", "value", "threshold"), ROWS)
def test_verdict_on_numbers(
    judge: Filter, numbers: dict[str, float], reason: str, value: float, threshold: float
) -> None:
    """Just inside, on the threshold, just outside and NaN give the stated reason, value and threshold."""
    got = judge.judge(sample(numbers))

    assert (got.filter, got.passed, got.reason) == (judge.name, not reason, reason)
    assert not reason or reason in judge.reasons
    np.testing.assert_equal((got.value, got.threshold), (value, float(threshold)))


@pytest.mark.parametrize("judge", ALL, ids=lambda f: f.name)
def test_every_filter_has_all_its_reasons_and_its_nan_in_the_table(judge: Filter) -> None:
    """No reason is without a row that gives it, and every filter of a kind is shown a NaN, which it refuses."""
    mine = [row for row in ROWS if row[0] == judge or (type(row[0]), row[0].name) == (type(judge), judge.name)]

    assert {row[2] for row in mine} == {"", *judge.reasons}
    if judge is not FIELD:  # the same comparison as without a field
        assert any(math.isnan(v) for row in mine for v in row[1].values())
        assert all(row[2] for row in mine if any(math.isnan(v) for v in row[1].values()))


@pytest.mark.parametrize("judge", ALL, ids=lambda f: f.name)
def test_missing_measure_is_an_error_that_lists_what_there_is(judge: Filter) -> None:
    """A measure that nothing gives is the user's mistake, told with the filter and the measures present."""
    with pytest.raises(UserError, match=f"filter '{judge.name}' reads the measure .*; measures present: chin, eye;"):
        judge.judge(sample({"eye": 1.0, "chin": 2.0}))


@pytest.mark.parametrize("judge", ALL, ids=lambda f: f.name)
def test_filters_are_frozen_values(judge: Any) -> None:
    """A filter keeps the Filter promise, also while it observes, cannot be changed, and equals its copy."""
    assert isinstance(judge, Filter)
    assert isinstance(Observing(judge), Filter)
    assert judge == dataclasses.replace(judge)
    assert isinstance(type(judge).epoch, int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        judge.judges_siblings = True


def test_who_reads_siblings_and_who_the_cell() -> None:
    """The flow gives the numbers that depend on others to those filters alone that ask for them."""
    assert [f.name for f in ALL if f.judges_siblings] == ["sibling-duplicate", "sibling-spread"]
    asking = ["cell-agreement", "cell-agreement:shade"]
    assert [f.name for f in ALL if f.judges_cell] == asking
    assert [f.name for f in ALL if Observing(f).judges_cell] == asking
    assert {sibling_duplicate.MEASURE, sibling_spread.COUNT, sibling_spread.AFTER, sibling_spread.BEFORE} == set(
        SIBLING_MEASURES
    )


def test_a_missed_spread_deletes_nobody_unless_it_is_strict() -> None:
    """The spread is a target: missing it alone makes a last attempt off-target; `strict` refuses it."""
    options = {"use": "sibling-spread", "mean_cos": 0.5, "tolerance": 0.125}

    assert SiblingSpread.build(sibling_spread.Options.model_validate(options), CONTEXT) == SPREAD
    strict = sibling_spread.Options.model_validate({**options, "strict": True})
    assert SiblingSpread.build(strict, CONTEXT) == STRICT
    assert [f.name for f in ALL if f.judges_condition] == ["sibling-spread"]


@given(st.integers(0, 5), st.floats(-1, 1), st.floats(-1, 1), st.floats(-0.9, 0.9), st.floats(0.01, 1), st.floats(0, 1))
def test_a_narrower_band_accepts_a_subset(
    siblings: int, after: float, before: float, target: float, narrow: float, more: float
) -> None:
    """What passes a narrow band passes a wider one around the same target; what leads nearer passes any."""
    one = sample(family(siblings, after, before))
    tight = SiblingSpread(mean_cos=target, tolerance=narrow)

    assert SiblingSpread(mean_cos=target, tolerance=narrow + more).judge(one).passed or not tight.judge(one).passed
    if siblings >= 2 and abs(after - target) < abs(before - target):
        assert tight.judge(one).passed


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(-0.9, 0.9), st.floats(0.01, 0.5))
def test_a_mean_never_leaves_its_band_and_never_moves_away_outside_it(
    offers: list[float], target: float, tolerance: float
) -> None:
    """Over any course of offers, accepted ones keep the mean in the band, or bring it no further from the target."""
    judge = SiblingSpread(mean_cos=target, tolerance=tolerance)
    mean = 0.0
    for after in offers:
        if judge.judge(sample(family(4, after, mean))).passed:
            assert abs(after - target) <= max(abs(mean - target), tolerance * (1 + 1e-12))
            mean = after


@pytest.mark.parametrize(
    ("options", "raw", "expected"),
    [
        (sibling_duplicate, {"use": "sibling-duplicate", "max_cos": 0.95}, COPY),
        (exposure, {"use": "exposure", "min_mean": 0.25, "max_mean": 0.75, "max_over": 0.125, "max_under": 0.5}, LIGHT),
        (dynamic_range, {"use": "dynamic-range", "min_bits": 5.5}, RANGE),
        (pose, {"use": "pose", "max_yaw_deg": 45, "max_pitch_deg": 20, "max_roll_deg": 15}, TURNED),
        (face_size, {"use": "face-size", "min_px": 30}, SIZE),
        (quality_percentile, {"use": "quality-percentile", "score": "fiqa", "min": 20}, SCORE),
        (cell_agreement, {"use": "cell-agreement", "min": 0.5}, CELL),
        (cell_agreement, {"use": "cell-agreement", "min": 0.5, "field": "shade"}, FIELD),
        (apparent_minor, {"use": "apparent-minor", "age_group": "age", "max_probability": 0.25}, BANDS),
        (apparent_minor, {"use": "apparent-minor", "years": "age_years", "margin_years": 4}, YEARS),
        (
            apparent_minor,
            {"use": "apparent-minor", "policy": "refuse-below-25", "age_group": "age"},
            ApparentMinor(age_years=25, age_group="age", max_probability=0.2),
        ),
    ],
)
def test_filters_are_built_from_their_options(options: Any, raw: dict[str, Any], expected: Any) -> None:
    """Options become the filter's thresholds as they are; a policy becomes an age."""
    assert type(expected).build(options.Options.model_validate(raw), CONTEXT) == expected


@pytest.mark.parametrize(
    ("options", "raw", "message"),
    [
        (sibling_duplicate.Options, {"use": "sibling-duplicate"}, "Field required"),
        (sibling_duplicate.Options, {"use": "sibling-duplicate", "max_cos": 1.1}, "less than or equal to 1"),
        (sibling_spread.Options, {"use": "sibling-spread", "mean_cos": 0.5}, "Field required"),
        (sibling_spread.Options, {"use": "sibling-spread", "mean_cos": 0.5, "tolerance": 0}, "greater than 0"),
        (sibling_spread.Options, {"use": "sibling-spread", "mean_cos": 1, "tolerance": 0.1}, "less than 1"),
        (sibling_spread.Options, {"use": "sibling-spread", "mean_cos": 0, "tolerance": 0.1, "least": 0}, "equal to 1"),
        (exposure.Options, {"use": "exposure"}, "at least one of `min_mean`"),
        (exposure.Options, {"use": "exposure", "min_mean": 0.6, "max_mean": 0.5}, "0.6 must not be above max_mean 0.5"),
        (exposure.Options, {"use": "exposure", "max_over": 5}, "less than or equal to 1"),
        (dynamic_range.Options, {"use": "dynamic-range", "min_bits": 9}, "less than or equal to 8"),
        (pose.Options, {"use": "pose"}, "at least one of `max_yaw_deg`"),
        (pose.Options, {"use": "pose", "max_yaw_deg": -10}, "greater than 0"),
        (face_size.Options, {"use": "face-size", "min_px": math.inf}, "finite"),
        (quality_percentile.Options, {"use": "quality-percentile", "score": "q", "min": 100}, "less than 100"),
        (quality_percentile.Options, {"use": "quality-percentile", "min": 20}, "Field required"),
        (cell_agreement.Options, {"use": "cell-agreement", "min": 1}, "less than 1"),
        (apparent_minor.Options, {"use": "apparent-minor"}, "exactly one of `age_group` and `years`"),
        (apparent_minor.Options, {"use": "apparent-minor", "age_group": "a", "years": "b"}, "exactly one of"),
        (
            apparent_minor.Options,
            {"use": "apparent-minor", "years": "a", "max_probability": 0.1},
            "max_probability goes",
        ),
        (apparent_minor.Options, {"use": "apparent-minor", "age_group": "a", "margin_years": 1}, "margin_years goes"),
        (
            apparent_minor.Options,
            {"use": "apparent-minor", "years": "a", "policy": "refuse-below-12"},
            "Input should be",
        ),
    ],
)
def test_impossible_options_are_refused(options: type[Node], raw: dict[str, object], message: str) -> None:
    """Numbers out of range, bounds that cross, and forms that do not go together are refused when read."""
    with pytest.raises(ValidationError, match=message):
        options.model_validate(raw)


@pytest.mark.parametrize(
    ("band", "years"),
    [("0-2", 0), ("3-9", 3), ("10-19", 10), ("more than 70", 70), ("70+", 70), ("under 18", 0), ("<18", 0), ("9", 9)],
)
def test_the_age_at_which_a_band_begins_is_read_from_its_name(band: str, years: int) -> None:
    """Bands as FairFace and others name them are understood; `under` begins at birth."""
    assert begins_years("age", band) == years


def test_bands_that_tell_no_age_must_be_listed() -> None:
    """A band without an age is no silent adult, and a listed one that the model does not have no silent zero."""
    with pytest.raises(UserError, match=r"no age is read from 'young'.*list the values that count as minors"):
        BANDS.judge(sample({"age=young": 0.0, "age=20-29": 1.0}))
    with pytest.raises(UserError, match="minors: child is no value of 'age'; its values: 10-19, 20-29, 3-9"):
        dataclasses.replace(BANDS, minors=("child",)).judge(sample(AGES))
