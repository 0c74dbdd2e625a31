"""Is the face large enough? By the distance between the eyes, which a tight or a loose crop does not change.

An aligned crop of 112 pixels has 35 between the eyes, whatever it was cut from: where the picture was larger before,
the measure must come from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "inter_eye_px"
REASON = "face_too_small"


class Options(FilterNode):
    """The least distance between the eyes."""

    use: Literal["face-size"]
    min_px: Annotated[float, Field(gt=0, le=100_000)]
    """Least distance between the centres of the eyes, in pixels, corrected for yaw where the measure is."""


@dataclass(frozen=True, kw_only=True)
class FaceSize:
    """Refuse a face that is too small."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    min_px: float
    """Least accepted `inter_eye_px`."""
    name: str = "face-size"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> FaceSize:
        """Return the filter; a size has nothing to do with who is enrolled."""
        return cls(min_px=options.min_px)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether `inter_eye_px` reaches the threshold."""
        value = measured(sample, MEASURE, self.name)
        return verdict(self.name, value >= self.min_px, REASON, value=value, threshold=self.min_px)
