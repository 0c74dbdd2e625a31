"""Cuts an aligned square out of a picture, around the five points of a face."""

from __future__ import annotations

import numpy as np

from pipeline.domain.detection import similarity
from pipeline.domain.landmarks import Alignment
from pipeline.domain.records import UInt8


def aligned_crop(image_HWC: UInt8, points_52: np.ndarray, template: Alignment, side_px: int) -> UInt8 | None:
    """Return the crop, uint8 RGB of shape (side, side, 3), black where the picture ends; None where points say nothing.

    Bilinear, as InsightFace cuts, so that recognisers see what they were trained on.
    """
    import cv2

    matrix = similarity(points_52, template, side_px)
    if matrix is None:
        return None
    crop = cv2.warpAffine(np.ascontiguousarray(image_HWC), matrix, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, np.uint8)
