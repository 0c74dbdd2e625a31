"""Publishing: an index over unchanged segments, documents, and last the manifest, created if absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry, IndexRow, Manifest, Receipt, canonical_json, sha256_hex, version_name
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import PRIVATE, published_cell, use_of
from pipeline.domain.records import Cell
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.twins import is_twin
from pipeline.domain.unit import Stage
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step
from pipeline.flow.rounds import Standing
from pipeline.flow.versions import read_manifest


def index_rows(parts: Parts, past: Past, standing: Standing, cells: Mapping[int, Cell]) -> list[IndexRow]:
    """Return the index without twins: the parent's rows as they are, their identities' new images, new identities.

    A label never changes: new identities come after the parent's, in ordinal order.

    Args:
        parts: the ports; the audits of the units are read.
        past: what is published.
        standing: who is filled, by which units.
        cells: ordinal -> cell.
    """
    labels = dict(past.labels or {})
    grown = {o for o in labels if o in standing.unit_of and o not in standing.withdrawn}
    labels |= {ordinal: label for label, ordinal in enumerate(sorted(standing.filled), start=past.next_label)}
    wanted = grown | set(standing.filled)
    rows = list(past.rows)
    for unit in sorted({standing.unit_of[o] for o in wanted}):
        columns = parts.segments.read_columns(parts.store, unit, ["key", "identity", "accepted"])
        found = parts.segments.read_audit(parts.store, unit)
        places = dict(zip(found.keys, zip(found.offset_N.tolist(), found.length_N.tolist(), strict=True), strict=True))
        for n in np.flatnonzero(columns["accepted"]):
            ordinal = int(columns["identity"][n])
            key = columns["key"][n]
            if ordinal in wanted and standing.unit_of[ordinal] == unit and not is_twin(key):
                cell = published_cell(parts.recipe, cells[ordinal])
                rows.append(IndexRow(labels[ordinal], key, ordinal, cell, unit, *places[key]))
    return sorted(rows)


@dataclass(frozen=True, slots=True)
class About:
    """What the manifest says beside the files: `counts`, `figures` and `models`, each JSON-ready."""

    counts: Mapping[str, Any]
    figures: Mapping[str, Any]
    models: Mapping[str, Any]


def publish(
    parts: Parts,
    step: Step,
    rows: Sequence[IndexRow],
    known: Mapping[str, Receipt],
    about: About,
    documents: Callable[[Manifest], Mapping[str, bytes]],
) -> Manifest:
    """Write index and documents, then create the manifest; return it.

    Args:
        parts: the ports.
        step: the generation that is published, and the version it grew from.
        rows: the index.
        known: every receipt of the dataset; the segments of enrolment and making are what the version stands on.
        about: what else the manifest says.
        documents: the version without documents -> file name -> bytes of its card, contact sheet and the like.

    Raises:
        StoreError: another manifest of this version with other content exists.
        LeaseHeldError: another run has taken the dataset over.
    """
    version = _next_version(step)
    index = parts.segments.write_index(parts.store, version, rows)
    held = (r for r in known.values() if r.unit["stage"] in (Stage.ENROL.value, Stage.MAKE.value))
    # previews lie beside what a version stands on; what is private a publication does without
    stored = (f for r in held for f in r.files if not f.path.startswith((PREVIEWS, PRIVATE)))
    files = tuple(sorted([index, *stored]))
    bare = Manifest(
        version=version,
        parent=step.parent.version if step.parent else None,
        parent_digest=step.parent.digest if step.parent else None,
        generation=step.number,
        name=parts.recipe.name,
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        files=files,
        documents=(),
        counts=about.counts,
        figures={**about.figures, **({"rehearsal": True} if parts.recipe.rehearsal else {})},
        models=about.models,
        use=use_of(parts.recipe),
        tombstones=_tombstones(step),
    )
    if step.published is not None:
        return _repaired(parts, step.published, bare, documents)
    entries = []
    for name, data in sorted(documents(bare).items()):
        path = f"versions/{version}/{name}"
        # created if absent: a driver that slept must not write over what the one that replaced it has published
        if not parts.store.put_if_absent(path, data) and parts.store.get(path) != data:
            parts.guard()
            parts.store.put(path, data)
        entries.append(FileEntry(path, sha256_hex(data), len(data)))
    manifest = replace(bare, documents=tuple(entries))
    parts.guard()
    if not parts.store.put_if_absent(manifest.path, manifest.to_json()):
        standing = read_manifest(parts.store, version)
        if standing.digest != manifest.digest or standing.parent_digest != manifest.parent_digest:
            raise StoreError(
                f"{manifest.path}: a manifest with digest {standing.digest[:12]} exists, this run made "
                f"{manifest.digest[:12]}; verify the dataset, or write to another --out"
            )
        return standing
    return manifest


def _repaired(
    parts: Parts, standing: Manifest, bare: Manifest, documents: Callable[[Manifest], Mapping[str, bytes]]
) -> Manifest:
    """Write what a standing version lacks of its own documents; what it says of itself does not change.

    They are drawn from what it says: the recipe of today may give another name, use, licence or promise.
    """
    if standing.digest != bare.digest:
        raise StoreError(
            f"{standing.path}: has digest {standing.digest[:12]}, this run made {bare.digest[:12]}; verify the dataset"
        )
    lacks = [d for d in standing.documents if parts.store.size(d.path) != d.bytes]
    drawn = documents(_as_it_stands(standing, bare)) if lacks else {}
    others = []
    for entry in lacks:
        data = drawn.get(entry.path.removeprefix(f"versions/{standing.version}/"), b"")
        if sha256_hex(data) != entry.sha256:
            others.append(entry.path)
            continue
        parts.guard()
        parts.store.put(entry.path, data)
    if others:
        more = f" (and {', '.join(others[1:])})" if others[1:] else ""
        raise StoreError(
            f"{others[0]}: missing, and drawn anew it has other bytes{more}; restore it from a copy, or run the "
            "release of facemint that published it"
        )
    return standing


def _as_it_stands(standing: Manifest, bare: Manifest) -> Manifest:
    """Return what a standing manifest says, in the order of this run: JSON has lost it, and a card follows it."""
    return replace(
        bare,
        name=standing.name,
        plan_digest=standing.plan_digest,
        counts=_ordered(standing.counts, bare.counts),
        figures=_ordered(standing.figures, bare.figures),
        models=_ordered(standing.models, bare.models),
        use=_ordered(standing.use, bare.use),
    )


def _ordered(said: Any, now: Any) -> Any:
    """Return what JSON said, with the order of keys and the types of what is known now wherever that says the same."""
    if not isinstance(said, Mapping) or not isinstance(now, Mapping):
        return now if canonical_json(now) == canonical_json(said) else said
    known = {str(key): key for key in now}
    keys = [*(key for key in known if key in said), *(key for key in said if key not in known)]
    return {known.get(key, key): _ordered(said[key], now.get(known.get(key, key))) for key in keys}


def _tombstones(step: Step) -> Tombstones:
    """Return what was erased up to a version: a version that stands says so itself, as its parent may be retired."""
    if step.published is not None:
        return step.published.tombstones
    return (step.parent.tombstones if step.parent else Tombstones()) | step.erased


def _next_version(step: Step) -> str:
    """Return the name of the version to publish: the parent's successor, so that no parent has two children."""
    if step.published is not None:
        return step.published.version
    return version_name(int(step.parent.version.removeprefix("v")) + 1 if step.parent else 1)
