"""The write unit: the faces of some identities are read again from their sources, cut, judged and stored.

Ingest kept numbers and no pixels, so what is stored comes from the source once more; a picture that is another one by
now is refused, as its numbers are not its own. What the filters read is what ingest found, so that a refilter from
storage judges alike.

Legend: H W C image axes, E dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.intake import Unreadable
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.records import Candidate, Identity, Sample, UInt8, Verdict, minted_key
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.curating.fetch import Kept, crops_of, read_faces_at
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.listing import Listed
from pipeline.flow.curating.outcomes import outcome_path
from pipeline.flow.judge import Bench, Templates
from pipeline.flow.parts import Parts
from pipeline.flow.past import published_siblings
from pipeline.flow.window import Outcome

MARKS = "marks"
"""Name under which it stands, among what came with a picture, what this says of its making."""
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
    places = [(ordinal, where) for ordinal in unit.ordinals for where in assigned.of(ordinal).tolist()]
    kept = read_faces_at(kit, parts, unit.generation, ((r, f, b, g) for _, (r, f, _, b, g) in places))
    order = 0
    faces = [(ordinal, where[2], kept[where[0], where[1]]) for ordinal, where in places]
    for start in range(0, len(faces), TOGETHER):
        block = faces[start : start + TOGETHER]
        pictures = crops_of(kit, parts, unit.generation, [face for *_, face in block])
        screened = _screened(parts, block, pictures)
        for n, (ordinal, slot, face) in enumerate(block):
            listed, found = pictures[n]
            sample = _sample((ordinal, slot), face, templates, screened.get(n, {}))
            sourced = _sourced(kit, listed, face.marks)
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


def _screened(
    parts: Parts, block: Sequence[tuple[int, int, Kept]], pictures: Sequence[tuple[Listed, UInt8 | Unreadable]]
) -> dict[int, dict[str, float]]:
    """Return, for each face that can be judged, its numbers against the galleries."""
    there = [n for n, (_, found) in enumerate(pictures) if not isinstance(found, Unreadable)]
    if parts.screen is None or not there:
        return {n: {} for n in there}
    crops = [found for _, found in pictures if not isinstance(found, Unreadable)]
    stored = np.stack([parts.codec.decode(parts.codec.encode(crop)) for crop in crops])
    emb = np.stack([block[n][2].embedding_E for n in there])
    near, sound = parts.screen.of_samples(stored, emb, np.ones(len(there), bool))
    return {n: {k: float(v[p]) for k, v in near.items()} for p, n in enumerate(there) if sound[p]}


def _sample(place: tuple[int, int], face: Kept, templates: Templates, screened: Mapping[str, float]) -> Sample:
    ordinal, slot = place
    compared = templates.identity_measures(face.embedding_E[None], [ordinal])[0]
    return Sample(
        key=minted_key(ordinal, slot, 0),
        identity=ordinal,
        slot=slot,
        attempt=0,
        conditions={},
        measures={**face.measures, **screened, **compared},
        embedding_E=face.embedding_E,
    )


def _sourced(kit: Kit, listed: Listed, marks: Sequence[str]) -> dict[str, str]:
    """Return what came with a picture; where it states no licence of its own, that of its source.

    `marks`: what it says of its making, such as `iptc:trainedAlgorithmicMedia`; not there where it says nothing.
    """
    said = {MARKS: " ".join(marks)} if marks else {}
    return dict(sorted({"licence": kit.licences[listed.source]["licence"], **listed.input.columns, **said}.items()))
