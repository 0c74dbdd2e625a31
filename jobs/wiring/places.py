"""Where sources and datasets lie: whether two ways of writing a path are one place, and whether one holds the other."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.domain.errors import RecipeError
from pipeline.domain.recipe import Recipe


def plain(path: str) -> str:
    """Return a path or an address without what says nothing: a last slash, a dot."""
    return path.rstrip("/") if "://" in path else os.path.normpath(path)


def place_of(address: str) -> str:
    """Return where a path or an address leads, so that two ways of writing it are one."""
    local = address.removeprefix("file://")
    return plain(address) if "://" in local else str(Path(local).expanduser().resolve())


def require_outside(recipe: Recipe, uri: str) -> None:
    """Refuse a dataset that lies in a folder of its own sources.

    Raises:
        RecipeError: the next run would list what this one writes.
    """
    for node in recipe.sources:  # type: ignore[attr-defined]
        if f"{place_of(uri)}/".startswith(f"{place_of(node.path).rstrip('/')}/"):
            raise RecipeError(
                f"--out {uri}: lies inside the source {node.path}, whose next listing would hold the dataset's own "
                "images; choose a place outside of it"
            )
