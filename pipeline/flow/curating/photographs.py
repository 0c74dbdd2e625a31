"""Numbers about a face in its photograph, before it is cut: what a crop does not tell any more.

Legend: K faces, 5 points, 2 axes.
"""

from __future__ import annotations

import numpy as np

from pipeline.domain.detection import Detections
from pipeline.domain.landmarks import landmark_measures

NAMES = (
    "detection_score", "faces", "second_face_ratio", "face_share", "yaw_deg", "pitch_deg", "roll_deg", "inter_eye_px",
    "yaw_quality", "pitch_quality", "roll_quality",
)  # fmt: skip


def photograph_measures(found: Detections, face: int, width_px: int, height_px: int) -> dict[str, float]:
    """Return the measures of one of the faces of a picture of this size.

    `detection_score` 0 to 1; `faces` in the picture; `second_face_ratio`: area of the largest other box over this one's
    (0 where there is none); `face_share` of the picture's area; and what the five points tell (`landmark_measures`).
    """
    areas = found.areas_px2
    mine = max(float(areas[face]), 1e-9)
    others = np.delete(areas, face)
    told = landmark_measures(found.points_K52[face : face + 1])
    numbers = {
        "detection_score": float(found.scores_K[face]),
        "faces": float(len(found)),
        "second_face_ratio": float(others.max() / mine) if len(others) else 0.0,
        "face_share": float(areas[face]) / (width_px * height_px),
        **{name: float(values[0]) for name, values in told.items()},
    }
    return {name: value for name, value in numbers.items() if np.isfinite(value)}
