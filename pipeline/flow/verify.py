"""Verification: everything that receipts, manifests and exports name is held against what lies in the store.

Shallow: the ledger, sizes from one listing, counts and indexes. Deep (`pipeline.flow.reread`): every file is hashed,
every image decoded. A problem names one file; what merely follows from it is not reported again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, IndexRow, Manifest, receipt_path, segment_path
from pipeline.domain.ports import Codec, Observer, SegmentWriter, Store
from pipeline.domain.twins import without_twins
from pipeline.domain.unit import Stage
from pipeline.flow.ledger import (
    RESTORE,
    Claim,
    Ledger,
    Problem,
    on_purpose,
    read_ledger,
    remedy_of,
    remedy_of_missing,
    unit_of,
    wrong_record,
)
from pipeline.flow.reread import Place, Reread


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification found.

    Attributes:
        deep: whether every file was read.
        versions: the published versions, oldest first.
        files: how many files are named.
        bytes: how many bytes they should have.
        images: how many images were decoded; 0 where not deep.
        problems: what is wrong, by path; empty where all is well.
    """

    deep: bool
    versions: tuple[str, ...]
    files: int
    bytes: int
    images: int
    problems: tuple[Problem, ...]


def verify(
    store: Store, segments: SegmentWriter, codec: Codec, *, deep: bool = False, observer: Observer | None = None
) -> Verified:
    """Hold a dataset against its own records; nothing is written.

    Args:
        store: the dataset.
        segments: reads its tables.
        codec: decodes its images; not used unless deep.
        deep: read every file: digests, rows, keys, images, side-cars.
        observer: is told of one `step` per file read, where deep.

    Raises:
        StoreError: the store failed.
    """
    ledger = read_ledger(store)
    problems = list(ledger.problems)
    bad = {p.path for p in problems}
    named = {p: said for p, said in ledger.claims.items() if not on_purpose(p, ledger.stored, ledger.retired)}
    whole: dict[str, list[Claim]] = {}
    for path, claims in named.items():
        size = ledger.stored[path].bytes if path in ledger.stored else None
        if all(c.entry.bytes != size for c in claims):
            # looked at again, as a run may have written it while the listing went on
            size = store.size(path)
        fitting = [c for c in claims if c.entry.bytes == size]
        problems += _sizes(path, size, claims, fitting)
        if fitting:
            whole[path] = fitting
    places: dict[str, set[Place]] = defaultdict(set)
    for version, manifest in ledger.manifests.items():
        if version not in ledger.retired:
            problems += [p for p in _receipts_of(ledger, manifest) if p.path not in bad]
            bad = {p.path for p in problems}
            problems += _index(store, segments, ledger, manifest, whole, places if deep else None)
    images = 0
    if deep:
        reader = Reread(store, segments, codec, ledger, places)
        problems += reader.read(whole, observer)
        images = reader.images
    else:
        # which of two records of one size is right, only the bytes tell
        problems += [wrong_record(c, fitting[0]) for fitting in whole.values() for c in fitting[1:]]
    return Verified(
        deep=deep,
        versions=tuple(ledger.manifests),
        files=len(named),
        bytes=sum(claims[0].entry.bytes for claims in named.values()),
        images=images,
        problems=tuple(sorted(dict.fromkeys(problems))),
    )


def _sizes(path: str, size: int | None, claims: Sequence[Claim], fitting: Sequence[Claim]) -> Iterable[Problem]:
    if fitting:
        yield from (wrong_record(claim, fitting[0]) for claim in claims if claim not in fitting)
        return
    found = "missing" if size is None else f"{size:,} bytes"
    yield Problem(path, found, f"{claims[0].entry.bytes:,} bytes, as {claims[0].by} says", remedy_of(path))


def _receipts_of(ledger: Ledger, manifest: Manifest) -> Iterable[Problem]:
    """Every segment of a version has its receipt, and their counts add up to the manifest's."""
    units = sorted({u for f in manifest.files if (u := unit_of(f.path))})
    missing = [u for u in units if u not in ledger.receipts]
    for unit in missing:
        wanted = f"the receipt of a segment that {manifest.path} names"
        yield Problem(receipt_path(unit), "missing", wanted, remedy_of_missing(receipt_path(unit), ledger))
    known = [ledger.receipts[u] for u in units if u in ledger.receipts]
    if missing:
        return
    for stage in (Stage.ENROL.value, Stage.MAKE.value):
        total = Counts.total(r.counts for r in known if r.unit["stage"] == stage).to_dict()
        stated = manifest.counts.get(stage)
        if stated != total:
            wrong = [k for k in total if not isinstance(stated, Mapping) or stated.get(k) != total[k]]
            found = f"counts of {stage}: {', '.join(f'{k} {_of(stated, k)}' for k in wrong)}"
            wanted = f"{', '.join(f'{k} {total[k]}' for k in wrong)}, the sum of its {len(known)} receipts"
            yield Problem(manifest.path, found, wanted, "run verify --deep to see which receipt is wrong")


def _of(counts: object, name: str) -> object:
    return counts.get(name) if isinstance(counts, Mapping) else None


def _index(
    store: Store,
    segments: SegmentWriter,
    ledger: Ledger,
    manifest: Manifest,
    whole: Mapping[str, list[Claim]],
    places: dict[str, set[Place]] | None,
) -> list[Problem]:
    """Hold a version's index against manifest and receipts; note in `places`, if given, where images should lie."""
    path = next((f.path for f in manifest.files if f.path.startswith(f"versions/{manifest.version}/index-")), None)
    if path is None:
        return [Problem(manifest.path, "names no index", "one", RESTORE)]
    if path not in whole:
        return []
    try:
        rows = segments.read_index(store, path)
    except (StoreError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        return [Problem(path, " ".join(str(error).split())[:160], "the index of a version", RESTORE)]
    found = [Problem(path, what, wanted, RESTORE) for what, wanted in _faults(rows, manifest, ledger)]
    if places is not None and not found:
        for row in rows:
            places[row.segment].add(Place(row.key, row.identity, row.offset, row.length, path))
    return found


def _faults(rows: Sequence[IndexRow], manifest: Manifest, ledger: Ledger) -> Iterable[tuple[str, str]]:
    """Yield what is wrong with an index, as (what was found, what is expected)."""
    keys = Counter(r.key for r in rows)
    twice = [k for k, n in keys.items() if n > 1]
    if twice:
        yield f"{len(twice)} keys come twice, {twice[0]} for one", "every key once"
    owners: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        owners[row.label].add(row.identity)
    if sorted(owners) != list(range(len(owners))):
        yield f"labels {min(owners)} to {max(owners)} of {len(owners)} identities", f"0 to {len(owners) - 1}"
    mixed = [label for label, who in owners.items() if len(who) > 1]
    if mixed or len(set().union(*owners.values())) != len(owners):
        yield f"labels and identities do not match (label {min(mixed, default=0)})", "one label for one identity"
    images = len(without_twins(rows))
    for name, number in (("images", images), ("twins", len(rows) - images), ("identities", len(owners))):
        if manifest.counts.get(name, 0) != number:
            yield f"{number} {name}", f"{manifest.counts.get(name)}, as {manifest.path} says"
    named = {f.path for f in manifest.files}
    for unit, number in Counter(r.segment for r in rows).items():
        receipt = ledger.receipts.get(unit)
        if segment_path(unit, "tar") not in named:
            yield f"{number} images in segment {unit}", f"segments that {manifest.path} names"
        elif receipt is not None and number > receipt.counts.accepted + receipt.counts.twins:
            most = receipt.counts.accepted + receipt.counts.twins
            yield f"{number} images of {unit}", f"at most {most}, as {receipt.path} accepted"
