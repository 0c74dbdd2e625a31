"""Where a generator puts faces, measured once: what a fixed crop is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.wiring.parts import build, build_parts
from pipeline.domain.errors import UserError

if TYPE_CHECKING:
    from pipeline.domain.recipe import Recipe

LEAST = 20
"""Faces below which their usual place is not stated."""


def crop_points(recipe: Recipe, images: int) -> dict[str, Any]:
    """Return where the recipe's generator puts faces: what `facemint calibrate-crop` prints.

    `detector` is what `align.detector` becomes; `found` of `images` pictures had a face, and its points lay `spread`
    (root mean square, as a share of the side) from their usual place.

    Raises:
        UserError: the recipe has no detector that looks, or too few of its pictures have a face.
    """
    import numpy as np

    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import MemoryStore
    from pipeline.flow.aligning import usual_points
    from pipeline.flow.estimate import trial_pictures

    if recipe.align is None or recipe.align.detector.use == "fixed":
        raise UserError(f"{recipe.name}: align.detector: none that looks is named; give scrfd, yunet or insightface")
    single_thread()
    parts = build_parts(recipe, MemoryStore("nowhere"), None, "calibrate-crop")
    detector = build("detector", recipe.align.detector)
    pictures = trial_pictures(parts, images)
    points, found, spread = usual_points(detector, pictures, recipe.align.choice)
    if found < LEAST or not np.isfinite(points).all():
        raise UserError(
            f"{recipe.name}: {found} of {images} pictures have a face; {LEAST} at least are needed: ask for more "
            "--images, or look at what the generator makes"
        )
    rounded = [[round(float(x), 4), round(float(y), 4)] for x, y in points]
    return {
        "recipe": recipe.name,
        "images": images,
        "found": found,
        "spread": spread,
        "detector": {"use": "fixed", "points": rounded},
    }
