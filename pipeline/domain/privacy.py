"""What is real people's stays under `private/`: which files lie there, and which numbers say what a person looks like.

A publication, the dataset digest and every export leave that folder out. A curated set keeps there the embeddings,
templates, attributes, landmarks and source paths of the people in it; a minted one the galleries that it was screened
against. Everything else has the path and the form that it has in a minted set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.domain.records import Cell

if TYPE_CHECKING:
    from pipeline.domain.manifest import Manifest
    from pipeline.domain.recipe import Recipe

PRIVATE = "private/"
REAL_PEOPLE = "real_people"
"""Under which a version says that its images are photographs of real people; minted ones do not have the word."""
SEGMENTS = f"{PRIVATE}segments/"
"""Embeddings, measures and verdicts of a curated unit's candidates, in the order of its public rows."""
AUDITS = f"{PRIVATE}audits/"
ENROLLED = f"{PRIVATE}enrolled/"
SOURCES = f"{PRIVATE}sources/"
FEATURES = f"{PRIVATE}features/"
CLEANED = f"{PRIVATE}cleaned/"
BETWEEN = f"{PRIVATE}between/"
REVIEW = f"{PRIVATE}review/"
HELD = (SEGMENTS, AUDITS, ENROLLED, SOURCES, FEATURES, CLEANED, BETWEEN, REVIEW)
"""Folders in which every file is named by a receipt, or is nobody's; but for review queues, which people hold."""
_PERSONAL = ("perceived_", "apparent_", "est_", "skin_", "cheek_", "hat_", "own_cell_probability")
"""How measures begin that say what a person looks like, besides the estimates named `field=value`; what is worn on the
head can tell somebody's faith."""
_PERSONAL_FILTERS = ("apparent-minor", "cell-agreement")


def private_path(path: str) -> str:
    """Return where the private part of a file lies: `private/segments/make-g0-000003.parquet`."""
    return f"{PRIVATE}{path}"


def is_private(path: str) -> bool:
    """Return whether a file lies under `private/`."""
    return path.startswith(PRIVATE)


def without_private(path: str) -> str:
    """Return the path of which a file's is the private part, or the path itself."""
    return path.removeprefix(PRIVATE)


def is_personal(measure: str) -> bool:
    """Return whether a measure is an attribute of the person: `field=value`, an apparent age, a tone of skin."""
    return "=" in measure or measure.startswith(_PERSONAL)


def is_personal_filter(name: str) -> bool:
    """Return whether verdicts of a filter of this name hold the value of an attribute: `range:apparent_age_years`."""
    kind, _, about = name.partition(":")
    return kind in _PERSONAL_FILTERS or is_personal(about)


def holds_people(recipe: Recipe) -> bool:
    """Return whether a dataset's images are photographs of real people."""
    return getattr(recipe, "curate", None) is not None


def of_real_people(manifest: Manifest) -> bool:
    """Return whether a version says of itself that its images are photographs of real people."""
    return bool(manifest.use.get(REAL_PEOPLE))


def use_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a version says of its use, JSON-ready: as its recipe has it, and whether real people are shown."""
    said: dict[str, Any] = recipe.use.model_dump(mode="json")
    return {**said, REAL_PEOPLE: True} if holds_people(recipe) else said


def publishes_attributes(recipe: Recipe) -> bool:
    """Return whether labels of what each person looks like are published: nobody is harmed, or the recipe says why."""
    curate = getattr(recipe, "curate", None)
    return curate is None or curate.publish_attributes is not None


def published_cell(recipe: Recipe, cell: Cell) -> str:
    """Return the cell that a published index gives an identity: `all` where that would label a real person."""
    return str(cell if publishes_attributes(recipe) else Cell(()))
