"""A run's session: what it needs besides its parts, and how it has units worked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.errors import QuarantinedError
from pipeline.domain.manifest import IndexRow, Manifest
from pipeline.domain.ports import Executor, Exporter, Observer, Store
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.stop import Stop
from pipeline.flow.commit import Books
from pipeline.flow.heartbeat import Progress
from pipeline.flow.lease import Lease
from pipeline.flow.parts import Parts


@dataclass(frozen=True, slots=True)
class Session:
    """What a run needs besides its parts: where it runs, who watches, what it writes at the end."""

    parts: Parts
    executor: Executor
    observer: Observer
    """Is told everything, as is `progress`."""
    progress: Progress
    """What the heartbeat says."""
    lease: Lease
    models: Mapping[str, Any]
    documents: Callable[[Manifest, Sequence[IndexRow]], Mapping[str, bytes]]
    exporters: tuple[tuple[Exporter, Callable[[str], Store]], ...]
    """Each with what opens its target for a version."""
    stop: Stop = field(default_factory=Stop)
    allow_short: bool = False
    retry_quarantined: bool = False
    """Make up for units that a published version lacks because they were quarantined."""
    deep: bool = False
    """Hash every file that stands, instead of comparing sizes, before its unit counts as done."""


def work(session: Session, books: Books, units: Sequence[Unit], stage: str, **facts: Any) -> list[Unit]:
    """Have what remains of a barrier's units worked; return those that are quarantined.

    Raises:
        QuarantinedError: units killed their worker repeatedly, and the dataset may not be short.
    """
    open_units = books.remaining(units)
    session.observer.event("stage", name=stage, total=len(units), done=len(units) - len(open_units), **facts)
    session.stop.check()
    if open_units:
        workers = 0
        try:
            for receipt in session.executor.run(open_units):
                if workers != session.executor.workers:
                    workers = session.executor.workers
                    session.observer.event("workers", number=workers)
                books.add(receipt)
                session.observer.event("unit", receipt=receipt)
        except QuarantinedError:
            if not session.allow_short:
                raise
    return [u for u in units if u.name not in books.known]


def forget_unplanned(books: Books, stage: Stage, generation: int, planned: Sequence[Unit]) -> None:
    """Remove the receipts of units that an earlier run planned from other outcomes: no version may hold them."""
    names = {u.name for u in planned}
    for name, receipt in sorted(books.known.items()):
        mine = receipt.unit["stage"] == stage.value and receipt.unit["generation"] == generation
        if mine and name not in names:
            books.drop(name, "no unit of the plan any more", again=False)
            if f"{Stage.AUDIT.value}-{name}" in books.known:
                books.drop(f"{Stage.AUDIT.value}-{name}", "no unit of the plan any more", again=False)
