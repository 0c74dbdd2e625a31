"""A whole run on any executor: enrol in rounds, make in rounds, audit, publish, export. Running it again resumes.

The driver holds no state that storage does not: every step starts from receipts, and a step whose units are all
committed costs one listing. A larger plan than the published one grows the dataset by a generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.domain.errors import OutputError, PlanMismatchError, QuarantinedError, StoreError
from pipeline.domain.manifest import Manifest
from pipeline.execute.enrolling import enrol
from pipeline.execute.figures import counts_of, figures_of
from pipeline.execute.generations import another_try, begin, find_step
from pipeline.execute.making import make
from pipeline.execute.mending import mend, missing_receipts, require_receipts
from pipeline.execute.session import Session, work
from pipeline.flow.admission import quota_within
from pipeline.flow.audit import plan_audit
from pipeline.flow.commit import Books
from pipeline.flow.heartbeat import Heartbeat
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, past_of
from pipeline.flow.publish import About, index_rows, publish
from pipeline.flow.versions import is_whole, published_rows


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
    with Heartbeat(session.lease, session.parts.store, session.parts.clock, session.progress):
        try:
            step = find_step(session.parts)
            if session.retry_quarantined:
                step = another_try(session.parts, step)
            books = open_books(session)
            lost = books.lost()
            stands = step.published is not None and not lost and not missing_receipts(books, step.published)
            stands = stands and is_whole(session.parts.store, step.published)
            try:
                manifest = step.published if step.published and stands else _mint(session, books, step)
                return Published(manifest, _export(session, manifest), stands)
            except OutputError as error:
                # the place could be used when the run began: no mistake of the user's
                raise StoreError(str(error)) from None
        finally:
            session.executor.close()


def open_books(session: Session) -> Books:
    """Return what the dataset has."""
    parts = session.parts

    def refuted(name: str, why: str) -> None:
        session.observer.event("refuted", unit=name, why=why)

    return Books(parts.store, parts.prints.fingerprint, deep=session.deep, refuted=refuted, guard=parts.guard).open()


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


def _mint(session: Session, books: Books, step: Step) -> Manifest:
    parts = session.parts
    _check_devices(session, books)
    if stands_on := step.published or step.parent:
        require_receipts(books, stands_on, unfinished=step.number)
    mend(session, books)
    past = past_for(parts, step, books)
    begin(parts, step)
    members, quota = enrol(session, books, step.number, past)
    cells = {m.ordinal: m.cell for m in members}
    standing, units = make(session, books, step, past, members, quota)
    if unread := work(session, books, plan_audit(books.known, parts.auditor.card), "audit"):
        raise QuarantinedError(
            f"{len(unread)} units could not be audited ({unread[0].name}), and nothing is published unread; mend the "
            "cause and run the command again with --retry-quarantined"
        )
    session.stop.check()
    rows = index_rows(parts, past, standing, cells)
    about = About(
        models=session.models,
        counts=counts_of(session, past, standing, books.known, units, rows),
        figures=figures_of(session, past, standing, cells, quota, rows),
    )
    session.lease.require()
    session.observer.event("stage", name="publish", total=1, done=0)
    return publish(parts, step, rows, books.known, about, lambda bare: session.documents(bare, rows))


def _check_devices(session: Session, books: Books) -> None:
    """Refuse workers of another device kind than the dataset's: its digest promise would be void."""
    if session.parts.recipe.compute.mixed_devices:
        return
    here = session.executor.device_kinds()
    # the driver closes enrolment, and computes no sample
    there = {str(r.run.get("device_kind")) for r in books.known.values() if r.unit["stage"] != "enrolled"}
    if len(here | there) > 1:
        raise PlanMismatchError(
            f"workers of different device kinds: {'; '.join(sorted(here | there))}; bytes are equal within one kind "
            "only; run on one kind, or set compute.mixed_devices: true, which withdraws the digest promise"
        )


def _export(session: Session, manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
    parts = session.parts
    if not session.exporters:
        return ()
    rows = published_rows(parts.segments, parts.store, manifest)
    about = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "seed": parts.recipe.seed,
        "balance": manifest.figures["balance"]["by"],
    }
    out = []
    for exporter, target in session.exporters:
        session.stop.check()
        session.observer.event("stage", name=f"export {exporter.kind}", total=1, done=0)
        out.append(exporter.export(parts.store, rows, target(manifest.version), about))
    return tuple(out)
