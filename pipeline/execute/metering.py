"""Keeping a run's metrics: from its events as they come, and every few seconds from what nobody tells."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Clock
from pipeline.execute.metrics import Book
from pipeline.execute.spending import Spending

if TYPE_CHECKING:
    from pipeline.execute.session import Session

PULSE_S = 2.0
"""How often what changes by itself is read, and everything handed on."""


class Sink(Protocol):
    """Where metrics go."""

    def write(self, book: Book) -> None:
        """Hand on what the book says now; called from one thread at a time."""
        ...


class Metering:
    """Implements `ports.Observer`: fills a book from a run's events, and hands it to sinks while the run lasts.

    Args:
        book: where the numbers are kept.
        spending: what the run costs.
        clock: time.
        sinks: who is handed the book.
    """

    def __init__(self, book: Book, spending: Spending, clock: Clock, sinks: Sequence[Sink]) -> None:
        self._book, self._spending, self._clock, self._sinks = book, spending, clock, tuple(sinks)
        self._session: Session | None = None
        self._stage: str | None = None
        self._open = 0
        self._busy_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="metrics", daemon=True)
        now_s = clock.now_s()
        book.put("run_started_timestamp_seconds", now_s)
        book.put("last_unit_timestamp_seconds", now_s)
        book.put("quarantined_units", 0)
        if spending.deadline_s is not None:
            book.put("deadline_timestamp_seconds", spending.deadline_s)

    def begin(self, session: Session) -> None:
        """Read lease, workers and speed from a session from now on."""
        self._session = session
        self._thread.start()

    def end(self, status: int) -> None:
        """Say how the run ended, and hand the book on for the last time; once is enough."""
        if self._over.is_set():
            return
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * PULSE_S)
        self._begin_stage(None, 0)
        self._book.put("run_ended_timestamp_seconds", self._clock.now_s(), status=str(status))
        self.pulse()

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of one event; kinds that it does not know mean nothing to it."""
        if kind == "stage":
            self._begin_stage(str(facts["name"]), int(facts["total"]) - int(facts["done"]))
        elif kind == "unit":
            self._count(facts["receipt"])
        elif kind == "workers":
            self._book.put("workers", float(facts["number"]))
        elif kind == "enrolled":
            self._tell_cells(facts)
        elif kind == "lost":
            self._book.add("workers_lost", by=str(facts["by"]))
        elif kind == "death":
            self._book.add("deaths")
        elif kind == "quarantined":
            self._book.put("quarantined_units", float(len(facts["units"])))

    def pulse(self) -> None:
        """Read what changes by itself, and hand everything on."""
        session, book = self._session, self._book
        held_s = self._spending.worker_s()
        book.reach("worker_seconds", held_s)
        book.reach("gpu_seconds", self._spending.gpu_s())
        if held_s > 0:
            book.put("workers_busy_ratio", min(1.0, self._busy_s / held_s))
        for name, (spent, most) in self._spending.spent().items():
            book.put("budget_used_ratio", spent / most, budget=name)
        if session is not None:
            book.put("workers", float(session.executor.workers))
            book.put("lease_age_seconds", max(0.0, self._clock.now_s() - session.lease.renewed_s))
            book.put("images_per_second", float(session.progress.to_dict()["images_per_s"] or 0.0))
        for sink in self._sinks:
            sink.write(book)

    def _beat(self) -> None:
        while not self._over.wait(PULSE_S):
            self.pulse()

    def _begin_stage(self, name: str | None, units: int) -> None:
        if self._stage is not None:
            self._book.put("units_open", 0, stage=self._stage)
        self._stage, self._open = name, max(0, units)
        if name is not None:
            self._book.put("units_open", self._open, stage=name)

    def _count(self, receipt: Receipt) -> None:
        book, stage, counts = self._book, str(receipt.unit["stage"]), receipt.counts
        book.add("units", stage=stage)
        book.add("candidates", counts.candidates, stage=stage)
        book.add("accepted", counts.accepted, stage=stage)
        for reason, number in counts.reasons.items():
            book.add("refused", number, stage=stage, reason=reason)
        book.add("written_bytes", sum(f.bytes for f in receipt.files), stage=stage)
        took_s = unit_s(receipt)
        book.add("unit_seconds", took_s, stage=stage)
        book.observe("unit_duration_seconds", took_s, stage=stage)
        book.put("last_unit_timestamp_seconds", self._clock.now_s())
        self._busy_s += took_s
        self._open = max(0, self._open - 1)
        if self._stage is not None:
            book.put("units_open", self._open, stage=self._stage)

    def _tell_cells(self, facts: Mapping[str, Any]) -> None:
        have, wanted = facts["have"], facts["wanted"]
        for cell, number in wanted.items():
            self._book.put("cell_wanted_identities", float(number), cell=str(cell))
            self._book.put("cell_identities", float(have.get(cell, 0)), cell=str(cell))
        for name, share in cell_yields(facts.get("tried", {}), facts.get("landed", {}), wanted).items():
            self._book.put("cell_yield_ratio", share, cell=name)


def cell_yields(
    tried: Mapping[Any, int], landed: Mapping[Any, Mapping[Any, int]], wanted: Mapping[Any, int]
) -> dict[str, float]:
    """Return per wanted cell the share of its candidates that were enrolled in it.

    Its candidates are those that were drawn towards it; where the sampler steers nobody, all are everybody's.

    Args:
        tried: cell asked -> candidates probed.
        landed: cell asked -> cell read -> candidates enrolled there.
        wanted: the cells that are told.
    """
    every: Counter[Any] = Counter()
    for read in landed.values():
        every.update(read)
    total, out = sum(tried.values()), {}
    for cell in wanted:
        drawn = tried.get(cell, 0)
        got, of = (landed.get(cell, {}).get(cell, 0), drawn) if drawn else (every[cell], total)
        if of:
            out[str(cell)] = got / of
    return out


def unit_s(receipt: Receipt) -> float:
    """Return how long a unit took, by what its receipt says of its run; 0 where it says nothing."""
    with suppress(KeyError, TypeError, ValueError):
        return max(0.0, float(receipt.run["end_s"]) - float(receipt.run["start_s"]))
    return 0.0
