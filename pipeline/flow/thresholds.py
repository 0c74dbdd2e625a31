"""What a recipe's cosines mean: every threshold, given as a rate or as a raw cosine, with its FMR under the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import CalibrationError
from pipeline.domain.ports import Filter
from pipeline.domain.recipe import Recipe
from pipeline.flow.enrol import consistency_cos, separation_cos


def fmr_words(calibration: Calibration, cos: float, *, probe_images: int, reference_images: int) -> str:
    """Return the FMR of a cosine and the comparison that it is of: `1.2e-03 (sample/template4)`.

    Beyond the calibrated levels only the side is known, and said.
    """
    if not calibration.measured_anything:
        return "unknown: the recogniser is not calibrated"
    try:
        kind = calibration.kind(probe_images=probe_images, reference_images=reference_images)
    except CalibrationError:
        return "unknown: no such comparison is calibrated"
    pair = calibration.pairs[kind]
    if cos > pair.cos[-1]:
        return f"below {pair.fmr[-1]:.0e} ({kind})"
    if cos < pair.cos[0]:
        return f"above {pair.fmr[0]:.0e} ({kind})"
    return f"{calibration.fmr_at(cos, kind):.1e} ({kind})"


def filter_fmr(judging: Filter, calibration: Calibration, template_images: int) -> dict[str, str]:
    """Return a filter's FMR by the name `fmr`; nothing where it compares no cosines with a threshold."""
    found = _compared(judging, template_images)
    if found is None:
        return {}
    cos, images = found
    return {"fmr": fmr_words(calibration, cos, probe_images=1, reference_images=images)}


def separation_fmr(recipe: Recipe, calibration: Calibration) -> dict[str, str]:
    """Return the FMR at which templates collide: `enrolment` of probes, `made` of the images made."""
    sizes = {"enrolment": recipe.enrol.probes, "made": recipe.identities.images_per_identity}
    return {
        name: fmr_words(calibration, separation_cos(recipe, calibration, k), probe_images=k, reference_images=k)
        for name, k in sizes.items()
    }


def threshold_rows(recipe: Recipe, calibration: Calibration, filters: Sequence[Filter]) -> list[dict[str, Any]]:
    """Return every similarity threshold of a recipe: `where` it stands, `cos`, and its `fmr` in words."""
    separated = separation_fmr(recipe, calibration)
    images = {"enrolment": recipe.enrol.probes, "made": recipe.identities.images_per_identity}
    rows: list[dict[str, Any]] = [
        {"where": f"enrol.separation, {name}", "cos": separation_cos(recipe, calibration, images[name]), "fmr": words}
        for name, words in separated.items()
    ]
    if recipe.enrol.probes > 1:
        cos, others = consistency_cos(recipe, calibration), recipe.enrol.probes - 1
        words = fmr_words(calibration, cos, probe_images=1, reference_images=others)
        rows.append({"where": "enrol.consistency", "cos": cos, "fmr": words})
    for judging in filters:
        found = _compared(judging, recipe.enrol.probes)
        if found is not None:
            words = fmr_words(calibration, found[0], probe_images=1, reference_images=found[1])
            rows.append({"where": judging.name, "cos": found[0], "fmr": words})
    return rows


def _compared(judging: Filter, template_images: int) -> tuple[float, int] | None:
    """Return a filter's cosine and how many images are on the other side; None where it has none."""
    # one that observes stands around the filter that it is
    inner = getattr(judging, "inner", judging)
    for field, images in (("threshold_cos", template_images), ("max_cos", 1)):
        cos = getattr(inner, field, None)
        if isinstance(cos, float):
            return cos, images
    return None
