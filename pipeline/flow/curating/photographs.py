"""Numbers about a face in its photograph, before it is cut: what a crop does not tell any more.

Legend: K faces, 5 points, 2 axes.
"""

from __future__ import annotations

import numpy as np

from pipeline.domain.detection import Detections
from pipeline.domain.image_measures import IMAGE_NAMES, image_measures

FACES = "faces"
NAMES = (*IMAGE_NAMES, FACES)


def photograph_measures(found: Detections, face: int, width_px: int, height_px: int) -> dict[str, float]:
    """Return the measures of one of the faces of a picture of this size: `image_measures`, and how many faces it has.

    What could not be told is NaN.
    """
    others = np.delete(found.boxes_K4, face, axis=0)
    score = float(found.scores_K[face])
    told = image_measures(
        found.points_K52[face], found.boxes_K4[face], width_px, height_px, score=score, others_K4=others
    )
    return {**told, FACES: float(len(found))}
