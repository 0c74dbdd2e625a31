"""Rewriting: revisions of segments, enrolled files and side-cars that hold what they held without what goes.

What stays is copied: JPEG bytes from the old tar, numbers from the old rows, the auditor's embeddings from the old
audit. Nothing is generated, embedded or encoded again, and no model is asked. The receipt of a revision comes last of
all that belongs to its unit, so where it stands nothing is left to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, FileEntry, Receipt, receipt_path, segment_path, sha256_hex
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.records import Audited, Candidate, Sample, Verdict, Whole
from pipeline.domain.revisions import revised_path
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import commit, is_enrolled, read_receipt, stored_sha256
from pipeline.flow.erase.gone import Gone
from pipeline.flow.parts import Parts
from pipeline.flow.sidecars import open_side_car, record_path, side_car_path
from pipeline.flow.twins import counts_of_rows
from pipeline.flow.wholes import whole_bytes, wholes_of


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Writes revisions.

    Args:
        parts: the ports.
        gone: what goes.
        beside: unit -> records of its side-cars.
    """

    parts: Parts
    gone: Gone
    beside: Mapping[str, list[Receipt]]

    def unit(self, old: Receipt, name: str) -> None:
        """Write the revision `name` of a unit, with its audit and its side-cars; then their receipts.

        Raises:
            StoreError: what is to be copied is missing or altered.
        """
        self._require_whole(old)
        # by its own name: where a killed run got as far as the revision's audit, that is the newer one
        audit = audit_of(self.parts, old)
        self._require_whole(audit)
        if old.unit["stage"] == Stage.MAKE.value:
            made, seen = self._images(old, name)
            for record in self.beside.get(old.name, ()):
                self._side_car(record, name)
        else:
            made, seen = self._probes(old, name), ()
        kept = made.counts.accepted
        checked = replace(
            audit,
            unit={**audit.unit, "of": name},
            name=f"{Stage.AUDIT.value}-{name}",
            counts=Counts(kept, kept, 0, {}),
            files=seen,
        )
        commit(self.parts, checked)
        commit(self.parts, made)

    def enrolled(self, receipt: Receipt, path: str) -> Receipt:
        """Write the revision of a file of enrolled identities, and put its receipt in the old one's place."""
        if any(f.path == path for f in receipt.files):
            return receipt
        parts = self.parts
        self._require_whole(receipt)
        old = next(f for f in receipt.files if is_enrolled(f.path))
        identities, space = parts.segments.read_identities(parts.store, old.path)
        stay = [i for i in identities if i.ordinal not in self.gone.identities]
        entry = parts.segments.write_identities(parts.store, path, stay, space)
        less, counts = len(identities) - len(stay), receipt.counts
        again = replace(
            receipt,
            unit={**receipt.unit, "erased": int(receipt.unit.get("erased", 0)) + less},
            counts=replace(counts, candidates=counts.candidates - less, accepted=counts.accepted - less),
            files=tuple(sorted([entry, *(f for f in receipt.files if f != old)])),
        )
        parts.guard()
        # the one receipt that is written over: it closes a generation, and its name is what it is asked for by
        parts.store.put(receipt.path, again.to_json())
        return again

    def _images(self, old: Receipt, name: str) -> tuple[Receipt, tuple[FileEntry, ...]]:
        parts = self.parts
        segments, store = parts.segments, parts.store
        rows = segments.read_rows(store, old.name)
        stay = self.gone.kept(rows)
        tar, places = store.get(segment_path(old.name, "tar")), segments.locate(store, old.name)
        wholes = wholes_of(segments, store, old)
        made = _candidates(stay, tar, places, wholes or {})
        files = list(segments.write_images(store, name, made, wholes=wholes is not None))
        if any(f.path.startswith(PREVIEWS) for f in old.files):
            shown = [p for p in segments.read_previews(store, old.name) if not self.gone.takes(p.key)]
            files += [segments.write_previews(store, name, shown)] if shown else []
        columns = {k: [row[k] for row in stay] for k in ("key", "accepted", "off_target", "reasons")}
        counts = counts_of_rows(columns)
        counts = replace(counts, wholes=counts.accepted if wholes is not None else 0)
        audit = self._audit(old.name, name)
        return self._receipt(old, name, len(rows) - len(stay), counts, files), (audit,)

    def _audit(self, old: str, name: str) -> FileEntry:
        segments, store = self.parts.segments, self.parts.store
        found, places = segments.read_audit(store, old), segments.locate(store, name)
        stay = np.array([not self.gone.takes(key) for key in found.keys], bool)
        keys = tuple(key for key, stays in zip(found.keys, stay, strict=True) if stays)
        audited = Audited(
            keys=keys,
            offset_N=np.array([places[k][0] for k in keys], np.int64),
            length_N=np.array([places[k][1] for k in keys], np.int64),
            auditor_NE=found.auditor_NE[stay],
        )
        return segments.write_audit(store, name, audited)

    def _probes(self, old: Receipt, name: str) -> Receipt:
        segments, store = self.parts.segments, self.parts.store
        rows = segments.read_rows(store, old.name)
        stay = [row for row in rows if int(row["candidate"]) not in self.gone.candidates]
        files = segments.write_probes(store, name, stay)
        counts = Counts.of((bool(r["accepted"]), False, tuple(r["reasons"])) for r in stay)
        return self._receipt(old, name, len(rows) - len(stay), counts, files)

    def _side_car(self, record: Receipt, name: str) -> None:
        parts = self.parts
        # one that cannot be read is swept away with what it is of, and measured again when it is asked for
        with suppress(StoreError):
            car = open_side_car(parts.segments, parts.store, record)
            stay = [n for n, key in enumerate(car.keys) if not self.gone.takes(key)]
            unit = Unit.from_dict({**record.unit, "of": name})
            folder = record.files[0].path.rpartition("/")[0] + "/"
            less = replace(
                car,
                unit=name,
                keys=tuple(car.keys[n] for n in stay),
                measures=tuple(car.measures[n] for n in stay),
                embedding_NE=car.embedding_NE[stay],
            )
            entry = parts.segments.write_side_car(parts.store, side_car_path(unit, folder), less)
            counts = Counts(len(stay), len(stay), 0, {})
            again = replace(record, unit=unit.to_dict(), name=unit.name, counts=counts, files=(entry,))
            parts.guard()
            parts.store.put(record_path(unit, folder), again.to_json())

    def _require_whole(self, receipt: Receipt) -> None:
        for entry in receipt.files:
            require_whole(self.parts, entry)

    def _receipt(self, old: Receipt, name: str, less: int, counts: Counts, files: Iterable[FileEntry]) -> Receipt:
        unit = {**old.unit, "erased": int(old.unit.get("erased", 0)) + less}
        return replace(old, unit=unit, name=name, counts=counts, files=tuple(sorted(files)))


def audit_of(parts: Parts, receipt: Receipt) -> Receipt:
    """Return the receipt of a unit's audit, with which its revision is published; StoreError where it is gone."""
    path = receipt_path(f"{Stage.AUDIT.value}-{receipt.name}")
    try:
        return read_receipt(parts.store, path)
    except FileNotFoundError:
        raise StoreError(
            f"{path}: missing, and a revision is published with what its audit found; run the same `facemint generate` "
            "command again, which repeats it, or restore it from a copy"
        ) from None


def require_whole(parts: Parts, entry: FileEntry) -> None:
    """Raise StoreError, saying what to do, unless a file has the bytes that its receipt names."""
    if parts.store.size(entry.path) != entry.bytes or stored_sha256(parts.store, entry) != entry.sha256:
        raise StoreError(
            f"{entry.path}: its bytes are not those of its receipt, and what stays rests on it; mend it first with "
            "`facemint generate --deep`, or restore it from a copy"
        )


def revisions_of(receipts: Iterable[Receipt]) -> dict[str, str]:
    """Return path -> that of its next revision, of the files that receipts of enrolled identities name."""
    return {f.path: revised_path(f.path) for r in receipts for f in r.files if is_enrolled(f.path)}


def image_digests(parts: Parts, old: Receipt, gone: Gone) -> list[str]:
    """Return SHA-256 of every stored image of a make unit that goes, and of every whole picture."""
    tar = parts.store.get(segment_path(old.name, "tar"))
    places = parts.segments.locate(parts.store, old.name)
    wholes = wholes_of(parts.segments, parts.store, old) or {}
    crops = [sha256_hex(tar[at : at + length]) for key, (at, length) in sorted(places.items()) if gone.takes(key)]
    return [*crops, *(whole.sha256 for key, whole in sorted(wholes.items()) if gone.takes(key))]


def candidate_of(row: Mapping[str, Any], jpeg: bytes | None, whole: bytes | None = None) -> Candidate:
    """Return a candidate as its row has it, with its bytes and those of its whole picture where it was accepted."""
    sample = Sample(
        row["key"], row["identity"], row["slot"], row["attempt"], row["conditions"], row["measures"], row["embedding"]
    )
    verdicts = tuple(Verdict(**verdict) for verdict in row["verdicts"])
    sourced = row.get("sourced", {})
    return Candidate(sample, row["order"], verdicts, row["accepted"], row["off_target"], jpeg, sourced, whole)


def _candidates(
    rows: Iterable[Mapping[str, Any]],
    tar: bytes,
    places: Mapping[str, tuple[int, int]],
    wholes: Mapping[str, Whole],
) -> Iterator[Candidate]:
    for row in rows:
        offset, length = places[row["key"]] if row["accepted"] else (0, 0)
        whole = wholes.get(row["key"])
        yield candidate_of(
            row,
            tar[offset : offset + length] if row["accepted"] else None,
            None if whole is None else whole_bytes(tar, whole),
        )
