"""Does a measure lie where it should? For every number that needs no filter of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

Bound = Annotated[float, Field(allow_inf_nan=False)]


class Options(FilterNode):
    """The least and the largest accepted value of a measure; either may be left out."""

    use: Literal["range"]
    measure: Annotated[str, Field(min_length=1)]
    min: Bound | None = None
    max: Bound | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Options:
        if self.min is None and self.max is None:
            raise ValueError("give `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} must not be above max {self.max:g}")
        return self


@dataclass(frozen=True, kw_only=True)
class Range:
    """Refuse an image whose measure lies outside [low, high]."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    measure: str
    low: float | None
    """Least accepted value; None where there is none."""
    high: float | None
    """Largest accepted value; None where there is none."""
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False

    @property
    def name(self) -> str:
        """Return the filter's name, one per measure: `range:exposure`."""
        return f"range:{self.measure}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return every reason that it can give."""
        return f"{self.measure}_too_low", f"{self.measure}_too_high"

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> Range:
        """Return the filter; a range has nothing to do with who is enrolled."""
        return cls(measure=options.measure, low=options.min, high=options.max)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether the measure lies in the range; the threshold is the bound broken, else the nearer one."""
        value = measured(sample, self.measure, self.name)
        if self.low is not None and not value >= self.low:
            return verdict(self.name, False, f"{self.measure}_too_low", value=value, threshold=self.low)
        if self.high is not None and not value <= self.high:
            return verdict(self.name, False, f"{self.measure}_too_high", value=value, threshold=self.high)
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        nearer = min(bounds, key=lambda bound: abs(value - bound))
        return verdict(self.name, True, "", value=value, threshold=nearer)
