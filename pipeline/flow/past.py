"""What earlier generations left: who is enrolled, who was worked on, and who is published with which images.

Everything is read from receipts, enrolled files and the parent version's index; the first generation has no past.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import IndexRow, Manifest, Receipt
from pipeline.domain.records import Cell, Float32, Member, slot_of, unit_rows
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import enrolled_count, enrolled_paths, enrolled_receipt_name
from pipeline.flow.parts import Parts
from pipeline.flow.versions import image_rows, read_manifest


@dataclass(frozen=True, slots=True)
class Step:
    """The generation that a recipe means for a dataset.

    Attributes:
        number: 0 for the first.
        parent: the version that it grows from; None for the first.
        images_before: images per identity as of the parent.
        published: the version that holds it, where that stands already.
        rejudges: whether it judges what is stored under other filters, and makes nothing.
        completes: whether it makes what the parent lacks: slots that stand open, and places of those who are gone.
        erases: whether it leaves out what was erased, and makes nothing.
        erased: what that is.
    """

    number: int
    parent: Manifest | None = None
    images_before: int = 0
    published: Manifest | None = None
    rejudges: bool = False
    completes: bool = False
    erases: bool = False
    erased: Tombstones = field(default_factory=Tombstones)


@dataclass(frozen=True, slots=True)
class Past:
    """The state that a generation starts from.

    Attributes:
        members: everybody enrolled before, in ordinal order.
        tried: ordinal -> up to which slot make units of earlier generations worked it.
        rows: the parent's index without twins; empty for the first generation.
        labels: ordinal -> label, of the published.
        candidates: candidate numbers given so far.
        enrolled: how many were ever enrolled, the erased too: the first ordinal that is not given.
        tombstones: what was erased; it is never planned again.
        labels_given: labels below this were given by the parent or by a version before it, as nobody else's.
    """

    members: tuple[Member, ...] = ()
    tried: Mapping[int, int] = field(default_factory=dict)
    rows: tuple[IndexRow, ...] = ()
    labels: Mapping[int, int] | None = None
    candidates: int = 0
    enrolled: int = 0
    tombstones: Tombstones = field(default_factory=Tombstones)
    labels_given: int = 0

    @property
    def next_label(self) -> int:
        """Return the first label that nobody has, nor an erased identity had."""
        return max(self.labels_given, 1 + max((self.labels or {}).values(), default=-1))

    @property
    def closed(self) -> frozenset[tuple[int, int]]:
        """Return the (identity, slot) pairs whose image was erased and that no other one fills: they stay open."""
        if not self.tombstones.images:
            return frozenset()
        return self.tombstones.slots - {(r.identity, slot_of(r.key)) for r in self.rows}

    @property
    def spent(self) -> frozenset[int]:
        """Return the ordinals that a make unit of an earlier generation worked."""
        return frozenset(self.tried)

    @property
    def published(self) -> Counter[Cell]:
        """Return how many identities each cell has published."""
        mine = self.labels or {}
        return Counter(m.cell for m in self.members if m.ordinal in mine)

    @property
    def reserve(self) -> tuple[Member, ...]:
        """Return who is enrolled and was never worked on."""
        return tuple(m for m in self.members if m.ordinal not in self.spent)


def past_of(parts: Parts, generation: int, parent: Manifest | None, known: Mapping[str, Receipt]) -> Past:
    """Return what the generations before `generation` left."""
    if generation == 0:
        return Past()
    rows = tuple(image_rows(parts.segments, parts.store, parent)) if parent else ()
    made = (r for r in known.values() if r.unit["stage"] == Stage.MAKE.value and r.unit["generation"] < generation)
    closed = [enrolled_receipt_name(g) for g in range(generation)]
    if missing := [name for name in closed if name not in known]:
        raise StoreError(f"receipts/{missing[0]}.json: missing; restore receipts/ from a copy")
    numbered = [known[name].unit["candidates"] for name in closed]
    return Past(
        members=tuple(members_before(parts, generation)),
        tried=_tried(made),
        rows=rows,
        labels={r.identity: r.label for r in rows},
        candidates=max(numbered, default=0),
        enrolled=enrolled_count(known, generation),
        tombstones=parent.tombstones if parent else Tombstones(),
        labels_given=int(parent.counts.get("labels_given", 0)) if parent else 0,
    )


def _tried(made: Iterable[Receipt]) -> dict[int, int]:
    """Return ordinal -> up to which slot make units worked on it; one that was quarantined did not."""
    out: dict[int, int] = {}
    for receipt in made:
        stop = int(receipt.unit["slots"][1])
        for ordinal in receipt.unit["ordinals"]:
            out[ordinal] = max(out.get(ordinal, 0), stop)
    return out


def members_before(parts: Parts, generation: int) -> list[Member]:
    """Return everybody enrolled before a generation, in ordinal order."""
    return [
        m for path in enrolled_paths(parts.store, generation) for m in parts.segments.read_members(parts.store, path)
    ]


def probed_vectors(parts: Parts, generation: int, known: Mapping[str, Receipt]) -> Float32 | None:
    """Return the vectors of every candidate probed before `generation`, (P, D); None where there are none."""
    mine = [
        name
        for name, r in sorted(known.items())
        if r.unit["stage"] == Stage.ENROL.value and r.unit["generation"] < generation
    ]
    blocks = [parts.segments.read_columns(parts.store, name, ["vector"])["vector"] for name in mine]
    # a unit whose every candidate was erased has no vector that shows how long vectors are
    blocks = [block for block in blocks if len(block)]
    return np.concatenate(blocks) if blocks else None


def enrolled_templates(parts: Parts, generation: int) -> Float32 | None:
    """Return the templates of everybody enrolled before `generation`, (M, E), in ordinal order; None for the first."""
    blocks = []
    for path in enrolled_paths(parts.store, generation):
        identities, _ = parts.segments.read_identities(parts.store, path)
        blocks += [i.template_E for i in identities]
    return np.stack(blocks) if blocks else None


def embedding_sums(parts: Parts, rows: Iterable[IndexRow], ordinals: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the float64 sums of the published embeddings of these identities, (n, E), in the order of `ordinals`.

    Embeddings are added one by one in the order of segment and row, so that a sum is one number everywhere.
    """
    place = {ordinal: n for n, ordinal in enumerate(ordinals)}
    by_segment: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.identity in place:
            by_segment[row.segment].add(row.key)
    sums: npt.NDArray[np.float64] | None = None
    for segment in sorted(by_segment):
        columns = parts.segments.read_columns(parts.store, segment, ["key", "identity", "embedding"])
        wanted = np.array([k in by_segment[segment] for k in columns["key"]], bool)
        emb, owner = columns["embedding"][wanted], columns["identity"][wanted]
        if sums is None:
            sums = np.zeros((len(ordinals), emb.shape[1]))
        # unbuffered, one row after the other
        np.add.at(sums, [place[int(o)] for o in owner], emb.astype(np.float64))
    return np.empty((0, 0)) if sums is None else sums


def rows_of(past: Past, ordinals: Iterable[int]) -> Iterator[IndexRow]:
    """Yield the published rows of these identities; the index is sorted by label, so nothing else is looked at."""
    for ordinal in ordinals:
        label = (past.labels or {})[ordinal]
        first = bisect_left(past.rows, label, key=attrgetter("label"))
        yield from takewhile(lambda row: row.label == label, islice(past.rows, first, None))  # noqa: B023


def published_templates(parts: Parts, past: Past) -> tuple[list[int], Float32]:
    """Return the published ordinals in label order and the templates of their published images, (M, E)."""
    labels = past.labels or {}
    ordinals = sorted(labels, key=lambda o: labels[o])
    if not ordinals:
        return [], np.empty((0, 0), np.float32)
    blocks = []
    for start in range(0, len(ordinals), 4096):
        part = ordinals[start : start + 4096]
        blocks.append(unit_rows(embedding_sums(parts, rows_of(past, part), part), "templates of published identities"))
    return ordinals, np.concatenate(blocks)


def published_siblings(parts: Parts, unit: Unit) -> dict[int, Float32]:
    """Return the embeddings of the published images of a unit's identities, (K, E) each, by ordinal, in key order."""
    manifest = read_manifest(parts.store, unit.siblings_of)
    mine = set(unit.ordinals)
    rows = sorted(
        (r for r in image_rows(parts.segments, parts.store, manifest) if r.identity in mine), key=attrgetter("key")
    )
    embeddings: dict[str, Float32] = {}
    for segment in sorted({r.segment for r in rows}):
        columns = parts.segments.read_columns(parts.store, segment, ["key", "embedding"])
        wanted = {r.key for r in rows if r.segment == segment}
        embeddings |= {k: columns["embedding"][n] for n, k in enumerate(columns["key"]) if k in wanted}
    out: dict[int, list[Float32]] = defaultdict(list)
    for row in rows:
        out[row.identity].append(embeddings[row.key])
    return {ordinal: np.stack(found) for ordinal, found in out.items()}
