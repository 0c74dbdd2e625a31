"""Sharpness and light of a face, from its pixels alone.

The measure is the variance of the Laplacian (J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield
microscopy: a comparative study", ICPR 2000) of Rec. 709 luma, divided by local contrast so that a dim face is
not taken for a blurred one:

    Y = (54 R + 183 G + 19 B) / 256                  luma, 0..255, on the gamma-encoded values
    r = max(0, var(laplacian_4(Y)) - 5/3) / (mean over 8 x 8 blocks of var(Y within the block) + 1)
    sharpness = r / (r + 0.25)                       0 (no detail) to 1, rising with r

5/3 is what rounding to whole pixel values alone gives (1/12 times the squared weights 16 + 4); without taking
it away, a strong blur on a dim face would look sharper than a weak one. At 112 pixels a crisp rendered face
has 0.75 to 0.85, one blurred by a Gaussian of 1 pixel 0.35 to 0.5, by 2 pixels 0.1. Noise counts as detail,
so a sharpness filter takes a lower bound only. All sums are of whole numbers, hence exact: neither the batch,
its order nor the CPU changes a bit.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.measures.crops import card_of, require_faces
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8

FORMULA = "max(0, laplacian4-var - 5/3) / (block8-var + 1), luma 54 183 19 / 256, r / (r + 0.25); version 1"
"""What the card's digest is taken of: change it whenever a number below changes."""
LUMA_C = np.array([54, 183, 19], np.int64)
SCALE = 256
BLOCK_px = 8
ROUNDING = 5 / 3 * SCALE**2
"""Variance of the Laplacian of rounding errors, in squared luma units."""
FLOOR = 1.0 * SCALE**2
"""Added to local contrast: keeps a flat image at 0 instead of 0 / 0."""
HALF = 0.25
"""The ratio r that maps to a sharpness of one half."""

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class SharpnessOptions(MeasureNode):
    """The sharpness measure has no options: its numbers must mean the same in every dataset."""

    use: Literal["sharpness"] = "sharpness"


class Sharpness:
    """Gives `sharpness` (0..1), `luma_mean` (0..1) and `luma_contrast` (deviation of luma, 0..0.5)."""

    card = card_of(
        "sharpness-laplacian",
        FORMULA,
        "Pech-Pacheco et al., ICPR 2000: variance of the Laplacian, normalised by local contrast",
    )
    names: tuple[str, ...] = ("sharpness", "luma_mean", "luma_contrast")
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: SharpnessOptions | None = None) -> None:
        self.options = options or SharpnessOptions()

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, Float64]:
        """Return one float64 array of shape (N,) per name.

        Raises:
            ValueError: not uint8 RGB of shape (N, H, W, 3) with sides of 8 to 4,096 pixels.
        """
        require_faces(faces_NHWC)
        luma_NHW = faces_NHWC.astype(np.int64) @ LUMA_C
        detail_N = np.maximum(_variance(_laplacian(luma_NHW)) - ROUNDING, 0.0)
        ratio_N = detail_N / (_local_variance(luma_NHW) + FLOOR)
        white = 255.0 * SCALE
        return {
            "sharpness": ratio_N / (ratio_N + HALF),
            "luma_mean": _mean(luma_NHW) / white,
            "luma_contrast": np.sqrt(_variance(luma_NHW)) / white,
        }


def _laplacian(luma_NHW: Int64) -> Int64:
    """Return the 4-neighbour Laplacian of the inner pixels, shape (N, H-2, W-2)."""
    y = luma_NHW
    return y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:] - 4 * y[:, 1:-1, 1:-1]


def _mean(values_NHW: Int64) -> Float64:
    sums_N = values_NHW.sum(axis=(1, 2))
    return np.asarray(sums_N / (values_NHW.shape[1] * values_NHW.shape[2]), np.float64)


def _variance(values_NHW: Int64) -> Float64:
    variance_N = _mean(values_NHW * values_NHW) - _mean(values_NHW) ** 2
    return np.maximum(variance_N, 0.0)


def _local_variance(luma_NHW: Int64) -> Float64:
    """Return the mean variance within blocks of 8 x 8 pixels; incomplete blocks at the edges are left out."""
    n, height, width = luma_NHW.shape
    rows, columns = height // BLOCK_px, width // BLOCK_px
    inner = luma_NHW[:, : rows * BLOCK_px, : columns * BLOCK_px]
    blocks = inner.reshape(n, rows, BLOCK_px, columns, BLOCK_px)
    count = BLOCK_px * BLOCK_px
    squares = (blocks * blocks).sum(axis=(2, 4))
    sums = blocks.sum(axis=(2, 4))
    total_N = (count * squares - sums * sums).sum(axis=(1, 2))
    return np.asarray(total_N / (count * count * rows * columns), np.float64)
