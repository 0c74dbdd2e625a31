"""Is the image among the better ones, as a learned quality score sees it?

Scores of different models, and of versions of one, have nothing in common but their order. The bound is therefore a
percentile of the score among faces that the model's measurer was given as reference; it gives `<score>_percentile`
beside the score itself. Quality models inherit their recogniser's bias: look at the refusals per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict


class Options(FilterNode):
    """Which score, and from which percentile on an image is accepted."""

    use: Literal["quality-percentile"]
    score: Annotated[str, Field(min_length=1)]
    """Name of the score; its measure `<score>_percentile` is read."""
    min: Annotated[float, Field(gt=0, lt=100)]
    """Least accepted percentile, 0..100."""


@dataclass(frozen=True, kw_only=True)
class QualityPercentile:
    """Refuse an image whose quality score lies too low among the reference faces of its model."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    score: str
    min_percentile: float
    """Least accepted percentile, 0..100."""
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False

    @property
    def name(self) -> str:
        """Return the filter's name, one per score: `quality-percentile:ediffiqa`."""
        return f"quality-percentile:{self.score}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return every reason that it can give."""
        return (f"{self.score}_percentile_too_low",)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> QualityPercentile:
        """Return the filter; quality has nothing to do with who is enrolled."""
        return cls(score=options.score, min_percentile=options.min)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `<score>_percentile` reaches the threshold."""
        (reason,) = self.reasons
        value = measured(sample, f"{self.score}_percentile", self.name)
        return verdict(self.name, value >= self.min_percentile, reason, value=value, threshold=self.min_percentile)
