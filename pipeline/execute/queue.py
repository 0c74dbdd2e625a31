"""The queue of a run: which unit is issued next, which waits for another try, which is set aside.

What every executor decides alike stands here: units in quarantine are not issued, an error that may pass is tried
again a few times and later each time, any other error ends the run, a death is written down before its unit is issued
again, and what is set aside is named at the end.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.domain.errors import FacemintError, QuarantinedError
from pipeline.domain.unit import Unit
from pipeline.flow.quarantine import DEATHS_ALLOWED, Quarantine

RETRIES = 3
"""How often a unit is tried again after an error that may pass."""
RETRY_S = 0.5
"""Pause before the first of them; it doubles each time."""
SHOWN = 5
"""Units named in a message."""
log = logging.getLogger("facemint")


class UnitQueue:
    """The units of one run that still have to be issued."""

    def __init__(
        self, units: Iterable[Unit], quarantine: Quarantine, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the quarantine and set aside what is in it."""
        quarantine.read()
        self._quarantine = quarantine
        self._now_s = now_s
        self._aside: list[str] = []
        self._ready: deque[Unit] = deque()
        self._later: list[tuple[float, Unit]] = []
        self._tries: Counter[str] = Counter()
        for unit in units:
            self._admit(unit)

    def __len__(self) -> int:
        """Return how many units wait, those that wait for another try too."""
        return len(self._ready) + len(self._later)

    @property
    def ready(self) -> int:
        """Return how many units could be issued now."""
        self._wake()
        return len(self._ready)

    def take(self) -> Unit | None:
        """Return the next unit, or None where none may be issued now."""
        self._wake()
        return self._ready.popleft() if self._ready else None

    def put_back(self, units: Iterable[Unit]) -> None:
        """Take units back that were issued and are not to blame: they are the next ones, in the order given."""
        self._ready.extendleft(reversed(list(units)))

    def died(self, unit: Unit, why: str, facts: Mapping[str, Any]) -> None:
        """Write down that a worker died on a unit; then issue it again after all others, or set it aside."""
        number = self._quarantine.record(unit.name, why, facts)
        told = {"unit": unit.name, "worker": dict(facts)}
        log.warning("%s: death %d of %d allowed: %s", unit.name, number, DEATHS_ALLOWED, why, extra=told)
        self._admit(unit)

    def failed(self, unit: Unit, error: FacemintError) -> None:
        """Plan another try where the error may pass and tries are left; raise it otherwise."""
        if not error.retryable or self._tries[unit.name] >= RETRIES:
            raise error
        pause_s = RETRY_S * 2 ** self._tries[unit.name]
        self._tries[unit.name] += 1
        told = {"unit": unit.name}
        tries = self._tries[unit.name]
        log.warning("%s: %s; try %d of %d in %.1f s", unit.name, error, tries, RETRIES, pause_s, extra=told)
        self._later.append((self._now_s() + pause_s, unit))

    def finish(self) -> None:
        """End the run: raise QuarantinedError where units were set aside, naming them and what to do."""
        if not self._aside:
            return
        names = sorted(self._aside)
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        why = self._quarantine.why(names[0])
        raise QuarantinedError(
            f"{len(names)} units are quarantined after {DEATHS_ALLOWED} worker deaths each: {', '.join(names[:SHOWN])}"
            f"{more}{f' (last: {why})' if why else ''}; every other unit is done; mend the cause and run the command "
            "again with --retry-quarantined"
        )

    def _admit(self, unit: Unit) -> None:
        if self._quarantine.is_full(unit.name):
            self._aside.append(unit.name)
        else:
            self._ready.append(unit)

    def _wake(self) -> None:
        if not self._later:
            return
        now_s = self._now_s()
        self._ready.extend(unit for due_s, unit in self._later if due_s <= now_s)
        self._later = [(due_s, unit) for due_s, unit in self._later if due_s > now_s]
