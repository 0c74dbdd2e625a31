"""Rehearsals: a recipe cut down to minutes on a CPU, with made-up weights, so that its whole path runs before any GPU.

Everything keeps its place in the flow: vectors are drawn, probed and enrolled, images are made, cut, judged, audited,
published and reported. What nobody could pass with untrained networks only observes. A rehearsal is marked as one in
its recipe, manifest, card and report, has a fingerprint of its own, and its images are worth nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs import recipe_check, recipe_file
from jobs.components import COMPONENTS
from jobs.wiring.parts import build, check_parts, filter_builders, full_model, load, targets_of
from jobs.wiring.percentile_files import without_percentiles
from jobs.wiring.pinning import FORMULA, is_reference
from pipeline.domain.errors import FacemintError, RecipeError, UserError
from pipeline.domain.recipe import Node, Recipe, parse_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.domain.space import Space

IDENTITIES, IMAGES, PROBES, BATCH = 12, 4, 2, 8
NOTHING_TO_ASK = ("leakage", "cell-agreement")
"""Filters that compare with galleries and cells, of which a rehearsal has none."""
RAW_LENGTH = 20.0
"""Length of the made-up vectors of a space that keeps lengths: about that of ArcFace's."""


def rehearsed(raw: Any, where: str, compute: Sequence[str] = ()) -> Recipe:
    """Return the rehearsal of a recipe as it was read; the recipe itself has to be sound in all that it says.

    It runs in one process, unless `compute` holds overrides that say otherwise. Calibrations, percentiles
    and galleries are not read, and no file of weights.

    Raises:
        RecipeError: the recipe has a mistake, or a part cannot be built even by formula.
    """
    if not isinstance(raw, Mapping) or raw.get("kind") != "generate":
        raise RecipeError(f"{where}: --rehearse is for recipes of kind: generate, whose weights it makes up")
    plain = {**raw, **{role: _uncalibrated(raw.get(role)) for role in ("judge", "auditor") if role in raw}}
    if isinstance(raw.get("leakage"), Mapping):
        plain["leakage"] = {k: _uncalibrated(v) if k == "screening" else v for k, v in raw["leakage"].items()}
    if "measures" in raw:
        plain["measures"] = without_percentiles(raw["measures"])
    asked = parse_recipe(full_model(), plain, where).model_dump(mode="json")
    small = _cut(asked)
    for text in compute:
        recipe_file.override(small, text)
    small["generator"] = _reduced("generator", "generator", asked["generator"])
    for role in ("judge", "auditor"):
        small[role] = _reader(role, asked[role])
    generator = build("generator", _node("generator", small["generator"]))
    judge = build("judge", _node("judge", small["judge"]))
    if not _stands(small["identities"], generator.space):
        small["identities"] |= _strangers(generator.space)
    small["align"] = None
    whole = bool((asked["align"] or {}).get("keep_whole"))
    # one that makes crops has nothing whole to keep: the check of the rehearsal says so
    if generator.alignment != judge.space.alignment or whole:
        fixed = {"use": "fixed", "alignment": judge.space.alignment}
        small["align"] = {"detector": fixed, "choice": "largest", "keep_whole": whole}
    small["measures"] = list(_measures(asked["measures"]))
    small["filters"] = [_observing(node) for node in asked["filters"] if node["use"] not in NOTHING_TO_ASK]
    return _settled(small, where)


def _cut(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe without what it would refuse, compare with or hand over, for few people."""
    enrol = asked["enrol"]
    owed = asked["identities"]["images_per_identity"]
    return {
        **asked,
        "name": f"{asked['name'][:54]}-rehearsal",
        "rehearsal": True,
        "identities": {
            **asked["identities"],
            "count": min(IDENTITIES, asked["identities"]["count"]),
            "images_per_identity": min(IMAGES, owed),
        },
        "enrol": {
            **enrol,
            "mode": "observe",
            "probes": min(PROBES, enrol["probes"]),
            "reserve": 0.0,
            "rounds": 3,
            "budget": None,
            "unit_candidates": 7,
        },
        "balance": {},
        "leakage": {},
        "attempts": 1,
        "rounds": 1,
        "unit": {**asked["unit"], "identities": 6, "window": min(4, asked["unit"]["window"])},
        "exports": [],
        "compute": {"executor": "inline"},
    }


def _reduced(slot: str, role: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component's options as it rehearses: reduced where it can be, with weights by formula."""
    options: type[Node] = load(COMPONENTS[slot][str(raw["use"])][0])
    out = _overlaid(_by_formula(raw, role), options.rehearses)
    if isinstance(out.get("batch"), int):
        out["batch"] = min(BATCH, out["batch"])
    return out


def _reader(role: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recogniser as it rehearses; one that is a file which is not here is stood in for by formula."""
    reduced = _reduced("judge", role, raw)
    try:
        build("judge", _node("judge", reduced))
    except UserError:
        stand_in = {"use": "iresnet", "name": f"rehearsed-{role}", "weights": {"uri": f"{FORMULA}{role}"}}
        alignment = raw.get("alignment", "arcface-112")
        return _reduced("judge", role, {**stand_in, "alignment": alignment, "batch": raw.get("batch", BATCH)})
    return reduced


def _overlaid(raw: Mapping[str, Any], reduced: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with others over them; what a part of them says holds only where the recipe has that part."""
    out = dict(raw)
    for key, value in reduced.items():
        if not isinstance(value, Mapping):
            out[key] = value
        elif isinstance(raw.get(key), Mapping):
            out[key] = _overlaid(raw[key], value)
    return out


def _by_formula(value: Any, role: str) -> Any:
    """Return options with every reference to weights made one by formula, named after what they are for."""
    if isinstance(value, Mapping):
        if is_reference(value):
            return {"uri": f"{FORMULA}{role}", "sha256": None}
        return {k: _by_formula(v, f"{role}.{k}") for k, v in value.items()}
    return [_by_formula(v, role) for v in value] if isinstance(value, list) else value


def _stands(identities: Mapping[str, Any], space: Space) -> bool:
    """Return whether the recipe's own population is here, and in the space of the generator that rehearses."""
    if identities["map"] is not None:
        return False
    try:
        bank = build("identities.bank", _node("identities.bank", identities["bank"]))
        sampler = build("identities.sampler", _node("identities.sampler", identities["sampler"]), bank, 0)
        space.require_same(sampler.space, "identities")
    except UserError:
        return False
    return sampler.candidates is None


def _strangers(space: Space) -> dict[str, Any]:
    """Return the part of `identities` that draws vectors of a space without knowing anybody in it."""
    sphere: dict[str, Any] = {"use": "sphere"}
    if space.norm == "raw":
        sphere["length"] = RAW_LENGTH
    return {"bank": {"use": "space"}, "sampler": sphere, "map": None}


def _measures(asked: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the measures that can be taken here: by arithmetic, by shipped weights, or by formula."""
    for raw in asked:
        reduced = _reduced("measures", f"measure.{raw['use']}", raw)
        try:
            build("measures", _node("measures", reduced))
        except FacemintError:
            continue  # its file is not here, and may be kept where a rehearsal has no business
        yield reduced


def _observing(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**raw, "mode": "observe", "stop_above": None}


def _settled(small: dict[str, Any], where: str) -> Recipe:
    """Return the recipe, without the rates and filters that have nothing to rest on."""
    recipe = parse_recipe(full_model(), small, f"{where}, rehearsed")
    judge = build("judge", recipe.judge)
    try:
        recipe_check.check_thresholds(recipe, where, judge)
    except UserError:
        # no calibration, or none for so few images: cosines that stand in, and decide nothing
        small["enrol"] |= {"separation": {"cos": 1.0}, "consistency": {"cos": 0.0}}
    small["filters"] = [kept for raw in small["filters"] if (kept := _working(raw, small, recipe, judge, where))]
    recipe = parse_recipe(full_model(), small, f"{where}, rehearsed")
    check_parts(recipe, f"{where}, rehearsed")
    return recipe


def _working(
    raw: Mapping[str, Any], small: Mapping[str, Any], recipe: Recipe, judge: Any, where: str
) -> Mapping[str, Any] | None:
    """Return a filter as it can be built here, by its rate or by a cosine; None where its measure is not taken."""
    measurers = [build("measures", node) for node in recipe.measures]
    names, targets = recipe_check.check_measures(where, measurers), targets_of(recipe)
    for tried in (raw, _by_cosine(raw)):
        if tried is None:
            continue
        alone = parse_recipe(full_model(), {**small, "filters": [tried]}, where)
        try:
            recipe_check.check_filters(alone, where, filter_builders(alone, judge, dict), names, targets)
        except UserError:
            continue
        return tried
    return None


def _by_cosine(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a filter whose rate no calibration supports with a cosine that stands in; None where it has no rate."""
    rates = [k for k in ("fmr", "fpir") if raw.get(k) is not None]
    if not rates:
        return None
    return {**raw, **dict.fromkeys(rates), "cos": 1.0 if "fpir" in rates else 0.0}


def _uncalibrated(node: Any) -> Any:
    return {k: v for k, v in node.items() if k != "calibration"} if isinstance(node, Mapping) else node


def _node(slot: str, raw: Mapping[str, Any]) -> Node:
    model: type[Node] = load(COMPONENTS[slot][str(raw["use"])][0])
    return model.model_validate(dict(raw))
