"""The leakage filter: several comparisons, one verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from filters.leakage import Leakage, Options
from filters.observing import Observing
from pipeline.adapters.sketch import SketchRecogniser, SketchRecogniserOptions
from pipeline.domain.errors import UserError
from pipeline.domain.leakage import COPY_BITS, COPY_REASON, REASON
from pipeline.domain.ports import FilterContext
from pipeline.domain.records import Sample

NEAR, CENTROID, SECOND = "nearest_gallery_cos", "nearest_gallery_centroid_cos", "nearest_gallery_cos_screening"
LIMITS = {NEAR: 0.5, CENTROID: 0.6, SECOND: 0.4}
CALIBRATION = SketchRecogniser(SketchRecogniserOptions(use="sketch-judge")).calibration


def built(limits: dict[str, float], **options: float) -> Leakage:
    """Return the filter as a recipe builds it."""
    return Leakage.build(Options(use="leakage", **options), FilterContext(CALIBRATION, 3, 10, limits))


def sample(**measures: float) -> Sample:
    """Return a sample with these measures."""
    return Sample("i00000000-s0000-a00", 0, 0, 0, {}, measures, np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("near", "centroid", "second", "passed", "value", "threshold"),
    [
        (0.49, 0.2, 0.1, True, 0.49, 0.5),
        (0.5, 0.2, 0.1, False, 0.5, 0.5),
        (0.7, 0.2, 0.1, False, 0.7, 0.5),
        (0.1, 0.59, 0.1, True, 0.59, 0.6),
        (0.1, 0.61, 0.1, False, 0.61, 0.6),
        (0.1, 0.1, 0.41, False, 0.41, 0.4),
        (0.55, 0.9, 0.1, False, 0.9, 0.6),
        (math.nan, 0.2, 0.1, False, math.nan, 0.5),
        (0.1, math.nan, 0.9, False, math.nan, 0.6),
    ],
)
def test_any_comparison_flags(
    near: float, centroid: float, second: float, passed: bool, value: float, threshold: float
) -> None:
    """Just below, on and above each threshold; the verdict's numbers are those of the worst; NaN passes nothing."""
    said = built(LIMITS).judge(sample(**{NEAR: near, CENTROID: centroid, SECOND: second}))
    assert (said.passed, said.reason) == (passed, "" if passed else REASON)
    assert said.value == pytest.approx(value, nan_ok=True)
    assert said.threshold == threshold


@pytest.mark.parametrize(("bits", "passed"), [(7.0, True), (6.0, False), (0.0, False), (math.nan, False)])
def test_a_copy_has_a_reason_of_its_own(bits: float, passed: bool) -> None:
    """Hashes that differ in as many bits as allowed or fewer are those of a copy, whoever is on it."""
    numbers = {NEAR: 0.1, COPY_BITS: bits}
    said = built({NEAR: 0.5, COPY_BITS: 6.0}).judge(sample(**numbers))
    assert (said.passed, said.reason) == (passed, "" if passed else COPY_REASON)
    if not passed:
        assert said.threshold == 6.0


def test_a_cosine_of_its_own_replaces_the_thresholds() -> None:
    """`cos` holds for every comparison."""
    lenient = built(LIMITS, cos=0.95)
    assert lenient.judge(sample(**{NEAR: 0.9, CENTROID: 0.9, SECOND: 0.9})).passed
    assert not lenient.judge(sample(**{NEAR: 0.95, CENTROID: 0.9, SECOND: 0.9})).passed


def test_without_a_gallery_the_missing_measure_is_named() -> None:
    """The filter of a recipe that screens nothing says what it lacks."""
    with pytest.raises(UserError, match=NEAR):
        built({}).judge(sample(sharpness=1.0))


def test_observed_leaks_pass_and_keep_their_reason() -> None:
    """In `mode: observe` the verdict is written down."""
    said = Observing(built({NEAR: 0.5})).judge(sample(**{NEAR: 0.9}))
    assert (said.passed, said.reason) == (True, REASON)
