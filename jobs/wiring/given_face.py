"""A face that somebody hands in, as the judge reads it: of a crop, of an image as it is stored, or of a photograph."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from jobs.wiring.labelled import crop_px
from jobs.wiring.parts import build
from pipeline.domain.curation import curation_of

if TYPE_CHECKING:
    from pipeline.domain.recipe import Recipe
    from pipeline.domain.records import UInt8


def face_given(recipe: Recipe, alignment: str, data: bytes) -> UInt8:
    """Return the crop that the judge reads, uint8 RGB (side, side, 3).

    A picture of the judge's size is taken for his crop, one of the size that is stored for a stored image; in any other
    the recipe's detector, if it has one, must find a single face.

    Raises:
        ValueError: the picture is damaged, or no single face is found in it.
    """
    from pipeline.adapters.cropping import inner_crop
    from pipeline.adapters.labelled.pictures import decode

    side_px, asked = crop_px(alignment), curation_of(recipe)
    if asked is not None and asked.crop is not None:
        with suppress(ValueError):
            return inner_crop(decode(data, asked.crop.px), asked.crop.margin, side_px)
    try:
        return decode(data, side_px)
    except ValueError as error:
        if recipe.align is not None:
            return _found(recipe, alignment, data)
        stored = f", or an image as this dataset stores them ({asked.crop.px} px)" if asked and asked.crop else ""
        raise ValueError(f"{error}{stored}") from None


def _found(recipe: Recipe, alignment: str, data: bytes) -> UInt8:
    from pipeline.adapters.cropping import aligned_crop
    from pipeline.adapters.decoding import decode
    from pipeline.domain.intake import DecodeLimits, Refusal
    from pipeline.domain.landmarks import alignment as template

    seen = decode(data, DecodeLimits())
    if isinstance(seen, Refusal):
        raise ValueError(f"{seen.reason} ({seen.found}); give a whole photograph, or an aligned crop")
    assert recipe.align is not None
    faces = build("detector", recipe.align.detector).detect(seen.image_HWC)
    if len(faces) != 1:
        count = f"{len(faces)} faces are" if len(faces) else "no face is"
        raise ValueError(f"{count} found in it; give a photograph of one, or cut out who is meant")
    crop = aligned_crop(seen.image_HWC, faces.points_K52[0], template(alignment), crop_px(alignment))
    if crop is None:
        raise ValueError("the landmarks of its face say nothing; give another photograph")
    return crop
