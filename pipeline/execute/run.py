"""A whole run on any executor: enrol in rounds, make in rounds, audit, publish, export. Running it again resumes.

The driver holds no state that storage does not: every step starts from receipts, and a step whose units are all
committed costs one listing. A larger plan than the published one grows the dataset by a generation.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.domain.curation import margin_of
from pipeline.domain.errors import OutputError, QuarantinedError, StoreError
from pipeline.domain.manifest import IndexRow, Manifest
from pipeline.execute.accounting import inputs_told
from pipeline.execute.enrolling import enrol
from pipeline.execute.erased import about_erased, past_of_itself
from pipeline.execute.figures import counts_of, figures_of
from pipeline.execute.funnel import funnel_of
from pipeline.execute.galleries import prepare
from pipeline.execute.generations import (
    another_try,
    begin,
    completing_step,
    earlier_fingerprints,
    find_step,
    is_begun,
    read_step,
    rejudging_step,
    step_at,
)
from pipeline.execute.making import make
from pipeline.execute.mending import check_devices, mend, missing_receipts, require_receipts
from pipeline.execute.refiltering import close_enrolment, rejudge, standing_of
from pipeline.execute.session import Session, work
from pipeline.flow.admission import quota_within
from pipeline.flow.audit import plan_audit
from pipeline.flow.commit import Books
from pipeline.flow.erase.journal import require_none_unfinished
from pipeline.flow.exporting import about_export, write_exports
from pipeline.flow.heartbeat import Heartbeat
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, past_of
from pipeline.flow.publish import About, index_rows, publish
from pipeline.flow.twins import twin_figures, with_twins
from pipeline.flow.versions import is_whole, published_rows
from pipeline.flow.wholes import KEPT, published_wholes


@dataclass(frozen=True, slots=True)
class Published:
    """A finished run."""

    manifest: Manifest
    exports: tuple[Mapping[str, Any], ...]
    resumed: bool
    """True where the version stood already and nothing had to be made."""


def generate(session: Session) -> Published:
    """Run, resume or grow a dataset until the recipe's version is published and exported.

    Raises:
        PlanMismatchError: the place holds a dataset of another recipe.
        TargetNotReachedError: identities, images or balance could not be reached.
        QuarantinedError: units killed their worker three times.
        LeaseHeldError: another run took the dataset over.
        StoreError: the store failed; also where it could be used at first, and may not be any more.
        InterruptedRunError: the run was asked to stop.
    """

    def wanted(parts: Parts) -> Step:
        step = find_step(parts)
        return another_try(parts, step) if session.retry_quarantined else step

    return _run(session, wanted)


def refilter(session: Session) -> Published:
    """Publish a version that holds what passes this recipe's filters of what is stored; nothing is made.

    Raises:
        PlanMismatchError: nothing is published, or more than the filters differ.
        UserError: a filter reads a measure that stored images do not have.
        TargetNotReachedError: no image passes.
        LeaseHeldError: another run took the dataset over.
        StoreError: the store failed.
    """
    return _run(session, rejudging_step)


def complete(session: Session) -> Published:
    """Make what the newest version lacks, slots and places, under its own recipe; errors are those of `generate`."""
    return _run(session, lambda parts: completing_step(parts, find_step(parts)))


def _run(session: Session, wanted: Callable[[Parts], Step]) -> Published:
    with Heartbeat(session.lease, session.parts.store, session.parts.clock, session.progress):
        try:
            require_none_unfinished(session.parts.store)
            step = wanted(session.parts)
            books = open_books(session)
            lost = books.lost()
            stands = step.published is not None and not lost and not missing_receipts(books, step.published)
            stands = stands and is_whole(session.parts.store, step.published)
            try:
                manifest = step.published if step.published and stands else _made(session, books, step)
                return Published(manifest, export_version(session, manifest), stands)
            except OutputError as error:
                # the place could be used when the run began: no mistake of the user's
                raise StoreError(str(error)) from None
        finally:
            session.observer.event("ending")
            session.executor.close()


def open_books(session: Session) -> Books:
    """Return what the dataset has."""
    parts = session.parts

    def refuted(name: str, why: str) -> None:
        session.observer.event("refuted", unit=name, why=why)

    earlier = earlier_fingerprints(parts.store)
    mine = parts.prints.fingerprint
    return Books(parts.store, mine, deep=session.deep, refuted=refuted, guard=parts.guard, earlier=earlier).open()


def past_for(parts: Parts, step: Step, books: Books) -> Past:
    """Return what the generations before a step left; a quota that they cannot keep is refused here.

    Raises:
        RecipeError: a cell would have to lose somebody who is published.
    """
    past = past_of(parts, step.number, step.parent, books.known)
    available: Counter[Any] = Counter(past.published)
    available.update(m.cell for m in past.reserve)
    quota_within(parts.targets, parts.recipe.identities.count, available, past.published)
    return past


def made_again(session: Session, books: Books, step: Step) -> Manifest | None:
    """Write what a published version of a curated dataset lacks that judged again, or left out what was erased.

    Returns None where the version is one of curating itself.
    """
    store = session.parts.store
    mine = step_at(store, step.number)
    if not (mine.rejudges or mine.erases) or session.under is None:
        return None
    # its own recipe says how many there are; that of the run leaves it to cleaning
    before = session.under(read_step(store, step.number)["recipe"])
    try:
        return _made(before, books, mine)
    finally:
        before.executor.close()


def _made(session: Session, books: Books, step: Step) -> Manifest:
    if stands_on := step.published or step.parent:
        require_receipts(books, stands_on, unfinished=step.number)
    prepare(session)
    mend(session, books)
    check_devices(session, books)
    if step.erases:
        return _restated(session, books, step)
    return _rejudged(session, books, step) if step.rejudges else _minted(session, books, step)


def _restated(session: Session, books: Books, step: Step) -> Manifest:
    """Write what a version lacks that left out what was erased."""
    past = past_of_itself(session.parts, step, books)
    _audit(session, books)
    return publish_rows(session, books, step, past.rows, about_erased(session, books, step, past))


def _minted(session: Session, books: Books, step: Step) -> Manifest:
    parts = session.parts
    past = past_for(parts, step, books)
    begin(parts, step)
    members, quota = enrol(session, books, step.number, past)
    cells = {m.ordinal: m.cell for m in members}
    standing, units = make(session, books, step, past, members, quota)
    _audit(session, books)
    rows = index_rows(parts, past, standing, cells)
    about = About(
        models=session.models,
        counts=counts_of(session, past, standing, books.known, units, rows),
        figures={
            **figures_of(session, past, standing, cells, quota, rows),
            "funnel": funnel_of(parts, books.known, cells, rows),
        },
    )
    return publish_rows(session, books, step, rows, about)


def _rejudged(session: Session, books: Books, step: Step) -> Manifest:
    """Publish what the new filters keep of the parent.

    They judge before anything says that this step is begun: where they leave nobody, or ask for a number that nobody
    has, the dataset stays as it is, and others can be tried.
    """
    parts = session.parts
    past = past_for(parts, step, books)
    _audit_before(session, books, step)
    judged = rejudge(parts, books.known, past)
    begin(parts, step)
    close_enrolment(session, books, step, past)
    _audit(session, books)
    standing, rows = standing_of(judged), judged.past.rows
    quota = {c: n + judged.open_cells.get(c, 0) for c, n in judged.past.published.items()} | {
        c: n for c, n in judged.open_cells.items() if c not in judged.past.published
    }
    counts = counts_of(session, judged.past, standing, books.known, (), rows)
    inputs, cleaning = inputs_told(session, step, rows, judged.left_out)
    about = About(
        models=session.models,
        counts={**counts, "refilter": judged.counts, **inputs},
        figures={
            **figures_of(session, judged.past, standing, judged.cells, quota, rows),
            "funnel": funnel_of(parts, books.known, judged.cells, rows),
            **cleaning,
        },
    )
    return publish_rows(session, books, step, rows, about)


def _audit_before(session: Session, books: Books, step: Step) -> None:
    """Repeat audits that are gone, under the recipe before a step that is not begun: none knows that of the step."""
    parts = session.parts
    if not books.remaining(plan_audit(books.known, parts.auditor.card)):
        return
    if session.under is None or is_begun(parts.store, step.number):
        _audit(session, books)
        return
    before = session.under(read_step(parts.store, step.number - 1)["recipe"])
    try:
        _audit(before, books)
    finally:
        before.executor.close()


def _audit(session: Session, books: Books) -> None:
    if unread := work(session, books, plan_audit(books.known, session.parts.auditor.card), "audit"):
        raise QuarantinedError(
            f"{len(unread)} units could not be audited ({unread[0].name}), and nothing is published unread; mend the "
            "cause and run the command again with --retry-quarantined"
        )
    session.stop.check()


def publish_rows(session: Session, books: Books, step: Step, rows: Sequence[IndexRow], about: About) -> Manifest:
    """Publish an index without twins, to which theirs are added; return the manifest."""
    session.lease.require()
    session.observer.event("stage", name="publish", total=1, done=0)
    every = with_twins(session.parts, rows)
    if session.parts.twins:
        counts, figures = {"twins": len(every) - len(rows)}, {"twins": twin_figures(session.parts, every)}
        about = replace(about, counts={**about.counts, **counts}, figures={**about.figures, **figures})
    if kept := published_wholes(every, books.known):
        about = replace(about, counts={**about.counts, KEPT: kept})
    return publish(session.parts, step, every, books.known, about, lambda bare: session.documents(bare, rows))


def export_version(session: Session, manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
    """Write the exports that the recipe names; return their manifests."""
    parts = session.parts
    if not session.exporters:
        return ()
    rows = published_rows(parts.segments, parts.store, manifest)
    about, out = about_export(manifest, parts.recipe.seed, margin_of(parts.recipe)), []
    for exporter, target in session.exporters:
        session.stop.check()
        session.observer.event("stage", name=f"export {exporter.kind}", total=1, done=0)
        place = functools.partial(target, manifest.version)
        out += write_exports(exporter, parts.store, parts.segments, session.tables, rows, about, place)
    return tuple(out)
