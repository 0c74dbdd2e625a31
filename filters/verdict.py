"""The steps that filters share: read a number, hold it against a bound, put the answer into a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.domain.errors import UserError
from pipeline.domain.records import Sample, Verdict


@dataclass(frozen=True, slots=True)
class Bound:
    """One number of a filter that has several, with the bound it must keep; the bound itself is kept."""

    value: float
    threshold: float
    least: bool
    """Whether the threshold is the least accepted value; otherwise it is the largest."""
    reason: str

    @property
    def kept(self) -> bool:
        """Return whether the value keeps the bound; NaN keeps none."""
        return self.value >= self.threshold if self.least else self.value <= self.threshold


def measured(sample: Sample, measure: str, filter_name: str) -> float:
    """Return a measure of the sample.

    Raises:
        UserError: nothing in this run gives that measure; the message lists what there is.
    """
    try:
        return float(sample.measures[measure])
    except KeyError:
        raise _missing(sample, measure, filter_name) from None


def estimated(sample: Sample, field: str, filter_name: str) -> dict[str, float]:
    """Return the probability of every value of a categorical estimate, by value.

    Raises:
        UserError: nothing in this run estimates that field; the message lists what there is.
    """
    start = f"{field}="
    found = {name.removeprefix(start): float(p) for name, p in sample.measures.items() if name.startswith(start)}
    if not found:
        raise _missing(sample, f"{start}...", filter_name)
    return found


def verdict(filter_name: str, passed: bool, reason: str, *, value: float, threshold: float) -> Verdict:
    """Return the verdict; `passed` is the outcome of one comparison that is False for NaN."""
    return Verdict(
        filter=filter_name, passed=passed, reason="" if passed else reason, value=value, threshold=float(threshold)
    )


def bounded(filter_name: str, bounds: Sequence[Bound]) -> Verdict:
    """Return the verdict on several numbers of one unit: the first bound broken, else the one that is nearest.

    Args:
        filter_name: whose verdict it is.
        bounds: at least one, in the order in which they are looked at.
    """
    broken = next((b for b in bounds if not b.kept), None)
    told = broken or min(bounds, key=lambda b: abs(b.value - b.threshold))
    return verdict(filter_name, broken is None, told.reason, value=told.value, threshold=told.threshold)


def _missing(sample: Sample, measure: str, filter_name: str) -> UserError:
    have = ", ".join(sorted(sample.measures)) or "none"
    return UserError(
        f"filter {filter_name!r} reads the measure {measure!r}, which sample {sample.key} does not have; "
        f"measures present: {have}; add the model that gives it to the recipe's `measures`, or name another"
    )
