"""Does the image keep its identity's images as much, and as little, alike as was asked?

A target and not only a floor: sets whose images of a person are all alike verify almost perfectly and train worse
(IDiff-Face: mean genuine cosine 0.45, EER 1.7 %; CemiFace, which trains better: 0.30, 7.3 %; figures of "Beyond Real
Faces", arXiv 2510.17372). The number is the mean cosine over all pairs of an identity's images,
with this one and without it. An image that leads towards the target passes however far the mean still is, so a set
that began on one side can come back.

An identity whose generator cannot give the spread asked for would use its attempts up. As the target is something
asked, missing it alone deletes no person: a slot whose attempts run out takes its first image that missed nothing else,
marked off-target. `strict: true` refuses instead, and an identity that starves is replaced by a reserve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict

COUNT, AFTER, BEFORE = "siblings", "sibling_mean_cos", "sibling_mean_cos_before"
ALIKE, UNLIKE = "siblings_too_alike", "siblings_too_unlike"


class Options(FilterNode):
    """The mean similarity that an identity's images shall have, and how far it may lie from that."""

    use: Literal["sibling-spread"]
    mean_cos: Annotated[float, Field(gt=-1, lt=1)]
    """Target of the mean cosine over all pairs of an identity's images, in the judge's space."""
    tolerance: Annotated[float, Field(gt=0, le=2)]
    """How far the mean may lie from the target, on either side, before images that lead further away are refused."""
    least: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Siblings that an image must have before it is judged: a mean over few pairs says little."""
    strict: bool = False
    """Refuse even where a slot's attempts run out, instead of taking an image that missed this alone as off-target."""


@dataclass(frozen=True, kw_only=True)
class SiblingSpread:
    """Refuse an image that takes the mean out of its band and further from the target than it is without it."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    mean_cos: float
    """The target, in (-1, 1)."""
    tolerance: float
    """Half the width of the band around the target; its edges are inside."""
    least: int = 2
    """Siblings from which on it judges; with fewer an image passes, its mean as the value (-1 without a pair)."""
    judges_condition: bool = True
    name: str = "sibling-spread"
    judges_siblings: bool = True
    judges_cell: bool = False
    reasons: tuple[str, ...] = (ALIKE, UNLIKE)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> SiblingSpread:
        """Return the filter; a spread has nothing to do with who is enrolled."""
        return cls(
            mean_cos=options.mean_cos,
            tolerance=options.tolerance,
            least=options.least,
            judges_condition=not options.strict,
        )

    def judge(self, sample: Sample) -> Verdict:
        """Return whether the mean stays in its band or comes nearer; the threshold is the edge on its side."""
        siblings, after, before = (measured(sample, name, self.name) for name in (COUNT, AFTER, BEFORE))
        alike = after > self.mean_cos
        edge = self.mean_cos + (self.tolerance if alike else -self.tolerance)
        inside = after <= edge if alike else after >= edge
        # one sibling makes no pair, so there is no mean that the image could bring nearer
        nearer = siblings >= 2 and abs(after - self.mean_cos) <= abs(before - self.mean_cos)
        known = not any(map(math.isnan, (siblings, after, before)))
        passed = known and (siblings < self.least or inside or nearer)
        return verdict(self.name, passed, ALIKE if alike else UNLIKE, value=after, threshold=edge)
