"""Rounds of making: who filled, who gave way, and which reserve comes next."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.domain.records import Cell, Identity
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.rounds import close_round, first_choice, replacements
from tests.recipes import sketch_recipe
from tests.worlds import sketches

A, B = Cell(("a",)), Cell(("b",))
RECIPE = sketches(identities={**sketch_recipe()["identities"], "images_per_identity": 2})


def person(ordinal: int, cell: Cell, rank: int) -> Identity:
    """Return an enrolled identity."""
    unit = np.eye(8, dtype=np.float32)[0]
    return Identity(ordinal, ordinal, cell, rank, unit, unit, 1, 1.0)


PEOPLE = [person(0, A, 0), person(1, B, 0), person(2, A, 1), person(3, A, 2), person(4, B, 1), person(5, A, 3)]


def images(ordinal: int, axis: int, slots: int = 2) -> list[dict[str, Any]]:
    """Return rows of accepted images that all lie on one axis."""
    return [
        {
            "key": f"i{ordinal}-s{k}", "order": k, "identity": ordinal, "slot": k, "attempt": 0,
            "embedding": np.eye(8, dtype=np.float32)[axis], "accepted": True, "off_target": False, "reasons": [],
        }
        for k in range(slots)
    ]  # fmt: skip


def unit(index: int, round_number: int, *ordinals: int) -> Unit:
    """Return a make unit."""
    return Unit(Stage.MAKE, 0, index, round_number, ordinals=ordinals, slots=(0, 2))


def test_the_later_of_a_colliding_pair_gives_way_and_its_place_opens() -> None:
    """Made templates are compared across units; who collides or is not full is failed with the reason."""
    quota = {A: 2, B: 1}
    assert first_choice(PEOPLE, quota) == [0, 1, 2]
    units = [unit(0, 0, 0, 1), unit(1, 0, 2)]
    rows = {units[0].name: images(0, 0) + images(1, 1, slots=1), units[1].name: images(2, 0)}
    known = {p.ordinal: p for p in PEOPLE}
    standing = close_round(RECIPE, known, quota, units, rows, 0.9)
    assert standing.filled == (0,)
    assert standing.failed == {1: "attempts_used_up", 2: "made_template_collides"}
    assert standing.open_cells == {A: 1, B: 1}
    assert replacements(PEOPLE, [0, 1, 2], standing.open_cells) == [3, 4]


def test_a_later_round_never_unseats_who_was_filled() -> None:
    """A replacement with a lower ordinal than a filled identity still gives way to it."""
    units = [unit(0, 0, 5), unit(1, 1, 3)]
    rows = {units[0].name: images(5, 0), units[1].name: images(3, 0)}
    standing = close_round(RECIPE, {p.ordinal: p for p in PEOPLE}, {A: 1}, units, rows, 0.9)
    assert standing.filled == (5,)
    assert standing.failed == {3: "made_template_collides"}


def test_a_cell_without_reserves_stays_open() -> None:
    """Nobody of another cell takes the place."""
    assert replacements(PEOPLE, [1, 4], {B: 1}) == []
