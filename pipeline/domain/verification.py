"""Verification: what a recogniser gets right on pairs of pictures, by the field's protocol and by rates at FMR.

The ten-fold protocol is that of InsightFace's `recognition/arcface_torch/eval/verification.py`: the embeddings of a
picture and of its mirror image are summed and scaled to unit length; a pair's distance is the squared Euclidean one
(2 - 2 cos); thresholds are 0, 0.01, ... below 4; the folds are contiguous in the order of the pairs; the threshold that
is best on nine folds, the lowest of equally good ones, judges the tenth; a pair is called the same person where its
distance is strictly below. Accuracy is the mean over the folds, its spread their standard deviation (of the population,
not of a sample). VAL at a FAR of 0.1 % takes the threshold by linear interpolation over 0, 0.001, ... below 4.

Rates at an FMR (the field calls it FAR, and 1 - FNMR TAR) obey the rule of 30: a level at which fewer than 30 impostor
pairs are expected to pass has no figure.

Legend: P pairs, G genuine ones, I impostor ones, N pictures, E embedding dimensions, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.balance_figures import wilson_interval
from pipeline.domain.calibration import RULE_OF_30
from pipeline.domain.errors import BadVectorError, UserError
from pipeline.domain.impostors import Tail, equal_error

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

FOLDS = 10
VAL_FAR = 1e-3
LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
"""False match rates at which TAR is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class TenFold:
    """What the ten-fold protocol says.

    Attributes:
        accuracy: mean over the folds, a share.
        accuracy_std: their standard deviation.
        fold_accuracy: each fold's.
        fold_threshold: each fold's threshold, a squared distance.
        val: mean over the folds of the share of genuine pairs accepted at a FAR of 0.1 %; None where a fold lacks
            genuine or impostor pairs.
        val_std: its standard deviation; None as above.
        val_far: the FAR that was met on the folds, on average; None as above.
        right_P: bool, per pair whether the threshold of its fold judges it rightly.
    """

    accuracy: float
    accuracy_std: float
    fold_accuracy: tuple[float, ...]
    fold_threshold: tuple[float, ...]
    val: float | None
    val_std: float | None
    val_far: float | None
    right_P: Bool


@dataclass(frozen=True, slots=True)
class RateAt:
    """The share of genuine pairs accepted at a false match rate.

    Attributes:
        far: the level, a share of impostor pairs.
        cos: the lowest cosine at which at most that share of the impostor pairs passes.
        tar: share of genuine pairs with at least this cosine.
        tar_low: lower bound of its Wilson interval at 95 %, which takes pairs as independent.
        tar_high: the upper one.
    """

    far: float
    cos: float
    tar: float
    tar_low: float
    tar_high: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Error rates over all compared pairs.

    Attributes:
        n_genuine: genuine pairs.
        n_impostor: impostor pairs.
        eer: equal error rate.
        at: one entry per level that the impostor pairs support, FAR falling.
        insufficient: the levels of `LEVELS` that they do not.
    """

    n_genuine: int
    n_impostor: int
    eer: float
    at: tuple[RateAt, ...]
    insufficient: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of counted things, with its Wilson interval at 95 %; `hits` may be a mean over seeds."""

    hits: float
    total: int

    @property
    def value(self) -> float:
        """Return the share."""
        return self.hits / self.total

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the interval; it never excludes the share by rounding."""
        low, high = wilson_interval(self.hits, self.total)  # type: ignore[arg-type]
        return min(low, self.value), max(high, self.value)


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the cell of the largest share lies above that of the smallest.

    Attributes:
        highest: cell of the largest share, the first by name of equal ones.
        lowest: cell of the smallest.
        value: difference of their shares.
        low: lower bound by Newcombe's hybrid score method (1998, method 10) at 95 %. The two were chosen as
            extremes, so even of equal cells the gap is above 0 by chance: the more so, the more cells.
        high: the upper one.
    """

    highest: str
    lowest: str
    value: float
    low: float
    high: float


def combined(raw_NE: npt.NDArray[np.floating], mirrored_NE: npt.NDArray[np.floating]) -> Float64:
    """Return the unit rows that verification compares: raw embeddings of pictures and of their mirror images, summed.

    Raises:
        BadVectorError: a sum is NaN, infinite or without length.
    """
    total = np.asarray(raw_NE, np.float64) + np.asarray(mirrored_NE, np.float64)
    lengths = np.sqrt(np.einsum("ne,ne->n", total, total))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 1e-12)))
    if bad.size:
        raise BadVectorError(f"embedding {int(bad[0])} ({bad.size} of {len(total)}) is not finite or has no length")
    unit: Float64 = total / lengths[:, None]
    return unit


def squared_distances(first_PE: Float64, second_PE: Float64) -> Float64:
    """Return each pair's squared Euclidean distance, in [0, 4] for unit rows."""
    difference = first_PE - second_PE
    found: Float64 = np.einsum("pe,pe->p", difference, difference)
    return found


def folds_of(pairs: int, folds: int = FOLDS) -> list[slice]:
    """Return contiguous folds; where they cannot be equal, the first ones hold one pair more."""
    sizes = [pairs // folds + (fold < pairs % folds) for fold in range(folds)]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def ten_fold(dist_P: Float64, same_P: Bool) -> TenFold:
    """Return accuracy and VAL of pairs in their order.

    Args:
        dist_P: squared distances.
        same_P: whether a pair shows one person.

    Raises:
        UserError: fewer pairs than folds.
        BadVectorError: a distance is not a number.
    """
    if len(dist_P) < FOLDS:
        raise UserError(f"{len(dist_P)} pairs: the ten-fold protocol needs at least {FOLDS}; give more pairs")
    if not np.isfinite(dist_P).all():
        raise BadVectorError("a distance between two embeddings is not a number")
    parts = folds_of(len(dist_P))
    # how many pairs each fold has right at each threshold; nine folds are all less one
    coarse = np.arange(0, 4, 0.01)
    hits = [_accepted(dist_P[p], same_P[p], coarse) for p in parts]
    right = np.array([true + (~same_P[p]).sum() - false for p, (true, false) in zip(parts, hits, strict=True)])
    best = [int(np.argmax(right.sum(axis=0) - own)) for own in right]
    accuracy = [own[b] / (p.stop - p.start) for own, b, p in zip(right, best, parts, strict=True)]
    judged = np.concatenate([(dist_P[p] < coarse[b]) == same_P[p] for p, b in zip(parts, best, strict=True)])
    val, val_std, val_far = _val(dist_P, same_P, parts)
    return TenFold(
        float(np.mean(accuracy)), float(np.std(accuracy)), tuple(float(a) for a in accuracy),
        tuple(float(coarse[b]) for b in best), val, val_std, val_far, judged,
    )  # fmt: skip


def _accepted(dist_P: Float64, same_P: Bool, thresholds_T: Float64) -> tuple[npt.NDArray[np.int64], ...]:
    """Return how many genuine and how many impostor pairs lie strictly below each threshold."""
    return tuple(np.searchsorted(np.sort(dist_P[kind]), thresholds_T, "left") for kind in (same_P, ~same_P))


def _val(dist_P: Float64, same_P: Bool, parts: Sequence[slice]) -> tuple[float | None, float | None, float | None]:
    fine = np.arange(0, 4, 0.001)
    genuine = np.array([same_P[p].sum() for p in parts])
    impostor = np.array([(~same_P[p]).sum() for p in parts])
    if not (genuine.all() and impostor.all()):
        return None, None, None
    false = np.array([_accepted(dist_P[p], same_P[p], fine)[1] for p in parts])
    vals, fars = [], []
    for fold, part in enumerate(parts):
        far_T = (false.sum(axis=0) - false[fold]) / (impostor.sum() - impostor[fold])
        threshold = float(np.interp(VAL_FAR, far_T, fine)) if far_T[-1] >= VAL_FAR else 0.0
        below = dist_P[part] < threshold
        vals.append((below & same_P[part]).sum() / genuine[fold])
        fars.append((below & ~same_P[part]).sum() / impostor[fold])
    return float(np.mean(vals)), float(np.std(vals)), float(np.mean(fars))


def rates(genuine_cos_G: Float64, impostor_cos_I: Float64) -> Rates:
    """Return EER and TAR at the levels that the impostor pairs support.

    Raises:
        UserError: no genuine or no impostor pair.
        BadVectorError: a cosine is not a number.
    """
    if not len(genuine_cos_G) or not len(impostor_cos_I):
        raise UserError(
            f"{len(genuine_cos_G)} genuine and {len(impostor_cos_I)} impostor pairs: error rates need both kinds"
        )
    if not (np.isfinite(genuine_cos_G).all() and np.isfinite(impostor_cos_I).all()):
        raise BadVectorError("a cosine between two embeddings is not a number")
    genuine, impostors = np.sort(genuine_cos_G), len(impostor_cos_I)
    tail = Tail.of_all(impostor_cos_I)
    supported = [far for far in LEVELS if far * impostors >= RULE_OF_30]
    found = []
    for far in supported:
        cos = float(np.nextafter(tail.ranked(math.floor(far * impostors) + 1), np.inf))
        share = Share(len(genuine) - int(np.searchsorted(genuine, cos, "left")), len(genuine))
        found.append(RateAt(far, cos, share.value, *share.bounds))
    lacking = tuple(far for far in LEVELS if far not in supported)
    return Rates(len(genuine), impostors, equal_error(tail, genuine, impostors), tuple(found), lacking)


def shares_by_cell(cells: Sequence[str], hits: npt.ArrayLike) -> dict[str, Share]:
    """Return cell -> share of hits among what lies in it, cells by name; what lies in no cell (`""`) is left out.

    Args:
        cells: the cell of each.
        hits: number or bool of each.
    """
    named, values = np.asarray(cells), np.asarray(hits, np.float64)
    return {
        str(cell): Share(float(values[named == cell].sum()), int((named == cell).sum()))
        for cell in sorted(set(named.tolist()) - {""})
    }


def gap_of(shares: Mapping[str, Share], least: int = RULE_OF_30) -> Gap | None:
    """Return how far the shares of cells that hold `least` or more lie apart; None of fewer than two such cells."""
    counted = {cell: share for cell, share in sorted(shares.items()) if share.total >= least}
    if len(counted) < 2:
        return None
    best = max(counted, key=lambda cell: counted[cell].value)
    worst = min(counted, key=lambda cell: counted[cell].value)
    (low_a, high_a), (low_b, high_b) = counted[best].bounds, counted[worst].bounds
    a, b = counted[best].value, counted[worst].value
    return Gap(best, worst, a - b, a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b))
