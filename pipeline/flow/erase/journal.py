"""The journal of erasures: `erasures/000001.json` says what one is to remove, and once that is gone only how much.

It is written first, so a killed erasure is seen by whoever comes next, and can be finished from it alone. It holds bare
numbers and names of units; closed, it is the log: counts, and when. Nothing in it leads to a person.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.errors import PlanMismatchError, StoreError
from pipeline.domain.manifest import canonical_json
from pipeline.domain.ports import Store
from pipeline.domain.tombstones import Tombstones

PREFIX = "erasures/"
FINISH = "run `facemint erase URI --yes`, which finishes it"


@dataclass(frozen=True, slots=True)
class Journal:
    """An erasure that was begun.

    Attributes:
        number: erasures of a dataset are numbered from 1.
        parent: the version that was the newest.
        generation: number of the step that leaves out what is erased.
        tombstones: what goes.
        candidates: numbers of the candidate identities that go, those of erased identities among them.
        units: name of a segment -> that of its revision, without what goes.
        enrolled: path of a file of enrolled identities -> that of its revision.
        begun_s: seconds since the epoch.
        faces: of a curated dataset, the (row, face) pairs of inputs that go.
        rows: the inputs that go whole.
    """

    number: int
    parent: str
    generation: int
    tombstones: Tombstones
    candidates: tuple[int, ...]
    units: Mapping[str, str]
    enrolled: Mapping[str, str]
    begun_s: float = field(compare=False)
    faces: tuple[tuple[int, int], ...] = ()
    rows: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Return where it lies."""
        return f"{PREFIX}{self.number:06d}.json"

    def to_json(self) -> bytes:
        """Return the bytes stored while it is open."""
        return canonical_json(
            {
                "schema": 1,
                "number": self.number,
                "done": False,
                "parent": self.parent,
                "generation": self.generation,
                "tombstones": self.tombstones.to_list(),
                "candidates": list(self.candidates),
                "units": dict(self.units),
                "enrolled": dict(self.enrolled),
                "begun_s": round(self.begun_s, 3),
                **({"faces": [list(f) for f in self.faces], "rows": list(self.rows)} if self.faces else {}),
            }
        )

    def closed(self, version: str, ended_s: float, removed: Mapping[str, Any]) -> bytes:
        """Return the bytes stored once nothing is left: how much it was, and when."""
        stones = self.tombstones
        return canonical_json(
            {
                "schema": 1,
                "number": self.number,
                "done": True,
                "parent": self.parent,
                "version": version,
                "identities": len(stones.identities),
                "images": len(stones.images),
                "candidates": len(self.candidates),
                **({"inputs": len(self.rows)} if self.faces else {}),
                "begun_s": round(self.begun_s, 3),
                "ended_s": round(ended_s, 3),
                **removed,
            }
        )


def unfinished(store: Store) -> Journal | None:
    """Return the erasure that was begun and not finished; None where there is none.

    Raises:
        StoreError: its journal is damaged.
    """
    paths = _paths(store)
    if not paths:
        return None
    try:
        raw = json.loads(store.get(paths[-1]))
        if raw["done"]:
            return None
        return Journal(
            number=int(raw["number"]),
            parent=str(raw["parent"]),
            generation=int(raw["generation"]),
            tombstones=Tombstones.from_list(raw["tombstones"]),
            candidates=tuple(raw["candidates"]),
            units=dict(raw["units"]),
            enrolled=dict(raw["enrolled"]),
            begun_s=float(raw["begun_s"]),
            faces=tuple((int(row), int(face)) for row, face in raw.get("faces", ())),
            rows=tuple(int(row) for row in raw.get("rows", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{paths[-1]}: not the journal of an erasure ({type(error).__name__}); restore it from a copy"
        ) from None


def next_number(store: Store) -> int:
    """Return the number of the next erasure."""
    paths = _paths(store)
    return 1 + int(paths[-1].removeprefix(PREFIX).removesuffix(".json")) if paths else 1


def require_none_unfinished(store: Store) -> None:
    """Refuse to work on a dataset of which something is half erased.

    Raises:
        PlanMismatchError: an erasure was begun and not finished.
    """
    begun = unfinished(store)
    if begun is not None:
        raise PlanMismatchError(f"{store.uri}: an erasure was begun and not finished ({begun.path}); {FINISH}")


def _paths(store: Store) -> list[str]:
    found = (p for p in store.list(PREFIX) if p.removeprefix(PREFIX).removesuffix(".json").isdecimal())
    return sorted(p for p in found if p.endswith(".json"))
