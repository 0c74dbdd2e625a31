"""What a run would do, and what it would cost: nothing is written, and nothing of the dataset is worked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline.domain.errors import ModelError
from pipeline.domain.records import Cell
from pipeline.domain.unit import Proposal, Stage
from pipeline.execute.generations import earlier_fingerprints, find_step
from pipeline.execute.mending import require_undamaged
from pipeline.flow import admission
from pipeline.flow.admission import Before, Probed
from pipeline.flow.commit import Books, enrolled_receipt_name
from pipeline.flow.estimate import Costs, from_receipts, from_trial
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, enrolled_templates, past_of, probed_vectors
from pipeline.flow.room import Room, room_for

COMPARED = 20_000
"""New identities up to which a plan compares the vectors of the first round, as the run will; of more it reckons that
all are probed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
        generation: the growth step.
        parent: the version that it grows from.
        published: the version that holds it already, where it does.
        identities: published before, and new.
        images: published before, and new.
        cells: cell -> (published, new identities).
        enrol_units: of the first round, and how many of them are committed.
        make_units: of the first round, and how many of them are committed.
        room: whether the vectors of the new identities fit; None where enrolment is closed, or tells nothing.
        candidates: images expected: probes and made ones, as far as they are still to be made.
        bytes: expected size of what is added.
        workers: on how many the time is reckoned.
        hours: expected time on so many workers.
        worker_hours: expected time of all workers together; GPU-hours where a worker has a GPU.
        costs: what the figures rest on; None where nothing could be made on this machine, and bytes and hours are None
            too, and candidates those of a run that refuses nothing.
        unreckoned: why; empty where costs are known.
        device_kind: the device they were measured on.
    """

    generation: int
    parent: str | None
    published: str | None
    identities: tuple[int, int]
    images: tuple[int, int]
    cells: dict[str, tuple[int, int]]
    enrol_units: tuple[int, int]
    make_units: tuple[int, int]
    room: Room | None
    candidates: int
    bytes: int | None
    workers: int
    hours: float | None
    worker_hours: float | None
    costs: Costs | None
    unreckoned: str
    device_kind: str


def plan(parts: Parts, workers: int) -> Plan:
    """Return what a run of this recipe on this store would do; writes nothing.

    Raises:
        PlanMismatchError: the place holds a dataset of another recipe, or one that this recipe does not enlarge.
        StoreError: the dataset is damaged, so that its own figures mean nothing.
    """
    step = find_step(parts)
    books = Books(parts.store, parts.prints.fingerprint, earlier=earlier_fingerprints(parts.store)).open()
    require_undamaged(books, step.published or step.parent)
    past = past_of(parts, step.number, step.parent, books.known)
    recipe = parts.recipe
    owed = recipe.identities.images_per_identity
    reserve = Counter(m.cell for m in past.reserve)
    there = past.published
    quota = admission.quota_within(parts.targets, recipe.identities.count, there + reserve, there)
    places = {c: n - there[c] for c, n in quota.items()}
    new = sum(places.values())
    grown = len(past.labels or {}) * max(0, owed - step.images_before)
    costs, unreckoned = from_receipts(books.known), ""
    try:
        costs = costs or from_trial(parts)
    except ModelError as error:
        unreckoned = str(error)
    done = {s: [r for r in books.known.values() if _is(r.unit, s, step.number)] for s in (Stage.ENROL, Stage.MAKE)}
    enrol_units, probes, room = _enrolment(parts, step, past, books, reserve, max(0, new - reserve.total()))
    size = recipe.unit.identities
    make_units = -(-new // size) + (-(-len(past.labels or {}) // size) if grown else 0)
    images = new * owed + grown
    kept = sum(r.counts.accepted for r in done[Stage.MAKE])
    probed = sum(r.counts.candidates for r in done[Stage.ENROL]) * recipe.enrol.probes
    finished = step.published is not None
    lacking = 0 if finished else max(0, images - kept)
    to_make = round(lacking / costs.accepted_share) if costs else lacking
    to_probe = 0 if finished else max(0, probes - probed)
    worker_hours = (to_make + to_probe) * costs.worker_s_per_image / 3600 if costs else None
    before = len(past.rows)
    return Plan(
        generation=step.number,
        parent=step.parent.version if step.parent else None,
        published=step.published.version if step.published else None,
        identities=(len(past.labels or {}), new),
        images=(before, images),
        cells={str(c): (there[c], places[c]) for c in sorted(quota)},
        enrol_units=(max(enrol_units, len(done[Stage.ENROL])), len(done[Stage.ENROL])),
        make_units=(max(make_units, len(done[Stage.MAKE])), len(done[Stage.MAKE])),
        room=None if finished else room,
        candidates=to_make + to_probe,
        bytes=round(lacking * costs.bytes_per_image + to_make * costs.bytes_per_row) if costs else None,
        workers=workers,
        hours=None if worker_hours is None else worker_hours / workers,
        worker_hours=worker_hours,
        costs=costs,
        unreckoned=unreckoned,
        device_kind=str(parts.run_facts["device_kind"]),
    )


def _is(unit: Any, stage: Stage, generation: int) -> bool:
    return bool(unit["stage"] == stage.value and unit["generation"] == generation)


def _enrolment(
    parts: Parts, step: Step, past: Past, books: Books, reserve: Counter[Cell], wanted: int
) -> tuple[int, int, Room | None]:
    """Return the units of the first enrolment round, the images that it probes with, and whether all wanted fit.

    Where enrolment is closed it needs neither images nor room.
    """
    if enrolled_receipt_name(step.number) in books.known:
        return sum(_is(r.unit, Stage.ENROL, step.number) for r in books.known.values()), 0, None
    vectors = probed_vectors(parts, step.number, books.known)
    before = Before(past.members, enrolled_templates(parts, step.number), vectors, past.published, reserve)
    units, numbered = admission.plan_enrol_round(
        parts, step.number, 0, 0, past.candidates, None, before, Probed(), compared=wanted <= COMPARED
    )
    asked: list[Proposal] = [p for u in units for p in u.proposals]
    first = range(past.candidates, past.candidates + numbered)
    room = room_for(parts, first, [p.cell for p in asked], wanted, 0 if vectors is None else len(vectors))
    return len(units), len(asked) * parts.recipe.enrol.probes, room
