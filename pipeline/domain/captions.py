"""Captions: what can be seen in an image, in plain words made from its numbers; and pairs of images of one person.

A caption comes from a fixed table of words over measures, or over conditions where nothing was measured, and from
nothing else: no guess of who it is, of age, of origin or of sex. Each factor gives one phrase, so that two captions can
be compared factor by factor. Left and right are those of the picture. NaN says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.domain.records import Conditions, Measures
from pipeline.domain.twins import PREFIX

CAPTIONS = 1
"""Version of the words below: raise it with them."""
Phrases = Mapping[str, str]
"""Factor (`pose`, `expression`, `light`, `glasses`, `condition`) -> what is said of it; in this order."""

_FRONTAL_deg = 7.5
_PROFILE_deg = 75.0
_STEP_deg = 5
_SIDE_LIGHT_deg = 20.0
_SLIGHT_SMILE, _SMILE, _OPEN_MOUTH, _GLASSES = 0.3, 0.6, 0.5, 0.5
_TWINS = {
    "face-mask": "wearing a face mask",
    "sunglasses": "wearing sunglasses",
    "occluder": "partly covered",
    "low-resolution": "in low resolution",
    "compression": "heavily compressed",
    "blur": "blurred",
    "darkness": "in the dark",
}


def describe(conditions: Conditions, measures: Measures) -> dict[str, str]:
    """Return what can be said of an image by factor; factors of which no number is known are not there.

    Args:
        conditions: what was asked of it; of a hard-condition twin, `twin:NAME` too.
        measures: what was read of it; a measure comes before the condition of the same name.
    """

    def known(*names: str) -> float | None:
        found = (numbers[name] for name in names for numbers in (measures, conditions) if name in numbers)
        return next((value for value in found if math.isfinite(value)), None)

    said = {
        "pose": _pose(known("yaw_deg"), known("pitch_deg"), known("roll_deg")),
        "expression": _expression(known("smile"), known("mouth_open")),
        "light": _light(known("light_azimuth_deg")),
        "glasses": _glasses(known("glasses_p", "glasses")),
        "condition": ", ".join(words for name, words in _TWINS.items() if f"{PREFIX}{name}" in conditions),
    }
    return {factor: phrase for factor, phrase in said.items() if phrase}


def caption(phrases: Phrases) -> str:
    """Return the sentence: `A face turned to the left of the picture by about 30 degrees, smiling.`"""
    return f"A face {', '.join(phrases.values())}." if phrases else "A face."


def differing(one: Phrases, other: Phrases) -> tuple[str, ...]:
    """Return the factors of which two images have different things said; what is said of one alone is no difference."""
    return tuple(factor for factor in one if factor in other and one[factor] != other[factor])


def _about(value_deg: float) -> str:
    return f"by about {int(_STEP_deg * math.floor(abs(value_deg) / _STEP_deg + 0.5))} degrees"


def _pose(yaw_deg: float | None, pitch_deg: float | None, roll_deg: float | None) -> str:
    said = []
    if yaw_deg is not None:
        side = "right" if yaw_deg > 0 else "left"
        if abs(yaw_deg) < _FRONTAL_deg:
            said.append("facing the camera")
        elif abs(yaw_deg) >= _PROFILE_deg:
            said.append(f"in profile to the {side} of the picture")
        else:
            said.append(f"turned to the {side} of the picture {_about(yaw_deg)}")
    if pitch_deg is not None and abs(pitch_deg) >= _FRONTAL_deg:
        said.append(f"looking {'up' if pitch_deg > 0 else 'down'} {_about(pitch_deg)}")
    if roll_deg is not None and abs(roll_deg) >= _FRONTAL_deg:
        said.append(f"leaning to the {'right' if roll_deg > 0 else 'left'} of the picture {_about(roll_deg)}")
    return ", ".join(said)


def _expression(smile: float | None, mouth_open: float | None) -> str:
    said = []
    if smile is not None:
        said.append("smiling" if smile >= _SMILE else "smiling slightly" if smile >= _SLIGHT_SMILE else "not smiling")
    if mouth_open is not None and mouth_open >= _OPEN_MOUTH:
        said.append("with an open mouth")
    return ", ".join(said)


def _light(azimuth_deg: float | None) -> str:
    if azimuth_deg is None:
        return ""
    if abs(azimuth_deg) < _SIDE_LIGHT_deg:
        return "lit from the front"
    return f"lit from the {'right' if azimuth_deg > 0 else 'left'} of the picture"


def _glasses(worn: float | None) -> str:
    return "" if worn is None else "wearing glasses" if worn >= _GLASSES else "without glasses"


def cross_pairs(
    phrases: Sequence[Phrases], origins: Sequence[str], wanted: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return ordered pairs (input, target) of one person's images that differ in at least one stated factor.

    Every image becomes a target before any does twice, as far as others differ from it. An image and its own twin, or
    two twins of one image, are no pair: the pixels would be repeated.

    Args:
        phrases: what is said of each image.
        origins: the key of the image that each was made of; its own, if it is no twin.
        wanted: pairs; fewer come where no more differ.
        rng: draws the order.
    """
    count = len(phrases)
    made: dict[tuple[int, int], None] = {}
    before = -1
    while len(made) < wanted and len(made) > before:
        before = len(made)
        for target in rng.permutation(count).tolist():
            found = (
                (one, target)
                for one in rng.permutation(count).tolist()
                if origins[one] != origins[target]
                and (one, target) not in made
                and differing(phrases[one], phrases[target])
            )
            pair = next(found, None)
            if pair is not None and len(made) < wanted:
                made[pair] = None
    return sorted(made)
