"""Cuts an aligned square out of a picture, around the five points of a face."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.domain.detection import Float64, similarity
from pipeline.domain.landmarks import Alignment, widened
from pipeline.domain.records import UInt8


def aligned_crop(image_HWC: UInt8, points_52: np.ndarray, template: Alignment, side_px: int) -> UInt8 | None:
    """Return the crop, uint8 RGB of shape (side, side, 3), black where the picture ends; None where points say nothing.

    Bilinear, as InsightFace cuts, so that recognisers see what they were trained on.
    """
    matrix = similarity(points_52, template, side_px)
    return None if matrix is None else _cut(image_HWC, matrix, side_px)


def wide_crop(
    image_HWC: UInt8, points_52: np.ndarray, template: Alignment, crop_px: int, margin: float
) -> UInt8 | None:
    """Return a crop that shows more than the template: uint8 RGB (crop, crop, 3), black where the picture ends.

    A picture that is shrunk by half or more is first averaged over whole pixels, so that nothing flickers in.

    Args:
        image_HWC: the picture, uint8 RGB.
        points_52: of the face.
        template: what the inner part is aligned to, `arcface-112` for one.
        crop_px: side of the crop.
        margin: what is added on every side, as a share of the template's side; 0 shows what the template shows.
    """
    wide = widened(template, margin, crop_px)
    matrix = similarity(points_52, wide, crop_px)
    if matrix is None:
        return None
    return _cut_smoothly(image_HWC, matrix, crop_px)


def inner_crop(wide_HWC: UInt8, margin: float, side_px: int) -> UInt8:
    """Return what the template shows of a crop with a margin: uint8 RGB (side, side, 3).

    Args:
        wide_HWC: what `wide_crop` cut with this margin, a square.
        margin: that of the crop.
        side_px: side of the template.

    Raises:
        ValueError: the picture is no square.
    """
    height, width = wide_HWC.shape[:2]
    if height != width:
        raise ValueError(f"a picture of {width} x {height} px; crops are square")
    scale = side_px * (1.0 + 2.0 * margin) / width
    shift = 0.5 * scale - 0.5 - margin * side_px
    return _cut_smoothly(wide_HWC, np.array([[scale, 0.0, shift], [0.0, scale, shift]]), side_px)


def _cut_smoothly(image_HWC: UInt8, matrix: Float64, side_px: int) -> UInt8:
    """Return the cut of a picture, averaged over whole pixels first where it is shrunk by half or more."""
    import cv2

    shrink = int(1.0 / max(float(np.hypot(*matrix[:, 0])), 1e-9))
    if shrink >= 2:
        height, width = image_HWC.shape[:2]
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        image_HWC = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        # pixel centres: x of the small picture lies at by * (x + 0.5) - 0.5 of the large one
        by = np.array([width / size[0], height / size[1]])
        matrix[:, 2] += matrix[:, :2] @ (0.5 * by - 0.5)
        matrix[:, :2] = matrix[:, :2] * by
    return _cut(image_HWC, matrix, side_px)


def _cut(image_HWC: UInt8, matrix: Float64, side_px: int) -> UInt8:
    import cv2

    # its threads are shared by every worker of the machine, and a crop is too small for them
    cv2.setNumThreads(1)
    crop: Any = cv2.warpAffine(np.ascontiguousarray(image_HWC), matrix, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, np.uint8)
