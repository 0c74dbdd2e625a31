"""Pictures of any shape into the square that a detector looks at."""

from __future__ import annotations

import numpy as np

from pipeline.domain.records import UInt8


def fitted(image_HWC: UInt8, side_px: int) -> tuple[UInt8, float]:
    """Return a picture scaled into the top left of a black square, and by how much it was scaled."""
    import cv2

    height, width = image_HWC.shape[:2]
    # the longer side fills the square; the other one is cut to whole pixels, as InsightFace does
    if height > width:
        new_height, new_width = side_px, int(side_px * width / height)
    else:
        new_height, new_width = int(side_px * height / width), side_px
    canvas = np.zeros((side_px, side_px, 3), np.uint8)
    size = (max(1, new_width), max(1, new_height))
    canvas[: size[1], : size[0]] = cv2.resize(image_HWC, size)
    return canvas, size[1] / height
