"""A whole merge: who stands is decided, images are copied in units, audited and published. Again, it resumes.

Every source is a generation of the dataset that it becomes part of, so the identities of each keep the space that their
vectors live in. All of them are begun together, and one version publishes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.domain.errors import PlanMismatchError, QuarantinedError, StoreError, TargetNotReachedError
from pipeline.domain.fingerprint import differences
from pipeline.domain.manifest import Counts, FileEntry, Manifest, Receipt, canonical_json
from pipeline.domain.merged_recipe import Merged
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.records import Cell
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.figures import counts_of, figures_of, tally
from pipeline.execute.funnel import funnel_of
from pipeline.execute.generations import begin, is_begun, read_step, recipe_path
from pipeline.execute.mending import check_devices
from pipeline.execute.run import Published, open_books, publish_rows
from pipeline.execute.session import Session, work
from pipeline.flow.audit import plan_audit
from pipeline.flow.commit import Books, commit, enrolled_receipt_name, same_content
from pipeline.flow.enrol import separation_cos
from pipeline.flow.heartbeat import Heartbeat
from pipeline.flow.merging.copying import plan_copies, read_table, write_enrolled, write_table
from pipeline.flow.merging.merge import MOST_PAIRS, Decided, Source, Taken, decide
from pipeline.flow.past import Past, Step
from pipeline.flow.publish import About, index_rows
from pipeline.flow.rounds import Standing
from pipeline.flow.versions import is_whole, read_manifest, versions


@dataclass(frozen=True, slots=True)
class Merging:
    """What a merge needs.

    Attributes:
        session: its parts are those of the merged recipe, its executor copies and audits.
        sources: in order of precedence.
        settings: what the recipe says of the merge.
        tables: keeps what is decided.
        said: what is reported of each source beside what became of it: twins and measures that are left out.
        models: role -> model, of all sources.
    """

    session: Session
    sources: Sequence[Source]
    settings: Merged
    tables: PlainTables
    said: Sequence[Mapping[str, Any]]
    models: Mapping[str, Any]


def merge(run: Merging) -> Published:
    """Merge, or resume merging, until the one version is published.

    Raises:
        PlanMismatchError: the place holds another dataset.
        UserError: identities collide, and that is to be refused.
        TargetNotReachedError: nobody is left.
        QuarantinedError: units killed their worker three times.
        LeaseHeldError: another run took the dataset over.
        StoreError: a store failed, or holds something altered.
        InterruptedRunError: the run was asked to stop.
    """
    session = run.session
    with Heartbeat(session.lease, session.parts.store, session.parts.clock, session.progress):
        try:
            return _merged(run)
        finally:
            session.executor.close()


def _merged(run: Merging) -> Published:
    session, parts = run.session, run.session.parts
    _require_ours(session)
    there = versions(parts.store)
    published = read_manifest(parts.store, there[0]) if there else None
    step = Step(len(run.sources) - 1, published=published)
    books = open_books(session)
    lost = books.lost()
    if published is not None and not lost and is_whole(parts.store, published) and _stands(books, published):
        return Published(published, (), True)
    taken = _decided(run, books, step)
    units = [u for g, mine in enumerate(taken) for u in plan_copies(mine, g, parts.recipe.unit.identities)]
    check_devices(session, books)
    work(session, books, units, "make")
    if unread := work(session, books, plan_audit(books.known, parts.auditor.card), "audit"):
        raise QuarantinedError(
            f"{len(unread)} units could not be audited ({unread[0].name}); mend the cause, run again"
        )
    session.stop.check()
    _settle(books)
    return Published(_published(run, books, step, taken, units), (), False)


def _require_ours(session: Session) -> None:
    """Refuse a place that holds anything but this very merge."""
    store, prints = session.parts.store, session.parts.prints
    if not is_begun(store, 0):
        return
    there = read_step(store, 0)
    if differing := differences(prints.fields, there["fingerprint_fields"]):
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise PlanMismatchError(
            f"{store.uri} holds another dataset ({'; '.join(differing[:4])}{more}); a merge is made once, of the "
            f"versions that {recipe_path(0)} names: use another --out"
        )


def _settle(books: Books) -> None:
    """Forget what was taken back and stands again with the bytes that it had."""
    for name, noted in sorted(books.dropped.items()):
        if not same_content(noted, books.known[name]):
            raise StoreError(
                f"{noted.path}: copied again, it has other bytes; the source has changed: restore both from a copy"
            )
        books.settle(name)


def _stands(books: Books, published: Manifest) -> bool:
    """Return whether every segment of the version has its receipt."""
    known = {f.path for r in books.known.values() for f in r.files}
    return all(f.path in known for f in published.files if not f.path.startswith("versions/"))


def _decided(run: Merging, books: Books, step: Step) -> list[list[Taken]]:
    """Return which images each source gives, deciding it where that is not done; then every source is closed."""
    session, parts = run.session, run.session.parts
    names = [enrolled_receipt_name(g) for g in range(len(run.sources))]
    if [name for name in names if not books.has(name)]:
        session.observer.event("stage", name="decide", total=2 * len(run.sources), done=0)
        threshold = separation_cos(parts.recipe, parts.judge.calibration, parts.recipe.identities.images_per_identity)
        found = decide(
            run.sources,
            threshold,
            run.settings.on_collision,
            run.settings.copy_bits,
            parts.product(),
            lambda _what: session.observer.event("step"),
        )
        if not any(d.taken for d in found):
            raise TargetNotReachedError("no image of the sources is left, and a version of nobody is not published")
        # nothing says that this dataset is begun before it is known that it can be
        for generation in range(len(run.sources)):
            begin(parts, replace(step, number=generation))
        _close(run, books, found)
    return [read_table(run.tables, parts.store, g) for g in range(len(run.sources))]


def _close(run: Merging, books: Books, found: Sequence[Decided]) -> None:
    parts, first = run.session.parts, 0
    for generation, (source, decided) in enumerate(zip(run.sources, found, strict=True)):
        files = [write_table(run.tables, parts.store, generation, decided.taken)]
        if decided.taken:
            files.append(write_enrolled(parts, source, generation, decided, first))
        first += 1 + max((r.identity for r in source.rows), default=0)
        kept = len({t.identity for t in decided.taken})
        reasons = tally(decided.dropped.values())
        counts = Counts(kept + len(decided.dropped), kept, len(decided.dropped), reasons, 0, reasons)
        unit = {
            "stage": "enrolled",
            "generation": generation,
            "index": 0,
            "round": 0,
            "candidates": first,
            "merged": {**_facts(run, generation, decided), **run.said[generation]},
        }
        _commit(run, books, unit, counts, files)


def _facts(run: Merging, generation: int, decided: Decided) -> dict[str, Any]:
    """Return what the receipt says of a source: where it comes from, and what became of it."""
    source = run.sources[generation]
    manifest = source.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "use": dict(manifest.use),
        "ordinals_from": source.offset,
        "identities_left_out": tally(decided.dropped.values()),
        "images_left_out": dict(decided.left_out),
        "collisions": len(decided.collisions),
        "collisions_listed": [
            {"identity": mine, "with": other, "cos": cos} for mine, other, cos in decided.collisions[:MOST_PAIRS]
        ],
    }


def _commit(run: Merging, books: Books, unit: Mapping[str, Any], counts: Counts, files: Sequence[FileEntry]) -> None:
    parts = run.session.parts
    receipt = Receipt(
        unit=unit,
        name=enrolled_receipt_name(int(unit["generation"])),
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=counts,
        files=tuple(sorted(files)),
        run=dict(parts.run_facts),
    )
    commit(parts, receipt)
    books.add(receipt)


def _published(
    run: Merging, books: Books, step: Step, taken: Sequence[Sequence[Taken]], units: Sequence[Unit]
) -> Manifest:
    session, parts = run.session, run.session.parts
    every = [t for mine in taken for t in mine]
    cells = {t.identity: Cell.parse(t.cell) for t in every}
    labels = {t.identity: t.label for t in sorted(every, key=lambda t: t.label)}
    past = Past(labels=labels)
    unit_of = {o: u.name for u in units for o in u.ordinals}
    standing = Standing(filled=(), failed={}, open_cells={}, unit_of=unit_of)
    rows = index_rows(parts, past, standing, cells)
    # keys sorted, as in a receipt that was read back: documents list them in the order in which they come
    told = (books.known[enrolled_receipt_name(g)].unit["merged"] for g in range(len(run.sources)))
    merged = [dict(json.loads(canonical_json(facts))) for facts in told]
    for generation, facts in enumerate(merged):
        images = sum(r.counts.accepted for r in books.known.values() if _copied(r, generation))
        facts |= {"identities": len({t.identity for t in taken[generation]}), "images": images}
    counts = {
        **counts_of(session, past, standing, books.known, (), rows),
        "identities_expected": len(labels),
        "identities_new": len(labels),
        "identities_short": {},
        "images_expected": len(rows),
        "rounds": 1,
        "merged": merged,
    }
    figures = {
        **figures_of(session, past, standing, cells, Counter(cells.values()), rows),
        "funnel": funnel_of(parts, books.known, cells, rows),
    }
    about = About(models=run.models, counts=counts, figures=figures)
    return publish_rows(session, books, step, rows, about)


def _copied(receipt: Receipt, generation: int) -> bool:
    return bool(receipt.unit["stage"] == Stage.MAKE.value and receipt.unit["generation"] == generation)
