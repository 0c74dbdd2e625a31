"""The frozen listing: every input of every source, numbered once and for all, before any of them is read.

What a run works on follows from the listing and from nothing else. Growth lists again and appends what is new under the
next numbers; what was listed before keeps its number, whether or not it is still there. Inputs of labels that were too
small (`reopening`) come again, behind what is new, where their label has something new.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.domain.errors import StoreError, TargetNotReachedError
from pipeline.domain.intake import Fault, Input, Unreadable
from pipeline.domain.manifest import Counts, FileEntry, Receipt, receipt_path
from pipeline.flow.commit import Books, commit
from pipeline.flow.curating.kit import Kit, curation, words
from pipeline.flow.curating.reopening import owners_given, too_few_of
from pipeline.flow.curating.rows import owner_of
from pipeline.flow.erase.suppression import Suppressed
from pipeline.flow.parts import Parts

PREFIX = "private/sources/"
AGAIN = "again"
"""Under which a listing's receipt names the earlier numbers of inputs that it lists again, if there are any."""
COLUMNS = {
    "row": "int64",
    "source": "string",
    "path": "binary",
    "member": "string",
    "offset": "int64",
    "length": "int64",
    "stamp": "string",
    "label": "string?",
    "columns": "words",
    "fault": "string",
    "found": "string",
}


def listing_path(generation: int) -> str:
    """Return where the inputs that a generation added are listed."""
    return f"{PREFIX}s{generation + 1:06d}.parquet"


def listing_name(generation: int) -> str:
    """Return the name of the receipt of a generation's listing."""
    return f"listed-g{generation}"


@dataclass(frozen=True, slots=True)
class Listed:
    """One numbered input."""

    row: int
    source: str
    input: Input
    again: int = -1
    """Its number in an earlier listing, of an input that comes again."""


@dataclass(slots=True)
class Seen:
    """What earlier listings hold: by a digest of where it lies, so that millions fit into memory."""

    stamps: dict[bytes, bytes] = field(default_factory=dict)
    """Digest of source, path and member -> digest of the stamp."""
    rows: int = 0
    """Inputs listed before, each counted once."""
    next_row: int = 0
    small: dict[bytes, int] = field(default_factory=dict)
    """Digest of source, path and member -> number, of inputs whose label was too small and is nobody's."""
    shared_labels: bool = False
    changed: int = 0
    """Inputs listed before whose stamp is another one now."""
    there: int = 0
    """Inputs listed before that are still there."""
    erased: Suppressed | frozenset[str] = frozenset()
    """Digests of places of which something was erased: they are not listed again."""

    @property
    def gone(self) -> int:
        """Return how many inputs that were listed before are not there any more."""
        return self.rows - self.there


def new_inputs(kit: Kit, seen: Seen) -> Iterator[Listed]:
    """Yield what no earlier listing holds, source by source, numbered onwards; count what changed or went.

    Behind it comes what was refused of the same labels as they were too small.
    """
    row, fresh = seen.next_row, set[str]()
    waiting: dict[str, list[Listed]] = defaultdict(list)
    for name, source in kit.sources.items():
        for one in source.listing():
            place = _place(name, one)
            owner = owner_of(name, one.label, shared=seen.shared_labels) if seen.small else ""
            known = seen.stamps.get(place)
            if known is None and place.hex() in seen.erased:
                continue
            if known is None:
                yield Listed(row, name, one)
                row += 1
                fresh.add(owner)
                continue
            if owner and place in seen.small and place.hex() not in seen.erased:
                waiting[owner].append(Listed(0, name, one, again=seen.small[place]))
            seen.there += 1
            seen.changed += known != _short(one.stamp)
    again = (listed for owner in sorted(fresh & waiting.keys()) for listed in waiting[owner])
    yield from (replace(listed, row=row + n) for n, listed in enumerate(again))


def earlier(kit: Kit, parts: Parts, generation: int) -> Seen:
    """Return what the listings before a generation hold."""
    seen = Seen(erased=Suppressed(parts.store), shared_labels=curation(parts).clean.shared_labels)
    given = owners_given(kit, parts, generation)
    for before in range(generation):
        path = listing_path(before)
        if parts.store.size(path) is None:
            if parts.store.size(receipt_path(listing_name(before))) is not None:
                # listed anew, what is published already would be taken for new
                raise StoreError(f"{path}: missing; restore it from a copy")
            continue
        few = too_few_of(kit, parts, before)
        columns = kit.tables.read(parts.store, path, ["source", "path", "member", "stamp", "row", "label"])
        for source, path_, member, stamp, row, label in zip(*columns.values(), strict=True):
            place = _digest(source.encode(), path_, member.encode())
            seen.stamps[place] = _short(stamp)
            seen.small.pop(place, None)
            if row in few and label is not None and owner_of(source, label, shared=seen.shared_labels) not in given:
                seen.small[place] = int(row)
        seen.next_row += len(columns["source"])
    seen.rows = seen.next_row - len(listed_again(parts, generation))
    return seen


def listed_again(parts: Parts, generations: int) -> frozenset[int]:
    """Return the numbers of inputs that a later listing has again, among the generations before one."""
    found = parts.store.get_many([receipt_path(listing_name(g)) for g in range(generations)])
    return frozenset(row for data in found.values() for row in Receipt.from_json(data).unit.get(AGAIN, ()))


def freeze(kit: Kit, parts: Parts, books: Books, generation: int) -> Receipt:
    """List what is new, write it and commit; return the receipt, or the one that stands.

    Raises:
        TargetNotReachedError: the first listing holds nothing.
    """
    name = listing_name(generation)
    if books.has(name):
        return books.known[name]
    seen = earlier(kit, parts, generation)
    first = seen.next_row
    count = 0
    again: list[int] = []

    def rows() -> Iterator[Mapping[str, Any]]:
        nonlocal count
        for listed in new_inputs(kit, seen):
            count += 1
            again.extend([listed.again] if listed.again >= 0 else [])
            yield _row(listed)

    entry: FileEntry = kit.tables.write(parts.store, listing_path(generation), COLUMNS, rows())
    if not count and not first:
        parts.store.delete(entry.path)
        raise TargetNotReachedError(
            f"the sources hold nothing: {', '.join(kit.sources)}; look at the paths that the recipe names"
        )
    unit = {
        "stage": "listed", "generation": generation, "index": 0, "round": 0, "rows": [first, first + count],
        "changed": seen.changed, "gone": seen.gone, **({AGAIN: sorted(again)} if again else {}),
    }  # fmt: skip
    receipt = Receipt(
        unit=unit,
        name=name,
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=Counts(count, count, 0, {}),
        files=(entry,),
        run=dict(parts.run_facts),
    )
    commit(parts, receipt)
    books.add(receipt)
    return receipt


def read_listing(kit: Kit, parts: Parts, generation: int, rows: tuple[int, int]) -> list[Listed]:
    """Return the inputs of a generation with numbers in a half-open range."""
    found = kit.tables.read(
        parts.store, listing_path(generation), list(COLUMNS), rows=_offsets(kit, parts, generation, rows)
    )
    out = []
    for n in range(len(found["row"])):
        fault = Unreadable(Fault(found["fault"][n]), found["found"][n]) if found["fault"][n] else None
        one = Input(
            path=found["path"][n].decode("utf-8", "surrogateescape"),
            member=found["member"][n],
            offset=int(found["offset"][n]),
            length=int(found["length"][n]),
            stamp=found["stamp"][n],
            label=found["label"][n],
            columns=found["columns"][n],
            fault=fault,
        )
        out.append(Listed(int(found["row"][n]), found["source"][n], one))
    return out


def _offsets(kit: Kit, parts: Parts, generation: int, rows: tuple[int, int]) -> tuple[int, int]:
    first = int(kit.tables.read(parts.store, listing_path(generation), ["row"], rows=(0, 1))["row"][0])
    return rows[0] - first, rows[1] - first


def _row(listed: Listed) -> Mapping[str, Any]:
    one = listed.input
    return {
        "row": listed.row,
        "source": listed.source,
        "path": one.path.encode("utf-8", "surrogateescape"),
        "member": one.member,
        "offset": one.offset,
        "length": one.length,
        "stamp": one.stamp,
        "label": one.label,
        "columns": words(one.columns),
        "fault": one.fault.reason.value if one.fault else "",
        "found": one.fault.found if one.fault else "",
    }


def place_digest(source: str, path: bytes, member: str) -> str:
    """Return a digest of where an input lies, by the columns of a listing."""
    return _digest(source.encode(), path, member.encode()).hex()


def _place(source: str, one: Input) -> bytes:
    return _digest(source.encode(), one.path.encode("utf-8", "surrogateescape"), one.member.encode())


def _digest(*parts: bytes) -> bytes:
    # lengths in between, so that no two places share a digest by where one part ends
    joined = b"".join(len(p).to_bytes(8, "big") + p for p in parts)
    return hashlib.sha256(joined).digest()[:16]


def _short(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8]
