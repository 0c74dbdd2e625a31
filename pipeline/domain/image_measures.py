"""Numbers about a face in its photograph that its aligned crop does not tell: size, margins, company.

OFIQ-style: the formulas are those of ISO/IEC 29794-5:2025 as BSI's reference implementation 1.0.3 has them
(InterEyeDistance, HeadSize, CropOfTheFaceImage, SingleFacePresent), but pose comes from five landmarks, and the chin,
which they do not hold, is taken to lie on the line from eyes to mouth; hence not conformant with it.

Legend: K faces, 5 points, 2 image axes, 4 box sides (left, top, right, bottom).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipeline.domain.landmarks import landmark_measures

CHIN_BY_MOUTH = 1.6
"""From eyes to chin in units of from eyes to mouth: about 117 mm by 73 mm in an adult face."""
MARGINS = {"left": (0.9, "ied"), "right": (0.9, "ied"), "above": (1.4, "heads"), "below": (1.8, "heads")}
"""Side -> the margin at which its quality is a half, and what it is counted in."""
IMAGE_NAMES = (
    "yaw_deg", "pitch_deg", "roll_deg", "inter_eye_px", "yaw_quality", "pitch_quality", "roll_quality",
    "inter_eye_quality", "head_height_share", "head_size_quality",
    *(f"margin_{side}_{unit}" for side, (_, unit) in MARGINS.items()), "margin_quality",
    "face_share", "face_outside_share", "detection_score", "second_face_ratio", "single_face_quality",
)  # fmt: skip
"""Every name that `image_measures` gives, always the same ones."""


def image_measures(
    points_52: npt.ArrayLike,
    box_4: npt.ArrayLike,
    width_px: int,
    height_px: int,
    *,
    score: float = math.nan,
    others_K4: npt.ArrayLike = (),
) -> dict[str, float]:
    """Return what is measured of one face in the picture that it was found in.

    `yaw_deg` to `roll_quality`: as `landmark_measures` has them, `inter_eye_px` between the eyes of a head that is not
    turned; `head_height_share`: eyes to chin, over the picture's height (0.45 fits a portrait); `margin_left_ied`,
    `margin_right_ied`: from the outer eye to the picture's side, in distances between the eyes; `margin_above_heads`,
    `margin_below_heads`: from the eyes to the picture's top and bottom, in distances from eyes to chin;
    `margin_quality`: the least of their qualities; `face_share`: of the picture that the box covers;
    `face_outside_share`: of the box that lies outside of the picture; `detection_score`: as given, 0 to 1;
    `second_face_ratio`: area of the largest other box over this one's, 0 where there is none. Names with `quality` run
    from 0 to 100, higher is better. What the points or the box do not tell is NaN, which no threshold passes.

    Args:
        points_52: eye left in the image, eye right, nose tip, mouth corner left, mouth corner right.
        box_4: of the face.
        width_px: of the picture.
        height_px: of the picture.
        score: how sure the detector is.
        others_K4: boxes of the other faces of the picture.

    Raises:
        ValueError: points or boxes of another shape, or a picture without pixels.
    """
    points, box = np.asarray(points_52, np.float64), np.asarray(box_4, np.float64)
    others = np.asarray(others_K4, np.float64).reshape(-1, 4)
    if box.shape != (4,) or min(width_px, height_px) < 1:
        raise ValueError(f"a box of shape {box.shape} in {width_px} x {height_px} px; four sides in a picture are read")
    told = {name: float(values[0]) for name, values in landmark_measures(points[None]).items()}
    told["inter_eye_quality"] = _rounded(100.0 * _sigmoid(told["inter_eye_px"], 70.0, 20.0))
    told |= _head(points, width_px, height_px)
    return {**told, **_boxes(box, others, width_px, height_px), "detection_score": float(score)}


def _head(points_52: npt.NDArray[np.float64], width_px: int, height_px: int) -> dict[str, float]:
    """Return how large the head is in the picture, and how much room there is around it."""
    middle, mouth = points_52[:2].mean(axis=0), points_52[3:].mean(axis=0)
    apart_px = float(np.hypot(*(points_52[1] - points_52[0])))
    head_px = CHIN_BY_MOUTH * float(np.hypot(*(mouth - middle)))
    # points that all lie in one place, or are no numbers, say nothing about margins either
    apart_px, head_px = (value if value > 1e-6 else math.nan for value in (apart_px, head_px))
    # to the picture's border, which lies half a pixel outside of the centres of its outermost pixels
    room = {
        "left": (points_52[0, 0] + 0.5) / apart_px,
        "right": (width_px - 0.5 - points_52[1, 0]) / apart_px,
        "above": (middle[1] + 0.5) / head_px,
        "below": (height_px - 0.5 - middle[1]) / head_px,
    }
    share = head_px / height_px
    qualities = [100.0 * _sigmoid(float(room[side]), half, 0.1) for side, (half, _) in MARGINS.items()]
    return {
        "head_height_share": share,
        "head_size_quality": _rounded(200.0 * (1.0 - _sigmoid(abs(share - 0.45), 0.0, 0.05))),
        **{f"margin_{side}_{unit}": float(room[side]) for side, (_, unit) in MARGINS.items()},
        "margin_quality": _rounded(float(np.min(qualities))),
    }


def _boxes(
    box_4: npt.NDArray[np.float64], others_K4: npt.NDArray[np.float64], width_px: int, height_px: int
) -> dict[str, float]:
    """Return what the boxes tell: share of the picture, what of it is cut off, the largest other face."""
    area = _areas(box_4[None])[0]
    # a box from border to border has the corners (0, 0) and (width, height)
    inside = np.concatenate([np.maximum(box_4[:2], 0.0), np.minimum(box_4[2:], [width_px, height_px])])
    seen = _areas(inside[None])[0]
    mine = float(area) if area > 0 else math.nan
    second = float(_areas(others_K4).max(initial=0.0)) / mine
    return {
        "face_share": float(seen) / (width_px * height_px),
        "face_outside_share": 1.0 - float(seen) / mine,
        "second_face_ratio": second,
        "single_face_quality": _rounded(100.0 * (1.0 - min(second, 1.0))) if second == second else math.nan,
    }


def _areas(boxes_K4: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the areas of boxes in square pixels; one turned inside out has none."""
    return np.asarray(np.maximum(boxes_K4[:, 2:] - boxes_K4[:, :2], 0.0).prod(axis=1))


def _sigmoid(value: float, half: float, width: float) -> float:
    """Return 1 / (1 + exp((half - value) / width)); NaN of what is no number."""
    if value != value:
        return math.nan
    return 1.0 / (1.0 + math.exp(min(max((half - value) / width, -700.0), 700.0)))


def _rounded(value: float) -> float:
    return math.floor(value + 0.5) if value == value else math.nan
