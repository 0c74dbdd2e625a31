"""How natural the colour of the cheeks is: a red or green cast, or a wrong white balance.

OFIQ-style (OFIQ 1.0.3, ISO/IEC 29794-5:2025), on the cheeks of an aligned crop (`crops.py`), hence not conformant. With
a and b the means of CIELAB (D50) over both cheeks:

    natural_colour_distance = sqrt(max(0, 5 - a, a - 25)^2 + max(0, 5 - b, b - 35)^2), 100 where a or b is below 0
    natural_colour_quality  = 200 (1 - 1 / (1 + exp(-distance / 10))), rounded, 0..100

A picture in shades of grey has a distance of 0. The bounds are the standard's; very light and very dark skin has
little colour (the darkest Monk tone a = 1.8, b = 3.6), so a cut by this quality refuses some tones more than others.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.measures.crops import CropOptions, card_of, pixels, regions, require_faces
from pipeline.domain.colour import lab_of
from pipeline.domain.records import UInt8

Float64 = npt.NDArray[np.float64]
FORMULA = "OFIQ 1.0.3 natural colour on aligned crops, CIELAB D50; version 1"
"""What the card's digest is taken of: change it whenever a number below changes."""
A_RANGE, B_RANGE = (5.0, 25.0), (5.0, 35.0)
UNNATURAL = 100.0


class NaturalColourOptions(CropOptions):
    """Colour of the cheeks from the pixels alone."""

    use: Literal["natural-colour"] = "natural-colour"


class NaturalColour:
    """Gives `cheek_a`, `cheek_b` (CIELAB), `natural_colour_distance` (0..100) and `natural_colour_quality`."""

    card = card_of(
        "natural-colour-ofiq-style",
        FORMULA,
        "formula of OFIQ 1.0.3 (ISO/IEC 29794-5:2025) on aligned crops; not conformant",
    )
    names: tuple[str, ...] = ("cheek_a", "cheek_b", "natural_colour_distance", "natural_colour_quality")
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: NaturalColourOptions | None = None) -> None:
        self.options = options or NaturalColourOptions()
        self.alignment = self.options.alignment

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, Float64]:
        """Return one float64 array of shape (N,) per name.

        Raises:
            ValueError: not uint8 RGB of shape (N, H, W, 3) with sides of 8 to 4,096 pixels.
        """
        require_faces(faces_NHWC)
        where = regions(self.alignment, *faces_NHWC.shape[1:3])
        _, a_NP, b_NP = lab_of(*pixels(faces_NHWC, np.concatenate([where.left_P, where.right_P])))
        a_N, b_N = a_NP.mean(axis=1), b_NP.mean(axis=1)
        distance_N = np.hypot(_outside(a_N, *A_RANGE), _outside(b_N, *B_RANGE))
        distance_N = np.where((a_N < 0) | (b_N < 0), UNNATURAL, distance_N)
        distance_N = np.where(_is_grey(faces_NHWC), 0.0, distance_N)
        quality_N = 200.0 * (1.0 - 1.0 / (1.0 + np.exp(-distance_N / 10.0)))
        return {
            "cheek_a": a_N,
            "cheek_b": b_N,
            "natural_colour_distance": distance_N,
            "natural_colour_quality": np.clip(np.floor(quality_N + 0.5), 0.0, 100.0),
        }


def _outside(value_N: Float64, low: float, high: float) -> Float64:
    return np.maximum(np.maximum(low - value_N, value_N - high), 0.0)


def _is_grey(faces_NHWC: UInt8) -> npt.NDArray[np.bool_]:
    """Return which pictures have equal red, green and blue in every pixel."""
    red = faces_NHWC[..., 0]
    grey: npt.NDArray[np.bool_] = ((red == faces_NHWC[..., 1]) & (red == faces_NHWC[..., 2])).all(axis=(1, 2))
    return grey
