"""Deep verification: every named file is hashed, and what it holds is held against receipts and indexes.

Threads hash, in blocks, while tables are compared. What an audit found before publication (rows count as the receipt
says, images decode, where they lie) is found again by comparing digests alone, as bytes do not age; a segment that no
audit vouches for, or every one if asked for, is read with the standard library and not by the code that wrote it: a
fault of the one is then not hidden by the same fault of the other. One such segment is in memory at a time.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, FileEntry, IndexRow, Receipt, audit_path, segment_path, sha256_hex
from pipeline.domain.ports import Codec, Observer, SegmentWriter, Store
from pipeline.domain.records import Whole
from pipeline.domain.unit import Stage
from pipeline.flow.commit import stored_sha256
from pipeline.flow.ledger import (
    Claim,
    Ledger,
    Problem,
    unit_of,
    wrong_record,
)
from pipeline.flow.remedies import RESTORE, remedy_of, remedy_of_receipt
from pipeline.flow.twins import counts_of_rows
from pipeline.flow.wholes import altered_wholes, kept_of, wholes_of

HASHERS = 4
"""Files hashed at a time: more than a disk needs, for stores across a network."""
ALTERED = "altered, its SHA-256 is"
_REMAKE = remedy_of("segments/", altered=True)
_Lies = dict[str, tuple[int, int]]
"""Key -> offset and length of an image in its tar."""
Place = tuple[str, Sequence[IndexRow]]
"""The path of an index, and its rows that lie in one segment."""


class Reread:
    """Reads a dataset whole. A context: its threads end with it.

    Args:
        store: the dataset.
        segments: reads its tables.
        codec: decodes its images.
        ledger: what the records say.
        files: the files to read, whose sizes are right; each has what records claim of it.
        decode: decode images and parse side-cars of audited segments too.
    """

    def __init__(
        self,
        store: Store,
        segments: SegmentWriter,
        codec: Codec,
        ledger: Ledger,
        files: Mapping[str, Sequence[Claim]],
        *,
        decode: bool,
    ) -> None:
        self.store, self.segments, self.codec, self.ledger, self.decode = store, segments, codec, ledger, decode
        self.images = 0
        """How many images lie in segments that were read: decoded now, or by an audit of these very bytes."""
        self.decoded = 0
        """How many of them were decoded now."""
        self._keys: list[npt.NDArray[np.int64]] = []
        self._units: list[str] = []
        self._files = files
        self._named: set[FileEntry] = {f for m in ledger.manifests.values() for f in m.files}
        self._good: set[str] = set()
        """Files whose bytes are those that their records name."""
        self._pool = ThreadPoolExecutor(HASHERS, thread_name_prefix="verify")
        # hashing goes on beside what is done with the tables; a digest is all that is kept of a file
        self._digests = {path: self._pool.submit(stored_sha256, store, files[path][0].entry) for path in sorted(files)}

    def __enter__(self) -> Reread:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def read(self, places: Mapping[str, Sequence[Place]], observer: Observer | None, *, count: bool) -> list[Problem]:
        """Return what is wrong.

        Args:
            places: unit name -> where indexes say that its images lie.
            observer: is told of one `step` per file.
            count: count the rows of audited segments too, because receipts do not add up.
        """
        problems: list[Problem] = []
        if observer:
            observer.event("stage", name="verify", total=len(self._files), done=0)
        for path in sorted(self._files):
            receipt = self.ledger.receipts.get(unit_of(path) or "")
            found = [self._told(p, receipt) if p.path == path else p for p in self._hash(path)]
            problems += found
            if not any(p.path == path for p in found):
                self._good.add(path)
                if receipt is not None:
                    problems += self._content(path, receipt, places.get(receipt.name, ()), count=count)
            if observer:
                observer.event("step")
        return [*problems, *self._twins()]

    def _content(self, path: str, receipt: Receipt, places: Sequence[Place], *, count: bool) -> list[Problem]:
        """Read what the files of a segment hold, once the last of them was hashed."""
        problems: list[Problem] = []
        if receipt.unit["stage"] != Stage.MAKE.value:
            self._rows(receipt, problems, count=True)
        # `parquet` sorts before `tar`, and `audits/` before both
        elif path.endswith(".tar") and segment_path(receipt.name, "parquet") in self._good:
            audited = self._audited(receipt)
            owners = self._rows(receipt, problems, count=count or not audited)
            if owners is not None:
                problems += (self._noted if audited else self._images)(receipt.name, owners, places)
        return problems

    def _audited(self, receipt: Receipt) -> bool:
        """Return whether an audit decoded the images of a segment whose bytes are as they were then.

        It counted the rows, decoded the images and noted where they lie. A version is published after that, and names
        the digests; so with these digests nothing is learnt by doing it again.
        """
        audit = self.ledger.receipts.get(f"audit-{receipt.name}")
        return (
            not self.decode
            and audit is not None
            and audit.counts.accepted == receipt.counts.accepted
            and bool(audit.files)
            and all(f.path in self._good for f in audit.files)
            and all(f in self._named for f in receipt.files if unit_of(f.path))
        )

    def _hash(self, path: str) -> list[Problem]:
        claims, first = self._files[path], self._files[path][0].entry
        try:
            actual = self._digests.pop(path).result()
        except FileNotFoundError:
            return [Problem(path, "missing since it was listed", f"the file of {claims[0].by}", _REMAKE)]
        right = next((claim for claim in claims if claim.entry.sha256 == actual), None)
        if right is not None:
            return [wrong_record(claim, right) for claim in claims if claim is not right]
        found = f"{ALTERED} {actual[:12]}"
        return [Problem(path, found, f"{first.sha256[:12]}, as {claims[0].by} says", remedy_of(path, altered=True))]

    def _told(self, problem: Problem, receipt: Receipt | None) -> Problem:
        """Return what is wrong with a file; of an altered tar with the whole pictures that are not as they were."""
        wanted = receipt is not None and problem.path.endswith(".tar") and problem.found.startswith(ALTERED)
        if receipt is None or not wanted or segment_path(receipt.name, "parquet") not in self._good:
            return problem
        wholes = wholes_of(self.segments, self.store, receipt) or {}
        bad = altered_wholes(self.store.get(problem.path), wholes)
        if not bad:
            return problem
        told = f"{problem.found}, and so are {len(bad)} of its whole pictures, that of {bad[0]} for one"
        return replace(problem, found=told)

    def _rows(self, receipt: Receipt, problems: list[Problem], *, count: bool) -> dict[str, int] | None:
        """Read a segment's rows; return the accepted keys with their identities, None where they cannot be read."""
        name, making = receipt.name, receipt.unit["stage"] == Stage.MAKE.value
        path = segment_path(name, "parquet")
        wanted = ["accepted", *(("reasons",) if count else ()), *(("key", "identity") if making else ())]
        wanted += ["off_target"] if making and count else []
        try:
            table = dict(self.segments.read_columns(self.store, name, wanted))
            kept = np.asarray(table["accepted"], bool)
            counts = receipt.counts
            if making and count:
                wholes = wholes_of(self.segments, self.store, receipt) or {}
                counts = replace(counts_of_rows(table), wholes=len(wholes))
            elif count:
                rows = zip(kept.tolist(), table["reasons"], strict=True)
                counts = Counts.of((k, False, tuple(r)) for k, r in rows)
        except (StoreError, FileNotFoundError, ValueError, IndexError) as error:
            found = " ".join(str(error).split())[:160]
            problems.append(Problem(path, found, f"the rows of {name}, each refused one with a reason", _REMAKE))
            return None
        if counts != receipt.counts:
            said, real = receipt.counts.to_dict(), counts.to_dict()
            # twins and whole pictures stand there only where there are any
            wrong = [k for k in {**real, **said} if real.get(k) != said.get(k)]
            found = f"counts {', '.join(f'{k} {said.get(k, 0)}' for k in wrong)}"
            expected = f"{', '.join(f'{k} {real.get(k, 0)}' for k in wrong)}, the rows of {path}"
            remedy = remedy_of_receipt(receipt.path, self.ledger.manifests)
            problems.append(Problem(receipt.path, found, expected, remedy))
        if not making:
            return None
        keys = list(table["key"])
        if len(set(keys)) != len(keys):
            problems.append(Problem(path, f"{len(keys) - len(set(keys))} keys come twice", "every key once", _REMAKE))
        # eight bytes per candidate, whatever its key: keys of a large dataset would not fit into memory
        self._keys.append(np.fromiter((hash(k) for k in set(keys)), np.int64))
        self._units.append(name)
        return {k: int(o) for k, o, a in zip(keys, table["identity"], kept, strict=True) if a}

    def _noted(self, unit: str, owners: Mapping[str, int], places: Sequence[Place]) -> Iterator[Problem]:
        """Hold the places that an audit noted against the indexes."""
        try:
            lies = self.segments.read_places(self.store, unit)
        except (StoreError, FileNotFoundError, ValueError) as error:
            found = " ".join(str(error).split())[:160]
            yield Problem(audit_path(unit), found, f"the places of {unit}'s images", remedy_of("audits/", altered=True))
            return
        self.images += len(lies)
        yield from self._misplaced(unit, lies, owners, places)

    def _images(self, unit: str, owners: Mapping[str, int], places: Sequence[Place]) -> Iterator[Problem]:
        """Decode a segment's images, parse their side-cars, and hold their places against the indexes."""
        path = segment_path(unit, "tar")
        lies: _Lies = {}
        broken: list[str] = []
        parsed: set[str] = set()
        drawn: dict[str, Whole] = {}
        tar = self.store.get(path)
        try:
            with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
                members = [(m.name, m.offset_data, m.size) for m in archive]
        except tarfile.TarError as error:
            yield Problem(path, f"not readable as tar ({error})", "the images of its unit", _REMAKE)
            return
        for name, offset, length in members:
            key, _, suffix = name.partition(".")
            data = tar[offset : offset + length]
            if suffix == "jpg":
                lies[key] = (offset, length)
                broken += [] if self._decodes(data) else [name]
            elif suffix == "whole.jpg":
                drawn[key] = Whole(offset, length, sha256_hex(data))
                broken += [] if self._decodes(data) else [name]
            elif suffix == "json" and _is_side_car(data, key):
                parsed.add(key)
        self.images += len(lies)
        self.decoded += len(lies)
        if broken:
            yield Problem(path, f"{len(broken)} images do not decode, {broken[0]} for one", "all to decode", _REMAKE)
        for what, keys in (("images", set(lies)), ("side-cars", parsed)):
            if keys != set(owners):
                odd = min(keys ^ set(owners))
                found = f"{len(keys)} {what}, with accepted rows they differ in {odd}"
                yield Problem(path, found, f"one for each of {len(owners)} accepted rows", _REMAKE)
        yield from self._wholes(unit, drawn, owners)
        yield from self._misplaced(unit, lies, owners, places)

    def _wholes(self, unit: str, drawn: Mapping[str, Whole], owners: Mapping[str, int]) -> Iterator[Problem]:
        """Hold the whole pictures of a tar against the rows, and both against the accepted images."""
        kept = wholes_of(self.segments, self.store, self.ledger.receipts[unit])
        wanted, said = kept_of(owners) if kept is not None else set[str](), kept or {}
        keys = drawn.keys() | said.keys() | wanted
        odd = [k for k in sorted(keys) if k not in wanted or k not in drawn or drawn[k] != said.get(k)]
        if odd:
            found = f"{len(odd)} whole pictures are not what or where the rows say, that of {odd[0]} for one"
            yield Problem(segment_path(unit, "tar"), found, f"{len(wanted)}, one for each accepted row", _REMAKE)

    def _misplaced(
        self, unit: str, lies: _Lies, owners: Mapping[str, int], places: Sequence[Place]
    ) -> Iterator[Problem]:
        for index, rows in sorted(places, key=lambda p: p[0]):
            for row in rows:
                if lies.get(row.key) == (row.offset, row.length) and owners.get(row.key) == row.identity:
                    continue
                found = f"{row.key} of identity {row.identity} at byte {row.offset} of {segment_path(unit, 'tar')}"
                expected = f"identity {owners.get(row.key)} at {lies.get(row.key)}"
                yield Problem(index, found, expected, RESTORE)
                # one for all: where one row is wrong, usually many are
                return

    def _decodes(self, data: bytes) -> bool:
        try:
            self.codec.decode(data)
        except ValueError:
            return False
        return True

    def _twins(self) -> Iterator[Problem]:
        """Find keys that stand in two segments, where neither made again what the other filters had refused."""
        if not self._keys:
            return
        every = np.concatenate(self._keys)
        owner = np.repeat(np.arange(len(self._keys)), [len(k) for k in self._keys])
        order = np.argsort(every, kind="stable")
        same = np.flatnonzero(every[order][1:] == every[order][:-1])
        for first, second in sorted({(int(owner[order[n]]), int(owner[order[n + 1]])) for n in same}):
            one, other = self._units[first], self._units[second]
            if self._makes_again(one) or self._makes_again(other):
                continue
            keys = [set(self.segments.read_columns(self.store, u, ["key"])["key"]) for u in (one, other)]
            # equal hashes are not always equal keys
            if shared := keys[0] & keys[1]:
                found = f"{len(shared)} keys that {segment_path(one, 'parquet')} has too, {min(shared)} for one"
                yield Problem(segment_path(other, "parquet"), found, "every key once in a dataset", RESTORE)

    def _makes_again(self, unit: str) -> bool:
        return bool(self.ledger.receipts[unit].unit.get("open_slots"))


def _is_side_car(data: bytes, key: str) -> bool:
    try:
        raw = json.loads(data)
    except ValueError:
        return False
    return isinstance(raw, dict) and raw.get("key") == key
