"""eDifFIQA (tiny) as a measure: a learned estimate of how well a face will be recognised, from OpenCV Zoo.

Scores of different models cannot be compared, and a score inherits the demographic bias of the recogniser that it
learnt from: filter by percentile and by cell, never by one cut.
Source: Z. Babnik, P. Peer, V. Struc, "eDifFIQA: Towards Efficient Face Image Quality Assessment based on Denoising
Diffusion Probabilistic Models", IEEE T-BIOM 2024; OpenCV Zoo `ediffiqa_tiny_jun2024.onnx`, CC BY 4.0.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.adapters.onnx.fitting import planes
from pipeline.adapters.onnx.session import model_file, session_of
from pipeline.domain.errors import UserError
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import Float32, UInt8

SIDE_px = 112
_MIDDLE = (127.5, 127.5, 127.5)
"""Red, green and blue, 0 to 255, become -1 to 1."""


class EDifFIQAOptions(MeasureNode):
    """eDifFIQA, as an ONNX file."""

    use: Literal["ediffiqa"] = "ediffiqa"
    path: Annotated[str, Field(min_length=1)]


class EDifFIQA:
    """Implements `ports.Measurer` on crops aligned to `arcface-112`: `ediffiqa`, about 0 to 1, higher is better.

    Raises:
        UserError: the file is missing, or is another model.
    """

    names = ("ediffiqa",)
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}
    alignment = "arcface-112"

    def __init__(self, options: EDifFIQAOptions) -> None:
        path, digest = model_file(options.path, "an eDifFIQA model, ediffiqa_tiny_jun2024.onnx for one")
        self._session: Any = session_of(path, ("CPUExecutionProvider",))
        inputs = self._session.get_inputs()
        self._input = inputs[0].name
        takes = [i.shape for i in inputs]
        if len(takes) != 1 or list(takes[0][1:]) != [3, SIDE_px, SIDE_px]:
            raise UserError(f"{path}: takes {takes}; eDifFIQA takes one crop of 3 x {SIDE_px} x {SIDE_px}")
        gives = self._run(np.zeros((1, SIDE_px, SIDE_px, 3), np.uint8)).shape
        if int(np.prod(gives)) != 1:
            raise UserError(f"{path}: gives {list(gives)} for a face; eDifFIQA gives one number")
        self.card = ModelCard(
            name="ediffiqa",
            sha256=digest,
            licence="CC-BY-4.0",
            source="OpenCV Zoo, face_image_quality_assessment_ediffiqa",
            commercial_use=True,
            row_independent=True,
            epoch=1,
        )

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return the score of each face, float64 of shape (N,); each goes through the network alone.

        Raises:
            ValueError: faces of another size: scores of faces that are resized are those of other faces.
        """
        if faces_NHWC.shape[1:] != (SIDE_px, SIDE_px, 3):
            raise ValueError(f"faces of shape {faces_NHWC.shape}; eDifFIQA reads (N, {SIDE_px}, {SIDE_px}, 3)")
        scores = [float(self._run(face[None]).reshape(-1)[0]) for face in faces_NHWC]
        return {"ediffiqa": np.array(scores, np.float64)}

    def _run(self, face_1HWC: UInt8) -> Float32:
        out = self._session.run(None, {self._input: planes(face_1HWC, _MIDDLE, _MIDDLE)})[-1]
        return np.asarray(out, np.float32)
