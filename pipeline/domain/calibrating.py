"""Measures what a recogniser's cosines mean, on labelled embeddings or on pairs: makes a `Calibration`.

Levels are the false match rates of `pipeline.domain.calibration.LEVELS`, as far as the impostor pairs support them
(rule of 30). All figures are exact over all pairs and independent of the block size; memory is that of the embeddings,
the genuine pairs and a few blocks.

Legend: N rows, E dimensions, G genuine pairs, P probes, T templates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.balance_figures import wilson_interval
from pipeline.domain.calibration import (
    LEVELS,
    QUANTILES,
    RULE_OF_30,
    BlockMaxima,
    Calibration,
    PairCalibration,
    pair_kind,
)
from pipeline.domain.cosines import Float64, Int64, NumpyProduct, exact_cosines, rounding_margin
from pipeline.domain.errors import CalibrationError
from pipeline.domain.impostors import BLOCK, Comparison, Tail, equal_error, measure_tails
from pipeline.domain.records import Float32, require_unit_rows, template_of
from pipeline.domain.space import Space

GENUINE_QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Numbers of other identities over which the largest cosine is measured, besides all of them."""
MOST_MAXIMA = 4_000_000
_COSINES_AT_ONCE = 1 << 21


def calibrate(
    space: Space,
    source: str,
    emb_NE: Float32,
    labels_N: npt.NDArray[np.integer],
    *,
    template_sizes: Sequence[int],
    measured: Mapping[str, Any] | None = None,
    block: int = BLOCK,
    progress: Callable[[str], object] = lambda _: None,
) -> Calibration:
    """Measure a recogniser on labelled embeddings.

    Args:
        space: where the embeddings live.
        source: what the images were, for the record.
        emb_NE: float32 unit rows.
        labels_N: identity of each row. An identity's rows are used in their order: the first k form its
            template, the rest are its genuine samples.
        template_sizes: the k of `sample/template<k>` and `template<k>/template<k>`.
        measured: more for the record, beside the counts.
        block: rows per product; changes nothing but time and memory.
        progress: is told the name of each comparison before it is measured.

    Template/template genuine pairs need 2k images of an identity; impostors need k.

    Raises:
        CalibrationError: too few pairs for any level, or too few images for a template.
        BadVectorError: a row is NaN or not of unit length.
    """
    emb = require_unit_rows(emb_NE, "calibration")
    _, first, owner = np.unique(labels_N, return_index=True, return_inverse=True)
    # identities in the order in which they first come
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    order = np.argsort(rank[owner], kind="stable")
    owner_N, emb = rank[owner][order], emb[order]
    held = np.bincount(owner_N)
    begins = np.cumsum(held) - held
    one = pair_kind(1, 1)
    progress(one)
    pairs = {one: _measured(Comparison(emb, owner_N), block)}
    maxima: dict[str, tuple[BlockMaxima, ...]] = {}
    missing: dict[str, str] = {}
    for k in template_sizes:
        _templates(k, emb, begins, held, pairs, maxima, missing, block, progress)
    facts = {"identities": len(held), "images": len(emb), **(measured or {}), "not_measured": missing}
    return Calibration(space=space, source=source, pairs=pairs, one_to_many=maxima, measured=facts)


def calibrate_pairs(
    space: Space,
    source: str,
    genuine_G: npt.NDArray[np.floating],
    impostor_P: npt.NDArray[np.floating],
    *,
    measured: Mapping[str, Any] | None = None,
) -> Calibration:
    """Return the calibration that pairs of samples support: `sample/sample` alone, and nothing 1:N."""
    missing = {"templates, 1:N": "the source holds pairs and no identities"}
    facts = {"images": 2 * (len(genuine_G) + len(impostor_P)), **(measured or {}), "not_measured": missing}
    pairs = {pair_kind(1, 1): measure_pairs(genuine_G, impostor_P)}
    return Calibration(space=space, source=source, pairs=pairs, one_to_many={}, measured=facts)


def measure_pairs(genuine_cos: npt.NDArray[np.floating], impostor_cos: npt.NDArray[np.floating]) -> PairCalibration:
    """Return thresholds and error rates from genuine and impostor cosines, both 1-D.

    The threshold at FMR f is the smallest cosine t such that at most a share f of impostors is >= t.
    Levels with fewer than 30 expected impostor errors are insufficient.
    """
    genuine, impostor = np.sort(genuine_cos), np.sort(impostor_cos)
    levels = _supported(len(impostor), len(genuine))
    whole = Tail.of_all(impostor)
    return _pair_calibration(genuine, len(impostor), float(impostor.mean()), levels, [whole] * len(levels), whole)


def _templates(
    k: int,
    emb: Float32,
    begins: Int64,
    held: Int64,
    pairs: dict[str, PairCalibration],
    maxima: dict[str, tuple[BlockMaxima, ...]],
    missing: dict[str, str],
    block: int,
    progress: Callable[[str], object],
) -> None:
    """Add what templates of k images can be calibrated for."""
    full = np.flatnonzero(held > k)
    if len(full) < 2:
        raise CalibrationError(
            f"template size {k} needs identities with more than {k} images; got {len(full)}; give more images of each, "
            "or leave that size out of the template sizes (--templates)"
        )
    templates = _pooled(emb, begins[full], k)
    owners = np.arange(len(full))
    rest = np.concatenate([np.arange(begins[i] + k, begins[i] + held[i]) for i in full])
    rest_owner = np.repeat(owners, held[full] - k)
    one, two = pair_kind(1, k), pair_kind(k, k)
    progress(one)
    mixed = Comparison(emb[rest], rest_owner, templates, owners)
    if (lacking := _lacking(mixed.count(), len(rest))) is not None:
        missing[one] = lacking
    else:
        pairs[one] = _measured(mixed, block)
        maxima[one] = block_maxima(emb[rest], rest_owner, templates)
    twice = np.flatnonzero(held[full] >= 2 * k)
    if not len(twice):
        missing[two] = f"no identity has {2 * k} images"
        return
    both = Comparison(templates, owners)
    if (lacking := _lacking(both.count(), len(twice))) is not None:
        missing[two] = lacking
        return
    progress(two)
    second = _pooled(emb, begins[full[twice]] + k, k)
    genuine = np.sort(exact_cosines(templates, twice, second, np.arange(len(twice))))
    pairs[two] = _measured(both, block, genuine)
    maxima[two] = block_maxima(templates, owners, templates)


def _pooled(emb: Float32, begins: Int64, k: int) -> Float32:
    return np.stack([template_of(emb[b : b + k]) for b in begins])


def _measured(comparison: Comparison, block: int, genuine_G: Float64 | None = None) -> PairCalibration:
    genuine = comparison.genuine() if genuine_G is None else genuine_G
    impostors = comparison.count()
    levels = _supported(impostors, len(genuine))
    tails, crossing = measure_tails(comparison, [_allowed(f, impostors) + 1 for f in levels], genuine, block=block)
    return _pair_calibration(genuine, impostors, comparison.mean(), levels, tails, crossing)


def _allowed(fmr: float, impostors: int) -> int:
    return math.floor(fmr * impostors)


def _supported(impostors: int, genuine: int) -> list[float]:
    lacking = _lacking(impostors, genuine)
    if lacking is not None:
        raise CalibrationError(f"calibration: {lacking}; use more identities")
    return [f for f in LEVELS if f * impostors >= RULE_OF_30]


def _lacking(impostors: int, genuine: int) -> str | None:
    """Return why so few pairs can support no level; None where they can."""
    least = round(RULE_OF_30 / LEVELS[0])
    if impostors >= least and genuine:
        return None
    return (
        f"{impostors} impostor and {genuine} genuine pairs cannot support any level; "
        f"at least {least} impostor pairs are needed"
    )


def _pair_calibration(
    genuine: npt.NDArray[np.floating],
    impostors: int,
    impostor_mean_cos: float,
    levels: Sequence[float],
    tails: Sequence[Tail],
    crossing: Tail,
) -> PairCalibration:
    cos, passing = [], []
    for fmr, tail in zip(levels, tails, strict=True):
        # the smallest value above the (allowed + 1)-th largest impostor lets at most `allowed` through
        edge = tail.ranked(_allowed(fmr, impostors) + 1)
        above = np.nextafter(tail.cos.dtype.type(edge), tail.cos.dtype.type(np.inf))
        cos.append(float(above))
        passing.append(tail.at_least(above))
    missed = [int(np.searchsorted(genuine, c, side="left")) for c in cos]
    fnmr = [m / len(genuine) for m in missed]
    fmr_bounds = [_bounds(n, impostors) for n in passing]
    fnmr_bounds = [_bounds(n, len(genuine)) for n in missed]
    at = dict(zip(levels, fnmr, strict=True))
    return PairCalibration(
        n_genuine=len(genuine),
        n_impostor=impostors,
        genuine_mean_cos=float(genuine.mean()),
        impostor_mean_cos=impostor_mean_cos,
        eer=equal_error(crossing, genuine, impostors),
        fmr=tuple(levels),
        cos=tuple(cos),
        fnmr=tuple(fnmr),
        false_matches=tuple(passing),
        fmr_low=tuple(low for low, _ in fmr_bounds),
        fmr_high=tuple(high for _, high in fmr_bounds),
        fnmr_low=tuple(low for low, _ in fnmr_bounds),
        fnmr_high=tuple(high for _, high in fnmr_bounds),
        insufficient=tuple(f for f in LEVELS if f not in levels),
        genuine_std_cos=float(genuine.std()),
        genuine_quantile=GENUINE_QUANTILES,
        genuine_cos=tuple(float(v) for v in np.quantile(genuine, GENUINE_QUANTILES)),
        fmr100=at.get(1e-2),
        fmr1000=at.get(1e-3),
    )


def _bounds(hits: int, total: int) -> tuple[float, float]:
    """Return the Wilson bounds of a share, never on the wrong side of it by rounding."""
    low, high = wilson_interval(hits, total)
    return min(low, hits / total), max(high, hits / total)


def block_maxima(probes_PE: Float32, owner_P: Int64, templates_TE: Float32) -> tuple[BlockMaxima, ...]:
    """Return quantiles of the largest exact cosine between a probe and N templates that are not its own.

    A probe's others are taken in their order, beginning behind its own template and going round; each full N of them
    is one block. `owner_P` holds each probe's own row of the templates.
    """
    total = len(templates_TE)
    sizes = [n for n in SIZES if n < total - 1] + [total - 1]
    most = max(1, MOST_MAXIMA // len(probes_PE))
    blocks = {n: min((total - 1) // n, most) for n in sizes}
    found: dict[int, list[Float64]] = {n: [] for n in sizes}
    turn, product = np.arange(1, total), NumpyProduct()
    at_once = max(1, _COSINES_AT_ONCE // total)
    for start in range(0, len(probes_PE), at_once):
        rows = np.arange(start, min(start + at_once, len(probes_PE)))
        columns = (owner_P[rows, None] + turn) % total
        cos = np.take_along_axis(product.product(probes_PE[rows], templates_TE), columns, axis=1)
        for n, count in blocks.items():
            found[n].append(_largest(cos[:, : n * count], n, rows, columns, probes_PE, templates_TE))
    return tuple(_quantiles(n, np.concatenate(values)) for n, values in found.items())


def _largest(cos: Float32, n: int, rows: Int64, columns: Int64, probes_PE: Float32, templates_TE: Float32) -> Float64:
    """Return the largest exact cosine of each row's blocks of n columns, row by row, float64."""
    blocked = cos.reshape(len(rows), -1, n)
    # float32 tells which may be the largest, the exact cosine which is
    floor = blocked.max(axis=2, keepdims=True) - np.float32(2 * rounding_margin(probes_PE.shape[1]) + 1e-6)
    row, place, inner = np.nonzero(blocked >= floor)
    exact = exact_cosines(probes_PE, rows[row], templates_TE, columns[row, place * n + inner])
    starts = np.flatnonzero(np.diff(row * blocked.shape[1] + place, prepend=-1))
    largest: Float64 = np.maximum.reduceat(exact, starts)
    return largest


def _quantiles(n: int, best: Float64) -> BlockMaxima:
    allowed = tuple(q for q in QUANTILES if (1 - q) * best.size >= RULE_OF_30 or q == QUANTILES[0])
    values = tuple(float(v) for v in np.quantile(best, allowed))
    return BlockMaxima(n, int(best.size), allowed, values, tuple(q for q in QUANTILES if q not in allowed))
