"""Galleries: prepared by the driver once before enrolment, and reported on once before a version is published.

A gallery's faces are embedded under judge, screening recogniser and auditor, block by block; what a killed run has
written, the next one does not embed again. The note that names every file with its digest is written last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.domain.errors import CalibrationError, PlanMismatchError, UserError
from pipeline.domain.hashes import perceptual_hash
from pipeline.domain.leakage import (
    AUDITOR,
    JUDGE,
    SAMPLES,
    SCREENING,
    Limit,
    Reference,
    chunked_templates,
    limit_from_calibration,
    limit_from_control,
)
from pipeline.domain.manifest import FileEntry, canonical_json, sha256_hex
from pipeline.domain.ports import LabelledFace, LabelledFaces
from pipeline.domain.records import Float32, each_row
from pipeline.execute.session import Session
from pipeline.flow.leakage import CONTROL, SIDES, FacesDigest, Reader, Screen, pack, read_note, unpack, words
from pipeline.flow.parts import Parts, embed_each

BLOCK = 1024
"""Faces per block: what a kill costs, and what is in memory at once."""


def prepare(session: Session) -> None:
    """Prepare what identities and images are screened against; done already, it costs a listing.

    Raises:
        UserError: a source is empty, or too small a control.
        SpaceMismatchError: a source of vectors is not of the judge's space.
        CalibrationError: there is no control, and the calibration supports no threshold.
        PlanMismatchError: a source changed while it was read.
    """
    screen = session.parts.screen
    if screen is None:
        return
    names = [g.name for g in screen.settings.galleries] + ([CONTROL] if screen.settings.control else [])
    for name in names:
        if not _is_prepared(session.parts, screen, name):
            session.observer.event("stage", name=f"gallery {name}", total=1, done=0)
            _prepare(session.parts, screen, name, session.galleries[name]())
            session.observer.event("step")
    if session.parts.store.size(screen.limits_path) is None:
        found = {role: _limits(screen, reader) for role, reader in screen.readers.items()}
        session.parts.guard()
        session.parts.store.put_if_absent(screen.limits_path, canonical_json(found))


def _is_prepared(parts: Parts, screen: Screen, name: str) -> bool:
    root = screen.root(name)
    note = read_note(parts.store, root)
    if note is None or not {r.key for r in screen.readers.values()} <= {*note["readers"], *note["absent"]}:
        return False
    sizes = {s.path: s.bytes for s in parts.store.entries(f"{root}/")}
    files = [*note["facts"], *(f for r in note["readers"].values() for f in r["files"])]
    return all(sizes.get(f["path"]) == f["bytes"] for f in files)


def _prepare(parts: Parts, screen: Screen, name: str, source: LabelledFaces) -> None:
    """Embed a source block by block under every recogniser that can, and write its note."""
    if screen.settings.copies and source.space is not None and name != CONTROL:
        raise UserError(f"leakage: {source.name} holds vectors, of which nothing is a copy; set leakage.copies: null")
    root, readers, absent = screen.root(name), *_comparable(screen, source)
    before = (read_note(parts.store, root) or {"readers": {}})["readers"]
    digest, facts = FacesDigest(), []
    files: dict[str, list[FileEntry]] = {r.key: [] for r in readers}
    faces, labels = 0, set[str]()
    unreadable = dict.fromkeys(files, 0)
    for number, block in enumerate(_blocks(source)):
        for face in block:
            digest.add(face)
        labels.update(f.label for f in block)
        faces += len(block)
        hashed = screen.settings.copies is not None and name != CONTROL
        facts.append(_written(parts, f"{root}/faces-{number:06d}.npz", _facts(block, hashed=hashed)))
        for reader in readers:
            path = f"{root}/{reader.key}-{number:06d}.npz"
            data = parts.store.get(path) if parts.store.size(path) is not None else _embedded(reader, block)
            files[reader.key].append(_written(parts, path, data))
            unreadable[reader.key] += int((~unpack(data, path)["sound"]).sum())
    if not faces:
        raise UserError(f"leakage: {source.name}: no face here; give a source with at least one")
    if digest.hex != _digest(screen, name):
        for path in parts.store.list(f"{root}/"):
            parts.store.delete(path)
        raise PlanMismatchError(
            f"leakage: {name!r} at {source.name} holds faces of digest {digest.hex[:12]} where "
            f"{_digest(screen, name)[:12]} is expected; it changed while it was read, or is not the gallery that the "
            "recipe names"
        )
    note = {
        "name": name,
        "digest": digest.hex,
        "faces": faces,
        "people": len(labels),
        "images": source.space is None,
        "unreadable": unreadable,
        "facts": [_entry(f) for f in facts],
        # what another auditor was given before stays named
        "readers": before | {key: {"files": [_entry(f) for f in held]} for key, held in files.items()},
        "absent": absent,
        "device_kind": parts.run_facts.get("device_kind"),
    }
    parts.guard()
    parts.store.put(f"{root}.json", canonical_json(note))


def _comparable(screen: Screen, source: LabelledFaces) -> tuple[list[Reader], list[str]]:
    """Return the recognisers that can embed a source, and the names of those that cannot."""
    if source.space is None:
        return list(screen.readers.values()), []
    screen.readers[JUDGE].recogniser.space.require_same(source.space, source.name)
    mine = [r for r in screen.readers.values() if r.recogniser.space == source.space or r.role == JUDGE]
    if (second := screen.readers.get(SCREENING)) and second not in mine:
        raise UserError(
            f"leakage: {source.name} holds vectors of {source.space.name!r}, which {second.recogniser.space.name!r} "
            "cannot embed; give the gallery's images, or leave leakage.screening out"
        )
    return mine, [r.key for r in screen.readers.values() if r not in mine]


def _blocks(source: LabelledFaces) -> Iterator[list[LabelledFace]]:
    block: list[LabelledFace] = []
    for face in source:
        if face.face_HWC is None and face.vector_D is None:
            raise UserError(f"{source.name}: {face.name} has neither an image nor a vector; leave it out")
        block.append(face)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _facts(block: Sequence[LabelledFace], *, hashed: bool) -> bytes:
    """Return whose the faces of a block are, where they come from, and their hashes where copies are looked for."""
    hashes = [int(perceptual_hash(f.face_HWC[None])[0]) for f in block if hashed and f.face_HWC is not None]
    return pack(
        {
            "labels": words([f.label for f in block]),
            "names": words([f.name for f in block]),
            "hash": np.array(hashes, np.uint64),
        }
    )


def _embedded(reader: Reader, block: Sequence[LabelledFace]) -> bytes:
    """Return a block's embeddings, and which are sound; a source of vectors gives its own."""
    images = [f.face_HWC for f in block if f.face_HWC is not None]
    if images:
        emb, sound = embed_each(reader.recogniser, np.stack(images), reader.batch)
        return pack({"embedding": emb, "sound": sound})
    emb, sound = each_row(np.stack([f.vector_D for f in block if f.vector_D is not None]), "gallery", unit=True)
    return pack({"embedding": emb, "sound": sound})


def _written(parts: Parts, path: str, data: bytes) -> FileEntry:
    """Write a block where it is absent; return its entry."""
    if parts.store.size(path) != len(data):
        parts.guard()
        parts.store.put(path, data)
    return FileEntry(path, sha256_hex(data), len(data))


def _entry(file: FileEntry) -> dict[str, Any]:
    return {"path": file.path, "sha256": file.sha256, "bytes": file.bytes}


def _digest(screen: Screen, name: str) -> str:
    digests = {g.name: g.digest for g in screen.settings.galleries} | {CONTROL: screen.settings.control_digest}
    return str(digests[name])


def _limits(screen: Screen, reader: Reader) -> dict[str, dict[str, Any]]:
    """Return the thresholds of one recogniser: number of images of a probe -> side -> limit."""
    reference = screen.reference(reader.role)
    if reference is None and reader.role != AUDITOR:
        raise UserError(f"leakage: no face of the galleries can be embedded by {reader.recogniser.space.name!r}")
    if reference is None:
        return {}
    control = screen.faces(CONTROL, reader.role) if screen.settings.control else None
    owners = np.array([], np.int64)
    if control is not None:
        numbers: dict[str, int] = {}
        owners = np.array([numbers.setdefault(label, len(numbers)) for label in control.labels], np.int64)
    out: dict[str, dict[str, Any]] = {}
    for images in screen.sizes:
        probes = None if control is None else chunked_templates(control.emb_NE, owners, images)
        out[str(images)] = {side: _limit(screen, reader, reference, side, images, probes).to_dict() for side in SIDES}
    return out


def _limit(
    screen: Screen,
    reader: Reader,
    reference: Reference,
    side: str,
    images: int,
    control: tuple[Float32, int] | None,
) -> Limit:
    settings = screen.settings
    if control is not None:
        return limit_from_control(reference.nearest(side, control[0])[0], settings.quantile, control[1])
    if settings.cos is not None:
        return Limit(settings.cos, "given")
    of_each = 1 if side == SAMPLES else reference.least_images
    rows = len(reference.side(side))
    limit = limit_from_calibration(
        reader.recogniser.calibration, settings.fpir, rows, probe_images=images, reference_images=of_each
    )
    if limit.cos is None and reader.role != AUDITOR:
        raise CalibrationError(
            f"leakage: no threshold for {images} image(s) of ours against {rows:,} {side} of the galleries: "
            f"{limit.origin.removeprefix('none: ')}; give leakage.control (faces of nobody in the galleries), or "
            "leakage.cos"
        )
    return limit


def settings_said(screen: Screen) -> Mapping[str, Any]:
    """Return what a manifest says of galleries and control: names, digests and numbers, never a path."""
    told = {g.name: {"licence": g.licence, "lawful_basis": g.lawful_basis} for g in screen.settings.galleries}
    names = [*told, *([CONTROL] if screen.settings.control else [])]
    out: dict[str, Any] = {}
    for name in names:
        note = read_note(screen.store, screen.root(name)) or {}
        out[name] = {k: note.get(k) for k in ("digest", "faces", "people")} | told.get(name, {})
        unreadable = sum(note.get("unreadable", {}).values())
        if unreadable:
            out[name]["unreadable"] = unreadable
        if note.get("absent"):
            out[name]["not_compared_under"] = note["absent"]
    return out
