"""How well the images of a set tell its identities apart: error rates over all pairs of its embeddings.

The definitions are those of ISO/IEC 19795-1. A comparison matches at a threshold t where its cosine is at least t; the
false match rate FMR(t) is the share of impostor (non-mated) comparisons that match, the false non-match rate FNMR(t)
the share of genuine (mated) comparisons that do not; the equal error rate is where the two meet. FMR100 and FMR1000 are
the least FNMR at an FMR of at most 1 % and 0.1 %. A level that fewer than 30 impostor pairs are expected to pass at is
not reported (the rule of 30).

Pairs are never written out: they are counted in narrow bins, block by block. Which bin a pair falls into is decided by
its exact cosine (`pipeline.domain.cosines`): products within their proven rounding error of an edge are computed anew.
So counts, and all that follows from them, do not depend on block size or device.

Legend: N images, E dimensions, G genuine pairs, K bins, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.calibration import RULE_OF_30
from pipeline.domain.cosines import Float64, Int64, exact_cosines
from pipeline.domain.impostors import Comparison, equal_error, measure_tails
from pipeline.domain.records import Float32, require_unit_rows

BINS = 20_000
"""Bins of a ten-thousandth, from -1 to 1; a cosine that rounding took out of that range counts at its end."""
EDGES_K1 = np.arange(-(BINS // 2), BINS // 2 + 1) / (BINS // 2)
BLOCK = 1024
LEVELS = (1e-2, 1e-3)
"""The false match rates of FMR100 and FMR1000."""
POINTS = 200


@dataclass(frozen=True, slots=True, eq=False)
class PairCurves:
    """What all pairs of a set say of a recogniser on it.

    Attributes:
        genuine_K: int64, genuine pairs per bin of `EDGES_K1`.
        impostor_K: int64, impostor pairs per bin.
        genuine_mean_cos: mean over all genuine pairs.
        genuine_std_cos: their standard deviation, that of the population of pairs.
        impostor_mean_cos: mean over all impostor pairs.
        impostor_std_cos: their standard deviation.
        eer: equal error rate: the mean of FMR and FNMR at the cosine where they differ least.
        eer_cos: the lowest edge of the bins at which FNMR has reached FMR.
        fnmr_at: FMR -> (FNMR, threshold as a cosine), of the levels that the impostor pairs support.
        auc: area under the ROC; a genuine and an impostor pair of one bin count half.
        fdr: Fisher discriminant ratio, (difference of means)^2 / (sum of variances); None where nothing varies.
    """

    genuine_K: Int64
    impostor_K: Int64
    genuine_mean_cos: float
    genuine_std_cos: float
    impostor_mean_cos: float
    impostor_std_cos: float
    eer: float
    eer_cos: float
    fnmr_at: Mapping[float, tuple[float, float]]
    auc: float
    fdr: float | None

    @property
    def n_genuine(self) -> int:
        """Return the number of genuine pairs."""
        return int(self.genuine_K.sum())

    @property
    def n_impostor(self) -> int:
        """Return the number of impostor pairs."""
        return int(self.impostor_K.sum())

    def roc(self, points: int = POINTS) -> tuple[tuple[float, float], ...]:
        """Return (FMR, FNMR) at evenly spaced decades of FMR from one impostor pair to all, FMR rising.

        Each is the least FNMR on the edges of the bins at an FMR that is not above the level; equal points come once.
        """
        fmr, fnmr = rates(self.genuine_K, self.impostor_K)
        levels = np.append(0.0, np.logspace(-math.log10(max(2, self.n_impostor)), 0, points - 1))
        # FMR falls along the edges: the first at or below a level has the least FNMR
        at = np.searchsorted(-fmr, -levels * (1 + 1e-12), "left")
        return tuple(dict.fromkeys((float(fmr[n]), float(fnmr[n])) for n in at))

    def shown(self, bins: int) -> tuple[Float64, Int64, Int64]:
        """Return rising edges (B + 1,), genuine and impostor counts (B,) of B = `bins` equal bins; B divides K."""
        every = BINS // bins
        if every * bins != BINS:
            raise ValueError(f"{bins} bins to show; a number that divides {BINS}")
        genuine, impostor = (k.reshape(bins, every).sum(axis=1) for k in (self.genuine_K, self.impostor_K))
        return EDGES_K1[::every], genuine, impostor


def rates(genuine_K: Int64, impostor_K: Int64) -> tuple[Float64, Float64]:
    """Return FMR and FNMR at each of the K + 1 edges as a threshold, float64 of shape (K + 1,) both."""
    fmr = np.append(np.cumsum(impostor_K[::-1])[::-1], 0) / impostor_K.sum()
    fnmr = np.insert(np.cumsum(genuine_K), 0, 0) / genuine_K.sum()
    return fmr, fnmr


def pair_curves(emb_NE: Float32, owner_N: npt.NDArray[np.integer], *, block: int = BLOCK) -> PairCurves | None:
    """Compare every image with every other, each pair once; None where there is no genuine or no impostor pair.

    Args:
        emb_NE: float32 unit rows.
        owner_N: the identity of each.
        block: rows per product; changes nothing but time and memory.

    Raises:
        BadVectorError: a row is NaN or not of unit length.
        CalibrationError: more genuine pairs than are kept, or too many pairs with almost the same cosine.
    """
    emb = require_unit_rows(emb_NE, "pairs of images")
    order = np.argsort(owner_N, kind="stable")
    # dense numbers, so that own rows are found by searching
    owner = np.unique(np.asarray(owner_N)[order], return_inverse=True)[1].astype(np.int64)
    own = np.bincount(owner)
    if len(own) < 2 or not (own > 1).any():
        return None
    comparison = Comparison(emb[order], owner)
    impostors, genuine = comparison.count(), comparison.genuine()
    genuine_K = np.bincount(_placed(genuine), minlength=BINS)
    impostor_K = count_pairs(comparison.probes_NE, block=block) - genuine_K
    levels = [f for f in LEVELS if f * impostors >= RULE_OF_30]
    allowed = [math.floor(f * impostors) for f in levels]
    tails, meeting = measure_tails(comparison, [n + 1 for n in allowed], genuine)
    fnmr_at = {}
    for level, most, tail in zip(levels, allowed, tails, strict=True):
        # the smallest cosine above the (most + 1)-th largest impostor lets at most `most` of them through
        cos = float(np.nextafter(tail.ranked(most + 1), np.inf))
        fnmr_at[level] = (int(np.searchsorted(genuine, cos, "left")) / len(genuine), cos)
    genuine_mean, genuine_std = float(genuine.mean()), float(genuine.std())
    mean, std = _impostor_moments(comparison, genuine, impostors)
    varies = genuine_std**2 + std**2
    fmr, fnmr = rates(genuine_K, impostor_K)
    return PairCurves(
        genuine_K=genuine_K,
        impostor_K=impostor_K,
        genuine_mean_cos=genuine_mean,
        genuine_std_cos=genuine_std,
        impostor_mean_cos=mean,
        impostor_std_cos=std,
        eer=equal_error(meeting, genuine, impostors),
        eer_cos=float(EDGES_K1[int(np.argmax(fnmr >= fmr))]),
        fnmr_at=fnmr_at,
        auc=area_under(genuine_K, impostor_K),
        fdr=(genuine_mean - mean) ** 2 / varies if varies > 0 else None,
    )


def count_pairs(emb_NE: Float32, *, block: int = BLOCK) -> Int64:
    """Return how many pairs of rows, each pair once, have a cosine in each bin of `EDGES_K1`; int64 (K,).

    Args:
        emb_NE: float32 unit rows.
        block: rows per product; changes nothing but time and memory.
    """
    counts = np.zeros(BINS, np.int64)
    wide = emb_NE.astype(np.float64)
    # the bound of `rounding_margin` for float64 products, and what placing one in its bin may lose
    slack = (8 * emb_NE.shape[1] * 2.0**-53 + 1e-12) * (BINS // 2)
    for row in range(0, len(wide), block):
        for column in range(row, len(wide), block):
            product = wide[row : row + block] @ wide[column : column + block].T
            upper = np.triu_indices(len(product), 1) if row == column else None
            scaled = product.ravel() if upper is None else product[upper]
            scaled *= BINS // 2
            scaled += BINS // 2
            # no product is below 0 by more than rounding, so cutting off digits rounds down
            placed = scaled.astype(np.int64)
            scaled -= placed
            scaled -= 0.5
            np.minimum(placed, BINS - 1, out=placed)
            unsure = np.flatnonzero(np.abs(scaled, out=scaled) > 0.5 - slack)
            if unsure.size:
                i, j = np.divmod(unsure, product.shape[1]) if upper is None else (upper[0][unsure], upper[1][unsure])
                placed[unsure] = _placed(exact_cosines(emb_NE, i + row, emb_NE, j + column))
            counts += np.bincount(placed, minlength=BINS)
    return counts


def area_under(genuine_K: Int64, impostor_K: Int64) -> float:
    """Return the share of (genuine, impostor) couples of which the genuine pair lies in the higher bin, ties half."""
    below = np.cumsum(impostor_K) - impostor_K / 2
    return float((genuine_K * below).sum() / (float(genuine_K.sum()) * float(impostor_K.sum())))


def even_rows(total: int, most: int) -> Int64:
    """Return which of `total` things to take where at most `most` can be: evenly spaced, the first among them."""
    return np.arange(total) if total <= most else np.arange(most) * total // most


def _placed(cos_P: Float64) -> Int64:
    """Return the bin of each cosine: the definition of what lies where."""
    return np.clip(np.searchsorted(EDGES_K1, cos_P, "right") - 1, 0, BINS - 1).astype(np.int64)


def _impostor_moments(comparison: Comparison, genuine_G: Float64, pairs: int) -> tuple[float, float]:
    """Return mean and standard deviation of the impostor cosines from the rows' second moments: no pair is looked at.

    The squares of all products of rows sum to the squared Frobenius norm of their E x E moment matrix.
    """
    rows = comparison.probes_NE.astype(np.float64)
    own = np.einsum("ne,ne->n", rows, rows)
    squares = (float(np.square(rows.T @ rows).sum()) - float((own**2).sum())) / 2 - float((genuine_G**2).sum())
    mean = comparison.mean()
    return mean, math.sqrt(max(0.0, squares / pairs - mean * mean))
