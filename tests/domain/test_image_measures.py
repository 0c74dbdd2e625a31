"""Measures of the photograph: what OFIQ's formulas give, how they behave when a picture is cut, turned or enlarged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.image_measures import CHIN_BY_MOUTH, IMAGE_NAMES, image_measures
from pipeline.domain.landmarks import MODEL_53

FRONTAL = MODEL_53[:, :2] * np.array([1.0, -1.0])
"""Points of an upright head that looks at us, one inter-eye distance wide, eyes around (0, 0), y down."""


def face(inter_eye_px: float, x: float, y: float) -> np.ndarray:
    """Return the points of an upright face whose eyes lie around (x, y)."""
    return FRONTAL * inter_eye_px + np.array([x, y])


def measured(points: np.ndarray, width: int = 1000, height: int = 1000, **more: Any) -> dict[str, float]:
    box = [*points.min(axis=0) - 20, *points.max(axis=0) + 20]
    return image_measures(points, box, width, height, **more)


@pytest.mark.parametrize(("inter_eye_px", "quality"), [(35, 15), (90, 73), (120, 92), (70, 50)])
def test_distances_between_eyes_have_ofiqs_quality(inter_eye_px: float, quality: int) -> None:
    """The quality of a distance is that of OFIQ's table."""
    assert measured(face(inter_eye_px, 500, 500))["inter_eye_quality"] == quality


def test_a_head_of_the_ideal_size_in_the_middle_has_the_best_numbers() -> None:
    """Eyes to chin over 45 % of the height is full quality; a head half as large has next to none."""
    ied = 0.45 * 1000 / (CHIN_BY_MOUTH * 1.155)
    ideal = measured(face(ied, 500, 450))
    assert ideal["head_height_share"] == pytest.approx(0.45, abs=1e-9)
    assert ideal["head_size_quality"] == 100
    assert measured(face(ied / 2, 500, 450))["head_size_quality"] < 5


def test_margins_are_counted_from_the_picture_s_border() -> None:
    """Half a distance between the eyes is left to the left, one head above: as built."""
    head = CHIN_BY_MOUTH * 1.155 * 100
    points = face(100, 100 - 0.5, head - 0.5)
    found = measured(points, 400, 600)
    assert found["margin_left_ied"] == pytest.approx(0.5)
    assert found["margin_right_ied"] == pytest.approx(2.5)
    assert found["margin_above_heads"] == pytest.approx(1.0)
    assert found["margin_below_heads"] == pytest.approx(600 / head - 1.0)
    # OFIQ: a half at 0.9 to the sides, 1.4 above, 1.8 below; the least of the four counts
    worst = min(
        1 / (1 + math.exp((half - found[name]) / 0.1))
        for name, half in (
            ("margin_left_ied", 0.9), ("margin_right_ied", 0.9),
            ("margin_above_heads", 1.4), ("margin_below_heads", 1.8),
        )
    )  # fmt: skip
    assert found["margin_quality"] == math.floor(100 * worst + 0.5)


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.2, 20), x=st.floats(0.2, 0.8), y=st.floats(0.2, 0.8), size=st.floats(0.02, 0.3))
def test_an_enlarged_picture_keeps_every_ratio(scale: float, x: float, y: float, size: float) -> None:
    """Shares, ratios and angles do not depend on the resolution; a distance in pixels grows with it."""
    width, height = 800, 600
    one = face(size * width, x * width, y * height) + 0.5
    big_w, big_h = round(width * scale), round(height * scale)
    by = np.array([big_w / width, big_h / height])
    first = image_measures(one - 0.5, [10, 20, 310, 420], width, height, others_K4=[[0, 0, 50, 60]])
    second = image_measures(
        one * by - 0.5, np.array([10, 20, 310, 420]) * np.tile(by, 2), big_w, big_h, others_K4=[[0, 0, *(50, 60) * by]]
    )
    for name in ("head_height_share", "margin_left_ied", "margin_below_heads", "face_share", "second_face_ratio"):
        assert second[name] == pytest.approx(first[name], rel=0.02), name
    assert second["inter_eye_px"] == pytest.approx(first["inter_eye_px"] * by[0], rel=0.02)


def test_a_turned_head_counts_by_the_distance_it_would_have() -> None:
    """The points of a head that is turned by 40 degrees give the distance between the eyes of one that is not."""
    yaw = math.radians(40)
    x, y, z = MODEL_53.T
    turned = np.stack([x * math.cos(yaw) + z * math.sin(yaw), -y], axis=1)
    found = measured(turned * 80 + 300)
    assert abs(found["yaw_deg"]) == pytest.approx(40, abs=1)
    assert found["inter_eye_px"] == pytest.approx(80, rel=0.02)


def test_company_and_what_is_cut_off() -> None:
    """The largest other box counts; what of a box lies outside of the picture is no part of its share of it."""
    points = face(20, 50, 50)
    found = image_measures(points, [-50, 0, 50, 100], 100, 200, score=0.75, others_K4=[[0, 0, 50, 100], [0, 0, 1, 1]])
    assert found["face_share"] == pytest.approx(0.25)
    assert found["face_outside_share"] == pytest.approx(0.5)
    assert found["second_face_ratio"] == pytest.approx(0.5)
    assert found["single_face_quality"] == 50
    assert found["detection_score"] == 0.75
    alone = image_measures(points, [0, 0, 100, 100], 100, 200)
    assert alone["second_face_ratio"] == 0.0
    assert alone["single_face_quality"] == 100
    assert math.isnan(alone["detection_score"])
    assert image_measures(points, [0, 0, 1, 1], 100, 200, others_K4=[[0, 0, 9, 9]])["single_face_quality"] == 0


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_points_that_say_nothing_give_no_number(points: np.ndarray) -> None:
    """All in one place, or no numbers: what follows from them is NaN, and every name is there all the same."""
    found = image_measures(points, [5, 5, 5, 5], 100, 100)
    assert set(found) == set(IMAGE_NAMES)
    for name in ("inter_eye_quality", "head_height_share", "head_size_quality", "margin_quality", "yaw_deg"):
        assert math.isnan(found[name]), name
    assert math.isnan(found["second_face_ratio"])


def test_names_are_the_same_for_every_face() -> None:
    """A sound face gives the names that are promised, each a finite number but for the score that nobody gave."""
    found = measured(face(60, 300, 300), score=0.5)
    assert set(found) == set(IMAGE_NAMES)
    assert all(math.isfinite(v) for v in found.values())


@pytest.mark.parametrize(
    "arguments", [(FRONTAL[:4], [0, 0, 1, 1], 9, 9), (FRONTAL, [0, 0, 1], 9, 9), (FRONTAL, [0, 0, 1, 1], 0, 9)]
)
def test_other_shapes_are_refused(arguments: tuple[Any, ...]) -> None:
    """Four points, a box of three sides and a picture without pixels are mistakes of the caller."""
    with pytest.raises(ValueError, match=r"are read|shape"):
        image_measures(*arguments)
