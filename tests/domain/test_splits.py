"""Splits: nobody is in two parts, growth moves nobody, and every cell is divided as asked."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.errors import UserError
from pipeline.domain.splits import Part, assign, assign_by_cell, draws, folds, parse_parts, reached, require_name

shares = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(
    lambda whole: tuple(Part(f"p{n}", Fraction(w, sum(whole))) for n, w in enumerate(whole))
)
steps = st.lists(st.lists(st.sampled_from("abcde"), max_size=30), min_size=1, max_size=4)


@given(parts=shares, steps=steps, seed=st.integers(0, 2**32 - 1))
def test_every_cell_is_divided_as_asked_and_growth_moves_nobody(
    parts: tuple[Part, ...], steps: list[list[str]], seed: int
) -> None:
    """After every step of growth each cell is within less than one identity of each share, and nobody has moved."""
    cells: list[str] = []
    before: dict[int, str] = {}
    for new in steps:
        cells += new
        who = range(len(cells))
        dealt = assign_by_cell(parts, draws(seed, "x", who), who, cells, before)
        assert all(dealt[o] == part for o, part in before.items())
        before = dict(zip(who, dealt, strict=True))
        for cell in set(cells):
            mine = Counter(p for p, c in zip(dealt, cells, strict=True) if c == cell)
            size = sum(mine.values())
            assert all(abs(size * p.share - mine[p.name]) < 1 for p in parts)


@given(parts=shares, steps=steps, seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["a", "b2", "half"]))
def test_without_cells_a_part_follows_from_the_ordinal_alone(
    parts: tuple[Part, ...], steps: list[list[str]], seed: int, name: str
) -> None:
    """Whoever else is there, in whatever order, an identity's part is the same."""
    count = sum(map(len, steps)) + 1
    every = assign(parts, draws(seed, name, range(count)))
    some = np.random.default_rng(1).permutation(count)[: count // 2 + 1].tolist()
    assert assign(parts, draws(seed, name, some)) == [every[o] for o in some]
    assert set(every) <= {p.name for p in parts}


def test_who_is_where_is_part_of_every_dataset_ever_split() -> None:
    """Golden: other draws would move identities of datasets that are split already."""
    numbers = [1, 2, 1, 1, 1, 1]
    assert assign(folds(3), draws(7, "val", range(4094, 4100))) == [f"fold-{n}" for n in numbers]


@pytest.mark.parametrize(("seed", "name"), [(8, "val"), (7, "test")])
def test_other_seeds_and_names_give_other_splits(seed: int, name: str) -> None:
    """Two splits of one dataset, and those of two datasets, are independent: they agree as often as chance does."""
    one, other = draws(7, "val", range(20_000)), draws(seed, name, range(20_000))
    assert abs(float(np.mean((one < 0.5) == (other < 0.5))) - 0.5) < 0.02
    assert abs(float(one.mean()) - 0.5) < 0.01


def test_shares_are_met_on_the_average() -> None:
    """Of many identities each part gets its share, within the noise of drawing."""
    got = Counter(assign(parse_parts("train=0.8,val=0.1,test=0.1"), draws(3, "x", range(50_000))))
    assert abs(got["train"] - 40_000) < 400
    assert abs(got["val"] - 5_000) < 300


def test_small_cells_do_not_starve_a_small_part() -> None:
    """A hundred cells of two people each give a tenth of all people to a tenth part, though no cell owes it one."""
    parts = parse_parts("train=0.8,val=0.1,test=0.1")
    cells = [str(n // 2) for n in range(200)]
    got = Counter(assign_by_cell(parts, draws(3, "x", range(200)), range(200), cells, {}))
    assert got == {"train": 160, "val": 20, "test": 20}


def test_those_who_are_left_keep_their_parts_and_newcomers_make_up() -> None:
    """Where refiltering took all test people away, newcomers go there until the cell is as asked again."""
    parts = parse_parts("train=1/2,test=1/2")
    before = dict.fromkeys(range(4), "train")
    dealt = assign_by_cell(parts, draws(3, "x", range(8)), range(8), ["all"] * 8, before)
    assert dealt == ["train"] * 4 + ["test"] * 4


def test_reached_names_every_part_of_every_cell() -> None:
    """A part that a cell has nobody in stands there with 0."""
    assert reached(parse_parts("a=0.5,b=0.5"), ["x", "y", "x"], ["a", "b", "a"]) == {
        "x": {"a": 2, "b": 0},
        "y": {"a": 0, "b": 1},
    }


@pytest.mark.parametrize(
    ("call", "text", "message"),
    [
        (parse_parts, "train=0.8,test=0.1", "add up to 0.9"),
        (parse_parts, "train=0.8,train=0.2", "'train' comes twice"),
        (parse_parts, "train", "'' is no share"),
        (parse_parts, "train=half,test=0.5", "'half' is no share"),
        (parse_parts, "train=nan,test=1", "'nan' is no share"),
        (parse_parts, "train=0,test=1", "'0' is no share"),
        (parse_parts, "train=1/0,test=1", "'1/0' is no share"),
        (parse_parts, "a/b=1", "'a/b=1' is no part"),
        (parse_parts, "", "'' is no part"),
        (folds, 1, "2 to 1000 folds"),
        (require_name, "../x", "1 to 32 of a-z"),
    ],
)
def test_a_mistake_says_what_is_allowed(call: Any, text: Any, message: str) -> None:
    """Shares that do not add up, parts that come twice, names that are paths."""
    with pytest.raises(UserError, match=message):
        call(text)


def test_thirds_are_exact() -> None:
    """Three thirds are a whole, which no decimal fraction could say."""
    assert [p.share for p in parse_parts("a=1/3,b=1/3, c = 1/3")] == [Fraction(1, 3)] * 3
