"""What a recogniser's cosines mean: FMR <-> cosine by unit compared, and 1:N thresholds from block maxima.

A threshold belongs to a recogniser, an alignment and the *unit compared*: one image with one image
(`sample/sample`), one image with a template of k images (`sample/template4`), or two templates
(`template4/template4`). FMR, FNMR and EER are those of ISO/IEC 19795-1. A pairwise threshold is never used
1:N: `one_to_many` holds quantiles of the largest cosine over N disjoint identities, measured as such.

Levels that the impostor pairs cannot support (fewer than 30 expected errors, the rule of 30) have no cosine: they are
listed as insufficient, and asking for one is an error that says what is supported. `pipeline.domain.calibrating`
measures what is held here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import CalibrationError
from pipeline.domain.space import Space

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False match rates at which thresholds are measured."""
RULE_OF_30 = 30
QUANTILES = (0.5, 0.9, 0.95, 0.97, 0.98, 0.99, 0.999)
"""Quantiles of the block maximum that are measured: 0.99 is the threshold of FPIR 1 %."""


@dataclass(frozen=True, slots=True)
class PairCalibration:
    """Genuine and impostor statistics of one kind of comparison.

    `fmr`, `cos`, `fnmr` and the bounds are parallel, FMR falling, cosine rising. What has a default is unknown of
    calibrations that were measured before it was asked for.

    Attributes:
        n_genuine: pairs of one person.
        n_impostor: pairs of two.
        genuine_mean_cos: mean over the genuine pairs.
        impostor_mean_cos: mean over the impostor pairs.
        eer: where FMR and FNMR meet.
        fmr: the levels that the impostor pairs support.
        cos: the smallest cosine at which no larger share of the impostor pairs passes.
        fnmr: share of the genuine pairs below it.
        false_matches: impostor pairs that pass.
        fmr_low: lower Wilson bound (95 %) of the rate at which they do. It takes pairs as independent, which pairs
            that share a face are not: the truth is less certain than it says.
        fmr_high: the upper one.
        fnmr_low: lower Wilson bound of `fnmr`.
        fnmr_high: the upper one.
        insufficient: levels asked for that fewer than 30 impostor pairs are expected to pass at: no cosine is given.
        genuine_std_cos: standard deviation over the genuine pairs.
        genuine_quantile: shares of the genuine pairs, rising.
        genuine_cos: the cosines below which these shares lie.
        fmr100: FNMR at FMR 1 %; None where that level is insufficient.
        fmr1000: FNMR at FMR 0.1 %; None where that level is insufficient.
    """

    n_genuine: int
    n_impostor: int
    genuine_mean_cos: float
    impostor_mean_cos: float
    eer: float
    fmr: tuple[float, ...]
    cos: tuple[float, ...]
    fnmr: tuple[float, ...]
    false_matches: tuple[int, ...] = ()
    fmr_low: tuple[float, ...] = ()
    fmr_high: tuple[float, ...] = ()
    fnmr_low: tuple[float, ...] = ()
    fnmr_high: tuple[float, ...] = ()
    insufficient: tuple[float, ...] = ()
    genuine_std_cos: float | None = None
    genuine_quantile: tuple[float, ...] = ()
    genuine_cos: tuple[float, ...] = ()
    fmr100: float | None = None
    fmr1000: float | None = None


@dataclass(frozen=True, slots=True)
class BlockMaxima:
    """Quantiles of the largest cosine between one probe and N identities that are not its own."""

    n: int
    n_probes: int
    quantile: tuple[float, ...]
    cos: tuple[float, ...]
    insufficient: tuple[float, ...] = ()
    """Quantiles that fewer than 30 of the maxima lie above: no cosine is given."""

    def supports(self, quantile: float) -> bool:
        """Return whether a quantile lies within those measured."""
        return self.quantile[0] - 1e-9 <= quantile <= self.quantile[-1] + 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """All thresholds of one recogniser in one space."""

    space: Space
    source: str
    pairs: Mapping[str, PairCalibration]
    one_to_many: Mapping[str, tuple[BlockMaxima, ...]]
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What it was measured on: `identities`, `images`, `digest` of what was embedded, `unreadable`, `not_measured`
    (comparison -> why); empty where unknown."""

    @classmethod
    def none(cls, space: Space, what_to_do: str) -> Calibration:
        """Return what a recogniser has that nobody calibrated: cosines are compared, and no rate is known of them.

        Whoever asks it for a rate is told `what_to_do`.
        """
        return cls(space, what_to_do, {}, {})

    @property
    def measured_anything(self) -> bool:
        """Return whether any rate is known."""
        return bool(self.pairs or self.one_to_many)

    def kind(self, *, probe_images: int, reference_images: int) -> str:
        """Return the calibrated unit for templates of these sizes: the largest calibrated k that they reach.

        Raises:
            CalibrationError: nothing fitting was calibrated.
        """
        self._require_any()
        fitting = [
            (min(p, probe_images), min(r, reference_images), name)
            for name, pair in self.pairs.items()
            if pair.fmr
            for p, r in [images_of(name)]
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

    def one_to_many_cos(self, fpir: float, n: int, kind: str, *, or_fewer: bool = False) -> tuple[float, int]:
        """Return the 1:N threshold at a false positive identification rate, and the N that was calibrated.

        The smallest calibrated N that is at least `n` serves; beyond the largest, the largest serves and the
        caller reports it. With `or_fewer` so does the largest below it whose maxima support the rate, where those of
        its own do not: its threshold is the lower one, at which more than that rate are found among `n`.

        Raises:
            CalibrationError: nothing 1:N was calibrated, or the maxima do not support the rate.
        """
        self._require_any()
        blocks = self.one_to_many.get(kind, ())
        if not blocks:
            raise CalibrationError(f"calibration of {self.space.name!r} has no 1:N figures for {kind}")
        block = next((b for b in blocks if b.n >= n), blocks[-1])
        quantile = 1.0 - fpir
        if or_fewer:
            block = next((b for b in reversed(blocks) if b.n <= block.n and b.supports(quantile)), block)
        if not block.supports(quantile):
            raise CalibrationError(
                f"fpir {fpir:g} is outside what {self.space.name!r} was calibrated for "
                f"({1 - block.quantile[-1]:g} to {1 - block.quantile[0]:g} at N={block.n}, {block.n_probes} probes); "
                "choose a rate inside, or calibrate on more identities"
            )
        return float(np.interp(quantile, block.quantile, block.cos)), block.n

    def _require_any(self) -> None:
        if not self.measured_anything:
            raise CalibrationError(
                f"recogniser {self.space.name}: is not calibrated, and no threshold can be given as a rate; "
                f"{self.source}"
            )

    def _pair(self, kind: str) -> PairCalibration:
        self._require_any()
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
            "measured": dict(self.measured),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote."""
        return cls(
            space=Space.from_dict(raw["space"]),
            source=raw["source"],
            pairs={k: PairCalibration(**_tuples(v)) for k, v in raw["pairs"].items()},
            one_to_many={k: tuple(BlockMaxima(**_tuples(b)) for b in v) for k, v in raw["one_to_many"].items()},
            measured=raw.get("measured", {}),
        )


def pair_kind(probe_images: int, reference_images: int) -> str:
    """Return the name of a unit compared: `sample/template4`, `template4/template4`."""
    names = ["sample" if k == 1 else f"template{k}" for k in (probe_images, reference_images)]
    return "/".join(names)


def equal_error_rate(genuine_cos: npt.NDArray[np.floating], impostor_cos: npt.NDArray[np.floating]) -> float:
    """Return the rate at which FMR and FNMR meet, over all observed thresholds, as their mean where they cross."""
    genuine, impostor = np.sort(genuine_cos), np.sort(impostor_cos)
    steps = np.unique(np.concatenate([genuine, np.quantile(impostor, np.linspace(0, 1, 10_001))]))
    fnmr = np.searchsorted(genuine, steps, side="left") / genuine.size
    fmr = 1.0 - np.searchsorted(impostor, steps, side="left") / impostor.size
    best = int(np.argmin(np.abs(fnmr - fmr)))
    return float((fnmr[best] + fmr[best]) / 2)


def images_of(kind: str) -> tuple[int, int]:
    """Return of how many images either side of a comparison is made: `sample/template4` is 1 and 4."""
    left, right = (1 if p == "sample" else int(p.removeprefix("template")) for p in kind.split("/"))
    return left, right


def _fields(value: Any) -> dict[str, Any]:
    return {k: getattr(value, k) for k in value.__dataclass_fields__}


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
