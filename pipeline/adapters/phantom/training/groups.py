"""Whom a figure is of: thirds of skin tone, presentations, age bands and beards, in the pictures of a draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom.training.bank import PRESENTATIONS, TONE_GROUPS, tone_group
from pipeline.adapters.phantom.training.draws import Drawn

Array = npt.NDArray[np.floating]
Places = npt.NDArray[np.int64]
AGE_BANDS = ("18-39", "40-59", "60-80")
_AGE_EDGES = (40.0, 60.0)
BEARDS = ("no beard", "bearded")
BEARDED = 0.4
"""Density from which a beard covers the skin below it."""
GROUPINGS = {"tone": TONE_GROUPS, "presentation": PRESENTATIONS, "age": AGE_BANDS, "beard": BEARDS}


def by_identity(values_N: Array, owner_N: Places) -> Array:
    """Return the mean of every identity, (I,)."""
    return np.bincount(owner_N, weights=values_N) / np.bincount(owner_N)


def groups_of(drawn: Drawn) -> dict[str, Places]:
    """Return which group of each grouping every identity of a draw is of, (I,)."""
    tone, presentation, age, beard = (
        by_identity(drawn.truth(name), drawn.owner_N)
        for name in ("skin_tone_mst", "presentation", "age_years", "beard")
    )
    return {
        "tone": tone_group(tone),
        "presentation": (presentation > 0.5).astype(np.int64),
        "age": np.digitize(age, _AGE_EDGES),
        "beard": (beard >= BEARDED).astype(np.int64),
    }


def by_group(groups: dict[str, Places], rows_of: Callable[[npt.NDArray[np.bool_]], float]) -> dict[str, Any]:
    """Return grouping -> group -> figure of the identities of that group, and the widest gap of all groupings."""
    found: dict[str, Any] = {
        name: {label: rows_of(places == n) for n, label in enumerate(GROUPINGS[name]) if (places == n).any()}
        for name, places in groups.items()
    }
    gaps = [max(figures.values()) - min(figures.values()) for figures in found.values()]
    return found | {"widest_gap": rounded(max(gaps))}


def mean_of(values_I: Array, of: npt.NDArray[np.bool_]) -> float:
    """Return the mean of some identities' values, as a figure of the card."""
    return rounded(values_I[of].mean())


def rounded(value: Any) -> float:
    """Return a figure of the card."""
    return round(float(value), 4)
