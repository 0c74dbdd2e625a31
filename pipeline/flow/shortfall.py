"""What is said of an enrolment that stays short: which cells, what was tried for them, and the knob to turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.domain.balance_figures import wilson_interval
from pipeline.domain.records import Cell
from pipeline.domain.steering import Landings, cap_of

SHOWN = 6
"""Cells that are listed; of more, how many."""
MOST_ROUNDS = 100
"""What a recipe may ask for."""
KNOBS = {
    "template_collides": "enrol.separation",
    "vector_too_near": "enrol.vector_separation_cos",
    "probes_inconsistent": "enrol.consistency",
    "labellers_disagree": "balance.agreement",
}
"""Reason -> the recipe's key that would refuse fewer."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Where enrolment ended.

    Attributes:
        have: identities per cell.
        quota: identities owed per cell.
        landed: cell asked -> cell read -> candidates enrolled there.
        tried: cell asked -> candidates probed.
        refused: candidates not enrolled, by reason.
        candidates: how many were drawn.
        rounds: rounds of enrolment that the recipe allows.
        least_cap: proposals towards a cell that a round may always hold.
        probed: candidates of all generations that were probed.
        budget: most of them that the recipe allows; None without limit.
        spent: whether the budget ended it.
        used_up: how many candidates the sampler had, where it had no more; None otherwise.
    """

    have: Mapping[Cell, int]
    quota: Mapping[Cell, int]
    landed: Landings
    tried: Mapping[Cell, int]
    refused: Mapping[str, int]
    candidates: int
    rounds: int
    least_cap: int
    probed: int
    budget: int | None
    spent: bool
    used_up: int | None = None

    @property
    def short(self) -> dict[Cell, int]:
        """Return what each cell lacks, where it lacks something."""
        return {c: n - self.have.get(c, 0) for c, n in sorted(self.quota.items()) if self.have.get(c, 0) < n}

    def best_yield(self, cell: Cell) -> tuple[Cell, float]:
        """Return the cell whose proposals come out as `cell` most often, and how often they do at least, in [0, 1].

        At least is a standard error below what was seen (Wilson's interval at z = 1), as few were seen.
        """
        hits = {a: self.landed.get(a, {}).get(cell, 0) for a in self.tried}
        shares = {a: wilson_interval(hits[a], n, z=1.0)[0] for a, n in self.tried.items() if hits[a]}
        best = max(shares, key=lambda a: (shares[a], a == cell), default=cell)
        return best, shares.get(best, 0.0)


def explain(end: Shortfall) -> str:
    """Return one line: where it ended, each short cell with its yield, why candidates were refused, what to change."""
    short = end.short
    why = ", ".join(f"{name} {number}" for name, number in end.refused.items()) or "none"
    rounds = f"{end.rounds} enrolment round{'' if end.rounds == 1 else 's'}"
    how = f"the whole of enrol.budget ({end.budget})" if end.spent else rounds
    how = f"{how} and {end.candidates} candidates"
    if end.used_up is not None:
        how = f"all {end.used_up} candidates that the sampler has"
    said = [_cell(end, c) for c in list(short)[:SHOWN]]
    said += [f"and {len(short) - SHOWN} more"] if len(short) > SHOWN else []
    count = f"{len(short)} of {len(end.quota)} cells {'is' if len(short) == 1 else 'are'} short"
    return f"after {how} {count}: {'; '.join(said)}; refused: {why}; {_remedy(end)}"


def _cell(end: Shortfall, cell: Cell) -> str:
    mine, number = end.landed.get(cell, {}), end.tried.get(cell, 0)
    hits = mine.get(cell, 0)
    others = {c: n for c, n in mine.items() if c != cell}
    text = f"{cell}: {end.have.get(cell, 0)} of {end.quota[cell]}"
    if not number:
        return f"{text} (none was drawn towards it)"
    text += f" (yield {100 * hits / number:.1f} %: of {number} drawn towards it {hits} came out as it"
    if others:
        most = max(others, key=lambda c: (others[c], c))
        text += f" and {others[most]} as {most}"
    return f"{text})"


def _remedy(end: Shortfall) -> str:
    """Return what to do: for cells that come out, how much more it takes; for those that do not, to drop them."""
    short = end.short
    if end.used_up is not None:
        return f"the sampler has no more: with another --out, give it more, or ask for fewer people{_loosen(end)}"
    never = [c for c in short if not end.best_yield(c)[1]]
    if never:
        return _remedy_for(end, never)
    more = sum(math.ceil(n / end.best_yield(c)[1]) for c, n in short.items())
    longest = max(_rounds(end, c, n) for c, n in short.items())
    rounds = min(MOST_ROUNDS, end.rounds + longest)
    budget = f"to {_above(end.probed + more)}"
    if end.spent:
        do = f"raise enrol.budget and run again ({budget} or more)"
    elif end.budget is not None:
        do = f"raise enrol.rounds and run again (to {rounds} or more, with enrol.budget {budget})"
    else:
        do = f"raise enrol.rounds and run again (to {rounds} or more)"
    return (
        f"at such yields it may take {_above(more)} more candidates: {do}; "
        f"or, with another --out, ask for fewer of these cells in balance{_loosen(end)}"
    )


def _rounds(end: Shortfall, cell: Cell, lacks: int) -> int:
    """Return how many more rounds it takes, each as large as it may be."""
    asked, share = end.best_yield(cell)
    tried, wanted, rounds = end.tried[asked], lacks / share, 0
    while wanted > 0:
        step = cap_of(tried, end.least_cap)
        tried, wanted, rounds = tried + step, wanted - step, rounds + 1
    return rounds


def _remedy_for(end: Shortfall, never: Sequence[Cell]) -> str:
    """Return what to do about cells that nobody was enrolled in, whatever was drawn."""
    knob = "enrol.budget" if end.spent else "enrol.rounds"
    if not any(end.landed.get(c) for c in never if end.tried.get(c)):
        return (
            f"nobody drawn towards them was enrolled: raise {knob} and run again; or, with another --out, leave them "
            f"out of balance{_loosen(end)}"
        )
    names = ", ".join(str(c) for c in never[:SHOWN]) + (", ..." if len(never) > SHOWN else "")
    return (
        f"nothing that was tried comes out as {names}: with another --out, give it no share in balance, or take a bank "
        f"and a generator that know it{_loosen(end)}; raise {knob} and run again only to try longer"
    )


def _above(number: int) -> int:
    """Return a number rounded up to two digits."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def _loosen(end: Shortfall) -> str:
    """Return the last clause: which threshold refused most; empty where none of ours did."""
    known = {reason: n for reason, n in end.refused.items() if reason in KNOBS}
    if not known:
        return ""
    most = max(known, key=lambda reason: known[reason])
    return f", or loosen {KNOBS[most]} ({most} refused most)"
