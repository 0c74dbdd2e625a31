"""Runs of the sketch world that tests share: a whole mint on a store in memory, in well under a second."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.manifest import canonical_json
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.domain.seal import sealed
from pipeline.execute.run import Published, generate
from pipeline.flow.verify import verify
from tests.recipes import sketch_recipe

AnyStore = TypeVar("AnyStore", bound=Store)


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


def two_generations() -> MemoryStore:
    """Return a dataset of two generations and two versions."""
    store, recipe = MemoryStore(), sketches()
    mint(recipe, store)
    mint(sketches(identities={**recipe.identities.model_dump(), "count": 12}), store)
    return store


def filled(store: AnyStore, source: Store | Mapping[str, bytes]) -> AnyStore:
    """Return the store with these files, or those of another; one that dies at writes does not at these."""
    put = functools.partial(MemoryStore.put, store) if isinstance(store, MemoryStore) else store.put
    for path in source if isinstance(source, Mapping) else source.list(""):
        put(path, source[path] if isinstance(source, Mapping) else source.get(path))
    return store


def copy_of(store: Store) -> MemoryStore:
    """Return a store in memory with the same files, to be changed or damaged."""
    return filled(MemoryStore(), store)


def problems(store: Store, *, deep: bool = True) -> list[str]:
    """Return what a verification finds."""
    return [str(p) for p in verify(store, Segments(), JpegCodec(), deep=deep).problems]


def edit(store: Store, path: str, change: Callable[[Any], None]) -> None:
    """Change the JSON of a record, as somebody would who seals it again."""
    raw = json.loads(store.get(path))
    change(raw)
    store.put(path, canonical_json(sealed(raw)))


def bytes_of(store: Store) -> dict[str, bytes]:
    """Return every file that must be the same whoever made it, whenever."""
    folders = ("segments/", "versions/", "enrolled/", "exports/", "previews/")
    return {p: store.get(p) for p in store.list("") if p.startswith(folders)}
