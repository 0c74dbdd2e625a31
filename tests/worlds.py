"""Runs of the sketch world that tests share: a whole mint on a store in memory, in well under a second."""

from __future__ import annotations

from typing import Any

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.execute.run import Published, generate
from tests.recipes import sketch_recipe


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **facts: Any) -> None:
        """Keep one event."""
        self.seen.append((kind, facts))


def sketches(**changes: Any) -> Recipe:
    """Return a validated sketch recipe."""
    recipe = parse_recipe(wiring.full_model(), sketch_recipe(**changes), "test")
    wiring.check_parts(recipe, "test")
    return recipe


def mint(recipe: Recipe, store: Store | None = None, observer: Silent | None = None, **options: Any) -> Published:
    """Run a recipe to its end on a store, inline."""
    target = store if store is not None else MemoryStore()
    return generate(wiring.session_on(recipe, target, observer or Silent(), **options))


def bytes_of(store: Store) -> dict[str, bytes]:
    """Return every file that must be the same whoever made it, whenever."""
    folders = ("segments/", "versions/", "enrolled/", "exports/", "previews/")
    return {p: store.get(p) for p in store.list("") if p.startswith(folders)}
