"""Does the face use enough of the grey scale? A flat, foggy picture has few levels to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "dynamic_range_bits"
REASON = "low_dynamic_range"


class Options(FilterNode):
    """The least dynamic range."""

    use: Literal["dynamic-range"]
    min_bits: Annotated[float, Field(gt=0, le=8)]
    """Least entropy of the luminance histogram of 256 levels, in bits; 8 is an even use of all of them."""


@dataclass(frozen=True, kw_only=True)
class DynamicRange:
    """Refuse a face whose luminance has too few levels."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    min_bits: float
    """Least accepted entropy, in bits, 0..8."""
    name: str = "dynamic-range"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> DynamicRange:
        """Return the filter; light has nothing to do with who is enrolled."""
        return cls(min_bits=options.min_bits)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `dynamic_range_bits` reaches the threshold."""
        value = measured(sample, MEASURE, self.name)
        return verdict(self.name, value >= self.min_bits, REASON, value=value, threshold=self.min_bits)
