"""Is the image sharp enough to train on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "sharpness"
REASON = "too_blurred"


class Options(FilterNode):
    """The least sharpness."""

    use: Literal["sharpness"]
    min: Annotated[float, Field(ge=0, le=1)]
    """0 is blurred beyond use, 1 as sharp as the generator makes them."""


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Refuse a face that is too blurred to train on."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    min_sharpness: float
    """Least accepted sharpness, 0..1."""
    name: str = "sharpness"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> Sharpness:
        """Return the filter; sharpness has nothing to do with who is enrolled."""
        return cls(min_sharpness=options.min)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `sharpness` reaches the threshold."""
        value = measured(sample, MEASURE, self.name)
        return verdict(self.name, value >= self.min_sharpness, REASON, value=value, threshold=self.min_sharpness)
