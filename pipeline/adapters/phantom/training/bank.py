"""Fits the bank: identity means of draw A in the conditioning space, and one Gaussian per cell of appearance.

Vectors drawn evenly on the sphere lie off the manifold of identities and come out as nobody; a Gaussian fitted to real
(rendered) identities stays on it. A cell's covariance is blended with that of all cells, because a few hundred
identities do not determine 128 x 128 numbers (Ledoit and Wolf 2004).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom.training.config import BANK_DRAWS, GENERATOR_DRAWS, KEPT_DRAWS, Training
from pipeline.adapters.phantom.training.draws import load_draws

Array = npt.NDArray[np.floating]
PRESENTATIONS = ("feminine", "masculine")
TONE_GROUPS = ("light", "medium", "dark")
CELLS = ("all", *(f"{p}/{t}" for p in PRESENTATIONS for t in TONE_GROUPS))
_ENOUGH = 256
"""A cell with so many identities is described half by its own covariance, half by that within all cells."""
_EDGES_MST = np.array([3.5, 6.5])
_MARGIN_MST = 0.4
_FEW = 32  # a cell with fewer identities takes the covariance of all cells


def tone_group(mst: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """0 light (below 3.5), 1 medium, 2 dark (above 6.5)."""
    above = (mst >= _EDGES_MST[0]).astype(np.int64)
    group: npt.NDArray[np.int64] = above + (mst > _EDGES_MST[1])
    return group


def cell_of(presentation: npt.NDArray[np.floating], mst: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Index into `CELLS` from presentation (0 feminine .. 1 masculine) and tone."""
    return 1 + 3 * (presentation > 0.5).astype(np.int64) + tone_group(mst)


def fit_bank(config: Training) -> dict[str, npt.NDArray[np.generic]]:
    """Return the bank's arrays: means_ND, cell_N, mean_CD, factor_CDD."""
    drawn = load_draws(config, GENERATOR_DRAWS, faces_too=False)
    with np.load(config.home / "flow_data.npz") as data:
        emb_ND = data["emb"]
    draw_I = np.concatenate([np.full(config.draws[name].identities, n) for n, name in enumerate(GENERATOR_DRAWS)])
    first = np.searchsorted(drawn.owner_N, np.arange(len(draw_I)))
    means = np.add.reduceat(emb_ND, first, axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    presentations, tones = drawn.truth("presentation")[first], drawn.truth("skin_tone_mst")[first]
    even, kept = (np.isin(draw_I, [GENERATOR_DRAWS.index(n) for n in names]) for names in (BANK_DRAWS, KEPT_DRAWS))
    fitted = _fit(means[even], presentations[even], tones[even])
    cell_N = cell_of(presentations[kept], tones[kept])
    return {"means_ND": means[kept].astype(np.float16), "cell_N": cell_N.astype(np.uint8), **fitted}


def _fit(means: Array, presentations: Array, tones: Array) -> dict[str, npt.NDArray[np.generic]]:
    """Return mean_CD and factor_CDD of identities' unit means (I, D), their presentation and tone (I,)."""
    cell_N = cell_of(presentations, tones)
    # Gaussians have tails: a cell is fitted to the identities that lie well inside it, so that few draws leave it.
    inside = (np.abs(tones[:, None] - _EDGES_MST).min(axis=1) > _MARGIN_MST) & (np.abs(presentations - 0.5) > 0.2)
    members = [np.flatnonzero((cell_N == c) & inside) for c in range(1, len(CELLS))]
    centres = np.stack([means.mean(0), *(means[m].mean(0) if len(m) else means.mean(0) for m in members)])
    within = np.cov((means - centres[cell_N]).T)
    factors = [_factor(np.cov(means.T))]
    for own in (means[m] for m in members):
        share = len(own) / (len(own) + _ENOUGH) if len(own) > _FEW else 0.0
        factors.append(_factor((share * np.cov(own.T) if share else 0.0) + (1 - share) * within))
    return {"mean_CD": centres.astype(np.float32), "factor_CDD": np.stack(factors).astype(np.float16)}


def _factor(covariance: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Lower triangle L with L L^T = covariance; a small ridge keeps it defined."""
    ridge = 1e-6 * np.eye(len(covariance))
    return np.linalg.cholesky(covariance + ridge)
