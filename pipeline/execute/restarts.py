"""What an executor remembers of workers that it lost: how soon the next may start, when to give up, who had company."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.domain.errors import FacemintError

START_DEATHS_ALLOWED = 3
"""So many workers in a row may fail to start; while others work, starting goes on, only ever more slowly."""
BACKOFF_S = 0.5
"""Pause after the first of them; it doubles each time."""
BACKOFF_MAX_S = 30.0
MEMORY_CALM_S = 5.0
"""A memory monitor may kill several workers of a node at one blow: each then counts as company of the next."""


@dataclass(slots=True)
class Restarts:
    """Bounds restarts: a worker that dies whenever it starts must not be started for ever."""

    failures: int = 0
    """Failed starts since the last that succeeded."""
    not_before_s: float = 0.0
    last_error: FacemintError | None = None

    def succeeded(self) -> None:
        """Take note of a worker that is ready."""
        self.failures, self.not_before_s, self.last_error = 0, 0.0, None

    def failed(self, error: FacemintError, now_s: float) -> None:
        """Take note of a worker that was not to be had."""
        self.not_before_s = now_s + min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(self.failures, 16))
        self.failures += 1
        self.last_error = error

    def may_start(self, now_s: float) -> bool:
        """Return whether the pause after the last failure is over."""
        return now_s >= self.not_before_s

    @property
    def exhausted(self) -> bool:
        """Return whether starting makes no sense any more, where no other worker works."""
        return self.failures >= START_DEATHS_ALLOWED


class MemoryKills:
    """Tells a worker that was killed for its neighbours' memory from one that had the node for itself."""

    def __init__(self) -> None:
        """Start with none seen."""
        self._last_s: dict[str, float] = {}

    def had_company(self, node: str, neighbours: int, began_s: float, now_s: float) -> bool:
        """Take note of a kill on a node; return whether other workers of ours were there, or had just been killed too.

        Args:
            node: where.
            neighbours: workers of ours that live there.
            began_s: when the killed one began what it did: what was killed before that did not disturb it.
            now_s: when it was killed.
        """
        before_s = self._last_s.get(node, -math.inf)
        self._last_s[node] = now_s
        return neighbours > 0 or (began_s <= before_s and now_s - before_s < MEMORY_CALM_S)
