"""Recipes that tests share, as plain mappings."""

from __future__ import annotations

from typing import Any


def sketch_recipe(**changes: Any) -> dict[str, Any]:
    """Return a small recipe of the sketch world; `changes` replace top-level keys."""
    recipe: dict[str, Any] = {
        "kind": "generate",
        "name": "sketches",
        "seed": 7,
        "identities": {
            "count": 10,
            "images_per_identity": 3,
            "sampler": {"use": "gaussian"},
            "bank": {"use": "sketch"},
        },
        "enrol": {"probes": 3, "separation": {"fmr": 1e-2}, "consistency": {"fmr": 0.1}, "unit_candidates": 5},
        "balance": {"by": ["shape", "shade"]},
        "generator": {"use": "sketch"},
        "judge": {"use": "sketch-judge"},
        "auditor": {"use": "sketch-auditor"},
        "measures": [{"use": "sketch"}],
        "filters": [
            {"use": "own-template", "fmr": 1e-2},
            {"use": "nearest-other", "fpir": 0.05},
            {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 12},
        ],
        "conditions": {"yaw_deg": {"use": "uniform", "low": -30, "high": 30}},
        "unit": {"identities": 3, "window": 2},
        "encoding": {"use": "jpeg"},
        "exports": [{"use": "webdataset"}],
        "compute": {"executor": "inline"},
    }
    return {**recipe, **changes}


MADE_UP = {"licence": "made up", "lawful_basis": "nobody of it is a person"}


def all_on_recipe(count: int = 8, images: int = 3, **changes: Any) -> dict[str, Any]:
    """Return a sketch recipe that uses everything there is, with so much noise that everything has something to do."""
    recipe: dict[str, Any] = {
        "identities": {
            "count": count,
            "images_per_identity": images,
            "bank": {"use": "sketch"},
            "sampler": {"use": "packed", "size": 16, "steps": 6},
        },
        "generator": {"use": "sketch", "noise": 1.5},
        "enrol": {
            "probes": 3,
            "separation": {"cos": 0.95},
            "consistency": {"cos": 0.5},
            "vector_separation_cos": 0.6,
            "unit_candidates": 6,
            "budget": 600,
            "rounds": 20,
            "reserve": 0.3,
        },
        "balance": {
            "by": ["shape", "shade"],
            "marginal": {"shape": {"round": 0.5, "square": 0.5}, "shade": {"light": 0.75, "dark": 0.25}},
            "agreement": "all",
        },
        "measures": [
            {"use": "sketch"},
            {"use": "sketch", "labeller": "second"},
            {"use": "lighting", "alignment": "sketch-32"},
            {"use": "skin-tone", "alignment": "sketch-32"},
            {"use": "copy-hash"},
        ],
        "filters": [
            {"use": "own-template", "fmr": 0.05, "stop_above": 0.9},
            {"use": "nearest-other", "fpir": 0.05},
            {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 0.2},
            {"use": "range", "measure": "luminance_std", "min": 0.05},
            {"use": "exposure", "max_over": 0.5},
            {"use": "sibling-duplicate", "max_cos": 0.85},
            {"use": "sibling-spread", "mean_cos": 0.75, "tolerance": 0.15},
            {"use": "cell-agreement", "min": 0.5},
            {"use": "dynamic-range", "min_bits": 3.8, "mode": "observe"},
            {"use": "leakage"},
        ],
        "conditions": {
            "yaw_deg": {
                "use": "mixture",
                "parts": [
                    {"share": 0.75, "of": {"use": "histogram", "edges": [-30, -10, 30], "shares": [0.4, 0.6]}},
                    {"share": 0.25, "of": {"use": "uniform", "low": 30, "high": 45}},
                ],
            },
            "vector_cos": {"use": "uniform", "low": 0.93, "high": 1.0},
        },
        "twins": [
            {"use": "face-mask", "share": 0.5},
            {"use": "occluder", "share": 0.5},
            {"use": "low-resolution", "share": 0.25, "px": 8},
            {"use": "darkness", "share": 0.5},
        ],
        "leakage": {
            "galleries": [{"name": "people", "source": "sketch://faces?identities=20&images=3&seed=11", **MADE_UP}],
            "control": "sketch://faces?identities=120&images=3&seed=12",
            "screening": {"use": "sketch-screening"},
            "copies": {"bits": 2},
            "keep_pairs": 5,
        },
        "attempts": 8,
        "rounds": 8,
        "unit": {"identities": 2, "window": 2, "lookahead": 3},
        "exports": [{"use": "webdataset"}, {"use": "recordio"}],
    }
    return sketch_recipe(**{**recipe, **changes})


def all_on_phantom_recipe(**changes: Any) -> dict[str, Any]:
    """Return a phantom recipe of six people with twins, cones, sibling filters, skin tone and a gallery."""
    recipe: dict[str, Any] = {
        "kind": "generate",
        "name": "phantoms",
        "seed": 3,
        "identities": {
            "count": 6,
            "images_per_identity": 3,
            "bank": {"use": "phantom"},
            "sampler": {"use": "packed", "size": 16, "steps": 8},
        },
        "enrol": {"probes": 2, "separation": {"cos": 0.8}, "consistency": {"cos": 0.3}, "unit_candidates": 4},
        "balance": {
            "by": ["perceived_gender_presentation"],
            "marginal": {"perceived_gender_presentation": {"feminine": 0.5, "masculine": 0.5}},
        },
        "generator": {"use": "phantom", "steps": 3, "batch": 8},
        "judge": {"use": "phantom-judge", "batch": 8},
        "auditor": {"use": "phantom-auditor", "batch": 8},
        "measures": [
            {"use": "phantom-attributes"},
            {"use": "sharpness"},
            {"use": "lighting", "alignment": "phantom-112"},
            {"use": "skin-tone", "alignment": "phantom-112", "labeller": "ita"},
            {"use": "copy-hash"},
        ],
        "filters": [
            {"use": "own-template", "cos": 0.3},
            {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 4},
            {"use": "sibling-duplicate", "max_cos": 0.9},
            {"use": "sibling-spread", "mean_cos": 0.7, "tolerance": 0.2},
            {"use": "leakage"},
        ],
        "conditions": {
            "yaw_deg": {"use": "histogram", "edges": [-40, -10, 10, 40], "shares": [0.3, 0.4, 0.3]},
            "vector_cos": {"use": "uniform", "low": 0.985, "high": 1.0},
        },
        "twins": [{"use": "face-mask", "share": 0.5}, {"use": "blur", "share": 0.5}],
        "leakage": {
            "galleries": [{"name": "people", "source": "phantom://renders?identities=10&images=2&seed=5", **MADE_UP}],
            "control": "phantom://renders?identities=60&images=2&seed=5&first=100",
            "copies": {"bits": 2},
            "keep_pairs": 3,
        },
        "attempts": 5,
        "unit": {"identities": 2, "window": 2, "lookahead": 2},
        "encoding": {"use": "jpeg"},
        "exports": [{"use": "webdataset"}, {"use": "recordio"}],
        "compute": {"executor": "inline"},
    }
    return {**recipe, **changes}
