"""Is the image among the better ones, as a learned quality score sees it?

Scores of different models, and of versions of one, have nothing in common but their order. The bound is therefore a
percentile of the score among reference faces: those of the file that the measure's `percentiles` names, with which it
gives `<score>_percentile` beside the score itself. Quality models inherit their recogniser's bias: look at the refusals
per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.errors import UserError
from pipeline.domain.percentiles import percentile_name
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict


class Options(FilterNode):
    """Which score, and from which percentile on an image is accepted."""

    use: Literal["quality-percentile"]
    score: Annotated[str, Field(min_length=1)]
    """Name of the score; its measure `<score>_percentile` is read, of `<score>@labeller` that labeller's."""
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
        name = percentile_name(self.score)
        if name not in sample.measures:
            raise UserError(self._way_to(name, sample))
        value = measured(sample, name, self.name)
        return verdict(self.name, value >= self.min_percentile, reason, value=value, threshold=self.min_percentile)

    def _way_to(self, name: str, sample: Sample) -> str:
        """Return what to do where nothing gives the percentile."""
        have = ", ".join(sorted(n for n in sample.measures if "=" not in n)) or "none"
        if self.score in sample.measures:
            lacking = f"{self.score!r} has no percentiles"
            way = "give its measure `percentiles: FILE`, made by facemint quantiles MEASURE SOURCE --out FILE"
        else:
            lacking = f"nothing here gives the score {self.score!r}"
            way = "add the measure that gives it, with `percentiles: FILE`, made by facemint quantiles"
        return f"filter {self.name!r} reads the measure {name!r}, and {lacking}; measures present: {have}; {way}"
