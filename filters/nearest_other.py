"""Does the image show somebody else of this dataset? Compared 1:N with every other enrolled identity.

The threshold is a false positive identification rate: the share of images that would look like one of N strangers.
It is a measured quantile of the largest of N cosines; a pairwise threshold would be passed by chance for large N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "nearest_other_cos"
REASON = "too_close_to_other_identity"


class Options(FilterNode):
    """The similarity to another identity that is too much, as an FPIR or as a raw cosine."""

    use: Literal["nearest-other"]
    fpir: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of images that are refused although they look like nobody else."""
    cos: Annotated[float, Field(gt=-1, le=1)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Options:
        if (self.fpir is None) == (self.cos is None):
            raise ValueError("give exactly one of `fpir` and `cos`")
        return self


@dataclass(frozen=True, kw_only=True)
class NearestOther:
    """Refuse an image that is too near to the template of another identity."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    threshold_cos: float
    """Least refused cosine, in (-1, 1]."""
    calibrated_identities: int | None = None
    """The N for which the threshold was measured; None where it was given as a cosine."""
    name: str = "nearest-other"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> NearestOther:
        """Return the filter, its FPIR turned into a cosine for one image against `enrolled` templates.

        Enrolment may end with more than were planned, and what it cost is not thrown away for it: the largest number
        of identities for which the rate is calibrated serves then, and `calibrated_identities` says which.

        Raises:
            CalibrationError: the rate is calibrated for no number of identities, or not for as many as are planned.
        """
        if options.cos is not None:
            return cls(threshold_cos=options.cos)
        assert options.fpir is not None  # by _exactly_one
        kind = context.calibration.kind(probe_images=1, reference_images=context.template_images)
        cos, calibrated = context.calibration.one_to_many_cos(
            options.fpir, context.enrolled, kind, or_fewer=not context.planned
        )
        return cls(threshold_cos=cos, calibrated_identities=calibrated)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `nearest_other_cos` stays below the threshold."""
        value = measured(sample, MEASURE, self.name)
        return verdict(self.name, value < self.threshold_cos, REASON, value=value, threshold=self.threshold_cos)
