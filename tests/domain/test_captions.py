"""Captions: fixed words for numbers, nothing else; and pairs of images that differ in what is said of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.captions import caption, cross_pairs, describe, differing

NAN = float("nan")


@pytest.mark.parametrize(
    ("measures", "wanted"),
    [
        ({}, "A face."),
        ({"yaw_deg": 0.0}, "A face facing the camera."),
        ({"yaw_deg": -7.49}, "A face facing the camera."),
        ({"yaw_deg": -7.5}, "A face turned to the left of the picture by about 10 degrees."),
        ({"yaw_deg": 32.4}, "A face turned to the right of the picture by about 30 degrees."),
        ({"yaw_deg": -80.0}, "A face in profile to the left of the picture."),
        ({"pitch_deg": 12.0}, "A face looking up by about 10 degrees."),
        ({"pitch_deg": -12.6}, "A face looking down by about 15 degrees."),
        ({"roll_deg": 20.0}, "A face leaning to the right of the picture by about 20 degrees."),
        ({"smile": 0.6}, "A face smiling."),
        ({"smile": 0.59}, "A face smiling slightly."),
        ({"smile": 0.1, "mouth_open": 0.7}, "A face not smiling, with an open mouth."),
        ({"light_azimuth_deg": -20.0}, "A face lit from the left of the picture."),
        ({"light_azimuth_deg": 19.0}, "A face lit from the front."),
        ({"glasses_p": 0.5}, "A face wearing glasses."),
        ({"glasses_p": 0.49}, "A face without glasses."),
        ({"yaw_deg": NAN, "smile": NAN, "glasses_p": NAN, "light_azimuth_deg": NAN, "mouth_open": NAN}, "A face."),
        ({"age_years": 30.0, "perceived_gender_presentation=feminine": 1.0, "nearest_other_identity": 4.0}, "A face."),
    ],
)  # fmt: skip
def test_words(measures: dict[str, float], wanted: str) -> None:
    """Each number has its words, at its bounds too; NaN and what is no business of a caption have none."""
    assert caption(describe({}, measures)) == wanted


def test_what_was_read_comes_before_what_was_asked() -> None:
    """A measure is believed; a condition stands in where nothing, or NaN, was measured."""
    asked = {"yaw_deg": 40.0, "smile": 1.0, "glasses": 1.0}
    assert caption(describe(asked, {"yaw_deg": 0.0, "smile": NAN})) == (
        "A face facing the camera, smiling, wearing glasses."
    )


def test_twins_say_what_was_done_to_them() -> None:
    """The conditions of a hard-condition twin name it; its own settings are no words."""
    asked = {"yaw_deg": 0.0, "twin:face-mask": 1.0, "twin:face-mask:colour": 3.0}
    assert caption(describe(asked, {})) == "A face facing the camera, wearing a face mask."


def test_every_twin_of_a_recipe_has_words() -> None:
    """Whatever twin a recipe can ask for, a caption can say."""
    from jobs.components import COMPONENTS

    for name in COMPONENTS["twins"]:
        assert set(describe({f"twin:{name}": 1.0}, {})) == {"condition"}, name


ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)
NAMES = ("yaw_deg", "pitch_deg", "roll_deg", "smile", "mouth_open", "light_azimuth_deg", "glasses_p")


@given(st.dictionaries(st.sampled_from(NAMES), ANY), st.dictionaries(st.sampled_from(NAMES), ANY))
def test_captions_are_plain_sentences(asked: dict[str, float], read: dict[str, float]) -> None:
    """Whatever the numbers, a caption is one sentence of words and whole numbers."""
    assert re.fullmatch(r"A face( [a-z]+(,? [a-z0-9]+)*)?\.", caption(describe(asked, read)))


def test_differing() -> None:
    """Factors differ where both images have something said of them, and it is not the same."""
    one = {"pose": "facing the camera", "light": "lit from the front"}
    other = {"pose": "facing the camera", "light": "lit from the left of the picture", "glasses": "without glasses"}
    assert differing(one, other) == ("light",)
    assert differing(other, one) == ("light",)


SAID = st.sampled_from([{}, {"pose": "a"}, {"pose": "b"}, {"pose": "a", "light": "c"}, {"light": "d"}])


@given(st.lists(SAID, min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 99), st.integers(1, 3))
def test_cross_pairs(phrases: list[dict[str, str]], wanted: int, seed: int, family: int) -> None:
    """Pairs differ in something stated, are of two origins, come once; all there are where fewer exist than wanted."""
    origins = [str(n // family) for n in range(len(phrases))]
    places = range(len(phrases))
    possible = {
        (a, b) for a in places for b in places if origins[a] != origins[b] and differing(phrases[a], phrases[b])
    }
    found = cross_pairs(phrases, origins, wanted, np.random.Generator(np.random.Philox(seed)))
    assert len(found) == len(set(found)) == min(wanted, len(possible))
    assert set(found) <= possible


def test_every_image_becomes_a_target_before_any_does_twice() -> None:
    """Ten different images and ten pairs: each is the target of one."""
    phrases = [{"pose": str(n)} for n in range(10)]
    found = cross_pairs(phrases, [str(n) for n in range(10)], 10, np.random.Generator(np.random.Philox(3)))
    assert sorted(target for _, target in found) == list(range(10))
