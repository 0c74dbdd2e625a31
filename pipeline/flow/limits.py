"""A filter that refuses more than it may stops the run: better on the first unit than after the last.

A filter's `stop_above` is a share of candidates. It is judged over a generation's make units in the order of the plan:
after each of them, over all up to it, as soon as these hold 200 candidates. Only units before which nothing is open
count, so whoever finishes first changes nothing: the same units always stop the run at the same one. A unit that is
quarantined is left out, once its barrier is over.

What is made is kept. The limit changes no byte and is in no fingerprint, so a run that it stopped goes on under a
higher one; unless it is raised, running again stops at the same place, without making anything.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.ports import Filter
from pipeline.domain.recipe import Recipe
from pipeline.domain.unit import Unit

LEAST_CANDIDATES = 200
"""Fewer say little of a share: at 200, one of 50 % is known to 7 points either way (95 %)."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a filter may refuse.

    Attributes:
        knob: the recipe's key that says so: `filters.2.stop_above`.
        filter: the filter's name.
        reasons: the reasons by which its refusals are counted.
        share: of candidates, in (0, 1); more stops the run.
    """

    knob: str
    filter: str
    reasons: tuple[str, ...]
    share: float


def limits_of(recipe: Recipe, filters: Sequence[Filter]) -> tuple[Limit, ...]:
    """Return the limits that a recipe sets; `filters` are its filters, in its order."""
    out = []
    for number, (node, judge) in enumerate(zip(recipe.filters, filters, strict=True)):
        share = getattr(node, "stop_above", None)
        if share is not None:
            out.append(Limit(f"filters.{number}.stop_above", judge.name, tuple(judge.reasons), share))
    return tuple(out)


@dataclass(slots=True)
class Watch:
    """Holds a barrier's make units against the limits, as they are committed.

    Args:
        limits: of the recipe.
        barrier: the make units that are worked now, of one generation.
        known: receipts by unit name, looked at anew each time; every unit of the generation whose index is lower than
            the barrier's belongs to a barrier that is over, so what is missing of those is quarantined.
    """

    limits: tuple[Limit, ...]
    barrier: Sequence[Unit]
    known: Mapping[str, Receipt]
    _waiting: deque[Unit] = field(init=False)
    _candidates: int = 0
    _refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Take note of the barriers before."""
        self._waiting = deque(sorted(self.barrier, key=lambda u: u.index))
        if not self._waiting:
            return
        first = self._waiting[0]
        before = [
            r
            for r in self.known.values()
            if r.unit["stage"] == first.stage.value
            and r.unit["generation"] == first.generation
            and r.unit["index"] < first.index
        ]
        for receipt in sorted(before, key=lambda r: int(r.unit["index"])):
            self._take(receipt.name, receipt.counts)

    def look(self, *, over: bool = False) -> None:
        """Take the units in the order of the plan, up to the first that is open.

        Args:
            over: whether the barrier is over, so that what it still lacks is quarantined and left out.

        Raises:
            TargetNotReachedError: one line: the first filter that refused too much, its share, the unit, the knob.
        """
        while self._waiting and (over or self._waiting[0].name in self.known):
            name = self._waiting.popleft().name
            if name in self.known:
                self._take(name, self.known[name].counts)

    def _take(self, unit: str, counts: Counts) -> None:
        self._candidates += counts.candidates
        self._refused.update(counts.reasons_any)
        if self._candidates < LEAST_CANDIDATES:
            return
        for limit in self.limits:
            refused = sum(self._refused[reason] for reason in limit.reasons)
            if refused > limit.share * self._candidates:
                raise TargetNotReachedError(_told(limit, refused, self._candidates, unit))


def _told(limit: Limit, refused: int, candidates: int, unit: str) -> str:
    share = refused / candidates
    return (
        f"filter {limit.filter!r} refused {refused} of the {candidates} images up to unit {unit}, {share:.1%}; "
        f"its limit is {limit.share:.1%}; look at what it refuses, then raise {limit.knob} and run again (what is made "
        "is kept), or loosen the filter with another --out"
    )
