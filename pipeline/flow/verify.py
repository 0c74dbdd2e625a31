"""Verification: everything that receipts, manifests and exports name is held against what lies in the store.

Shallow: the ledger, sizes from one listing, counts and indexes. Deep (`pipeline.flow.reread`): every file is hashed,
and images that no audit vouches for are decoded. A problem names one file; what merely follows from it is not reported
again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, IndexRow, Manifest, receipt_path, segment_path
from pipeline.domain.ports import Codec, Observer, SegmentWriter, Store
from pipeline.domain.privacy import HELD, is_private
from pipeline.domain.seal import BrokenSealError, unbroken
from pipeline.domain.twins import without_twins
from pipeline.domain.unit import Stage
from pipeline.flow.ledger import (
    Claim,
    Ledger,
    Problem,
    on_purpose,
    read_ledger,
    remedy_of_missing,
    unit_of,
    wrong_record,
)
from pipeline.flow.remedies import RESTORE, remedy_of
from pipeline.flow.reread import Place, Reread

_LAST_PART = b"\nplan_fields:\n"
"""Of the file of a step; older ones have no seal that could be missed."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification found.

    Attributes:
        deep: whether every file was read.
        versions: the published versions, oldest first.
        files: how many files are named.
        bytes: how many bytes they should have.
        images: how many images lie in segments that were read whole: they decode, or did when an audit read these
            very bytes; 0 where not deep.
        decoded: how many of them were decoded this time.
        problems: what is wrong, by path; empty where all is well.
        private: how many files under `private/` are named and were not looked for, because this copy has none of them,
            as a publication has not.
    """

    deep: bool
    versions: tuple[str, ...]
    files: int
    bytes: int
    images: int
    decoded: int
    problems: tuple[Problem, ...]
    private: int = 0


def verify(
    store: Store,
    segments: SegmentWriter,
    codec: Codec,
    *,
    deep: bool = False,
    decode: bool = False,
    observer: Observer | None = None,
) -> Verified:
    """Hold a dataset against its own records; nothing is written.

    Args:
        store: the dataset.
        segments: reads its tables.
        codec: decodes its images; not used unless deep.
        deep: read every file: digests, rows, keys, places; images and side-cars of what no audit vouches for.
        decode: where deep, images and side-cars of all segments, and count all rows.
        observer: is told of one `step` per file read, where deep.

    Raises:
        StoreError: the store failed.
    """
    ledger = read_ledger(store)
    problems = [*ledger.problems, *_recipes(store, ledger)]
    bad = {p.path for p in problems}
    named = {p: said for p, said in ledger.claims.items() if not on_purpose(p, ledger.stored, ledger.retired)}
    apart = {p for p in named if is_private(p)} if ledger.bare else set()
    named = {p: said for p, said in named.items() if p not in apart}
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
    with ExitStack() as stack:
        reader = Reread(store, segments, codec, ledger, whole, decode=decode) if deep else None
        if reader is not None:
            stack.enter_context(reader)
        places: dict[str, list[Place]] = defaultdict(list)
        """Unit -> rows of indexes that lie in its segment, each index's beside its path."""
        for version, manifest in ledger.manifests.items():
            if version not in ledger.retired:
                problems += [p for p in _receipts_of(ledger, manifest) if p.path not in bad]
                bad = {p.path for p in problems}
                problems += _index(store, segments, ledger, manifest, whole, places if deep else None)
        if reader is not None:
            problems += reader.read(places, observer, count=decode or bool(problems))
    if reader is None:
        # which of two records of one size is right, only the bytes tell
        problems += [wrong_record(c, fitting[0]) for fitting in whole.values() for c in fitting[1:]]
    return Verified(
        deep=deep,
        versions=tuple(ledger.manifests),
        files=len(named),
        bytes=sum(claims[0].entry.bytes for claims in named.values()),
        images=reader.images if reader else 0,
        decoded=reader.decoded if reader else 0,
        problems=tuple(sorted({_worded(p, ledger) if ledger.curated else p for p in problems})),
        private=len(apart),
    )


def _worded(problem: Problem, ledger: Ledger) -> Problem:
    """Return a problem of a curated dataset, whose units another command works again, if nothing of them was erased."""
    again = problem.path.startswith(("segments/", "receipts/", *HELD)) and "generate command" in problem.remedy
    if again and any(m.tombstones for m in ledger.manifests.values()):
        return replace(problem, remedy=RESTORE)
    return replace(problem, remedy=problem.remedy.replace("generate command", "curate command"))


def _recipes(store: Store, ledger: Ledger) -> Iterable[Problem]:
    """No record names a recipe's digest: it has a seal, its last line, which goes with whatever is cut off."""
    published = {f"recipes/g{m.generation}.yaml" for m in ledger.manifests.values()}
    for path, data in store.get_many([p for p in ledger.stored if p.startswith("recipes/")]).items():
        try:
            unbroken(data)
        except BrokenSealError:
            yield Problem(path, "altered, its seal does not fit it", "a recipe as it was written", RESTORE)
            continue
        if path in published and not (_LAST_PART in data and data.endswith(b"\n")):
            yield Problem(path, f"{len(data):,} bytes, without its end", "a recipe as it was written", RESTORE)


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
    places: dict[str, list[Place]] | None,
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
        by_segment: dict[str, list[IndexRow]] = defaultdict(list)
        for row in rows:
            by_segment[row.segment].append(row)
        for unit, mine in by_segment.items():
            places[unit].append((path, mine))
    return found


def _faults(rows: Sequence[IndexRow], manifest: Manifest, ledger: Ledger) -> Iterable[tuple[str, str]]:
    """Yield what is wrong with an index, as (what was found, what is expected)."""
    if len({r.key for r in rows}) != len(rows):
        twice = [k for k, n in Counter(r.key for r in rows).items() if n > 1]
        yield f"{len(twice)} keys come twice, {twice[0]} for one", "every key once"
    owners: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        owners[row.label].add(row.identity)
    given = int(manifest.counts.get("labels_given", len(owners)))
    # where somebody was erased labels have a gap
    dense = len(owners) == given if not manifest.tombstones else len(owners) <= given
    if not dense or min(owners, default=0) < 0 or max(owners, default=-1) >= given:
        yield f"labels {min(owners)} to {max(owners)} of {len(owners)} identities", f"0 to {given - 1}"
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
