"""What `facemint evaluate` is made of: its request, its training recipe, who reads faces, and the sources opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from jobs import recipe_file
from jobs.components import COMPONENTS
from jobs.wiring.calibrating import described, recogniser_node
from jobs.wiring.labelled import WORLDS, crop_px, holds_pairs, open_labelled, open_pairs
from jobs.wiring.measuring import dataset_recipe
from jobs.wiring.parts import build, load
from pipeline.domain.errors import RecipeError, StoreError, UserError

if TYPE_CHECKING:
    from pipeline.adapters.trainers.options import TrainingOptions
    from pipeline.domain.ports import Measurer, Recogniser
    from pipeline.domain.recipe import Recipe
    from pipeline.flow.evaluating.evaluate import TestSet
    from pipeline.flow.evaluating.overlap import OverlapRule

Say = Callable[[str, int, int | None, str], object]
"""Is told what is being done, how much of it is done and how much there is (None where unknown), and a remark."""


@dataclass(frozen=True, slots=True)
class _World:
    """What is taken where nobody says otherwise, for faces whose truth is known."""

    recipe: str
    test: str
    fields: tuple[str, ...]
    measure: str


_WORLDS = {
    "phantom": _World(
        "phantom-small",
        "phantom://renders?identities=200&images=6&seed=2026",
        ("perceived_gender_presentation", "est_skin_tone_group"),
        "phantom-attributes",
    ),
    "sketch": _World("sketch-tiny", "sketch://faces?identities=60&images=4&seed=2026", ("shape", "shade"), "sketch"),
}


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What was asked for; see the verb's options."""

    uri: str
    tests: tuple[str, ...] = ()
    against: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    recogniser: str | None = None
    overlap: OverlapRule | None = None
    """None looks for no overlap."""
    fields: tuple[str, ...] | None = None
    """Attributes that make a cell; None takes those that the dataset is balanced by."""
    pairs: int = 6000
    device: str = "cpu"
    loaders: int = 0
    work: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How faces are opened and read, the same for everything that an evaluation touches.

    Attributes:
        options: the training recipe.
        alignment: of every source.
        recogniser: who looks for overlap; None where nobody does.
        batch: rows that recogniser and measurers see.
        fields: attributes that make a cell.
        measurers: between them they read these.
        tests: references of the test sets.
    """

    options: TrainingOptions
    alignment: str
    recogniser: Recogniser | None
    batch: int
    fields: tuple[str, ...]
    measurers: tuple[Measurer, ...]
    tests: tuple[str, ...]


def reading_of(request: EvaluationRequest) -> Reading:
    """Return how a request's faces are read, from its dataset's recipe or from the world that they are of.

    Raises:
        UserError: an unknown recogniser, recipe, option or field, or nothing to test with.
    """
    recipe = recipe_of(request.uri)
    world = _world(request, recipe)
    recogniser, batch = _recogniser(request, recipe, world)
    usual = _WORLDS[world].recipe if world else "phantom-small"
    options = training_options(request.recipe or usual, request.overrides)
    alignment = _alignment(recogniser, world, options)
    fields, measurers = _readers(request, recipe, world)
    tests = request.tests or ((_WORLDS[world].test,) if world else ())
    if not tests:
        raise UserError("--test: nothing to test with; name a verification set (.bin) or faces of other people")
    return Reading(options, alignment, recogniser, batch, fields, measurers, tests)


def training_options(name: str, overrides: Sequence[str]) -> TrainingOptions:
    """Return a training recipe by name, with `key=value` changes; a changed one says so in its name.

    Raises:
        RecipeError: no such recipe, or an option that it does not have.
    """
    from pipeline.adapters.trainers.options import PRESETS, TrainingOptions

    if name not in PRESETS:
        raise RecipeError(f"--recipe {name}: unknown training recipe; known: {', '.join(PRESETS)}")
    raw: dict[str, Any] = json.loads(json.dumps(PRESETS[name]))
    for text in overrides:
        recipe_file.override(raw, text)
    if "name" in raw:
        raise RecipeError("--set name: a recipe's name is not an option; choose one with --recipe")
    try:
        return TrainingOptions(**{"name": f"{name}-changed" if overrides else name, **raw})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in problem["loc"]) or "recipe"
        raise RecipeError(
            f"--set {path}: {problem['msg']}; options: {', '.join(TrainingOptions.model_fields)}"
        ) from None


def open_test(reference: str, reading: Reading, folder: Path, pairs: int, say: Say) -> TestSet:
    """Return a test set: the pairs of a `.bin`, or at most `pairs` drawn from faces of known people.

    Raises:
        UserError: a source that cannot be read, or too small to draw pairs from.
    """
    from pipeline.adapters.trainers.spool import spool_faces, spool_pairs
    from pipeline.domain.verification_pairs import adjacent_pairs, draw_pairs
    from pipeline.flow.evaluating.evaluate import TestSet, read_cells
    from pipeline.flow.evaluating.overlap import MOST_IMAGES

    name, fields = described(reference), reading.fields

    def tell(count: int) -> None:
        say(f"reading {name}", count, None, "")

    if holds_pairs(reference):
        found = open_pairs(reference, alignment=reading.alignment)
        table, same = spool_pairs(found.name, found, folder, tell)
        cells = read_cells(table, fields, reading.measurers, reading.batch, pooled=1) if fields else ()
        return TestSet(replace(table, name=name), adjacent_pairs(same), labelled=False, cell_N=cells)
    table = replace(spool_faces(open_labelled(reference, alignment=reading.alignment), folder, tell), name=name)
    cells = read_cells(table, fields, reading.measurers, reading.batch, pooled=MOST_IMAGES) if fields else ()
    of_person = dict(zip(table.labels_N.tolist(), cells, strict=True)) if cells else {}
    # one list of pairs, whoever is trained and with whatever seed
    return TestSet(table, draw_pairs(table.labels_N, of_person, pairs, 0, name), labelled=True, cell_N=cells)


def recipe_of(reference: str) -> Recipe | None:
    """Return the recipe of a dataset that was made here; None of anything else."""
    if urlsplit(reference).scheme in WORLDS or holds_pairs(reference) or _is_file(reference):
        return None
    from pipeline.adapters.stores import open_store

    store = open_store(reference, writable=False)
    try:
        return dataset_recipe(store) if store.list("recipes/") else None
    except StoreError:
        raise
    except UserError:
        return None


def _is_file(reference: str) -> bool:
    return "://" not in reference and Path(reference).expanduser().is_file()


def _world(request: EvaluationRequest, recipe: Recipe | None) -> str | None:
    """Return the world that the faces are of, where they are of one whose truth is known."""
    judges = [recipe.judge.use] if recipe else [request.recogniser or ""]
    schemes = [urlsplit(r).scheme for r in (request.uri, *request.tests, request.against or "")]
    for world in _WORLDS:
        if world in schemes or any(judge.startswith(f"{world}-") for judge in judges):
            return world
    return None


def _recogniser(request: EvaluationRequest, recipe: Recipe | None, world: str | None) -> tuple[Recogniser | None, int]:
    """Return the recogniser that looks for overlap, and its batch; None where nobody asked for that."""
    if request.recogniser is None and recipe is not None:
        return (build("judge", recipe.judge) if request.overlap else None), recipe.judge.batch  # type: ignore[attr-defined]
    name = request.recogniser or (f"{world}-judge" if world else None)
    if name is None and request.overlap is not None:
        raise UserError(
            "--recogniser: which one shall look for people who are in both training and test? Known: "
            f"{', '.join(sorted(COMPONENTS['judge']))}; or pass --overlap off"
        )
    if name is None:
        return None, 16
    node = recogniser_node(name, ())
    return (build("judge", node) if request.overlap else None), node.batch  # type: ignore[attr-defined]


def _alignment(recogniser: Recogniser | None, world: str | None, options: TrainingOptions) -> str:
    alignment = recogniser.space.alignment if recogniser else WORLDS[world][1] if world else f"crops-{options.side_px}"
    if crop_px(alignment) != options.side_px:
        raise RecipeError(
            f"recipe {options.name} trains on crops of {options.side_px} pixels, and these are aligned as {alignment}; "
            f"pass --set side_px={crop_px(alignment)}"
        )
    return alignment


def _readers(
    request: EvaluationRequest, recipe: Recipe | None, world: str | None
) -> tuple[tuple[str, ...], tuple[Measurer, ...]]:
    """Return the attributes that make a cell, and what reads them; nothing where nobody said how to read them."""
    known = _WORLDS[world] if world else None
    if recipe is not None:
        fields = request.fields if request.fields is not None else tuple(recipe.balance.by)
        measurers = [build("measures", node) for node in recipe.measures]
    elif known is not None:
        fields = request.fields if request.fields is not None else known.fields
        measurers = [build("measures", load(COMPONENTS["measures"][known.measure][0])(use=known.measure))]
    else:
        fields, measurers = request.fields or (), []
    read = sorted({field for m in measurers for field in m.attributes})
    if missing := [field for field in fields if field not in read]:
        raise UserError(f"--by {missing[0]}: no measure reads it; known: {', '.join(read) or 'none'}")
    return fields, tuple(m for m in measurers if set(m.attributes) & set(fields))
