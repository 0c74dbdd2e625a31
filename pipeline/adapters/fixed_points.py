"""A detector that looks at nothing: it says the same five points of every picture.

For generators that put the face in one place. Where that place is, is measured once, with a detector, over a few
hundred pictures (`facemint calibrate-crop`); after that no picture costs a detection, and none is refused for having no
face. Without points the whole picture is taken for the crop, in another size.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.domain.detection import Detections
from pipeline.domain.landmarks import ALIGNMENTS
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import Node
from pipeline.domain.records import UInt8

Share = Annotated[float, Field(ge=-1, le=2)]


class FixedPointsOptions(Node):
    """Five points that are the same in every picture."""

    use: Literal["fixed"] = "fixed"
    points: tuple[tuple[Share, Share], ...] | None = None
    """(x, y) of left eye, right eye, nose tip, left and right mouth corner, as the picture shows them, as shares of its
    width and height; left out: the whole picture is the crop."""
    alignment: Literal["arcface-112", "phantom-112", "sketch-32"] = "arcface-112"
    """Without points: the template in which the picture is taken to be already."""

    @model_validator(mode="after")
    def _five(self) -> FixedPointsOptions:
        if self.points is None:
            return self
        if len(self.points) != 5:
            raise ValueError(f"got {len(self.points)} points; five are given: eyes, nose tip, mouth corners")
        if np.ptp(np.array(self.points), axis=0).max() < 0.01:
            raise ValueError("five points in one place say neither where a face is nor how large")
        return self


class FixedPoints:
    """Implements `detection.Detector`."""

    size_px = 0
    """It looks at no pixel."""

    def __init__(self, options: FixedPointsOptions) -> None:
        self._points, self._template = options.points, ALIGNMENTS[options.alignment]
        self.card = ModelCard(
            name="fixed points",
            sha256=sha256_hex(b"fixed points 1"),
            licence="Apache-2.0",
            source="stated in the recipe" if options.points else "the whole picture",
            commercial_use=True,
            row_independent=True,
            epoch=1,
        )

    def detect(self, image_HWC: UInt8) -> Detections:
        """Return one face, the same in every picture of a size; its box is the picture."""
        height_px, width_px = image_HWC.shape[:2]
        if self._points is None:
            points_52 = self._template.points_in(width_px, height_px)
        else:
            points_52 = np.array(self._points) * np.array([width_px, height_px]) - 0.5
        box_14 = np.array([[0, 0, width_px, height_px]], np.float32)
        return Detections(box_14, np.ones(1, np.float32), points_52[None].astype(np.float32))
