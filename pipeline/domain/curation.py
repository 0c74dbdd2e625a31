"""What a recipe says of curating: where images come from, which face is meant, and how labels are cleaned.

A curated dataset's recipe is that of a minted one as far as both go the same way (judge, measures, filters, balance,
exports); in place of a generator it has sources and a detector. How many identities and images there are is found out
by cleaning, and the resolved recipe states it.
"""

from __future__ import annotations

import functools
import typing
from typing import Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from pipeline.domain.recipe import Align, Identities, Node, Recipe, Section, Threshold, one_of
from pipeline.domain.space import Space


class Decoding(Section):
    """What is decoded at all; a header that asks for more is refused before a pixel is read."""

    most_px: Annotated[int, Field(ge=10_000, le=1_000_000_000)] = 50_000_000
    longest_side_px: Annotated[int, Field(ge=64, le=65_535)] = 16_384
    shortest_side_px: Annotated[int, Field(ge=8, le=4096)] = 32
    animations: Literal["refuse", "first-frame"] = "refuse"
    ai_made: Literal["mark", "refuse"] = "mark"
    """What becomes of images that say of themselves (IPTC, C2PA) that a model made them."""


class Duplicates(Section):
    """Which images of one identity are copies of each other; of copies the one with the largest face stays."""

    bits: Annotated[int, Field(ge=0, le=16)] | None = 6
    """Perceptual hashes of crops, mirrored or not, that differ in so many bits or fewer are those of one picture."""
    cos: Annotated[float, Field(gt=0, le=1)] | None = 0.97
    """Embeddings that are this near are those of one picture; none for hashes alone."""


class Cleaning(Section):
    """How labels are cleaned. Thresholds are false match rates of the judge's calibration, or raw cosines."""

    link: Threshold = Threshold(fmr=1e-3)
    """Image against image: at which two of one label count as one person."""
    keep: Threshold = Threshold(fmr=1e-3)
    """Image against the template of the others of its label: what is below is taken out."""
    neighbours: Annotated[int, Field(ge=2, le=100)] = 2
    """An image with so many linked ones, itself among them, is a core of a cluster."""
    others: Literal["split", "drop"] = "split"
    """What becomes of further clusters under one label: people of their own, or refused."""
    strays: Literal["move", "drop"] = "move"
    """What becomes of an image that is not of its label: it is given to whom it surely matches, or refused."""
    sure_margin_cos: Annotated[float, Field(ge=0, le=1)] = 0.05
    """By how much a stray has to be nearer to its new identity than to the next one."""
    duplicates: Duplicates = Duplicates()
    min_images: Annotated[int, Field(ge=1, le=1000)] = 2
    """Identities with fewer images are refused."""
    merge: Threshold | None = Threshold(fmr=1e-4)
    """Template against template: at which two labels are one person; none to merge nothing."""
    drop: Threshold | None = Threshold(fmr=1e-3)
    """Template against template: below `merge`, at which the smaller of two look-alikes is refused; none to keep."""
    shared_labels: bool = False
    """Whether a label means the same person in every source."""
    template_images: Annotated[int, Field(ge=1, le=1000)] = 4
    """Images per template for which false match rates are turned into cosines."""


class Crop(Section):
    """Stored images that show more than the judge's crop; models see the judge's, cut out of what is stored."""

    px: Annotated[int, Field(ge=32, le=1024)]
    """Side of stored images."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.25
    """What is shown on every side beyond the judge's crop, as a share of its side."""


class Review(Section):
    """What is listed for people to decide: what lies near a threshold."""

    margin_cos: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    most: Annotated[int, Field(ge=0, le=100_000)] = 200
    """Of each kind, the nearest to its threshold."""


class Curation(Section):
    """How images that exist already become a dataset."""

    most_faces: Annotated[int, Field(ge=1, le=64)] = 8
    """Faces of one picture that are looked at where the one is chosen that matches its label, the surest first."""
    crop: Crop | None = None
    """What is stored; left out, the judge's crops."""
    decoding: Decoding = Decoding()
    clean: Cleaning = Cleaning()
    review: Review = Review()
    minors: Literal["refuse", "keep"] = "refuse"
    """What becomes of faces that look like minors, where a measure estimates the apparent age."""
    publish_attributes: Annotated[str, Field(min_length=10, max_length=500)] | None = None
    """Why labels of perceived attributes of each person are published; without a reason they are not."""
    rows: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Inputs of one unit of work."""
    buckets: Annotated[int, Field(ge=1, le=4096)] = 32
    """Parts that labels are cleaned in; each has to fit into memory."""
    epoch: Literal[1] = 1
    """Raised by hand when the same inputs would be curated to other bytes."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        merge, drop = self.clean.merge, self.clean.drop
        if merge is not None and drop is not None:
            strict = (merge.fmr or 0) > (drop.fmr or 0) if merge.fmr and drop.fmr else None
            if strict or (merge.cos is not None and drop.cos is not None and merge.cos < drop.cos):
                raise ValueError("clean.drop is stricter than clean.merge: what is merged cannot be dropped")
        return self


class CuratedAlign(Align):
    """How faces are found and cut; left out, images are crops in the judge's alignment already."""

    choice: Literal["largest", "central", "only", "matching"] = "largest"  # type: ignore[assignment]
    """Which face of a picture with several is meant: `matching` takes the one that matches the others of its label."""

    @model_validator(mode="after")
    def _crops_alone(self) -> Self:
        if self.keep_whole:
            raise ValueError(
                "keep_whole is for generated pictures; photographs of real people are stored as crops alone: leave it "
                "out (curate.crop stores crops that show more)"
            )
        return self


class PhotographsOptions(Node):
    """In place of generator, bank and sampler: images come from sources, and identities live in the judge's space."""

    use: Literal["photographs"] = "photographs"
    batch: Literal[1] = 1
    space: Space | None = None
    """The judge's; filled in when the recipe is read."""


def curation_of(recipe: Recipe) -> Curation | None:
    """Return what a recipe says of curating; None where it is not that of a curated dataset."""
    found: Curation | None = getattr(recipe, "curate", None)
    return found


def margin_of(recipe: Recipe) -> float | None:
    """Return what stored images show beyond the judge's crop, as a share of its side; None where they are that crop."""
    asked = curation_of(recipe)
    return None if asked is None or asked.crop is None else asked.crop.margin


@functools.cache
def curated_model(model: type[Recipe]) -> type[Recipe]:
    """Return the model of a curated dataset's recipe, from the full model of minted ones."""
    align = next(a for a in typing.get_args(model.model_fields["align"].annotation) if a is not type(None))
    detector = typing.get_type_hints(align, include_extras=True)["detector"]
    photographs = PhotographsOptions()
    identities = create_model(
        "CuratedIdentities",
        __base__=Identities,
        sampler=(PhotographsOptions, photographs),
        bank=(PhotographsOptions, photographs),
        count=(Annotated[int, Field(ge=0, le=10_000_000)], 0),
        images_per_identity=(Annotated[int, Field(ge=1, le=1_000_000)], 1),
    )
    found = create_model("CuratedAlign", __base__=CuratedAlign, detector=(detector, ...))
    fields: dict[str, Any] = {
        "kind": (Literal["curate"], ...),
        "curate": (Curation, Curation()),
        "sources": (Annotated[tuple[one_of(model.source_options), ...], Field(min_length=1)], ...),  # type: ignore[misc]
        "identities": (identities, identities.model_validate({})),
        "generator": (PhotographsOptions, photographs),
        "align": (found | None, None),
    }
    return create_model("CuratedRecipe", __base__=model, **fields)
