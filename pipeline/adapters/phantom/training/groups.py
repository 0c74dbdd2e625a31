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
_DIVISIONS = 200
BEARDS = ("no beard", "bearded")
BEARDED = 0.4
"""Density from which a beard covers the skin below it."""
GROUPINGS = {"tone": TONE_GROUPS, "presentation": PRESENTATIONS, "age": AGE_BANDS, "beard": BEARDS}


def by_identity(values_N: Array, owner_N: Places) -> Array:
    """Return the mean of every identity, (I,)."""
    return np.bincount(owner_N, weights=values_N) / np.bincount(owner_N)


def groups_of(drawn: Drawn) -> dict[str, Places]:
    """Return which group of each grouping every identity of a draw is of, (I,)."""
    return grouped(lambda name: by_identity(drawn.truth(name), drawn.owner_N))


def grouped(truth: Callable[[str], Array]) -> dict[str, Places]:
    """Return which group of each grouping everything is of whose `truth` is told, trait by trait."""
    tone, presentation, age, beard = (truth(name) for name in ("skin_tone_mst", "presentation", "age_years", "beard"))
    return {
        "tone": tone_group(tone),
        "presentation": (presentation > 0.5).astype(np.int64),
        "age": np.digitize(age, _AGE_EDGES),
        "beard": (beard >= BEARDED).astype(np.int64),
    }


def by_group(
    groups: dict[str, Places],
    rows_of: Callable[[npt.NDArray[np.bool_]], float],
    chance: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Return grouping -> group -> figure of the identities of that group, and the widest gap of all groupings.

    Where `chance` is given, `gap_by_chance` tells of every grouping what gap 19 of 20 divisions of the same people at
    random, into groups of the same sizes, stay below: a smaller one says nothing of the groups.
    """
    found: dict[str, Any] = {
        name: {label: rows_of(places == n) for n, label in enumerate(GROUPINGS[name]) if (places == n).any()}
        for name, places in groups.items()
    }
    gaps = [max(figures.values()) - min(figures.values()) for figures in found.values()]
    told = {"widest_gap": rounded(max(gaps))}
    if chance is None:
        return found | told
    return (
        found | told | {"gap_by_chance": {name: _by_chance(places, rows_of, chance) for name, places in groups.items()}}
    )


def _by_chance(places_I: Places, rows_of: Callable[[npt.NDArray[np.bool_]], float], rng: np.random.Generator) -> float:
    present, gaps = np.unique(places_I), []
    for _ in range(_DIVISIONS):
        shuffled = rng.permutation(places_I)
        values = [rows_of(shuffled == n) for n in present]
        gaps.append(max(values) - min(values))
    return rounded(np.quantile(gaps, 0.95))


def mean_of(values_I: Array, of: npt.NDArray[np.bool_]) -> float:
    """Return the mean of some identities' values, as a figure of the card."""
    return rounded(values_I[of].mean())


def rounded(value: Any) -> float:
    """Return a figure of the card."""
    return round(float(value), 4)
