"""Making on any executor: rounds of units until every place is taken or the rounds are used up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.records import Cell, Member
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.figures import tally
from pipeline.execute.session import Session, work
from pipeline.flow import rounds
from pipeline.flow.commit import Books
from pipeline.flow.enrol import separation_cos
from pipeline.flow.past import Past, Step, embedding_sums, published_templates
from pipeline.flow.rounds import Harvest, Standing


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
    places = {c: n - past.published[c] for c, n in quota.items() if n > past.published[c]}
    standing = Standing((), {}, places, {})
    units: list[Unit] = []
    harvests: list[Harvest] = []
    lost: dict[int, int] = {}
    for number in range(recipe.rounds):
        planned = []
        if number == 0 and past.labels and owed > step.images_before:
            planned = rounds.plan_make_round(
                recipe, step.number, number, len(units), sorted(past.labels), (step.images_before, owed)
            )
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
                lost |= dict.fromkeys(unit.ordinals, unit.slots[1] - unit.slots[0])
            else:
                harvests.append(_harvest(session, unit, past))
        standing = rounds.close_round(cells, quota, harvests, lost, published, _threshold(session))
        session.observer.event("round", number=number, filled=len(standing.filled), failed=standing.failed)
        if not standing.open_cells:
            break
    _require_target(session, books, past, standing)
    return standing, units


def _harvest(session: Session, unit: Unit, past: Past) -> Harvest:
    parts = session.parts
    columns = parts.segments.read_columns(parts.store, unit.name, rounds.HARVEST_COLUMNS)
    sums: dict[int, npt.NDArray[np.float64]] = {}
    if unit.slots[0] > 0:
        sums = dict(zip(unit.ordinals, embedding_sums(parts, past.rows, unit.ordinals), strict=True))
    return rounds.harvest(unit, columns, sums)


def _threshold(session: Session) -> float:
    recipe = session.parts.recipe
    return separation_cos(recipe, session.parts.judge.calibration, recipe.identities.images_per_identity)


def _require_target(session: Session, books: Books, past: Past, standing: Standing) -> None:
    recipe = session.parts.recipe
    hard = _hardest(books.known)
    if not standing.filled and not past.labels:
        raise TargetNotReachedError(
            f"no identity could be filled in {recipe.rounds} rounds; {hard}; "
            "raise rounds and run again, or, with another --out, raise attempts or loosen that filter"
        )
    if session.allow_short or not (standing.open_cells or standing.short):
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
    if standing.short:
        said.append("they keep what they have, and are never replaced")
    raise TargetNotReachedError(
        f"after {recipe.rounds} rounds {'; '.join(said)}; {hard}; raise rounds and run again, pass --allow-short to "
        "publish what is there, or, with another --out, raise attempts or enrol.reserve, or loosen that filter"
    )


def _hardest(known: Mapping[str, Receipt]) -> str:
    """Return which reason refused most images, as a phrase."""
    total = Counts.total(r.counts for r in known.values() if r.unit["stage"] == Stage.MAKE.value)
    if not total.reasons:
        return "no filter refused an image"
    reason, number = max(total.reasons.items(), key=lambda item: item[1])
    return f"most refusals: {reason} ({number} of {total.candidates} images)"
