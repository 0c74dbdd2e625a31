"""What is asked of each image: condition distributions, stratified over an identity's slots at any number of slots.

Slot k takes point k of a Sobol sequence, one axis per condition, shifted digitally (XOR) by the identity's own key.
The first 2**m slots then have one value in each of 2**m equal shares of every condition's distribution, and
an identity that later grows from 4 to 40 slots keeps the conditions of its first 4.

Direction numbers: Joe and Kuo 2008, "Constructing Sobol sequences with better two-dimensional projections".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.domain.rng import Key, Stream

Share = Annotated[float, Field(ge=0)]


class Distribution(BaseModel):
    """A distribution of one condition, by its quantile function."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def quantile(self, u: float) -> float:
        """Return the value below which a share u in (0, 1) of the target lies.

        A mixture returns another arrangement of the same law: its parts one after the other.
        """
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest value that it can ask for."""
        raise NotImplementedError


class Constant(Distribution):
    """The same value for every image."""

    use: Literal["constant"]
    value: float

    def quantile(self, u: float) -> float:
        """Return the value whatever u."""
        return self.value

    def bounds(self) -> tuple[float, float]:
        """Return the value twice."""
        return self.value, self.value


class Uniform(Distribution):
    """Evenly between `low` and `high`."""

    use: Literal["uniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self

    def quantile(self, u: float) -> float:
        """Return the point a share u of the way from low to high."""
        return self.low + u * (self.high - self.low)

    def bounds(self) -> tuple[float, float]:
        """Return low and high."""
        return self.low, self.high


class Normal(Distribution):
    """Normal around `mean`, truncated to [low, high]."""

    use: Literal["normal"]
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Normal:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if not (self.mean - 6 * self.std < self.high and self.low < self.mean + 6 * self.std):
            raise ValueError(f"[{self.low:g}, {self.high:g}] lies over six std from mean {self.mean:g}")
        return self

    def quantile(self, u: float) -> float:
        """Return the quantile of the truncated normal."""
        normal = NormalDist(self.mean, self.std)
        low, high = normal.cdf(self.low), normal.cdf(self.high)
        p = min(max(low + u * (high - low), 1e-12), 1 - 1e-12)
        return min(max(normal.inv_cdf(p), self.low), self.high)

    def bounds(self) -> tuple[float, float]:
        """Return where it is cut."""
        return self.low, self.high


class Choice(Distribution):
    """One of `values`, in the given shares (equal by default)."""

    use: Literal["choice"]
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    shares: tuple[Share, ...] | None = None

    @model_validator(mode="after")
    def _matching(self) -> Choice:
        if self.shares is not None:
            if len(self.shares) != len(self.values):
                raise ValueError(f"{len(self.shares)} shares for {len(self.values)} values")
            _require_whole(self.shares)
        return self

    def quantile(self, u: float) -> float:
        """Return the value whose share of [0, 1] holds u."""
        shares = self.shares or tuple(1 / len(self.values) for _ in self.values)
        position = int(np.searchsorted(np.cumsum(shares), u, side="right"))
        return self.values[min(position, len(self.values) - 1)]

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest value that has a share."""
        shares = self.shares or (1.0,) * len(self.values)
        held = [value for value, share in zip(self.values, shares, strict=True) if share > 0]
        return min(held), max(held)


class Histogram(Distribution):
    """Bins between rising `edges`, each in its share and even within: how a pose plan is usually written down."""

    use: Literal["histogram"]
    edges: Annotated[tuple[float, ...], Field(min_length=2)]
    shares: Annotated[tuple[Share, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _matching(self) -> Histogram:
        if len(self.shares) != len(self.edges) - 1:
            raise ValueError(
                f"{len(self.shares)} shares for {len(self.edges) - 1} bins between {len(self.edges)} edges"
            )
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError(f"edges {', '.join(f'{e:g}' for e in self.edges)} must rise")
        _require_whole(self.shares)
        return self

    def quantile(self, u: float) -> float:
        """Return the point of the cumulative histogram at height u."""
        tops = np.cumsum(self.shares)
        # an empty bin has no height, so nothing falls into it
        n = min(int(np.searchsorted(tops, u * tops[-1], side="right")), int(np.flatnonzero(self.shares)[-1]))
        within = (u * tops[-1] - (tops[n] - self.shares[n])) / self.shares[n]
        return self.edges[n] + min(max(float(within), 0.0), 1.0) * (self.edges[n + 1] - self.edges[n])

    def bounds(self) -> tuple[float, float]:
        """Return the outer edges of the bins that hold a share."""
        held = np.flatnonzero(self.shares)
        return self.edges[int(held[0])], self.edges[int(held[-1]) + 1]


class Empirical(Distribution):
    """What was measured elsewhere, as evenly spaced quantiles from minimum to maximum; straight lines between."""

    use: Literal["empirical"]
    quantiles: Annotated[tuple[float, ...], Field(min_length=2, max_length=1001)]

    @model_validator(mode="after")
    def _rising(self) -> Empirical:
        for low, high in pairwise(self.quantiles):
            if low > high:
                raise ValueError(f"quantile {high:g} comes after {low:g}; quantiles never fall")
        return self

    def quantile(self, u: float) -> float:
        """Return the point a share u of the way along the quantiles."""
        place = u * (len(self.quantiles) - 1)
        n = min(int(place), len(self.quantiles) - 2)
        return self.quantiles[n] + (place - n) * (self.quantiles[n + 1] - self.quantiles[n])

    def bounds(self) -> tuple[float, float]:
        """Return the minimum and the maximum."""
        return self.quantiles[0], self.quantiles[-1]


SimpleDistribution = Annotated[Constant | Uniform | Normal | Choice | Histogram | Empirical, Field(discriminator="use")]


class MixturePart(BaseModel):
    """One of a mixture's distributions, and the share of images that take it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: Annotated[float, Field(gt=0, le=1)]
    of: SimpleDistribution


class Mixture(Distribution):
    """Some images by one distribution, some by another: mostly frontal faces, and one in five turned far."""

    use: Literal["mixture"]
    parts: Annotated[tuple[MixturePart, ...], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _whole(self) -> Mixture:
        _require_whole([part.share for part in self.parts])
        return self

    def quantile(self, u: float) -> float:
        """Return the value of the part whose share of [0, 1] holds u, at the place that u has within it.

        Each part is stratified in itself, and the parts among each other.
        """
        tops = np.cumsum([part.share for part in self.parts])
        n = min(int(np.searchsorted(tops, u * tops[-1], side="right")), len(self.parts) - 1)
        part = self.parts[n]
        within = (u * tops[-1] - (tops[n] - part.share)) / part.share
        return part.of.quantile(min(max(float(within), 1e-12), 1 - 1e-12))

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest value of any part."""
        every = [part.of.bounds() for part in self.parts]
        return min(low for low, _ in every), max(high for _, high in every)


AnyDistribution = Annotated[
    Constant | Uniform | Normal | Choice | Histogram | Empirical | Mixture, Field(discriminator="use")
]


def _require_whole(shares: Sequence[float]) -> None:
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares add up to {sum(shares):g}; they must add up to 1")


# (degree, coefficients, initial direction numbers) of axes 2 and up; axis 1 is the van der Corput sequence
_JOE_KUO = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
    (5, 4, (1, 1, 5, 5, 5)),
    (5, 7, (1, 1, 7, 11, 19)),
    (5, 11, (1, 1, 5, 1, 1)),
    (5, 13, (1, 1, 1, 3, 11)),
    (5, 14, (1, 3, 5, 5, 31)),
)
MAX_CONDITIONS = len(_JOE_KUO) + 1
_BITS = 32


@cache
def _directions(axis: int) -> tuple[int, ...]:
    """Return the 32 direction numbers of an axis, as 32-bit integers."""
    if axis == 0:
        return tuple(1 << (_BITS - 1 - i) for i in range(_BITS))
    degree, coefficients, initial = _JOE_KUO[axis - 1]
    v = [m << (_BITS - 1 - i) for i, m in enumerate(initial)]
    for i in range(degree, _BITS):
        new = v[i - degree] ^ (v[i - degree] >> degree)
        for k in range(1, degree):
            if (coefficients >> (degree - 1 - k)) & 1:
                new ^= v[i - k]
        v.append(new)
    return tuple(v)


def sobol(axis: int, point: int) -> int:
    """Return coordinate `axis` of point `point` of the Sobol sequence, in Gray code order, as a 32-bit integer."""
    gray = point ^ (point >> 1)
    out = 0
    for bit, direction in enumerate(_directions(axis)):
        if (gray >> bit) & 1:
            out ^= direction
    return out


def slot_conditions(
    target: Mapping[str, Distribution], run_seed: int, stream: Stream, identity: int, slot: int
) -> dict[str, float]:
    """Return the conditions of one slot of one identity; retries of a slot keep them.

    Raises:
        ValueError: more than MAX_CONDITIONS conditions.
    """
    names = sorted(target)
    if len(names) > MAX_CONDITIONS:
        raise ValueError(f"{len(names)} conditions; at most {MAX_CONDITIONS} can be stratified together")
    shifts = Key(run_seed, stream, identity).generator().integers(0, 2**_BITS, len(names), dtype=np.uint32)
    out = {}
    for axis, name in enumerate(names):
        # the middle of the smallest interval, so that u is never 0 or 1
        u = ((sobol(axis, slot) ^ int(shifts[axis])) + 0.5) / 2.0**_BITS
        out[name] = float(target[name].quantile(u))
    return out
