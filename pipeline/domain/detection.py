"""Faces found in a picture: which one is meant, and how a crop is aligned to it.

Positions are (x, y) in pixels, x to the right, y down, the centre of the top left pixel at (0, 0).

Legend: K faces of one picture, 4 box sides (left, top, right, bottom), 5 points, 2 axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.domain.landmarks import Alignment
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import Node
from pipeline.domain.records import Float32, UInt8

Float64 = npt.NDArray[np.float64]
Choice = Literal["largest", "central", "only"]
"""Which face of a picture with several is meant.

`largest`: the largest box. `central`: the box whose area less twice the squared distance of its centre to that of the
picture is largest, as InsightFace chooses. `only`: a picture with more than one face is refused.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The faces of one picture, the surest first.

    Attributes:
        boxes_K4: left, top, right, bottom in pixels; may reach beyond the picture.
        scores_K: how sure the detector is, 0 to 1.
        points_K52: eye left in the image, eye right, nose tip, mouth corner left, mouth corner right.
    """

    boxes_K4: Float32
    scores_K: Float32
    points_K52: Float32

    def __len__(self) -> int:
        """Return how many."""
        return len(self.scores_K)

    @property
    def areas_px2(self) -> Float64:
        """Return the areas of the boxes, shape (K,), in square pixels; a box turned inside out has none."""
        sides = np.maximum(self.boxes_K4[:, 2:].astype(np.float64) - self.boxes_K4[:, :2], 0.0)
        return np.asarray(sides.prod(axis=1))


class DetectorNode(Node):
    """Base of every detector's options: which file, at which scale, how sure, and under which licence."""

    path: Annotated[str, Field(min_length=1)]
    size_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 320
    """Side of the square that pictures are scaled into, the same for all, so that a face is found or not whatever else
    is there. Tight crops are found at 320 or less, small faces at more."""
    score: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Least score of a face."""
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Boxes that overlap a surer one by more are the same face."""
    licence: Annotated[str, Field(min_length=2, max_length=500)]
    """Under which the weights may be used."""
    commercial: bool = False
    """Whether that licence allows commercial use."""


class Detector(Protocol):
    """Finds faces; what it finds in a picture depends on nothing but the picture."""

    card: ModelCard
    size_px: int
    """Side of the square that it looks at."""

    def detect(self, image_HWC: UInt8) -> Detections:
        """Return the faces of one uint8 RGB picture of any size."""
        ...


def chosen_face(found: Detections, width_px: int, height_px: int, choice: Choice) -> int | None:
    """Return the row of the face that is meant, or None where there is none, or `only` finds several.

    Of equals the surer one counts, then the earlier row.
    """
    if not len(found) or (choice == "only" and len(found) > 1):
        return None
    rank = found.areas_px2
    if choice == "central":
        centres = (found.boxes_K4[:, :2].astype(np.float64) + found.boxes_K4[:, 2:]) / 2
        away = ((centres - np.array([width_px, height_px]) / 2) ** 2).sum(axis=1)
        rank = rank - 2.0 * away
    order = np.lexsort((np.arange(len(found)), -found.scores_K.astype(np.float64), -rank))
    return int(order[0])


def non_maximum(boxes_K4: Float32, scores_K: Float32, overlap: float) -> npt.NDArray[np.int64]:
    """Return the rows that stay when each box takes away those that overlap it by more than `overlap`, surest first.

    Overlap is intersection over union, of boxes whose sides count both border pixels (as SCRFD's reference counts).
    """
    order = np.lexsort((np.arange(len(scores_K)), -scores_K.astype(np.float64)))
    boxes = boxes_K4.astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    kept: list[int] = []
    while order.size:
        first, rest = int(order[0]), order[1:]
        kept.append(first)
        low = np.maximum(boxes[rest, :2], boxes[first, :2])
        high = np.minimum(boxes[rest, 2:], boxes[first, 2:])
        common = np.maximum(high - low + 1, 0.0).prod(axis=1)
        order = rest[common / (areas[first] + areas[rest] - common) <= overlap]
    return np.array(kept, np.int64)


def similarity(points_52: npt.ArrayLike, template: Alignment, side_px: int) -> Float64 | None:
    """Return the 2 x 3 matrix that turns, scales and moves five points onto a template, without mirroring.

    Least squares in closed form (S. Umeyama, IEEE TPAMI 13(4), 1991). Means and moments are float32, and the scale is
    taken in the order in which scikit-image takes it, so that crops have the very bits that InsightFace's have: a
    quantised recogniser makes a hundredth of a cosine of one pixel that differs by one. None where the points say
    nothing: not finite, or all in one place.

    Args:
        points_52: (x, y) of the five points in the picture.
        template: where they shall lie.
        side_px: side of the crop.
    """
    source = np.asarray(points_52, np.float32)
    if source.shape != (5, 2):
        raise ValueError(f"points of shape {source.shape}; five (x, y) points, shape (5, 2), are aligned")
    if not np.isfinite(source).all():
        return None
    target = np.array(template.points, np.float32) * np.float32(side_px / template.side_px)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    spread = centred.var(axis=0).sum()
    if not 1e-6 < spread < np.inf:
        return None
    covariance = (target - target_mean).T @ centred / np.float32(5)
    left, stretch, right = np.linalg.svd(covariance)
    sign = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    turn = left @ np.diag(sign) @ right
    scale = float(1.0 / spread * (stretch @ sign))
    if not scale > 1e-9:
        return None
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * turn
    matrix[:, 2] = target_mean - scale * turn @ source_mean
    return matrix
