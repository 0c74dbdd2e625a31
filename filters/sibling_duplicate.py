"""Is the image nearly one that its identity has already? Siblings teach a recogniser nothing twice.

An image is compared with its siblings in the order in which they were made, so of two copies the later is refused.
The bound is a cosine and no rate: how often two good images of one person come so near is a figure of the generator,
which `mode: observe` shows on a first run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "nearest_sibling_cos"
REASON = "near_duplicate_of_sibling"


class Options(FilterNode):
    """The similarity to another image of the same identity that is too much."""

    use: Literal["sibling-duplicate"]
    max_cos: Annotated[float, Field(gt=0, le=1)]
    """Least refused cosine to the nearest sibling, in the judge's space; 0.95 is usual for ArcFace-like judges."""


@dataclass(frozen=True, kw_only=True)
class SiblingDuplicate:
    """Refuse an image that is nearly a copy of a sibling; one that has none passes, at a cosine of -1."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    max_cos: float
    """Least refused cosine, in (0, 1]."""
    name: str = "sibling-duplicate"
    judges_condition: bool = False
    judges_siblings: bool = True
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> SiblingDuplicate:
        """Return the filter; a duplicate has nothing to do with who is enrolled."""
        return cls(max_cos=options.max_cos)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `nearest_sibling_cos` stays below the bound."""
        value = measured(sample, MEASURE, self.name)
        return verdict(self.name, value < self.max_cos, REASON, value=value, threshold=self.max_cos)
