"""Light on a face: luminance, dynamic range, evenness, over- and under-exposure.

The formulas are those of OFIQ 1.0.3 (BSI's reference implementation of ISO/IEC 29794-5:2025) on linear luminance, but
OFIQ-style only, and not ISO conformant: the regions are those of an aligned crop (`crops.py`), where OFIQ takes a hull
of 98 landmarks on a face of 616 pixels and leaves out what covers it. On 112 pixels a cheek has about a hundred pixels,
so that chance alone lowers the uniformity of an evenly lit face to about 0.5 to 0.8.

With Y linear luminance, 0..1, s(x, x0, w) = 1 / (1 + exp((x0 - x) / w)) and every quality rounded to 0..100:

    luminance_mean             mean of Y                 100 s(x, .2, .05) (1 - s(x, .8, .05))
    luminance_std              deviation of Y, v = x^2   100 sin(pi 60 v / (60 v + 1))
    dynamic_range_bits         entropy of 256 levels     12.5 x
    illumination_uniformity    sum of the smaller of the two cheeks' shares of each level      100 x^0.3
    over_exposed_share         share of levels 247..255  1 / (x + 0.01)
    under_exposed_share        share of levels 0..25     120 (0.832 - s(x, .92, .05))

Legend: N rows, H W C image axes, 256 luminance levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.measures.crops import (
    WHITE,
    CropOptions,
    card_of,
    histogram,
    luminance,
    pixels,
    regions,
    require_faces,
)
from pipeline.domain.records import UInt8

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
FORMULA = "OFIQ 1.0.3 luminance, range, uniformity, exposure on aligned crops; version 1"
"""What the card's digest is taken of: change it whenever a number below changes."""
OVER, UNDER = 247, 25
"""The first level that counts as over-exposed, the last that counts as under-exposed."""


class LightingOptions(CropOptions):
    """Light from the pixels alone."""

    use: Literal["lighting"] = "lighting"


class Lighting:
    """Gives each number of the module's table and its quality, `<name>_quality` (`dynamic_range_quality`)."""

    card = card_of(
        "lighting-ofiq-style",
        FORMULA,
        "formulas of OFIQ 1.0.3 (ISO/IEC 29794-5:2025) on aligned crops; not conformant",
    )
    names: tuple[str, ...] = (
        "luminance_mean",
        "luminance_mean_quality",
        "luminance_std",
        "luminance_std_quality",
        "dynamic_range_bits",
        "dynamic_range_quality",
        "illumination_uniformity",
        "illumination_uniformity_quality",
        "over_exposed_share",
        "over_exposed_quality",
        "under_exposed_share",
        "under_exposed_quality",
    )
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: LightingOptions | None = None) -> None:
        self.options = options or LightingOptions()
        self.alignment = self.options.alignment

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, Float64]:
        """Return one float64 array of shape (N,) per name.

        Raises:
            ValueError: not uint8 RGB of shape (N, H, W, 3) with sides of 8 to 4,096 pixels.
        """
        require_faces(faces_NHWC)
        where = regions(self.alignment, *faces_NHWC.shape[1:3])
        fine_NP = luminance(*pixels(faces_NHWC, where.face_P))
        mean_N, variance_N = _moments(fine_NP)
        counts = histogram(fine_NP)
        bits_N = _entropy_bits(counts, fine_NP.shape[1])
        left, right = (histogram(luminance(*pixels(faces_NHWC, p))) for p in (where.left_P, where.right_P))
        even_N = np.minimum(left, right).sum(axis=1) / len(where.left_P)
        over_N = counts[:, OVER:].sum(axis=1) / fine_NP.shape[1]
        under_N = counts[:, : UNDER + 1].sum(axis=1) / fine_NP.shape[1]
        sixty_N = 60.0 * variance_N
        found = (
            (mean_N, 100.0 * sigmoid(mean_N, 0.2, 0.05) * (1.0 - sigmoid(mean_N, 0.8, 0.05))),
            (np.sqrt(variance_N), 100.0 * np.sin(np.pi * sixty_N / (sixty_N + 1.0))),
            (bits_N, 12.5 * bits_N),
            (even_N, 100.0 * even_N**0.3),
            (over_N, 1.0 / (over_N + 0.01)),
            (under_N, 120.0 * (0.832 - sigmoid(under_N, 0.92, 0.05))),
        )
        values = (value for raw_N, quality_N in found for value in (raw_N, scalar(quality_N)))
        return dict(zip(self.names, values, strict=True))


def sigmoid(x_N: Float64, centre: float, width: float) -> Float64:
    """Return 1 / (1 + exp((centre - x) / width))."""
    return np.asarray(1.0 / (1.0 + np.exp((centre - x_N) / width)), np.float64)


def scalar(quality_N: Float64) -> Float64:
    """Return qualities as whole numbers 0..100, halves rounded up, as C does."""
    return np.clip(np.floor(quality_N + 0.5), 0.0, 100.0)


def _moments(fine_NP: npt.NDArray[np.uint16]) -> tuple[Float64, Float64]:
    """Return mean and variance of luminance in 0..1; the sums are of whole numbers, hence exact."""
    count = fine_NP.shape[1]
    wide_NP = fine_NP.astype(np.int64)
    total_N = wide_NP.sum(axis=1)
    squares_N = np.einsum("np,np->n", wide_NP, wide_NP)
    variance_N = squares_N / count - (total_N / count) ** 2
    return np.asarray(total_N / count / WHITE), np.maximum(variance_N, 0.0) / WHITE**2


@cache
def _logs(count: int) -> Float64:
    """Return c log2 c for c of 0 to `count`."""
    numbers = np.arange(count + 1, dtype=np.float64)
    return np.asarray(numbers * np.log2(np.maximum(numbers, 1.0)), np.float64)


def _entropy_bits(counts: Int64, pixels_count: int) -> Float64:
    """Return the entropy of each row's levels: log2 P - sum(c log2 c) / P, 0 to 8."""
    known = _logs(pixels_count)
    bits_N = np.log2(pixels_count) - known[counts].sum(axis=1) / pixels_count
    return np.asarray(np.maximum(bits_N, 0.0), np.float64)
