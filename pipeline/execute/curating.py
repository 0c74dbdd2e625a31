"""A whole curation on any executor: list, ingest, clean, decide, write, audit, publish. Running it again resumes.

A published dataset grows by what its sources hold beside what was listed: nothing that is published changes, new images
join their people, and new people get new labels. What the sources do not hold any more stays published.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from pipeline.domain.errors import PlanMismatchError, QuarantinedError, StoreError, TargetNotReachedError
from pipeline.domain.fingerprint import Prints
from pipeline.domain.manifest import Manifest, canonical_json, sha256_hex
from pipeline.domain.seal import sealed_text
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.afresh import HOW, begin_afresh, end_with_nobody, hold_for_review
from pipeline.execute.figures import counts_of, figures_of
from pipeline.execute.funnel import funnel_of
from pipeline.execute.galleries import prepare
from pipeline.execute.generations import (
    generations,
    is_begun,
    read_step,
    recipe_path,
    require_same_fingerprint,
    stored_recipe,
)
from pipeline.execute.mending import check_devices, mend, missing_receipts, require_receipts
from pipeline.execute.run import Published, export_version, made_again, open_books, publish_rows
from pipeline.execute.session import Session, work
from pipeline.execute.settling import Reviewed, settle, what_stands
from pipeline.flow.audit import plan_audit
from pipeline.flow.commit import Books, enrolled_path, enrolled_receipt_name
from pipeline.flow.curating.account import account_of, ai_made_of
from pipeline.flow.curating.clean import limits_of, plan_clean
from pipeline.flow.curating.ingest import plan_ingest
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.listing import earlier, freeze, listing_name, new_inputs
from pipeline.flow.curating.write import plan_write, read_assigned
from pipeline.flow.erase.journal import require_none_unfinished
from pipeline.flow.heartbeat import Heartbeat
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, past_of
from pipeline.flow.publish import About, index_rows
from pipeline.flow.rounds import Standing as Filled
from pipeline.flow.versions import is_whole, read_manifests


def curate(session: Session, kit: Kit, asked: Reviewed | None = None) -> Published | None:
    """Curate, resume or grow a dataset until what the sources hold is published and exported.

    Returns None where the run holds before anything is written, so that people can review.

    Raises:
        PlanMismatchError: the place holds a dataset of another recipe.
        TargetNotReachedError: the sources hold nothing, or nobody is left.
        QuarantinedError: units killed their worker three times.
        LeaseHeldError: another run took the dataset over.
        StoreError: the store failed.
        InterruptedRunError: the run was asked to stop.
    """
    with Heartbeat(session.lease, session.parts.store, session.parts.clock, session.progress):
        try:
            require_none_unfinished(session.parts.store)
            reviewed = asked or Reviewed()
            begin_afresh(session, kit, reviewed)
            step = find_curation(session.parts, kit)
            if step.published and reviewed.table:
                raise PlanMismatchError(
                    f"{session.parts.store.uri}: what the sources hold is published, and a version never changes; "
                    "decisions are given before (--hold), or with another --out"
                )
            books = open_books(session)
            lost = books.lost()
            stands = step.published is not None and not lost and not missing_receipts(books, step.published)
            stands = stands and is_whole(session.parts.store, step.published)
            again = made_again(session, books, step) if step.published and not stands else None
            manifest = (step.published if stands else again) or _curated(session, kit, books, step, reviewed)
            if manifest is None:
                return None
            return Published(manifest, export_version(session, manifest), stands)
        finally:
            session.executor.close()


def find_curation(parts: Parts, kit: Kit) -> Step:
    """Return the step that is to be done: the first, the one that is begun, the newest, or growth by what is new.

    Raises:
        PlanMismatchError: another recipe.
    """
    store = parts.store
    manifests = read_manifests(store)
    begun = generations(store)
    newest = max([*begun, *(m.generation for m in manifests)], default=-1)
    if gone := sorted(set(range(newest + 1)) - set(begun)):
        raise StoreError(f"{store.uri}: {recipe_path(gone[0])} is missing; restore it from a copy")
    if newest < 0:
        return Step(0)
    there = read_step(store, newest)
    require_same_fingerprint(store, parts.prints, there, newest)
    published = next((m for m in reversed(manifests) if m.generation == newest), None)
    parent = next((m for m in reversed(manifests) if m.generation < newest), None)
    if published is None and there.get("rejudges"):
        raise PlanMismatchError(
            f"{store.uri}: generation {newest} judges again and is not published; run the same `facemint refilter` "
            "command again, then curate"
        )
    if published is None:
        return Step(newest, parent)
    seen = earlier(kit, parts, newest + 1)
    if next(new_inputs(kit, seen), None) is None:
        return Step(newest, parent, published=published)
    return Step(newest + 1, published)


def _curated(session: Session, kit: Kit, books: Books, step: Step, reviewed: Reviewed) -> Manifest | None:
    parts = session.parts
    if stands_on := step.published or step.parent:
        require_receipts(books, stands_on, unfinished=step.number)
    # before anything says that this step is begun: a gallery that cannot be screened against is still to be mended then
    prepare(session)
    _begin(parts, step, None)
    session.observer.event("stage", name="list", total=1, done=0)
    listed = freeze(kit, parts, books, step.number)
    session.observer.event("step")
    mend(session, books)
    check_devices(session, books)
    rows = (int(listed.unit["rows"][0]), int(listed.unit["rows"][1]))
    asked = curation(parts)
    ingest = plan_ingest(step.number, rows, asked.rows)
    _all_done(work(session, books, ingest, "ingest"))
    clean = plan_clean(step.number, asked.buckets)
    _all_done(work(session, books, clean, "clean"))
    past = past_of(parts, step.number, step.parent, books.known)
    before = what_stands(parts, kit, step, past)
    settle(session, kit, books, step, before, reviewed, ingest, clean)
    if reviewed.hold:
        hold_for_review(parts, step.number)
        return None
    assigned = read_assigned(kit, parts, step.number)
    given = sorted(set(assigned.identity_N.tolist()))
    new = [o for o in given if o >= before.first_ordinal]
    if not new and not past.labels:
        end_with_nobody(parts, step.number)
        raise TargetNotReachedError(
            f"nobody is left: {_why(books, step)}; loosen `curate.clean`, or look at the sources; {HOW}"
        )
    grown = [o for o in given if o < before.first_ordinal]
    version = step.parent.version if step.parent else ""
    units = plan_write(step.number, assigned, new, grown, parts.recipe.unit.identities, version)
    _all_done(work(session, books, units, "make"))
    if unread := work(session, books, plan_audit(books.known, parts.auditor.card), "audit"):
        raise QuarantinedError(
            f"{len(unread)} units could not be audited ({unread[0].name}); mend the cause, run again"
        )
    session.stop.check()
    return _published(session, kit, books, step, past, units, new)


def _all_done(left: Sequence[Unit]) -> None:
    if left:
        raise QuarantinedError(
            f"{len(left)} units killed their worker repeatedly ({left[0].name}), and an input that nobody looked at "
            "cannot be accounted for; mend the cause and run again with --retry-quarantined"
        )


def _published(
    session: Session,
    kit: Kit,
    books: Books,
    step: Step,
    past: Past,
    units: Sequence[Unit],
    new: Sequence[int],
) -> Manifest:
    parts = session.parts
    members = [*past.members, *_enrolled(parts, step)]
    cells = {m.ordinal: m.cell for m in members}
    unit_of = {o: u.name for u in units for o in u.ordinals}
    have, least = _accepted(parts, units), curation(parts).clean.min_images
    filled = tuple(o for o in new if have[o] >= least)
    failed = {o: "too_few_images" for o in new if have[o] < least}
    if not filled and not past.labels:
        why = sum((Counter(books.known[u.name].counts.reasons) for u in units), Counter[str]())
        end_with_nobody(parts, step.number)
        raise TargetNotReachedError(
            f"nobody has {least} images that passed: {', '.join(f'{n} {r}' for r, n in why.most_common(3))}; "
            f"bring back what is gone, or loosen the filters; {HOW}"
        )
    standing = Filled(filled, failed, {}, unit_of)
    rows = index_rows(parts, past, standing, cells)
    account = account_of(parts, kit.tables, step.number, rows)
    people = Counter(r.identity for r in rows)
    resolved = {"identities.count": len(people), "identities.images_per_identity": max(people.values())}
    _begin(parts, step, resolved)
    quota = Counter(cells[o] for o in people)
    counts = {
        **counts_of(session, past, standing, books.known, units, rows),
        "identities_expected": len(people),
        "images_expected": len(rows),
        "identities_short": {},
        "missing_by_cell": {},
        "rounds": 1,
        "inputs": account,
        "images_ai_made": ai_made_of(parts, rows),
        "sources": _sources(kit, books, step.number),
        "curated": _told(books, step.number),
    }
    figures = {
        **figures_of(session, past, standing, cells, quota, rows),
        "funnel": funnel_of(parts, books.known, cells, rows),
        "cleaning": _levels(parts),
    }
    return publish_rows(session, books, step, rows, About(models=session.models, counts=counts, figures=figures))


def _told(books: Books, newest: int) -> list[dict[str, Any]]:
    """Return what cleaning found, as it is read back from receipts: documents follow the order of its keys."""
    units = (books.known[enrolled_receipt_name(generation)].unit for generation in range(newest + 1))
    # a generation that judged again, or erased, cleaned nothing
    return [dict(json.loads(canonical_json(unit["curated"]))) for unit in units if "curated" in unit]


def _levels(parts: Parts) -> dict[str, Any]:
    limits = limits_of(parts.judge, curation(parts).clean)
    named = {"link": limits.link_cos, "keep": limits.keep_cos, "merge": limits.merge_cos, "drop": limits.drop_cos}
    return {f"{name}_cos": cos if cos <= 1.0 else None for name, cos in named.items()}


def _sources(kit: Kit, books: Books, newest: int) -> list[dict[str, Any]]:
    """Return what is told of the sources: their grounds, not where they lie."""
    listed = [books.known[listing_name(g)] for g in range(newest + 1) if listing_name(g) in books.known]
    gone = [{"changed_since": r.unit["changed"], "gone_since": r.unit["gone"]} for r in listed[-1:]]
    told = [{"number": n + 1, **dict(ground)} for n, ground in enumerate(kit.licences.values())]
    return [*told, *gone]


def _accepted(parts: Parts, units: Sequence[Unit]) -> Counter[int]:
    out: Counter[int] = Counter()
    for unit in units:
        columns = parts.segments.read_columns(parts.store, unit.name, ["identity", "accepted"])
        out.update(np.asarray(columns["identity"])[np.asarray(columns["accepted"])].tolist())
    return out


def _enrolled(parts: Parts, step: Step) -> Sequence[Any]:
    path = enrolled_path(step.number, private=True)
    return parts.segments.read_members(parts.store, path) if parts.store.size(path) is not None else ()


def _why(books: Books, step: Step) -> str:
    receipt = books.known[enrolled_receipt_name(step.number)]
    ingest: Counter[str] = Counter()
    for one in books.known.values():
        if one.unit["stage"] == Stage.INGEST.value and one.unit["generation"] == step.number:
            ingest.update(one.counts.reasons)
    most = [f"{n} {why}" for why, n in (ingest + Counter(receipt.counts.reasons)).most_common(3)]
    return ", ".join(most) or "no face was found"


def _begin(parts: Parts, step: Step, resolved: Mapping[str, int] | None) -> None:
    """Write the file of a step; once cleaning has found out how many there are, it says so."""
    path = recipe_path(step.number)
    if resolved is None and is_begun(parts.store, step.number):
        return
    recipe, prints = parts.recipe, parts.prints
    if resolved is not None:
        numbers = {k.rpartition(".")[2]: v for k, v in resolved.items()}
        recipe = recipe.model_copy(update={"identities": recipe.identities.model_copy(update=numbers)})
        prints = _resolved(prints, resolved)
    body = {
        "recipe": stored_recipe(recipe),
        "parent": None if step.parent is None else step.parent.version,
        "fingerprint": prints.fingerprint,
        "plan_digest": prints.plan_digest,
        "fingerprint_fields": dict(prints.fields),
        "plan_fields": dict(prints.plan_fields),
    }
    data = sealed_text(yaml.safe_dump(body, sort_keys=False).encode())
    parts.guard()
    if not parts.store.put_if_absent(path, data) and step.published is None and parts.store.get(path) != data:
        parts.store.put(path, data)


def _resolved(prints: Prints, numbers: Mapping[str, int]) -> Prints:
    fields = {**prints.plan_fields, **numbers}
    return replace(
        prints,
        plan_fields=fields,
        plan_digest=sha256_hex(canonical_json({"fingerprint": prints.fingerprint, "plan": fields})),
    )
