"""Five landmarks of a face: the templates that crops are aligned to, and what the points alone tell of size and pose.

Order of the points: eye left in the image, eye right in the image, nose tip, mouth corner left, mouth corner right.
Positions are (x, y) in pixels, x to the right, y down, the centre of the top left pixel at (0, 0).

Legend: N rows, 5 points, 2 image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError

Float64 = npt.NDArray[np.float64]
Point = tuple[float, float]

MODEL_53 = np.array(
    [[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, -0.574, 0.42], [-0.414, -1.155, 0.03], [0.414, -1.155, 0.03]], np.float64
)
"""The points of an upright head that looks at us, in units of its inter-eye distance: x right, y up, z towards us.

x and y are those of the template `arcface-112`, made symmetric; depths are round figures of an adult face (the nose tip
about 26 mm before the pupils at 63 mm between them).
"""
POSE = ("yaw_deg", "pitch_deg", "roll_deg")


@dataclass(frozen=True, slots=True)
class Alignment:
    """A named template: where the five points lie in a square crop.

    Attributes:
        name: as spaces and recipes name it.
        side_px: side of the crop that the points are given for; in another one they scale with it.
        points: the five points.
    """

    name: str
    side_px: int
    points: tuple[Point, Point, Point, Point, Point]

    @property
    def inter_eye_px(self) -> float:
        """Return the distance between the eyes at `side_px`."""
        (ax, ay), (bx, by) = self.points[:2]
        return float(np.hypot(bx - ax, by - ay))

    def points_in(self, width_px: int, height_px: int) -> Float64:
        """Return the points in a crop of another size, shape (5, 2): pixel centres are kept in place."""
        scale = np.array([width_px, height_px], np.float64) / self.side_px
        return (np.array(self.points, np.float64) + 0.5) * scale - 0.5

    def head_53(self) -> Float64:
        """Return `MODEL_53` with the proportions of this template: an upright face as its population has it."""
        points = np.array(self.points, np.float64)
        mirrored = points[[1, 0, 2, 4, 3]] * np.array([-1.0, 1.0])
        upright = (points - points[:2].mean(axis=0) + mirrored - mirrored[:2].mean(axis=0)) / 2
        return np.concatenate([upright * np.array([1.0, -1.0]) / self.inter_eye_px, MODEL_53[:, 2:]], axis=1)


ALIGNMENTS: Mapping[str, Alignment] = {
    a.name: a
    for a in (
        Alignment(
            # ArcFace (Deng et al., CVPR 2019), as InsightFace aligns and nearly every recogniser expects it
            "arcface-112",
            112,
            ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
        ),
        Alignment(
            # dlib's chip with a quarter of padding (`get_face_chip_details`, five points), as FairFace was trained on:
            # dlib's mean eyes stand at these places, and the other points lie to them as in `arcface-112`
            "fairface-224",
            224,
            ((71.1546, 70.4733), (149.6269, 70.0393), (110.6402, 115.1025), (78.4027, 161.0425), (143.3871, 160.683)),
        ),
        # the mean points of neutral frontal phantoms
        Alignment("phantom-112", 112, ((39.86, 48.74), (71.14, 48.74), (55.5, 66.98), (44.19, 80.26), (66.81, 80.26))),
        # sketches are patterns that fill the crop: these only say where a face of their size would have its points
        Alignment("sketch-32", 32, ((10.6, 14.4), (20.7, 14.4), (15.65, 20.2), (11.5, 26.0), (19.8, 26.0))),
    )
}
"""Every alignment that is known by name."""


def alignment(name: str) -> Alignment:
    """Return the alignment of a name; raises UserError, with those that are known, for another."""
    if name not in ALIGNMENTS:
        raise UserError(f"alignment {name!r}: unknown; known alignments: {', '.join(sorted(ALIGNMENTS))}")
    return ALIGNMENTS[name]


def widened(template: Alignment, margin: float, side_px: int) -> Alignment:
    """Return the alignment of a crop that shows more on every side, by `margin` of the template's side each.

    Raises:
        ValueError: the margin is below 0 or above 4, or no number.
    """
    if not 0.0 <= margin <= 4.0:
        raise ValueError(f"margin {margin}; 0 to 4 times the template's side is added on each side")
    scale = side_px / (template.side_px * (1.0 + 2.0 * margin))
    points = (np.array(template.points, np.float64) + 0.5 + margin * template.side_px) * scale - 0.5
    a, b, c, d, e = ((float(x), float(y)) for x, y in points)
    return Alignment(f"{template.name}+{margin:g}", side_px, (a, b, c, d, e))


def pose_deg(points_N52: npt.ArrayLike, model_53: Float64 = MODEL_53) -> Float64:
    """Return yaw, pitch and roll of N faces in degrees, shape (N, 3), estimated from their five landmarks alone.

    Yaw is positive to the right of the image, pitch positive upwards, roll positive clockwise. The head is taken for
    `MODEL_53` seen from far away (weak perspective, as in D. F. DeMenthon and L. S. Davis, "Model-based object pose in
    25 lines of code", IJCV 1995, without its iterations): the 2 x 3 projection that fits the points best in squared
    distances is made a scaled rotation by the polar decomposition. A face whose nose or mouth is not the model's has a
    biased pitch, by ten degrees and more; its yaw and roll suffer less. `Alignment.head_53` makes the model of a
    population whose template is known.

    Points that lie in one place or in one line, or are no numbers, have a pose of NaN, which no threshold passes.

    Raises:
        ValueError: not of shape (N, 5, 2).
    """
    points = _points(points_N52)
    sound = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    points = np.where(sound[:, None, None], points, 0.0) * np.array([1.0, -1.0])  # y up, as the model has it
    fit_N23 = np.einsum("nki,kj->nij", points - points.mean(axis=1, keepdims=True), _fit(model_53))
    left, stretch, right = np.linalg.svd(fit_N23, full_matrices=False)
    sound &= stretch[:, 1] > 1e-6 * stretch[:, 0]
    x_N3, y_N3 = np.moveaxis(left @ right, 1, 0)
    z_N3 = np.cross(x_N3, y_N3)
    yaw = np.arctan2(-z_N3[:, 0], z_N3[:, 2])
    pitch = np.arcsin(np.clip(-z_N3[:, 1], -1.0, 1.0))
    roll = np.arctan2(x_N3[:, 1], y_N3[:, 1])
    pose_N3 = np.rad2deg(np.stack([yaw, pitch, roll], axis=1))
    return np.where(sound[:, None], pose_N3, np.nan)


def landmark_measures(points_N52: npt.ArrayLike, model_53: Float64 = MODEL_53) -> dict[str, Float64]:
    """Return what five landmarks tell of N faces, one float64 array of shape (N,) per name.

    `yaw_deg`, `pitch_deg` and `roll_deg` are those of `pose_deg`; `inter_eye_px` is the distance between the eyes as it
    would be if the head were not turned, d / cos(yaw); `yaw_quality`, `pitch_quality` and `roll_quality` are
    100 cos(angle)^2, rounded, 0 beyond a right angle: OFIQ-style (ISO/IEC 29794-5:2025, BSI's reference
    implementation 1.0.3), from five landmarks and not from OFIQ's pose network, hence not conformant with it.
    """
    points = _points(points_N52)
    pose_N3 = pose_deg(points, model_53)
    found = {name: pose_N3[:, column] for column, name in enumerate(POSE)}
    eyes_N2 = points[:, 1] - points[:, 0]
    cos_N3 = np.maximum(np.cos(np.deg2rad(pose_N3)), 0.0)
    # past 84 degrees one eye is hidden and the quotient means nothing: it grows no further
    found["inter_eye_px"] = np.hypot(eyes_N2[:, 0], eyes_N2[:, 1]) / np.maximum(cos_N3[:, 0], 0.1)
    for column, name in enumerate(POSE):
        found[name.replace("_deg", "_quality")] = np.floor(100.0 * cos_N3[:, column] ** 2 + 0.5)
    return found


def _points(points_N52: npt.ArrayLike) -> Float64:
    points = np.asarray(points_N52, np.float64)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise ValueError(f"landmarks of shape {points.shape}; five (x, y) points per face, shape (N, 5, 2), are read")
    return points


def _fit(model_53: Float64) -> Float64:
    """Return F (5, 3) with `points.T @ F` the projection that fits the points best, for points around their mean."""
    model = model_53 - model_53.mean(axis=0)
    return np.asarray(model @ np.linalg.inv(model.T @ model), np.float64)
