"""The apparent tone of the skin: individual typology angle, hue, and the place on the Monk scale.

Read from the skin pixels of both cheeks of an aligned crop (`crops.py`): those with a lightness and a hue that skin can
have. Each number is a median over them, so that a mole, a gleam or a strand of hair weighs nothing. The tone is that of
the *picture*: light, exposure and white balance move it as much as skin does, so tones are comparable only between
pictures that were taken alike; `skin_tone_reliable` is 0 where the picture itself says that it cannot be trusted. It is
an estimate of appearance and says nothing about who somebody is; people do not agree on Monk tones either (C. Schumann
et al., "Consensus and subjectivity of skin tone annotation for ML fairness", 2023).

    skin_ita_deg         median of atan2(L* - 50, b*): above 55 very light, 41 to 55 light, 28 to 41 intermediate,
                         10 to 28 tan, -30 to 10 brown, below -30 dark
    skin_hue_deg         atan2 of the medians of b* and a*, 0 to 360: red is low, yellow high
    est_skin_tone_mst    where the medians of L*, a*, b* lie along the Monk scale, 1 (lightest) to 10
    skin_tone_monk       the Monk tone that these differ least from by CIEDE2000
    skin_tone_off_scale  CIELAB distance from the scale: a large one is no skin, or coloured light
    skin_share           share of the cheeks' pixels that were taken for skin; where none was, all are measured
    skin_tone_reliable   1 where half of each cheek is skin, neither cheek has less than half the other's luminance, and
                         at most a tenth of their pixels is over-exposed; 0 elsewhere

`est_skin_tone_group` is light (angle above 41), medium (10 to 41) or dark (below 10), as probabilities: the angle read
is taken for normally distributed around the true one, with the spread measured on phantoms. Of 150 phantoms 76 % read
as the third of the Monk scale (1-3, 4-6, 7-10) that they were rendered in, the others mostly one darker.

The printed swatches of tones 1 to 4 are lighter than nearly all skin in a photograph: of 400 photographs of LFW the
middle 90 % read as 4.8 to 7.2, of phantoms light skin as 5. So the place on the scale orders pictures, and is nobody's
tone; the angle spreads them better.

Legend: N rows, H W C image axes, P pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.measures.crops import (
    FINE,
    CropOptions,
    card_of,
    luminance,
    pixels,
    regions,
    require_faces,
)
from pipeline.domain.colour import Lab, ita_deg, lab_of, monk_place, nearest_monk
from pipeline.domain.records import UInt8

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
FORMULA = "median ITA, hue, Monk place in CIELAB D50 of cheek skin, ITA groups 41 10 with sigma 13; version 1"
"""What the card's digest is taken of: change it whenever a number below changes."""
GROUP = "est_skin_tone_group"
EDGES_deg = (41.0, 10.0)
"""Between light, medium and dark: two of the five edges of the angle's classes."""
SIGMA_deg = 13.0
"""How far an angle lies from that of most pictures of the same tone, where the flag allows it: on phantoms."""
LIGHTNESS = (3.0, 97.0)
HUE_deg = (0.0, 100.0)
LEAST_CHROMA = 2.0
OVER = 247 * FINE
"""Luminance from which a pixel counts as over-exposed, as the lighting measure has it."""


class SkinToneOptions(CropOptions):
    """Skin tone from the pixels alone."""

    use: Literal["skin-tone"] = "skin-tone"


class SkinTone:
    """Gives the numbers of the module's table, and `est_skin_tone_group`."""

    card = card_of(
        "skin-tone-cheeks",
        FORMULA,
        "ITA (Chardon et al., 1991), Monk Skin Tone Scale (2019), CIEDE2000 (Sharma et al., 2005)",
    )
    attributes: Mapping[str, tuple[str, ...]] = {GROUP: ("light", "medium", "dark")}
    names: tuple[str, ...] = (
        "skin_ita_deg",
        "skin_hue_deg",
        "est_skin_tone_mst",
        "skin_tone_monk",
        "skin_tone_off_scale",
        "skin_share",
        "skin_tone_reliable",
        *(f"{field}={value}" for field, values in attributes.items() for value in values),
    )
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: SkinToneOptions | None = None) -> None:
        self.options = options or SkinToneOptions()
        self.alignment = self.options.alignment

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, Float64]:
        """Return one float64 array of shape (N,) per name.

        Raises:
            ValueError: not uint8 RGB of shape (N, H, W, 3) with sides of 8 to 4,096 pixels.
        """
        require_faces(faces_NHWC)
        where = regions(self.alignment, *faces_NHWC.shape[1:3])
        rgb = pixels(faces_NHWC, np.concatenate([where.left_P, where.right_P]))
        lab, half = lab_of(*rgb), len(where.left_P)
        skin_NP = _is_skin(lab)
        used_NP = skin_NP | ~skin_NP.any(axis=1, keepdims=True)
        colour: Lab = (_median(lab[0], used_NP), _median(lab[1], used_NP), _median(lab[2], used_NP))
        place_N, off_N = monk_place(colour)
        ita_N = _median(ita_deg(lab[0], lab[2]), used_NP)
        found = {
            "skin_ita_deg": ita_N,
            "skin_hue_deg": np.rad2deg(np.arctan2(colour[2], colour[1])) % 360.0,
            "est_skin_tone_mst": place_N,
            "skin_tone_monk": nearest_monk(colour),
            "skin_tone_off_scale": off_N,
            "skin_share": skin_NP.sum(axis=1) / skin_NP.shape[1],
            "skin_tone_reliable": _reliable(skin_NP, luminance(*rgb), half),
        }
        light_N, upto_medium_N = (_above(ita_N, edge) for edge in EDGES_deg)
        shares = (light_N, upto_medium_N - light_N, 1.0 - upto_medium_N)
        return found | dict(zip(self.names[len(found) :], shares, strict=True))


def _is_skin(lab: Lab) -> Bool:
    lightness, a, b = lab
    hue = np.rad2deg(np.arctan2(b, a))
    seen = (lightness >= LIGHTNESS[0]) & (lightness <= LIGHTNESS[1])
    return np.asarray(seen & (hue >= HUE_deg[0]) & (hue <= HUE_deg[1]) & (np.hypot(a, b) >= LEAST_CHROMA))


def _median(values_NP: Float64, used_NP: Bool) -> Float64:
    """Return the median of each row's used values, the mean of the middle two where their number is even."""
    ordered = np.sort(np.where(used_NP, values_NP, np.inf), axis=1)
    count_N = used_NP.sum(axis=1)
    rows = np.arange(len(ordered))
    return np.asarray((ordered[rows, (count_N - 1) // 2] + ordered[rows, count_N // 2]) / 2, np.float64)


def _reliable(skin_NP: Bool, fine_NP: npt.NDArray[np.uint16], half: int) -> Float64:
    """Return 1.0 where both cheeks are skin, evenly lit and not blown out; 0.0 elsewhere."""
    light_NP = fine_NP.astype(np.int64)
    left_N, right_N = light_NP[:, :half].sum(axis=1), light_NP[:, half:].sum(axis=1)
    even = 2 * np.minimum(left_N, right_N) >= np.maximum(left_N, right_N)
    covered = np.minimum(skin_NP[:, :half].sum(axis=1), skin_NP[:, half:].sum(axis=1)) * 2 >= half
    blown = 10 * (fine_NP >= OVER).sum(axis=1) > fine_NP.shape[1]
    return np.asarray(even & covered & ~blown, np.float64)


def _above(ita_N: Float64, edge_deg: float) -> Float64:
    """Return the probability that the true angle lies above an edge."""
    scale = SIGMA_deg * math.sqrt(2.0)
    return np.array([0.5 * (1.0 + math.erf((angle - edge_deg) / scale)) for angle in ita_N.tolist()], np.float64)
