"""Crops around five points: where points come to lie, what a margin adds, what shrinking does to fine patterns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.cropping import aligned_crop, wide_crop
from pipeline.domain.landmarks import ALIGNMENTS, widened

pytest.importorskip("cv2", reason="OpenCV is not installed")
TEMPLATE = ALIGNMENTS["arcface-112"]
POINTS = np.array(TEMPLATE.points)


def dots(points: np.ndarray, size: int = 400, radius: float = 3.0) -> np.ndarray:
    """Return a black picture with a soft white dot at each point."""
    y, x = np.mgrid[0:size, 0:size]
    lit = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points)
    return np.repeat(np.clip(255 * lit, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def centre(crop: np.ndarray, x: float, y: float, reach: int = 8) -> tuple[float, float]:
    """Return where the light around a place of the crop lies on average."""
    low_x, low_y = max(0, round(x) - reach), max(0, round(y) - reach)
    part = crop[low_y : round(y) + reach + 1, low_x : round(x) + reach + 1, 0].astype(float)
    ys, xs = np.mgrid[low_y : low_y + part.shape[0], low_x : low_x + part.shape[1]]
    return float((xs * part).sum() / part.sum()), float((ys * part).sum() / part.sum())


def turned(scale: float, angle_deg: float, x: float, y: float) -> np.ndarray:
    """Return the template's points, scaled and turned around their middle, which is moved to (x, y)."""
    a = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (POINTS - POINTS.mean(axis=0)) @ turn.T * scale + np.array([x, y])


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.8, 2.5), angle=st.floats(-60, 60), x=st.floats(150, 250), y=st.floats(150, 250))
def test_points_come_to_lie_on_the_template(scale: float, angle: float, x: float, y: float) -> None:
    """However a face is turned, scaled and placed, its points lie where the template has them, to half a pixel."""
    points = turned(scale, angle, x, y)
    image = dots(points, radius=2.0 * scale)
    crop = aligned_crop(image, points, TEMPLATE, 112)
    assert crop is not None
    for px, py in TEMPLATE.points:
        assert np.hypot(*(np.array(centre(crop, px, py)) - (px, py))) < 0.5


@pytest.mark.parametrize(("crop_px", "margin"), [(112, 0.25), (224, 0.25), (336, 1.0), (64, 0.5)])
def test_a_wide_crop_shows_more_around_the_same_place(crop_px: int, margin: float) -> None:
    """The points of a wide crop lie where a margin on each side puts them, and the template's square inside it."""
    wide = widened(TEMPLATE, margin, crop_px)
    points = turned(2.0, 15, 200, 200)
    crop = wide_crop(dots(points, radius=5.0), points, TEMPLATE, crop_px, margin)
    assert crop is not None
    assert crop.shape == (crop_px, crop_px, 3)
    for x, y in wide.points:
        assert np.hypot(*(np.array(centre(crop, x, y, max(3, int(0.2 * wide.inter_eye_px)))) - (x, y))) < 0.6
    scale = wide.inter_eye_px / TEMPLATE.inter_eye_px
    assert scale == pytest.approx(crop_px / 112 / (1 + 2 * margin))


def test_without_a_margin_a_wide_crop_is_the_aligned_one() -> None:
    """At the template's own size and no margin both are the same pixels."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    points = turned(1.4, -10, 150, 150)
    one, other = aligned_crop(image, points, TEMPLATE, 112), wide_crop(image, points, TEMPLATE, 112, 0.0)
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scale", [4.0, 6.7, 9.0])
def test_a_fine_pattern_becomes_grey_in_a_wide_crop(scale: float) -> None:
    """Stripes of one pixel, shrunk, are their mean and no moire; the face still lies in its place."""
    y, x = np.mgrid[0:1600, 0:1600]
    image = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    points = turned(scale, 0, 800, 800)
    crop = wide_crop(image, points, TEMPLATE, 112, 0.0)
    assert crop is not None
    assert np.abs(crop.astype(int) - 127).max() <= 4
    lit = wide_crop(dots(points, 1600, 3 * scale), points, TEMPLATE, 112, 0.0)
    assert lit is not None
    for px, py in TEMPLATE.points:
        assert np.hypot(*(np.array(centre(lit, px, py)) - (px, py))) < 0.4


def test_points_that_say_nothing_have_no_crop() -> None:
    """Five points in one place, or no numbers, have no crop of either kind."""
    image = np.zeros((50, 50, 3), np.uint8)
    for points in (np.full((5, 2), 9.0), np.full((5, 2), np.nan)):
        assert aligned_crop(image, points, TEMPLATE, 112) is None
        assert wide_crop(image, points, TEMPLATE, 224, 0.25) is None
    with pytest.raises(ValueError, match="margin"):
        widened(TEMPLATE, -0.1, 112)
