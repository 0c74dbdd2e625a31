"""LightQNet as a measure: a learned estimate of how well a face will be recognised, through OpenCV.

Its own alignment puts eyes and mouth where `arcface-112` has them, so an aligned crop only needs another size. Scores
of different models cannot be compared, and a score inherits the demographic bias of the recogniser that it learnt
from: filter by percentile and by cell, never by one cut.
Source: K. Chen et al., "LightQNet: Lightweight Deep Face Quality Assessment for Risk-Controlled Face Recognition", IEEE
Signal Processing Letters 2021; code and weights MIT.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.adapters.onnx.session import model_file, opencv
from pipeline.domain.errors import UserError
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8

SIDE_px = 96
_MIDDLE = 128.0


class LightQNetOptions(MeasureNode):
    """LightQNet, as the frozen TensorFlow graph that its authors publish."""

    use: Literal["lightqnet"] = "lightqnet"
    path: Annotated[str, Field(min_length=1)]


class LightQNet:
    """Implements `ports.Measurer` on crops aligned to `arcface-112`: `lightqnet`, 0 to 1, higher is better.

    Raises:
        UserError: the file is missing, or OpenCV cannot run it, or OpenCV is not installed.
    """

    names = ("lightqnet",)
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: LightQNetOptions) -> None:
        path, digest = model_file(options.path, "a LightQNet graph, lightqnet-dm100.pb for one")
        self._cv2 = opencv()
        try:
            self._net: Any = self._cv2.dnn.readNetFromTensorflow(str(path))
            shape = self._run(np.zeros((112, 112, 3), np.uint8)).shape
        except self._cv2.error as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: OpenCV cannot run it as a LightQNet: {said}") from None
        if int(np.prod(shape)) != 1:
            raise UserError(f"{path}: gives {list(shape)} for a face; LightQNet gives one number")
        self.card = ModelCard(
            name="lightqnet",
            sha256=digest,
            licence="MIT",
            source="github.com/KaenChan/lightqnet",
            commercial_use=True,
            row_independent=True,
            epoch=1,
        )

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return the score of each face, float64 of shape (N,); each goes through the network alone."""
        return {"lightqnet": np.array([float(self._run(face).ravel()[0]) for face in faces_NHWC], np.float64)}

    def _run(self, face_HWC: UInt8) -> Any:
        small = self._cv2.resize(np.ascontiguousarray(face_HWC[..., ::-1]), (SIDE_px, SIDE_px))
        blob = ((small.astype(np.float32) - _MIDDLE) / _MIDDLE).transpose(2, 0, 1)[None]
        self._net.setInput(np.ascontiguousarray(blob))
        return self._net.forward()
