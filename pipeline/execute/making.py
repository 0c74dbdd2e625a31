"""Making on any executor: rounds of units until every place is taken or the rounds are used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.leakage import JUDGE
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Member, slot_of
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.figures import tally
from pipeline.execute.session import Session, forget_unplanned, separator, work
from pipeline.flow import rounds
from pipeline.flow.admission import quota_among
from pipeline.flow.commit import Books
from pipeline.flow.enrol import collision_cos
from pipeline.flow.past import Past, Step, embedding_sums, published_templates, rows_of
from pipeline.flow.rounds import Harvest, Standing
from pipeline.flow.twins import candidate_columns


def make(
    session: Session, books: Books, step: Step, past: Past, members: Sequence[Member], quota: Mapping[Cell, int]
) -> tuple[Standing, list[Unit]]:
    """Make images until a generation's places are taken or its rounds used up; return where that ended, and its units.

    Raises:
        TargetNotReachedError: nobody could be filled, or places stayed open and the dataset may not be short.
    """
    parts, recipe = session.parts, session.parts.recipe
    owed = recipe.identities.images_per_identity
    cells = {m.ordinal: m.cell for m in members}
    published = published_templates(parts, past)
    used = set(past.spent)
    there = past.published
    places = {c: n - there[c] for c, n in quota.items() if n > there[c]}
    standing = Standing((), {}, places, {})
    units: list[Unit] = []
    harvests: list[Harvest] = []
    lost: dict[int, int] = {}
    leaking: set[int] = set()
    for number in range(recipe.rounds):
        planned: list[Unit] = []
        if number == 0:
            planned += _planned_growth(recipe, step, past, len(units))
        fresh = rounds.next_in_line(members, used, standing.open_cells)
        first = len(units) + len(planned)
        planned += rounds.plan_make_round(recipe, step.number, number, first, fresh, (0, owed))
        if not planned:
            break
        units += planned
        used.update(fresh)
        quarantined = {u.name for u in work(session, books, planned, "make", round=number, generation=step.number)}
        for unit in planned:
            if unit.name in quarantined:
                lost |= {o: len(unit.slots_of(o)) for o in unit.ordinals}
            else:
                harvests.append(_harvest(session, unit, past))
                leaking |= _leaking(session, harvests[-1])
        standing = rounds.close_round(
            cells, quota, harvests, lost, published, _threshold(session), frozenset(leaking), apart=separator(session)
        )
        if standing.open_cells:
            held = Counter(cells[o] for o in (*published[0], *standing.filled))
            waiting = Counter(m.cell for m in members if m.ordinal not in used)
            quota = quota_among(parts.targets, recipe.identities.count, quota, held, waiting)
            standing = replace(standing, open_cells={c: n - held[c] for c, n in quota.items() if held[c] < n})
        session.observer.event("round", number=number, filled=len(standing.filled), failed=standing.failed)
        if not standing.open_cells:
            break
    _require_somebody(books, past, standing)
    if step.published is None and not session.allow_short:
        spare = bool(rounds.next_in_line(members, used, standing.open_cells))
        rounds_done = units[-1].round + 1 if units else 0
        _require_target(books, step, past, standing, rounds_done=rounds_done, spare=spare)
    if step.published is None:
        forget_unplanned(books, Stage.MAKE, step.number, units)
    return standing, units


def _planned_growth(recipe: Recipe, step: Step, past: Past, first: int) -> list[Unit]:
    """Return the units of a generation's first round that add images to published identities."""
    version = step.parent.version if step.parent else ""
    owed = recipe.identities.images_per_identity
    if step.completes:
        lacks = open_slots(past, owed)
        return rounds.plan_make_round(recipe, step.number, 0, first, sorted(lacks), (0, owed), version, lacks)
    units: list[Unit] = []
    for start, who in _unworked(past, owed):
        units += rounds.plan_make_round(recipe, step.number, 0, first + len(units), who, (start, owed), version)
    return units


def open_slots(past: Past, owed: int) -> dict[int, tuple[int, ...]]:
    """Return the slots below `owed` in which published identities have no image, by ordinal; none that was erased."""
    filled: dict[int, set[int]] = {}
    for row in past.rows:
        filled.setdefault(row.identity, set()).add(slot_of(row.key))
    for identity, slot in past.closed:
        filled.get(identity, set()).add(slot)
    out = {o: tuple(k for k in range(owed) if k not in mine) for o, mine in filled.items()}
    return {o: slots for o, slots in out.items() if slots}


def _unworked(past: Past, owed: int) -> list[tuple[int, list[int]]]:
    """Return (slot, ordinals): the published whose slots from there on nobody worked, a quarantined unit's too."""
    starts: dict[int, list[int]] = {}
    for ordinal in sorted(past.labels or {}):
        if past.tried[ordinal] < owed:
            starts.setdefault(past.tried[ordinal], []).append(ordinal)
    return sorted(starts.items())


def _still_short(past: Past, standing: Standing, images_before: int) -> dict[int, int]:
    """Return the published identities that lack images of earlier generations, where this one did not make them."""
    have = Counter(r.identity for r in past.rows)
    erased = Counter(o for o, slot in past.closed if slot < images_before)
    lack = {o: images_before - n - erased[o] for o, n in have.items() if o not in standing.unit_of}
    return {o: n for o, n in lack.items() if n > 0}


def _harvest(session: Session, unit: Unit, past: Past) -> Harvest:
    parts = session.parts
    columns = candidate_columns(parts, unit.name, rounds.HARVEST_COLUMNS)
    sums: dict[int, npt.NDArray[np.float64]] = {}
    if unit.adds:
        sums = dict(zip(unit.ordinals, embedding_sums(parts, rows_of(past, unit.ordinals), unit.ordinals), strict=True))
    return rounds.harvest(unit, columns, sums)


def _leaking(session: Session, brought: Harvest) -> set[int]:
    """Return whose template of accepted images comes too near to a gallery, under the judge."""
    screen = session.parts.screen
    if screen is None or not screen.refuses:
        return set()
    images = session.parts.recipe.identities.images_per_identity
    there = np.flatnonzero(np.isfinite(brought.template_NE).all(axis=1))
    near = screen.numbers({JUDGE: brought.template_NE[there]})
    return {brought.ordinals[n] for n, numbers in zip(there, near, strict=True) if screen.leaks(numbers, images)}


def _threshold(session: Session) -> float:
    recipe = session.parts.recipe
    return collision_cos(recipe, session.parts.judge.calibration, recipe.identities.images_per_identity)


def _require_somebody(books: Books, past: Past, standing: Standing) -> None:
    """Refuse to publish nobody, whatever the options."""
    if not standing.filled and not past.labels:
        raise TargetNotReachedError(
            f"no identity could be filled; {_hardest(books.known)}; "
            "raise rounds and run again, or, with another --out, raise attempts or loosen that filter"
        )


def _require_target(books: Books, step: Step, past: Past, standing: Standing, *, rounds_done: int, spare: bool) -> None:
    hard = _hardest(books.known)
    carried = _still_short(past, standing, step.images_before)
    if not (standing.open_cells or standing.short or carried):
        return
    missing = ", ".join(f"{c} {n}" for c, n in sorted(standing.open_cells.items()))
    why = ", ".join(f"{n} {w}" for w, n in tally(standing.failed.values()).items())
    said = [f"these places are open: {missing}; identities not filled: {why or 'none'}"] if missing else []
    stuck = {o: n for o, n in standing.short.items() if o not in standing.withdrawn}
    if stuck:
        said.append(f"{len(stuck)} published identities could not fill {sum(stuck.values())} of their new slots")
    if standing.withdrawn:
        said.append(
            f"{len(standing.withdrawn)} published identities would come too near to another one with their new images"
        )
    if carried:
        said.append(
            f"{len(carried)} published identities still lack {sum(carried.values())} images of earlier versions"
        )
    if standing.short:
        said.append("they keep what they have, and are never replaced")
    if spare:
        first = "raise rounds and run again"
    elif standing.open_cells:
        first = "the reserve of those cells is used up: publish what is there, then raise enrol.reserve and grow"
    else:
        first = "their attempts are used up"
    raise TargetNotReachedError(
        f"after {rounds_done} rounds {'; '.join(said)}; {hard}; {first}; --allow-short publishes what is there; "
        "with another --out, raise attempts or enrol.reserve, or loosen that filter"
    )


def _hardest(known: Mapping[str, Receipt]) -> str:
    """Return which reason refused most images, as a phrase."""
    total = Counts.total(r.counts for r in known.values() if r.unit["stage"] == Stage.MAKE.value)
    if not total.reasons:
        return "no filter refused an image"
    reason, number = max(total.reasons.items(), key=lambda item: item[1])
    return f"most refusals: {reason} ({number} of {total.candidates} images)"
