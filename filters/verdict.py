"""The two steps that every filter takes: read a number, put the answer into a verdict."""

from __future__ import annotations

from pipeline.domain.errors import UserError
from pipeline.domain.records import Sample, Verdict


def measured(sample: Sample, measure: str, filter_name: str) -> float:
    """Return a measure of the sample.

    Raises:
        UserError: nothing in this run gives that measure; the message lists what there is.
    """
    try:
        return float(sample.measures[measure])
    except KeyError:
        have = ", ".join(sorted(sample.measures)) or "none"
        raise UserError(
            f"filter {filter_name!r} reads the measure {measure!r}, which sample {sample.key} does not have; "
            f"measures present: {have}; add the model that gives it to the recipe's `measures`, or name another"
        ) from None


def verdict(filter_name: str, passed: bool, reason: str, *, value: float, threshold: float) -> Verdict:
    """Return the verdict; `passed` is the outcome of one comparison that is False for NaN."""
    return Verdict(
        filter=filter_name, passed=passed, reason="" if passed else reason, value=value, threshold=float(threshold)
    )
