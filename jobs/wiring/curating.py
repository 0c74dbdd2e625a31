"""Curations: sources are opened, and decoder, detector and crops put together; a recipe of the kind is checked."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import recipe_check
from jobs.components import COMPONENTS
from jobs.wiring import parts as wired
from jobs.wiring.labelled import crop_px
from jobs.wiring.places import place_of, plain, require_outside
from pipeline.domain.curation import Crop, PhotographsOptions, curation_of
from pipeline.domain.errors import RecipeError, UserError
from pipeline.domain.recipe import Node, Recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import Observer, Store
    from pipeline.execute.session import Session
    from pipeline.execute.settling import Reviewed
    from pipeline.flow.curating.kit import Kit


def completed(raw: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return a curated dataset's recipe with what follows from others: the judge's space, the sizes of templates."""
    asked = curation_of(recipe)
    assert asked is not None
    space = wired.build("judge", recipe.judge).space
    photographs = PhotographsOptions(space=space).model_dump(mode="json")
    whole = {**raw, "generator": photographs}
    images = asked.clean.template_images
    found = recipe.identities
    whole["identities"] = {
        "count": found.count,
        "images_per_identity": found.images_per_identity if found.count else images,
        "sampler": photographs,
        "bank": photographs,
    }
    clean = asked.clean
    apart = clean.merge or clean.drop
    whole["enrol"] = {
        "probes": min(images, 64),
        "separation": apart.model_dump(mode="json") if apart else {"cos": 1.0},
        "consistency": clean.keep.model_dump(mode="json"),
    }
    whole["previews"] = {"per_reason": 0}
    return whole


def check_curation(recipe: Recipe, where: str, added: Sequence[str] = ()) -> None:
    """Refuse what the tree cannot see: licences, parts that do not fit, rates that are not calibrated.

    `added` are measures that a dataset has beside those of its recipe.

    Raises:
        RecipeError: one line.
    """
    asked = curation_of(recipe)
    assert asked is not None
    recipe_check.check_use(recipe, where, wired.component_cards(recipe).values())
    judge, auditor = wired.build("judge", recipe.judge), wired.build("judge", recipe.auditor)
    if auditor.space.weights_sha256 == judge.space.weights_sha256:
        raise RecipeError(
            f"{where}: auditor.use: got {recipe.auditor.use!r}, which is the judge; the auditor is a recogniser that "
            "no filter uses"
        )
    if auditor.space.alignment != judge.space.alignment:
        raise RecipeError(
            f"{where}: auditor.use: reads faces aligned to {auditor.space.alignment!r}, the judge "
            f"{judge.space.alignment!r}; choose recognisers of one alignment"
        )
    if recipe.twins or recipe.conditions:
        raise RecipeError(f"{where}: {'twins' if recipe.twins else 'conditions'}: nothing is made of photographs here")
    _check_crop(asked.crop, where, crop_px(judge.space.alignment))
    measurers = [wired.build("measures", node) for node in recipe.measures]
    recipe_check.check_alignments(where, measurers, judge.space.alignment)
    names = recipe_check.check_measures(where, measurers)
    _check_minors(recipe, where, asked.minors, names)
    screen = wired.screen_of(recipe)
    names = (*names, *photograph_names(recipe), *(screen.measures if screen else ()))
    names += tuple(n for n in added if n not in names)
    # how many there are is found out by cleaning: no share is too small beforehand
    many = recipe.identities.model_copy(update={"count": 1_000_000})
    recipe_check.check_balance(recipe.model_copy(update={"identities": many}), where, names, wired.targets_of(recipe))
    from pipeline.flow.curating.clean import limits_of

    limits = recipe_check.with_path(f"{where}: curate.clean", functools.partial(limits_of, judge, asked.clean))
    if limits.merge_cos < limits.drop_cos <= 1.0:
        raise RecipeError(
            f"{where}: curate.clean.drop: a cosine of {limits.drop_cos:.3f}, stricter than clean.merge, which is "
            f"{limits.merge_cos:.3f}: what is merged cannot be dropped; give drop a lower cosine or a larger rate"
        )
    wired.check_filters_of(recipe, where, judge, names, screen)


def photograph_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the numbers that a face has of its photograph, where one is found in it."""
    from pipeline.flow.curating.photographs import NAMES

    return NAMES if recipe.align is not None else ()


def _check_crop(asked: Crop | None, where: str, side_px: int) -> None:
    """Refuse stored images of which models would see less than they read."""
    inner = asked.px / (1.0 + 2.0 * asked.margin) if asked else side_px
    if asked and inner < side_px:
        least = math.ceil(side_px * (1.0 + 2.0 * asked.margin))
        raise RecipeError(
            f"{where}: curate.crop.px: got {asked.px}, of which {inner:.0f} lie within a margin of {asked.margin:g}, "
            f"and the judge reads {side_px}; give {least} or more, or a smaller margin"
        )


def _check_minors(recipe: Recipe, where: str, policy: str, names: tuple[str, ...]) -> None:
    judged = any(f.use == "apparent-minor" for f in recipe.filters)
    estimates = [n for n in names if n.startswith("apparent_age")]
    if policy != "refuse" or not estimates or judged:
        return
    years = next((n for n in estimates if "=" not in n), None)
    option = f"years: {years}" if years else f"age_group: {estimates[0].partition('=')[0]}"
    raise RecipeError(
        f"{where}: faces that look like minors are to be refused, and an age is estimated, but no filter reads it: "
        f"add `- {{use: apparent-minor, {option}}}` to filters, or state curate.minors: keep"
    )


def open_kit(recipe: Recipe) -> Kit:
    """Return what curating needs beside the parts of every run.

    Raises:
        UserError: a source is not there.
    """
    from pipeline.adapters.codec import PhotographCodec
    from pipeline.adapters.decoding import GuardedDecoder
    from pipeline.adapters.review_page import review_page
    from pipeline.adapters.segments.grouped import GroupedParquet
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.domain.intake import DecodeLimits
    from pipeline.flow.curating.kit import Kit

    asked = curation_of(recipe)
    assert asked is not None
    nodes: tuple[Any, ...] = recipe.sources  # type: ignore[attr-defined]
    sources: dict[str, Any] = {}
    grounds: dict[str, Mapping[str, str]] = {}
    places: dict[tuple[str, str], str] = {}
    for node in nodes:
        name = node.name or plain(node.path)
        if name in sources:
            raise RecipeError(f"sources: {name} is named twice; keep one")
        place = node.use, place_of(node.path)
        if place in places:
            raise RecipeError(f"sources: {places[place]} and {node.path} are one place; keep one")
        places[place] = node.path
        sources[name] = _source(node)
        grounds[name] = {"licence": node.licence, "lawful_basis": node.lawful_basis}
    decoding = asked.decoding
    judge = wired.build("judge", recipe.judge)
    limits = DecodeLimits(
        most_px=decoding.most_px,
        longest_side_px=decoding.longest_side_px,
        shortest_side_px=decoding.shortest_side_px,
    )
    return Kit(
        sources=sources,
        licences=grounds,
        decoder=GuardedDecoder(limits, first_frame=decoding.animations == "first-frame"),
        detector=wired.build("detector", recipe.align.detector) if recipe.align is not None else None,
        crop=functools.partial(_cropped, judge.space.alignment, asked.crop),
        encoder=PhotographCodec(recipe.encoding),  # type: ignore[arg-type]
        tables=ParquetTables(),
        grouped=GroupedParquet(judge.space.dimensions),
        review_page=review_page,
    )


def _cropped(alignment: str, asked: Crop | None, image_HWC: Any, points: Any) -> Any:
    from pipeline.adapters.cropping import aligned_crop, wide_crop
    from pipeline.domain.landmarks import alignment as template

    side = asked.px if asked else crop_px(alignment)
    if points is None:
        return image_HWC if image_HWC.shape == (side, side, 3) else None
    if asked:
        return wide_crop(image_HWC, points, template(alignment), side, asked.margin)
    return aligned_crop(image_HWC, points, template(alignment), side)


def _source(node: Node) -> Any:
    from pipeline.adapters.sources.files import LocalFiles, StoreFiles
    from pipeline.adapters.stores import open_store

    path: str = node.path  # type: ignore[attr-defined]
    part = wired.load(COMPONENTS["sources"][node.use][1])
    if "://" in path:
        return part(node, StoreFiles(open_store(path, writable=False)))
    return part(node, LocalFiles(Path(path).expanduser(), links_out=getattr(node, "links_out", False)))


def open_curation(recipe: Recipe, uri: str, observer: Observer, **options: Any) -> tuple[Session, Kit]:
    """Take the lease of the dataset at `uri` and open the recipe's sources; options are those of `session_on`.

    Raises:
        RecipeError: the recipe is none of kind: curate.
        UserError: a source is not there.
        LeaseHeldError: another run holds the dataset.
    """
    from pipeline.adapters.stores import open_store

    if curation_of(recipe) is not None:
        require_outside(recipe, uri)
    return curation_on(recipe, open_store(uri), observer, **options)


def curation_on(recipe: Recipe, store: Store, observer: Observer, **options: Any) -> tuple[Session, Kit]:
    """Do as `open_curation` does, on a store that is open already."""
    from jobs.wiring.sessions import session_on

    if curation_of(recipe) is None:
        raise RecipeError(f"{recipe.name}: is of kind: {recipe.kind}; `curate` runs kind: curate, `generate` mints")
    kit = open_kit(recipe)
    return session_on(recipe, store, observer, **options), kit


def reviewed_of(path: str | None, *, hold: bool) -> Reviewed:
    """Return what people decided, from a file of this machine.

    Raises:
        UserError: no such file, or not a table of decisions.
    """
    from pipeline.domain.review import decisions_of
    from pipeline.execute.settling import Reviewed

    if path is None:
        return Reviewed(hold=hold)
    try:
        table = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"--decisions {path}: {error.strerror}; give the review queue back as CSV") from None
    return Reviewed(decisions_of(table, path), table, hold)


def plan_curation(recipe: Recipe, uri: str | None, workers: int | None) -> dict[str, Any]:
    """Return what `facemint plan` shows of a curation: what its sources hold, and about how long it takes.

    Raises:
        UserError: a source is not there.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import MemoryStore, open_store
    from pipeline.execute.afresh import begins_afresh
    from pipeline.execute.generations import generations
    from pipeline.flow.curating.forecast import forecast

    single_thread()
    if uri is not None:
        require_outside(recipe, uri)
    store = MemoryStore("an empty place") if uri is None else open_store(uri, writable=False)
    parts = wired.build_parts(recipe, store, None, "plan")
    kit = open_kit(recipe)
    begun = generations(store)
    # what ended with nobody is begun afresh where it can end otherwise, and then everything is listed again
    found = forecast(parts, kit, 0 if begins_afresh(parts, kit) else 1 + max(begun, default=-1))
    count = workers or recipe.compute.workers or os.cpu_count() or 1
    hours = None if found.each_s is None else found.each_s * found.inputs / count / 3600
    return {
        "recipe": recipe.name,
        "uri": uri,
        **dataclasses.asdict(found),
        "workers": count,
        "hours": hours,
        "thresholds": dataclasses.asdict(_levels(parts.judge, recipe)),
    }


def _levels(judge: Any, recipe: Recipe) -> Any:
    from pipeline.flow.curating.clean import limits_of

    asked = curation_of(recipe)
    assert asked is not None
    return limits_of(judge, asked.clean)
