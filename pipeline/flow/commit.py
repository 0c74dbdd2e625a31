"""Bytes first, receipt last: the one place where a unit's outcome becomes true.

A commit has three outcomes with three meanings: the receipt was created; it existed with equal content (a retry, or
a worker thought dead that was not: no harm); or nobody knows, because the store failed: the error goes up, and the next
run finds out. A receipt with *other* content is none of these: the digest promise is broken somewhere, and the run
ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from pipeline.domain.errors import FacemintError, PlanMismatchError, StoreError
from pipeline.domain.manifest import Counts, FileEntry, Receipt, receipt_path
from pipeline.domain.ports import Store
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import ENROLLED, PRIVATE, without_private
from pipeline.domain.revisions import newest
from pipeline.domain.unit import Unit
from pipeline.flow.parts import Parts

_FILES = ("segments/", "audits/", "enrolled/", PREVIEWS, PRIVATE)
NOTES = "refuted/"
"""Receipts that were taken back, kept until their units are made again: what a unit was stands nowhere else."""


class Commit(Enum):
    """How a commit ended, where it is known."""

    COMMITTED = auto()
    ALREADY_COMMITTED = auto()


def enrolled_path(generation: int, *, private: bool = False) -> str:
    """Return where the identities enrolled in a generation are written; templates of real people are private."""
    return f"{PRIVATE if private else ''}enrolled/g{generation}.parquet"


def enrolled_paths(store: Store, generation: int) -> list[str]:
    """Return the files of everybody enrolled before a generation, oldest first; one that enrolled nobody has none.

    Of a file that was rewritten by erasing it is the newest revision. Those of real people are found under `private/`.
    """
    found = newest(p.removesuffix(".parquet") for p in store.list("enrolled/"))
    # a dataset has the one or the other: the second listing is of curated ones alone
    found = found or newest(p.removesuffix(".parquet") for p in store.list(ENROLLED))
    of = {without_private(stem): path for stem, path in found.items()}
    stems = (enrolled_path(g).removesuffix(".parquet") for g in range(generation))
    return [f"{of[stem]}.parquet" for stem in stems if stem in of]


def is_enrolled(path: str) -> bool:
    """Return whether a file is one of enrolled identities, or of their templates alone where they are real people."""
    return without_private(path).startswith("enrolled/")


def enrolled_count(known: Mapping[str, Receipt], generation: int) -> int:
    """Return how many identities were ever enrolled before a generation, those erased since among them.

    Ordinals are consecutive, so it is also the first ordinal of that generation; and as many people thresholds were
    resolved for.
    """
    closed = (known.get(enrolled_receipt_name(g)) for g in range(generation))
    return sum(r.counts.accepted + int(r.unit.get("erased", 0)) for r in closed if r is not None)


def enrolled_receipt_name(generation: int) -> str:
    """Return the name of the receipt that closes a generation's enrolment."""
    return f"enrolled-g{generation}"


def receipt_of(unit: Unit, parts: Parts, counts: Counts, files: Sequence[FileEntry], started_s: float) -> Receipt:
    """Return the receipt of a finished unit."""
    run = {**parts.run_facts, "start_s": round(started_s, 3), "end_s": round(parts.clock.now_s(), 3)}
    return Receipt(
        unit=unit.to_dict(),
        name=unit.name,
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=counts,
        files=tuple(sorted(files)),
        run=run,
    )


def commit(parts: Parts, receipt: Receipt) -> Commit:
    """Create the receipt; the segment's bytes are in the store already.

    Raises:
        StoreError: another receipt with other content stands there, or the store failed.
        LeaseHeldError: another run has taken the dataset over.
    """
    parts.guard()
    if parts.store.put_if_absent(receipt.path, receipt.to_json()):
        return Commit.COMMITTED
    standing = read_receipt(parts.store, receipt.path)
    if same_content(standing, receipt):
        return Commit.ALREADY_COMMITTED
    raise StoreError(
        f"{receipt.path}: a receipt with other content exists (made by {standing.run.get('host')}, "
        f"{standing.run.get('device_kind')}; ours: {receipt.run.get('device_kind')}); "
        "use one device kind per dataset, or set compute.mixed_devices"
    )


def same_content(one: Receipt, other: Receipt) -> bool:
    """Return whether two receipts say the same of the same work; the plan may have got more patience between them.

    How many previews are kept is no part of the work, and may have been changed between them too.
    """
    return _work_of(replace(one, plan_digest=other.plan_digest)) == _work_of(other)


def _work_of(receipt: Receipt) -> dict[str, Any]:
    return replace(receipt, files=tuple(f for f in receipt.files if not f.path.startswith(PREVIEWS))).content()


def read_receipt(store: Store, path: str) -> Receipt:
    """Return a stored receipt; raises StoreError, naming the file, where its bytes are no receipt."""
    return _parsed(path, store.get(path))


def receipts(store: Store, prefix: str = "") -> dict[str, Receipt]:
    """Return every receipt whose unit name starts with `prefix`, by unit name, from one listing.

    Of a unit that was rewritten by erasing it is that of the newest revision, under the name of that revision.
    """
    paths = [p for p in store.list(f"receipts/{prefix}") if p.endswith(".json")]
    found = store.get_many(paths)
    out = {}
    for path in paths:
        # one that went since the listing was taken back by another run of ours: as good as never there
        if path in found:
            receipt = _parsed(path, found[path])
            out[receipt.name] = receipt
    current = set(newest(out).values())
    return {name: receipt for name, receipt in out.items() if name in current}


def _parsed(path: str, data: bytes) -> Receipt:
    try:
        return Receipt.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not a receipt ({type(error).__name__}); restore it from a copy, or, where its generation is not "
            "published, delete it to have its unit made again"
        ) from None


def stored_sha256(store: Store, entry: FileEntry) -> str:
    """Return the digest of a stored file, read in blocks; FileNotFoundError where it is absent."""
    digest = hashlib.sha256()
    for block in store.blocks(entry.path):
        digest.update(block)
    return digest.hexdigest()


@dataclass(slots=True)
class Books:
    """What a dataset has: its receipts, and the sizes of its files, each from one listing. All that resume needs.

    Args:
        store: the dataset.
        fingerprint: of this run; receipts of another are refused.
        deep: hash every file that a receipt names once, instead of comparing sizes.
        refuted: told of every receipt that was found without its bytes.
        guard: raises where another run has taken the dataset over; called before anything is taken back.
    """

    store: Store
    fingerprint: str
    deep: bool = False
    refuted: Callable[[str, str], None] = lambda _name, _why: None
    guard: Callable[[], None] = lambda: None
    earlier: frozenset[str] = frozenset()
    """Fingerprints under which earlier generations were made, with other filters."""
    known: dict[str, Receipt] = field(default_factory=dict)
    dropped: dict[str, Receipt] = field(default_factory=dict)
    """Receipts that were taken back because their bytes are missing or altered."""
    _noted: dict[str, Receipt] = field(default_factory=dict)
    """What was taken back, of receipts that stand again: a run was killed before it could forget the note."""
    _sizes: dict[str, int] = field(default_factory=dict)
    _checked: set[str] = field(default_factory=set)

    def open(self) -> Books:
        """Read receipts and sizes; return itself."""
        self.known = receipts(self.store)
        self._sizes = {e.path: e.bytes for prefix in _FILES for e in self.store.entries(prefix)}
        for path, data in sorted(self.store.get_many(self.store.list(NOTES)).items()):
            noted = _parsed(path, data)
            (self._noted if noted.name in self.known else self.dropped)[noted.name] = noted
        return self

    def add(self, receipt: Receipt) -> None:
        """Take note of a receipt that was committed in this run."""
        self.known[receipt.name] = receipt
        self._checked.add(receipt.name)

    def has(self, name: str) -> bool:
        """Return whether a receipt stands with its bytes; one that stands without them is removed.

        Raises:
            PlanMismatchError: it was written under another fingerprint.
        """
        receipt = self.known.get(name)
        if receipt is None:
            return False
        if receipt.fingerprint != self.fingerprint and receipt.fingerprint not in self.earlier:
            raise PlanMismatchError(
                f"{receipt.path} was made under fingerprint {receipt.fingerprint[:12]}, this recipe has "
                f"{self.fingerprint[:12]}; use another --out, or the recipe that the dataset was made with"
            )
        if name in self._checked:
            return True
        problem = next((p for f in receipt.files if (p := self._problem(f))), None)
        if problem:
            self.drop(name, problem)
            return False
        self._checked.add(name)
        return True

    def drop(self, name: str, why: str, *, again: bool = True) -> None:
        """Remove a receipt that does not hold; `again`: its very unit is to be worked again, even by another run."""
        self.guard()
        receipt = self.known.pop(name, None)
        # an audit is planned from what it audits
        if receipt is not None and again and receipt.unit["stage"] != "audit":
            # the first note stays: it is what was published
            self.store.put_if_absent(f"{NOTES}{name}.json", receipt.to_json())
            self.dropped.setdefault(name, self._noted.pop(name, receipt))
        self.store.delete(receipt_path(name))
        try:
            self.guard()
        except FacemintError:
            # taken over in between: what was removed may hold by now, and where it does not, the next run finds out
            if receipt is not None:
                self.store.put_if_absent(receipt.path, receipt.to_json())
            raise
        self._checked.discard(name)
        self.refuted(name, why)

    def remaining(self, units: Iterable[Unit]) -> list[Unit]:
        """Return the units that still have to be worked: the whole of resume.

        A receipt counts only if it is about this very unit and its files are there.
        """
        out = []
        for unit in units:
            if self.has(unit.name) and self.known[unit.name].unit != unit.to_dict():
                self.drop(unit.name, "it is about another unit", again=False)
            if not self.has(unit.name):
                out.append(unit)
        return out

    def damaged(self) -> list[str]:
        """Return what `lost` would, changing nothing."""
        gone = [name for name, receipt in sorted(self.known.items()) if any(self._problem(f) for f in receipt.files)]
        return sorted({*gone, *self.dropped})

    def lost(self) -> list[str]:
        """Return the names of receipts whose files are missing or altered, taking them back."""
        for name, noted in sorted(self._noted.items()):
            if same_content(noted, self.known[name]):
                self.settle(name)
            else:
                self.drop(name, "made again, it has other bytes")
        for name, noted in sorted(self.dropped.items()):
            if not any(self._problem(f) for f in noted.files):
                # somebody restored its files
                self.guard()
                self.store.put_if_absent(noted.path, noted.to_json())
                self.known[name] = noted
                self.settle(name)
        gone = [name for name in sorted(self.known) if not self.has(name)]
        return sorted({*gone, *self.dropped})

    def settle(self, name: str) -> None:
        """Forget that a receipt was taken back: its unit stands again, with the bytes it had."""
        self.dropped.pop(name, None)
        self._noted.pop(name, None)
        self.store.delete(f"{NOTES}{name}.json")

    def _problem(self, entry: FileEntry) -> str | None:
        size = self._sizes.get(entry.path)
        if size is None:
            return f"{entry.path} is missing"
        if size != entry.bytes:
            return f"{entry.path} has {size} bytes instead of {entry.bytes}"
        if self.deep and stored_sha256(self.store, entry) != entry.sha256:
            return f"{entry.path} is altered"
        return None
