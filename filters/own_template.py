"""Does the image still show its person? Compared with the identity's own template, in the judge's space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "own_template_cos"
REASON = "own_template_too_far"


class Options(FilterNode):
    """The least similarity to the own template, as a false match rate or as a raw cosine."""

    use: Literal["own-template"]
    fmr: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of strangers that would pass."""
    cos: Annotated[float, Field(gt=-1, le=1)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Options:
        if (self.fmr is None) == (self.cos is None):
            raise ValueError("give exactly one of `fmr` and `cos`")
        return self


@dataclass(frozen=True, kw_only=True)
class OwnTemplate:
    """Refuse an image that is too far from its identity's template."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    threshold_cos: float
    """Least accepted cosine, in (-1, 1]."""
    name: str = "own-template"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> OwnTemplate:
        """Return the filter, its FMR turned into a cosine for one image against a template of `template_images`."""
        if options.cos is not None:
            return cls(threshold_cos=options.cos)
        assert options.fmr is not None  # by _exactly_one
        kind = context.calibration.kind(probe_images=1, reference_images=context.template_images)
        return cls(threshold_cos=context.calibration.threshold_cos(options.fmr, kind))

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `own_template_cos` reaches the threshold."""
        value = measured(sample, MEASURE, self.name)
        return verdict(self.name, value >= self.threshold_cos, REASON, value=value, threshold=self.threshold_cos)
