"""Faces fetched again: what ingest found of them, and their crops, cut anew from the sources.

Legend: H W C image axes, E dimensions.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pipeline.domain.intake import Decoded, Fault, Unreadable
from pipeline.domain.records import Float32, UInt8
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.listing import Listed, read_listing
from pipeline.flow.curating.rows import clean_name, cleaned_path
from pipeline.flow.parts import Parts

Where = tuple[int, int, int, int]
"""Row, face, bucket and group of a face."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What ingest found of a face."""

    row: int
    face: int
    points: npt.NDArray[np.float32] | None
    embedding_E: Float32
    measures: Mapping[str, float]
    sha256: str
    marks: Sequence[str]


def read_faces_at(kit: Kit, parts: Parts, generation: int, faces: Iterable[Where]) -> dict[tuple[int, int], Kept]:
    """Return (row, face) -> what ingest found, of faces that a generation's clean units hold."""
    names = ["row", "face", "points", "embedding", "measures", "sha256", "marks"]
    groups: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    for row, face, bucket, group in faces:
        groups[bucket, group].add((row, face))
    found: dict[tuple[int, int], Kept] = {}
    for (bucket, group), wanted in sorted(groups.items()):
        held = kit.grouped.read(parts.store, cleaned_path(clean_name(generation, bucket)), names, group)
        for n in range(len(held["row"])):
            place = int(held["row"][n]), int(held["face"][n])
            if place in wanted:
                points = held["points"][n]
                found[place] = Kept(
                    *place, points if np.isfinite(points).all() else None, *(held[k][n] for k in names[3:])
                )
    return found


def crops_of(kit: Kit, parts: Parts, generation: int, faces: Sequence[Kept]) -> list[tuple[Listed, UInt8 | Unreadable]]:
    """Return the crop of each face, cut from its source again, or why there is none."""
    rows = sorted({face.row for face in faces})
    listed = {one.row: one for one in _listed(kit, parts, generation, rows)}
    crops: dict[tuple[int, int], UInt8 | Unreadable] = {}
    by_row: dict[int, list[Kept]] = defaultdict(list)
    for face in faces:
        by_row[face.row].append(face)
    for source, run in groupby(rows, key=lambda row: listed[row].source):
        mine = list(run)
        for row, data in zip(mine, kit.source(source).read([listed[r].input for r in mine]), strict=True):
            for face in by_row[row]:
                crops[row, face.face] = _crop(kit, face, data)
    return [(listed[face.row], crops[face.row, face.face]) for face in faces]


def _listed(kit: Kit, parts: Parts, generation: int, rows: Sequence[int]) -> Iterator[Listed]:
    """Yield the inputs with these numbers; those that lie near each other are fetched together."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and rows[stop] - rows[start] < 4096:
            stop += 1
        wanted = set(rows[start:stop])
        block = read_listing(kit, parts, generation, (rows[start], rows[stop - 1] + 1))
        yield from (one for one in block if one.row in wanted)
        start = stop


def _crop(kit: Kit, face: Kept, data: bytes | Unreadable) -> UInt8 | Unreadable:
    if isinstance(data, Unreadable):
        return data
    if hashlib.sha256(data).hexdigest() != face.sha256:
        return Unreadable(Fault.CHANGED, "other bytes than when it was looked at")
    seen = kit.decoder.decode(data)
    if not isinstance(seen, Decoded):
        return Unreadable(Fault.READ_FAILED, f"decoded before, and not now: {seen.found}")
    crop = kit.crop(seen.image_HWC, None if face.points is None else face.points.reshape(5, 2))
    return crop if crop is not None else Unreadable(Fault.READ_FAILED, "cut before, and not now")
