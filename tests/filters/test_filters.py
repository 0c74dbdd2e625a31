"""Filters: numbers in, one verdict out; thresholds from rates; NaN and missing numbers never pass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import condition, nearest_other, own_template, sharpness
from filters import range as bounds
from filters.condition import Condition
from filters.nearest_other import NearestOther
from filters.own_template import OwnTemplate
from filters.range import Range
from filters.sharpness import Sharpness
from pipeline.domain.calibration import BlockMaxima, Calibration, PairCalibration
from pipeline.domain.errors import CalibrationError, UserError
from pipeline.domain.ports import Filter, FilterContext
from pipeline.domain.recipe import Node
from pipeline.domain.records import Sample
from pipeline.domain.space import Space

OWN = OwnTemplate(threshold_cos=0.4)
OTHER = NearestOther(threshold_cos=0.6)
SHARP = Sharpness(min_sharpness=0.3)
YAW = Condition(condition="yaw_deg", measure="yaw_deg", tolerance=8.0)
BOUND = Range(measure="exposure", low=0.2, high=0.8)
ALL: tuple[Filter, ...] = (OWN, OTHER, SHARP, YAW, BOUND)

PAIRS = {
    "sample/sample": PairCalibration(900, 10**5, 0.6, 0.0, 0.1, (1e-1, 1e-2, 1e-3), (0.2, 0.4, 0.6), (0.0,) * 3),
    "sample/template4": PairCalibration(900, 10**5, 0.7, 0.0, 0.05, (1e-1, 1e-2, 1e-3), (0.1, 0.3, 0.5), (0.0,) * 3),
}
BLOCKS = {
    "sample/template4": (
        BlockMaxima(100, 9000, (0.5, 0.9, 0.99), (0.3, 0.45, 0.55)),
        BlockMaxima(1000, 9000, (0.5, 0.9, 0.99), (0.4, 0.55, 0.65)),
    )
}
CALIBRATION = Calibration(Space("test-judge", "ab" * 32, "phantom-112", "unit", 16), "made-up", PAIRS, BLOCKS)


def sample(measures: dict[str, float], conditions: dict[str, float] | None = None) -> Sample:
    """Return a sample with these numbers."""
    vector = np.eye(16, dtype=np.float32)[0]
    return Sample("i00000001-s0002-a00", 1, 2, 0, conditions or {}, measures, vector)


@pytest.mark.parametrize(
    ("judge", "measure", "value", "reason", "threshold"),
    [
        (OWN, "own_template_cos", 0.41, "", 0.4),
        (OWN, "own_template_cos", 0.4, "", 0.4),
        (OWN, "own_template_cos", 0.39, "own_template_too_far", 0.4),
        (OWN, "own_template_cos", math.nan, "own_template_too_far", 0.4),
        (OTHER, "nearest_other_cos", 0.59, "", 0.6),
        (OTHER, "nearest_other_cos", 0.6, "too_close_to_other_identity", 0.6),
        (OTHER, "nearest_other_cos", 0.61, "too_close_to_other_identity", 0.6),
        (OTHER, "nearest_other_cos", -1.0, "", 0.6),
        (OTHER, "nearest_other_cos", math.nan, "too_close_to_other_identity", 0.6),
        (SHARP, "sharpness", 0.3, "", 0.3),
        (SHARP, "sharpness", 0.29, "too_blurred", 0.3),
        (SHARP, "sharpness", math.nan, "too_blurred", 0.3),
        (BOUND, "exposure", 0.2, "", 0.2),
        (BOUND, "exposure", 0.7, "", 0.8),
        (BOUND, "exposure", 0.19, "exposure_too_low", 0.2),
        (BOUND, "exposure", 0.81, "exposure_too_high", 0.8),
        (BOUND, "exposure", math.nan, "exposure_too_low", 0.2),
        (Range(measure="noise", low=None, high=5.0), "noise", -9.0, "", 5.0),
        (Range(measure="noise", low=None, high=5.0), "noise", 5.5, "noise_too_high", 5.0),
        (Range(measure="noise", low=None, high=5.0), "noise", math.nan, "noise_too_high", 5.0),
        (Range(measure="noise", low=1.0, high=None), "noise", 0.5, "noise_too_low", 1.0),
    ],
)
def test_verdict_of_a_measure(judge: Filter, measure: str, value: float, reason: str, threshold: float) -> None:
    """Just inside, on the threshold, just outside and NaN give the stated reason, value and threshold."""
    got = judge.judge(sample({measure: value}))

    assert (got.filter, got.passed, got.reason, got.threshold) == (judge.name, not reason, reason, threshold)
    assert got.value == value or (math.isnan(got.value) and math.isnan(value))


@pytest.mark.parametrize(
    ("asked", "measured", "passed", "value"),
    [
        (10.0, 10.0, True, 0.0),
        (10.0, 18.0, True, 8.0),
        (10.0, 2.0, True, 8.0),
        (10.0, 18.5, False, 8.5),
        (-40.0, 40.0, False, 80.0),
        (10.0, math.nan, False, math.nan),
        (math.nan, 10.0, False, math.nan),
    ],
)
def test_condition_compares_measured_with_asked(asked: float, measured: float, passed: bool, value: float) -> None:
    """The distance between measured and asked decides, the tolerance included, in either direction."""
    got = YAW.judge(sample({"yaw_deg": measured}, {"yaw_deg": asked}))

    assert got.filter == "condition:yaw_deg"
    assert got.passed is passed
    assert got.reason == ("" if passed else "off_target_yaw_deg")
    np.testing.assert_equal((got.value, got.threshold), (value, 8.0))


def test_condition_that_was_not_asked_passes_unread() -> None:
    """A sample without the condition passes at distance 0, even without the measure."""
    got = YAW.judge(sample({}, {"smile": 1.0}))

    assert (got.passed, got.reason, got.value) == (True, "", 0.0)


def test_only_conditions_judge_conditions() -> None:
    """A missed condition alone never deletes a person; every other refusal may."""
    assert [f.name for f in ALL if f.judges_condition] == ["condition:yaw_deg"]


def test_names_are_unique_where_a_filter_may_stand_twice() -> None:
    """Two conditions, or two ranges, of one recipe have different names."""
    pitch = Condition(condition="pitch_deg", measure="pitch_deg", tolerance=8.0)
    size = Range(measure="face_px", low=40, high=None)

    assert len({f.name for f in (*ALL, pitch, size)}) == 7


@pytest.mark.parametrize("judge", ALL, ids=lambda f: f.name)
def test_missing_measure_is_an_error_that_lists_what_there_is(judge: Filter) -> None:
    """A measure that nothing gives is the user's mistake, told with the filter and the measures present."""
    with pytest.raises(UserError, match=f"filter '{judge.name}' reads the measure .*; measures present: age, chin;"):
        judge.judge(sample({"chin": 1.0, "age": 2.0}, {"yaw_deg": 0.0}))


@given(st.floats(-1, 1, width=32), st.floats(-0.99, 1), st.floats(-0.99, 1))
def test_stricter_threshold_accepts_a_subset(value: float, a: float, b: float) -> None:
    """What passes a stricter filter passes a looser one, so tightening never needs new images."""
    low, high = sorted((a, b))
    one = sample({"own_template_cos": value, "nearest_other_cos": value, "exposure": value})

    for strict, loose in (
        (OwnTemplate(threshold_cos=high), OwnTemplate(threshold_cos=low)),
        (NearestOther(threshold_cos=low), NearestOther(threshold_cos=high)),
        (Range(measure="exposure", low=low, high=high), Range(measure="exposure", low=-1.0, high=1.0)),
    ):
        assert loose.judge(one).passed or not strict.judge(one).passed


@pytest.mark.parametrize("judge", ALL, ids=lambda f: f.name)
def test_filters_are_frozen_values(judge: Any) -> None:
    """A filter keeps the Filter promise, cannot be changed, and equals its copy."""
    assert isinstance(judge, Filter)
    assert judge == dataclasses.replace(judge)
    with pytest.raises(dataclasses.FrozenInstanceError):
        judge.judges_condition = True


@pytest.mark.parametrize(
    ("fmr", "template_images", "expected"),
    [(1e-2, 4, 0.3), (1e-2, 9, 0.3), (1e-2, 3, 0.4), (1e-2, 1, 0.4), (10**-2.5, 4, 0.4)],
)
def test_own_template_takes_the_threshold_of_its_template_size(
    fmr: float, template_images: int, expected: float
) -> None:
    """An FMR becomes the cosine calibrated for one image against a template of that many images."""
    options = own_template.Options(use="own-template", fmr=fmr)

    assert OwnTemplate.build(options, FilterContext(CALIBRATION, template_images, 500)).threshold_cos == pytest.approx(
        expected
    )


@pytest.mark.parametrize(("enrolled", "expected", "n"), [(20, 0.45, 100), (101, 0.55, 1000), (10**6, 0.55, 1000)])
def test_nearest_other_takes_the_threshold_of_its_number_of_identities(enrolled: int, expected: float, n: int) -> None:
    """An FPIR becomes the cosine measured for at least that many identities, and says for how many."""
    options = nearest_other.Options(use="nearest-other", fpir=0.1)
    built = NearestOther.build(options, FilterContext(CALIBRATION, 4, enrolled))

    assert built.threshold_cos == pytest.approx(expected)
    assert built.calibrated_identities == n


def test_raw_cosines_are_taken_as_they_are() -> None:
    """A cosine needs no calibration."""
    empty = Calibration(CALIBRATION.space, "none", {}, {})
    own = OwnTemplate.build(own_template.Options(use="own-template", cos=0.33), FilterContext(empty, 4, 10))
    other = NearestOther.build(nearest_other.Options(use="nearest-other", cos=0.66), FilterContext(empty, 4, 10))

    assert own.threshold_cos == 0.33
    assert (other.threshold_cos, other.calibrated_identities) == (0.66, None)


def test_rate_that_the_calibration_cannot_support_is_refused() -> None:
    """A rate beyond the data is an error when the filter is built, not a guess."""
    with pytest.raises(CalibrationError, match="fmr 1e-06 is outside"):
        OwnTemplate.build(own_template.Options(use="own-template", fmr=1e-6), FilterContext(CALIBRATION, 4, 10))
    with pytest.raises(CalibrationError, match=r"fpir 0\.001 is outside"):
        NearestOther.build(nearest_other.Options(use="nearest-other", fpir=1e-3), FilterContext(CALIBRATION, 4, 10))


def test_a_rate_is_refused_while_people_are_planned_and_not_once_they_are_enrolled() -> None:
    """Who is enrolled already is judged by the most identities that support the rate, and the filter says how many."""
    (few,) = BLOCKS["sample/template4"][:1]
    many = dataclasses.replace(few, n=1000, quantile=few.quantile[:-1], cos=few.cos[:-1])
    calibration = dataclasses.replace(CALIBRATION, one_to_many={"sample/template4": (few, many)})
    options = nearest_other.Options(use="nearest-other", fpir=1 - few.quantile[-1])

    assert (
        NearestOther.build(options, FilterContext(calibration, 4, few.n, planned=True)).calibrated_identities == few.n
    )
    with pytest.raises(CalibrationError, match="is outside what"):
        NearestOther.build(options, FilterContext(calibration, 4, 500, planned=True))
    built = NearestOther.build(options, FilterContext(calibration, 4, 500))
    assert (built.threshold_cos, built.calibrated_identities) == (pytest.approx(few.cos[-1]), few.n)


def test_filters_without_rates_are_built_from_their_options() -> None:
    """Sharpness, condition and range take their options as they are."""
    asked = condition.Options(use="condition", condition="yaw_deg", measure="yaw_deg", tolerance=8)
    limits = bounds.Options(use="range", measure="exposure", min=0.2, max=0.8)

    assert Sharpness.build(sharpness.Options(use="sharpness", min=0.3), FilterContext(CALIBRATION, 4, 10)) == SHARP
    assert Condition.build(asked, FilterContext(CALIBRATION, 4, 10)) == YAW
    assert Range.build(limits, FilterContext(CALIBRATION, 4, 10)) == BOUND


@pytest.mark.parametrize(
    ("options", "raw", "message"),
    [
        (own_template.Options, {"use": "own-template"}, "exactly one of `fmr` and `cos`"),
        (own_template.Options, {"use": "own-template", "fmr": 0.01, "cos": 0.3}, "exactly one of `fmr` and `cos`"),
        (own_template.Options, {"use": "own-template", "fmr": 0.0}, "greater than 0"),
        (own_template.Options, {"use": "own-template", "fmr": 1.0}, "less than 1"),
        (own_template.Options, {"use": "own-template", "fmr": math.nan}, "should be"),
        (own_template.Options, {"use": "own-template", "cos": 1.5}, "less than or equal to 1"),
        (nearest_other.Options, {"use": "nearest-other"}, "exactly one of `fpir` and `cos`"),
        (nearest_other.Options, {"use": "nearest-other", "fmr": 0.01}, "Extra inputs are not permitted"),
        (sharpness.Options, {"use": "sharpness"}, "Field required"),
        (sharpness.Options, {"use": "sharpness", "min": 1.1}, "less than or equal to 1"),
        (sharpness.Options, {"use": "sharpness", "min": 0.3, "max": 1}, "Extra inputs are not permitted"),
        (condition.Options, {"use": "condition", "condition": "a", "measure": "b", "tolerance": 0}, "greater than 0"),
        (condition.Options, {"use": "condition", "condition": "", "measure": "b", "tolerance": 1}, "at least 1 char"),
        (bounds.Options, {"use": "range", "measure": "a"}, "give `min`, `max` or both"),
        (bounds.Options, {"use": "range", "measure": "a", "min": 2, "max": 1}, "min 2 must not be above max 1"),
        (bounds.Options, {"use": "range", "measure": "a", "min": math.nan}, "finite number"),
        (bounds.Options, {"use": "sharpness", "measure": "a", "min": 1}, "Input should be 'range'"),
    ],
)
def test_impossible_options_are_refused(options: type[Node], raw: dict[str, object], message: str) -> None:
    """Unknown keys, numbers out of range and thresholds given twice or not at all are refused when read."""
    with pytest.raises(ValidationError, match=message):
        options.model_validate(raw)
