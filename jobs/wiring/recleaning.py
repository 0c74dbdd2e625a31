"""Cleaning a curated set again by a recogniser that was added to it: numbers beside the segments, then a refilter."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.wiring.measuring import addition_of, dataset_recipe
from jobs.wiring.parts import build_parts, open_dataset
from jobs.wiring.refiltering import changed_recipe, refilter_on
from pipeline.domain.curation import Cleaning, curation_of
from pipeline.domain.errors import UserError
from pipeline.domain.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import Observer, Store
    from pipeline.execute.recleaning import Asked, Recleaned
    from pipeline.execute.run import Published
    from pipeline.execute.stop import Stop
    from pipeline.flow.parts import Parts


def reclean_dry(uri: str, by: str, levels: Mapping[str, float | None]) -> dict[str, Any]:
    """Return what the newest version of the dataset at `uri` would come to; writes nothing."""
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import open_store

    single_thread()
    store = open_store(uri, writable=False)
    parts = build_parts(dataset_recipe(store), store, None, "reclean")
    asked, found = _found(parts, by, levels)
    return _facts(asked, found)


def reclean_dataset(
    uri: str, by: str, levels: Mapping[str, float | None], observer: Observer, *, stop: Stop, replace: bool = False
) -> tuple[dict[str, Any], Published]:
    """Clean the dataset at `uri` by a recogniser, and publish what stays; return what was found, and the version."""
    return reclean_on(open_dataset(uri), by, levels, observer, stop=stop, replace=replace)


def reclean_on(
    store: Store,
    by: str,
    levels: Mapping[str, float | None],
    observer: Observer,
    *,
    stop: Stop | None = None,
    replace: bool = False,
) -> tuple[dict[str, Any], Published]:
    """Do as `reclean_dataset` does, on a store that is open already.

    Args:
        store: the dataset.
        by: the recogniser, as it was added.
        levels: `link_cos`, `keep_cos` and `same_cos`; None for what the recipe says.
        observer: is told what happens.
        stop: through which the run can be asked to end.
        replace: clean the newest version, and make numbers anew that stand.

    Raises:
        UserError: no such recogniser was added, nobody says how near is near, or its numbers are in use.
        LeaseHeldError: another run holds the dataset.
    """
    from pipeline.adapters.machine import SystemClock, holder, is_dead, single_thread
    from pipeline.execute.recleaning import write_numbers
    from pipeline.flow.commit import receipts
    from pipeline.flow.erase.journal import require_none_unfinished
    from pipeline.flow.heartbeat import Heartbeat, Progress
    from pipeline.flow.lease import acquire

    recipe = dataset_recipe(store)
    single_thread()
    run = uuid.uuid4().hex[:12]
    lease = acquire(store, SystemClock(), holder(run), is_dead)
    with Heartbeat(lease, store, SystemClock(), Progress(SystemClock(), lease.holder)):
        require_none_unfinished(store)
        parts = build_parts(recipe, store, lease.number, run)
        observer.event("stage", name=f"clean by {by}", total=1, done=0)
        asked, found = _found(parts, by, levels, replace=replace)
        if replace and _is_judged_by(recipe, asked):
            raise UserError(
                f"{store.uri}: the newest version is judged by these numbers; take that back first, with `facemint "
                "refilter` and filters that do not read them"
            )
        write_numbers(parts, receipts(store, "make-"), asked, found, replace=replace)
        observer.event("step")
    changed = changed_recipe(store, [_filters(recipe, asked)], None)
    published = refilter_on(store, changed, observer, stop, make_missing=False, allow_short=False)[0]
    return _facts(asked, found), published


def _filters(recipe: Recipe, asked: Asked) -> str:
    """Return the override that adds the filter by which the set is judged again, where it is not there yet."""
    nodes = [node.model_dump(mode="json") for node in recipe.filters]
    if not _is_judged_by(recipe, asked):
        nodes.append({"use": "range", "measure": asked.measures[0], "min": 0.5})
    return f"filters={json.dumps(nodes)}"


def _is_judged_by(recipe: Recipe, asked: Asked) -> bool:
    return any(getattr(node, "measure", None) == asked.measures[0] for node in recipe.filters)


def _found(
    parts: Parts, by: str, levels: Mapping[str, float | None], *, replace: bool = False
) -> tuple[Asked, Recleaned]:
    from pipeline.execute.recleaning import reclean
    from pipeline.flow.versions import image_rows, read_manifest

    asked = _asked(parts, by, levels, replace=replace)
    manifest = read_manifest(parts.store, asked.version)
    return asked, reclean(parts, image_rows(parts.segments, parts.store, manifest), asked)


def _asked(parts: Parts, by: str, levels: Mapping[str, float | None], *, replace: bool) -> Asked:
    """Return by whom and how strictly, from what was added, what is asked for and what the recipe says."""
    from pipeline.execute.recleaning import Asked
    from pipeline.flow.sidecars import additions
    from pipeline.flow.versions import versions

    store, curated = parts.store, curation_of(parts.recipe)
    if curated is None:
        raise UserError(f"{store.uri}: was minted, and its labels are true by making; reclean is for curated sets")
    published = versions(store)
    if not published:
        raise UserError(f"{store.uri}: no version is published yet; finish it with `facemint curate` first")
    there = additions(parts.segments, store)
    known = sorted(name for name, about in there.items() if about["space"])
    if by not in known:
        raise UserError(
            f"--by {by}: no such recogniser was added; {', '.join(known) or 'none was'}; add one with "
            "`facemint measure URI --add NAME`"
        )
    about = there[by]
    found = _levels(parts.recipe, about, curated.clean, levels)
    # a run that was killed goes on with the version that it had begun with
    before = None if replace else there.get(f"main-cluster-{by}")
    begun = str(before["options"]["version"]) if before else ""
    version = begun if begun in published else published[-1]
    return Asked(by, about["model"], version, *found, min_images=curated.clean.min_images)


def _levels(
    recipe: Recipe, about: Mapping[str, Any], clean: Cleaning, levels: Mapping[str, float | None]
) -> tuple[float, float, float]:
    """Return the three thresholds as cosines of the recogniser's own space."""
    from pipeline.flow.curating.clean import limits_of

    given = tuple(levels.get(name) for name in ("link_cos", "keep_cos", "same_cos"))
    link, keep, same = given
    if link is not None and keep is not None:
        return link, keep, 2.0 if same is None else same
    wanted = clean.model_copy(update={"drop": None})
    rates = (wanted.link, wanted.keep, *([wanted.merge] if wanted.merge else []))
    if any(rate.fmr is None for rate in rates):
        raise UserError(
            f"--by {about['name']}: the recipe's thresholds are cosines of the judge and not of this recogniser; "
            "give --link-cos and --keep-cos (and --same-cos to have look-alikes reported)"
        )
    part: Any = addition_of(recipe, about["options"]).part
    limits = limits_of(part, wanted)
    return (
        limits.link_cos if link is None else link,
        limits.keep_cos if keep is None else keep,
        limits.merge_cos if same is None else same,
    )


def _facts(asked: Asked, found: Recleaned) -> dict[str, Any]:
    return {
        "by": asked.by,
        "version": asked.version,
        "link_cos": asked.link_cos,
        "keep_cos": asked.keep_cos,
        "same_cos": asked.same_cos if asked.same_cos <= 1.0 else None,
        "filter": asked.measures[0],
        **found.facts,
    }
