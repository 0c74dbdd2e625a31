"""The unit: what is worked on, retried, committed and resumed. A value that names work, never a place or a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_LEFT_OUT_IF_EMPTY = ("open_slots", "siblings_of", "of", "reader", "side_car", "rows")


class Stage(StrEnum):
    """The stages whose units leave a file and a receipt; of `measure` both lie beside the side-cars."""

    ENROL = "enrol"
    MAKE = "make"
    AUDIT = "audit"
    MEASURE = "measure"
    INGEST = "ingest"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One candidate identity that an enrol unit probes: its number, and the cell towards which it is drawn."""

    candidate: int
    cell: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work with one outcome: a segment and a receipt.

    Attributes:
        stage: which work.
        generation: growth step of the dataset, 0 for the first.
        index: running number within stage and generation, over all rounds.
        round: the round that planned it; rounds are barriers.
        proposals: the candidates to probe (enrol).
        ordinals: the identities to make images of, rising (make).
        slots: the half-open range of slots each of them owes (make); one that begins above 0 adds images to
            identities that are published.
        open_slots: per ordinal the slots that it owes, rising, where it does not owe all of `slots` (make).
        siblings_of: the version whose images of these identities are siblings of the new ones (make); empty where they
            have none.
        of: name of the unit that is re-read (audit).
        reader: digest of what reads its images (audit, measure); another reader audits anew.
        side_car: name of the side-car that is written about it (measure).
        rows: the half-open range of rows of the frozen listing (ingest); a clean unit's bucket is its index.
    """

    stage: Stage
    generation: int
    index: int
    round: int
    proposals: tuple[Proposal, ...] = ()
    ordinals: tuple[int, ...] = ()
    slots: tuple[int, int] = (0, 0)
    open_slots: tuple[tuple[int, ...], ...] = ()
    siblings_of: str = ""
    of: str = ""
    reader: str = ""
    side_car: str = ""
    rows: tuple[int, ...] = ()

    def slots_of(self, ordinal: int) -> tuple[int, ...]:
        """Return the slots that one of its identities owes, rising."""
        return self.open_slots[self.ordinals.index(ordinal)] if self.open_slots else tuple(range(*self.slots))

    @property
    def adds(self) -> bool:
        """Return whether its identities are published already, so that it adds images to them."""
        return self.slots[0] > 0 or bool(self.open_slots)

    @property
    def name(self) -> str:
        """Return the name in files: `make-g0-000003`, and `audit-make-g0-000003` for what re-reads it."""
        if self.side_car:
            return f"{self.stage.value}-{self.of}-{self.side_car}"
        if self.of:
            return f"{self.stage.value}-{self.of}"
        return f"{self.stage.value}-g{self.generation}-{self.index:06d}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        raw = {k: v for k, v in asdict(self).items() if k not in _LEFT_OUT_IF_EMPTY or v}
        raw["stage"] = self.stage.value
        raw["proposals"] = [[p.candidate, p.cell] for p in self.proposals]
        raw["ordinals"], raw["slots"] = list(self.ordinals), list(self.slots)
        if self.open_slots:
            raw["open_slots"] = [list(slots) for slots in self.open_slots]
        if self.rows:
            raw["rows"] = list(self.rows)
        return raw

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Unit:
        """Return the unit that `to_dict` wrote; raises KeyError, TypeError or ValueError on others."""
        return cls(
            stage=Stage(raw["stage"]),
            generation=raw["generation"],
            index=raw["index"],
            round=raw["round"],
            proposals=tuple(Proposal(candidate, cell) for candidate, cell in raw["proposals"]),
            ordinals=tuple(raw["ordinals"]),
            slots=(raw["slots"][0], raw["slots"][1]),
            open_slots=tuple(tuple(slots) for slots in raw.get("open_slots", ())),
            siblings_of=raw.get("siblings_of", ""),
            of=raw.get("of", ""),
            reader=raw.get("reader", ""),
            side_car=raw.get("side_car", ""),
            rows=tuple(raw.get("rows", ())),
        )
