"""The ingest unit: inputs are read, decoded, searched for faces, cut, embedded and measured; every one leaves a row.

Nothing of the pictures is kept. Reading and decoding run ahead of the models, on another core; what is computed of a
face follows from the unit alone, as faces are embedded in the order of the listing, in batches of a fixed shape.

Legend: N faces, H W C image axes, 5 points, 2 axes, E dimensions.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from pipeline.domain.curation import Curation
from pipeline.domain.detection import Detections, chosen_face
from pipeline.domain.hashes import perceptual_hash
from pipeline.domain.intake import Decoded, Refusal, Unreadable, says_ai_made
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.records import Float32, UInt8
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.listing import Listed, read_listing
from pipeline.flow.curating.photographs import photograph_measures
from pipeline.flow.curating.rows import FEATURE_COLUMNS, NO_LABEL, bucket_of, features_path, owner_of, signed
from pipeline.flow.erase.suppression import Suppressed
from pipeline.flow.judge import UNREADABLE
from pipeline.flow.parts import Parts, embed_each, finite_rows, measure_fixed

AHEAD = 8
"""Inputs that are decoded while the models work."""
SUPPRESSED, AI_MADE, NO_FACE, SEVERAL, NO_POINTS, NOT_A_CROP = (
    "erased_before", "marked_ai_made", "no_face", "several_faces", "landmarks_degenerate", "not_an_aligned_crop",
)  # fmt: skip


def plan_ingest(generation: int, rows: tuple[int, int], size: int) -> list[Unit]:
    """Return the units of a listing: ranges of its rows."""
    starts = range(rows[0], rows[1], size)
    return [
        Unit(Stage.INGEST, generation, n, 0, rows=(start, min(start + size, rows[1]))) for n, start in enumerate(starts)
    ]


@dataclass(slots=True)
class _Face:
    """A face on its way: its row so far, and its crop until it is measured."""

    row: dict[str, Any]
    bucket: int
    crop_HWC: UInt8 | None = field(default=None, repr=False)


def ingest_unit(unit: Unit, parts: Parts, kit: Kit) -> Receipt:
    """Look at a unit's inputs, write a row for every face and every input without one, commit."""
    started_s = parts.clock.now_s()
    asked = curation(parts)
    listed = read_listing(kit, parts, unit.generation, (unit.rows[0], unit.rows[1]))
    faces = list(_measured(parts, _found(listed, parts, kit, asked)))
    groups: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for face in faces:
        groups[face.bucket].append(face.row)
    entry = kit.grouped.write(parts.store, features_path(unit), FEATURE_COLUMNS, groups)
    counts = Counts.of((not f.row["reason"], False, (f.row["reason"],)) for f in faces)
    receipt = receipt_of(unit, parts, counts, (entry,), started_s)
    receipt = replace(receipt, run={**receipt.run, "inputs": len(listed)})
    commit(parts, receipt)
    return receipt


def _found(listed: Sequence[Listed], parts: Parts, kit: Kit, asked: Curation) -> Iterator[_Face]:
    """Yield every face of the inputs, cut, and every input without one, in their order."""
    pictures = _decoded(listed, parts, kit)
    for one, (sha256, seen) in zip(listed, pictures, strict=True):
        owner = owner_of(one.source, one.input.label, shared=asked.clean.shared_labels)
        blank = _blank(one, owner, sha256)
        if not isinstance(seen, Decoded):
            yield _Face(blank | seen, NO_LABEL)
            continue
        blank |= {"notes": list(seen.notes), "marks": list(seen.marks)}
        if asked.decoding.ai_made == "refuse" and says_ai_made(seen.marks):
            yield _Face(blank | _refused("decode", AI_MADE, ", ".join(seen.marks)), NO_LABEL)
            continue
        bucket = bucket_of(owner, one.row, asked.buckets)
        for face in _faces(seen, parts, kit, asked, blank):
            yield replace(face, bucket=bucket if face.crop_HWC is not None else NO_LABEL)


def _decoded(listed: Sequence[Listed], parts: Parts, kit: Kit) -> Iterator[tuple[str, Decoded | dict[str, Any]]]:
    """Yield digest and pixels of each input, or why there are none; decoding runs a few inputs ahead."""
    jobs, erased = iter(_bytes_of(listed, kit)), Suppressed(parts.store)

    def next_one() -> tuple[str, Decoded | dict[str, Any]] | None:
        data = next(jobs, None)
        if data is None:
            return None
        if isinstance(data, Unreadable):
            return "", _refused("read", data.reason, data.found)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in erased:
            return sha256, _refused("read", SUPPRESSED, "these very bytes were erased from this dataset")
        seen = kit.decoder.decode(data)
        if isinstance(seen, Refusal):
            return sha256, _refused("decode", seen.reason, seen.found, seen.value, seen.threshold)
        return sha256, seen

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:
        waiting: list[Future[tuple[str, Decoded | dict[str, Any]] | None]] = []
        for _ in listed:
            while len(waiting) < AHEAD:
                waiting.append(pool.submit(next_one))
            ready = waiting.pop(0).result()
            assert ready is not None
            yield ready


def _bytes_of(listed: Sequence[Listed], kit: Kit) -> Iterator[bytes | Unreadable]:
    """Yield the bytes of each input; neighbours of one source are asked for together."""
    remaining = iter(listed)
    while block := list(islice(remaining, 32)):
        start = 0
        while start < len(block):
            stop = start + 1
            while stop < len(block) and block[stop].source == block[start].source:
                stop += 1
            yield from kit.source(block[start].source).read([b.input for b in block[start:stop]])
            start = stop


def _faces(seen: Decoded, parts: Parts, kit: Kit, asked: Curation, blank: dict[str, Any]) -> Iterator[_Face]:
    """Yield the faces of one picture that are meant, cut; or why there is none."""
    height_px, width_px = seen.image_HWC.shape[:2]
    if kit.detector is None:
        crop = kit.crop(seen.image_HWC, None)
        if crop is None:
            yield _Face(blank | _refused("align", NOT_A_CROP, f"{width_px} x {height_px} px"), NO_LABEL)
            return
        yield _Face(blank | {"face": 0}, NO_LABEL, crop)
        return
    found = kit.detector.detect(seen.image_HWC)
    choice = parts.recipe.align.choice if parts.recipe.align else "largest"
    meant = _meant(found, width_px, height_px, choice, asked.most_faces)
    if isinstance(meant, str):
        yield _Face(blank | _refused("detect", meant, f"{len(found)} faces", float(len(found)), 1.0), NO_LABEL)
        return
    for n in meant:
        points = found.points_K52[n]
        numbers = photograph_measures(found, n, width_px, height_px)
        told = blank | {"face": n, "points": points.reshape(-1).astype(np.float32), "measures": numbers}
        crop = kit.crop(seen.image_HWC, points)
        if not np.isfinite(list(numbers.values())).all():
            why = ", ".join(name for name, value in numbers.items() if not np.isfinite(value))
            yield _Face(told | {"points": None, "measures": {}} | _refused("measure", UNREADABLE, why), NO_LABEL)
        elif crop is None:
            yield _Face(told | {"points": None} | _refused("align", NO_POINTS, "the five points are no face"), NO_LABEL)
        else:
            yield _Face(told, NO_LABEL, crop)


def _meant(found: Detections, width_px: int, height_px: int, choice: str, most: int) -> str | list[int]:
    """Return the faces that are meant, or why there is none."""
    if not len(found):
        return NO_FACE
    if choice == "matching":
        return list(range(min(most, len(found))))
    one = chosen_face(found, width_px, height_px, choice)  # type: ignore[arg-type]
    return SEVERAL if one is None else [one]


def _measured(parts: Parts, faces: Iterator[_Face]) -> Iterator[_Face]:
    """Yield every face with its numbers, in the order given; the judge sees full batches but for the last."""
    held: list[_Face] = []
    size = parts.judge_batch * max(1, 32 // parts.judge_batch)
    cut = 0
    for face in faces:
        held.append(face)
        cut += face.crop_HWC is not None
        if cut == size:
            yield from _numbered(parts, held)
            held, cut = [], 0
    yield from _numbered(parts, held)


def _numbered(parts: Parts, held: Sequence[_Face]) -> list[_Face]:
    """Return faces with embedding, hashes and measures of the crop that would be stored."""
    cut = [f for f in held if f.crop_HWC is not None]
    if not cut:
        return list(held)
    stored = [parts.codec.decode(parts.codec.encode(f.crop_HWC)) for f in cut if f.crop_HWC is not None]
    crops_NHWC = np.stack(stored)
    emb, sound = embed_each(parts.judge, crops_NHWC, parts.judge_batch)
    measures = measure_fixed(parts.measurers, crops_NHWC, parts.judge_batch)
    sound &= finite_rows(measures, len(cut))
    hashes = perceptual_hash(crops_NHWC)
    mirrored = perceptual_hash(np.ascontiguousarray(crops_NHWC[:, :, ::-1]))
    for n, face in enumerate(cut):
        face.crop_HWC = None
        if not sound[n]:
            face.row |= _refused("measure", UNREADABLE, "an embedding or a measure is no number")
            face.bucket = NO_LABEL
            continue
        numbers = {name: float(values[n]) for name, values in measures.items()}
        face.row |= {
            "embedding": _row(emb, n),
            "measures": {**face.row["measures"], **numbers},
            "hash": signed(int(hashes[n])),
            "mirrored": signed(int(mirrored[n])),
        }
    return list(held)


def _row(emb_NE: Float32, n: int) -> Float32:
    return np.ascontiguousarray(emb_NE[n])


def _blank(one: Listed, owner: str, sha256: str) -> dict[str, Any]:
    """Return the row of an input of which nothing is known yet."""
    return {
        "row": one.row,
        "face": -1,
        "owner": owner,
        "stage": "",
        "reason": "",
        "found": "",
        "value": None,
        "threshold": None,
        "sha256": sha256,
        "hash": 0,
        "mirrored": 0,
        "points": None,
        "embedding": None,
        "measures": {},
        "notes": [],
        "marks": [],
    }


def _refused(
    stage: str, reason: str, found: str, value: float | None = None, threshold: float | None = None
) -> dict[str, Any]:
    return {
        "stage": stage, "reason": str(reason), "found": found[:500], "value": value, "threshold": threshold,
    }  # fmt: skip
