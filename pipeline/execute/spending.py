"""What a run has spent so far, and whether a budget of it is used up or its deadline is over.

Workers are counted for as long as they are held, waiting and loading included: that is what a cluster is paid for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.domain.compute import Compute
from pipeline.domain.errors import StoppedError
from pipeline.domain.ports import Clock
from pipeline.domain.spending import Budget, deadline_s, moment
from pipeline.domain.unit import Stage

HOUR_S = 3600.0
_AGAIN = "finished units are kept; run the same command again to go on"


def spending_of(compute: Compute, clock: Clock) -> Spending:
    """Return what counts a run that begins now, within the limits of a recipe."""
    until_s = deadline_s(compute.deadline, clock.now_s()) if compute.deadline else None
    return Spending(compute.budget, until_s, compute.gpus, clock)


class Spending:
    """Implements `ports.Observer`: adds up what a run costs.

    Args:
        budget: the most that it may spend.
        deadline_s: when it stops, seconds since the epoch; None for never.
        gpus: devices of one worker.
        clock: time.
    """

    def __init__(self, budget: Budget, deadline_s: float | None, gpus: float, clock: Clock) -> None:
        self.deadline_s = deadline_s
        self.images = 0
        """Candidate images made by this run."""
        self._budget, self._gpus, self._clock = budget, gpus, clock
        self._held_s: Callable[[], float] = lambda: 0.0

    def attach(self, held_s: Callable[[], float]) -> None:
        """Take note of what tells for how many seconds workers have been held, summed over them."""
        self._held_s = held_s

    def event(self, kind: str, **facts: Any) -> None:
        """Count the images of units that this run was told of."""
        if kind == "unit" and facts["receipt"].unit["stage"] == Stage.MAKE.value:
            self.images += facts["receipt"].counts.candidates

    def worker_s(self) -> float:
        """Return for how long workers have been held, summed over them."""
        return self._held_s()

    def gpu_s(self) -> float:
        """Return for how long devices have been held, summed over them."""
        return self._held_s() * self._gpus

    def spent(self) -> dict[str, tuple[float, float]]:
        """Return budget -> (spent, allowed), of the budgets that are given, in their own units."""
        held_h = self.worker_s() / HOUR_S
        spent = {"gpu_hours": held_h * self._gpus, "worker_hours": held_h, "images": float(self.images)}
        allowed = {name: getattr(self._budget, name) for name in spent}
        return {
            name.replace("_", "-"): (spent[name], float(most)) for name, most in allowed.items() if most is not None
        }

    def limit(self) -> StoppedError | None:
        """Return what ends the run, in one line, or None: what `Stop.limit` asks."""
        for name, (spent, most) in self.spent().items():
            if spent >= most:
                return StoppedError(f"the budget of {most:g} {name} is spent ({spent:.4g}); {_AGAIN} with it anew")
        if self.deadline_s is not None and self._clock.now_s() >= self.deadline_s:
            return StoppedError(f"the deadline {moment(self.deadline_s)} is over; {_AGAIN} with a later one")
        return None
