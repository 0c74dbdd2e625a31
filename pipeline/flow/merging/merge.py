"""Merging: who of several datasets stands in the one that they become, and why the others do not.

The sources come in order of precedence, and what stands of an earlier one is never touched by a later one. An identity
whose template collides with one before it gives way; so does an image that is a copy of one before it. What is decided
is written as tables, one per source, from which every unit of copying follows:

    enrolled/sources-g<k>.parquet    key, identity, label, cell; key, identity, place there, digest

Legend: N images, M identities, E judge dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import BlockProduct
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.hashes import joined
from pipeline.domain.manifest import IndexRow, Manifest, segment_path, sha256_hex
from pipeline.domain.merging import first_copies, rekeyed
from pipeline.domain.ports import SegmentWriter, Store
from pipeline.domain.records import Float32, Whole, unit_rows
from pipeline.domain.separation import separate
from pipeline.domain.twins import is_twin, parent_of
from pipeline.flow.rounds import COLLIDES
from pipeline.flow.sidecars import read_added_embeddings, read_sidecars
from pipeline.flow.wholes import KEPT

UNREADABLE = "numbers_not_finite"
COPY, NEAR_COPY = "copy", "near_copy"
NO_IMAGE_LEFT = "no_image_left"
HASH = ("phash_hi", "phash_lo")
"""Measures by which near copies are found, where every image compared has them."""
MOST_PAIRS = 100
"""Colliding pairs that are listed; all are counted."""
OnCollision = Literal["drop", "keep", "refuse"]


@dataclass(frozen=True, slots=True)
class Source:
    """A version that is merged.

    Attributes:
        store: its dataset.
        segments: reads it.
        manifest: the version.
        rows: its index, twins among them where they are copied.
        offset: what is added to its ordinals.
        judge: name of the side-car from which its embeddings come; empty where they are those that are stored.
    """

    store: Store
    segments: SegmentWriter
    manifest: Manifest
    rows: tuple[IndexRow, ...] = field(repr=False)
    offset: int
    judge: str = ""

    @property
    def images(self) -> list[IndexRow]:
        """Return its rows without twins."""
        return [r for r in self.rows if not is_twin(r.key)]

    def embeddings(self, segment: str) -> tuple[Sequence[str], Float32]:
        """Return keys and embeddings (N, E) of a segment under the common judge; NaN where a face is unreadable."""
        if self.judge:
            return read_added_embeddings(self.segments, self.store, segment, self.judge)
        columns = self.columns(segment, ["key", "embedding"])
        return columns["key"], columns["embedding"]

    def columns(self, segment: str, names: Sequence[str]) -> Mapping[str, Any]:
        """Return columns of a segment; raises StoreError where it is not there."""
        try:
            return self.segments.read_columns(self.store, segment, names)
        except FileNotFoundError:
            raise self._missing(segment_path(segment, "parquet")) from None

    def tar(self, segment: str) -> bytes:
        """Return the tar of a segment, whole: a request per image would cost a remote store more than its bytes."""
        path = segment_path(segment, "tar")
        try:
            return self.store.get(path)
        except FileNotFoundError:
            raise self._missing(path) from None

    @property
    def keeps_wholes(self) -> bool:
        """Return whether the pictures that its images were cut from are stored beside them: of all, or of none."""
        return bool(self.manifest.counts.get(KEPT))

    def wholes(self, segment: str) -> Mapping[str, Whole]:
        """Return key -> whole picture of a segment's images."""
        return (self.segments.read_wholes(self.store, segment) or {}) if self.keeps_wholes else {}

    def _missing(self, path: str) -> StoreError:
        return StoreError(f"{self.store.uri}: {path}: missing; look with `facemint verify`")


@dataclass(frozen=True, slots=True)
class Taken:
    """An image of the merged dataset: a row of the table of its source."""

    key: str
    identity: int
    label: int
    cell: str
    source_key: str
    source_identity: int
    segment: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What of one source stands.

    Attributes:
        taken: its images, twins among them, by identity and key.
        dropped: ordinal in the source -> why it does not stand.
        left_out: images of others that do not stand, by reason.
        collisions: the pairs that collide: ordinal in the source, ordinal here of the earlier one, cosine.
        templates: ordinal here -> template of its images under the common judge, their number, and the mean cosine
            of them to it.
    """

    taken: tuple[Taken, ...] = field(repr=False)
    dropped: Mapping[int, str]
    left_out: Mapping[str, int]
    collisions: tuple[tuple[int, int, float], ...]
    templates: Mapping[int, tuple[Float32, int, float]] = field(repr=False)


COLUMNS = {
    "key": "string", "identity": "int64", "label": "int64", "cell": "string", "source_key": "string",
    "source_identity": "int64", "segment": "string", "offset": "int64", "length": "int64", "sha256": "string",
}  # fmt: skip


def table_path(generation: int) -> str:
    """Return where the table of a source lies; the k-th source is the k-th generation."""
    return f"enrolled/sources-g{generation}.parquet"


def decide(
    sources: Sequence[Source],
    threshold_cos: float,
    on_collision: OnCollision,
    copy_bits: int,
    product: BlockProduct,
    tell: Callable[[str], object] = lambda _what: None,
) -> list[Decided]:
    """Return what stands of each source.

    Args:
        sources: in order of precedence.
        threshold_cos: templates that reach it collide.
        on_collision: whether the later identity is dropped, kept, or everything refused.
        copy_bits: in how many bits the hashes of copies differ at most.
        product: finds the pairs that may collide.
        tell: is told what is looked at.

    Raises:
        UserError: identities collide, and that is to be refused.
        StoreError: a source is damaged.
    """
    people = []
    for n, source in enumerate(sources):
        tell(f"templates {n}")
        people.append(_People.read(source))
    for n in range(1, len(people)):
        before = [p.standing() for p in people[:n]]
        people[n].give_way(before, threshold_cos, on_collision, product)
    if on_collision == "refuse" and (found := [(n, c) for n, p in enumerate(people) for c in p.collisions]):
        n, (mine, other, cos) = found[0]
        raise UserError(
            f"{len(found)} identities collide at a cosine of {threshold_cos:.3f}: identity {mine} of "
            f"{sources[n].store.uri} with identity {other} of the merged dataset, {cos:.3f}; drop the later ones with "
            "--on-collision drop, or keep them with keep"
        )
    seen = _Seen(copy_bits)
    for n, person in enumerate(people):
        tell(f"copies {n}")
        person.leave_out_copies(seen, first=n == 0)
    for n in range(1, len(people)):
        if on_collision == "drop" and people[n].lost:
            before = [p.standing() for p in people[:n]]
            people[n].give_way(before, threshold_cos, on_collision, product)
    out: list[Decided] = []
    for person in people:
        out.append(person.decided(sum(len({t.identity for t in d.taken}) for d in out)))
    return out


Standing = tuple[list[int], Float32]
"""Ordinals in the merged dataset, and their templates (M, E)."""


@dataclass(slots=True)
class _People:
    """One source while it is decided about."""

    source: Source
    sums: dict[int, npt.NDArray[np.float64]]
    keys: dict[int, list[str]]
    """Ordinal -> keys of the images that stand, in the order of the index."""
    dropped: dict[int, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    collisions: list[tuple[int, int, float]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    """Whether somebody lost an image since the templates were last compared."""

    @classmethod
    def read(cls, source: Source) -> _People:
        """Read the embeddings of a source; an image that could not be read is left out."""
        mine = cls(source, {}, defaultdict(list))
        for row in source.images:
            mine.keys[row.identity].append(row.key)
        for row, emb_E in _each(source, source.images):
            if np.isfinite(emb_E).all():
                mine._add(row.identity, emb_E, 1.0)
            else:
                mine._take_out(row.identity, row.key, UNREADABLE)
        mine._empty()
        mine.lost = False
        return mine

    def standing(self) -> Standing:
        """Return who stands, in the order of labels, with templates."""
        who = self._who()
        rows = unit_rows(np.stack([self.sums[o] for o in who]), "templates of merged identities") if who else None
        return [o + self.source.offset for o in who], rows if rows is not None else np.empty((0, 0), np.float32)

    def give_way(
        self, before: Sequence[Standing], threshold_cos: float, on_collision: OnCollision, product: BlockProduct
    ) -> None:
        """Drop who collides with somebody that stands before, or earlier in the same source."""
        ordinals = [o for who, _ in before for o in who]
        blocks = [rows for who, rows in before if who]
        who, templates = self.standing()
        self.lost = False
        if not who:
            return
        names = [*ordinals, *who]
        kept = np.concatenate(blocks) if blocks else None
        found = separate(templates, threshold_cos, kept_before_ME=kept, product=product)
        for n in np.flatnonzero(~found.kept_N).tolist():
            mine = who[n] - self.source.offset
            self.collisions.append((mine, names[int(found.collided_with_N[n])], float(found.cos_N[n])))
            if on_collision == "drop":
                self._drop(mine, COLLIDES)

    def leave_out_copies(self, seen: _Seen, *, first: bool) -> None:
        """Hash every image that stands; of a later source leave out what was seen before."""
        rows = [r for r in self.source.rows if r.identity in self.keys]
        standing = {k for keys in self.keys.values() for k in keys}
        rows = [r for r in rows if r.key in standing or (parent_of(r.key) or "") in standing]
        self.digests = dict(_digests(self.source, rows))
        images = [r for r in rows if not is_twin(r.key)]
        hashes = _hashes(self.source, images)
        reasons = {} if first else seen.copies(images, self.digests, hashes)
        gone = [r for r in images if r.key in reasons]
        for row, emb_E in _each(self.source, gone):
            self._add(row.identity, emb_E, -1.0)
            self._take_out(row.identity, row.key, reasons[row.key])
        self._empty()
        seen.add([r for r in images if r.key not in reasons], self.digests, hashes)

    def decided(self, labels_before: int) -> Decided:
        """Return what stands, labelled after those before."""
        offset, who = self.source.offset, self._who()
        labels = {o: labels_before + n for n, o in enumerate(who)}
        standing = {k for keys in self.keys.values() for k in keys}
        rows = [r for r in self.source.rows if r.key in standing or (parent_of(r.key) or "") in standing]
        taken = [
            Taken(
                rekeyed(r.key, offset), r.identity + offset, labels[r.identity], r.cell,
                r.key, r.identity, r.segment, r.offset, r.length, self.digests[r.key],
            )
            for r in rows
        ]  # fmt: skip
        _, templates = self.standing()
        return Decided(
            taken=tuple(sorted(taken, key=lambda t: (t.identity, t.key))),
            dropped=dict(sorted(self.dropped.items())),
            left_out=dict(sorted(self.left_out.items())),
            collisions=tuple(sorted(self.collisions)),
            templates={o + offset: (t, *self._spread(o)) for o, t in zip(who, templates, strict=True)},
        )

    def _spread(self, ordinal: int) -> tuple[int, float]:
        """Return the number of an identity's images and the mean of their cosines to its template."""
        count = len(self.keys[ordinal])
        return count, float(np.linalg.norm(self.sums[ordinal])) / count

    def _who(self) -> list[int]:
        """Return who stands, in the order of the source's labels."""
        return list(dict.fromkeys(r.identity for r in self.source.rows if r.identity in self.keys))

    def _add(self, ordinal: int, emb_E: Float32, sign: float) -> None:
        if ordinal not in self.sums:
            self.sums[ordinal] = np.zeros(len(emb_E))
        self.sums[ordinal] += sign * emb_E.astype(np.float64)

    def _take_out(self, ordinal: int, key: str, reason: str) -> None:
        self.keys[ordinal].remove(key)
        self.left_out[reason] += 1
        self.lost = True

    def _empty(self) -> None:
        for ordinal in [o for o, keys in self.keys.items() if not keys]:
            self._drop(ordinal, NO_IMAGE_LEFT)

    def _drop(self, ordinal: int, reason: str) -> None:
        self.keys.pop(ordinal, None)
        self.sums.pop(ordinal, None)
        self.dropped[ordinal] = reason


class _Seen:
    """Images of the sources before: by digest, and by perceptual hash where all have one."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._digests: set[str] = set()
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._hashed = True

    def add(self, rows: Sequence[IndexRow], digests: Mapping[str, str], hashes: Mapping[str, int] | None) -> None:
        """Take note of images."""
        self._digests.update(digests[r.key] for r in rows)
        self._hashed = self._hashed and hashes is not None
        if hashes is not None:
            self._hashes.append(np.array([hashes[r.key] for r in rows], np.uint64))

    def copies(
        self, rows: Sequence[IndexRow], digests: Mapping[str, str], hashes: Mapping[str, int] | None
    ) -> dict[str, str]:
        """Return key -> why it is a copy of an image before."""
        out = {r.key: COPY for r in rows if digests[r.key] in self._digests}
        if hashes is not None and self._hashed and self._hashes:
            mine = np.array([hashes[r.key] for r in rows], np.uint64)
            near = first_copies(mine, np.concatenate(self._hashes), self._bits)
            out = {r.key: NEAR_COPY for r, n in zip(rows, near.tolist(), strict=True) if n >= 0} | out
        return out


def _by_segment(rows: Iterable[IndexRow]) -> dict[str, list[IndexRow]]:
    out: dict[str, list[IndexRow]] = defaultdict(list)
    for row in rows:
        out[row.segment].append(row)
    return dict(sorted(out.items()))


def _each(source: Source, rows: Iterable[IndexRow]) -> Iterator[tuple[IndexRow, Float32]]:
    """Yield index rows with their embeddings, segment by segment in the order of its rows."""
    for segment, mine in _by_segment(rows).items():
        wanted = {r.key: r for r in mine}
        keys, emb_NE = source.embeddings(segment)
        found = [(wanted[k], emb_NE[n]) for n, k in enumerate(keys) if k in wanted]
        if len(found) < len(wanted):
            raise StoreError(
                f"{source.store.uri}: {len(wanted) - len(found)} images of {segment} have no embedding under the "
                "common judge; look with `facemint verify`"
            )
        yield from found


def _digests(source: Source, rows: Iterable[IndexRow]) -> Iterator[tuple[str, str]]:
    """Yield key and SHA-256 of images; one tar is in memory at a time."""
    for segment, mine in _by_segment(rows).items():
        tar = source.tar(segment)
        for row in mine:
            yield row.key, sha256_hex(tar[row.offset : row.offset + row.length])


def _hashes(source: Source, rows: Iterable[IndexRow]) -> dict[str, int] | None:
    """Return the perceptual hash of each image; None where one has none."""
    out: dict[str, int] = {}
    for segment, mine in _by_segment(rows).items():
        wanted = {r.key for r in mine}
        columns = source.columns(segment, ["key", "measures"])
        stored = {k: dict(m) for k, m in zip(columns["key"], columns["measures"], strict=True) if k in wanted}
        added = read_sidecars(source.segments, source.store, segment)
        for key in wanted:
            numbers = {**added.get(key, {}), **stored[key]}
            if any(name not in numbers for name in HASH):
                return None
            out[key] = int(joined([numbers[HASH[0]]], [numbers[HASH[1]]])[0])
    return out
