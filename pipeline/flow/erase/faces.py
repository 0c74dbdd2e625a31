"""Who a face may be: its embedding against the templates of everybody published, under the judge.

A cosine is never a name. What is told is how often two different people come that near (FMR), and whether it reaches
the 1:N threshold at which a face of nobody here would still match somebody at a stated rate (FPIR).

Legend: M identities, E embedding dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from pipeline.domain.calibration import Calibration
from pipeline.domain.cosines import exact_cosines
from pipeline.domain.errors import CalibrationError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.records import UInt8
from pipeline.flow.parts import Parts, embed_fixed
from pipeline.flow.past import Past, published_templates

FPIRS = (0.01, 0.02, 0.03, 0.05)
"""Rates at which a face of nobody here would still match somebody, the strictest first: that for which the judge's
calibration gives a threshold is taken, and beyond the last no match counts."""


@dataclass(frozen=True, slots=True)
class Match:
    """One published identity, as near as it comes to a face.

    Attributes:
        identity: ordinal.
        cos: the face against the template of its published images.
        fmr: how often two different people come that near, clamped to what is calibrated; None where nothing is.
        reaches: whether the cosine reaches the 1:N threshold.
    """

    identity: int
    cos: float
    fmr: float | None
    reaches: bool


@dataclass(frozen=True, slots=True)
class Matches:
    """The nearest identities, the nearest first.

    Attributes:
        threshold_cos: at which a match counts; None where the judge's calibration gives none, and then none counts.
        fpir: what the threshold stands for; None where there is none.
        calibrated_n: how many people the calibration compared a face with, where M is larger.
        of: M, how many were compared with.
        fmr_range: the lowest and the highest FMR that is calibrated; one that is told may lie beyond its end. None
            where nothing is calibrated.
        nearest: the nearest ones.
    """

    threshold_cos: float | None
    fpir: float | None
    calibrated_n: int | None
    of: int
    fmr_range: tuple[float, float] | None
    nearest: tuple[Match, ...]

    @property
    def confirmed(self) -> frozenset[int]:
        """Return who reaches the threshold."""
        return frozenset(m.identity for m in self.nearest if m.reaches)


def match_face(parts: Parts, rows: Sequence[IndexRow], face_HWC: UInt8, most: int = 10) -> Matches:
    """Return whom a face comes near to.

    Args:
        parts: the ports; the judge embeds.
        rows: the index without twins.
        face_HWC: uint8 RGB, aligned as the judge expects it.
        most: how many are told; whoever reaches the threshold is told in any case.

    Raises:
        BadVectorError: the face cannot be embedded.
        CalibrationError: the judge's calibration has some comparisons, and none of an image with a template.
    """
    past = Past(rows=tuple(rows), labels={r.identity: r.label for r in rows})
    ordinals, templates_ME = published_templates(parts, past)
    probe_1E = embed_fixed(parts.judge, face_HWC[None], parts.judge_batch)
    cos_M = exact_cosines(probe_1E, np.zeros(len(ordinals), np.int64), templates_ME, np.arange(len(ordinals)))
    calibration = parts.judge.calibration
    order = np.argsort(-cos_M, kind="stable").tolist()
    if not calibration.measured_anything:
        # whom it may be is worth knowing all the same; nobody is confirmed
        nearest = tuple(Match(ordinals[n], float(cos_M[n]), None, reaches=False) for n in order[:most])
        return Matches(None, None, None, len(ordinals), None, nearest)
    images = min(Counter(r.identity for r in rows).values())
    kind = calibration.kind(probe_images=1, reference_images=images)
    fpir, threshold, calibrated = _threshold(calibration, len(ordinals), kind)
    told = [n for place, n in enumerate(order) if place < most or cos_M[n] >= threshold]
    found = tuple(
        Match(ordinals[n], float(cos_M[n]), calibration.fmr_at(float(cos_M[n]), kind), bool(cos_M[n] >= threshold))
        for n in told
    )
    known = None if fpir is None else threshold
    beyond = calibrated if calibrated < len(ordinals) else None
    levels = calibration.pairs[kind].fmr
    return Matches(known, fpir, beyond, len(ordinals), (min(levels), max(levels)), found)


def _threshold(calibration: Calibration, people: int, kind: str) -> tuple[float | None, float, int]:
    """Return the strictest rate that the calibration supports, its threshold, and for how many people it was found."""
    for fpir in FPIRS:
        with suppress(CalibrationError):
            return fpir, *calibration.one_to_many_cos(fpir, people, kind)
    return None, float("inf"), people
