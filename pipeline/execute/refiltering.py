"""A new version from stored numbers: every candidate judged again by other filters, nothing made.

The step has a recipe of its own, and its version an index over the segments that are there. Enrolment stays as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.leakage import JUDGE
from pipeline.domain.leakage import REASON as LEAKS
from pipeline.domain.manifest import Counts, IndexRow, Receipt
from pipeline.domain.privacy import holds_people, published_cell
from pipeline.domain.records import Cell, Float32, Member, identity_of, slot_of
from pipeline.domain.separation import separate
from pipeline.domain.unit import Stage
from pipeline.execute.session import Session
from pipeline.flow.admission import quota_within
from pipeline.flow.commit import Books, commit, enrolled_count, enrolled_receipt_name
from pipeline.flow.enrol import collision_cos
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, members_before, published_templates
from pipeline.flow.refilter import COLUMNS, Rejudged, Rejudgement
from pipeline.flow.rounds import COLLIDES, Standing, giving_way
from pipeline.flow.sidecars import read_added_measures, side_car_records
from pipeline.flow.twins import candidate_columns

NOTHING_LEFT = "no_image_passes"
"""Why an identity leaves the version: the new filters keep none of its images."""


@dataclass(frozen=True, slots=True)
class Refiltered:
    """What a version comes to under other filters.

    Attributes:
        past: the state that the new version has: who is published, with which images and labels.
        units: what each make unit came to.
        gone: ordinal -> why it leaves the version.
        open_cells: places per cell that are open for want of them.
        open_slots: slots of published identities without an image.
        left_out: key of each image of the version before that is not in the new one -> its reasons.
    """

    past: Past
    units: tuple[Rejudged, ...]
    gone: Mapping[int, str]
    cells: Mapping[int, Cell]
    open_cells: Mapping[Cell, int]
    open_slots: int
    left_out: Mapping[str, tuple[str, ...]]

    @property
    def counts(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        total = Counts.total(u.counts for u in self.units)
        here = self.past.labels or {}
        return {
            **total.to_dict(),
            "images_kept": len(self.past.rows),
            "images_left_out": len(self.left_out),
            "left_out_by_reason": dict(sorted(Counter(r[0] for r in self.left_out.values()).items())),
            "left_out_by_cell": _by_cell(self.left_out, self.cells),
            "admitted_not_stored": sum(1 for u in self.units for k in u.admitted if identity_of(k) in here),
            "slots_open": self.open_slots,
            "identities_gone": dict(sorted(Counter(self.gone.values()).items())),
        }


def rejudge(parts: Parts, known: Mapping[str, Receipt], past: Past) -> Refiltered:
    """Return what the published version comes to under the recipe's filters; reads only.

    Raises:
        UserError: a filter reads a measure that stored images do not have.
        TargetNotReachedError: no image passes.
    """
    recipe = parts.recipe
    members = members_before(parts, max(_generations(known), default=0) + 1)
    cells = {m.ordinal: m.cell for m in members}
    made = sorted(
        (r for r in known.values() if r.unit["stage"] == Stage.MAKE.value),
        key=lambda r: (int(r.unit["generation"]), int(r.unit["index"])),
    )
    enrolled: dict[int, int] = {}
    worked = Counter(o for r in made for o in r.unit["ordinals"])
    alone = frozenset(o for o, times in worked.items() if times == 1)
    again = Rejudgement({row.key for row in past.rows}, recipe.attempts, recipe.balance.by, cells, alone, past.closed)
    units, beside = [], side_car_records(parts.store)
    for receipt in made:
        generation = int(receipt.unit["generation"])
        if generation not in enrolled:
            enrolled[generation] = enrolled_count(known, generation + 1)
        filters = parts.filters(enrolled[generation])
        columns = candidate_columns(parts, receipt.name, COLUMNS)
        added = read_added_measures(parts.segments, parts.store, beside.get(receipt.name, ()))
        units.append(again.unit(receipt.name, columns, filters, added))
    units = again.finish(units)
    left, gone = _apart(parts, _indexed(parts, past, units), past)
    quota = quota_within(parts.targets, recipe.identities.count, _available(left, past, members), left.published)
    left = _with_returned(parts, left, units, quota, set(gone))
    gone = {o: why for o, why in gone.items() if o not in (left.labels or {})}
    there = left.published
    owed = recipe.identities.images_per_identity
    # of photographs nobody owes more than there are
    owes = not holds_people(recipe)
    return Refiltered(
        past=left,
        units=tuple(units),
        gone=gone,
        cells=cells,
        open_cells={c: n - there[c] for c, n in quota.items() if n > there[c]} if owes else {},
        open_slots=_open_slots(left, owed) if owes else 0,
        left_out=_left_out(past, left, units, gone),
    )


def standing_of(judged: Refiltered) -> Standing:
    """Return the standing under which the version is published: nobody is new, some are gone."""
    return Standing(filled=(), failed=dict(judged.gone), open_cells=dict(judged.open_cells), unit_of={})


def close_enrolment(session: Session, books: Books, step: Step, past: Past) -> None:
    """Commit the receipt that a generation's enrolment is closed: it enrols nobody."""
    name = enrolled_receipt_name(step.number)
    if books.has(name):
        return
    parts = session.parts
    unit = {"stage": "enrolled", "generation": step.number, "index": 0, "round": 0, "candidates": past.candidates}
    receipt = Receipt(
        unit=unit,
        name=name,
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=Counts(0, 0, 0, {}),
        files=(),
        run=dict(parts.run_facts),
    )
    commit(parts, receipt)
    books.add(receipt)


def _generations(known: Mapping[str, Receipt]) -> Iterable[int]:
    return (int(r.unit["generation"]) for r in known.values())


def _open_slots(left: Past, owed: int) -> int:
    """Return how many slots of published identities have no image, those of erased images apart."""
    filled = {(r.identity, slot_of(r.key)) for r in left.rows}
    here = left.labels or {}
    for_ever = {(o, slot) for o, slot in left.tombstones.slots - filled if o in here and slot < owed}
    return len(here) * owed - len(filled) - len(for_ever)


def _available(left: Past, past: Past, members: Iterable[Any]) -> Counter[Cell]:
    """Return how many identities each cell can give: those that stay, and those nobody worked on."""
    out: Counter[Cell] = Counter(left.published)
    out.update(m.cell for m in members if m.ordinal not in past.spent)
    return out


def _indexed(parts: Parts, past: Past, units: Iterable[Rejudged]) -> list[IndexRow]:
    """Return the index rows of what is kept of published identities; labels are the old ones."""
    labels = past.labels or {}
    before = {(row.segment, row.key): row for row in past.rows}
    cells = {row.identity: row.cell for row in past.rows}
    rows: list[IndexRow] = []
    for unit in units:
        mine = [k for k in unit.kept if identity_of(k) in labels]
        rows += [before[unit.unit, k] for k in mine if (unit.unit, k) in before]
        rows += _located(parts, unit.unit, [k for k in mine if (unit.unit, k) not in before], labels, cells)
    return sorted(rows)


def _located(
    parts: Parts, unit: str, keys: Sequence[str], labels: Mapping[int, int], cells: Mapping[int, str]
) -> list[IndexRow]:
    """Return the index rows of stored images that the parent does not publish."""
    if not keys:
        return []
    found = parts.segments.read_audit(parts.store, unit)
    place = {k: n for n, k in enumerate(found.keys)}
    return [
        IndexRow(
            labels[identity_of(k)], k, identity_of(k), cells[identity_of(k)], unit,
            int(found.offset_N[place[k]]), int(found.length_N[place[k]]),
        )
        for k in keys
    ]  # fmt: skip


def _with_returned(
    parts: Parts, left: Past, units: Sequence[Rejudged], quota: Mapping[Cell, int], gone: set[int]
) -> Past:
    """Return the past with those who fill open places from storage: their images pass, and they come near to nobody.

    They were published once, or could not be filled under stricter filters; in each cell the lowest ranks come first.
    """
    labels = dict(left.labels or {})
    places = {c: n - left.published[c] for c, n in quota.items()}
    waiting = _waiting(parts, left, units, {c for c, n in places.items() if n > 0}, gone)
    if not waiting:
        return left
    # numbered beyond everybody who is there, so that all of them are read together
    theirs = {m.ordinal: label for label, m in enumerate(waiting, start=len(labels))}
    cells = {m.ordinal: published_cell(parts.recipe, m.cell) for m in waiting}
    rows = _rows_of_kept(parts, units, theirs, cells)
    _, templates_NE = published_templates(parts, replace(left, rows=tuple(rows), labels=theirs))
    leaking = _leaking(parts, [m.ordinal for m in waiting], templates_NE)
    taken = _taken(parts, left, waiting, templates_NE, places, leaking)
    labels |= {waiting[n].ordinal: label for label, n in enumerate(sorted(taken), start=len(labels))}
    fresh = [replace(r, label=labels[r.identity]) for r in rows if r.identity in labels]
    return replace(left, rows=tuple(sorted([*left.rows, *fresh])), labels=labels)


def _waiting(
    parts: Parts, left: Past, units: Sequence[Rejudged], open_cells: set[Cell], gone: set[int]
) -> list[Member]:
    """Return who has every image that a place asks for, and is neither published nor just refused, by rank."""
    owed = parts.recipe.identities.images_per_identity
    have = Counter(identity_of(key) for unit in units for key in unit.kept)
    out = gone | set(left.labels or {})
    mine = (m for m in left.members if m.cell in open_cells and m.ordinal not in out and have[m.ordinal] >= owed)
    return sorted(mine, key=lambda m: (m.rank, m.ordinal))


def _taken(
    parts: Parts,
    left: Past,
    waiting: Sequence[Member],
    templates_NE: Float32,
    places: Mapping[Cell, int],
    leaking: set[int],
) -> list[int]:
    """Return which of those who wait take the open places; those whom one of them keeps out let the next one try."""
    _, published_ME = published_templates(parts, left)
    open_places = Counter(places)
    line = [n for n, m in enumerate(waiting) if m.ordinal not in leaking]
    taken: list[int] = []
    while True:
        turn: Counter[Cell] = Counter()
        batch = []
        for n in line:
            if turn[waiting[n].cell] < open_places[waiting[n].cell]:
                turn[waiting[n].cell] += 1
                batch.append(n)
        if not batch:
            return taken
        before = np.concatenate([published_ME, templates_NE[taken]])
        keeps = separate(templates_NE[batch], _threshold(parts), kept_before_ME=before).kept_N
        stay = [n for n, kept in zip(batch, keeps, strict=True) if kept]
        taken += stay
        open_places.subtract(waiting[n].cell for n in stay)
        line = sorted(set(line) - set(batch))


def _rows_of_kept(
    parts: Parts, units: Sequence[Rejudged], labels: Mapping[int, int], cells: Mapping[int, str]
) -> list[IndexRow]:
    """Return the index rows of all that is kept of some identities."""
    rows: list[IndexRow] = []
    for unit in units:
        rows += _located(parts, unit.unit, [k for k in unit.kept if identity_of(k) in labels], labels, cells)
    return sorted(rows)


def _leaking(parts: Parts, ordinals: Sequence[int], templates_NE: Float32) -> set[int]:
    """Return whose template comes too near to a gallery, under the judge, as making would find it."""
    if parts.screen is None or not parts.screen.refuses or not ordinals:
        return set()
    images = parts.recipe.identities.images_per_identity
    near = parts.screen.numbers({JUDGE: templates_NE})
    return {o for o, numbers in zip(ordinals, near, strict=True) if parts.screen.leaks(numbers, images)}


def _threshold(parts: Parts) -> float:
    recipe = parts.recipe
    return collision_cos(recipe, parts.judge.calibration, recipe.identities.images_per_identity)


def _apart(parts: Parts, rows: list[IndexRow], past: Past) -> tuple[Past, dict[int, str]]:
    """Return the past with these rows, without identities whose templates now come too near, densely labelled anew.

    Images that no version holds yet, such as those of a growth that was taken back, cost nobody his place: where they
    bring their identity too near to another one, or to a gallery, they are left out again.
    """
    gone = dict.fromkeys(past.labels or {}, NOTHING_LEFT)
    for row in rows:
        gone.pop(row.identity, None)
    if not rows:
        raise TargetNotReachedError(
            "no stored image passes the new filters, and a version of nobody is not published; loosen them"
        )
    published = {row.key for row in past.rows}
    mine = _relabelled(past, rows)
    as_before = _relabelled(past, [r for r in rows if r.key in published])
    gains = {r.identity for r in mine.rows if r.key not in published} & set(as_before.labels or {})
    ordinals, templates_ME = published_templates(parts, mine)
    leaking = _leaking(parts, ordinals, templates_ME)
    given_up = _given_up(parts, as_before, gains, ordinals, templates_ME, leaking)
    rows = [r for r in rows if r.identity not in given_up or r.key in published]
    leaking = _leaking(parts, ordinals, templates_ME) if given_up & leaking else leaking
    gone |= dict.fromkeys(leaking, LEAKS)
    there = [n for n, o in enumerate(ordinals) if o not in leaking]
    stays = separate(templates_ME[there], _threshold(parts)).kept_N
    gone |= {ordinals[n]: COLLIDES for n, keeps in zip(there, stays, strict=True) if not keeps}
    rows = [r for r in rows if r.identity not in gone]
    if not rows:
        raise TargetNotReachedError(
            "of those whose images pass the new filters everybody comes too near to a gallery, and a version of nobody "
            "is not published; loosen them"
        )
    return _relabelled(past, rows), dict(sorted(gone.items()))


def _given_up(
    parts: Parts,
    as_before: Past,
    gains: set[int],
    ordinals: Sequence[int],
    templates_ME: Float32,
    leaking: set[int],
) -> set[int]:
    """Put templates without what they gained into `templates_ME`, where they must lose it; return whose those are."""
    if not gains:
        return set()
    labels = {o: label for o, label in (as_before.labels or {}).items() if o in gains}
    who, without_NE = published_templates(parts, replace(as_before, labels=labels))
    before = dict(zip(who, without_NE, strict=True))
    out = gains & leaking
    while True:
        for n, ordinal in enumerate(ordinals):
            if ordinal in out:
                templates_ME[n] = before[ordinal]
        found = separate(templates_ME, _threshold(parts))
        more = {ordinals[n] for n in giving_way(found, [o in gains and o not in out for o in ordinals])}
        if not more:
            return out
        out |= more


def _relabelled(past: Past, rows: list[IndexRow]) -> Past:
    """Return the past with these rows; labels stay dense and in their order."""
    order = sorted({(r.label, r.identity) for r in rows})
    labels = {identity: label for label, (_, identity) in enumerate(order)}
    mine = tuple(sorted(replace(r, label=labels[r.identity]) for r in rows))
    return replace(past, rows=mine, labels=labels, labels_given=0)


def _left_out(
    before: Past, after: Past, units: Iterable[Rejudged], gone: Mapping[int, str]
) -> dict[str, tuple[str, ...]]:
    """Return why each image of the version before is not in the new one: refused, or of an identity that leaves."""
    stays = {row.key for row in after.rows}
    refused = {key: reasons for unit in units for key, reasons in unit.refused.items()}
    left = [row for row in before.rows if row.key not in stays]
    return {row.key: refused.get(row.key) or (gone[row.identity],) for row in left}


def _by_cell(left_out: Mapping[str, tuple[str, ...]], cells: Mapping[int, Cell]) -> dict[str, dict[str, int]]:
    """Return how many images are left out, by the cell of their identity and their first reason."""
    out: dict[str, Counter[str]] = defaultdict(Counter)
    for key, reasons in left_out.items():
        out[str(cells[identity_of(key)])][reasons[0]] += 1
    return {cell: dict(sorted(found.items())) for cell, found in sorted(out.items())}
