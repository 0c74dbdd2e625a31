"""Enrolment on any executor: rounds of probing until quota and reserve are there, closed by a receipt of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from pipeline.domain.manifest import Counts, FileEntry, Receipt
from pipeline.domain.privacy import holds_people
from pipeline.domain.records import Cell, Member
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.generations import read_step
from pipeline.execute.session import Session, forget_unplanned, separator, work
from pipeline.flow import admission
from pipeline.flow.admission import Before, Enrolment, Probed
from pipeline.flow.commit import Books, commit, enrolled_path, enrolled_receipt_name
from pipeline.flow.past import Past, enrolled_templates, members_before, past_of, probed_vectors


def enrol(session: Session, books: Books, generation: int, past: Past) -> tuple[list[Member], Mapping[Cell, int]]:
    """Enrol until a generation's places and reserve are there; return everybody enrolled, and the quota per cell.

    Raises:
        TargetNotReachedError: cells stayed short after the last round.
    """
    parts = session.parts
    name = enrolled_receipt_name(generation)
    if not books.has(name):
        state, numbered, planned = _rounds(session, books, generation, past)
        if not session.allow_short:
            last = parts.sampler.candidates
            admission.require_sufficient(state, parts.recipe, last if last is not None and numbered >= last else None)
        forget_unplanned(books, Stage.ENROL, generation, planned)
        receipt = _closed(session, generation, state, numbered)
        commit(parts, receipt)
        books.add(receipt)
    members = members_before(parts, generation + 1)
    available = Counter(past.published)
    available.update(m.cell for m in members if m.ordinal not in past.spent)
    quota = admission.quota_within(parts.targets, parts.recipe.identities.count, available, past.published)
    return members, quota


def reclose(session: Session, books: Books, receipt: Receipt) -> Receipt:
    """Write a generation's enrolled identities again from its probes, and commit the receipt that was taken back."""
    generation = int(receipt.unit["generation"])
    # growth may ask for other agreement, which decided in whose cell everybody of this generation is
    asked = read_step(session.parts.store, generation)["recipe"]["balance"]["agreement"]
    parts = replace(session.parts, targets=replace(session.parts.targets, agreement=asked))
    session = replace(session, parts=parts)
    past = past_of(parts, generation, None, books.known)
    probed = Probed()
    mine = [
        r for r in books.known.values() if r.unit["stage"] == Stage.ENROL.value and r.unit["generation"] == generation
    ]
    for probes in sorted(mine, key=lambda r: int(r.unit["index"])):
        probed.add(parts.segments.read_columns(parts.store, probes.name, admission.PROBE_COLUMNS), parts.targets)
    too_near = receipt.counts.reasons.get(admission.TOO_NEAR, 0)
    state = _close(session, probed, _before(session, books, generation, past), too_near)
    again = _closed(session, generation, state, int(receipt.unit["candidates"]))
    commit(parts, again)
    return again


def _before(session: Session, books: Books, generation: int, past: Past) -> Before:
    parts = session.parts
    return Before(
        members=past.members,
        templates_ME=enrolled_templates(parts, generation),
        vectors_PD=probed_vectors(parts, generation, books.known),
        published=past.published,
        reserve=Counter(m.cell for m in past.reserve),
        enrolled=past.enrolled,
    )


def _rounds(session: Session, books: Books, generation: int, past: Past) -> tuple[Enrolment, int, list[Unit]]:
    parts = session.parts
    probed = Probed()
    before = _before(session, books, generation, past)
    state: Enrolment | None = None
    first_unit, first_candidate = 0, past.candidates
    planned: list[Unit] = []
    for number in range(parts.recipe.enrol.rounds):
        units, numbered = admission.plan_enrol_round(
            parts, generation, number, first_unit, first_candidate, state, before, probed
        )
        if not numbered:
            break
        first_candidate += numbered
        planned += units
        quarantined = {u.name for u in work(session, books, units, "enrol", round=number, generation=generation)}
        for unit in units:
            if unit.name not in quarantined:
                columns = parts.segments.read_columns(parts.store, unit.name, admission.PROBE_COLUMNS)
                probed.add(columns, parts.targets)
        first_unit += len(units)
        too_near = first_candidate - past.candidates - sum(len(u.proposals) for u in planned)
        state = _close(session, probed, before, too_near)
        session.observer.event(
            "enrolled",
            have=dict(state.have),
            wanted=dict(state.wanted),
            refused=state.refused,
            tried=state.tried,
            landed=state.landed,
        )
        if state.complete:
            break
    return state or _close(session, probed, before, 0), first_candidate, planned


def _close(session: Session, probed: Probed, before: Before, too_near: int) -> Enrolment:
    parts = session.parts
    return admission.close_enrolment(
        parts.recipe, parts.targets, parts.judge.calibration, probed, before, too_near, apart=separator(session)
    )


def _closed(session: Session, generation: int, state: Enrolment, numbered: int) -> Receipt:
    """Write who is enrolled; return the receipt that says so."""
    parts = session.parts
    files: tuple[FileEntry, ...] = ()
    if state.identities:
        path = enrolled_path(generation, private=holds_people(parts.recipe))
        files = (parts.segments.write_identities(parts.store, path, state.identities, parts.sampler.space),)
    enrolled = len(state.identities)
    return Receipt(
        unit={"stage": "enrolled", "generation": generation, "index": 0, "round": 0, "candidates": numbered},
        name=enrolled_receipt_name(generation),
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=Counts(state.candidates, enrolled, state.candidates - enrolled, dict(state.refused)),
        files=files,
        run=dict(parts.run_facts),
    )
