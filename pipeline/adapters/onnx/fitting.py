"""Pictures of any shape into the square that a detector looks at, and pixels into the numbers that networks take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.adapters.onnx.session import opencv
from pipeline.domain.records import Float32, UInt8


def fitted(image_HWC: UInt8, side_px: int) -> tuple[UInt8, float]:
    """Return a picture scaled into the top left of a black square, and by how much it was scaled."""
    cv2 = opencv()
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


def planes(faces_NHWC: UInt8, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False) -> Float32:
    """Return (pixel - mean) / std as float32 NCHW, each colour with its own numbers, in the order red, green, blue.

    Multiplied by 1 / std and not divided, as OpenCV's blobs are, which these networks are fed with elsewhere: a
    quantised network makes three thousandths of a cosine of one last bit.
    `bgr` turns the order of the result's planes alone. A plane at a time, because numbers that lie three apart are
    slow to reach: several times the time of arithmetic over the whole.
    """
    count, height, width, _ = faces_NHWC.shape
    out_NCHW = np.empty((count, 3, height, width), np.float32)
    for colour in range(3):
        plane_NHW = out_NCHW[:, 2 - colour if bgr else colour]
        np.subtract(faces_NHWC[..., colour], np.float32(mean[colour]), out=plane_NHW, dtype=np.float32)
        np.multiply(plane_NHW, np.float32(1.0 / std[colour]), out=plane_NHW)
    return out_NCHW
