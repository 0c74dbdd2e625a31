"""The inline executor: one worker in this process, for tests, small runs and debugging."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from pipeline.domain.errors import FacemintError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Worker
from pipeline.domain.unit import Unit
from pipeline.execute.queue import UnitQueue
from pipeline.execute.stop import Stop
from pipeline.flow.quarantine import Quarantine

POLL_S = 0.1
"""How long to sleep between looks at a unit that waits for another try."""


class InlineExecutor:
    """Implements `ports.Executor` with a single worker, made when it is first needed.

    A unit that kills its worker kills this process, so no death is counted here; units that another run quarantined
    are left out all the same.

    Args:
        make_worker: builds the worker.
        stop: asked between units whether the run shall end.
        quarantine: the units that are set aside.
    """

    def __init__(self, make_worker: Callable[[], Worker], *, stop: Stop, quarantine: Quarantine) -> None:
        """Keep the recipe for a worker."""
        self._make_worker = make_worker
        self._stop = stop
        self._quarantine = quarantine
        self._worker: Worker | None = None
        self._since_s, self._spent_s = 0.0, 0.0

    @property
    def workers(self) -> int:
        """Return one: this process."""
        return 1

    def device_kinds(self) -> set[str]:
        """Return this process's device kind."""
        return {self._started().device_kind()}

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield receipts in the order of the units.

        Raises:
            QuarantinedError: after every other unit is done.
            InterruptedRunError: between units, once the run was asked to stop.
        """
        queue = UnitQueue(units, self._quarantine)
        while len(queue):
            self._stop.check()
            unit = queue.take()
            if unit is None:
                time.sleep(POLL_S)
                continue
            try:
                receipt = self._started().work(unit)
            except FacemintError as error:
                queue.failed(unit, error)
                continue
            yield receipt
        self._stop.check()
        queue.finish()

    def worker_seconds(self) -> float:
        """Return for how long this process has been a worker."""
        return self._spent_s + (time.monotonic() - self._since_s if self._worker is not None else 0.0)

    def close(self) -> None:
        """Forget the worker."""
        self._spent_s = self.worker_seconds()
        self._worker = None

    def _started(self) -> Worker:
        if self._worker is None:
            self._since_s = time.monotonic()
            self._worker = self._make_worker()
        return self._worker
