"""The phantom recognisers behind the port: conditioning, judge, auditor, of different nets and training draws."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline.adapters.phantom.generator import checked_batch
from pipeline.adapters.phantom.shipped import check_digest, load_calibration, model_card, phantom_space
from pipeline.domain.calibration import Calibration
from pipeline.domain.calibration_file import RecogniserNode
from pipeline.domain.records import Float32, UInt8


class PhantomRecogniserOptions(RecogniserNode):
    """One of the recognisers that ship with facemint, by role."""

    use: Literal["phantom-judge", "phantom-auditor", "phantom-conditioning"]
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rows that the network sees: 1 or a multiple of 8."""

    _batch = field_validator("batch")(checked_batch)


class PhantomRecogniser:
    """Implements `ports.Recogniser`."""

    def __init__(self, options: PhantomRecogniserOptions) -> None:
        """Read the card; weights load at the first batch."""
        self._role = options.use.removeprefix("phantom-")
        self.card = model_card(self._role)
        self.space = phantom_space(self._role)
        self._measured = options.calibration.calibration(self.space) if options.calibration else None

    @cached_property
    def calibration(self) -> Calibration:
        """Return the calibration of the options' file, or else the one measured on held-out rendered identities."""
        return self._measured or load_calibration(self._role)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return emb_NE, float32 unit rows, shape (N, 128)."""
        import torch

        with torch.inference_mode():
            emb: Float32 = self._network(as_pictures(faces_NHWC)).numpy()
        return emb

    @cached_property
    def _network(self) -> Any:
        from pipeline.adapters.phantom.loading import load_recogniser

        check_digest(self._role)
        return load_recogniser(self._role)


def as_pictures(faces_NHWC: UInt8) -> Any:
    """Return uint8 RGB faces as the float32 NCHW tensor in -1..1, channels last, that the phantom networks read."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(faces_NHWC)).permute(0, 3, 1, 2).float()
    return (pixels / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)
