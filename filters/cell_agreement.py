"""Does the image still look like its identity's cell? What it is counted as is what it should show.

An identity is put into a cell by its probe images; a later image of it may drift to another one, and would then be
counted as what it does not show. The number is the probability that the attribute model gives, on this image, to the
value that the identity is enrolled with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

MEASURE = "own_cell_probability"
REASON = "disagrees_with_own_cell"


class Options(FilterNode):
    """The least probability of the identity's own cell."""

    use: Literal["cell-agreement"]
    min: Annotated[float, Field(gt=0, lt=1)]
    """Least probability of the enrolled value; 0.5 asks that it is likelier than all others together."""
    field: Annotated[str, Field(min_length=1)] | None = None
    """One of `balance.by`; by default every one of them must reach the probability."""


@dataclass(frozen=True, kw_only=True)
class CellAgreement:
    """Refuse an image that does not look like the cell that its identity is enrolled in."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    min_probability: float
    """Least accepted probability, in (0, 1)."""
    field: str | None = None
    """The field that is read; None for the least probability over all of `balance.by`."""
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = True
    """Asks the flow for `own_cell_probability` and `own_cell_probability:<field>`, which other runs do without."""

    @property
    def name(self) -> str:
        """Return the filter's name, one per field: `cell-agreement:perceived_gender_presentation`."""
        return "cell-agreement" if self.field is None else f"cell-agreement:{self.field}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return every reason that it can give."""
        return (REASON if self.field is None else f"{REASON}_{self.field}",)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> CellAgreement:
        """Return the filter; the cell comes with the sample."""
        return cls(min_probability=options.min, field=options.field)

    def judge(self, sample: Sample) -> Verdict:
        """Return whether the probability of the own cell reaches the threshold."""
        (reason,) = self.reasons
        value = measured(sample, MEASURE if self.field is None else f"{MEASURE}:{self.field}", self.name)
        return verdict(self.name, value >= self.min_probability, reason, value=value, threshold=self.min_probability)
