"""Where the face and the cheeks lie in an aligned crop, and the luminance of their pixels.

A crop that is aligned to a named template needs no landmarks of its own. With E the distance between the eyes of the
template and D that from eyes to mouth:

    face     an ellipse around the point 0.55 D below the middle of the eyes, half axes 0.85 E and 0.95 D:
             forehead to chin, without hair and background for most frontal faces
    cheeks   two squares of side 0.3 E, 0.5 D below each eye

A head that is turned leaves these places, and hair or a hand may cover them: what is measured there is then not skin.

Legend: N rows, H W C image axes, P pixels of a region, 256 luminance levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.domain.colour import LINEAR_256, LUMINANCE_C
from pipeline.domain.landmarks import alignment
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8

Int64 = npt.NDArray[np.int64]
UInt16 = npt.NDArray[np.uint16]
LEVELS = 256
FINE = 256
"""Luminance is held in 1/256 of a level, 0 to 65,280, as whole numbers: their sums are exact in any order."""
WHITE = 255 * FINE
SIDES_px = (8, 4096)
"""Of pictures that are measured: 8 hold one block of the sharpness, up to 4,096 no sum of whole numbers overflows."""
LICENCE = "Apache-2.0"
_TABLES = tuple(np.rint(share * LINEAR_256 * WHITE).astype(np.uint16) for share in LUMINANCE_C)


class CropOptions(MeasureNode):
    """Base of the options of every measure that looks at these places."""

    alignment: Literal["arcface-112", "phantom-112", "sketch-32"] = "arcface-112"
    """The template that the faces are aligned to: it says where the cheeks are."""


def card_of(name: str, formula: str, source: str) -> ModelCard:
    """Return the card of a measure that is a formula: its digest is that of the formula's sentence."""
    return ModelCard(
        name=name,
        sha256=sha256_hex(formula.encode()),
        licence=LICENCE,
        source=source,
        commercial_use=True,
        row_independent=True,
        epoch=1,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Places in a crop of one size, as indices of its pixels counted along the rows.

    Attributes:
        face_P: the ellipse; at least one pixel.
        left_P: the cheek left in the image.
        right_P: the cheek right in the image, with as many pixels.
    """

    face_P: Int64
    left_P: Int64
    right_P: Int64


@cache
def regions(name: str, height_px: int, width_px: int) -> Regions:
    """Return the regions of a crop of this size that is aligned to the template of this name."""
    points = alignment(name).points_in(width_px, height_px)
    eyes, mouth = points[:2], points[3:].mean(axis=0)
    middle = eyes.mean(axis=0)
    eye_px, down_px = float(np.hypot(*(eyes[1] - eyes[0]))), float(mouth[1] - middle[1])
    y, x = np.mgrid[0:height_px, 0:width_px]
    across = (x - middle[0]) / (0.85 * eye_px)
    along = (y - middle[1] - 0.55 * down_px) / (0.95 * down_px)
    face = np.flatnonzero((across**2 + along**2 <= 1.0).ravel())
    side_px = max(1, round(0.3 * eye_px))
    cheeks = [_square(ex, ey + 0.5 * down_px, side_px, height_px, width_px) for ex, ey in eyes]
    return Regions(face, cheeks[0], cheeks[1])


def _square(x_px: float, y_px: float, side_px: int, height_px: int, width_px: int) -> Int64:
    """Return the pixels of a square around a point, moved inside the picture where it would stick out."""
    left = min(max(0, round(x_px - (side_px - 1) / 2)), width_px - side_px)
    top = min(max(0, round(y_px - (side_px - 1) / 2)), height_px - side_px)
    rows, columns = np.mgrid[top : top + side_px, left : left + side_px]
    return np.asarray(rows * width_px + columns, np.int64).ravel()


def require_faces(faces_NHWC: npt.NDArray[Any]) -> None:
    """Raise ValueError unless these are uint8 RGB pictures of shape (N, H, W, 3) with sides of 8 to 4,096 pixels."""
    shape = faces_NHWC.shape
    if faces_NHWC.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            f"faces of shape {shape} and type {faces_NHWC.dtype}; uint8 RGB of shape (N, H, W, 3) is measured"
        )
    if not (SIDES_px[0] <= min(shape[1:3]) and max(shape[1:3]) <= SIDES_px[1]):
        raise ValueError(
            f"faces of {shape[2]} x {shape[1]} pixels; sides of {SIDES_px[0]} to {SIDES_px[1]} are measured"
        )


def pixels(faces_NHWC: UInt8, place_P: Int64) -> tuple[UInt8, UInt8, UInt8]:
    """Return red, green and blue of these pixels of every picture, each (N, P) and contiguous."""
    count, height, width, channels = faces_NHWC.shape
    flat = faces_NHWC.reshape(count, height * width, channels)
    picked = np.take(flat, place_P, axis=1)
    red, green, blue = (np.ascontiguousarray(picked[..., channel]) for channel in range(3))
    return red, green, blue


def luminance(red_NP: UInt8, green_NP: UInt8, blue_NP: UInt8) -> UInt16:
    """Return linear luminance in 1/256 of a level: 0.2126 R + 0.7152 G + 0.0722 B of linear light, 0 to 65,280."""
    total: UInt16 = _TABLES[0][red_NP] + _TABLES[1][green_NP] + _TABLES[2][blue_NP]
    return total


def histogram(fine_NP: UInt16) -> Int64:
    """Return how many of each row's pixels have each of the 256 luminance levels, shape (N, 256)."""
    levels_NP = ((fine_NP + np.uint16(FINE // 2)) >> 8).astype(np.int64)
    rows = len(fine_NP)
    places = levels_NP + LEVELS * np.arange(rows)[:, None]
    return np.asarray(np.bincount(places.ravel(), minlength=LEVELS * rows), np.int64).reshape(rows, LEVELS)
