"""How many identities can be kept apart: told from a sample of candidates, before anything is spent.

The sample is separated as a run would separate it. That gives, candidate by candidate, how many had been kept and
whether the next was: yield falls as what is kept fills the space. The fall is fitted by

    yield(K) = (1 + b K) ** (-p / b)

with p the chance that two candidates collide. With b > 0 it is the mean of exp(-q K) over candidates whose own chance q
to collide is Gamma-distributed around p (some parts of a population are crowded); with b = 0 all are alike; with b < 0
it reaches 0 at K = -1 / b, as a packing does. As dK/dn = yield(K), the number kept of n candidates has a closed form.
p and b are not estimated by one value each: every pair of a grid counts by its likelihood, so that the interval says
how little a sample without collisions tells about a hundred times as many candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import BlockProduct, Float64
from pipeline.domain.records import Float32
from pipeline.domain.separation import separate

STEPS = 400
"""Stretches of the sample within which the number kept counts as one."""
LOW, HIGH = 0.05, 0.95
"""The quantiles between which an interval lies."""
SPREAD = 1.645
"""Standard deviations from the middle to those quantiles."""
RATES = 160
BENDS = np.concatenate([np.linspace(-0.95, -0.05, 19), [1e-6], np.geomspace(0.05, 1000, 60)])
"""b / p: below 0 a packing, at 0 all alike, above it the more unequal the larger."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A number that is expected, and the 90 % interval around it; infinite where there is no such number."""

    number: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Feasibility:
    """What a sample tells of a population of candidates at one threshold.

    Attributes:
        sample: how many candidates it rests on.
        sample_kept: how many of these were kept.
        rate_G: float64, per grid point, the chance p that two candidates collide.
        bend_G: float64, per grid point, b.
        weight_G: float64, how likely the grid point makes the sample; they sum to 1.
    """

    sample: int
    sample_kept: int
    rate_G: Float64
    bend_G: Float64
    weight_G: Float64

    @classmethod
    def of(cls, sample_SE: Float32, threshold_cos: float, product: BlockProduct | None = None) -> Feasibility:
        """Return what a sample of candidates tells, drawn as those of the run will be; float32 unit rows.

        Raises:
            ValueError: fewer than two candidates: nothing can collide.
            BadVectorError: a row is NaN, infinite or not of unit length.
        """
        if len(sample_SE) < 2:
            raise ValueError(f"a sample of {len(sample_SE)} candidates tells nothing; give at least 2")
        kept_S = separate(sample_SE, threshold_cos, product=product).kept_N
        pairs = len(kept_S) * (len(kept_S) - 1) / 2
        rate, bend = np.meshgrid(np.geomspace(0.05 / pairs, 1.0, RATES), BENDS)
        rate_G = rate.reshape(-1)
        bend_G = (rate * bend).reshape(-1)
        weight_G = _likelihood(kept_S, rate_G, bend_G)
        some = weight_G > 1e-9 * weight_G.max()
        return cls(
            sample=len(kept_S),
            sample_kept=int(kept_S.sum()),
            rate_G=rate_G[some],
            bend_G=bend_G[some],
            weight_G=weight_G[some] / weight_G[some].sum(),
        )

    def kept(self, candidates: int, before: int = 0) -> Expected:
        """Return how many of so many candidates are kept, apart from each other and from `before` kept already."""
        with np.errstate(over="ignore", invalid="ignore"):
            started_G = _candidates(float(before), self.rate_G, self.bend_G)
            kept_G = np.where(
                np.isfinite(started_G), _kept(started_G + candidates, self.rate_G, self.bend_G) - before, 0.0
            )
        middle, low, high = _quantiles(kept_G, self.weight_G)
        # what is kept is a count: it scatters, though the curve were known
        scatter = [SPREAD * float(np.sqrt(max(0.0, k * (1 - k / max(1, candidates))))) for k in (low, high)]
        return Expected(middle, max(0.0, low - scatter[0]), min(float(candidates), high + scatter[1]))

    def candidates(self, wanted: int, before: int = 0) -> Expected:
        """Return how many candidates it takes to keep `wanted` beside `before`; infinite where they do not fit."""
        with np.errstate(over="ignore", invalid="ignore"):
            need_G = _candidates(float(before + wanted), self.rate_G, self.bend_G)
            need_G = np.where(
                np.isfinite(need_G), need_G - _candidates(float(before), self.rate_G, self.bend_G), np.inf
            )
        return Expected(*_quantiles(need_G, self.weight_G))


def _log_yield(kept: float | Float64, rate: Float64, bend: Float64) -> Float64:
    room = 1.0 + bend * kept
    with np.errstate(divide="ignore", invalid="ignore"):
        out: Float64 = np.where(room > 0, -rate / bend * np.log(np.maximum(room, 1e-300)), -np.inf)
    return out


def _likelihood(kept_S: npt.NDArray[np.bool_], rate_G: Float64, bend_G: Float64) -> Float64:
    """Return how likely each grid point makes what happened to the sample, the most likely being 1."""
    before_S: npt.NDArray[np.int64] = np.cumsum(kept_S) - kept_S.astype(np.int64)
    total_G = np.zeros(len(rate_G))
    for part in np.array_split(np.arange(1, len(kept_S)), min(STEPS, len(kept_S) - 1)):
        stays = int(kept_S[part].sum())
        log_yield = _log_yield(float(before_S[part].mean()), rate_G, bend_G)
        total_G += stays * log_yield if stays else 0.0
        if stays < len(part):
            with np.errstate(divide="ignore"):
                total_G += (len(part) - stays) * np.log(-np.expm1(log_yield))
    out: Float64 = np.exp(total_G - total_G.max())
    return out


def _kept(candidates_G: Float64, rate_G: Float64, bend_G: Float64) -> Float64:
    """Return K after n candidates: the solution of dK/dn = yield(K) with K = 0 at n = 0."""
    both = rate_G + bend_G
    out: Float64 = np.expm1(bend_G / both * np.log1p(both * candidates_G)) / bend_G
    return out


def _candidates(kept: float, rate_G: Float64, bend_G: Float64) -> Float64:
    """Return n at which K is reached, the inverse of `_kept`; infinite from the packing's limit on."""
    both = rate_G + bend_G
    room = 1.0 + bend_G * kept
    out: Float64 = np.where(
        room > 0, np.expm1(both / bend_G * np.log(np.maximum(room, 1e-300))) / both, np.inf
    )  # fmt: skip
    return out


def _quantiles(values_G: Float64, weight_G: Float64) -> tuple[float, float, float]:
    """Return the weighted median and the two ends of the interval."""
    order = np.argsort(values_G)
    share = np.cumsum(weight_G[order])
    at = [int(np.searchsorted(share, q * share[-1])) for q in (0.5, LOW, HIGH)]
    middle, low, high = (float(values_G[order[min(n, len(order) - 1)]]) for n in at)
    return middle, low, high
