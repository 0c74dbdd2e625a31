"""The ledger: everything that says which files a dataset has (receipts, manifests, export manifests), read at once.

Reading never fails on what is damaged: a record that is torn, misplaced or missing becomes a problem that names it.
Verification holds the ledger against the store; what it does not name is an orphan.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry, Manifest, Receipt, manifest_path, receipt_path, version_name
from pipeline.domain.ports import Store, Stored
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import PRIVATE
from pipeline.domain.revisions import newest, parsed, revised_path
from pipeline.domain.seal import unbroken
from pipeline.domain.splits import FOLDER as SPLITS
from pipeline.domain.unit import Stage
from pipeline.flow.commit import NOTES, enrolled_receipt_name
from pipeline.flow.erase.journal import FINISH, unfinished
from pipeline.flow.leakage import LIMITS, note_files, read_note
from pipeline.flow.leakage import PREFIX as GALLERIES
from pipeline.flow.remedies import (
    DELETE_AND_RUN,
    RESTORE,
    RUN_AGAIN,
    remedy_of,
    remedy_of_receipt,
)
from pipeline.flow.sidecars import FOLDERS as SIDE_CARS
from pipeline.flow.splits import record_entry

LISTED = "listed"
"""The stage of the receipt that says which inputs a curated generation is made of."""
FOLDERS = (
    "versions/",
    "exports/",
    "receipts/",
    "recipes/",
    "enrolled/",
    "segments/",
    "audits/",
    PREVIEWS,
    "quarantine/",
    NOTES,
    "runs/",
    *(folder for folder in SIDE_CARS if not folder.startswith(PRIVATE)),
    SPLITS,
    PRIVATE,
)
"""In this order, because a run may be at work: what names a file is written after it, so it is listed before it."""
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError)
_PART = re.compile(r"segments/(?P<unit>[^/.]+(?:\.r\d+)?)\.(?:tar|parquet)")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with one file: what was found, what is expected, what to do."""

    path: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.path}: {self.found}; expected {self.expected}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Claim:
    """That a file has these bytes, and which record says so."""

    entry: FileEntry
    by: str


@dataclass(slots=True)
class Ledger:
    """What the records of a dataset say.

    Attributes:
        stored: path -> what the listing tells of it, for every file that can be named.
        receipts: unit name -> receipt.
        manifests: version -> manifest, oldest first.
        exports: paths of the manifests of exports.
        side_cars: paths of the records of what was added beside segments.
        claims: path -> what is said of it; several where records differ.
        retired: versions whose index, documents and exports were removed when something was erased.
        problems: what is wrong with the records themselves.
    """

    stored: Mapping[str, Stored]
    receipts: dict[str, Receipt] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    exports: list[str] = field(default_factory=list)
    side_cars: list[str] = field(default_factory=list)
    claims: dict[str, list[Claim]] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    @property
    def bare(self) -> bool:
        """Return whether this is a copy without anything under `private/`, as a publication is."""
        return not any(path.startswith(PRIVATE) for path in self.stored)

    @property
    def curated(self) -> bool:
        """Return whether its images come from sources, and are not made."""
        return any(r.unit["stage"] == LISTED for r in self.receipts.values())

    def claim(self, entries: Iterable[FileEntry], by: str) -> None:
        """Take note that a record names these files."""
        for entry in entries:
            said = self.claims.setdefault(entry.path, [])
            if all(claim.entry != entry for claim in said):
                said.append(Claim(entry, by))


def read_ledger(store: Store) -> Ledger:
    """Read every record of a dataset: each folder is listed once, and small files are read together."""
    ledger = Ledger({entry.path: entry for folder in FOLDERS for entry in store.entries(folder)})
    _read_manifests(store, ledger)
    _read_receipts(store, ledger)
    for version, manifest in ledger.manifests.items():
        # after the receipts: where both name a file, its receipt is the nearer witness. What a retired version stood on
        # is gone or rewritten; what is left of it has its receipt
        if version not in ledger.retired:
            ledger.claim((*manifest.files, *manifest.documents), manifest.path)
    _read_exports(store, ledger)
    _read_side_cars(store, ledger)
    _read_splits(store, ledger)
    _read_galleries(store, ledger)
    _check_chain(ledger)
    _check_generations(ledger)
    _check_erasures(store, ledger)
    return ledger


def on_purpose(path: str, stored: Collection[str], retired: Collection[str]) -> bool:
    """Return whether a file that a record names is gone, or other than it says, because something was erased.

    Erasing writes a superseding revision beside what it replaces, `segments/make-g0-000003.r1.tar`, and removes index,
    documents and exports of the versions before it.
    """
    top, _, rest = path.partition("/")
    if top in ("versions", "exports"):
        return rest.partition("/")[0] in retired
    return revised_path(path) in stored


def wrong_record(claim: Claim, right: Claim) -> Problem:
    """Return the problem of a record that says of a file what another record, or the file itself, belies."""
    found = f"names {claim.entry.path} with {claim.entry.bytes:,} bytes and SHA-256 {claim.entry.sha256[:12]}"
    wanted = f"{right.entry.bytes:,} bytes and {right.entry.sha256[:12]}, as {right.by} says"
    return Problem(claim.by, found, wanted, RESTORE)


def unit_of(path: str) -> str | None:
    """Return the unit that a file of a segment belongs to."""
    match = _PART.fullmatch(path)
    return match["unit"] if match else None


def _read_receipts(store: Store, ledger: Ledger) -> None:
    paths = _current([p for p in ledger.stored if p.startswith("receipts/") and p.endswith(".json")], ledger)
    for path, data in store.get_many(paths).items():
        try:
            receipt = Receipt.from_json(unbroken(data))
            int(receipt.unit["generation"]), str(receipt.unit["stage"])
        except _DAMAGE as error:
            what = f"not a receipt ({type(error).__name__})"
            ledger.problems.append(Problem(path, what, "the JSON of one", remedy_of_receipt(path, ledger.manifests)))
            continue
        if receipt.path != path:
            found, remedy = f"the receipt of {receipt.name}", remedy_of_receipt(path, ledger.manifests)
            ledger.problems.append(Problem(path, found, "that of the unit it is named after", remedy))
        ledger.receipts[receipt.name] = receipt
        ledger.claim(receipt.files, path)


def _current(paths: Sequence[str], ledger: Ledger) -> list[str]:
    """Return the receipts that count: of a unit and its revisions the newest one, once a version stands on it.

    Before that, an erasure is at work or was killed, and what it has written so far is named by its journal alone.
    """
    named = {f"receipts/{u}.json" for m in ledger.manifests.values() for f in m.files if (u := unit_of(f.path))}
    stands = [p for p in paths if not parsed(p.removesuffix(".json"))[1] or p.replace("/audit-", "/") in named]
    return [f"{name}.json" for name in newest(p.removesuffix(".json") for p in stands).values()]


def _read_manifests(store: Store, ledger: Ledger) -> None:
    paths = sorted(p for p in ledger.stored if re.fullmatch(r"versions/[^/]+/manifest\.json", p))
    erased = 0
    for path in paths:
        version = path.split("/")[1]
        try:
            data = store.get(path)
            raw, manifest = json.loads(data), Manifest.from_json(unbroken(data))
            stated, digest = raw["digest"], manifest.digest
        except (*_DAMAGE, FileNotFoundError) as error:
            what = f"not a manifest ({type(error).__name__})"
            ledger.problems.append(Problem(path, what, "the JSON of one", RESTORE))
            continue
        if manifest.version != version:
            found = f"the manifest of {manifest.version}"
            ledger.problems.append(Problem(path, found, f"that of {version}", RESTORE))
            continue
        if stated != digest:
            found = f"states digest {str(stated)[:12]}"
            ledger.problems.append(Problem(path, found, f"{digest[:12]}, which follows from its files", RESTORE))
        if len(raw.get("tombstones") or ()) > erased:
            erased = len(raw["tombstones"])
            ledger.retired.update(v for v in ledger.manifests if v != version)
        ledger.manifests[version] = manifest


def _read_exports(store: Store, ledger: Ledger) -> None:
    paths = sorted(p for p in ledger.stored if re.fullmatch(r"exports/[^/]+/.+/manifest\.json", p))
    for path, data in sorted(store.get_many(paths).items()):
        root, version = path.removesuffix("manifest.json"), path.split("/")[1]
        anew = remedy_of(path, altered=True)
        try:
            raw = json.loads(unbroken(data))
            entries = [FileEntry(root + f["path"], f["sha256"], int(f["bytes"])) for f in raw["files"]]
            source = str(raw["source"]["digest"])
        except _DAMAGE as error:
            what = f"not the manifest of an export ({type(error).__name__})"
            ledger.problems.append(Problem(path, what, "the JSON of one", anew))
            continue
        manifest = ledger.manifests.get(version)
        if manifest is not None and source != manifest.digest:
            wanted = f"{manifest.digest[:12]}, that of {version}"
            ledger.problems.append(Problem(path, f"made from digest {source[:12]}", wanted, anew))
        ledger.exports.append(path)
        ledger.claim(entries, path)


def _read_side_cars(store: Store, ledger: Ledger) -> None:
    paths = [p for p in ledger.stored if p.startswith(SIDE_CARS) and p.endswith(".json")]
    for path, data in sorted(store.get_many(paths).items()):
        ledger.side_cars.append(path)
        try:
            record = Receipt.from_json(unbroken(data))
            expected = f"{path.rpartition('/')[0]}/{record.unit['of']}-{record.unit['side_car']}.json"
        except _DAMAGE as error:
            what = f"not the record of a side-car ({type(error).__name__})"
            ledger.problems.append(Problem(path, what, "the JSON of one", remedy_of(path)))
            continue
        if path != expected:
            ledger.problems.append(Problem(path, f"the record of {expected}", "its own", remedy_of(path, altered=True)))
        ledger.claim(record.files, path)


def _read_splits(store: Store, ledger: Ledger) -> None:
    paths = [p for p in ledger.stored if p.startswith(SPLITS) and p.endswith(".json")]
    for path, data in sorted(store.get_many(paths).items()):
        try:
            ledger.claim((record_entry(json.loads(unbroken(data))),), path)
        except _DAMAGE as error:
            what = f"not the record of a split ({type(error).__name__})"
            ledger.problems.append(Problem(path, what, "the JSON of one", remedy_of(path, altered=True)))


def _read_galleries(store: Store, ledger: Ledger) -> None:
    """Take note of what galleries of people are kept under `private/`: blocks by their notes, pairs by manifests."""
    for path in sorted(p for p in ledger.stored if re.fullmatch(rf"{GALLERIES}[^/]+-[0-9a-f]{{16}}\.json", p)):
        if path.startswith(LIMITS):
            continue
        try:
            ledger.claim(note_files(read_note(store, path.removesuffix(".json")) or {}), path)
        except (*_DAMAGE, StoreError):
            remedy = "delete it: the next run that makes something prepares the gallery anew"
            ledger.problems.append(Problem(path, "not the note of a gallery", "the JSON of one", remedy))
    for version, manifest in ledger.manifests.items():
        if version in ledger.retired:
            continue
        leakage = manifest.figures.get("leakage")
        kept = leakage.get("private", {}) if isinstance(leakage, Mapping) else {}
        ledger.claim((FileEntry(f["path"], f["sha256"], f["bytes"]) for f in kept.values()), manifest.path)


def _check_chain(ledger: Ledger) -> None:
    """Versions are numbered without a gap, and each names the one before it, so none has two children."""
    there = {p.split("/")[1] for p in ledger.stored if re.fullmatch(r"versions/v\d+/manifest\.json", p)}
    newest = max((int(v.removeprefix("v")) for v in there), default=0)
    for number in range(1, newest + 1):
        version, parent = version_name(number), version_name(number - 1) if number > 1 else None
        manifest = ledger.manifests.get(version)
        path = manifest_path(version)
        if version not in there:
            ledger.problems.append(Problem(path, "missing", f"a manifest, as {version_name(newest)} stands", RESTORE))
        elif manifest is not None and manifest.parent != parent:
            found = f"its parent is {manifest.parent}"
            ledger.problems.append(Problem(path, found, f"{parent}, the version before it", RESTORE))
        elif manifest is not None and parent in ledger.manifests:
            digest = ledger.manifests[parent].digest
            if manifest.parent_digest != digest:
                found = f"its parent has digest {str(manifest.parent_digest)[:12]}"
                ledger.problems.append(Problem(path, found, f"{digest[:12]}, that of {parent}", RESTORE))


def _check_generations(ledger: Ledger) -> None:
    """A generation that made images has its recipe, and the receipt that says who is enrolled."""
    made = {_generation(r.unit) for r in ledger.receipts.values() if r.unit["stage"] == Stage.MAKE.value}
    made |= {m.generation for m in ledger.manifests.values()}
    for generation in sorted(made):
        path = f"recipes/g{generation}.yaml"
        if path not in ledger.stored:
            ledger.problems.append(Problem(path, "missing", f"the recipe of generation {generation}", RESTORE))
        path = receipt_path(enrolled_receipt_name(generation))
        if path not in ledger.stored:
            wanted = f"the receipt of who is enrolled in generation {generation}"
            ledger.problems.append(Problem(path, "missing", wanted, remedy_of_missing(path, ledger)))
    _check_fingerprints(ledger)


def _check_erasures(store: Store, ledger: Ledger) -> None:
    """An erasure that was begun is finished: until then something of what it was to remove is still here."""
    try:
        begun = unfinished(store)
    except StoreError as error:
        ledger.problems.append(Problem(str(error).partition(":")[0], "not the journal of an erasure", "one", RESTORE))
        return
    if begun is not None:
        ledger.problems.append(Problem(begun.path, "an erasure that is not finished", "it to be", FINISH))


def _check_fingerprints(ledger: Ledger) -> None:
    """One generation has one fingerprint: that of its version, or before that of most of its receipts.

    Judging again begins a generation under other filters; what is audited in it may be of any before.
    """
    records: list[Manifest | Receipt] = [*ledger.manifests.values(), *ledger.receipts.values()]
    of: dict[int, str] = {}
    for generation in {_generation_of(r) for r in records}:
        mine = [r for r in records if _generation_of(r) == generation and not _is_audit(r)]
        stated = Counter(r.fingerprint for r in mine if isinstance(r, Manifest)) or Counter(r.fingerprint for r in mine)
        if stated:
            of[generation] = stated.most_common(1)[0][0]
    for record in records:
        common = of.get(_generation_of(record), record.fingerprint)
        fits = record.fingerprint in of.values() if _is_audit(record) else record.fingerprint == common
        if of and not fits:
            found, wanted = f"fingerprint {record.fingerprint[:12]}", f"{common[:12]}, that of its generation"
            remedy = RESTORE if isinstance(record, Manifest) else remedy_of_receipt(record.path, ledger.manifests)
            ledger.problems.append(Problem(record.path, found, wanted, remedy))


def _is_audit(record: Manifest | Receipt) -> bool:
    return isinstance(record, Receipt) and record.unit["stage"] == Stage.AUDIT.value


def _generation_of(record: Manifest | Receipt) -> int:
    return record.generation if isinstance(record, Manifest) else _generation(record.unit)


def remedy_of_missing(path: str, ledger: Ledger) -> str:
    """Return what to do about a receipt that is not there: nothing has to be deleted first.

    One that was taken back, because its bytes were gone, left a note from which the next run works its unit again.
    """
    if f"{NOTES}{path.removeprefix('receipts/')}" in ledger.stored:
        return RUN_AGAIN
    return remedy_of_receipt(path, ledger.manifests).replace(DELETE_AND_RUN, RUN_AGAIN)


def _generation(unit: Mapping[str, Any]) -> int:
    return int(unit["generation"])
