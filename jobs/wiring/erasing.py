"""Erasing from a dataset: what goes is shown, and with a session of the dataset's own recipe it is done."""

from __future__ import annotations

import dataclasses
import functools
import operator
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.wiring.given_face import face_given
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
    from pipeline.execute.erasing import Erased
    from pipeline.execute.stop import Stop
    from pipeline.flow.erase.faces import Matches
    from pipeline.flow.erase.inputs import Tables
    from pipeline.flow.erase.plan import Erasure, Wanted
    from pipeline.flow.parts import Parts

LARGEST_bytes = 64 << 20
"""A file larger than this is no face crop and is not read."""
FOLDERS = ("segments", "audits", "enrolled", "previews", "measures", "versions", "exports", "private", "refuted")


def wanted_of(recipe: Recipe, identities: Sequence[int], images: Sequence[str], sources: Sequence[str]) -> Wanted:
    """Return what is asked for, as numbers and keys.

    Raises:
        UserError: the dataset has no sources, or one is no row of the file that it has.
    """
    from pipeline.flow.erase.plan import Wanted

    sampler = recipe.identities.sampler
    if sources and sampler.use != "files" and not holds_people(recipe):
        raise UserError(
            f"--source {sources[0]}: this dataset has no sources, its identity vectors are drawn by {sampler.use!r} "
            "and of nobody; give --identity, --image or --face"
        )
    if odd := [s for s in sources if not s.isdecimal()]:
        raise UserError(
            f"--source {odd[0]}: the sources of this dataset are rows of {getattr(sampler, 'path', 'a file')}, by "
            "their number from 0"
        )
    return Wanted(tuple(identities), tuple(images), tuple(int(s) for s in sources))


def _numbered(store: Store, recipe: Recipe, sources: Sequence[str], labels: Sequence[str] = ()) -> list[str]:
    """Return the numbers of a curated dataset's inputs that are named: by path, folder (ending in `/`), or label.

    Raises:
        UserError: no input lies there, or none has such a label.
    """
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.domain.privacy import SOURCES

    if labels and not holds_people(recipe):
        raise UserError(
            f"--label {labels[0]}: images were made here, and no source gave them a name; give --identity, --image or "
            "--face"
        )
    if not labels and (not holds_people(recipe) or all(s.isdecimal() for s in sources)):
        return list(sources)
    rows: dict[str, list[int]] = {s: [int(s)] if s.isdecimal() else [] for s in sources}
    # sources give labels in this normal form
    under: dict[str, list[int]] = {unicodedata.normalize("NFC", label): [] for label in labels}
    for path in store.list(SOURCES):
        listed = ParquetTables().read(store, path, ["row", "path", "member", "label"])
        columns = (listed["row"].tolist(), listed["path"], listed["member"], listed["label"])
        for row, place, member, label in zip(*columns, strict=True):
            if label in under:
                under[label].append(row)
            lies = place.decode("utf-8", "surrogateescape") + (f"/{member}" if member else "")
            for name, found in rows.items():
                if not name.isdecimal() and (lies.startswith(name) if name.endswith("/") else lies == name):
                    found.append(row)
    if nowhere := [name for name, found in rows.items() if not found]:
        raise UserError(
            f"--source {nowhere[0]}: no input lies there; give its path below the source, a folder of it with a `/` "
            "behind, or the number that it has under private/sources/"
        )
    if unknown := [label for label, found in under.items() if not found]:
        raise UserError(
            f"--label {unknown[0]}: no source has an image under this name; give it as the source does, or the path of "
            "an image with --source"
        )
    return [str(row) for row in sorted({row for found in (*rows.values(), *under.values()) for row in found})]


def erase_dry(
    uri: str,
    identities: Sequence[int],
    images: Sequence[str],
    sources: Sequence[str],
    labels: Sequence[str],
    face: str | None,
) -> dict[str, Any]:
    """Return what an erasure from the dataset at `uri` would come to; writes nothing."""
    from pipeline.adapters.stores import open_store

    store = open_store(uri, writable=False)
    recipe = dataset_recipe(store)
    numbers = _numbered(store, recipe, sources, labels)
    return erase_plan(store, recipe, wanted_of(recipe, identities, images, numbers), face)


def erase_plan(store: Store, recipe: Recipe, wanted: Wanted, face: str | None = None) -> dict[str, Any]:
    """Do as `erase_dry` does, on a store that is open already."""
    from pipeline.adapters.machine import single_thread
    from pipeline.execute.erasing import plan_here
    from pipeline.flow.erase.journal import unfinished

    single_thread()
    parts = build_parts(recipe, store, None, "erase")
    begun = unfinished(store)
    if begun is not None:
        # what is half done cannot be planned upon; it is finished first
        return {"uri": store.uri, "unfinished": begun.path, "erased": False}
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


def erase_dataset(
    uri: str,
    identities: Sequence[int],
    images: Sequence[str],
    sources: Sequence[str],
    labels: Sequence[str],
    face: str | None,
    observer: Observer,
    *,
    stop: Stop,
) -> dict[str, Any]:
    """Erase from the dataset at `uri`, finishing first what was begun; return what was done.

    Raises:
        UserError: there is nothing of what is asked for, or a face does not confirm an identity that it is given with.
        LeaseHeldError: a run is at work.
    """
    store = open_dataset(uri)
    recipe = dataset_recipe(store)
    wanted = wanted_of(recipe, identities, images, _numbered(store, recipe, sources, labels))
    return erased_facts(store, erase_on(store, recipe, wanted, observer, stop=stop, face=face))


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
    from pipeline.flow.versions import image_rows, read_manifest, versions

    path = Path(face)
    try:
        if path.stat().st_size > LARGEST_bytes:
            raise ValueError(f"at most {LARGEST_bytes:,} bytes are read")
        picture = face_given(parts.recipe, parts.judge.space.alignment, path.read_bytes())
    except OSError as error:
        raise UserError(f"--face {face}: {error.strerror or type(error).__name__}; name an image file") from None
    except ValueError as error:
        raise UserError(f"--face {face}: {error}") from None
    there = versions(parts.store)
    if not there:
        raise UserError(f"{parts.store.uri}: no version is published yet, so there is nobody to compare a face with")
    newest = read_manifest(parts.store, there[-1])
    return match_face(parts, image_rows(parts.segments, parts.store, newest), picture)


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
    from pipeline.execute.erasing import what_stays
    from pipeline.flow.splits import read_split, split_names
    from pipeline.flow.versions import image_rows, published_rows, read_manifest, versions

    store = parts.store
    by_version = {}
    for version in versions(store) if plan.tombstones else ():
        manifest = read_manifest(store, version)
        if len(manifest.tombstones) == len(plan.newest.tombstones):
            rows = published_rows(parts.segments, store, manifest)
            by_version[version] = sum(plan.gone.takes(row.key) for row in rows)
    images = Counter(row.identity for row in plan.rows)
    labels = {row.identity: row.label for row in plan.rows}
    rewritten = [f for r in (*plan.touched, *plan.enrolled) for f in r.files]
    paths = {f.path for f in rewritten}
    doomed = what_stays(parts, plan).doomed(store) if plan.tombstones else []
    removed = [e for e in doomed if e.path not in paths]
    tables, who = _tables(), plan.gone.identities
    splits = [n for n in split_names(store) if who & read_split(store, tables, n).part_of.keys()]
    return {
        "version": plan.newest.version,
        "already": plan.already,
        "tombstones": plan.tombstones.to_list(),
        "identities": [
            {"identity": o, "cell": str(m.cell), "label": labels.get(o), "images": images[o]}
            for o, m in sorted(plan.members.items())
        ],
        "images_by_version": by_version,
        "identities_left": plan.stay,
        "real_people": of_real_people(plan.newest),
        "stay_with_others": _stay_with_others(
            image_rows(parts.segments, store, plan.newest), plan.tombstones, plan.gone.takes
        ),
        "rewritten": [{"path": f.path, "bytes": f.bytes} for f in rewritten],
        "removed": {
            folder: {
                "files": sum(e.path.startswith(f"{folder}/") for e in removed),
                "bytes": sum(e.bytes for e in removed if e.path.startswith(f"{folder}/")),
            }
            for folder in FOLDERS
            if any(e.path.startswith(f"{folder}/") for e in removed)
        },
        "exports": sorted({"/".join(e.path.split("/")[:3]) for e in removed if e.path.startswith("exports/")}),
        "splits": splits,
    }


def _stay_with_others(
    rows: Sequence[IndexRow], gone: Tombstones, takes: Callable[[str], bool] = lambda _: False
) -> list[dict[str, int]]:
    """Return who loses single images and stays, with how many images they keep."""
    stay = Counter(row.identity for row in rows if not takes(row.key))
    return [{"identity": o, "images": stay[o]} for o in sorted({o for o, *_ in gone.images}) if stay[o]]


def _tables() -> Any:
    from pipeline.adapters.segments.plain import ParquetTables

    return ParquetTables()
