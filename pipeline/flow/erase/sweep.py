"""The sweep: what is removed once a version without the erased stands, told from what has to stay, never from a list.

Everything stays that a current receipt, a current side-car or the newest version names, and every manifest. The rest of
the folders that hold images, embeddings or keys goes: what revisions replaced, index, documents and exports of earlier
versions, lists of nearest pairs, and what killed runs left and nobody ever named, which may hold the erased too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.domain.manifest import Manifest, Receipt
from pipeline.domain.ports import Store, Stored
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import HELD
from pipeline.domain.revisions import parsed
from pipeline.flow.commit import NOTES, read_receipt
from pipeline.flow.leakage import PAIRS
from pipeline.flow.sidecars import FOLDERS as SIDE_CARS
from pipeline.flow.versions import read_manifest, versions

_NAMED = ("segments/", "audits/", "enrolled/", PREVIEWS, *SIDE_CARS, "versions/", PAIRS, *HELD)
"""Folders in which every file is named by some record, or is nobody's."""


SIGNATURE = "/manifest.c2pa"


@dataclass(frozen=True, slots=True)
class Staying:
    """What stays.

    Attributes:
        receipts: by name, the newest revision of each; those of units that are about to be rewritten left out.
        side_cars: records, of the units that stay.
        manifest: the newest version; None while the one that will be is not published.
    """

    receipts: Mapping[str, Receipt]
    side_cars: Iterable[Receipt]
    manifest: Manifest | None

    def doomed(self, store: Store) -> list[Stored]:
        """Return every file that does not stay, by path."""
        notes = {path: read_receipt(store, path) for path in store.list(NOTES)}
        superseded = {parsed(name)[0]: name for name in self.receipts}
        old_notes = {p for p, r in notes.items() if superseded.get(parsed(r.name)[0], r.name) != r.name}
        paths = self._paths(store) | {f.path for p, r in notes.items() if p not in old_notes for f in r.files}
        named = (e for folder in _NAMED for e in store.entries(folder) if e.path not in paths)
        # signatures of manifests stay with them
        out = [e for e in named if not e.path.endswith(SIGNATURE)]
        stand = {f"receipts/{name}.json" for name in self.receipts}
        units = {f"receipts/{base}" for base in superseded}
        out += [
            e
            for e in store.entries("receipts/")
            if e.path.endswith(".json") and e.path not in stand and parsed(e.path.removesuffix(".json"))[0] in units
        ]
        out += [e for e in store.entries("exports/") if not self._is_of_newest(e.path)]
        out += [e for e in store.entries(NOTES) if e.path in old_notes]
        return sorted(set(out))

    def _paths(self, store: Store) -> set[str]:
        paths = {f.path for r in self.receipts.values() for f in r.files}
        for record in self.side_cars:
            for entry in record.files:
                paths |= {entry.path, f"{entry.path.removesuffix('.parquet')}.json"}
        paths |= {read_manifest(store, version).path for version in versions(store)}
        if self.manifest is not None:
            paths |= {f.path for f in (*self.manifest.files, *self.manifest.documents)}
            leakage = self.manifest.figures.get("leakage")
            kept = leakage.get("private", {}) if isinstance(leakage, Mapping) else {}
            paths |= {f["path"] for f in kept.values()}
        return paths

    def _is_of_newest(self, path: str) -> bool:
        return self.manifest is not None and path.startswith(f"exports/{self.manifest.version}/")
