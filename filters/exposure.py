"""Is the face lit so that it can be seen? Mean luminance, and how much of the face is burnt out or black.

The measures are those of ISO/IEC 29794-5 as OFIQ computes them: luminance on linearised sRGB, as a share of white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from filters.verdict import Bound, bounded, measured
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEAN, OVER, UNDER = "luminance_mean", "over_exposed_share", "under_exposed_share"
DARK, BRIGHT, BURNT, BLACK = "too_dark", "too_bright", "over_exposed", "under_exposed"
Share = Annotated[float, Field(ge=0, le=1)]


class Options(FilterNode):
    """Which luminance is accepted; each bound may be left out, one must be there."""

    use: Literal["exposure"]
    min_mean: Share | None = None
    """Least mean luminance of the face, 0 black to 1 white. Dark skin is darker: look at the refusals per cell."""
    max_mean: Share | None = None
    """Largest mean luminance of the face."""
    max_over: Share | None = None
    """Largest share of the face that is burnt out."""
    max_under: Share | None = None
    """Largest share of the face that is black."""

    @model_validator(mode="after")
    def _ordered(self) -> Options:
        if all(b is None for b in (self.min_mean, self.max_mean, self.max_over, self.max_under)):
            raise ValueError("give at least one of `min_mean`, `max_mean`, `max_over` and `max_under`")
        if self.min_mean is not None and self.max_mean is not None and self.min_mean > self.max_mean:
            raise ValueError(f"min_mean {self.min_mean:g} must not be above max_mean {self.max_mean:g}")
        return self


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Refuse a face that is too dark, too bright, burnt out or black; bounds are looked at in this order."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    min_mean: float | None = None
    """Least accepted `luminance_mean`, 0..1; None where there is none, as with the others."""
    max_mean: float | None = None
    """Largest accepted `luminance_mean`, 0..1."""
    max_over: float | None = None
    """Largest accepted `over_exposed_share`, 0..1."""
    max_under: float | None = None
    """Largest accepted `under_exposed_share`, 0..1."""
    name: str = "exposure"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (DARK, BRIGHT, BURNT, BLACK)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> Exposure:
        """Return the filter; light has nothing to do with who is enrolled."""
        return cls(
            min_mean=options.min_mean,
            max_mean=options.max_mean,
            max_over=options.max_over,
            max_under=options.max_under,
        )

    def judge(self, sample: Sample) -> Verdict:
        """Return whether every bound that is set is kept."""
        asked = (
            (MEAN, self.min_mean, True, DARK),
            (MEAN, self.max_mean, False, BRIGHT),
            (OVER, self.max_over, False, BURNT),
            (UNDER, self.max_under, False, BLACK),
        )
        return bounded(
            self.name,
            [
                Bound(measured(sample, measure, self.name), threshold, least, reason)
                for measure, threshold, least, reason in asked
                if threshold is not None
            ],
        )
