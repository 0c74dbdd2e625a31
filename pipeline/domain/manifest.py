"""Receipts, indexes and manifests as values, with one canonical JSON form and the digests built on it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.seal import sealed
from pipeline.domain.tombstones import Tombstones

SCHEMA_VERSION = 1
"""Version of the on-disk layout, stated in every parquet, receipt and manifest."""


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces, ending in a newline: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256_hex(data: bytes) -> str:
    """Return the hexadecimal SHA-256 digest of `data`."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """A file of the dataset, by path below its root."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a unit's candidates; `candidates == accepted + refused` always."""

    candidates: int
    accepted: int
    refused: int
    reasons: Mapping[str, int]
    """Refused candidates by their first reason, in the order of the filters; sums to `refused`."""
    off_target: int = 0
    """Accepted ones that missed their conditions."""
    reasons_any: Mapping[str, int] = field(default_factory=dict)
    """Refused candidates by every reason; one refused by two filters counts under both."""
    twins: int = 0
    """Hard-condition twins of accepted ones; they are no candidates."""
    wholes: int = 0
    """Accepted ones whose whole picture, before it was cut, is stored too."""

    def __post_init__(self) -> None:
        """Refuse counts that lose a candidate."""
        if self.candidates != self.accepted + self.refused:
            raise ValueError(f"{self.candidates} candidates != {self.accepted} accepted + {self.refused} refused")
        if sum(self.reasons.values()) != self.refused:
            raise ValueError(f"{self.refused} refused, but the reasons add up to {sum(self.reasons.values())}")

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool, tuple[str, ...]]]) -> Counts:
        """Count (accepted, off target, reasons) triples."""
        candidates = accepted = off_target = 0
        first: Counter[str] = Counter()
        every: Counter[str] = Counter()
        for kept, missed, reasons in outcomes:
            candidates += 1
            accepted += kept
            off_target += kept and missed
            if not kept:
                first[reasons[0]] += 1
                every.update(reasons)
        return cls(
            candidates, accepted, candidates - accepted, dict(sorted(first.items())), off_target,
            dict(sorted(every.items())),
        )  # fmt: skip

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Return the sum."""
        listed = list(parts)
        return cls(
            sum(p.candidates for p in listed),
            sum(p.accepted for p in listed),
            sum(p.refused for p in listed),
            _sum(p.reasons for p in listed),
            sum(p.off_target for p in listed),
            _sum(p.reasons_any for p in listed),
            sum(p.twins for p in listed),
            sum(p.wholes for p in listed),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; twins and whole pictures stand in it where there are any."""
        counts: dict[str, Any] = {
            "candidates": self.candidates,
            "accepted": self.accepted,
            "refused": self.refused,
            "off_target": self.off_target,
            "reasons": dict(self.reasons),
            "reasons_any": dict(self.reasons_any),
        }
        return counts | {k: n for k, n in (("twins", self.twins), ("wholes", self.wholes)) if n}


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a unit's segment exists. `content` must be equal on every machine; `run` may differ."""

    unit: Mapping[str, Any]
    name: str
    fingerprint: str
    plan_digest: str
    counts: Counts
    files: tuple[FileEntry, ...]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Return where the receipt lies."""
        return receipt_path(self.name)

    def content(self) -> dict[str, Any]:
        """Return the part that is compared: two receipts with equal content say the same."""
        return {
            "schema": SCHEMA_VERSION,
            "unit": dict(self.unit),
            "name": self.name,
            "fingerprint": self.fingerprint,
            "plan_digest": self.plan_digest,
            "counts": self.counts.to_dict(),
            "files": [{"path": f.path, "sha256": f.sha256, "bytes": f.bytes} for f in self.files],
        }

    def to_json(self) -> bytes:
        """Return the bytes stored."""
        return canonical_json(sealed({"content": self.content(), "run": dict(self.run)}))

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Return the receipt that `to_json` wrote; raises ValueError, KeyError or TypeError on others."""
        raw = json.loads(data)
        content = raw["content"]
        return cls(
            unit=content["unit"],
            name=content["name"],
            fingerprint=content["fingerprint"],
            plan_digest=content["plan_digest"],
            counts=Counts(**content["counts"]),
            files=tuple(FileEntry(f["path"], f["sha256"], f["bytes"]) for f in content["files"]),
            run=raw["run"],
        )


def receipt_path(unit_name: str) -> str:
    """Return the path of a unit's receipt."""
    return f"receipts/{unit_name}.json"


def segment_path(unit_name: str, suffix: str) -> str:
    """Return the path of one file of a unit's segment; `suffix` is `tar` or `parquet`."""
    return f"segments/{unit_name}.{suffix}"


def audit_path(unit_name: str) -> str:
    """Return the path of what the audit found about a make unit's segment."""
    return f"audits/{unit_name}.parquet"


def version_name(number: int) -> str:
    """Return a version's name: `v000001`."""
    return f"v{number:06d}"


@dataclass(frozen=True, slots=True, order=True)
class IndexRow:
    """One published image: its label, and its bytes: `length` from `offset` of `segments/<segment>.tar`."""

    label: int
    key: str
    identity: int
    cell: str
    segment: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A published version. It holds no time, so publishing the same content twice gives the same bytes."""

    version: str
    parent: str | None
    """The version that this one grew from."""
    parent_digest: str | None
    generation: int
    """The growth step whose units this version was the first to hold."""
    name: str
    fingerprint: str
    plan_digest: str
    files: tuple[FileEntry, ...]
    """Segments and index: what the dataset digest covers."""
    documents: tuple[FileEntry, ...]
    """Card and other documents of this version."""
    counts: Mapping[str, Any]
    figures: Mapping[str, Any]
    """Balance, similarity under judge and auditor, thresholds used: what the audit measured."""
    models: Mapping[str, Any]
    use: Mapping[str, Any]
    tombstones: Tombstones = field(default_factory=Tombstones)
    """Bare numbers of what was erased from this version or an earlier one; versions before the erasure are retired."""

    @property
    def digest(self) -> str:
        """Return the dataset digest: SHA-256 over the sorted (path, sha256) of segments and index."""
        lines = "".join(f"{f.path} {f.sha256}\n" for f in sorted(self.files))
        return sha256_hex(lines.encode())

    @property
    def path(self) -> str:
        """Return where the manifest lies."""
        return manifest_path(self.version)

    def to_json(self) -> bytes:
        """Return the bytes stored."""
        body = {
            "schema": SCHEMA_VERSION,
            "version": self.version,
            "parent": self.parent,
            "parent_digest": self.parent_digest,
            "generation": self.generation,
            "name": self.name,
            "digest": self.digest,
            "fingerprint": self.fingerprint,
            "plan_digest": self.plan_digest,
            "files": [{"path": f.path, "sha256": f.sha256, "bytes": f.bytes} for f in sorted(self.files)],
            "documents": [{"path": f.path, "sha256": f.sha256, "bytes": f.bytes} for f in sorted(self.documents)],
            "counts": self.counts,
            "figures": self.figures,
            "models": self.models,
            "use": self.use,
            "tombstones": self.tombstones.to_list(),
        }
        return canonical_json(sealed(body))

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Return the manifest that `to_json` wrote; raises ValueError, KeyError or TypeError on others."""
        raw = json.loads(data)
        return cls(
            version=raw["version"],
            parent=raw["parent"],
            parent_digest=raw["parent_digest"],
            generation=raw["generation"],
            name=raw["name"],
            fingerprint=raw["fingerprint"],
            plan_digest=raw["plan_digest"],
            files=tuple(FileEntry(**f) for f in raw["files"]),
            documents=tuple(FileEntry(**f) for f in raw["documents"]),
            counts=raw["counts"],
            figures=raw["figures"],
            models=raw["models"],
            use=raw["use"],
            tombstones=Tombstones.from_list(raw.get("tombstones") or ()),
        )


def manifest_path(version: str) -> str:
    """Return the path of a version's manifest."""
    return f"versions/{version}/manifest.json"
