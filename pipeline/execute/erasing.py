"""Erasing: a new version without what goes, and nothing of it left anywhere. Killed and run again, it completes.

    journal -> revisions -> suppression -> version -> splits -> sweep -> journal closed -> exports

Each step looks at what stands and does what is missing, so finishing is the same as beginning. What goes is told by the
journal; what stays is told by receipts and the new version. Old bytes are removed once the version stands that does
without them, and done is said when a listing shows that nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.domain.errors import PlanMismatchError, StoreError
from pipeline.domain.manifest import IndexRow, Manifest, sha256_hex
from pipeline.domain.ports import Store
from pipeline.domain.twins import without_twins
from pipeline.domain.unit import Stage
from pipeline.execute.erased import about_erased
from pipeline.execute.generations import begin, erasing_step, find_step, recipe_path
from pipeline.execute.refiltering import close_enrolment
from pipeline.execute.run import Published, export_version, open_books, publish_rows
from pipeline.execute.session import Session
from pipeline.flow.commit import receipts
from pipeline.flow.erase.gone import Gone
from pipeline.flow.erase.inputs import Inputs, Tables, input_digests, renewed, rewrite_inputs
from pipeline.flow.erase.journal import Journal, unfinished
from pipeline.flow.erase.plan import Erasure, Wanted, plan_erasure
from pipeline.flow.erase.remains import remaining_versions
from pipeline.flow.erase.rewrite import Rewriter, image_digests
from pipeline.flow.erase.sound import require_sound, require_unaltered
from pipeline.flow.erase.suppression import suppress
from pipeline.flow.erase.sweep import Staying
from pipeline.flow.heartbeat import Heartbeat
from pipeline.flow.parts import Parts
from pipeline.flow.past import past_of
from pipeline.flow.removal import remove
from pipeline.flow.sidecars import side_car_records
from pipeline.flow.splits import forget, read_split, split_names
from pipeline.flow.versions import published_rows, read_manifests, read_newest


@dataclass(frozen=True, slots=True)
class Erased:
    """What was done.

    Attributes:
        published: the newest version, with its exports.
        journals: the erasures that were finished: one that was begun before, and the one that was asked for.
        already: how much of what was asked for was erased before.
        removed: of each, what the log says: files, bytes, splits.
    """

    published: Published
    journals: tuple[Journal, ...]
    already: int
    removed: tuple[Mapping[str, Any], ...] = ()
    versions_kept: tuple[str, ...] = ()
    """Older versions of what was deleted that the store itself keeps, where it is one that does."""


def erase(session: Session, wanted: Wanted, salt: str, tables: Tables | None = None) -> Erased:
    """Erase, finishing first what an earlier run began; return what was done.

    Args:
        session: under the recipe of the dataset's newest generation.
        wanted: what goes; nothing, to finish what was begun.
        salt: nobody can guess it; of the entry of suppression.
        tables: of a curated dataset, what reads and writes its tables.

    Raises:
        UserError: there is no such identity, image or source, or nobody would be left.
        PlanMismatchError: nothing is published, or a generation is begun and not finished.
        LeaseHeldError: another run took the dataset over.
        StoreError: the store failed, or holds something altered that would have to be copied.
    """
    parts = session.parts
    with Heartbeat(session.lease, parts.store, parts.clock, session.progress):
        try:
            done: list[Journal] = []
            removed: list[Mapping[str, Any]] = []
            begun = unfinished(parts.store)
            if begun is not None:
                removed.append(_finish(session, begun, salt, tables))
                done.append(begun)
            plan = plan_here(parts, wanted, tables)
            if plan.tombstones:
                journal = plan.journal(parts)
                require_unaltered(parts, session.stop.check)
                _require_readable_splits(session)
                parts.guard()
                if not parts.store.put_if_absent(journal.path, journal.to_json()):
                    raise StoreError(f"{journal.path}: another erasure was begun meanwhile; run the command again")
                removed.append(_finish(session, journal, salt, tables))
                done.append(journal)
            newest = _newest(parts.store)
            kept = remaining_versions(parts.store) if done or plan.already else []
            published = Published(newest, export_version(session, newest), not done)
            return Erased(published, tuple(done), plan.already, tuple(removed), tuple(kept))
        finally:
            session.executor.close()


def plan_here(parts: Parts, wanted: Wanted, tables: Tables | None = None) -> Erasure:
    """Return what an erasure of the newest version comes to; reads only.

    Raises:
        UserError: there is no such identity, image or source, or nobody would be left.
        PlanMismatchError: nothing is published, or a generation is begun and not finished.
        StoreError: something is lost that what stays rests on, or altered that would have to be copied.
    """
    newest = _newest(parts.store)
    step = find_step(parts)
    if step.published is None:
        again = "facemint generate with" if tables is None else "facemint curate with"
        short = " (--allow-short publishes what is there)" if tables is None else ""
        raise PlanMismatchError(
            f"{parts.store.uri}: generation {step.number} is begun and not published; finish it first: {again} the "
            f"recipe in {recipe_path(step.number)}{short}, then erase"
        )
    require_sound(parts, newest)
    return plan_erasure(parts, receipts(parts.store), newest, wanted, tables)


def what_stays(parts: Parts, plan: Erasure) -> Staying:
    """Return what an erasure that is not begun leaves as it is."""
    known = receipts(parts.store)
    names = {r.name for r in (*plan.touched, *plan.enrolled)}
    names |= {f"{Stage.AUDIT.value}-{name}" for name in names}
    stay = {name: r for name, r in known.items() if name not in names}
    return Staying(stay, [r for u, rs in side_car_records(parts.store).items() if u not in names for r in rs], None)


def _newest(store: Store) -> Manifest:
    newest = read_newest(store)
    if newest is None:
        raise PlanMismatchError(
            f"{store.uri}: no version is published yet; finish it with `facemint generate` first, or delete it"
        )
    return newest


def _finish(session: Session, journal: Journal, salt: str, tables: Tables | None) -> Mapping[str, Any]:
    """Do what is left of an erasure; return what its log says was removed."""
    parts = session.parts
    begun_s = parts.clock.now_s()
    gone = Gone.of(journal.tombstones, journal.candidates)
    session.observer.event("stage", name="erase", total=len(journal.units) + len(journal.enrolled), done=0)
    standing = next((m for m in read_manifests(parts.store) if _is_of(m, journal)), None)
    if standing is None:
        _suppress(parts, journal, gone, salt, tables)
        _rewrite(session, journal, gone, tables)
        standing = _publish(session, journal, gone)
    _forget(session, standing, gone)
    removed = _sweep(session, journal, standing, begun_s)
    parts.guard()
    parts.store.put(journal.path, journal.closed(standing.version, parts.clock.now_s(), removed))
    return removed


def _require_readable_splits(session: Session) -> None:
    """Raise StoreError, before anything is begun, where a split is damaged that the erased would have to leave."""
    for name in split_names(session.parts.store):
        read_split(session.parts.store, session.tables, name)


def _is_of(manifest: Manifest, journal: Journal) -> bool:
    return manifest.generation == journal.generation and manifest.parent == journal.parent


def _suppress(parts: Parts, journal: Journal, gone: Gone, salt: str, tables: Tables | None) -> None:
    """Take digests of every image and vector that goes, while all of them are still there."""
    known = receipts(parts.store)
    # from what was not rewritten yet: of what was, an earlier run took them
    digests: list[str] = []
    for name in journal.units:
        old = known.get(name)
        if old is None:
            continue
        if old.unit["stage"] == Stage.MAKE.value:
            digests += image_digests(parts, old, gone)
            continue
        columns = parts.segments.read_columns(parts.store, name, ["candidate", "vector"])
        for candidate, vector_D in zip(columns["candidate"], columns["vector"], strict=True):
            if int(candidate) in gone.candidates:
                digests.append(sha256_hex(vector_D.tobytes()))
    if tables is not None:
        digests += input_digests(parts, tables, known, Inputs(journal.faces, journal.rows))
    parts.guard()
    suppress(parts.store, journal.number, salt, digests)


def _rewrite(session: Session, journal: Journal, gone: Gone, tables: Tables | None) -> None:
    parts = session.parts
    known = receipts(parts.store)
    if tables is not None:
        rewrite_inputs(parts, tables, known, Inputs(journal.faces, journal.rows), gone)
        known = renewed(parts, known)
    rewriter = Rewriter(parts, gone, side_car_records(parts.store))
    for name, again in journal.units.items():
        session.stop.check()
        if again not in known:
            rewriter.unit(known[name], again)
        session.observer.event("step")
    closing = {f.path: r for r in known.values() if r.unit["stage"] == "enrolled" for f in r.files}
    for path, again in journal.enrolled.items():
        # where its receipt names the revision already, this one was done
        if path in closing:
            rewriter.enrolled(closing[path], again)
        session.observer.event("step")


def _publish(session: Session, journal: Journal, gone: Gone) -> Manifest:
    """Publish the parent's images without what goes, under the labels that they have."""
    parts = session.parts
    step = erasing_step(parts.store, journal.generation, journal.tombstones)
    assert step.parent is not None
    books = open_books(session)
    before = past_of(parts, step.number, step.parent, books.known)
    rows = _rows(parts, published_rows(parts.segments, parts.store, step.parent), journal, gone)
    labels = {r.identity: r.label for r in rows}
    past = replace(before, rows=tuple(without_twins(rows)), labels=labels, labels_given=before.next_label)
    begin(parts, step)
    close_enrolment(session, books, step, past)
    return publish_rows(session, books, step, past.rows, about_erased(session, books, step, past))


def _rows(parts: Parts, rows: list[IndexRow], journal: Journal, gone: Gone) -> list[IndexRow]:
    """Return the index rows that stay, where their images lie in the revisions."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    out = []
    for row in rows:
        if gone.takes(row.key):
            continue
        name = journal.units.get(row.segment)
        if name is None:
            out.append(row)
            continue
        if name not in places:
            places[name] = parts.segments.locate(parts.store, name)
        offset, length = places[name][row.key]
        out.append(replace(row, segment=name, offset=offset, length=length))
    return sorted(out)


def _forget(session: Session, standing: Manifest, gone: Gone) -> None:
    parts = session.parts
    cells = {r.identity: r.cell for r in published_rows(parts.segments, parts.store, standing)}
    forget(parts.store, session.tables, gone.identities, cells, parts.guard)


def _sweep(session: Session, journal: Journal, standing: Manifest, begun_s: float) -> Mapping[str, Any]:
    """Remove what does not stay, then look whether anything of it is left."""
    parts = session.parts
    store = parts.store
    known = receipts(store)
    # renewed by the heartbeat; asked once more, since nothing after this can be undone
    session.lease.require()
    records = [r for unit, rs in side_car_records(store).items() if unit in known for r in rs]
    staying = Staying(known, records, standing)
    doomed = staying.doomed(store)
    remove(parts, [entry.path for entry in doomed])
    # temporary files and unfinished uploads of killed writers may hold anything
    leftovers = store.remove_leftovers(begun_s)
    if left := staying.doomed(store):
        raise StoreError(
            f"{store.uri}: {len(left)} files that were to be erased are there again ({left[0].path}); look who else "
            f"writes here, then run the command again: it goes on from {journal.path}"
        )
    return {"files_removed": len(doomed), "bytes_removed": sum(e.bytes for e in doomed), "leftovers_removed": leftovers}
