"""What a report says of a version, as values: gathered by the flow, drawn by an adapter, recomputed by tests.

Everything is an aggregate or a bounded gallery, so that a report of a million images is as light as one of a hundred.
A figure that was not measured is None or an empty tuple, never zero; `ReportFacts.not_measured` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cosine that decided something, and what it means."""

    name: str
    """Who uses it: `own-template`, `separation, enrolment`."""
    cos: float
    fmr: float | None
    """Its false match rate by calibration; for 1:N the false positive identification rate; of a cosine `of this set`
    the rate in this set. None where uncalibrated."""
    said: str = ""
    """The rate in words with the comparison that it is of: `1.0e-03 (sample/template4)`; where it comes from."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Genuine and impostor comparisons within the set under one recogniser.

    Attributes:
        role: `judge` or `auditor`.
        recogniser: the name of its space.
        identities: how many were compared, evenly chosen.
        n_genuine, n_impostor: pairs compared.
        edges_cos: B + 1 rising bin edges of both histograms.
        genuine, impostor: B counts each.
        genuine_mean_cos, genuine_std_cos, impostor_mean_cos, impostor_std_cos: of all compared pairs.
        eer: equal error rate, a share; fmr100 and fmr1000: the least FNMR at an FMR of at most 1 % and 0.1 %;
            auc: area under the ROC; fdr: Fisher discriminant ratio, (difference of means)^2 / (sum of variances).
        roc: (FMR, FNMR) pairs, FMR rising, at most a few hundred.
        thresholds: the cosines at the EER, FMR100 and FMR1000 of this set, and those that filters used.
        calibration: rows of (FMR, cosine, impostor pairs it rests on) of sample/sample, as calibrated elsewhere.
        images: how many were compared.
        images_each: most of one identity among them; 0 where all of everybody were.
    """

    role: str
    recogniser: str
    identities: int
    n_genuine: int
    n_impostor: int
    edges_cos: tuple[float, ...]
    genuine: tuple[int, ...]
    impostor: tuple[int, ...]
    genuine_mean_cos: float
    genuine_std_cos: float
    impostor_mean_cos: float
    impostor_std_cos: float
    eer: float | None
    fmr100: float | None
    fmr1000: float | None
    auc: float | None
    fdr: float | None
    roc: tuple[tuple[float, float], ...]
    thresholds: tuple[Threshold, ...]
    calibration: tuple[tuple[float, float, int], ...]
    images: int = 0
    images_each: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Uniqueness, consistency and diversity under one recogniser, each with how it was measured.

    Attributes:
        role: `judge` or `auditor`.
        uniqueness: share of identities whose template has no other one at or above the separation threshold.
        consistency: mean over identities of the mean cosine of their images to their template.
        diversity_cos: mean over identities of one less the mean pairwise cosine of their images.
        vendi: Vendi score of the identities' templates: exp of the entropy of their similarity matrix' eigenvalues.
        identities: how many were compared, evenly chosen; all their published images count.
        threshold: at which two templates collide, for uniqueness.
        nearest_other_cos: of each identity's largest cosine to another template the 50th, 95th and 99th percentile and
            the largest; empty where there is nobody else.
    """

    role: str
    uniqueness: float
    consistency: float
    diversity_cos: float
    vendi: float | None
    identities: int
    threshold: Threshold | None = None
    nearest_other_cos: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasureFacts:
    """How one measure is distributed, over accepted and over refused images, and by cell.

    Attributes:
        name, unit: as in the segments; `unit` is what follows the last `_` where it is one, else empty.
        edges: B + 1 rising bin edges.
        accepted, refused: B counts each, of candidates as they were made; values outside the edges count in the
            outermost bins.
        missing: candidates for which it is not a number.
        by_cell: cell -> (number of published, 5th, 50th and 95th percentile of published), to within a thousandth of
            the range.
        bounds: thresholds of filters that read it, by filter.
        published: B counts of the images that the version names: `accepted` less what it leaves out.
    """

    name: str
    unit: str
    edges: tuple[float, ...]
    accepted: tuple[int, ...]
    refused: tuple[int, ...]
    missing: int
    by_cell: Mapping[str, tuple[int, float, float, float]]
    bounds: tuple[tuple[str, float], ...] = ()
    published: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Funnel:
    """What became of every candidate image. `candidates == accepted + refused`; the reasons sum to `refused`.

    Candidates, accepted, refused and reasons are as they were made, over all generations, twins apart; published is
    what the version names, so `accepted == published + left_out`.
    """

    candidates: int
    accepted: int
    refused: int
    off_target: int
    published: int
    twins: int
    reasons: tuple[tuple[str, int, int], ...]
    """(reason, refused with it first, refused with it at all), the commonest first."""
    by_cell: Mapping[str, Mapping[str, Any]]
    """cell -> {candidates, accepted, published, reasons: {reason: first}}."""
    enrolment: Mapping[str, Any]
    """{candidates, accepted, refused, reasons} over candidate identities, and how many of them were `probed`."""
    left_out: int = 0
    """Accepted when they were made and not in this version: of identities that could not be filled or gave way, or
    refused by filters that judged again."""
    judged_again: Mapping[str, Any] = field(default_factory=dict)
    """Of a version made by judging again: {candidates, accepted, refused, reasons, images_left_out,
    left_out_by_reason} under its filters; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One face of a gallery.

    Attributes:
        jpeg: its bytes as stored; never encoded again.
        alt: what is to be seen, for who does not see it: cell, conditions, verdict.
        caption: a few words below it.
        tags: name -> value, what the gallery can be filtered by: `cell`, `reason`.
        group: pictures of equal group stand together: an identity, a pair.
    """

    jpeg: bytes = field(repr=False)
    alt: str
    caption: str
    tags: Mapping[str, str]
    group: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """A bounded choice of pictures; `chosen` says by what rule, so that nobody takes them for more than they are."""

    name: str
    """A stable word: `random`, `worst-accepted`, `refused`, `most-similar`."""
    title: str
    chosen: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """A whole report.

    Attributes:
        name, version, digest: of the dataset.
        manifest: the version's manifest as a mapping (counts, figures with `balance`, `variation`, `leakage`,
            `thresholds`; models; use; parent; fingerprint; plan_digest).
        recipe: the resolved recipe of the version's generation; where it is published, without what changes no byte
            (`compute`, `previews`, `stop_above`).
        models: role -> {name, licence, sha256, commercial_use, source, space, calibrated_on}.
        funnel, curves, spread, measures, galleries: see there.
        throughput: facts from receipts: {candidates, seconds, candidates_per_s, units, device_kinds: {kind: units},
            hosts, started, ended}; empty where receipts say nothing.
        provenance: lines of (what, value): generator, seeds, versions of libraries, growth, erasures, exports.
        not_measured: (what, why): what a reader might look for in vain.
    """

    name: str
    version: str
    digest: str
    manifest: Mapping[str, Any]
    recipe: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    funnel: Funnel
    curves: tuple[Curves, ...]
    spread: tuple[Spread, ...]
    measures: tuple[MeasureFacts, ...]
    galleries: tuple[Gallery, ...]
    throughput: Mapping[str, Any]
    provenance: tuple[tuple[str, str], ...]
    not_measured: tuple[tuple[str, str], ...]
