"""Pairs to verify: balanced, true, and in folds that share nobody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.errors import UserError
from pipeline.domain.verification import folds_of
from pipeline.domain.verification_pairs import PairList, adjacent_pairs, draw_pairs


def people(count: int, images: int, seed: int = 0) -> np.ndarray:
    """Return labels of people with `images` pictures each, mixed."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(count), images)).astype(np.int64)


def drawn(labels: np.ndarray, pairs: int = 400, seed: int = 0, cells: dict[int, str] | None = None) -> PairList:
    """Return pairs of made-up pictures."""
    return draw_pairs(labels, cells or {}, pairs, seed, "made up")


@given(count=st.integers(20, 50), images=st.integers(2, 6), seed=st.integers(0, 1000), pairs=st.integers(20, 900))
@settings(max_examples=25)
def test_pairs_keep_their_promises(count: int, images: int, seed: int, pairs: int) -> None:
    """Truths are true, kinds are equal in number in each fold, no picture meets itself, nobody is in two folds."""
    labels = people(count, images, seed)
    found = drawn(labels, pairs, seed)

    assert (labels[found.first_P] == labels[found.second_P]).tolist() == found.same_P.tolist()
    assert (found.first_P != found.second_P).all()
    assert 20 <= len(found) <= pairs
    keys = {tuple(sorted(p)) for p in zip(found.first_P.tolist(), found.second_P.tolist(), strict=True)}
    assert len(keys) == len(found)
    seen: set[int] = set()
    for part in folds_of(len(found)):
        same = found.same_P[part]
        assert same.sum() * 2 == len(same)
        here = set(labels[found.first_P[part]].tolist()) | set(labels[found.second_P[part]].tolist())
        assert not here & seen
        seen |= here


def test_pairs_follow_from_their_seed() -> None:
    """The same seed draws the same pairs, another draws others."""
    labels = people(30, 4)

    assert drawn(labels).first_P.tolist() == drawn(labels).first_P.tolist()
    assert drawn(labels, seed=1).first_P.tolist() != drawn(labels).first_P.tolist()


def test_half_of_the_impostors_are_of_one_cell() -> None:
    """Where cells are known, at least every second impostor pair lies within one, in every fold."""
    labels = people(120, 4)
    cells = {person: "abc"[person % 3] for person in range(120)}
    found = drawn(labels, 1200, cells=cells)

    for part in folds_of(len(found)):
        impostor = ~found.same_P[part]
        first, second = labels[found.first_P[part]][impostor], labels[found.second_P[part]][impostor]
        within = np.mean([cells[a] == cells[b] for a, b in zip(first.tolist(), second.tolist(), strict=True)])
        assert 0.5 <= within < 0.9


def test_too_few_people_are_refused_in_one_line() -> None:
    """Ten folds of two people each need twenty with two pictures."""
    with pytest.raises(UserError, match="19 people with two or more pictures") as caught:
        drawn(np.concatenate([people(19, 2), np.arange(19, 40)]))
    assert "\n" not in str(caught.value)


def test_a_verification_sets_pairs_lie_side_by_side() -> None:
    """Pictures 2p and 2p + 1 are pair p."""
    found = adjacent_pairs(np.array([True, False, True]))

    assert found.first_P.tolist() == [0, 2, 4]
    assert found.second_P.tolist() == [1, 3, 5]
