"""Uniqueness, consistency and diversity of a set, from each identity's sum of embeddings: no two images are compared.

Of K unit vectors with sum S, the mean cosine to their template S/|S| is |S|/K, and the mean cosine of their pairs is
(|S|^2 - sum |x|^2) / (K (K - 1)). So one pass that adds vectors up says all of it exactly, whatever the number of
images. Uniqueness and consistency follow Kim et al., *DCFace* (CVPR 2023), with similarities in place of its distances;
the Vendi score is that of Friedman & Dieng, *The Vendi Score* (TMLR 2023).

Legend: M identities, N rows, E dimensions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import Float64, Int64
from pipeline.domain.records import Float32, unit_rows


class Sums:
    """Adds up the embeddings of M identities, segment by segment.

    Attributes:
        sum_ME: float64.
        count_M: int64, how many were added.
        square_M: float64, sum of squared lengths.
    """

    def __init__(self, identities: int, dimensions: int) -> None:
        self.sum_ME = np.zeros((identities, dimensions))
        self.count_M = np.zeros(identities, np.int64)
        self.square_M = np.zeros(identities)

    def add(self, emb_NE: Float32, place_N: npt.NDArray[np.integer]) -> None:
        """Add rows, each to the identity at its place; in the order of rows, so that a sum is one number everywhere."""
        if not len(emb_NE):
            return
        order = np.argsort(place_N, kind="stable")
        places, rows = np.asarray(place_N)[order], emb_NE[order].astype(np.float64)
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        who = places[starts]
        self.sum_ME[who] += np.add.reduceat(rows, starts, axis=0)
        self.square_M[who] += np.add.reduceat(np.einsum("ne,ne->n", rows, rows), starts)
        self.count_M += np.bincount(places, minlength=len(self.count_M))

    def templates(self) -> Float32:
        """Return the unit-length means of the identities that have images, float32 (M', E), in their order."""
        return unit_rows(self.sum_ME[self.count_M > 0], "templates")

    def consistency(self) -> float | None:
        """Return the mean over identities of the mean cosine of their images to their template; None of nobody."""
        there = self.count_M > 0
        if not there.any():
            return None
        return float((np.linalg.norm(self.sum_ME[there], axis=1) / self.count_M[there]).mean())

    def diversity_cos(self) -> float | None:
        """Return the mean over identities with two images or more of one less their mean pairwise cosine; else None."""
        many = self.count_M > 1
        if not many.any():
            return None
        held = self.count_M[many].astype(np.float64)
        squared = np.einsum("me,me->m", self.sum_ME[many], self.sum_ME[many])
        return float((1.0 - (squared - self.square_M[many]) / (held * (held - 1))).mean())


def uniqueness(nearest_other_M: Float64 | Float32, threshold_cos: float) -> float | None:
    """Return the share of identities whose nearest other template lies below the threshold; None of nobody.

    NaN is no cosine below anything.
    """
    if not len(nearest_other_M):
        return None
    return float((np.asarray(nearest_other_M, np.float64) < threshold_cos).mean())


def vendi_score(unit_ME: Float32) -> float | None:
    """Return exp of the entropy of the eigenvalues of K / M, K being the templates' cosines: from 1 to M.

    The E x E matrix X'X / M has the same eigenvalues other than zero, so the M x M one is never made. None of nobody.
    """
    if not len(unit_ME):
        return None
    wide = unit_ME.astype(np.float64)
    values = np.linalg.eigvalsh(wide.T @ wide / len(wide))
    shares = values[values > 1e-15]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def places_of(ordinals: npt.NDArray[np.integer], chosen: npt.NDArray[np.integer]) -> Int64:
    """Return at which place of `chosen`, which rises, each ordinal stands; -1 where it does not."""
    if not len(chosen):
        return np.full(len(ordinals), -1, np.int64)
    at = np.minimum(np.searchsorted(chosen, ordinals), len(chosen) - 1)
    return np.where(np.asarray(chosen)[at] == ordinals, at, -1).astype(np.int64)
