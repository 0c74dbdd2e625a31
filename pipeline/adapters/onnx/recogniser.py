"""Recognisers of the ArcFace kind as ONNX files: aligned crops in, embeddings out.

What the file does not say is stated in its options: the licence, how pixels are scaled, what it is called. Whether a
row's embedding depends on its batch is measured when the model is loaded, and where it does, each image goes alone;
so do images of models without a batch axis. Dynamically quantised models are of that kind: their embeddings move by a
hundredth of a cosine with the batch.
Source: J. Deng et al., "ArcFace", CVPR 2019, and what InsightFace, OpenCV Zoo and others publish in its form.

Legend: N rows, H W C image axes, E dimensions.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.onnx.fitting import planes
from pipeline.adapters.onnx.session import Device, model_file, providers_of, session_of
from pipeline.domain.calibration import Calibration
from pipeline.domain.calibration_file import RecogniserNode
from pipeline.domain.errors import UserError
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import Float32, UInt8, unit_rows
from pipeline.domain.space import Space

Triple = tuple[float, float, float]


class OnnxRecogniserOptions(RecogniserNode):
    """A recogniser as an ONNX file."""

    use: Literal["onnx"] = "onnx"
    path: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,60}$")]
    """What its space is called."""
    licence: Annotated[str, Field(min_length=2)]
    """Under which it may be used; the file does not say."""
    commercial: bool = False
    """Whether that licence allows commercial use."""
    source: str = ""
    """Where it comes from."""
    alignment: Literal["arcface-112", "phantom-112"] = "arcface-112"
    mean: Triple = (127.5, 127.5, 127.5)
    """Taken from red, green and blue, 0 to 255, before the division by `std`."""
    std: Triple = (127.5, 127.5, 127.5)
    channels: Literal["rgb", "bgr"] = "rgb"
    """The order in which the network reads them; `mean` and `std` are in the order red, green, blue all the same."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rows that the network sees; 1 where the model has no batch axis, or its rows depend on each other."""
    device: Device = "cpu"
    """What it runs on: results of different devices differ in their last bits."""


class OnnxRecogniser:
    """Implements `ports.Recogniser`.

    Raises:
        UserError: the file is missing, or takes or gives something else than crops and embeddings.
    """

    use = "onnx"
    """What recipes call it."""

    def __init__(self, options: OnnxRecogniserOptions) -> None:
        self._options = options
        path, digest = model_file(options.path, "a recogniser of the ArcFace kind")
        self._session: Any = session_of(path, providers_of(options.device))
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or len(outputs[0].shape) != 2:
            raise UserError(
                f"{path}: takes {shape} and gives {outputs[0].shape}; a recogniser takes N x 3 x H x W crops"
            )
        side = int(options.alignment.rpartition("-")[2])
        if any(isinstance(s, int) and s != side for s in shape[2:]):
            raise UserError(
                f"{path}: takes crops of {shape[3]} x {shape[2]} px; alignment {options.alignment} has {side}"
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise UserError(
                f"{path}: takes {shape[0]} crops at once, always; give a model that takes one, or any number of them"
            )
        self._input, self._side_px = inputs[0].name, side
        self._alone = isinstance(shape[0], int)
        self.space = Space(options.name, digest, options.alignment, "unit", self._dimensions(path))
        self.card = ModelCard(
            name=options.name,
            sha256=digest,
            licence=options.licence,
            source=options.source or path.name,
            commercial_use=options.commercial,
            row_independent=not self._alone and self._rows_are_independent(),
            epoch=2,
        )
        self._alone = not self.card.row_independent
        self._measured = options.calibration.calibration(self.space) if options.calibration else None

    @property
    def calibration(self) -> Calibration:
        """Return the calibration of the options' file; where they name none, one that knows no rate."""
        how = f"run `facemint calibrate {self.use} FACES --set path=...` and name the file in `calibration`"
        return self._measured or Calibration.none(self.space, how)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return emb_NE, float32 unit rows.

        Raises:
            BadVectorError: the network gave no number, or a vector of no length.
        """
        blobs_NCHW = self._blobs(faces_NHWC)
        raw = self._raw(blobs_NCHW) if not self._alone else self._one_by_one(blobs_NCHW)
        return unit_rows(raw, self._options.name)

    def _one_by_one(self, blobs_NCHW: Float32) -> Float32:
        rows = [self._raw(blobs_NCHW[n : n + 1]) for n in range(len(blobs_NCHW))]
        return np.concatenate(rows) if rows else np.empty((0, self.space.dimensions), np.float32)

    def _raw(self, blobs_NCHW: Float32) -> Float32:
        return np.asarray(self._session.run(None, {self._input: blobs_NCHW})[0], np.float32)

    def _blobs(self, faces_NHWC: UInt8) -> Float32:
        options = self._options
        return planes(faces_NHWC, options.mean, options.std, bgr=options.channels == "bgr")

    @cached_property
    def _trial(self) -> Float32:
        """Return pictures that differ, for trying the network out: their content does not matter."""
        y, x = np.mgrid[0 : self._side_px, 0 : self._side_px]
        waves = [128 + 100 * np.sin((x * (n + 1) + y * (7 - n)) / 19 + n) for n in range(8)]
        return self._blobs(np.repeat(np.stack(waves)[..., None], 3, axis=3).astype(np.uint8))

    def _dimensions(self, path: Path) -> int:
        try:
            return int(self._raw(self._trial[:1]).shape[1])
        except Exception as error:  # noqa: BLE001
            # onnxruntime has a type of its own for each way in which a network does not fit what it is handed
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: does not take a crop of {self._side_px} x {self._side_px} px: {said}; state its alignment"
            ) from None

    def _rows_are_independent(self) -> bool:
        """Return whether a row has the same bytes at every place of a batch of the recipe's size, in any company."""
        size = self._options.batch
        if size == 1:
            return True
        trial = self._trial[np.arange(size) % len(self._trial)]
        together = self._raw(trial)
        turned = self._raw(np.ascontiguousarray(trial[::-1]))[::-1]
        # the last batch of a unit is padded by repeating its first row
        padded = self._raw(np.repeat(trial[:1], size, axis=0))
        return np.array_equal(turned, together) and all(np.array_equal(row, together[0]) for row in padded)


__all__ = ["OnnxRecogniser", "OnnxRecogniserOptions"]
