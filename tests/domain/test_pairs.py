"""Verification lists: folds that share nobody, cells in equal numbers, no pair twice, none of an image and its twin."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations, product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.errors import UserError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.pairs import Lists, _shared_out, draw_lists, spread
from pipeline.domain.records import minted_key
from pipeline.domain.twins import parent_of, twin_key


def index_of(cells: dict[str, list[int]], twins: int = 0) -> list[IndexRow]:
    """Return an index: cell -> how many images each of its people has; every image has so many twins."""
    rows = []
    for cell, sizes in cells.items():
        for images in sizes:
            identity = len({row.identity for row in rows})
            for slot in range(images):
                key = minted_key(identity, slot, 0)
                names = (key, *(twin_key(key, n) for n in range(1, twins + 1)))
                rows += [IndexRow(identity, name, identity, cell, "make-g0-000000", 0, 1) for name in names]
    return rows


def origin(row: IndexRow) -> str:
    """Return the key of the image that this one is, or was made of."""
    return parent_of(row.key) or row.key


def check(rows: list[IndexRow], lists: Lists) -> None:
    """Hold every promise of a drawn list against the index."""
    seen: dict[int, int] = {}
    asked = set()
    for pair in lists.pairs:
        a, b = rows[pair.a], rows[pair.b]
        assert (a.identity == b.identity) is pair.mated
        assert a.cell == b.cell == pair.cell
        assert origin(a) != origin(b)
        for row in (a, b):
            assert seen.setdefault(row.identity, pair.fold) == pair.fold, "somebody is in two folds"
        asked.add(frozenset((origin(a), origin(b))))
    assert len(asked) == len(lists.pairs), "two origins are paired twice"
    by_fold = Counter((p.fold, p.mated) for p in lists.pairs)
    assert set(by_fold.values()) == {lists.per_fold}
    assert len(by_fold) == 2 * lists.folds
    by_cell = Counter((p.fold, p.cell, p.mated) for p in lists.pairs)
    assert all(by_cell[f, c, True] == by_cell[f, c, False] for f, c, _ in by_cell)
    order = [(p.fold, not p.mated) for p in lists.pairs]
    assert order == sorted(order), "fold by fold, mated first"
    mated = [(p.fold, p.a, p.b) for p in lists.pairs if p.mated]
    assert [(t.fold, t.anchor, t.positive) for t in lists.triplets] == mated
    for t in lists.triplets:
        assert rows[t.negative].identity != rows[t.anchor].identity
        assert rows[t.negative].cell == t.cell == rows[t.anchor].cell
        assert seen.setdefault(rows[t.negative].identity, t.fold) == t.fold


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(2, 5), st.integers(1, 40), st.integers(0, 2), st.integers(0, 99),
)  # fmt: skip
def test_promises_hold_for_any_set(sizes: list[list[int]], folds: int, wanted: int, twins: int, seed: int) -> None:
    """Whoever is there, a list keeps every promise, or it is said why none can be drawn."""
    rows = index_of({f"c{n}": people for n, people in enumerate(sizes)}, twins)
    groups = sum(len(people) // 2 for people in sizes)
    if groups < folds:
        with pytest.raises(UserError, match=rf"make {groups} groups .* each of {folds} folds"):
            draw_lists(rows, folds=folds, per_fold=wanted, run_seed=seed)
        return
    try:
        lists = draw_lists(rows, folds=folds, per_fold=wanted, run_seed=seed)
    except UserError:
        # in some fold nobody has two images
        assert any(images == 1 for people in sizes for images in people)
        return
    check(rows, lists)
    assert 1 <= lists.per_fold <= wanted


def test_lfw_sized() -> None:
    """200 people of 4 cells with 10 images each fill 10 folds of 300 + 300 pairs, every cell with the same number."""
    rows = index_of({c: [10] * 50 for c in "abcd"})
    lists = draw_lists(rows, folds=10, per_fold=300, run_seed=7)
    check(rows, lists)
    assert len(lists.pairs) == 6000
    assert lists.mated_by_cell() == dict.fromkeys("abcd", 750)
    people = Counter(rows[p.a].identity for p in lists.pairs if p.mated)
    assert max(people.values()) - min(people.values()) <= 2, "people of a cell are asked about equally often"
    two = Counter(frozenset((rows[p.a].identity, rows[p.b].identity)) for p in lists.pairs if not p.mated)
    assert max(two.values()) - min(two.values()) <= 2


def test_cells_are_even_where_they_can_be() -> None:
    """A hundred people of six cells in ten folds: no fold has every cell, and all cells have as many pairs."""
    sizes = [17, 17, 17, 17, 16, 16]
    rows = index_of({f"c{n}": [10] * size for n, size in enumerate(sizes)})
    lists = draw_lists(rows, folds=10, per_fold=300, run_seed=7)
    check(rows, lists)
    assert lists.mated_by_cell() == {f"c{n}": 500 for n in range(6)}
    assert len({p.cell for p in lists.pairs if p.fold == 0}) < 6
    people = Counter(rows[p.a].identity for p in lists.pairs if p.mated)
    assert max(people.values()) <= 2 * min(people.values()), "nor is anybody asked about much more often"


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_sharing_out_is_as_even_as_can_be(data: st.DataObject, folds: int, cells: int) -> None:
    """Against every way there is to share out small numbers, none has a smaller sum of squares over cells."""
    room = {(f, f"c{c}"): data.draw(st.integers(0, 3)) for f in range(folds) for c in range(cells)}
    per_fold = [[room[f, f"c{c}"] for c in range(cells)] for f in range(folds)]
    each = data.draw(st.integers(0, min(sum(rooms) for rooms in per_fold)))
    ways = [[w for w in product(*(range(r + 1) for r in rooms)) if sum(w) == each] for rooms in per_fold]
    if prod(map(len, ways)) > 3000:
        return
    best = min(sum(sum(column) ** 2 for column in zip(*one, strict=True)) for one in product(*ways))
    found = _shared_out(room, folds, each)
    assert all(0 <= found[at] <= room[at] for at in room)
    assert all(sum(found[f, f"c{c}"] for c in range(cells)) == each for f in range(folds))
    totals = [sum(found[f, f"c{c}"] for f in range(folds)) for c in range(cells)]
    assert sum(t * t for t in totals) == best


def test_it_draws_all_there_is() -> None:
    """Where a fold can give no more, every pair of its smaller side is there."""
    rows = index_of({"a": [3, 3], "b": [3, 3]})
    lists = draw_lists(rows, folds=2, per_fold=999, run_seed=1)
    check(rows, lists)
    assert lists.per_fold == 6
    mated = {frozenset((rows[p.a].key, rows[p.b].key)) for p in lists.pairs if p.mated}
    by_person = defaultdict(list)
    for row in rows:
        by_person[row.identity].append(row.key)
    assert mated == {frozenset(two) for keys in by_person.values() for two in combinations(keys, 2)}


def test_order_of_the_index_changes_nothing() -> None:
    """The same pairs are drawn however the index is sorted, others under another seed."""
    rows = index_of({"a": [4] * 6, "b": [5] * 7}, twins=1)

    def drawn(order: list[IndexRow], seed: int) -> list[tuple[str, str]]:
        return [(order[p.a].key, order[p.b].key) for p in draw_lists(order, folds=3, per_fold=9, run_seed=seed).pairs]

    assert drawn(rows, 7) == drawn(rows[::-1], 7)
    assert drawn(rows, 7) != drawn(rows, 8)


def test_a_cell_of_one_person_is_left_out() -> None:
    """Somebody alone in a cell has nobody of it to be held against."""
    rows = index_of({"a": [4] * 4, "alone": [9]})
    lists = draw_lists(rows, folds=2, per_fold=5, run_seed=7)
    check(rows, lists)
    assert set(lists.mated_by_cell()) == {"a"}


@pytest.mark.parametrize(
    ("cells", "folds", "said"),
    [
        ({"a": [4] * 5, "b": [4] * 4}, 5, "9 identities in 2 cells make 4 groups .* set folds=4 or fewer"),
        ({"a": [4] * 3}, 2, "make 1 groups .* more identities"),
        ({"a": [1] * 8}, 2, "nobody there has two images"),
    ],
)
def test_too_few(cells: dict[str, list[int]], folds: int, said: str) -> None:
    """What is short is said with the option that helps."""
    with pytest.raises(UserError, match=said):
        draw_lists(index_of(cells), folds=folds, per_fold=3, run_seed=7)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 99), st.data())
def test_spread_is_even(room: list[int], seed: int, data: st.DataObject) -> None:
    """Everything is given out, nobody gets more than there is room for, and who has room left is one below at most."""
    total = data.draw(st.integers(0, sum(room)))
    given_N = spread(total, np.array(room, np.int64), np.random.Generator(np.random.Philox(seed)))
    assert given_N.sum() == total
    assert (given_N <= room).all()
    open_N = given_N < room
    if open_N.any():
        assert given_N[open_N].min() >= given_N.max() - 1
