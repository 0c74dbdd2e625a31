"""Lighting: each number against one worked out by hand on pictures of a few flat colours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.adapters.measures.crops import regions
from pipeline.adapters.measures.lighting import Lighting, LightingOptions
from pipeline.domain.colour import LINEAR_256
from pipeline.domain.records import UInt8

LIGHTING = Lighting(LightingOptions())
SIDE = 112
GREY = 188
"""The sRGB code of half the light: ((188/255 + 0.055) / 1.055)^2.4 = 0.5029."""


def flat(*codes: int) -> UInt8:
    """Return one grey picture per code."""
    return np.stack([np.full((SIDE, SIDE, 3), code, np.uint8) for code in codes])


def halves(left: int, right: int) -> UInt8:
    """Return a picture that is divided at the middle of the face region's pixels, so that each code has half of them.

    The face region is symmetric about the middle of the eyes, 0.1 pixels from column 56; the columns left of it hold
    exactly as many of its pixels as are counted here.
    """
    picture = flat(right)
    picture[0, :, :56] = left
    return picture


def of(faces: UInt8, name: str) -> float:
    """Return one number of the first picture."""
    return float(LIGHTING.measure(faces)[name][0])


def sigmoid(x: float, centre: float, width: float) -> float:
    """Return 1 / (1 + exp((centre - x) / width))."""
    return 1 / (1 + math.exp((centre - x) / width))


def test_the_mean_is_linear_light() -> None:
    """Black is 0, white 1, and the code 188 is half the light: 0.5029, not 188 / 255 = 0.737."""
    found = LIGHTING.measure(flat(0, GREY, 255))
    assert found["luminance_mean"] == pytest.approx([0.0, 0.50289, 1.0], abs=2e-5)


def test_quality_of_the_mean_by_hand() -> None:
    """Half the light is flawless; black has s(0, .2, .05) = 1.8 % left, which rounds to 2, and white the same."""
    found = LIGHTING.measure(flat(0, GREY, 255))
    assert found["luminance_mean_quality"].tolist() == [2.0, 100.0, 2.0]
    assert round(100 * sigmoid(0.0, 0.2, 0.05) * (1 - sigmoid(0.0, 0.8, 0.05))) == 2


def test_green_weighs_most() -> None:
    """Full red, green and blue have the luminances of Rec. 709."""
    primaries = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        primaries[channel, ..., channel] = 255
    assert LIGHTING.measure(primaries)["luminance_mean"] == pytest.approx([0.2126, 0.7152, 0.0722], abs=1e-5)


def test_a_flat_picture_has_no_spread_and_no_range() -> None:
    """One level: deviation 0, entropy 0, and the qualities that follow from 0."""
    found = LIGHTING.measure(flat(0, 100, 255))
    for name in ("luminance_std", "luminance_std_quality", "dynamic_range_bits", "dynamic_range_quality"):
        assert found[name].tolist() == [0.0, 0.0, 0.0], name


def test_half_black_half_white_by_hand() -> None:
    """With a share p of white: mean p, deviation sqrt(p (1 - p)), entropy of p; both exposures are half wrong."""
    picture = halves(0, 255)
    where = regions("arcface-112", SIDE, SIDE).face_P
    p = float((where % SIDE >= 56).mean())
    variance = p * (1 - p)
    bits = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    assert p == pytest.approx(0.5, abs=0.02)
    assert of(picture, "luminance_mean") == pytest.approx(p)
    assert of(picture, "luminance_std") == pytest.approx(math.sqrt(variance))
    assert of(picture, "luminance_std_quality") == round(100 * math.sin(math.pi * 60 * variance / (60 * variance + 1)))
    assert of(picture, "dynamic_range_bits") == pytest.approx(bits)
    assert of(picture, "dynamic_range_quality") == 12.0  # 12.5 x 0.9997
    assert of(picture, "over_exposed_share") == pytest.approx(p)
    assert of(picture, "over_exposed_quality") == 2.0  # 1 / (0.5 + 0.01)
    assert of(picture, "under_exposed_share") == pytest.approx(1 - p)
    assert of(picture, "under_exposed_quality") == 100.0


EXPOSURES = [
    # sRGB code, its level of luminance, over-exposed, under-exposed
    (0, 0, 0.0, 1.0),
    (88, 25, 0.0, 1.0),
    (91, 27, 0.0, 0.0),
    (250, 244, 0.0, 0.0),
    (252, 248, 1.0, 0.0),
    (255, 255, 1.0, 0.0),
]


@pytest.mark.parametrize(("code", "level", "over", "under"), EXPOSURES)
def test_exposure_begins_at_its_levels(code: int, level: int, over: float, under: float) -> None:
    """Levels 247 and up are over-exposed, 25 and below under-exposed; levels are of linear light."""
    assert round(255 * float(LINEAR_256[code])) == level
    assert of(flat(code), "over_exposed_share") == over
    assert of(flat(code), "under_exposed_share") == under


@pytest.mark.parametrize(("share", "quality"), [(0.0, 100), (0.8, 90), (0.9, 52), (1.0, 0)])
def test_under_exposure_has_the_published_qualities(share: float, quality: int) -> None:
    """The qualities that OFIQ gives for 80 % and 90 % dark pixels come out of the formula."""
    picture = flat(GREY)
    where = regions("arcface-112", SIDE, SIDE).face_P
    dark = where[: round(share * len(where))]
    picture.reshape(-1, 3)[dark] = 0
    assert of(picture, "under_exposed_quality") == pytest.approx(quality, abs=1)


def test_evenness_compares_the_cheeks() -> None:
    """Equal cheeks are 1 and quality 100; cheeks of two different greys share no level, which is 0."""
    even, uneven = flat(120), halves(120, 180)
    assert of(even, "illumination_uniformity") == 1.0
    assert of(even, "illumination_uniformity_quality") == 100.0
    assert of(uneven, "illumination_uniformity") == 0.0
    assert of(uneven, "illumination_uniformity_quality") == 0.0


def test_evenness_by_hand() -> None:
    """A left cheek of 6 rows like the right one and 5 that are not shares 6/11: 100 (6/11)^0.3 = 83."""
    picture = flat(120)
    where = regions("arcface-112", SIDE, SIDE)
    assert len(where.left_P) == len(where.right_P) == 121
    picture.reshape(-1, 3)[where.left_P[66:]] = 200
    assert of(picture, "illumination_uniformity") == pytest.approx(66 / 121)
    assert of(picture, "illumination_uniformity_quality") == 83.0


def test_background_and_hair_say_nothing() -> None:
    """What lies outside the face region changes no number."""
    picture = flat(120)
    outside = np.ones(SIDE * SIDE, bool)
    where = regions("arcface-112", SIDE, SIDE)
    outside[np.concatenate([where.face_P, where.left_P, where.right_P])] = False
    changed = picture.copy()
    changed.reshape(-1, 3)[outside] = 255
    assert outside.mean() > 0.5
    assert {k: v.tolist() for k, v in LIGHTING.measure(changed).items()} == {
        k: v.tolist() for k, v in LIGHTING.measure(picture).items()
    }


def test_cheeks_lie_below_the_eyes_of_the_template() -> None:
    """The squares of arcface-112 are 11 pixels wide, centred below each eye, half way to the mouth."""
    where = regions("arcface-112", SIDE, SIDE)
    for cheek, eye_x in ((where.left_P, 38.29), (where.right_P, 73.53)):
        rows, columns = cheek // SIDE, cheek % SIDE
        assert columns.mean() == pytest.approx(eye_x, abs=0.51)
        assert rows.mean() == pytest.approx((51.6 + 92.28) / 2, abs=0.51)
        assert np.ptp(rows) == np.ptp(columns) == 10
