"""Erasing from a dataset: what goes is shown, and with a session of the dataset's own recipe it is done."""

from __future__ import annotations

import dataclasses
import functools
import operator
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jobs.wiring.erasure_request import ErasureRequest, wanted_of
from jobs.wiring.given_face import face_given
from jobs.wiring.local_files import LARGEST_IMAGE_bytes, read_whole
from jobs.wiring.measuring import dataset_recipe
from jobs.wiring.parts import build_parts, open_dataset
from jobs.wiring.sessions import session_on
from pipeline.domain.errors import UserError
from pipeline.domain.privacy import holds_people, of_real_people
from pipeline.domain.tombstones import Tombstones

if TYPE_CHECKING:
    from pipeline.domain.manifest import IndexRow
    from pipeline.domain.ports import Observer, Store
    from pipeline.domain.recipe import Recipe
    from pipeline.domain.records import UInt8
    from pipeline.execute.erasing import Erased
    from pipeline.execute.stop import Stop
    from pipeline.flow.erase.faces import Matches
    from pipeline.flow.erase.inputs import Tables
    from pipeline.flow.erase.plan import Erasure, Wanted
    from pipeline.flow.parts import Parts

FOLDERS = ("segments", "audits", "enrolled", "previews", "measures", "versions", "exports", "private", "refuted")


def erase_dry(uri: str, asked: ErasureRequest) -> dict[str, Any]:
    """Return what an erasure from the dataset at `uri` would come to; writes nothing."""
    from pipeline.adapters.stores import open_store

    store = open_store(uri, writable=False)
    recipe = dataset_recipe(store)
    return erase_plan(store, recipe, wanted_of(store, recipe, asked), asked.face)


def erase_plan(store: Store, recipe: Recipe, wanted: Wanted, face: str | None = None) -> dict[str, Any]:
    """Do as `erase_dry` does, on a store that is open already."""
    from pipeline.adapters.machine import single_thread
    from pipeline.execute.erasing import plan_here
    from pipeline.flow.erase.journal import unfinished

    begun = unfinished(store)
    if begun is not None:
        # what is half done cannot be planned upon; it is finished first
        return {"uri": store.uri, "unfinished": begun.path, "erased": False}
    single_thread()
    parts = build_parts(recipe, store, None, "erase")
    facts: dict[str, Any] = {"uri": store.uri, "unfinished": None, "erased": False}
    if face is not None:
        found = _matches(parts, face)
        _require_confirmed(found, wanted, face)
        facts["face"] = _face_facts(found)
    return {**facts, **_plan_facts(parts, plan_here(parts, wanted, _curated(parts)))}


def _curated(parts: Parts) -> Tables | None:
    """Return what reads and writes a curated dataset's tables; None for a minted one, which has none."""
    from pipeline.adapters.segments.grouped import GroupedParquet
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.flow.erase.inputs import Tables

    if not holds_people(parts.recipe):
        return None
    return Tables(ParquetTables(), GroupedParquet(parts.judge.space.dimensions))


def erase_dataset(uri: str, asked: ErasureRequest, observer: Observer, *, stop: Stop) -> dict[str, Any]:
    """Erase from the dataset at `uri`, finishing first what was begun; return what was done.

    Raises:
        UserError: there is nothing of what is asked for, or a face does not confirm an identity that it is given with.
        LeaseHeldError: a run is at work.
    """
    store = open_dataset(uri)
    recipe = dataset_recipe(store)
    wanted = wanted_of(store, recipe, asked)
    return erased_facts(store, erase_on(store, recipe, wanted, observer, stop=stop, face=asked.face))


def erase_on(
    store: Store,
    recipe: Recipe,
    wanted: Wanted,
    observer: Observer,
    *,
    stop: Stop | None = None,
    face: str | None = None,
) -> Erased:
    """Do as `erase_dataset` does, on a store that is open already."""
    from pipeline.adapters.machine import single_thread
    from pipeline.execute.erasing import erase
    from pipeline.flow.erase.journal import unfinished

    single_thread()
    begun = unfinished(store)
    if not wanted and begun is None:
        raise UserError("nothing to erase: give --identity, --image or --source; no erasure of this dataset is open")
    # where one is open, its identities are gone from the index: the face confirmed them when it was begun
    if face is not None and begun is None:
        _require_confirmed(_matches(build_parts(recipe, store, None, "erase"), face), wanted, face)
    # workers are not asked: what stays is copied; the recipe that is stored says what it said
    here = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"executor": "inline"})})
    session = session_on(here, store, observer, stop=stop)
    asked = session.parts.recipe.model_copy(update={"compute": recipe.compute})
    session = dataclasses.replace(session, parts=dataclasses.replace(session.parts, recipe=asked))
    return erase(session, wanted, uuid.uuid4().hex, _curated(session.parts))


def erased_facts(store: Store, done: Erased) -> dict[str, Any]:
    """Return what was done, JSON-ready."""
    from pipeline.adapters.segments import Segments
    from pipeline.flow.versions import image_rows

    manifest = done.published.manifest
    gone = functools.reduce(operator.or_, (j.tombstones for j in done.journals), Tombstones())
    return {
        "uri": store.uri,
        "erased": True,
        "already": done.already,
        "version": manifest.version,
        "digest": manifest.digest,
        "identities": manifest.counts["identities"],
        "images": manifest.counts["images"],
        "tombstones": manifest.tombstones.to_list(),
        "object_versions": list(done.versions_kept),
        "real_people": of_real_people(manifest),
        "stay_with_others": _stay_with_others(image_rows(Segments(), store, manifest), gone) if gone else [],
        "erasures": [
            {"log": j.path, "identities": len(j.tombstones.identities), "images": len(j.tombstones.images), **removed}
            for j, removed in zip(done.journals, done.removed, strict=True)
        ],
    }


def _matches(parts: Parts, face: str) -> Matches:
    from pipeline.flow.erase.faces import match_face
    from pipeline.flow.versions import image_rows, read_newest

    picture = _picture(parts, face)
    newest = read_newest(parts.store)
    if newest is None:
        raise UserError(f"{parts.store.uri}: no version is published yet, so there is nobody to compare a face with")
    return match_face(parts, image_rows(parts.segments, parts.store, newest), picture)


def _picture(parts: Parts, face: str) -> UInt8:
    """Return the face that a file holds, as the dataset's judge reads faces; raises UserError where there is none."""
    try:
        data = read_whole(face, LARGEST_IMAGE_bytes, "name an image file")
        return face_given(parts.recipe, parts.judge.space.alignment, data)
    except ValueError as error:
        raise UserError(f"--face {face}: {error}") from None


def _require_confirmed(found: Matches, wanted: Wanted, face: str) -> None:
    """Refuse to erase somebody for a face that does not reach the threshold, or whom it says nothing of."""
    if wanted.images or wanted.sources:
        raise UserError("--face goes with --identity alone: it confirms who is named; leave --image and --source out")
    if odd := sorted({*wanted.identities} - found.confirmed):
        raise UserError(
            f"--face {face}: identity {odd[0]} does not reach the 1:N threshold for this face; leave --identity out to "
            "see who does, or --face to erase by number"
        )


def _face_facts(found: Matches) -> dict[str, Any]:
    raw = dataclasses.asdict(found)
    return {**raw, "nearest": [dict(m) for m in raw["nearest"]], "confirmed": sorted(found.confirmed)}


def _plan_facts(parts: Parts, plan: Erasure) -> dict[str, Any]:
    from pipeline.flow.versions import image_rows

    images = Counter(row.identity for row in plan.rows)
    labels = {row.identity: row.label for row in plan.rows}
    rows = image_rows(parts.segments, parts.store, plan.newest)
    return {
        "version": plan.newest.version,
        "already": plan.already,
        "tombstones": plan.tombstones.to_list(),
        "identities": [
            {"identity": o, "cell": str(m.cell), "label": labels.get(o), "images": images[o]}
            for o, m in sorted(plan.members.items())
        ],
        "images_by_version": _images_by_version(parts, plan),
        "identities_left": plan.stay,
        "real_people": of_real_people(plan.newest),
        "stay_with_others": _stay_with_others(rows, plan.tombstones, plan.gone.takes),
        **_file_facts(parts, plan),
        "splits": _splits(parts.store, plan),
    }


def _images_by_version(parts: Parts, plan: Erasure) -> dict[str, int]:
    """Return how many images go from each version that no erasure has retired."""
    from pipeline.flow.versions import published_rows, read_manifests

    if not plan.tombstones:
        return {}
    standing = [m for m in read_manifests(parts.store) if len(m.tombstones) == len(plan.newest.tombstones)]
    return {
        m.version: sum(plan.gone.takes(row.key) for row in published_rows(parts.segments, parts.store, m))
        for m in standing
    }


def _file_facts(parts: Parts, plan: Erasure) -> dict[str, Any]:
    """Return which files are written anew, and how many are removed without that."""
    from pipeline.execute.erasing import what_stays

    rewritten = [f for r in (*plan.touched, *plan.enrolled) for f in r.files]
    anew = {f.path for f in rewritten}
    doomed = what_stays(parts, plan).doomed(parts.store) if plan.tombstones else []
    removed = [e for e in doomed if e.path not in anew]
    sizes = {folder: [e.bytes for e in removed if e.path.startswith(f"{folder}/")] for folder in FOLDERS}
    return {
        "rewritten": [{"path": f.path, "bytes": f.bytes} for f in rewritten],
        "removed": {folder: {"files": len(held), "bytes": sum(held)} for folder, held in sizes.items() if held},
        "exports": sorted({"/".join(e.path.split("/")[:3]) for e in removed if e.path.startswith("exports/")}),
    }


def _splits(store: Store, plan: Erasure) -> list[str]:
    """Return the splits in which somebody is who goes."""
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.flow.splits import read_split, split_names

    who, tables = plan.gone.identities, ParquetTables()
    return [name for name in split_names(store) if who & read_split(store, tables, name).part_of.keys()]


def _stay_with_others(
    rows: Sequence[IndexRow], gone: Tombstones, takes: Callable[[str], bool] = lambda _: False
) -> list[dict[str, int]]:
    """Return who loses single images and stays, with how many images they keep."""
    stay = Counter(row.identity for row in rows if not takes(row.key))
    return [{"identity": o, "images": stay[o]} for o in sorted({o for o, *_ in gone.images}) if stay[o]]
