"""Bounded choices of pictures: even, repeatable, and the same in whatever parts the images come."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.manifest import IndexRow
from pipeline.flow.judge import OWN
from pipeline.flow.reporting import picks
from pipeline.flow.reporting.picks import WORST_OTHER, WORST_OWN, Lowest, random_keys, shuffled, within_bytes


def rows_of(held: list[int]) -> list[IndexRow]:
    """Return index rows, so many of each cell."""
    return [
        IndexRow(c, f"k{c}-{n}", c, f"cell {c}", "make-g0-000000", 0, 1) for c, k in enumerate(held) for n in range(k)
    ]


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(1, 12), st.integers(0, 9))
def test_cells_take_turns_whatever_the_order(held: list[int], most: int, seed: int) -> None:
    """No cell has two pictures more than another that has some left, and the order of rows changes nothing."""
    rows = rows_of(held)
    chosen = random_keys(rows, most)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert random_keys([rows[n] for n in order], most) == chosen
    assert len(chosen) == len(set(chosen)) == min(most, len(rows))
    per_cell = Counter(int(key[1:].split("-")[0]) for key in chosen)
    for cell, number in enumerate(held):
        mine = sorted((f"k{cell}-{n}" for n in range(number)), key=shuffled)
        assert [k for k in chosen if k.startswith(f"k{cell}-")] == mine[: per_cell[cell]]
        if per_cell[cell] < number:
            assert per_cell[cell] >= max(per_cell.values(), default=0) - 1


@given(
    st.lists(st.one_of(st.floats(-1, 1), st.sampled_from([0.0, 0.5])), max_size=90),
    st.integers(1, 40),
    st.sampled_from([OWN, "sharpness"]),
)
def test_the_lowest_are_those_of_all_at_once(values: list[float], part: int, name: str) -> None:
    """In whatever parts numbers come, the least of all are kept; among equal ones the key decides."""
    keys = [f"k{n:03d}" for n in range(len(values))]
    kept = Lowest()
    for start in range(0, len(values), part):
        mine = np.arange(start, min(start + part, len(values)))
        kept.offer(name, np.array(values)[mine], mine, keys)
    expected = sorted(zip(values, keys, strict=True))[: WORST_OWN if name == OWN else WORST_OTHER]
    assert kept.kept.get(name, []) == expected
    assert kept.keys() == {key for _, key in expected}


def test_other_measures_share_their_room() -> None:
    """However many measures of quality there are, as many pictures are shown of all of them together."""
    kept = Lowest()
    values, at, keys = np.arange(50.0), np.arange(50), [f"k{n}" for n in range(50)]
    names = [OWN, "face_quality", "light_quality", "sharpness"]
    for name in names:
        assert kept.wants(name)
        kept.offer(name, values, at, keys)
    shown = dict(kept.shown())
    assert list(shown) == names
    assert [len(found) for found in shown.values()] == [WORST_OWN, *[WORST_OTHER // 3] * 3]
    assert not kept.wants("yaw_deg")


def test_one_picture_is_shown_however_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are taken while they fit, and the first in any case."""
    monkeypatch.setattr(picks, "MOST_bytes", 10)
    assert within_bytes([20, 1], int) == [20]
    assert within_bytes([4, 6, 1], int) == [4, 6]
    assert within_bytes([], int) == []
