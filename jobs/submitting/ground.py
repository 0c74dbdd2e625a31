"""What every ground promises, and what became of a job there in the words of our exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from jobs.submitting.job import Job

Say = Callable[[str], None]
"""Takes one line, or several, for a person to read."""

STATUSES = {
    0: "done",
    1: "a fault of facemint's, or of the machines it ran on",
    2: "a mistake in what was asked",
    3: "units were quarantined",
    4: "the target was not reached",
    5: "another run holds the dataset",
    6: "stopped by a budget or a deadline",
    7: "the store failed",
    130: "interrupted",
    143: "interrupted",
}
"""Exit status -> what it says. Every outcome of every ground is one of these."""


class State(Enum):
    """How far a submission is."""

    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: int
    told: str = ""
    """What the ground said of it, where that says more than the status."""

    def __str__(self) -> str:
        """Return it in words."""
        more = f" ({self.told})" if self.told else ""
        return f"{STATUSES[self.status]}, exit status {self.status}{more}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A submission that a ground knows."""

    name: str
    number: int
    """Of the try, counted from 1."""
    state: State
    outcome: Outcome | None = None
    """Where it ended."""


class Ground(Protocol):
    """Where jobs are run."""

    def rendered(self, job: Job, number: int) -> str:
        """Return, as text, exactly what `submit` would hand over."""
        ...

    def standing(self, job: Job) -> Standing | None:
        """Return the last try of this submission; None where there is none."""
        ...

    def submit(self, job: Job, number: int) -> bool:
        """Hand it over; False where somebody else was quicker and it is there already."""
        ...

    def follow(self, job: Job, standing: Standing, say: Say) -> Outcome:
        """Show what a submission writes until it ends."""
        ...

    def cancel(self, job: Job, standing: Standing) -> Outcome:
        """Have it end what is in hand and let go; return how it ended."""
        ...


def outcome_of(code: int | None, told: str = "") -> Outcome:
    """Return the outcome of a process by its exit code; one that is none of ours is our fault, and is said."""
    if code in STATUSES:
        return Outcome(code, told)
    signalled = -code if code is not None and code < 0 else (code or 0) - 128
    if signalled in (2, 15):
        return Outcome(128 + signalled, told)
    why = "no exit code is known" if code is None else f"its exit code was {code}"
    return Outcome(1, f"{why}; {told}" if told else why)
