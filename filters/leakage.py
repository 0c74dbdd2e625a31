"""Does the image show somebody of a gallery, or copy one of its pictures? Compared 1:N with every face of them.

The flow measures how near the nearest gallery face and the nearest gallery person are, under the judge and under the
screening recogniser where there is one. Thresholds belong to the recipe's `leakage`: they come from a control.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from filters.verdict import measured, verdict
from pipeline.domain.leakage import CENTROIDS, COPY_BITS, COPY_REASON, JUDGE, REASON, SAMPLES, measure_name
from pipeline.domain.ports import FilterContext
from pipeline.domain.recipe import FilterNode
from pipeline.domain.records import Sample, Verdict


class Options(FilterNode):
    """Refuses images that come too near to the galleries of `leakage`."""

    use: Literal["leakage"]
    cos: Annotated[float, Field(gt=-1, le=1)] | None = None
    """One cosine in place of the thresholds of `leakage`."""


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Refuse an image that any comparison with the galleries flags."""

    epoch: ClassVar[int] = 1
    """Raised by hand when the verdict changes under equal numbers."""

    limits: Mapping[str, float]
    """Measure -> least refused cosine, in (-1, 1]."""
    copy_bits: float | None = None
    """Most bits in which the hash of a copy differs; None where copies are not looked for."""
    name: str = "leakage"
    judges_condition: bool = False
    judges_siblings: bool = False
    judges_cell: bool = False
    reasons: tuple[str, ...] = (REASON, COPY_REASON)

    @classmethod
    def build(cls, options: Options, context: FilterContext) -> Leakage:
        """Return the filter with the thresholds of the galleries that the recipe screens against."""
        limits = {k: v for k, v in sorted(context.gallery_limits.items()) if k != COPY_BITS}
        # without galleries nobody gives this measure, and asking for it says so
        limits = limits or {measure_name(side, JUDGE): 1.0 for side in (SAMPLES, CENTROIDS)}
        if options.cos is not None:
            limits = dict.fromkeys(limits, options.cos)
        return cls(limits=limits, copy_bits=context.gallery_limits.get(COPY_BITS))

    def judge(self, sample: Sample) -> Verdict:
        """Return whether every cosine stays below its threshold, and the picture is no copy.

        The verdict's numbers are those of the comparison that comes nearest to its threshold, or lies furthest beyond.
        """
        found = {k: measured(sample, k, self.name) for k in self.limits}
        worst = max(self.limits, key=lambda k: _beyond(found[k], self.limits[k]))
        value, limit = found[worst], self.limits[worst]
        if value < limit and self.copy_bits is not None:
            bits = measured(sample, COPY_BITS, self.name)
            if not bits > self.copy_bits:
                return verdict(self.name, False, COPY_REASON, value=bits, threshold=self.copy_bits)
        return verdict(self.name, value < limit, REASON, value=value, threshold=limit)


def _beyond(value: float, limit: float) -> float:
    """Return how far a value lies beyond its limit; NaN lies furthest."""
    return math.inf if math.isnan(value) else value - limit
