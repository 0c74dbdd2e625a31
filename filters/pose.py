"""Is the head turned further than the dataset wants it? Whatever was asked: `condition` compares with that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from filters.verdict import Bound, bounded, measured
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

YAW, PITCH, ROLL = "yaw_deg", "pitch_deg", "roll_deg"
Angle_deg = Annotated[float, Field(gt=0, le=180)]


class Options(FilterNode):
    """The largest angles to either side; each may be left out, one must be there."""

    use: Literal["pose"]
    max_yaw_deg: Angle_deg | None = None
    """Largest turn to the left or the right."""
    max_pitch_deg: Angle_deg | None = None
    """Largest nod up or down."""
    max_roll_deg: Angle_deg | None = None
    """Largest tilt towards a shoulder."""

    @model_validator(mode="after")
    def _one_at_least(self) -> Options:
        if all(limit is None for limit in (self.max_yaw_deg, self.max_pitch_deg, self.max_roll_deg)):
            raise ValueError("give at least one of `max_yaw_deg`, `max_pitch_deg` and `max_roll_deg`")
        return self


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Refuse a head that is turned, nods or is tilted too far; angles are looked at in this order."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    max_yaw_deg: float | None = None
    """Largest accepted |yaw_deg|; None where there is none, as with the others."""
    max_pitch_deg: float | None = None
    """Largest accepted |pitch_deg|."""
    max_roll_deg: float | None = None
    """Largest accepted |roll_deg|."""
    name: str = "pose"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = ("yaw_too_large", "pitch_too_large", "roll_too_large")

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> Pose:
        """Return the filter; a pose has nothing to do with who is enrolled."""
        return cls(
            max_yaw_deg=options.max_yaw_deg, max_pitch_deg=options.max_pitch_deg, max_roll_deg=options.max_roll_deg
        )

    def judge(self, sample: Sample) -> Verdict:
        """Return whether no angle is too large; the value is an angle without its sign."""
        largest = (self.max_yaw_deg, self.max_pitch_deg, self.max_roll_deg)
        return bounded(
            self.name,
            [
                Bound(abs(measured(sample, measure, self.name)), limit, least=False, reason=reason)
                for measure, limit, reason in zip((YAW, PITCH, ROLL), largest, self.reasons, strict=True)
                if limit is not None
            ],
        )
