"""Rounds of making: who filled, who gave way, which reserve comes next, and what growth may not touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.domain.records import Cell, Float32, Member
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.rounds import Harvest, close_round, harvest, next_in_line

A, B = Cell(("a",)), Cell(("b",))
PEOPLE = [
    Member(0, 0, A, 0), Member(1, 1, B, 0), Member(2, 2, A, 1), Member(3, 3, A, 2), Member(4, 4, B, 1),
    Member(5, 5, A, 3),
]  # fmt: skip
CELLS = {m.ordinal: m.cell for m in PEOPLE}
NOBODY: tuple[list[int], Float32] = ([], np.empty((0, 0), np.float32))
EYE = np.eye(8, dtype=np.float32)


def unit(index: int, *ordinals: int, slots: tuple[int, int] = (0, 2)) -> Unit:
    """Return a make unit."""
    return Unit(Stage.MAKE, 0, index, 0, ordinals=ordinals, slots=slots)


def columns(*images: tuple[int, int, int]) -> dict[str, Any]:
    """Return the columns of accepted images, each (identity, slot, axis on which it lies)."""
    return {
        "identity": np.array([i for i, _, _ in images], np.int64),
        "slot": np.array([s for _, s, _ in images], np.int32),
        "accepted": np.ones(len(images), bool),
        "embedding": EYE[[a for _, _, a in images]],
    }


def brought(which: Unit, *images: tuple[int, int, int], sums: dict[int, Any] | None = None) -> Harvest:
    """Return what a unit with these images brought in."""
    return harvest(which, columns(*images), sums or {})


def test_the_later_of_a_colliding_pair_gives_way_and_its_place_opens() -> None:
    """Made templates are compared across units; who collides or is not full is failed with the reason."""
    quota = {A: 2, B: 1}
    assert next_in_line(PEOPLE, set(), quota) == [0, 1, 2]
    harvests = [
        brought(unit(0, 0, 1), (0, 0, 0), (0, 1, 0), (1, 0, 1)),
        brought(unit(1, 2), (2, 0, 0), (2, 1, 0)),
    ]
    standing = close_round(CELLS, quota, harvests, {}, NOBODY, 0.9)
    assert standing.filled == (0,)
    assert standing.failed == {1: "attempts_used_up", 2: "made_template_collides"}
    assert standing.open_cells == {A: 1, B: 1}
    assert next_in_line(PEOPLE, {0, 1, 2}, standing.open_cells) == [3, 4]


def test_a_later_round_never_unseats_who_was_filled() -> None:
    """A replacement with a lower ordinal than a filled identity still gives way to it."""
    harvests = [brought(unit(0, 5), (5, 0, 0), (5, 1, 0)), brought(unit(1, 3), (3, 0, 0), (3, 1, 0))]
    standing = close_round(CELLS, {A: 1}, harvests, {}, NOBODY, 0.9)
    assert standing.filled == (5,)
    assert standing.failed == {3: "made_template_collides"}


def test_a_cell_without_reserves_stays_open() -> None:
    """Nobody of another cell takes the place."""
    assert next_in_line(PEOPLE, {1, 4}, {B: 1}) == []


def test_a_new_identity_gives_way_to_a_published_one_and_never_the_other_way() -> None:
    """Whoever is published stays, in every generation; the newcomer's place opens."""
    published = ([3], EYE[[0]])
    standing = close_round(CELLS, {A: 2}, [brought(unit(0, 0), (0, 0, 0), (0, 1, 0))], {}, published, 0.9)
    assert standing.filled == ()
    assert standing.failed == {0: "made_template_collides"}
    assert standing.open_cells == {A: 1}


def test_a_published_identity_that_cannot_fill_its_new_slots_is_short_and_not_replaced() -> None:
    """It keeps its place, counts as itself, and what it lacks is stated."""
    grown = brought(unit(0, 3, slots=(2, 4)), (3, 2, 0), sums={3: EYE[0].astype(np.float64) * 2})
    standing = close_round(CELLS, {A: 1}, [grown], {}, ([3], EYE[[0]]), 0.9)
    assert standing.short == {3: 1}
    assert not standing.failed
    assert not standing.open_cells
    assert not standing.withdrawn


def test_growth_that_would_make_published_identities_collide_is_withdrawn() -> None:
    """The later of two published identities keeps what is published, and its new images are left out."""
    sums = {0: EYE[0].astype(np.float64), 1: EYE[1].astype(np.float64)}
    images = [(1, slot, 0) for slot in range(2, 12)]
    grown = brought(unit(0, 0, 1, slots=(2, 12)), *((0, s, 0) for s in range(2, 12)), *images, sums=sums)
    standing = close_round(CELLS, {A: 1, B: 1}, [grown], {}, ([0, 1], EYE[[0, 1]]), 0.9)
    assert standing.withdrawn == {1}
    assert standing.short == {1: 10}


def test_a_quarantined_unit_opens_places_and_leaves_published_identities_short() -> None:
    """What nobody could work on is failed with its reason, never forgotten."""
    standing = close_round(CELLS, {A: 2, B: 1}, [], {0: 2, 4: 3}, ([4], EYE[[0]]), 0.9)
    assert standing.failed == {0: "unit_quarantined"}
    assert standing.short == {4: 3}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_template_does_not_depend_on_the_order_of_the_rows(order: list[int]) -> None:
    """Embeddings are added slot by slot, whatever the order in which the unit made them."""
    rng = np.random.default_rng(3)
    table = {
        "identity": np.zeros(3, np.int64), "slot": np.array(order, np.int32), "accepted": np.ones(3, bool),
        "embedding": rng.standard_normal((3, 8)).astype(np.float32)[order],
    }  # fmt: skip
    straight = {**table, "slot": np.arange(3, dtype=np.int32), "embedding": table["embedding"][np.argsort(order)]}
    assert (
        harvest(unit(0, 0), table, {}).template_NE.tobytes() == harvest(unit(0, 0), straight, {}).template_NE.tobytes()
    )
