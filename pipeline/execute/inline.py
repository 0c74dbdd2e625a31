"""The inline executor: one worker in this process, for tests, small runs and debugging."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Worker
from pipeline.domain.unit import Unit


class InlineExecutor:
    """Implements `ports.Executor` with a single worker, made when it is first needed."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        """Keep the recipe for a worker."""
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def device_kinds(self) -> set[str]:
        """Return this process's device kind."""
        return {self._started().device_kind()}

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield receipts in the order of the units."""
        for unit in units:
            yield self._started().work(unit)

    def audit(self, unit_names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield findings in the order of the names."""
        for name in unit_names:
            yield self._started().audit(name)

    def close(self) -> None:
        """Forget the worker."""
        self._worker = None

    def _started(self) -> Worker:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker
