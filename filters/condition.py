"""Does the image show what was asked of it? A condition against the measure that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict


class Options(FilterNode):
    """How far what is measured may lie from what was asked."""

    use: Literal["condition"]
    condition: Annotated[str, Field(min_length=1)]
    """Name of the condition: `yaw_deg`."""
    measure: Annotated[str, Field(min_length=1)]
    """Name of the measure that reads it, in the same unit."""
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """In the unit of both."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Refuse an image that missed its condition. Missing it alone marks a last attempt off-target, no more."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    condition: str
    measure: str
    tolerance: float
    """Largest accepted difference, in the condition's unit."""
    judges_condition: bool = True
    judges_siblings: bool = False
    judges_cell: bool = False

    @property
    def name(self) -> str:
        """Return the filter's name, one per condition: `condition:yaw_deg`."""
        return f"condition:{self.condition}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return every reason that it can give."""
        return (f"off_target_{self.condition}",)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> Condition:
        """Return the filter; a condition has nothing to do with who is enrolled."""
        return cls(condition=options.condition, measure=options.measure, tolerance=options.tolerance)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether measured and asked agree; the value is their distance, 0 where nothing was asked."""
        (reason,) = self.reasons
        if self.condition not in sample.conditions:
            return verdict(self.name, True, reason, value=0.0, threshold=self.tolerance)
        asked = sample.conditions[self.condition]
        distance = abs(measured(sample, self.measure, self.name) - asked)
        return verdict(self.name, distance <= self.tolerance, reason, value=distance, threshold=self.tolerance)
