"""Figures of balance: how many cells count, how far shares lie from their targets, how fields hang together.

All are pure functions of counts over identities. Shares carry Wilson intervals; what a reader's errors do to them is
undone by its confusion. Metrics follow Dominguez-Catena et al., *Metrics for dataset demographic bias* (2023).

Legend: C cells or values, N identities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from pipeline.domain.records import Cell

Float64 = npt.NDArray[np.float64]

SMOOTHING = 0.5
"""Identities added to every cell, on both sides, before a divergence is taken: an empty cell is far, not infinitely."""


def effective_number(counts_C: npt.ArrayLike) -> float:
    """Return the effective number of species (ENS): exp of the entropy of the shares, in [1, C]; 0 for nobody."""
    counts = np.asarray(counts_C, np.float64)
    total = counts.sum()
    if not total > 0:
        return 0.0
    shares = counts[counts > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def evenness(counts_C: npt.ArrayLike) -> float | None:
    """Return Shannon's evenness index (SEI): entropy over ln C, in [0, 1]; None for one cell or nobody."""
    cells, number = len(np.asarray(counts_C)), effective_number(counts_C)
    return math.log(number) / math.log(cells) if cells > 1 and number > 0 else None


def divergence(counts_C: npt.ArrayLike, target_C: npt.ArrayLike, smoothing: float = SMOOTHING) -> float:
    """Return the Kullback-Leibler divergence of the shares from their targets, in nats, at least 0.

    `smoothing` identities are added to every cell of both: of what is there, and of what the target gives as many.
    """
    counts, target = np.asarray(counts_C, np.float64), np.asarray(target_C, np.float64)
    total = counts.sum()
    whole = total + smoothing * len(counts)
    p, q = (counts + smoothing) / whole, (target * total + smoothing) / whole
    return max(0.0, float((p * np.log(p / q)).sum()))


def total_variation(counts_C: npt.ArrayLike, target_C: npt.ArrayLike) -> float | None:
    """Return half the sum of absolute differences of shares: the share of identities in the wrong cell."""
    counts = np.asarray(counts_C, np.float64)
    total = counts.sum()
    return float(0.5 * np.abs(counts / total - np.asarray(target_C, np.float64)).sum()) if total > 0 else None


def representation(counts_C: npt.ArrayLike, target_C: npt.ArrayLike) -> tuple[float | None, float | None]:
    """Return (parity, least representation), of the ratios share / target of every cell that has a target.

    Parity is the smallest ratio over the largest, 1 where all have what they owe; the least representation is the
    smallest ratio itself. None where there is nobody, or no target.
    """
    counts, target = np.asarray(counts_C, np.float64), np.asarray(target_C, np.float64)
    wanted = target > 0
    if not counts[wanted].sum() > 0:
        return None, None
    ratios = counts[wanted] / counts.sum() / target[wanted]
    return float(ratios.min() / ratios.max()), float(ratios.min())


def cramers_v(table_RK: npt.ArrayLike) -> float | None:
    """Return Cramer's V of a table of counts: 0 where two fields are independent, 1 where one follows from the other.

    Rows and columns without anybody are left out; None where fewer than two of either are left. Without correction
    for bias: of few identities it is above 0 by chance.
    """
    table = np.asarray(table_RK, np.float64)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    least = min(table.shape) - 1
    if least < 1:
        return None
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    chi2 = float(((table - expected) ** 2 / expected).sum())
    return math.sqrt(chi2 / (total * least))


def association(cells: Sequence[Cell], counts_C: Sequence[float], fields: Sequence[tuple[str, tuple[str, ...]]]) -> Any:
    """Return Cramer's V of each pair of fields, as {between: [a, b], cramers_v}."""
    out = []
    for a in range(len(fields)):
        for b in range(a + 1, len(fields)):
            table = np.zeros((len(fields[a][1]), len(fields[b][1])))
            for cell, count in zip(cells, counts_C, strict=True):
                table[fields[a][1].index(cell.values[a]), fields[b][1].index(cell.values[b])] += count
            out.append({"between": [fields[a][0], fields[b][0]], "cramers_v": cramers_v(table)})
    return out


def soft_counts(
    posteriors: Sequence[Mapping[str, float]], cells: Sequence[Cell], fields: Sequence[str]
) -> tuple[Float64, Float64]:
    """Return the expected identities per cell, and the standard error of each, shape (C,) both.

    An identity counts in every cell by the product of its fields' probabilities (errors taken as independent), scaled
    to sum to 1 over the cells, and not by the most probable value alone. The standard error is that of a sum over
    identities drawn anew from their population.

    Args:
        posteriors: per identity, `field=value` -> probability, pooled over its images.
        cells: all cells.
        fields: their fields, in order.
    """
    if not posteriors or not fields:
        return np.full(len(cells), float(len(posteriors))), np.zeros(len(cells))
    shares_NC = np.ones((len(posteriors), len(cells)))
    for position, name in enumerate(fields):
        columns: dict[str, Float64] = {}
        for c, cell in enumerate(cells):
            value = cell.values[position]
            if value not in columns:
                columns[value] = np.array([p[f"{name}={value}"] for p in posteriors], np.float64)
            shares_NC[:, c] *= columns[value]
    shares_NC /= shares_NC.sum(axis=1, keepdims=True)
    return shares_NC.sum(axis=0), np.sqrt(len(posteriors)) * shares_NC.std(axis=0)


def mean_pairwise_cos(unit_NE: npt.NDArray[np.float32]) -> float | None:
    """Return the mean cosine over all pairs of unit vectors, in [-1, 1]; the lower, the more diverse. None below two.

    From the length of the sum of vectors, so that the pairs are never written out.
    """
    n = len(unit_NE)
    if n < 2:
        return None
    total = np.cumsum(unit_NE.astype(np.float64), axis=0)[-1]
    own = np.einsum("ne,ne->", unit_NE, unit_NE, dtype=np.float64)
    return float((total @ total - own) / (n * (n - 1)))


def adjusted_shares(read_C: Float64, confusion_CC: Float64) -> Float64:
    """Return the true shares most consistent with the read ones, given the reader's confusion.

    Args:
        read_C: share of identities read as each cell.
        confusion_CC: row = true cell, column = read cell, rows sum to 1.

    Solves `confusion.T @ true = read` for non-negative shares by least squares (Lawson & Hanson's NNLS) and
    scales them to sum to 1. The figure inherits the error of the confusion matrix.
    """
    weight = 1e3  # holds the sum at 1 without a constrained solver
    a = np.vstack([confusion_CC.T, np.full((1, len(read_C)), weight)])
    true, _ = nnls(a, np.append(read_C, weight))
    total = float(true.sum())
    return np.asarray(true / total) if total > 0 else np.asarray(read_C)


def confusion_of_cells(
    cells: Sequence[Cell], fields: Sequence[str], confusion: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Float64:
    """Return the cell confusion as the product of the fields' (errors taken as independent); rows are true cells.

    `confusion[field][true][read]` is the share of images of value `true` that are read as `read`.
    """
    out = np.ones((len(cells), len(cells)))
    for i, true in enumerate(cells):
        for j, read in enumerate(cells):
            for position, name in enumerate(fields):
                out[i, j] *= confusion[name][true.values[position]].get(read.values[position], 0.0)
    return out


def wilson_interval(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927), 95 % by default."""
    if total == 0:
        return 0.0, 1.0
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
