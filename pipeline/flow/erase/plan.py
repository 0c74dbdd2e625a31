"""What an erasure comes to: what was asked for, as numbers, and which units hold something of it. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.domain.errors import UserError
from pipeline.domain.manifest import IndexRow, Manifest, Receipt
from pipeline.domain.records import Member, identity_of, minted_key
from pipeline.domain.revisions import revised
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.unit import Stage
from pipeline.flow.commit import enrolled_paths, is_enrolled
from pipeline.flow.erase.gone import Gone, Image, image_of
from pipeline.flow.erase.inputs import Inputs, Tables, find_inputs, slots_of_input
from pipeline.flow.erase.journal import Journal, next_number
from pipeline.flow.erase.rewrite import audit_of, require_whole, revisions_of
from pipeline.flow.parts import Parts
from pipeline.flow.versions import published_rows

KEY = re.compile(r"i\d{8}-s\d{4}-a\d{2}(-t\d{2})?")
"""The form of an image's key."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked to be erased.

    Attributes:
        identities: ordinals.
        images: keys; a twin's stands for the image that it was made of.
        sources: rows of the file that the sampler took vectors from; of a curated dataset numbers of inputs.
    """

    identities: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    sources: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything is asked for."""
        return bool(self.identities or self.images or self.sources)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure comes to.

    Attributes:
        newest: the newest version.
        tombstones: what goes; empty where all that was asked for is erased already.
        already: how much of what was asked for is erased already.
        gone: what goes, as a question.
        members: everybody of those who go, by ordinal.
        rows: of the newest version's index, what goes, twins included.
        stay: how many of its identities stay.
        touched: receipts of the units that hold something of it.
        enrolled: receipts of the generations whose enrolled files do.
        inputs: of a curated dataset, which inputs go.
    """

    newest: Manifest
    tombstones: Tombstones
    already: int
    gone: Gone
    members: Mapping[int, Member] = field(default_factory=dict)
    rows: tuple[IndexRow, ...] = ()
    stay: int = 0
    touched: tuple[Receipt, ...] = ()
    enrolled: tuple[Receipt, ...] = ()
    inputs: Inputs = field(default_factory=Inputs)

    def journal(self, parts: Parts) -> Journal:
        """Return the journal with which it begins."""
        return Journal(
            number=next_number(parts.store),
            parent=self.newest.version,
            generation=self.newest.generation + 1,
            tombstones=self.tombstones,
            candidates=tuple(sorted(self.gone.candidates)),
            units={r.name: revised(r.name) for r in self.touched},
            enrolled=revisions_of(self.enrolled),
            begun_s=parts.clock.now_s(),
            faces=self.inputs.faces,
            rows=self.inputs.rows,
        )


def plan_erasure(
    parts: Parts, known: Mapping[str, Receipt], newest: Manifest, wanted: Wanted, tables: Tables | None = None
) -> Erasure:
    """Return what an erasure comes to.

    Args:
        parts: the ports.
        known: every receipt.
        newest: the newest version; no generation was begun after it.
        wanted: what is asked for.
        tables: of a curated dataset, what reads its tables.

    Raises:
        UserError: there is no such identity, image or source, or nobody would be left.
        StoreError: a file that has to be rewritten is missing or altered.
    """
    members = _members(parts, newest.generation + 1)
    asked = wanted if tables is None else _by_input(parts, tables, newest, wanted, members)
    stones, candidates, already = _resolved(parts, known, newest, asked, members)
    inputs = Inputs()
    if tables is not None:
        inputs = find_inputs(parts, tables, known, Gone.of(stones, candidates), wanted.sources)
        before = newest.tombstones.candidates
        already += sum(row in before for row in wanted.sources)
        stones = replace(stones, candidates=tuple(row for row in sorted({*wanted.sources}) if row not in before))
    gone = Gone.of(stones, candidates)
    if not stones:
        return Erasure(newest, stones, already, gone)
    rows = published_rows(parts.segments, parts.store, newest)
    goes = tuple(row for row in rows if gone.takes(row.key))
    stay = len({r.identity for r in rows} - {r.identity for r in goes}) + len(_poorer(rows, goes))
    if not stay:
        raise UserError(
            f"{parts.store.uri}: this would erase everybody whom {newest.version} holds, and a version of nobody is "
            "not published; delete the dataset itself, with its exports and copies"
        )
    touched = tuple(r for _, r in sorted(known.items()) if gone.touches(r) and _holds(parts, r, gone))
    enrolled = _closing(parts, known, gone)
    for receipt in (*touched, *(audit_of(parts, r) for r in touched), *enrolled):
        for entry in receipt.files:
            require_whole(parts, entry)
    mine = {o: members[o] for o in stones.identities}
    return Erasure(newest, stones, already, gone, mine, goes, stay, touched, enrolled, inputs)


def _by_input(parts: Parts, tables: Tables, newest: Manifest, wanted: Wanted, members: Mapping[int, Member]) -> Wanted:
    """Return what is asked for of a curated dataset, its inputs as the images that were made of them, if any.

    Raises:
        UserError: there is no such input.
    """
    keys = list(wanted.images)
    for row in wanted.sources:
        given, there = slots_of_input(parts, tables, row)
        if not there:
            raise UserError(f"--source {row}: no input of that number was listed; numbers stand under private/sources/")
        if row not in newest.tombstones.candidates:
            keys += [minted_key(identity, slot, 0) for identity, slot in given if identity in members]
    left = {r.identity for r in published_rows(parts.segments, parts.store, newest) if r.key not in set(keys)}
    # of whom no image is left the template goes too
    whole = {identity_of(key) for key in keys if KEY.fullmatch(key)} & members.keys() - left
    images = (key for key in dict.fromkeys(keys) if not KEY.fullmatch(key) or identity_of(key) not in whole)
    return replace(
        wanted, identities=(*dict.fromkeys((*wanted.identities, *sorted(whole))),), images=tuple(images), sources=()
    )


def _members(parts: Parts, generation: int) -> dict[int, Member]:
    paths = enrolled_paths(parts.store, generation)
    return {m.ordinal: m for path in paths for m in parts.segments.read_members(parts.store, path)}


def _resolved(
    parts: Parts, known: Mapping[str, Receipt], newest: Manifest, wanted: Wanted, members: Mapping[int, Member]
) -> tuple[Tombstones, list[int], int]:
    """Return what is to be erased that is not yet, the numbers of candidates, and how much is erased already."""
    identities, bare, already = set[int](), set[int](), 0
    before = newest.tombstones
    for ordinal in wanted.identities:
        already += ordinal in before.identities
        if ordinal not in before.identities:
            identities.add(_known_member(parts, ordinal, members))
    of_candidate = {m.candidate: m.ordinal for m in members.values()}
    for row in wanted.sources:
        if row in of_candidate:
            identities.add(of_candidate[row])
        elif _probed(parts, known, row):
            bare.add(row)
        elif row in before.candidates or _proposed(known, row):
            already += 1
        else:
            raise UserError(
                f"--source {row}: nothing is stored here that was made from row {row} of the sampler's file"
            )
    images = set[Image]()
    for key in wanted.images:
        image = _known_key(key)
        if image[0] in before.identities or image in before.images:
            already += 1
        elif image[0] not in identities:
            images.add(_known_image(parts, known, key, image))
    stones = Tombstones(tuple(sorted(identities)), tuple(sorted(images)), tuple(sorted(bare)))
    return stones, [*bare, *(members[o].candidate for o in identities)], already


def _known_member(parts: Parts, ordinal: int, members: Mapping[int, Member]) -> int:
    if ordinal not in members:
        raise UserError(
            f"--identity {ordinal}: nobody of that number is enrolled in {parts.store.uri}; it is the stable number in "
            f"`identity` of the index and in an image's key, 0 to {max(members, default=0)} here, and not a label"
        )
    return ordinal


def _known_key(key: str) -> Image:
    try:
        return image_of(key)
    except ValueError:
        raise UserError(f"--image {key}: no key of an image of ours; they look like i00000012-s0007-a02") from None


def _known_image(parts: Parts, known: Mapping[str, Receipt], key: str, image: Image) -> Image:
    gone = Gone(frozenset(), frozenset({image}), frozenset())
    if not any(gone.touches(r) and _holds(parts, r, gone) for r in known.values()):
        raise UserError(f"--image {key}: no such image is stored in {parts.store.uri}; keys stand in the index")
    return image


def _proposed(known: Mapping[str, Receipt], candidate: int) -> bool:
    gone = Gone(frozenset(), frozenset(), frozenset({candidate}))
    return any(gone.touches(r) for r in known.values())


def _probed(parts: Parts, known: Mapping[str, Receipt], candidate: int) -> bool:
    gone = Gone(frozenset(), frozenset(), frozenset({candidate}))
    return any(gone.touches(r) and _holds(parts, r, gone) for r in known.values())


def _holds(parts: Parts, receipt: Receipt, gone: Gone) -> bool:
    """Return whether a unit has a row of what goes; its receipt alone cannot tell."""
    if receipt.unit["stage"] == Stage.ENROL.value:
        rows = parts.segments.read_columns(parts.store, receipt.name, ["candidate"])["candidate"]
        return any(int(candidate) in gone.candidates for candidate in rows)
    return any(gone.takes(k) for k in parts.segments.read_columns(parts.store, receipt.name, ["key"])["key"])


def _closing(parts: Parts, known: Mapping[str, Receipt], gone: Gone) -> tuple[Receipt, ...]:
    """Return the receipts of the generations in which those who go were enrolled."""
    out = []
    for _, receipt in sorted(known.items()):
        paths = [f.path for f in receipt.files if is_enrolled(f.path)]
        if receipt.unit["stage"] == "enrolled" and paths:
            there = parts.segments.read_members(parts.store, paths[0])
            if any(m.ordinal in gone.identities for m in there):
                out.append(receipt)
    return tuple(out)


def _poorer(rows: Sequence[IndexRow], goes: Sequence[IndexRow]) -> set[int]:
    """Return who loses images and keeps others."""
    keys = {row.key for row in goes}
    return {r.identity for r in goes} & {r.identity for r in rows if r.key not in keys}
