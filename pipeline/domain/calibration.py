"""What a recogniser's cosines mean: FMR <-> cosine by unit compared, and 1:N thresholds from block maxima.

A threshold belongs to a recogniser, an alignment and the *unit compared*: one image with one image
(`sample/sample`), one image with a template of k images (`sample/template4`), or two templates
(`template4/template4`). FMR, FNMR and EER are those of ISO/IEC 19795-1. A pairwise threshold is never used
1:N: `one_to_many` holds quantiles of the largest cosine over N disjoint identities, measured as such.

Levels that the impostor pairs cannot support (fewer than 30 expected errors, the rule of 30) are absent, and
asking for them is an error that says what is supported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import CalibrationError
from pipeline.domain.records import Float32, require_unit_rows, unit_rows
from pipeline.domain.space import Space

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False match rates at which thresholds are measured."""
RULE_OF_30 = 30
QUANTILES = (0.5, 0.9, 0.95, 0.97, 0.98, 0.99, 0.999)
"""Quantiles of the block maximum that are measured: 0.99 is the threshold of FPIR 1 %."""


@dataclass(frozen=True, slots=True)
class PairCalibration:
    """Genuine and impostor statistics of one kind of comparison.

    `fmr` and `cos` are parallel, FMR falling, cosine rising; `fnmr` is the miss rate at each.
    """

    n_genuine: int
    n_impostor: int
    genuine_mean_cos: float
    impostor_mean_cos: float
    eer: float
    fmr: tuple[float, ...]
    cos: tuple[float, ...]
    fnmr: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BlockMaxima:
    """Quantiles of the largest cosine between one probe and N identities that are not its own."""

    n: int
    n_probes: int
    quantile: tuple[float, ...]
    cos: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """All thresholds of one recogniser in one space."""

    space: Space
    source: str
    pairs: Mapping[str, PairCalibration]
    one_to_many: Mapping[str, tuple[BlockMaxima, ...]]

    def kind(self, *, probe_images: int, reference_images: int) -> str:
        """Return the calibrated unit for templates of these sizes: the largest calibrated k that they reach.

        Raises:
            CalibrationError: nothing fitting was calibrated.
        """
        fitting = [
            (min(p, probe_images), min(r, reference_images), name)
            for name in self.pairs
            for p, r in [_images_of(name)]
            if p <= probe_images and r <= reference_images
        ]
        if not fitting:
            raise CalibrationError(
                f"calibration of {self.space.name!r} has no comparison for {probe_images} against "
                f"{reference_images} images; it has {', '.join(sorted(self.pairs))}"
            )
        return max(fitting, key=lambda f: (f[0] * f[1], f[0]))[2]

    def threshold_cos(self, fmr: float, kind: str) -> float:
        """Return the cosine at this false match rate: measured, or log-linear between measured levels.

        Raises:
            CalibrationError: the level lies outside what the impostor pairs support.
        """
        pair = self._pair(kind)
        low, high = pair.fmr[-1], pair.fmr[0]
        if not low * (1 - 1e-9) <= fmr <= high * (1 + 1e-9):
            raise CalibrationError(
                f"fmr {fmr:g} is outside what {self.space.name!r} was calibrated for ({low:g} to {high:g}, "
                f"{kind}, {pair.n_impostor} impostor pairs); choose a level inside, or calibrate on more identities"
            )
        logs = [math.log10(f) for f in pair.fmr]
        return float(np.interp(-math.log10(fmr), [-x for x in logs], pair.cos))

    def fmr_at(self, cos: float, kind: str) -> float:
        """Return the false match rate at a cosine, clamped to the calibrated range."""
        pair = self._pair(kind)
        return float(10 ** -np.interp(cos, pair.cos, [-math.log10(f) for f in pair.fmr]))

    def one_to_many_cos(self, fpir: float, n: int, kind: str) -> tuple[float, int]:
        """Return the 1:N threshold at a false positive identification rate, and the N that was calibrated.

        The smallest calibrated N that is at least `n` serves; beyond the largest, the largest serves and the
        caller reports it.
        """
        blocks = self.one_to_many.get(kind, ())
        if not blocks:
            raise CalibrationError(f"calibration of {self.space.name!r} has no 1:N figures for {kind}")
        block = next((b for b in blocks if b.n >= n), blocks[-1])
        quantile = 1.0 - fpir
        if not block.quantile[0] - 1e-9 <= quantile <= block.quantile[-1] + 1e-9:
            raise CalibrationError(
                f"fpir {fpir:g} is outside what {self.space.name!r} was calibrated for "
                f"({1 - block.quantile[-1]:g} to {1 - block.quantile[0]:g} at N={block.n}, {block.n_probes} probes)"
            )
        return float(np.interp(quantile, block.quantile, block.cos)), block.n

    def _pair(self, kind: str) -> PairCalibration:
        if kind not in self.pairs:
            raise CalibrationError(
                f"calibration of {self.space.name!r} has no {kind!r}; it has {', '.join(sorted(self.pairs))}"
            )
        return self.pairs[kind]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "space": self.space.to_dict(),
            "source": self.source,
            "pairs": {k: _fields(v) for k, v in self.pairs.items()},
            "one_to_many": {k: [_fields(b) for b in v] for k, v in self.one_to_many.items()},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote."""
        return cls(
            space=Space.from_dict(raw["space"]),
            source=raw["source"],
            pairs={k: PairCalibration(**_tuples(v)) for k, v in raw["pairs"].items()},
            one_to_many={k: tuple(BlockMaxima(**_tuples(b)) for b in v) for k, v in raw["one_to_many"].items()},
        )


def pair_kind(probe_images: int, reference_images: int) -> str:
    """Return the name of a unit compared: `sample/template4`, `template4/template4`."""
    names = ["sample" if k == 1 else f"template{k}" for k in (probe_images, reference_images)]
    return "/".join(names)


def measure_pairs(genuine_cos: npt.NDArray[np.floating], impostor_cos: npt.NDArray[np.floating]) -> PairCalibration:
    """Return thresholds and error rates from genuine and impostor cosines, both 1-D.

    The threshold at FMR f is the smallest observed cosine t such that at most a share f of impostors is >= t.
    Levels with fewer than 30 impostor errors are left out.
    """
    genuine, impostor = np.sort(genuine_cos), np.sort(impostor_cos)
    levels = [f for f in LEVELS if f * impostor.size >= RULE_OF_30]
    if not levels or not genuine.size:
        raise CalibrationError(
            f"{impostor.size} impostor and {genuine.size} genuine pairs cannot support any level; "
            f"at least {int(RULE_OF_30 / LEVELS[0])} impostor pairs are needed"
        )
    cos = []
    for f in levels:
        allowed = math.floor(f * impostor.size)
        # the smallest value above the (allowed + 1)-th largest impostor lets exactly `allowed` through
        cos.append(float(np.nextafter(impostor[impostor.size - allowed - 1], np.inf)))
    fnmr = [float(np.searchsorted(genuine, c, side="left") / genuine.size) for c in cos]
    return PairCalibration(
        n_genuine=int(genuine.size),
        n_impostor=int(impostor.size),
        genuine_mean_cos=float(genuine.mean()),
        impostor_mean_cos=float(impostor.mean()),
        eer=equal_error_rate(genuine, impostor),
        fmr=tuple(levels),
        cos=tuple(cos),
        fnmr=tuple(fnmr),
    )


def equal_error_rate(genuine_cos: npt.NDArray[np.floating], impostor_cos: npt.NDArray[np.floating]) -> float:
    """Return the rate at which FMR and FNMR meet, over all observed thresholds, as their mean where they cross."""
    genuine, impostor = np.sort(genuine_cos), np.sort(impostor_cos)
    steps = np.unique(np.concatenate([genuine, np.quantile(impostor, np.linspace(0, 1, 10_001))]))
    fnmr = np.searchsorted(genuine, steps, side="left") / genuine.size
    fmr = 1.0 - np.searchsorted(impostor, steps, side="left") / impostor.size
    best = int(np.argmin(np.abs(fnmr - fmr)))
    return float((fnmr[best] + fmr[best]) / 2)


def calibrate(
    space: Space, source: str, emb_NE: Float32, labels_N: npt.NDArray[np.integer], *, template_sizes: Sequence[int]
) -> Calibration:
    """Measure a recogniser on labelled embeddings.

    Args:
        space: where the embeddings live.
        source: what the images were, for the record.
        emb_NE: float32 unit rows.
        labels_N: identity of each row. An identity's rows are used in their order: the first k form its
            template, the rest are its genuine samples.
        template_sizes: the k of `sample/template<k>` and `template<k>/template<k>`.

    Template/template genuine pairs need 2k images of an identity; impostors need k.
    """
    emb = require_unit_rows(emb_NE, "calibration")
    ids, first = np.unique(labels_N, return_index=True)
    rows = [np.flatnonzero(labels_N == i) for i in ids[np.argsort(first)]]
    owner = np.concatenate([np.full(len(r), i) for i, r in enumerate(rows)])
    ordered = emb[np.concatenate(rows)]
    pairs = {pair_kind(1, 1): measure_pairs(*_split(ordered, owner, ordered, owner, same=True))}
    maxima: dict[str, tuple[BlockMaxima, ...]] = {}
    for k in template_sizes:
        full = [r for r in rows if len(r) > k]
        if len(full) < 2:
            raise CalibrationError(f"template size {k} needs identities with more than {k} images; got {len(full)}")
        owners = np.arange(len(full))
        templates = unit_rows(np.stack([emb[r[:k]].mean(axis=0) for r in full]), "templates")
        rest = emb[np.concatenate([r[k:] for r in full])]
        rest_owner = np.concatenate([np.full(len(r) - k, i) for i, r in enumerate(full)])
        one = pair_kind(1, k)
        pairs[one] = measure_pairs(*_split(rest, rest_owner, templates, owners, same=False))
        maxima[one] = _block_maxima(rest, rest_owner, templates)
        twice = [i for i, r in enumerate(full) if len(r) >= 2 * k]
        if twice:
            second = unit_rows(np.stack([emb[full[i][k : 2 * k]].mean(axis=0) for i in twice]), "templates")
            genuine = np.einsum("ne,ne->n", templates[twice], second)
            two = pair_kind(k, k)
            impostor = (templates @ templates.T)[np.triu_indices(len(full), 1)]
            pairs[two] = measure_pairs(genuine, impostor)
            maxima[two] = _block_maxima(templates, owners, templates)
    return Calibration(space=space, source=source, pairs=pairs, one_to_many=maxima)


def _split(
    probes: Float32, probe_owner: npt.NDArray[Any], refs: Float32, ref_owner: npt.NDArray[Any], *, same: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return genuine and impostor cosines of all pairs, each unordered pair once where both sides are the same."""
    genuine, impostor = [], []
    for start in range(0, len(probes), 512):
        block = probes[start : start + 512] @ refs.T
        mine = probe_owner[start : start + 512, None] == ref_owner[None, :]
        use = np.ones_like(mine)
        if same:
            use = np.arange(len(refs))[None, :] > np.arange(start, start + len(block))[:, None]
        genuine.append(block[mine & use])
        impostor.append(block[~mine & use])
    return np.concatenate(genuine), np.concatenate(impostor)


def _block_maxima(probes: Float32, probe_owner: npt.NDArray[Any], templates: Float32) -> tuple[BlockMaxima, ...]:
    """Return quantiles of the largest cosine over N other identities, N in disjoint blocks of the templates."""
    out = []
    total = len(templates)
    sizes = [n for n in (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000) if n < total] + [total - 1]
    cos = probes @ templates.T
    cos[np.arange(len(probes)), probe_owner] = -np.inf
    for n in sizes:
        blocks = max(1, total // n)
        best = np.concatenate([cos[:, b * n : (b + 1) * n].max(axis=1) for b in range(blocks)])
        allowed = [q for q in QUANTILES if (1 - q) * best.size >= RULE_OF_30 or q == QUANTILES[0]]
        values = tuple(float(v) for v in np.quantile(best, allowed))
        out.append(BlockMaxima(n=n, n_probes=int(best.size), quantile=tuple(allowed), cos=values))
    return tuple(out)


def _images_of(kind: str) -> tuple[int, int]:
    left, right = (1 if p == "sample" else int(p.removeprefix("template")) for p in kind.split("/"))
    return left, right


def _fields(value: Any) -> dict[str, Any]:
    return {k: getattr(value, k) for k in value.__dataclass_fields__}


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
