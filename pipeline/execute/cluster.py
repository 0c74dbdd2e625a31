"""What a pool of workers asks of an engine: processes, calls to them, and a plain word on how one was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from pipeline.domain.errors import FacemintError


class Loss(Enum):
    """What took a worker."""

    PROCESS = auto()
    """Its process died on a living node."""
    NODE = auto()
    """Its node, or the way to it."""
    MEMORY = auto()
    """The memory monitor of its node."""
    NOTICE = auto()
    """A notice that it, or its node, is about to be taken away: it gave back what it had."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The answer of a worker that is lost."""

    by: Loss
    why: str


@dataclass(frozen=True, slots=True)
class Raised:
    """The answer of a worker that lives, and raised an error of ours."""

    error: FacemintError


class Cluster(Protocol):
    """Where worker processes come from. A call is a ticket for an answer; a worker answers its calls in order."""

    def open(self) -> None:
        """Connect, where that has not been done."""
        ...

    def close(self) -> None:
        """Disconnect; no error where that has been done."""
        ...

    def room(self) -> float:
        """Return how many workers the living nodes could hold, by what they have in all, taken or free."""
        ...

    def asked(self) -> str:
        """Return in words what a worker books of a node."""
        ...

    def lack(self) -> str:
        """Return why no living node could hold a worker, even with nothing else on it; empty where one could."""
        ...

    def leaving(self) -> set[str]:
        """Return the nodes that are about to be taken away, and are given nothing new."""
        ...

    def hire(self, workers: int | None) -> Any:
        """Ask for a process, one of so many, and return its handle; it may be placed later."""
        ...

    def call(self, handle: Any, method: str, *args: Any) -> Any:
        """Return the ticket of a call of `where`, `hello` or `work`."""
        ...

    def answered(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the calls that are answered, or lost, waiting for the first one at most so long."""
        ...

    def answer(self, call: Any, node: str | None) -> Any:
        """Return what an answered call returned, or Raised, or Lost; `node` is where its worker is, where known."""
        ...

    def dismiss(self, handle: Any) -> None:
        """Kill a process; no error where it is dead."""
        ...
