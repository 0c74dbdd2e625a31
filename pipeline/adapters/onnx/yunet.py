"""YuNet through OpenCV: a detector whose weights may be used for anything, from a file the user has.

The picture is scaled into a square of a pinned side, as for SCRFD. YuNet names the eyes from the person's side, right
before left, which is left before right in the picture: the order of our points.
Source: W. Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023; OpenCV Zoo,
MIT licence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.onnx.fitting import fitted
from pipeline.adapters.onnx.session import model_file, opencv
from pipeline.domain.detection import Detections, DetectorNode
from pipeline.domain.errors import UserError
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import UInt8

_MOST = 5000
"""Candidates before overlapping boxes are taken out: OpenCV's own default."""


class YuNetOptions(DetectorNode):
    """A YuNet detector as an ONNX file."""

    use: Literal["yunet"] = "yunet"
    licence: Annotated[str, Field(min_length=2, max_length=500)] = "MIT"
    commercial: bool = True
    score: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Least score of a face."""
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Boxes that overlap a surer one by more are the same face."""


class YuNet:
    """Implements `detection.Detector`; `YuNet(options)`.

    Raises:
        UserError: the file is missing, or OpenCV cannot read it, or OpenCV is not installed.
    """

    def __init__(self, options: YuNetOptions) -> None:
        path, digest = model_file(options.path, "a YuNet model, face_detection_yunet_2023mar.onnx for one")
        self.size_px = options.size_px
        self.card = ModelCard(
            name="yunet",
            sha256=digest,
            licence=options.licence,
            source=f"OpenCV Zoo, {path.name}",
            commercial_use=options.commercial,
            row_independent=True,
            epoch=1,
        )
        cv2 = opencv()
        try:
            self._net: Any = cv2.FaceDetectorYN.create(
                str(path), "", (options.size_px, options.size_px), options.score, options.overlap, _MOST
            )
            self.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: OpenCV cannot run it as a YuNet: {said}") from None

    def detect(self, image_HWC: UInt8) -> Detections:
        """Return the faces of one uint8 RGB picture."""
        canvas, scale = fitted(image_HWC, self.size_px)
        _, rows = self._net.detect(np.ascontiguousarray(canvas[..., ::-1]))
        if rows is None:
            rows = np.empty((0, 15), np.float32)
        order = np.lexsort((np.arange(len(rows)), -rows[:, 14].astype(np.float64)))
        rows = rows[order]
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1) / scale
        points = rows[:, 4:14].reshape(-1, 5, 2) / scale
        return Detections(boxes.astype(np.float32), rows[:, 14].astype(np.float32), points.astype(np.float32))
