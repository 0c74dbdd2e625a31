"""Could the face be a minor's? A named policy over an estimate of apparent age; refuse is the default.

The estimate is of appearance, and errs by years: a policy's age may lie above the legal one to make up for that, as
shops do that ask everybody who looks younger than 25. What is read is either the probabilities of age bands, named
`field=band` ("10-19", "more than 70"), or an estimate in years with a margin.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from filters.verdict import estimated, measured, verdict
from pipeline.domain.errors import UserError
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

REASON = "apparent_minor"
POLICIES = {"refuse-below-18": 18, "refuse-below-21": 21, "refuse-below-25": 25}
"""Policy -> apparent age in years from which on a face is accepted."""
BAND = re.compile(r"(?:(?P<open>under|below|less than|<)\s*)?(?:(?:more than|over|>)\s*)?(?P<first>\d+)(?!\d).*")


class Options(FilterNode):
    """The policy, and which estimate of apparent age it reads."""

    use: Literal["apparent-minor"]
    policy: Literal["refuse-below-18", "refuse-below-21", "refuse-below-25"] = "refuse-below-18"
    """Faces that look younger are refused."""
    age_group: Annotated[str, Field(min_length=1)] | None = None
    """Field of age bands: `apparent_age_group`. A band counts as below the policy's age where it begins below it."""
    max_probability: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """With `age_group`: least refused probability of all bands below the policy's age together."""
    minors: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """With `age_group`: the bands that count as below, where their names do not begin with an age."""
    years: Annotated[str, Field(min_length=1)] | None = None
    """Measure of apparent age in years: `apparent_age_years`, or the lower end of its interval."""
    margin_years: Annotated[float, Field(ge=0, le=50)] = 0.0
    """With `years`: taken from the estimate before it is compared, for what it errs by."""

    @model_validator(mode="after")
    def _one_form(self) -> Options:
        if (self.age_group is None) == (self.years is None):
            raise ValueError("give exactly one of `age_group` and `years`")
        mine = {"margin_years"} if self.age_group else {"max_probability", "minors"}
        # a recipe that was read from a dataset states every option
        given = {name for name in mine if getattr(self, name) != type(self).model_fields[name].default}
        if strays := sorted(given):
            raise ValueError(f"{', '.join(strays)} goes with the other of `age_group` and `years`")
        return self


@dataclass(frozen=True, kw_only=True)
class ApparentMinor:
    """Refuse a face that may be a minor's."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    age_years: float
    """Apparent age from which on a face is accepted."""
    age_group: str | None = None
    """Field of age bands; None where an estimate in years is read."""
    max_probability: float = 0.2
    """Least refused probability of the bands that begin below `age_years`."""
    minors: tuple[str, ...] = ()
    """Bands that count as below; empty where their names tell."""
    years: str | None = None
    """Measure in years; None where bands are read."""
    margin_years: float = 0.0
    """Taken from the estimate in years."""
    name: str = "apparent-minor"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON,)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> ApparentMinor:
        """Return the filter; age has nothing to do with who is enrolled."""
        return cls(
            age_years=POLICIES[options.policy],
            age_group=options.age_group,
            max_probability=options.max_probability,
            minors=options.minors,
            years=options.years,
            margin_years=options.margin_years,
        )

    def judge(self, sample: Sample) -> Verdict:
        """Return whether the face looks old enough; the value is a probability of bands, or an age less its margin."""
        if self.years is not None:
            value = measured(sample, self.years, self.name) - self.margin_years
            return verdict(self.name, value >= self.age_years, REASON, value=value, threshold=self.age_years)
        value = self._below(sample)
        return verdict(self.name, value < self.max_probability, REASON, value=value, threshold=self.max_probability)

    def _below(self, sample: Sample) -> float:
        """Return the probability of the bands that count as below the policy's age; NaN where any of them is."""
        assert self.age_group is not None  # one of the two is there
        bands = estimated(sample, self.age_group, self.name)
        if unknown := [band for band in self.minors if band not in bands]:
            raise UserError(
                f"filter {self.name!r}: minors: {', '.join(unknown)} is no value of {self.age_group!r}; "
                f"its values: {', '.join(sorted(bands))}"
            )
        below = self.minors or tuple(b for b in bands if begins_years(self.age_group, b) < self.age_years)
        return math.fsum(bands[b] for b in sorted(below))


@functools.lru_cache(maxsize=1024)
def begins_years(field: str, band: str) -> int:
    """Return the age at which a band begins: 10 of `10-19`, 70 of `70+`, 0 of `under 18`.

    Raises:
        UserError: its name does not begin with an age.
    """
    read = BAND.fullmatch(band.strip().lower())
    if read is None:
        raise UserError(
            f"filter 'apparent-minor': {field}={band}: no age is read from {band!r}, as from '10-19', '70+' or "
            "'under 18'; list the values that count as minors in `minors`"
        )
    return 0 if read["open"] else int(read["first"])
