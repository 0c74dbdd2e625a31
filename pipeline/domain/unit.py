"""The unit: what is worked on, retried, committed and resumed. A value that names work, never a place or a worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """The stages whose units leave a segment and a receipt."""

    ENROL = "enrol"
    MAKE = "make"


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
        slots: the half-open range of slots each of them owes (make).
    """

    stage: Stage
    generation: int
    index: int
    round: int
    proposals: tuple[Proposal, ...] = ()
    ordinals: tuple[int, ...] = ()
    slots: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """Return the name in files: `make-g0-000003`."""
        return f"{self.stage.value}-g{self.generation}-{self.index:06d}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        raw = asdict(self)
        raw["stage"] = self.stage.value
        raw["proposals"] = [[p.candidate, p.cell] for p in self.proposals]
        raw["ordinals"], raw["slots"] = list(self.ordinals), list(self.slots)
        return raw
