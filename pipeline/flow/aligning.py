"""Pictures become crops: where a generator does not make faces in the judge's alignment, they are found and cut.

Each picture is looked at alone, so neither batch nor worker changes a crop. A picture in which no face is found, or
whose points say nothing, gives a candidate that is refused, at the stage `detect`, and counted like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.domain.detection import Choice, Detector, chosen_face
from pipeline.domain.landmarks import Alignment
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import UInt8, Verdict
from pipeline.flow.parts import Parts

NO_FACE = "no_face_found"
"""Why a candidate is refused in whose picture there is no face, or more than one where only one may be."""
UNFOUND = (Verdict("detect", False, NO_FACE, 0.0, 0.0),)
"""The one verdict on such a candidate: there is nothing that a filter could be asked about."""
Cut = Callable[[UInt8, np.ndarray, Alignment, int], UInt8 | None]
"""(picture_HWC, points_52, template, side in pixels) -> the crop; None where the points say nothing."""


class FaceAligner:
    """Implements `ports.Aligner` over a detector.

    Args:
        detector: finds faces.
        template: what crops are aligned to; they have its side.
        choice: which face of a picture with several is meant.
        cut: cuts a crop by its points.
    """

    def __init__(self, detector: Detector, template: Alignment, choice: Choice, cut: Cut) -> None:
        self._detector, self._template, self._choice, self._cut = detector, template, choice, cut
        self.card: ModelCard = detector.card
        self.alignment = template.name

    def align(self, pictures_NHWC: UInt8) -> tuple[UInt8, npt.NDArray[np.bool_]]:
        """Return crops_NHWC, and in which of N pictures a face was found; a crop without one is black."""
        side_px = self._template.side_px
        crops = np.zeros((len(pictures_NHWC), side_px, side_px, 3), np.uint8)
        found = np.zeros(len(pictures_NHWC), bool)
        for n, picture in enumerate(pictures_NHWC):
            crop = self._crop(picture)
            if crop is not None:
                crops[n], found[n] = crop, True
        return crops, found

    def _crop(self, picture_HWC: UInt8) -> UInt8 | None:
        faces = self._detector.detect(picture_HWC)
        height_px, width_px = picture_HWC.shape[:2]
        row = chosen_face(faces, width_px, height_px, self._choice)
        if row is None:
            return None
        return self._cut(picture_HWC, faces.points_K52[row], self._template, self._template.side_px)


def aligned(parts: Parts, pictures_NHWC: UInt8) -> tuple[UInt8, npt.NDArray[np.bool_]]:
    """Return crops in the judge's alignment, and in which of N pictures there is a face.

    Without an aligner they are crops already.
    """
    if parts.aligner is None:
        return pictures_NHWC, np.ones(len(pictures_NHWC), bool)
    return parts.aligner.align(pictures_NHWC)


def keeps_whole(parts: Parts) -> bool:
    """Return whether the picture that a crop was cut from is stored beside it."""
    return parts.aligner is not None and parts.recipe.align is not None and parts.recipe.align.keep_whole


def usual_points(
    detector: Detector, pictures_NHWC: UInt8, choice: Choice
) -> tuple[npt.NDArray[np.float64], int, float]:
    """Return where a generator puts the five points, in how many pictures a face was found, and how far those lie off.

    Points are medians over the pictures, as shares of width and height, shape (5, 2): what `fixed` takes. The last is
    the root mean square distance from there. Both are NaN where no face was found.
    """
    height_px, width_px = pictures_NHWC.shape[1:3]
    rows = []
    for picture in pictures_NHWC:
        faces = detector.detect(picture)
        row = chosen_face(faces, width_px, height_px, choice)
        if row is not None:
            rows.append((faces.points_K52[row].astype(np.float64) + 0.5) / np.array([width_px, height_px]))
    if not rows:
        return np.full((5, 2), np.nan), 0, float("nan")
    points_N52 = np.stack(rows)
    usual = np.median(points_N52, axis=0)
    return usual, len(rows), float(np.sqrt(((points_N52 - usual) ** 2).sum(axis=2).mean()))
