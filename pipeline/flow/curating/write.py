"""The write unit: the faces of some identities are read again from their sources, cut, judged and stored.

Ingest kept numbers and no pixels, so what is stored comes from the source once more; a picture that is another one by
now is refused, as its numbers are not its own. What the filters read is what ingest found, so that a refilter from
storage judges alike.

Legend: H W C image axes, E dimensions.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.intake import Decoded, Fault, Unreadable
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.records import Candidate, Float32, Identity, Sample, UInt8, Verdict, minted_key
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.listing import Listed, read_listing
from pipeline.flow.curating.outcomes import outcome_path
from pipeline.flow.curating.rows import clean_name, cleaned_path
from pipeline.flow.judge import Bench, Templates
from pipeline.flow.parts import Parts
from pipeline.flow.past import published_siblings
from pipeline.flow.window import Outcome

SOURCE = "source"
"""Name under which the verdict stands of a picture that is not what it was."""
TOGETHER = 64
"""Faces that are read together: bounds memory, and changes nothing."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """Which face stands where: columns of the outcome of a generation, by identity and slot. Kept by a worker.

    Attributes:
        identity_N: rising.
        where_N5: row, face, slot, bucket and group of each.
    """

    identity_N: npt.NDArray[np.int64]
    where_N5: npt.NDArray[np.int64]

    def of(self, ordinal: int) -> npt.NDArray[np.int64]:
        """Return the faces of an identity, by slot."""
        start, stop = np.searchsorted(self.identity_N, [ordinal, ordinal + 1])
        return self.where_N5[start:stop]


def read_assigned(kit: Kit, parts: Parts, generation: int) -> Assigned:
    """Return which face a generation gave to whom."""
    names = ["identity", "row", "face", "slot", "bucket", "group"]
    held = kit.tables.read(parts.store, outcome_path(generation), names)
    given = np.flatnonzero(np.asarray(held["identity"]) >= 0)
    columns = [np.asarray(held[name], np.int64)[given] for name in names]
    order = np.lexsort((columns[3], columns[0]))
    return Assigned(columns[0][order], np.stack(columns[1:], axis=1)[order])


def plan_write(
    generation: int, assigned: Assigned, new: Sequence[int], grown: Sequence[int], size: int, siblings_of: str
) -> list[Unit]:
    """Return the units that write a generation: published identities that grow first, then the new ones."""
    units: list[Unit] = []
    for ordinals, version in ((sorted(grown), siblings_of), (sorted(new), "")):
        for start in range(0, len(ordinals), size):
            mine = tuple(ordinals[start : start + size])
            slots = np.concatenate([assigned.of(o)[:, 2] for o in mine])
            owed = (int(slots.min()) if version else 0, int(slots.max()) + 1)
            units.append(Unit(Stage.MAKE, generation, len(units), 0, ordinals=mine, slots=owed, siblings_of=version))
    return units


@dataclass(frozen=True, slots=True)
class _Kept:
    """What ingest found of a face."""

    row: int
    face: int
    slot: int
    points: npt.NDArray[np.float32] | None
    embedding_E: Float32
    measures: Mapping[str, float]
    sha256: str
    marks: Sequence[str]


def write_unit(unit: Unit, parts: Parts, kit: Kit, assigned: Assigned, enrolled: Mapping[int, Identity]) -> Receipt:
    """Read, judge and store the faces of a unit's identities, commit; return the receipt."""
    started_s = parts.clock.now_s()
    outcomes: list[tuple[bool, bool, tuple[str, ...]]] = []

    def counted() -> Iterator[Candidate]:
        for candidate in _candidates(unit, parts, kit, assigned, enrolled):
            outcomes.append((candidate.accepted, False, candidate.reasons))
            yield candidate

    files = parts.segments.write_images(parts.store, unit.name, counted())
    receipt = receipt_of(unit, parts, Counts.of(outcomes), files, started_s)
    commit(parts, receipt)
    return receipt


def _candidates(
    unit: Unit, parts: Parts, kit: Kit, assigned: Assigned, enrolled: Mapping[int, Identity]
) -> Iterator[Candidate]:
    filters = parts.filters(len(enrolled))
    needed = bool(unit.siblings_of) and any(f.judges_siblings for f in filters)
    bench = Bench(
        filters,
        published_siblings(parts, unit) if needed else None,
        fields=parts.recipe.balance.by,
        cells={o: enrolled[o].cell for o in unit.ordinals},
    )
    templates = Templates([enrolled[o] for o in sorted(enrolled)])
    kept = _numbers(parts, kit, unit, assigned)
    order = 0
    faces = [(ordinal, face) for ordinal in unit.ordinals for face in kept[ordinal]]
    for start in range(0, len(faces), TOGETHER):
        block = faces[start : start + TOGETHER]
        pictures = _pictures(unit, parts, kit, [face for _, face in block])
        screened = _screened(parts, block, pictures)
        for n, (ordinal, face) in enumerate(block):
            listed, found = pictures[n]
            sample = _sample(ordinal, face, templates, screened.get(n, {}))
            sourced = _sourced(kit, listed)
            if isinstance(found, Unreadable):
                verdict = Verdict(SOURCE, False, str(found.reason), 0.0, 0.0)
                yield Candidate(sample, order, (verdict,), False, False, None, sourced)
            else:
                alone = bench.alone(sample) if n in screened else {}
                sample, verdicts, outcome = bench.settle(sample, alone, sound=n in screened)
                passed = outcome is not Outcome.REFUSED
                jpeg = kit.encoder.encode(found, face.marks) if passed else None
                yield Candidate(sample, order, verdicts, passed, False, jpeg, sourced)
            order += 1


def _numbers(parts: Parts, kit: Kit, unit: Unit, assigned: Assigned) -> dict[int, list[_Kept]]:
    """Return what ingest found of every face of the unit, by identity and slot."""
    places = {ordinal: assigned.of(ordinal) for ordinal in unit.ordinals}
    groups = sorted({(int(bucket), int(group)) for where in places.values() for *_, bucket, group in where.tolist()})
    names = ["row", "face", "points", "embedding", "measures", "sha256", "marks"]
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    for bucket, group in groups:
        name = clean_name(unit.generation, bucket)
        held = kit.grouped.read(parts.store, cleaned_path(name), names, group)
        for n in range(len(held["row"])):
            points = held["points"][n]
            found[int(held["row"][n]), int(held["face"][n])] = (
                points if np.isfinite(points).all() else None,
                *(held[k][n] for k in names[3:]),
            )
    return {
        ordinal: [_Kept(row, face, slot, *found[row, face]) for row, face, slot, _, _ in where.tolist()]
        for ordinal, where in places.items()
    }


def _pictures(unit: Unit, parts: Parts, kit: Kit, faces: Sequence[_Kept]) -> list[tuple[Listed, UInt8 | Unreadable]]:
    """Return the crop of each face, cut from its source again, or why there is none."""
    rows = sorted({face.row for face in faces})
    listed = {one.row: one for one in _listed(unit, parts, kit, rows)}
    crops: dict[tuple[int, int], UInt8 | Unreadable] = {}
    by_row: dict[int, list[_Kept]] = defaultdict(list)
    for face in faces:
        by_row[face.row].append(face)
    for source, run in groupby(rows, key=lambda row: listed[row].source):
        mine = list(run)
        for row, data in zip(mine, kit.sources[source].read([listed[r].input for r in mine]), strict=True):
            for face in by_row[row]:
                crops[row, face.face] = _crop(kit, face, data)
    return [(listed[face.row], crops[face.row, face.face]) for face in faces]


def _listed(unit: Unit, parts: Parts, kit: Kit, rows: Sequence[int]) -> Iterator[Listed]:
    """Yield the inputs with these numbers; those that lie near each other are fetched together."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and rows[stop] - rows[start] < 4096:
            stop += 1
        wanted = set(rows[start:stop])
        block = read_listing(kit, parts, unit.generation, (rows[start], rows[stop - 1] + 1))
        yield from (one for one in block if one.row in wanted)
        start = stop


def _crop(kit: Kit, face: _Kept, data: bytes | Unreadable) -> UInt8 | Unreadable:
    if isinstance(data, Unreadable):
        return data
    if hashlib.sha256(data).hexdigest() != face.sha256:
        return Unreadable(Fault.CHANGED, "other bytes than when it was looked at")
    seen = kit.decoder.decode(data)
    if not isinstance(seen, Decoded):
        return Unreadable(Fault.READ_FAILED, f"decoded before, and not now: {seen.found}")
    crop = kit.crop(seen.image_HWC, None if face.points is None else face.points.reshape(5, 2))
    return crop if crop is not None else Unreadable(Fault.READ_FAILED, "cut before, and not now")


def _screened(
    parts: Parts, block: Sequence[tuple[int, _Kept]], pictures: Sequence[tuple[Listed, UInt8 | Unreadable]]
) -> dict[int, dict[str, float]]:
    """Return, for each face that can be judged, its numbers against the galleries."""
    there = [n for n, (_, found) in enumerate(pictures) if not isinstance(found, Unreadable)]
    if parts.screen is None or not there:
        return {n: {} for n in there}
    crops = [found for _, found in pictures if not isinstance(found, Unreadable)]
    stored = np.stack([parts.codec.decode(parts.codec.encode(crop)) for crop in crops])
    emb = np.stack([block[n][1].embedding_E for n in there])
    near, sound = parts.screen.of_samples(stored, emb, np.ones(len(there), bool))
    return {n: {k: float(v[p]) for k, v in near.items()} for p, n in enumerate(there) if sound[p]}


def _sample(ordinal: int, face: _Kept, templates: Templates, screened: Mapping[str, float]) -> Sample:
    compared = templates.identity_measures(face.embedding_E[None], [ordinal])[0]
    return Sample(
        key=minted_key(ordinal, face.slot, 0),
        identity=ordinal,
        slot=face.slot,
        attempt=0,
        conditions={},
        measures={**face.measures, **screened, **compared},
        embedding_E=face.embedding_E,
    )


def _sourced(kit: Kit, listed: Listed) -> dict[str, str]:
    """Return what came with a picture; where it states no licence of its own, that of its source."""
    return dict(sorted({"licence": kit.licences[listed.source]["licence"], **listed.input.columns}.items()))
