"""Uniqueness, consistency, diversity and Vendi score, against their definitions over images and pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.records import template_of, unit_rows
from pipeline.domain.spread import Sums, places_of, uniqueness, vendi_score


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 30), st.integers(1, 9))
def test_sums_say_what_images_and_pairs_say(held: list[int], seed: int, part: int) -> None:
    """Consistency, diversity and templates from sums are those of the images, in whatever parts these came."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(held)), held)
    emb = unit_rows(rng.standard_normal((len(held), 6))[owner] + 0.5 * rng.standard_normal((len(owner), 6)), "x")
    order = rng.permutation(len(owner))
    sums = Sums(len(held) + 1, 6)
    for start in range(0, len(order), part):
        rows = order[start : start + part]
        sums.add(emb[rows], owner[rows])
    mine = [emb[owner == n] for n in range(len(held))]
    templates = np.stack([template_of(rows) for rows in mine])
    np.testing.assert_allclose(sums.templates(), templates, atol=1e-6)
    consistency = np.mean([np.mean(rows @ t) for rows, t in zip(mine, templates, strict=True)])
    assert sums.consistency() == pytest.approx(consistency, abs=1e-6)
    pairs = [np.mean([a @ b for n, a in enumerate(rows) for b in rows[n + 1 :]]) for rows in mine if len(rows) > 1]
    if pairs:
        assert sums.diversity_cos() == pytest.approx(1 - np.mean(pairs), abs=1e-6)
    else:
        assert sums.diversity_cos() is None


def test_nobody_has_no_spread() -> None:
    """Without images there is no figure, and no zero that looks like one."""
    sums = Sums(3, 4)
    sums.add(np.empty((0, 4), np.float32), np.empty(0, np.int64))
    assert sums.consistency() is None
    assert sums.diversity_cos() is None
    assert vendi_score(sums.templates()) is None
    assert uniqueness(np.empty(0), 0.5) is None


@given(st.integers(1, 25), st.integers(1, 12), st.integers(0, 20))
def test_the_dual_kernel_gives_the_vendi_score(identities: int, dims: int, seed: int) -> None:
    """The score is that of the eigenvalues of the whole similarity matrix, between 1 and the number of identities."""
    unit = unit_rows(np.random.default_rng(seed).standard_normal((identities, dims)), "x")
    wide = unit.astype(np.float64)
    values = np.linalg.eigvalsh(wide @ wide.T / identities)
    entropy = -sum(v * math.log(v) for v in values if v > 1e-12)
    found = vendi_score(unit)
    assert found == pytest.approx(math.exp(entropy), rel=1e-4)
    assert 1 - 1e-6 <= found <= identities + 1e-4


def test_vendi_counts_people_who_are_told_apart() -> None:
    """Orthogonal templates count each, equal ones count once."""
    assert vendi_score(np.eye(5, dtype=np.float32)) == pytest.approx(5)
    assert vendi_score(np.repeat(np.eye(5, dtype=np.float32)[:1], 7, axis=0)) == pytest.approx(1)


def test_uniqueness_counts_who_collides_with_nobody() -> None:
    """A cosine at the threshold collides, and NaN passes nothing."""
    assert uniqueness(np.array([0.2, 0.5, 0.7, np.nan]), 0.5) == 0.25


@given(st.lists(st.integers(0, 20), max_size=20), st.sets(st.integers(0, 20), max_size=10))
def test_places_are_those_of_the_chosen(ordinals: list[int], chosen: set[int]) -> None:
    """Each ordinal has its place among the chosen, or -1."""
    listed = sorted(chosen)
    expected = [listed.index(o) if o in chosen else -1 for o in ordinals]
    assert places_of(np.array(ordinals, np.int64), np.array(listed, np.int64)).tolist() == expected
