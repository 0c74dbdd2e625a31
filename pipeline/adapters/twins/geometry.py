"""Where things sit on an aligned face: from places on a head to pixels, turned by the face's yaw; and soft stencils.

A place is (u, v, d): u to image right of the nose line and d towards the viewer, both in distances between the eyes; v
down from the eye line, in distances between eyes and mouth. Both distances are those of a frontal face, which the
alignment fixes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import Sample

Float64 = npt.NDArray[np.float64]
Place = tuple[float, float, float]

FINE = 4
"""Stencils are drawn so many times larger and averaged: smooth edges on 112 pixels."""
_POINTS = {
    # eyes and corners of the mouth of the 112-px template of InsightFace, as shares of the side
    "": ((0.3419, 0.4616), (0.6565, 0.4599), (0.3710, 0.8247), (0.6315, 0.8232)),
    # measured over rendered phantoms, frontal
    "phantom-112": ((0.358, 0.439), (0.636, 0.439), (0.393, 0.713), (0.601, 0.713)),
}


@dataclass(frozen=True, slots=True)
class Head:
    """An aligned face's frame.

    Attributes:
        centre_px: the point between the eyes, (x, y).
        eyes_px: distance between the eyes of a frontal face.
        height_px: distance from eye line to mouth.
        yaw_rad: positive turns the nose to image right.
        side_px: of the picture.
    """

    centre_px: tuple[float, float]
    eyes_px: float
    height_px: float
    yaw_rad: float
    side_px: int

    @classmethod
    def of(cls, alignment: str, side_px: int, parent: Sample) -> Head:
        """Return the frame of a parent's picture; its yaw is what was measured, or else what was asked."""
        left, right, *mouth = _POINTS.get(alignment, _POINTS[""])
        eye_y = (left[1] + right[1]) / 2
        yaw_deg = parent.measures.get("yaw_deg", parent.conditions.get("yaw_deg", 0.0))
        return cls(
            centre_px=((left[0] + right[0]) / 2 * side_px, eye_y * side_px),
            eyes_px=(right[0] - left[0]) * side_px,
            height_px=((mouth[0][1] + mouth[1][1]) / 2 - eye_y) * side_px,
            yaw_rad=math.radians(min(max(yaw_deg, -60.0), 60.0)),
            side_px=side_px,
        )

    def pixels(self, places: Sequence[Place]) -> list[tuple[float, float]]:
        """Return the pixels (x, y) of places on the head."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return [
            (
                self.centre_px[0] + self.eyes_px * (u * cos + d * sin),
                self.centre_px[1] + self.height_px * v,
            )
            for u, v, d in places
        ]


def smooth(points: Sequence[tuple[float, float]], steps: int = 8) -> list[tuple[float, float]]:
    """Return a closed curve through the points (a Catmull-Rom spline)."""
    p = np.array(points, np.float64)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (x[:, None, :] for x in (before, p, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


def filled(outline: Sequence[tuple[float, float]], side_px: int) -> Float64:
    """Return the stencil of a polygon, (H, W), 0 outside to 1 inside."""
    from PIL import Image, ImageDraw

    drawn = Image.new("L", (side_px * FINE, side_px * FINE), 0)
    ImageDraw.Draw(drawn).polygon([(x * FINE, y * FINE) for x, y in outline], fill=255)
    return _averaged(drawn)


def stroke(points: Sequence[tuple[float, float]], width_px: float, side_px: int) -> Float64:
    """Return the stencil of a line through points, (H, W), 0 outside to 1 inside."""
    from PIL import Image, ImageDraw

    drawn = Image.new("L", (side_px * FINE, side_px * FINE), 0)
    width = max(1, round(width_px * FINE))
    ImageDraw.Draw(drawn).line([(x * FINE, y * FINE) for x, y in points], fill=255, width=width, joint="curve")
    return _averaged(drawn)


def moved(stencil_HW: Float64, down_px: int, right_px: int) -> Float64:
    """Return a stencil moved by whole pixels; what comes in from outside is empty."""
    from scipy.ndimage import shift

    return np.asarray(shift(stencil_HW, (down_px, right_px), order=0, cval=0.0))


def face_area(head: Head) -> Float64:
    """Return the stencil of the face itself, an ellipse from brow to chin."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return filled(head.pixels([(0.92 * np.cos(t), 0.45 + 1.2 * np.sin(t), 0.0) for t in turn]), head.side_px)


def over(face_HWC: Float64, colour_HWC: Float64, alpha_HW: Float64) -> Float64:
    """Return colours laid over a face, each by its stencil."""
    return face_HWC + (colour_HWC - face_HWC) * alpha_HW[..., None]


def to_pixels(face_HWC: Float64) -> npt.NDArray[np.uint8]:
    """Return levels rounded and cut to 0..255."""
    return np.clip(np.rint(face_HWC), 0, 255).astype(np.uint8)


def _averaged(drawn: Any) -> Float64:
    return np.asarray(drawn.reduce(FINE), np.float64) / 255.0
