"""Enrolment that ends with more people than a rate was calibrated for, which no plan can foresee."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import CalibrationError
from tests.worlds import mint, problems, sketches

RATE = 0.03
"""Of searches: the sketch judge's calibration supports it among 50 people, and not among 100."""


def crowded(count: int = 4, **changes: Any) -> Any:
    """Return a recipe whose rare cell makes it enrol far more people of the other three than it asks for."""
    asked: dict[str, Any] = {
        "identities": {
            "count": count, "images_per_identity": 2, "sampler": {"use": "gaussian"},
            "bank": {"use": "sketch", "rare": 0.02},
        },
        "enrol": {
            "probes": 2, "rounds": 20, "separation": {"cos": 0.97}, "consistency": {"cos": 0.1}, "unit_candidates": 20,
        },
        "filters": [{"use": "nearest-other", "fpir": RATE}],
    }  # fmt: skip
    return sketches(**asked | changes)


def test_a_crowd_that_no_rate_was_calibrated_for_is_judged_by_the_largest_that_was() -> None:
    """What enrolment cost is not lost: the run ends with a version, and that says for how many its threshold is."""
    store = MemoryStore()
    manifest = mint(crowded(), store).manifest
    assert manifest.counts["enrolled"] > 50
    assert manifest.figures["thresholds"]["nearest-other"]["calibrated_identities"] == 50
    assert problems(store) == []


def test_who_asks_for_such_a_crowd_is_told_before_anything_is_done() -> None:
    """As many as are asked for are known, and so is that their rate is not."""
    with pytest.raises(CalibrationError, match=r"filters.0: fpir 0.03 is outside .*choose a rate inside, or calibrate"):
        crowded(count=60)
