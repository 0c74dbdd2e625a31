"""Percentiles of a learned score: raw scores of two models, or two versions, cannot be compared; ranks can.

A model's card states 101 reference quantiles: its raw score at 0, 1, ..., 100 % of a named population of faces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
QUANTILES = 101


def quantiles_of(scores_N: npt.ArrayLike) -> tuple[float, ...]:
    """Return the 101 reference quantiles of a population's raw scores, linear between neighbours.

    Raises:
        ValueError: no score, or one that is not finite.
    """
    scores = np.asarray(scores_N, np.float64).ravel()
    if not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"{scores.size} scores, some perhaps not finite; quantiles are those of finite scores")
    return tuple(np.quantile(scores, np.linspace(0.0, 1.0, QUANTILES)).tolist())


def require_quantiles(quantiles: Sequence[float], whose: str) -> Float64:
    """Return quantiles as an array; raises ValueError unless they are 101 finite numbers that never fall."""
    found = np.asarray(quantiles, np.float64)
    if found.shape != (QUANTILES,) or not np.isfinite(found).all() or (np.diff(found) < 0).any():
        raise ValueError(
            f"{whose}: {found.size} quantiles; a card states 101 finite ones, each at least the one before"
        )
    return found


def percentile_of(raw_N: npt.ArrayLike, quantiles_101: Float64) -> Float64:
    """Return where raw scores stand among the reference population, 0 to 100 %, rising with the score.

    Between two quantiles it is linear; a score that many of the population share has the middle of their places; below
    the first it is 0, above the last 100, and NaN stays NaN.
    """
    raw = np.asarray(raw_N, np.float64)
    below, upto = (np.searchsorted(quantiles_101, raw, side) for side in ("left", "right"))
    last = QUANTILES - 1
    low, high = quantiles_101[np.clip(below - 1, 0, last)], quantiles_101[np.clip(below, 0, last)]
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below - 1 + (raw - low) / (high - low)
    place = np.where(upto > below, (below + upto - 1) / 2, between)
    place = np.where(raw < quantiles_101[0], 0.0, np.where(raw > quantiles_101[-1], float(last), place))
    return np.where(np.isnan(raw), np.nan, place)
