"""The unit: what is worked on, retried, committed and resumed. A value that names work, never a place or a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """The stages whose units leave a segment and a receipt."""

    ENROL = "enrol"
    MAKE = "make"
    AUDIT = "audit"


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
        siblings_of: the version whose images of these identities are siblings of the new ones (make); empty where they
            have none.
        of: name of the unit that is re-read (audit).
        reader: digest of the recogniser that reads its images (audit); another reader audits anew.
    """

    stage: Stage
    generation: int
    index: int
    round: int
    proposals: tuple[Proposal, ...] = ()
    ordinals: tuple[int, ...] = ()
    slots: tuple[int, int] = (0, 0)
    siblings_of: str = ""
    of: str = ""
    reader: str = ""

    @property
    def name(self) -> str:
        """Return the name in files: `make-g0-000003`, and `audit-make-g0-000003` for what re-reads it."""
        if self.of:
            return f"{self.stage.value}-{self.of}"
        return f"{self.stage.value}-g{self.generation}-{self.index:06d}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        raw = {k: v for k, v in asdict(self).items() if k not in ("siblings_of", "of", "reader") or v}
        raw["stage"] = self.stage.value
        raw["proposals"] = [[p.candidate, p.cell] for p in self.proposals]
        raw["ordinals"], raw["slots"] = list(self.ordinals), list(self.slots)
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
            siblings_of=raw.get("siblings_of", ""),
            of=raw.get("of", ""),
            reader=raw.get("reader", ""),
        )
