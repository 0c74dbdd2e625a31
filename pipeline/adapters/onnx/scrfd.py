"""SCRFD through onnxruntime: InsightFace's detectors, from a file the user has.

The picture is scaled into a square of a pinned side, black below and to the right of it, so that what is found does not
depend on anything but the picture; InsightFace 2's own default, two passes at two sizes, is not reproduced. One picture
a call on one thread: the published files have no batch axis.
Source: J. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022; weights of
InsightFace's packs are for non-commercial research only.

Legend: A anchors of one stride, K faces, H W C image axes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.onnx.fitting import fitted, planes
from pipeline.adapters.onnx.packs import DETECTOR, LICENCE, kind_of
from pipeline.adapters.onnx.session import Device, model_file, providers_of, session_of
from pipeline.domain.detection import Detections, DetectorNode, non_maximum
from pipeline.domain.errors import UserError
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import Float32, UInt8

STRIDES_px = (8, 16, 32)
ANCHORS = 2
"""Anchors at each place."""
_MEAN, _SCALE = (127.5,) * 3, (128.0,) * 3


class ScrfdOptions(DetectorNode):
    """An SCRFD detector with landmarks, as an ONNX file."""

    use: Literal["scrfd"] = "scrfd"
    licence: Annotated[str, Field(min_length=2, max_length=500)] = LICENCE
    device: Device = "cpu"
    """What it runs on: results of different devices differ in their last bits."""


class Scrfd:
    """Implements `detection.Detector`; `Scrfd(options)`.

    Raises:
        UserError: the file is missing, is not an SCRFD with landmarks, or takes another size alone.
    """

    def __init__(self, options: ScrfdOptions) -> None:
        path, digest = model_file(options.path, "an SCRFD model, det_500m.onnx for one")
        self._options, self.size_px = options, options.size_px
        providers = providers_of(options.device)
        self._session = session_of(path, providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if kind_of(self._session) != DETECTOR:
            widths = [o.shape[-1] if o.shape else None for o in outputs]
            raise UserError(
                f"{path}: has outputs of widths {widths}; an SCRFD with landmarks has scores, boxes and points of "
                "three strides (1 1 1 4 4 4 10 10 10)"
            )
        self._input = inputs[0].name
        if any(isinstance(side, int) and side != options.size_px for side in inputs[0].shape[2:]):
            raise UserError(
                f"{path}: takes pictures of {inputs[0].shape[3]} x {inputs[0].shape[2]} px alone; size_px is "
                f"{options.size_px}: give that size, or a model for any"
            )
        named = [side for side in inputs[0].shape[2:] if isinstance(side, str)]
        if named:
            # a session that knows its one size is optimised as InsightFace's own are, and gives their very bits
            self._session = session_of(path, providers, dict.fromkeys(named, options.size_px))
        self.card = ModelCard(
            name=f"scrfd-{path.stem}",
            sha256=digest,
            licence=options.licence,
            source=f"InsightFace model zoo, {path.name}",
            commercial_use=options.commercial,
            row_independent=True,
            epoch=1,
        )
        self._centres = {stride: _centres(options.size_px // stride, stride) for stride in STRIDES_px}

    def detect(self, image_HWC: UInt8) -> Detections:
        """Return the faces of one uint8 RGB picture."""
        canvas, scale = fitted(image_HWC, self.size_px)
        raw = self._session.run(None, {self._input: planes(canvas[None], _MEAN, _SCALE)})
        # models with a batch axis give it back
        out = [array.reshape(-1, array.shape[-1]) for array in raw]
        scores, boxes, points = [], [], []
        for n, stride in enumerate(STRIDES_px):
            score_A = out[n][:, 0]
            kept = np.flatnonzero(score_A >= self._options.score)
            centre_A2 = self._centres[stride][kept]
            reach_A4 = out[n + 3][kept] * stride
            scores.append(score_A[kept])
            boxes.append(np.concatenate([centre_A2 - reach_A4[:, :2], centre_A2 + reach_A4[:, 2:]], axis=1))
            points.append(centre_A2[:, None, :] + out[n + 6][kept].reshape(-1, 5, 2) * stride)
        score_K, box_K4 = np.concatenate(scores), (np.concatenate(boxes) / scale).astype(np.float32)
        rows = non_maximum(box_K4, score_K, self._options.overlap)
        return Detections(
            box_K4[rows],
            score_K[rows].astype(np.float32),
            (np.concatenate(points) / scale)[rows].astype(np.float32),
        )


def _centres(places: int, stride: int) -> Float32:
    """Return the centres of a stride's anchors, (A, 2), row by row."""
    y, x = np.mgrid[0:places, 0:places]
    return np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2) * stride, ANCHORS, axis=0).astype(np.float32)
