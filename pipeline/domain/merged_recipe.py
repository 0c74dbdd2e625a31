"""The recipe of a merged dataset: that of its first source as far as the others agree, and what was merged."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from pipeline.domain.recipe import Recipe, Section


class MergedSource(Section):
    """A version that a merged dataset was made of."""

    name: str
    version: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    judge: str = ""
    """Name of the side-car from which its embeddings come; empty where its own judge's are compared."""


class Merged(Section):
    """What a merged dataset was made of, in order of precedence, and what decided who gives way."""

    sources: Annotated[tuple[MergedSource, ...], Field(min_length=2, max_length=100)]
    on_collision: Literal["drop", "keep", "refuse"] = "drop"
    """What becomes of the later of two identities that the judge takes for one."""
    copy_bits: Annotated[int, Field(ge=0, le=8)] = 2
    """Perceptual hashes that differ in so many bits or fewer are those of one picture."""
    epoch: Literal[1] = 1
    """Raised by hand when merging the same sources would give other bytes."""


def merged_of(recipe: Recipe) -> Merged | None:
    """Return what a recipe says of merging; None where it is not that of a merged dataset."""
    merged: Merged | None = getattr(recipe, "merged", None)
    return merged


@functools.cache
def merged_model(model: type[Recipe]) -> type[Recipe]:
    """Return the model of a merged dataset's recipe: that of its first source, and what was merged."""
    fields: dict[str, Any] = {"kind": (Literal["merge"], ...), "merged": (Merged, ...)}
    return create_model("MergedRecipe", __base__=model, **fields)
