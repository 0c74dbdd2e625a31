"""Deep verification: every named file is read once, hashed, and what it holds is held against receipts and indexes.

One file is in memory at a time. Tars are read here with the standard library and not by the code that wrote them:
a fault of the one is then not hidden by the same fault of the other.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, Receipt, segment_path, sha256_hex
from pipeline.domain.ports import Codec, Observer, SegmentWriter, Store
from pipeline.domain.unit import Stage
from pipeline.flow.commit import stored_sha256
from pipeline.flow.ledger import (
    RESTORE,
    Claim,
    Ledger,
    Problem,
    remedy_of,
    remedy_of_receipt,
    unit_of,
    wrong_record,
)
from pipeline.flow.twins import counts_of_rows

_REMAKE = remedy_of("segments/", altered=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index says that an image lies."""

    key: str
    identity: int
    offset: int
    length: int
    index: str


@dataclass(slots=True)
class Reread:
    """Reads a dataset whole.

    Args:
        store: the dataset.
        segments: reads its tables.
        codec: decodes its images.
        ledger: what the records say.
        places: unit name -> where indexes say that its images lie.
    """

    store: Store
    segments: SegmentWriter
    codec: Codec
    ledger: Ledger
    places: Mapping[str, set[Place]]
    images: int = 0
    """How many images were decoded."""
    _keys: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _units: list[str] = field(default_factory=list)

    def read(self, files: Mapping[str, Sequence[Claim]], observer: Observer | None) -> list[Problem]:
        """Return what is wrong with these files, whose sizes are right; each has what records claim of it."""
        problems: list[Problem] = []
        if observer:
            observer.event("stage", name="verify", total=len(files), done=0)
        owners: tuple[str, dict[str, int]] = ("", {})
        for path in sorted(files):
            receipt = self.ledger.receipts.get(unit_of(path) or "")
            try:
                # a tar is hashed and its images are decoded from the same bytes
                tar = self.store.get(path) if receipt and path.endswith(".tar") else None
                found = self._hash(path, files[path], tar)
            except FileNotFoundError:
                found = [Problem(path, "missing since it was listed", f"the file of {files[path][0].by}", _REMAKE)]
            problems += found
            if receipt is not None and not any(p.path == path for p in found):
                if tar is None:
                    rows = self._rows(receipt, problems)
                    owners = ("", {}) if rows is None else (receipt.name, rows)
                elif owners[0] == receipt.name:
                    # `parquet` sorts before `tar`, so the rows of this unit were just read
                    problems += self._images(receipt.name, tar, owners[1])
            if observer:
                observer.event("step")
        return [*problems, *self._twins()]

    def _hash(self, path: str, claims: Sequence[Claim], data: bytes | None) -> list[Problem]:
        first = claims[0].entry
        actual = sha256_hex(data) if data is not None else stored_sha256(self.store, first)
        right = next((claim for claim in claims if claim.entry.sha256 == actual), None)
        if right is not None:
            return [wrong_record(claim, right) for claim in claims if claim is not right]
        found = f"altered, its SHA-256 is {actual[:12]}"
        return [Problem(path, found, f"{first.sha256[:12]}, as {claims[0].by} says", remedy_of(path, altered=True))]

    def _rows(self, receipt: Receipt, problems: list[Problem]) -> dict[str, int] | None:
        """Count a segment's rows; return the accepted keys with their identities, None where they cannot be read."""
        name, making = receipt.name, receipt.unit["stage"] == Stage.MAKE.value
        path = segment_path(name, "parquet")
        wanted = ["accepted", "reasons", *(("off_target", "key", "identity") if making else ())]
        try:
            table = dict(self.segments.read_columns(self.store, name, wanted))
            kept = np.asarray(table["accepted"], bool)
            if making:
                counts = counts_of_rows(table)
            else:
                rows = zip(kept.tolist(), table["reasons"], strict=True)
                counts = Counts.of((k, False, tuple(r)) for k, r in rows)
        except (StoreError, FileNotFoundError, ValueError, IndexError) as error:
            found = " ".join(str(error).split())[:160]
            problems.append(Problem(path, found, f"the rows of {name}, each refused one with a reason", _REMAKE))
            return None
        if counts != receipt.counts:
            said, real = receipt.counts.to_dict(), counts.to_dict()
            wrong = [k for k in real if real[k] != said[k]]
            found = f"counts {', '.join(f'{k} {said[k]}' for k in wrong)}"
            expected = f"{', '.join(f'{k} {real[k]}' for k in wrong)}, the rows of {path}"
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

    def _images(self, unit: str, tar: bytes, owners: Mapping[str, int]) -> Iterator[Problem]:
        """Decode a segment's images, parse their side-cars, and hold their places against the indexes."""
        path = segment_path(unit, "tar")
        lies: dict[str, tuple[int, int]] = {}
        broken: list[str] = []
        parsed: set[str] = set()
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
                self.images += 1
                broken += [] if self._decodes(data) else [name]
            elif suffix == "json" and _is_side_car(data, key):
                parsed.add(key)
        if broken:
            yield Problem(path, f"{len(broken)} images do not decode, {broken[0]} for one", "all to decode", _REMAKE)
        for what, keys in (("images", set(lies)), ("side-cars", parsed)):
            if keys != set(owners):
                odd = min(keys ^ set(owners))
                found = f"{len(keys)} {what}, with accepted rows they differ in {odd}"
                yield Problem(path, found, f"one for each of {len(owners)} accepted rows", _REMAKE)
        for place in sorted(self.places.get(unit, ()), key=lambda p: (p.index, p.key)):
            if lies.get(place.key) != (place.offset, place.length) or owners.get(place.key) != place.identity:
                found = f"{place.key} of identity {place.identity} at byte {place.offset} of {path}"
                expected = f"identity {owners.get(place.key)} at {lies.get(place.key)}"
                # one for all: where one row is wrong, usually many are
                yield Problem(place.index, found, expected, RESTORE)
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
