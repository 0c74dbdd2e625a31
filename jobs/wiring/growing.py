"""Steps of growth: `--set identities.count=+20` means twenty more than the newest version was asked for.

A schedule repeats one command, so a step has to mean the same however often a run of it was cut short: it is taken
once the version before it stands with its exports, and until then the run goes on with what is begun.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.domain.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.domain.ports import Store

_STEP = re.compile(r"([^=]+)=\s*\+\s*(\d+)\s*")


def grown(overrides: Sequence[str], uri: str | None) -> list[str]:
    """Return overrides with every step turned into the number that it means for the dataset at `uri`.

    In an empty place a step says nothing, and the recipe's own number holds: the first version is what it says. A
    generation that is begun keeps its number until it is published, with the exports that it promised.

    Raises:
        RecipeError: a step of a key in which datasets do not grow.
    """
    from pipeline.execute.generations import GROWS

    out = []
    for text in overrides:
        match = _STEP.fullmatch(text)
        if match is None:
            out.append(text)
            continue
        key = match[1].strip()
        if key not in GROWS:
            raise RecipeError(f"--set {text}: a step adds to what a dataset has; only {' and '.join(GROWS)} take one")
        if (number := _number(key, int(match[2]), uri)) is not None:
            out.append(f"{key}={number}")
    return out


def _number(key: str, more: int, uri: str | None) -> int | None:
    from pipeline.adapters.stores import open_store
    from pipeline.execute.generations import generations, read_step
    from pipeline.flow.versions import read_manifests

    if uri is None:
        return None
    store = open_store(uri, writable=False)
    begun = generations(store)
    if not begun:
        return None
    recipe = read_step(store, begun[-1])["recipe"]
    section, _, name = key.partition(".")
    there = int(recipe[section][name])
    manifests = read_manifests(store)
    published = next((m for m in reversed(manifests) if m.generation == begun[-1]), None)
    if published is None or not _is_exported(store, published.version, recipe):
        return there
    return there + more


def _is_exported(store: Store, version: str, recipe: Mapping[str, Any]) -> bool:
    """Return whether a version has every export that its recipe promised; an export's manifest is written last."""
    for node in recipe.get("exports") or ():
        folder = f"exports/{version}/{node.get('folder') or node['use']}/"
        if not any(path.endswith("/manifest.json") for path in store.list(folder)):
            return False
    return True
