"""The values of a proof: links that say what is known of an image, each with the checks that hold it to the next.

And the witness that checks are made with: everything that the records of a dataset say, read once, and digests of its
files, each computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import FileEntry, Manifest, Receipt
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.ports import SegmentWriter, Store
from pipeline.domain.recipe import Recipe
from pipeline.flow.commit import stored_sha256
from pipeline.flow.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was held against another that must say the same; `found` is one line, whichever way it ended."""

    what: str
    ok: bool
    found: str


@dataclass(frozen=True, slots=True)
class Link:
    """One step of an image's lineage: JSON-ready facts, and the checks that tie it to the others."""

    name: str
    facts: Mapping[str, Any]
    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether every check held."""
        return all(check.ok for check in self.checks)


@dataclass(frozen=True, slots=True)
class Proof:
    """An image's lineage.

    Attributes:
        key: of the image.
        state: `published`, `stored` (accepted, and in no version) or `refused`.
        said: the same in a sentence, with the reasons.
        links: from the versions that hold it down to the recipe.
    """

    key: str
    state: str
    said: str
    links: tuple[Link, ...]

    @property
    def ok(self) -> bool:
        """Return whether no link is broken."""
        return all(link.ok for link in self.links)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "key": self.key,
            "state": self.state,
            "said": self.said,
            "ok": self.ok,
            "links": [{**asdict(link), "ok": link.ok} for link in self.links],
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """The file of a generation: its recipe, and the prints as it states them."""

    recipe: Recipe
    fingerprint: str
    plan_digest: str
    fields: Mapping[str, Any]
    plan_fields: Mapping[str, Any]


@dataclass(slots=True)
class Witness:
    """What proofs are made with.

    Args:
        store: the dataset.
        segments: reads its tables.
        ledger: what its records say.
        asked: reads the file of a generation; raises FacemintError where it cannot.
        source_type: bytes of an image -> the IPTC digital source type that its XMP states, None where there is none.
        signature: version -> the link of its signature, None where it is not signed.
        tables: reads where a merged dataset has its images from.
    """

    store: Store
    segments: SegmentWriter
    ledger: Ledger
    asked: Callable[[int], Asked]
    source_type: Callable[[bytes], str | None]
    signature: Callable[[Manifest], Link | None] = lambda _manifest: None
    tables: PlainTables | None = None
    _digests: dict[str, tuple[str, int] | None] = field(default_factory=dict)

    @property
    def manifests(self) -> list[Manifest]:
        """Return the versions whose files are there, oldest first."""
        return [m for v, m in self.ledger.manifests.items() if v not in self.ledger.retired]

    @property
    def real(self) -> bool:
        """Return whether the images are photographs of real people, which nothing generated."""
        return self.ledger.curated

    def digest(self, path: str) -> tuple[str, int] | None:
        """Return SHA-256 and size of a stored file; None where it is missing or cannot be read."""
        if path not in self._digests:
            size = self.store.size(path)
            try:
                sha256 = stored_sha256(self.store, FileEntry(path, "", size or 0))
            except (FileNotFoundError, StoreError):
                size = None
            self._digests[path] = None if size is None else (sha256, size)
        return self._digests[path]

    def held(self, entry: FileEntry | None, path: str, by: str) -> Check:
        """Return the check of a stored file against the record `by` that names it."""
        if entry is None:
            return Check(path, False, f"{by} does not name it")
        actual = self.digest(path)
        if actual is None:
            return Check(path, False, f"missing or unreadable; {by} names it")
        if actual != (entry.sha256, entry.bytes):
            return Check(path, False, f"SHA-256 {actual[0][:16]}, but {by} says {entry.sha256[:16]}")
        return Check(path, True, f"SHA-256 {actual[0]}, as {by} says")

    def named(self, receipt: Receipt, path: str) -> Check:
        """Return the check of a stored file against a receipt."""
        return self.held(next((f for f in receipt.files if f.path == path), None), path, receipt.path)

    def of_record(self, path: str) -> list[Check]:
        """Return, as broken checks, what reading the records found wrong with one of them."""
        return [Check(path, False, f"{p.found}; expected {p.expected}") for p in self.ledger.problems if p.path == path]


def equal(what: str, mine: Any, theirs: Any, by: str) -> Check:
    """Return the check that two statements are the same; they are shown shortened where they are not."""
    if mine == theirs:
        return Check(what, True, f"{_short(mine)}, as {by}")
    return Check(what, False, f"{_short(mine)}, but {by}: {_short(theirs)}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 64 else f"{text[:61]}..."
