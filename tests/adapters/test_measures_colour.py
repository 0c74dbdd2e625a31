"""Colour of the cheeks: natural colour and skin tone, by hand and on rendered faces whose tone is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.adapters.measures.crops import regions
from pipeline.adapters.measures.natural_colour import NaturalColour
from pipeline.adapters.measures.skin_tone import GROUP, SIGMA_deg, SkinTone, SkinToneOptions
from pipeline.domain.colour import MONK_SRGB, monk_lab
from pipeline.domain.records import UInt8

SIDE = 112


def painted(code: str, count: int = 1) -> UInt8:
    """Return pictures of one colour, `rrggbb`."""
    rgb = [int(code[i : i + 2], 16) for i in (0, 2, 4)]
    return np.broadcast_to(np.array(rgb, np.uint8), (count, SIDE, SIDE, 3)).copy()


def cheeks(picture: UInt8) -> tuple[UInt8, UInt8]:
    """Return views into the pixels, (N, H W, 3), and the indices of both cheeks."""
    where = regions("arcface-112", SIDE, SIDE)
    return picture.reshape(len(picture), -1, 3), np.concatenate([where.left_P, where.right_P])  # type: ignore[return-value]


NATURAL = [
    # colour, distance by hand, quality
    ("808080", 0.0, 100),  # grey picture: 0 by the rule for grey pictures
    ("a07e56", 0.0, 100),  # Monk 6: a = 9.7, b = 27.0, inside both ranges
    ("292420", math.hypot(5 - 1.79, 5 - 3.58), 83),  # Monk 10 has little colour: 200 (1 - s(0.351)) = 83
    ("00ff00", 100.0, 0),  # a below 0
    ("4060ff", 100.0, 0),  # b below 0
]


@pytest.mark.parametrize(("code", "distance", "quality"), NATURAL)
def test_natural_colour_by_hand(code: str, distance: float, quality: int) -> None:
    """Skin lies in the standard's ranges; green and blue faces do not; grey ones are let through."""
    found = {k: float(v[0]) for k, v in NaturalColour().measure(painted(code)).items()}
    assert found["natural_colour_distance"] == pytest.approx(distance, abs=0.01)
    assert found["natural_colour_quality"] == quality


def test_one_coloured_pixel_makes_a_picture_no_grey_one() -> None:
    """The rule for grey is about the whole picture: elsewhere grey cheeks are 7.07 away, sqrt(5^2 + 5^2)."""
    picture = painted("808080")
    picture[0, 0, 0] = (255, 0, 0)
    found = NaturalColour().measure(picture)
    # a and b of grey are zero but for rounding, which may fall on either side of it
    assert float(found["natural_colour_distance"][0]) in (pytest.approx(math.hypot(5, 5), abs=1e-6), 100.0)


@pytest.mark.parametrize("tone", range(1, 11))
def test_a_cheek_of_a_monk_tone_is_that_tone(tone: int) -> None:
    """A flat picture of each swatch lies at its number, on the scale, with the angle of its own L* and b*."""
    found = {k: float(v[0]) for k, v in SkinTone().measure(painted(MONK_SRGB[tone - 1])).items()}
    lightness, _, b = (float(c[tone - 1]) for c in monk_lab())
    assert found["est_skin_tone_mst"] == pytest.approx(tone, abs=1e-6)
    assert found["skin_tone_monk"] == tone
    assert found["skin_tone_off_scale"] == pytest.approx(0, abs=1e-6)
    assert found["skin_ita_deg"] == pytest.approx(math.degrees(math.atan2(lightness - 50, b)))
    assert found["skin_share"] == found["skin_tone_reliable"] == 1.0


def test_the_group_is_a_normal_share_by_hand() -> None:
    """Monk 6 has an angle of atan2(5.42, 27.02) = 11.3 degrees, 1.3 above the edge of dark, 29.7 below that of light.

    Phi(-29.7 / 13) = 0.011 is light, Phi(-1.3 / 13) = 0.459 is dark, and what is left is medium.
    """
    found = {k: float(v[0]) for k, v in SkinTone().measure(painted(MONK_SRGB[5])).items()}
    angle = math.degrees(math.atan2(5.42, 27.02))
    light, dark = (0.5 * (1 + math.erf(x / SIGMA_deg / math.sqrt(2))) for x in (angle - 41, 10 - angle))
    shares = [found[f"{GROUP}={value}"] for value in ("light", "medium", "dark")]
    assert shares == pytest.approx([light, 1 - light - dark, dark], abs=1e-3)
    assert shares == pytest.approx([0.011, 0.530, 0.459], abs=2e-3)


def test_a_mole_and_a_strand_of_hair_weigh_nothing() -> None:
    """A median over skin pixels: a third of each cheek painted black or blue changes no tone."""
    clean, touched = painted("a07e56"), painted("a07e56", 2)
    flat, where = cheeks(touched)
    flat[0, where[::3]] = 0
    flat[1, where[::3]] = (40, 60, 250)
    before, after = SkinTone().measure(clean), SkinTone().measure(touched)
    for name in ("skin_ita_deg", "skin_hue_deg", "est_skin_tone_mst", "skin_tone_monk"):
        assert after[name] == pytest.approx(np.repeat(before[name], 2)), name
    assert after["skin_share"] == pytest.approx([1 - 81 / 242] * 2)


UNRELIABLE = ["no skin at all", "one cheek covered", "one cheek in shadow", "blown out"]


@pytest.mark.parametrize("what", UNRELIABLE)
def test_a_tone_that_light_or_cover_spoils_is_flagged(what: str) -> None:
    """The flag is 0 where the picture cannot show a tone; the numbers are there all the same."""
    picture = painted("d7bd96")
    flat, where = cheeks(picture)
    left = where[:121]
    if what == "no skin at all":
        flat[0, where] = (30, 60, 250)
    elif what == "one cheek covered":
        flat[0, left] = (30, 60, 250)
    elif what == "one cheek in shadow":
        flat[0, left] = (0x6B, 0x5E, 0x4B)  # half the code is a quarter of the light
    else:
        flat[0, where[::5]] = 255
    found = SkinTone().measure(picture)
    assert found["skin_tone_reliable"].tolist() == [0.0]
    assert all(np.isfinite(v).all() for v in found.values())
    assert SkinTone().measure(painted("d7bd96"))["skin_tone_reliable"].tolist() == [1.0]


def test_it_reads_the_tone_of_rendered_faces() -> None:
    """On 80 phantoms in ordinary light place and angle follow the renderer's tone: correlation above 0.93.

    Printed swatches are lighter than skin in a picture, so places lie towards the dark; two of three phantoms at least
    read as the third of the scale that they are of, and none as the far one.
    """
    from pipeline.adapters.phantom.renderer import render
    from pipeline.adapters.phantom.traits import (
        identity_column,
        nuisance_column,
        sample_identities,
        sample_nuisances,
    )

    rng = np.random.default_rng(11)
    identities, nuisances = sample_identities(80, rng), sample_nuisances(80, rng)
    for name, most in (("yaw_deg", 15.0), ("light_azimuth_deg", 45.0)):
        column = nuisance_column(name)
        nuisances[:, column] = np.clip(nuisances[:, column], -most, most)
    faces = render(identities, nuisances, supersample=1.0).faces_NHWC
    truth = identities[:, identity_column("skin_tone_mst")].astype(float)
    found = SkinTone(SkinToneOptions(alignment="phantom-112")).measure(faces)
    trusted = found["skin_tone_reliable"] == 1.0
    read = np.argmax([found[f"{GROUP}={value}"] for value in ("light", "medium", "dark")], axis=0)
    apart = np.abs(read - np.digitize(truth, [3.5, 6.5]))[trusted]
    assert trusted.mean() > 0.5
    assert np.corrcoef(truth[trusted], found["est_skin_tone_mst"][trusted])[0, 1] > 0.93
    assert np.corrcoef(truth[trusted], found["skin_ita_deg"][trusted])[0, 1] < -0.93
    assert (apart == 0).mean() > 0.66
    assert apart.max() <= 1
