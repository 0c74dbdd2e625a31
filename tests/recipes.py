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
