"""Exact statistics over all impostor pairs of labelled embeddings, in memory that does not grow with the pairs.

Sixty-four thousand images have two thousand million pairs: too many to keep, and a threshold at a low false match rate
lies in the tail, so a sample of them will not do. Two passes of block products do: the first counts cosines in narrow
bins; the second keeps the few pairs of those bins in which an answer lies. These are decided by the cosine that
decides everywhere (float64, in index order; `pipeline.domain.cosines`), and the bins are widened by the proven error
of the products. So an answer is that of sorting every exact cosine, whatever the block size.

Legend: A, B rows of two blocks, P pairs, G genuine pairs, E dimensions. Rows of an identity follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import Float64, Int64, NumpyProduct, exact_cosines, rounding_margin
from pipeline.domain.errors import CalibrationError
from pipeline.domain.records import Float32

BLOCK = 2048
MOST_GENUINE = 40_000_000
"""Genuine pairs are kept whole, so that there may be no more than these: 320 MB."""
MOST_CONTENDERS = 40_000_000
_BINS = 1 << 16
_LOWEST, _HIGHEST = -1.01, 1.01
_WIDTH = (_HIGHEST - _LOWEST) / _BINS
_BINNING = 1e-6
"""More than float32 loses when a product is turned into the number of its bin."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Everyone on the one side against everyone on the other.

    Attributes:
        probes_NE: float32 unit rows, those of an identity together.
        owner_N: int64, rising: the identity of each.
        refs_ME: float32 unit rows; None where the probes are compared with each other, each pair once.
        ref_owner_M: int64, rising.
    """

    probes_NE: Float32
    owner_N: Int64
    refs_ME: Float32 | None = None
    ref_owner_M: Int64 | None = None

    @property
    def others_ME(self) -> Float32:
        """Return the rows of the other side."""
        return self.probes_NE if self.refs_ME is None else self.refs_ME

    def own(self) -> tuple[Int64, Int64]:
        """Return where each probe's own identity begins and ends on the other side; int64, (N,) each."""
        owners = self.owner_N if self.ref_owner_M is None else self.ref_owner_M
        return np.searchsorted(owners, self.owner_N, "left"), np.searchsorted(owners, self.owner_N, "right")

    def genuine(self) -> Float64:
        """Return the exact cosines of all pairs of one identity, rising.

        Raises:
            CalibrationError: more pairs than are kept.
        """
        first, last = self.own()
        begin = np.arange(len(first)) + 1 if self.refs_ME is None else first
        counts = last - begin
        total = int(counts.sum())
        if total > MOST_GENUINE:
            raise CalibrationError(
                f"{total:,} genuine pairs, at most {MOST_GENUINE:,} are measured; use fewer images of each identity"
            )
        rows = np.repeat(np.arange(len(first)), counts)
        offsets = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.sort(exact_cosines(self.probes_NE, rows, self.others_ME, np.repeat(begin, counts) + offsets))

    def count(self) -> int:
        """Return the number of impostor pairs."""
        first, last = self.own()
        if self.refs_ME is None:
            return int((len(self.probes_NE) - last).sum())
        return int(len(self.probes_NE) * len(self.refs_ME) - (last - first).sum())

    def mean(self) -> float:
        """Return the mean cosine of the impostor pairs, from the sums of vectors: no pair is looked at."""
        mine = _sums(self.probes_NE, self.owner_N)
        if self.refs_ME is None or self.ref_owner_M is None:
            total = mine.sum(axis=0)
            return float((total @ total - np.einsum("ie,ie->", mine, mine)) / 2 / self.count())
        others = _sums(self.refs_ME, self.ref_owner_M)
        _, a, b = np.intersect1d(np.unique(self.owner_N), np.unique(self.ref_owner_M), return_indices=True)
        within = np.einsum("ie,ie->", mine[a], others[b])
        return float((mine.sum(axis=0) @ others.sum(axis=0) - within) / self.count())


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The impostor cosines of a range, exactly, and how many lie above it.

    Attributes:
        low_cos: from here to `high_cos` every impostor pair is known.
        high_cos: the other end.
        above: pairs whose cosine is above every one of `cos`.
        cos: float64 cosines, rising, each once.
        reached: int64, per cosine: impostor pairs, of all, whose cosine is at least that.
    """

    low_cos: float
    high_cos: float
    above: int
    cos: npt.NDArray[np.floating]
    reached: Int64

    @classmethod
    def of_all(cls, impostor_cos: npt.NDArray[np.floating]) -> Tail:
        """Return the tail that holds every impostor cosine."""
        cos, times = np.unique(impostor_cos, return_counts=True)
        return cls(-np.inf, np.inf, 0, cos, np.cumsum(times[::-1])[::-1])

    def at_least(self, cos: float) -> int:
        """Return how many impostor pairs have at least this cosine, which has to lie in the range."""
        place = int(np.searchsorted(self.cos, cos, "left"))
        return int(self.reached[place]) if place < len(self.cos) else self.above

    def ranked(self, rank: int) -> float:
        """Return the `rank`-th largest cosine of all impostor pairs, counted from 1."""
        return float(self.cos[len(self.cos) - 1 - int(np.searchsorted(self.reached[::-1], rank, "left"))])


def measure_tails(
    comparison: Comparison, ranks: Sequence[int], genuine_G: Float64, *, block: int = BLOCK
) -> tuple[list[Tail], Tail]:
    """Return the exact cosines around given ranks, and around the threshold at which both error rates meet.

    Args:
        comparison: who is compared.
        ranks: each from 1 (the largest impostor cosine) to the number of impostor pairs.
        genuine_G: float64, rising: the genuine cosines.
        block: rows per product; changes nothing but time and memory.

    Returns:
        One tail per rank, whose `ranked` knows that rank, and one that spans where FNMR first reaches FMR, with at
        least one rate on either side.

    Raises:
        CalibrationError: too many pairs have almost the same cosine.
    """
    margin = rounding_margin(comparison.probes_NE.shape[1]) + _BINNING
    wide = math.ceil(2 * margin / _WIDTH) + 1
    counts = np.zeros(_BINS, np.int64)
    for _, _, bins_AB in _binned(comparison, block):
        counts += np.bincount(bins_AB.ravel(), minlength=_BINS)
    counts[0] = 0  # what is no impostor pair
    reached = np.cumsum(counts[::-1])[::-1]
    # the highest bin at and above which there are at least `rank` pairs
    centres = [int(np.flatnonzero(reached >= rank)[-1]) for rank in ranks]
    spans = [(c - wide, c + wide) for c in centres]
    edges = _LOWEST + _WIDTH * np.arange(_BINS + 1)
    missed = np.searchsorted(genuine_G, edges, "left") / max(1, len(genuine_G))
    passed = np.append(reached, 0) / max(1, comparison.count())
    meet = int(np.argmax(missed >= passed))
    spans.append((meet - 1 - wide, meet + wide))
    tails = _collect(comparison, spans, wide, block)
    return tails[:-1], tails[-1]


def equal_error(tail: Tail, genuine_G: npt.NDArray[np.floating], impostors: int) -> float:
    """Return the EER: the mean of FMR and FNMR at the threshold where they differ least, the lower of two."""
    known = np.concatenate([tail.cos, genuine_G])
    inside = known[(known >= tail.low_cos) & (known <= tail.high_cos)]
    # the ends stand for the steps that begin or end outside; the rates are constant on a step
    steps = np.unique(np.concatenate([[tail.low_cos], inside, [tail.high_cos]]))
    reached = np.append(tail.reached, tail.above)[np.searchsorted(tail.cos, steps, "left")]
    fmr = reached / impostors
    fnmr = np.searchsorted(genuine_G, steps, "left") / len(genuine_G)
    best = int(np.argmin(np.abs(fnmr - fmr)))
    return float((fnmr[best] + fmr[best]) / 2)


def _binned(comparison: Comparison, block: int) -> Iterator[tuple[int, int, npt.NDArray[np.intp]]]:
    """Yield where a block's rows and columns begin, and the bin of each product; 0 for what is no impostor pair."""
    probes, others, product = comparison.probes_NE, comparison.others_ME, NumpyProduct()
    first, last = comparison.own()
    once = comparison.refs_ME is None
    for row in range(0, len(probes), block):
        a = probes[row : row + block]
        for column in range(row if once else 0, len(others), block):
            b = others[column : column + block]
            cos_AB = product.product(a, b)
            cos_AB -= np.float32(_LOWEST)
            cos_AB *= np.float32(1 / _WIDTH)
            bins_AB = cos_AB.astype(np.intp)
            begin = np.zeros(len(a), np.intp) if once else np.clip(first[row : row + len(a)] - column, 0, len(b))
            end = np.clip(last[row : row + len(a)] - column, 0, len(b))
            for i in np.flatnonzero(end > begin):
                bins_AB[i, begin[i] : end[i]] = 0
            yield row, column, bins_AB


def _collect(comparison: Comparison, spans: Sequence[tuple[int, int]], wide: int, block: int) -> list[Tail]:
    """Return, per span of bins, the exact cosines that lie in them and how many pairs lie above.

    A span is known but for half of the `wide` bins at either end: there, some pairs are taken for their neighbours'.
    """
    wanted = np.zeros(_BINS, bool)
    for low, high in spans:
        wanted[max(low, 1) : high + 1] = True
    above = np.zeros(len(spans), np.int64)
    found = [_Counted() for _ in spans]
    for row, column, bins_AB in _binned(comparison, block):
        rows, columns = np.divmod(np.flatnonzero(wanted[bins_AB]), bins_AB.shape[1])
        bins_P = bins_AB[rows, columns]
        cos_P = exact_cosines(comparison.probes_NE, rows + row, comparison.others_ME, columns + column)
        for number, (low, high) in enumerate(spans):
            above[number] += np.count_nonzero(bins_AB > high)
            found[number].add(cos_P[(bins_P >= max(low, 1)) & (bins_P <= high)])
    tails = []
    for number, (low, high) in enumerate(spans):
        cos, times = found[number].all()
        reached = np.cumsum(times[::-1])[::-1] + above[number]
        begin, end = _LOWEST + _WIDTH * (low + wide / 2), _LOWEST + _WIDTH * (high + 1 - wide / 2)
        tails.append(Tail(begin, end, int(above[number]), cos, reached))
    return tails


class _Counted:
    """Cosines with how often each came; many equal ones take no more room than one."""

    def __init__(self) -> None:
        self._cos, self._times = np.empty(0), np.empty(0, np.int64)
        self._new: list[Float64] = []
        self._waiting = 0

    def add(self, cos_P: Float64) -> None:
        if len(cos_P):
            self._new.append(cos_P)
            self._waiting += len(cos_P)
        if self._waiting > 1 << 21:
            self._fold()

    def all(self) -> tuple[Float64, Int64]:
        self._fold()
        return self._cos, self._times

    def _fold(self) -> None:
        cos, times = np.unique(np.concatenate([*self._new, np.empty(0)]), return_counts=True)
        merged, place = np.unique(np.concatenate([self._cos, cos]), return_inverse=True)
        totals = np.zeros(len(merged), np.int64)
        np.add.at(totals, place, np.concatenate([self._times, times]))
        self._cos, self._times, self._new, self._waiting = merged, totals, [], 0
        if len(merged) > MOST_CONTENDERS:
            raise CalibrationError(
                f"more than {MOST_CONTENDERS:,} impostor pairs have almost the same cosine: the embeddings hardly "
                "differ; check that the recogniser reads these faces"
            )


def _sums(rows_NE: Float32, owner_N: Int64) -> Float64:
    """Return the sum of each identity's rows, float64, in the order of identities."""
    starts = np.flatnonzero(np.diff(owner_N, prepend=owner_N[0] - 1))
    summed: Float64 = np.add.reduceat(rows_NE, starts, axis=0, dtype=np.float64)
    return summed
