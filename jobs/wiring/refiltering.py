"""Judging a dataset again: its newest recipe with other filters, and the sessions under which that is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import recipe_file
from jobs.wiring.parts import build_parts, check_parts, full_model, open_dataset
from jobs.wiring.sessions import session_on
from pipeline.domain.errors import RecipeError
from pipeline.domain.privacy import holds_people
from pipeline.domain.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import Observer, Store
    from pipeline.execute.run import Published
    from pipeline.execute.stop import Stop

CHANGES = ("filters", "compute")
"""The parts of a recipe that judging again may change."""


def refilter_dry(uri: str, overrides: Sequence[str], filters: str | None) -> dict[str, Any]:
    """Return what the newest version of the dataset at `uri` would come to under other filters; writes nothing."""
    from pipeline.adapters.stores import open_store

    store = open_store(uri, writable=False)
    return refilter_plan(store, changed_recipe(store, overrides, filters))


def refilter_plan(store: Store, recipe: Recipe) -> dict[str, Any]:
    """Do as `refilter_dry` does, on a store that is open already, with a recipe that is changed already."""
    from pipeline.adapters.machine import single_thread
    from pipeline.domain.errors import PlanMismatchError
    from pipeline.execute.generations import earlier_fingerprints, rejudging_step
    from pipeline.execute.mending import require_undamaged
    from pipeline.execute.refiltering import rejudge
    from pipeline.flow.commit import Books
    from pipeline.flow.past import past_of

    single_thread()
    parts = build_parts(recipe, store, None, "refilter")
    step = rejudging_step(parts)
    newest = step.published or step.parent
    if newest is None:
        raise PlanMismatchError(f"{store.uri}: no version is published yet; finish it with `facemint generate` first")
    books = Books(store, parts.prints.fingerprint, earlier=earlier_fingerprints(store)).open()
    require_undamaged(books, newest)
    # of a step that is begun and not published there may be units: no version knows them yet
    known = {n: r for n, r in books.known.items() if int(r.unit["generation"]) <= newest.generation}
    past = past_of(parts, newest.generation + 1, newest, known)
    judged = rejudge(parts, known, past)
    return {
        "uri": store.uri,
        "version": newest.version,
        "images_before": len(past.rows),
        "identities_before": len(past.labels or {}),
        "identities": len(judged.past.labels or {}),
        "open_cells": {str(c): n for c, n in sorted(judged.open_cells.items())},
        **judged.counts,
    }


def refilter_dataset(
    uri: str,
    overrides: Sequence[str],
    filters: str | None,
    observer: Observer,
    *,
    stop: Stop,
    make_missing: bool,
    allow_short: bool,
) -> list[Published]:
    """Publish a version of the dataset at `uri` under other filters, and with `make_missing` one that is filled up."""
    store = open_dataset(uri)
    return refilter_on(store, changed_recipe(store, overrides, filters), observer, stop, make_missing, allow_short)


def refilter_on(
    store: Store, recipe: Recipe, observer: Observer, stop: Stop | None, make_missing: bool, allow_short: bool
) -> list[Published]:
    """Do as `refilter_dataset` does, on a store that is open already, with a recipe that is changed already."""
    from pipeline.execute.generations import require_not_merged
    from pipeline.execute.run import complete, refilter

    if make_missing and holds_people(recipe):
        raise RecipeError("--make-missing: photographs are not made; what is missing comes with `facemint curate`")
    if make_missing:
        # what is made has the measures of the recipe alone, and none that were added beside the segments
        check_parts(recipe, "--make-missing")
        require_not_merged(build_parts(recipe, store, None, "refilter"))
    # a run killed while it made what was missing goes on here, with what it was allowed
    published = [refilter(session_on(recipe, store, observer, stop=stop, allow_short=allow_short))]
    if make_missing:
        filled = complete(session_on(recipe, store, observer, stop=stop, allow_short=allow_short))
        published += [filled] if filled.manifest.version != published[0].manifest.version else []
    return published


def changed_recipe(store: Store, overrides: Sequence[str], filters: str | None) -> Recipe:
    """Return the newest recipe of a dataset with other filters.

    Raises:
        RecipeError: an override changes something else, or names no filter; the filters do not fit the dataset.
        OutputError: no dataset is there.
    """
    from jobs.examine import require_dataset
    from pipeline.execute.generations import generations, read_step

    require_dataset(store)
    raw = read_step(store, generations(store)[-1])["recipe"]
    if filters is not None:
        raw["filters"] = recipe_file.read(Path(filters))
        if not isinstance(raw["filters"], list):
            raise RecipeError(f"--filters {filters}: holds no list; write `- {{use: ...}}` on a line per filter")
    for text in overrides:
        if text.partition("=")[0].split(".")[0] not in CHANGES:
            raise RecipeError(
                f"--set {text}: judging again changes filters alone; it reads --set filters.NAME.KEY=VALUE"
            )
        recipe_file.override(raw, _numbered(raw["filters"], text))
    recipe = parse_recipe(full_model(), raw, "filters")
    check_parts(recipe, "filters", _added(store))
    return recipe


def _added(store: Store) -> tuple[str, ...]:
    """Return the names of the measures that were added beside the segments, as the first unit that has some says."""
    from pipeline.adapters.segments import Segments
    from pipeline.flow.sidecars import additions, read_sidecars

    if not additions(Segments(), store):
        return ()
    for path in store.list("segments/make-"):
        unit = path.removeprefix("segments/").rpartition(".")[0]
        if found := read_sidecars(Segments(), store, unit):
            return tuple(sorted({name for numbers in found.values() for name in numbers}))
    return ()


def _numbered(filters: Any, text: str) -> str:
    """Return an override that names a filter by `use` (or `use:what-it-reads`) as one that names it by its place."""
    path, sign, value = text.partition("=")
    first, _, rest = path.partition(".")
    name, _, option = rest.rpartition(".")
    if first != "filters" or not name or name.isdigit() or not isinstance(filters, list):
        return text
    names = [(f.get("use"), f"{f.get('use')}:{f.get('condition') or f.get('measure')}") for f in filters]
    places = [n for n, known in enumerate(names) if name in known]
    if len(places) != 1:
        said = "several filters have that name" if places else "no filter has that name"
        known = ", ".join(full if sum(u == use for u, _ in names) > 1 else str(use) for use, full in names) or "none"
        raise RecipeError(f"--set {text}: {name!r}: {said}; filters of this dataset: {known}")
    return f"filters.{places[0]}.{option}{sign}{value}"
