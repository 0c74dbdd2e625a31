"""A run's session: what it needs besides its parts, and how it has units worked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.domain.errors import QuarantinedError
from pipeline.domain.manifest import IndexRow, Manifest
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.ports import Executor, Exporter, LabelledFaces, Observer, Store
from pipeline.domain.separation import Separator, separate
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.spending import Spending
from pipeline.execute.stop import Stop
from pipeline.flow.commit import Books
from pipeline.flow.heartbeat import Progress
from pipeline.flow.lease import Lease
from pipeline.flow.limits import Watch, limits_of
from pipeline.flow.parts import Parts
from pipeline.flow.versions import read_newest


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
    spending: Spending
    """What the run has cost so far; it is told everything too."""
    models: Mapping[str, Any]
    documents: Callable[[Manifest, Sequence[IndexRow]], Mapping[str, bytes]]
    exporters: tuple[tuple[Exporter, Callable[[str, str], Store]], ...]
    """Each with what opens its target for a version, and in it that for a part of a split by name, or "" for all."""
    tables: PlainTables
    """Reads the splits that exports are made of."""
    stop: Stop = field(default_factory=Stop)
    allow_short: bool = False
    retry_quarantined: bool = False
    """Make up for units that a published version lacks because they were quarantined."""
    deep: bool = False
    """Hash every file that stands, instead of comparing sizes, before its unit counts as done."""
    galleries: Mapping[str, Callable[[], LabelledFaces]] = field(default_factory=dict)
    """Name of a gallery, or `control` -> what opens its source."""
    under: Callable[[Mapping[str, Any]], Session] | None = None
    """Recipe of an earlier generation, as it lies in its file -> this session with its parts and workers."""


def work(session: Session, books: Books, units: Sequence[Unit], stage: str, **facts: Any) -> list[Unit]:
    """Have what remains of a barrier's units worked; return those that are quarantined.

    Raises:
        QuarantinedError: units killed their worker repeatedly, and the dataset may not be short.
        TargetNotReachedError: a filter refused more than the recipe lets it.
    """
    open_units = books.remaining(units)
    watch = _watch(session, books, units if stage == "make" else ())
    session.observer.event("stage", name=stage, total=len(units), done=len(units) - len(open_units), **facts)
    session.stop.check()
    watch.look()
    if open_units:
        workers = 0
        try:
            for receipt in session.executor.run(open_units):
                if workers != session.executor.workers:
                    workers = session.executor.workers
                    session.observer.event("workers", number=workers)
                books.add(receipt)
                session.observer.event("unit", receipt=receipt)
                watch.look()
        except QuarantinedError:
            aside = [u.name for u in open_units if u.name not in books.known]
            session.observer.event("quarantined", units=aside)
            if not session.allow_short:
                raise
    watch.look(over=True)
    return [u for u in units if u.name not in books.known]


def _watch(session: Session, books: Books, units: Sequence[Unit]) -> Watch:
    """Return what stops the run where a filter refuses too much; nothing does in a generation that is published."""
    parts = session.parts
    limits = limits_of(parts.recipe, parts.filters(parts.recipe.identities.count)) if units else ()
    if not limits or _is_published(parts.store, units[0].generation):
        return Watch((), (), books.known)
    return Watch(limits, units, books.known)


def _is_published(store: Store, generation: int) -> bool:
    newest = read_newest(store)
    return newest is not None and newest.generation >= generation


def separator(session: Session) -> Separator:
    """Return what keeps vectors apart: on the session's fastest product, telling its observer how far it is."""

    def tell(done: int, total: int) -> None:
        session.observer.event("separating", done=done, total=total)

    return partial(separate, product=session.parts.product(), progress=tell)


def forget_unplanned(books: Books, stage: Stage, generation: int, planned: Sequence[Unit]) -> None:
    """Remove the receipts of units that an earlier run planned from other outcomes: no version may hold them."""
    names = {u.name for u in planned}
    for name, receipt in sorted(books.known.items()):
        mine = receipt.unit["stage"] == stage.value and receipt.unit["generation"] == generation
        if mine and name not in names:
            # what was found in its images goes first: a run that is killed here finds it again
            if f"{Stage.AUDIT.value}-{name}" in books.known:
                books.drop(f"{Stage.AUDIT.value}-{name}", "no unit of the plan any more", again=False)
            books.drop(name, "no unit of the plan any more", again=False)
