"""Leakage: does somebody of a gallery come out of a generator? The values and rules of that question, without its work.

Four comparisons are made, each with a threshold of its own: images and templates of ours, against the samples and
against the centroids of a gallery. What is compared is always the nearest of all of them, so a threshold is a quantile
of the nearest of people known not to be there (the control), or a calibrated 1:N figure. A pairwise threshold would be
passed by chance: against 490,000 images, half of all strangers find somebody at an FMR of 1e-6.

Legend: N rows, G people of the galleries, E embedding dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import CalibrationError, UserError
from pipeline.domain.records import Float32, template_of
from pipeline.domain.separation import max_cos_to_others

REASON = "leaks_gallery_identity"
COPY_REASON = "copies_gallery_image"
SAMPLES, CENTROIDS = "samples", "centroids"
"""What of a gallery is compared with."""
JUDGE, SCREENING, AUDITOR = "judge", "screening", "auditor"
COPY_BITS = "nearest_gallery_copy_bits"
TAIL = 10
"""Control values that must lie above a threshold: with so many, its false alarm rate is known to about a third."""
LEAST_CONTROL = 100
"""Values below which a control supports no threshold at all."""

_MEASURES = {SAMPLES: "nearest_gallery_cos", CENTROIDS: "nearest_gallery_centroid_cos"}


def measure_name(side: str, role: str) -> str:
    """Return the measure that holds the nearest cosine to one side of the galleries under one recogniser."""
    return _MEASURES[side] if role == JUDGE else f"{_MEASURES[side]}_{role}"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Every face of the galleries under one recogniser.

    Attributes:
        emb_NE: float32 unit rows, face by face.
        owner_N: int64, row of each face's person among the centroids.
        centroid_GE: float32 unit rows, the mean of each person's faces.
        people: gallery and label of each person, `gallery/label`.
        names: where each face comes from, `gallery/name`.
    """

    emb_NE: Float32
    owner_N: npt.NDArray[np.int64]
    centroid_GE: Float32
    people: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(
        cls, emb_NE: Float32, owner_N: npt.NDArray[np.int64], people: Sequence[str], names: Sequence[str]
    ) -> Reference:
        """Return the reference with its centroids; every person has at least one face."""
        order = np.argsort(owner_N, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(owner_N[order])) + 1)
        centroids = np.stack([template_of(emb_NE[rows]) for rows in groups])
        return cls(emb_NE, owner_N, centroids, tuple(people), tuple(names))

    def side(self, side: str) -> Float32:
        """Return the rows that one side compares with."""
        return self.emb_NE if side == SAMPLES else self.centroid_GE

    @property
    def least_images(self) -> int:
        """Return the number of faces of the person with the fewest."""
        return int(np.bincount(self.owner_N).min())

    def nearest(self, side: str, probes_NE: Float32) -> tuple[Float32, npt.NDArray[np.int64]]:
        """Return each probe's largest cosine to one side, and the row of it."""
        return max_cos_to_others(probes_NE, self.side(side), np.full(len(probes_NE), -1, np.int64))

    def name_of(self, side: str, row: int) -> str:
        """Return who or what a row is."""
        return self.names[row] if side == SAMPLES else self.people[row]


def chunked_templates(emb_NE: Float32, owner_N: npt.NDArray[np.int64], images: int) -> tuple[Float32, int]:
    """Return templates of as many images each as people have, up to `images`, and how many that is.

    Each person's faces are cut, in their order, into as many templates as they fill; the size is the largest that at
    least LEAST_CONTROL templates can be made of, so that a control of few images a person serves for less.
    """
    order = np.argsort(owner_N, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(owner_N[order])) + 1)
    size = images
    while size > 1 and sum(len(rows) // size for rows in groups) < LEAST_CONTROL:
        size -= 1
    if size == 1:
        return emb_NE, 1
    cut = [rows[n * size : (n + 1) * size] for rows in groups for n in range(len(rows) // size)]
    return np.stack([template_of(emb_NE[rows]) for rows in cut]), size


@dataclass(frozen=True, slots=True)
class Limit:
    """The cosine from which on a comparison counts as a leak, and where it comes from.

    Attributes:
        cos: the least flagged cosine; None where nothing supports one.
        origin: `control`, `calibration 1:N`, `calibration FMR fpir/N`, `given`, or why there is none.
        rate: share of strangers flagged by it; None where it was given.
        n: control values, or the N that was calibrated.
        images: how many images the templates of control or calibration pool.
        baseline: of the control: `n`, `max`, `p99`, `p99.9`.
    """

    cos: float | None
    origin: str
    rate: float | None = None
    n: int | None = None
    images: int = 1
    baseline: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {k: getattr(self, k) for k in self.__dataclass_fields__}


def limit_from_control(nearest_N: Float32, quantile: float, images: int) -> Limit:
    """Return the threshold at a quantile of how near strangers come to the galleries.

    It is the smallest cosine that at most n (1 - quantile) of the n control values reach; where that is less than TAIL
    values, the quantile is lowered until it is TAIL.

    Raises:
        UserError: the control holds too few faces.
    """
    n = len(nearest_N)
    if n < LEAST_CONTROL:
        raise UserError(
            f"leakage.control: {n} faces that can be compared; a threshold needs at least {LEAST_CONTROL}, and its "
            f"{quantile:g} quantile {math.ceil(TAIL / (1 - quantile))}"
        )
    above = max(TAIL, math.floor(n * (1 - quantile) + 1e-9))
    ranked = np.sort(nearest_N)
    # the smallest value above the next largest one lets exactly `above` through
    cos = float(np.nextafter(ranked[n - above - 1], np.float32(2)))
    return Limit(cos, "control", above / n, n, images, spread(nearest_N))


def limit_from_calibration(
    calibration: Calibration, fpir: float, n: int, *, probe_images: int, reference_images: int
) -> Limit:
    """Return the threshold for one probe against N references: the calibrated 1:N figure, else the FMR fpir / N.

    The second is an upper bound: of N comparisons that each match at fpir / N, at most a share fpir of probes finds
    one. Where neither is calibrated, the figure of the largest calibrated N serves, which flags more than `fpir`.
    """
    few, many = sorted((probe_images, reference_images))
    beyond: Limit | None = None
    try:
        kind = calibration.kind(probe_images=probe_images, reference_images=reference_images)
        cos, calibrated = calibration.one_to_many_cos(fpir, n, kind)
        if calibrated >= n:
            return Limit(cos, "calibration 1:N", fpir, calibrated, probe_images)
        beyond = Limit(cos, f"calibration 1:N, beyond its N={calibrated}", None, calibrated, probe_images)
    except CalibrationError:
        pass
    try:
        # one pair is as alike either way round, so the smaller side may stand first
        kind = calibration.kind(probe_images=few, reference_images=many)
        return Limit(calibration.threshold_cos(fpir / n, kind), "calibration FMR fpir/N", fpir, n, probe_images)
    except CalibrationError as error:
        return beyond or Limit(None, f"none: {error}")


def spread(values_N: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return how many values there are, the largest, and the upper percentiles."""
    out: dict[str, float] = {"n": len(values_N), "max": float(values_N.max())}
    for name, q in (("p99", 0.99), ("p99.9", 0.999)):
        out[name] = float(np.quantile(values_N, q))
    return out


def flagged(cos_N: npt.NDArray[np.floating], limit: Limit) -> npt.NDArray[np.bool_]:
    """Return which cosines count as leaks; one that is no number does."""
    if limit.cos is None:
        return np.zeros(len(cos_N), bool)
    return ~(cos_N < limit.cos)


def comparison_figures(cos_N: npt.NDArray[np.floating], limit: Limit) -> dict[str, Any]:
    """Return the row of a leakage table: how near ours come, how near the control, how many are flagged."""
    said = limit.to_dict()
    baseline = said.pop("baseline")
    row: dict[str, Any] = {"threshold": said, "flagged": int(flagged(cos_N, limit).sum()), **spread(cos_N)}
    if baseline is not None:
        row["control"] = dict(baseline)
    return row


def nearest_pairs(cos_N: npt.NDArray[np.floating], keep: int) -> list[int]:
    """Return the places of the `keep` largest cosines, the largest first, the earlier on a tie."""
    places: list[int] = np.argsort(-cos_N, kind="stable")[:keep].tolist()
    return places
