"""Banks: a population of identities as Gaussians. Embeddings become identity means, means become fitted parameters.

A bank holds nobody. What it states of a group is a mean and a covariance over at least `LEAST_IDENTITIES` people, and
a covariance of its own only where there are more people than dimensions: below that its axes would span nothing but
its members, and one could tell who is among them. Smaller groups share the covariance of everyone around their means.

Covariances are shrunk in closed form: (1 - a) S + a T with a = min(1, b^2 / |S - T|^2), b^2 the estimated squared
error of S (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", there with
T = mean variance x identity). The share a falls to 0 as people outnumber dimensions, and nobody has to choose it.

Legend: N images, P identities, D dimensions, K principal axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import BadVectorError, UserError
from pipeline.domain.records import Float32

Float64 = npt.NDArray[np.float64]
LEAST_IDENTITIES = 20
"""No mean is stated of fewer people than this, whatever is asked."""
EVERYONE = "all"
COMMERCIAL = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT", "MPL-2.0", "Unlicense",
)  # fmt: skip
"""SPDX identifiers of licences known to allow commercial use; any other is taken to forbid it."""
_LEAST_SHRINKAGE = 1e-6
"""Keeps a factor defined where a direction has no variance, as with vectors of unit length."""


@dataclass(frozen=True, slots=True)
class CellFit:
    """How one Gaussian came about.

    Attributes:
        identities: people it rests on.
        shrinkage: share of the target in its covariance, in [0, 1].
        covariance: `own`, or `shared` where it is that of everyone around the means of their cells.
    """

    identities: int
    shrinkage: float
    covariance: str


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A population as Gaussians.

    Attributes:
        gaussians: cell name, or `all` -> mean (D,) and lower Cholesky factor (D, D), float64.
        cells: the same names -> how they came about.
        too_few: cells that are left to `all` -> their identities.
    """

    gaussians: Mapping[str, tuple[Float64, Float64]]
    cells: Mapping[str, CellFit]
    too_few: Mapping[str, int]


def identity_means(
    emb_NE: Float32, labels_N: npt.NDArray[np.int64], at_most: int | None = None, *, keep_lengths: bool = False
) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Return the unit-length mean of each identity's embeddings, (P, E) float64, and how many went into each, (P,).

    Args:
        emb_NE: unit rows.
        labels_N: identity of each row, 0 to P - 1.
        at_most: images per identity that count, the first ones; all where None.
        keep_lengths: give plain means, of a space whose vectors keep their lengths.

    Raises:
        BadVectorError: an identity's embeddings cancel out.
    """
    count = int(labels_N.max()) + 1 if len(labels_N) else 0
    sums, images = np.zeros((count, emb_NE.shape[1])), np.zeros(count, np.int64)
    for row, label in enumerate(labels_N.tolist()):
        if at_most is None or images[label] < at_most:
            sums[label] += emb_NE[row]
            images[label] += 1
    lengths = np.sqrt(np.einsum("pe,pe->p", sums, sums))
    bad = np.flatnonzero(~(lengths > 1e-6))
    if bad.size:
        raise BadVectorError(f"the embeddings of {bad.size} identities cancel out, so they have no mean; remove them")
    return sums / (images if keep_lengths else lengths)[:, None], images


def fit(means_PD: Float64, cells: Sequence[str] | None = None, least: int = LEAST_IDENTITIES) -> Fitted:
    """Return the Gaussian of everyone and, where cells are known, one per cell of at least `least` identities.

    Args:
        means_PD: identity means.
        cells: cell name of each identity, empty where unknown; None where no cell is known.
        least: fewest identities of a cell, at least LEAST_IDENTITIES.

    Raises:
        UserError: too few identities to fit anything, all of them alike, or `least` too small.
    """
    count, dimensions = means_PD.shape
    needed = max(LEAST_IDENTITIES, math.ceil(dimensions / 4))
    if least < LEAST_IDENTITIES:
        raise UserError(
            f"{least} identities of a cell at least: a mean of fewer than {LEAST_IDENTITIES} would tell too much of "
            "each; ask for more"
        )
    if count < needed:
        raise UserError(
            f"{count} identities in {dimensions} dimensions; at least {needed} are needed, as a bank of fewer would "
            "describe its members; give a larger source"
        )
    middle = _mean(means_PD)
    around = means_PD - middle
    if not float(np.einsum("pd,pd->", around, around)) / count > 1e-12:
        raise UserError("the identity means are all alike; a bank needs people who differ")
    whole, share = ledoit_wolf(around)
    gaussians = {EVERYONE: (middle, _factor(whole))}
    how = {EVERYONE: CellFit(count, share, "own")}
    named = np.array([""] * count if cells is None else list(cells))
    sizes = {str(c): int((named == c).sum()) for c in np.unique(named) if c not in ("", EVERYONE)}
    fitted = [c for c, n in sizes.items() if n >= least]
    if not fitted:
        return Fitted(gaussians, how, sizes)
    residual = around.copy()
    centres = {c: _mean(means_PD[named == c]) for c in fitted}
    for c in fitted:
        residual[named == c] = means_PD[named == c] - centres[c]
    within, within_share = ledoit_wolf(residual)
    for c in fitted:
        if sizes[c] > dimensions:
            own, own_share = shrunk(residual[named == c], within)
            gaussians[c], how[c] = (centres[c], _factor(own)), CellFit(sizes[c], own_share, "own")
        else:
            gaussians[c], how[c] = (centres[c], _factor(within)), CellFit(sizes[c], within_share, "shared")
    return Fitted(gaussians, how, {c: n for c, n in sizes.items() if n < least})


def ledoit_wolf(centred_PD: Float64) -> tuple[Float64, float]:
    """Return the covariance of rows around 0, shrunk towards its mean variance in every direction, and the share."""
    dimensions = centred_PD.shape[1]
    variance = float(np.einsum("pd,pd->", centred_PD, centred_PD)) / (len(centred_PD) * dimensions)
    return shrunk(centred_PD, variance * np.eye(dimensions))


def shrunk(centred_PD: Float64, target_DD: Float64) -> tuple[Float64, float]:
    """Return the covariance of rows around 0, shrunk towards a target, and the target's share in it.

    The share is that of the least expected squared error for a target that is taken as given.
    """
    count = len(centred_PD)
    sample = centred_PD.T @ centred_PD / count
    squared = np.einsum("pd,pd->p", centred_PD, centred_PD)
    error = (float((squared**2).sum()) / count - float((sample**2).sum())) / count
    distance = float(((sample - target_DD) ** 2).sum())
    share = min(1.0, max(_LEAST_SHRINKAGE, error / distance)) if distance > 0 else 1.0
    return (1 - share) * sample + share * target_DD, share


def principal_axes(factor_DD: Float64) -> tuple[Float64, Float64]:
    """Return the axes of a covariance given by its factor, (D, D) with axes as columns, and their std, falling, (D,).

    Each axis points where its largest coordinate is positive, so that it is one axis on every machine.
    """
    axes, std, _ = np.linalg.svd(factor_DD)
    largest = np.abs(axes).argmax(axis=0)
    signs = np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    return axes * signs, std


def axes_for(std_D: Float64, variance: float) -> int:
    """Return how many principal axes hold at least this share of the variance; always one."""
    held = np.cumsum(std_D**2) / float((std_D**2).sum())
    return min(len(std_D), int(np.searchsorted(held, variance - 1e-12)) + 1)


def allows_commercial_use(licence: str) -> bool:
    """Return whether a licence, by SPDX identifier, is known to allow commercial use."""
    return licence.strip().lower() in {known.lower() for known in COMMERCIAL}


def _mean(rows_PD: Float64) -> Float64:
    return np.asarray(np.cumsum(rows_PD, axis=0)[-1] / len(rows_PD))


def _factor(covariance_DD: Float64) -> Float64:
    return np.asarray(np.linalg.cholesky((covariance_DD + covariance_DD.T) / 2))
