"""Previews: a few refused images of a unit, kept so that a person can see what was refused. They decide nothing.

Which ones is a pure function of the unit's candidates in the order in which it made them, so equal units keep equal
previews. What is kept is bounded per unit and reason, and over the generations of a dataset. An image that was refused
because it shows a real person, or might show a minor, is never among them, nor is one that nobody could judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.domain.leakage import COPY_BITS, COPY_REASON, REASON
from pipeline.domain.records import Candidate

PREFIX = "previews/"
UNITS = 200
"""Make units of the first generation that keep previews; of generation g it is the g + 1-th part of them."""
NEVER = frozenset({REASON, COPY_REASON, "apparent_minor"})
"""Reasons for which a refused image must not be kept; also where the filter only observed."""
_GALLERY_MEASURES = "nearest_gallery"


@dataclass(frozen=True, slots=True)
class Preview:
    """One refused image with the first verdict that refused it.

    Attributes:
        key: of the candidate, whose row in the unit's segment has everything else that is known of it.
        identity: ordinal.
        cell: in which the identity is enrolled.
        reason, value, threshold: of that verdict.
        jpeg: its bytes, exactly those that were judged.
    """

    key: str
    identity: int
    cell: str
    reason: str
    value: float
    threshold: float
    jpeg: bytes = field(repr=False)


def preview_path(unit_name: str) -> str:
    """Return where the previews of a make unit lie."""
    return f"{PREFIX}{unit_name}.parquet"


def keeps_previews(generation: int, index: int) -> bool:
    """Return whether a make unit keeps previews: the first ones of a generation do, and fewer in each later one."""
    return index < UNITS // (generation + 1)


def may_be_shown(candidate: Candidate, limits: Mapping[str, float] | None) -> bool:
    """Return whether a refused image may be kept.

    Args:
        candidate: with every verdict on it.
        limits: measure -> the value at which an image counts as a leak; None where nothing is screened. An image that
            lacks one of these measures may not be kept.
    """
    reasons = [v.reason for v in candidate.verdicts]
    if any(r in NEVER or r.startswith(_GALLERY_MEASURES) for r in reasons):
        return False
    nan = float("nan")
    # by the measures too: a run may screen people, and leave images to the filters that it names
    for name, limit in (limits or {}).items():
        value = candidate.sample.measures.get(name, nan)
        if not (value > limit if name == COPY_BITS else value < limit):
            return False
    return True


@dataclass(slots=True)
class FirstRefused:
    """Keeps, for every first reason, the candidates that were made first, whatever the order in which they are offered.

    Args:
        per_reason: how many; 0 keeps none.
        limits: what `may_be_shown` is asked with.
    """

    per_reason: int
    limits: Mapping[str, float] | None = None
    _kept: dict[str, list[tuple[int, Preview]]] = field(default_factory=dict)

    def offer(self, candidate: Candidate, cell: str, jpeg: bytes) -> None:
        """Take note of a refused candidate, with the bytes on which it was judged."""
        if not self.per_reason or not may_be_shown(candidate, self.limits):
            return
        first = next(v for v in candidate.verdicts if not v.passed)
        mine = self._kept.setdefault(first.reason, [])
        if len(mine) == self.per_reason and mine[-1][0] < candidate.order:
            return
        sample = candidate.sample
        preview = Preview(sample.key, sample.identity, cell, first.reason, first.value, first.threshold, jpeg)
        mine.append((candidate.order, preview))
        mine.sort(key=lambda kept: kept[0])
        del mine[self.per_reason :]

    def previews(self) -> list[Preview]:
        """Return what is kept, in the order of making."""
        every = [kept for mine in self._kept.values() for kept in mine]
        return [preview for _, preview in sorted(every, key=lambda kept: kept[0])]
