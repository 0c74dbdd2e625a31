"""Galleries of a recipe: what they hold is told by digest before anything else, and their sources are opened."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jobs.wiring.labelled import open_labelled
from jobs.wiring.parts import build
from pipeline.domain.errors import PlanMismatchError, RecipeError, UserError
from pipeline.domain.recipe import NOT_TOLD, Recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import LabelledFaces, Store


def gallery_sources(recipe: Recipe) -> dict[str, Callable[[], LabelledFaces]]:
    """Return what opens the source of each gallery, and of the control, by name; nothing is opened yet."""
    from pipeline.flow.leakage import CONTROL

    if not recipe.leakage.galleries:
        return {}
    places = {g.name: g.source for g in recipe.leakage.galleries}
    if recipe.leakage.control is not None:
        places[CONTROL] = recipe.leakage.control
    alignment = build("judge", recipe.judge).space.alignment
    return {name: functools.partial(_opened, name, place, alignment) for name, place in places.items()}


def _opened(name: str, place: str, alignment: str) -> LabelledFaces:
    if place.startswith(NOT_TOLD):
        raise UserError(
            f"leakage: where the faces of {name!r} lie is not stored with the dataset, and what was prepared from them "
            "under private/ is gone; restore private/ from a copy, or run with the recipe that names their source"
        )
    return open_labelled(place, alignment=alignment)


def with_gallery_digests(recipe: Recipe, store: Store | None = None) -> Recipe:
    """Return the recipe with the digest of everything that its galleries and its control hold.

    A digest that the recipe gives is held against the source, which is read whole for it, unless the gallery is
    prepared in `store` already: then its source may be gone.

    Raises:
        UserError: a source cannot be read.
        PlanMismatchError: a source holds other faces than the recipe says.
        RecipeError: the control is one of the galleries.
    """
    from pipeline.flow.leakage import CONTROL, faces_digest, gallery_root

    sources = gallery_sources(recipe)
    if not sources:
        return recipe
    settings = recipe.leakage
    given = {g.name: g.digest for g in settings.galleries} | {CONTROL: settings.control_digest}
    found: dict[str, str] = {}
    for name, source in sources.items():
        said = given[name]
        if said is not None and store is not None and store.size(f"{gallery_root(name, said)}.json") is not None:
            found[name] = said
            continue
        found[name] = faces_digest(source())
        if said not in (None, found[name]):
            raise PlanMismatchError(
                f"leakage: {name!r} holds faces of digest {found[name][:12]} where the recipe names {str(said)[:12]}; "
                "bring the gallery back as it was, or leave its digest out and use another --out"
            )
    _require_apart(found)
    galleries = tuple(g.model_copy(update={"digest": found[g.name]}) for g in settings.galleries)
    known = settings.model_copy(update={"galleries": galleries, "control_digest": found.get(CONTROL)})
    return recipe.model_copy(update={"leakage": known})


def _require_apart(found: Mapping[str, str]) -> None:
    for name, digest in found.items():
        if name != "control" and digest == found.get("control"):
            raise RecipeError(
                f"leakage.control: holds the same faces as gallery {name!r}; a control is faces of nobody in the "
                "galleries"
            )
