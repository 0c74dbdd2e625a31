"""Similarity as a report says it: error rates, thresholds, uniqueness and spread, under judge and auditor.

Everything comes from stored embeddings and stored calibrations; no model is loaded.

Legend: M identities, E dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import CalibrationError
from pipeline.domain.manifest import Manifest
from pipeline.domain.one_to_many import References, nearest
from pipeline.domain.pair_curves import LEVELS, PairCurves, pair_curves
from pipeline.domain.ports import Filter
from pipeline.domain.report import Curves, Spread, Threshold
from pipeline.domain.space import Space
from pipeline.domain.spread import uniqueness, vendi_score
from pipeline.flow.reporting.measures import OBSERVED
from pipeline.flow.reporting.showcase import Nearest
from pipeline.flow.reporting.survey import AUDITOR, JUDGE, MOST_EACH, Survey

SHOWN_BINS = 200
"""Bins of the curves that are drawn: a hundredth of a cosine each."""
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a version's models without loading them; empty where a part is not installed here.

    Attributes:
        calibrations: role -> calibration, of `judge` and `auditor`.
        spaces: role -> the space that it speaks.
        filters: those that judged the version, with their thresholds.
    """

    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    spaces: Mapping[str, Space] = field(default_factory=dict)
    filters: Sequence[Filter] = ()


@dataclass(frozen=True, slots=True)
class Similarity:
    """What a report says of similarity.

    Attributes:
        curves: by recogniser, the judge's first.
        spread: by recogniser, the judge's first.
        nearest: under the judge, each identity's nearest other one; None where nothing is published.
        collide: at which templates collide under the judge; None where unknown.
        lacking: (what, why) of what could not be said.
    """

    curves: tuple[Curves, ...]
    spread: tuple[Spread, ...]
    nearest: Nearest | None
    collide: Threshold | None
    lacking: tuple[tuple[str, str], ...]


def similarity_facts(found: Survey, manifest: Manifest, recipe: Mapping[str, Any], known: Known) -> Similarity:
    """Return error rates and spread under both recognisers.

    Args:
        found: what the pass over the segments said.
        manifest: of the version.
        recipe: that of its generation, as stored.
        known: its models.
    """
    lacking: list[tuple[str, str]] = []
    roles = [role for role in (JUDGE, AUDITOR) if role in found.compared.sums]
    near = {role: _nearest(role, found) for role in roles}
    curves = [_curves(role, found, manifest, recipe, known, lacking) for role in roles]
    collide = {role: _collision(role, manifest, recipe, known) for role in roles}
    spread = [_spread(role, found, near[role], collide[role], lacking) for role in roles]
    return Similarity(
        curves=tuple(c for c in curves if c is not None),
        spread=tuple(s for s in spread if s is not None),
        nearest=near.get(JUDGE),
        collide=collide.get(JUDGE),
        lacking=tuple(lacking),
    )


def _nearest(role: str, found: Survey) -> Nearest:
    sums = found.compared.sums[role]
    templates = sums.templates()
    mine = found.compared.ordinals_M[sums.count_M > 0]
    cos, other = nearest(templates, References(templates), np.arange(len(templates)))
    return Nearest(mine.tolist(), cos.tolist(), other.tolist())


def _curves(
    role: str,
    found: Survey,
    manifest: Manifest,
    recipe: Mapping[str, Any],
    known: Known,
    lacking: list[tuple[str, str]],
) -> Curves | None:
    compared, calibration = found.compared, known.calibrations.get(role)
    pairs = pair_curves(compared.emb[role], compared.owner_S)
    if pairs is None:
        lacking.append((f"error rates under the {role}", "there is no pair of one identity, or none of two"))
        return None
    for level in LEVELS:
        if level not in pairs.fnmr_at:
            why = f"{pairs.n_impostor:,} impostor pairs; fewer than 30 of them are expected to pass at that rate"
            lacking.append((f"FMR{1 / level:.0f} under the {role}", why))
    edges, genuine, impostor = pairs.shown(SHOWN_BINS)
    fnmr = {level: pairs.fnmr_at.get(level, (None, None))[0] for level in LEVELS}
    return Curves(
        role=role,
        recogniser=_name(role, manifest, known),
        identities=len(np.unique(compared.owner_S)),
        n_genuine=pairs.n_genuine,
        n_impostor=pairs.n_impostor,
        edges_cos=tuple(edges.tolist()),
        genuine=tuple(genuine.tolist()),
        impostor=tuple(impostor.tolist()),
        genuine_mean_cos=rounded(pairs.genuine_mean_cos),
        genuine_std_cos=rounded(pairs.genuine_std_cos),
        impostor_mean_cos=rounded(pairs.impostor_mean_cos),
        impostor_std_cos=rounded(pairs.impostor_std_cos),
        eer=rounded(pairs.eer),
        fmr100=rounded_or_none(fnmr[1e-2]),
        fmr1000=rounded_or_none(fnmr[1e-3]),
        auc=rounded(pairs.auc),
        fdr=rounded_or_none(pairs.fdr),
        roc=pairs.roc(),
        thresholds=(*_of_this_set(pairs), *(_used(manifest, recipe, calibration) if role == JUDGE else ())),
        calibration=_calibration_rows(calibration),
        images=len(compared.owner_S),
        images_each=0 if len(compared.owner_S) == sum(c.published for c in found.by_cell.values()) else MOST_EACH,
    )


def _name(role: str, manifest: Manifest, known: Known) -> str:
    space = known.spaces.get(role)
    return space.name if space else str(manifest.models.get(role, {}).get("name", role))


def _of_this_set(pairs: PairCurves) -> list[Threshold]:
    found = [
        Threshold("EER of this set", rounded(pairs.eer_cos), rounded(pairs.eer), "where FMR and FNMR of this set meet")
    ]
    for level, (_, cos) in sorted(pairs.fnmr_at.items(), reverse=True):
        name = f"FMR{1 / level:.0f} of this set"
        found.append(Threshold(name, rounded(cos), level, f"at which {level:.1%} of this set's impostor pairs match"))
    return found


def _used(manifest: Manifest, recipe: Mapping[str, Any], calibration: Calibration | None) -> list[Threshold]:
    """Return the cosines that decided, as the manifest states them, each with its rate by calibration."""
    probes = int(recipe["enrol"]["probes"])
    images = {"enrolment": probes, "made": int(recipe["identities"]["images_per_identity"])}
    words = manifest.figures.get("separation_fmr", {})
    out = [
        Threshold(
            f"separation, {name}",
            float(cos),
            _fmr_at(calibration, cos, images[name], images[name]),
            words.get(name, ""),
        )
        for name, cos in sorted(manifest.figures.get("separation_cos", {}).items())
    ]
    asked = {str(node.get("use")): node for node in recipe.get("filters", ())}
    for name, said in sorted(manifest.figures.get("thresholds", {}).items()):
        for key, others in (("threshold_cos", probes), ("max_cos", 1)):
            if not isinstance(said.get(key), float):
                continue
            rate, words = _fmr_at(calibration, said[key], 1, others), str(said.get("fmr", ""))
            fpir = asked.get(name, {}).get("fpir")
            if isinstance(fpir, float):
                rate = float(fpir)
                number = said.get("calibrated_identities")
                words = f"of searches among {number or 'all'} others (FPIR); of single pairs {words}"
            shown = name + (OBSERVED if said.get("mode") == "observe" else "")
            out.append(Threshold(shown, said[key], rate, words))
    return out


def _fmr_at(calibration: Calibration | None, cos: float, probe_images: int, reference_images: int) -> float | None:
    """Return the calibrated FMR of a cosine; None where it is not calibrated, or lies beyond the levels that are."""
    if calibration is None:
        return None
    try:
        kind = calibration.kind(probe_images=probe_images, reference_images=reference_images)
    except CalibrationError:
        return None
    pair = calibration.pairs[kind]
    return rounded(calibration.fmr_at(cos, kind)) if pair.cos[0] <= cos <= pair.cos[-1] else None


def _calibration_rows(calibration: Calibration | None) -> tuple[tuple[float, float, int], ...]:
    pair = None if calibration is None else calibration.pairs.get("sample/sample")
    return () if pair is None else tuple((f, c, pair.n_impostor) for f, c in zip(pair.fmr, pair.cos, strict=True))


def _collision(role: str, manifest: Manifest, recipe: Mapping[str, Any], known: Known) -> Threshold | None:
    """Return the cosine at which templates of made images collide: of the auditor the one with the judge's FMR.

    An FMR beyond what a recogniser is calibrated for is taken as the nearest level that it is.
    """
    cos = manifest.figures.get("separation_cos", {}).get("made")
    images = int(recipe["identities"]["images_per_identity"])
    judge, mine = known.calibrations.get(JUDGE), known.calibrations.get(role)
    words = str(manifest.figures.get("separation_fmr", {}).get("made", ""))
    if cos is None:
        return None
    if role == JUDGE:
        return Threshold("separation, made", float(cos), _fmr_at(judge, cos, images, images), words)
    if judge is None or mine is None:
        return None
    try:
        own = judge.kind(probe_images=images, reference_images=images)
        fmr = judge.fmr_at(cos, own)
        kind = mine.kind(probe_images=images, reference_images=images)
    except CalibrationError:
        return None
    levels, cosines = mine.pairs[kind].fmr, judge.pairs[own].cos
    inside = levels[-1] * (1 - 1e-9) <= fmr <= levels[0] * (1 + 1e-9) and cosines[0] <= cos <= cosines[-1]
    fmr = min(max(fmr, levels[-1]), levels[0])
    words = f"{fmr:.1e} ({kind})" + ("" if inside else ", the nearest level that both are calibrated for")
    return Threshold("separation at the judge's FMR", mine.threshold_cos(fmr, kind), rounded(fmr), words)


def _spread(
    role: str, found: Survey, near: Nearest, threshold: Threshold | None, lacking: list[tuple[str, str]]
) -> Spread | None:
    sums = found.compared.sums[role]
    consistency, diversity = sums.consistency(), sums.diversity_cos()
    if threshold is None or consistency is None:
        lacking.append((f"uniqueness under the {role}", "no threshold of templates is known for it here"))
        return None
    if diversity is None:
        lacking.append((f"diversity under the {role}", "no identity has two images"))
        return None
    cos = np.array(near.cos)
    others = tuple(float(v) for v in (*np.quantile(cos, (0.5, 0.95, 0.99)), cos.max())) if len(cos) > 1 else ()
    unique = uniqueness(cos, threshold.cos)
    assert unique is not None
    vendi = vendi_score(sums.templates())
    return Spread(
        role=role,
        uniqueness=rounded(unique),
        consistency=rounded(consistency),
        diversity_cos=rounded(diversity),
        vendi=rounded_or_none(vendi),
        identities=len(near.ordinals),
        threshold=threshold,
        nearest_other_cos=tuple(rounded(v) for v in others),
    )


def rounded(value: float) -> float:
    """Return six significant digits: what two machines agree on, and more than anybody reads."""
    return float(f"{value:.{_DIGITS}g}")


def rounded_or_none(value: float | None) -> float | None:
    """Return what `rounded` does, and None of None."""
    return None if value is None else rounded(value)
