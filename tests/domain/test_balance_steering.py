"""Steering: proposals cover what is short by what was measured, and no cell is asked for beyond the cap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.balance_figures import wilson_interval
from pipeline.domain.records import Cell
from pipeline.domain.steering import cap_of, least_yields, steer

A, B, C = (Cell((v,)) for v in "abc")


def ask(short: dict[Cell, int], landed: object = None, tried: object = None, cap: int = 1000) -> dict[Cell, int]:
    """Return the proposals, with the expected yield of 0.7."""
    return steer(short, landed or {}, tried or {}, expected=0.7, least_cap=cap)  # type: ignore[arg-type]


def test_before_any_measurement_the_expected_yield_decides() -> None:
    """Seven wanted at 0.7 are ten proposals; nothing wanted is none."""
    assert ask({A: 7, B: 0}) == {A: 10, B: 0}


def test_shortfall_is_divided_by_the_lower_end_of_the_yield() -> None:
    """Of 100 tried 50 came out, at least 0.404 by Wilson: 10 more take 25 proposals, not 20."""
    assert wilson_interval(50, 100)[0] == pytest.approx(0.4038, abs=1e-4)
    assert ask({A: 10, B: 0}, {A: {A: 50}}, {A: 100}) == {A: 25, B: 0}


def test_a_cell_that_nobody_came_out_as_is_tried_further_up_to_the_cap() -> None:
    """After 40 tries without one, 3 missing are asked for as if one in twenty came out, never more than the cap."""
    assert ask({A: 3}, {}, {A: 40}) == {A: 60}
    assert ask({A: 3}, {}, {A: 10}, cap=16) == {A: 16}


def test_a_rare_cell_is_asked_for_at_most_as_often_again_as_before() -> None:
    """One in fifty came out: 5 more would take a thousand at the least yield, and a round doubles what was tried."""
    assert ask({A: 5}, {A: {A: 1}}, {A: 50}, cap=16) == {A: 50}
    assert ask({A: 5}, {A: {A: 4}}, {A: 200}, cap=16) == {A: 200}


def test_a_cell_is_asked_for_by_the_way_on_which_it_comes_out() -> None:
    """Where most of what is drawn towards B is read as A, and little towards A itself, A is filled through B."""
    landed = {A: {A: 4, C: 90}, B: {A: 80, B: 10}}

    asked = ask({A: 20, B: 0, C: 0}, landed, {A: 100, B: 100})

    assert asked == {A: 0, B: 29, C: 0}  # 20 / 0.711
    assert asked[B] * wilson_interval(80, 100)[0] >= 20


def test_what_falls_to_a_cell_from_another_is_counted() -> None:
    """B needs fewer of its own proposals where A's, needed anyway, are read as B half of the time."""
    tried = {A: 100, B: 100}
    alone = ask({A: 0, B: 30}, {A: {A: 40, B: 50}, B: {B: 60}}, tried)
    beside = ask({A: 30, B: 30}, {A: {A: 40, B: 50}, B: {B: 60}}, tried)

    assert alone[A] == 0
    assert beside[A] > 0
    assert beside[B] < alone[B]


def test_where_the_cap_binds_others_help() -> None:
    """What a capped cell cannot give is asked of the next best way."""
    asked = ask({A: 20, B: 0}, {A: {A: 16}, B: {A: 8, B: 8}}, {A: 20, B: 20}, cap=20)

    assert asked[A] == 20
    assert asked[B] > 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_proposals_cover_every_shortfall_that_the_cap_lets_them(seed: int, count: int, cap: int) -> None:
    """Expected landings reach what is short, unless every way to a cell is used up to the cap; nobody exceeds it."""
    rng = np.random.default_rng(seed)
    cells = [Cell((f"{n:02d}",)) for n in range(count)]
    tried = {c: int(rng.integers(0, 50)) for c in cells}
    landed = {
        c: dict(zip(cells, rng.multinomial(tried[c], rng.dirichlet(np.ones(count + 1)))[:-1].tolist(), strict=True))
        for c in cells
    }
    short = {c: int(rng.integers(0, 12)) for c in cells}

    asked = steer(short, landed, tried, expected=0.7, least_cap=cap)
    yields = least_yields(landed, tried, cells, 0.7)
    reached = np.array([asked[c] for c in cells]) @ yields

    assert all(0 <= n <= cap_of(tried[c], cap) for c, n in asked.items())
    assert sum(asked.values()) == 0 or any(short.values())
    for j, cell in enumerate(cells):
        used_up = all(asked[a] == cap_of(tried[a], cap) for i, a in enumerate(cells) if yields[i, j] > 1e-3)
        assert reached[j] >= short[cell] - 1e-6 or used_up


@given(st.permutations([A, B, C]))
def test_steering_does_not_depend_on_the_order_of_the_cells(order: list[Cell]) -> None:
    """Equal cells get equal answers however the tables are written."""
    landed = {A: {A: 5, B: 5}, B: {A: 5, B: 5}, C: {C: 9}}
    tried = {A: 12, B: 12, C: 12}
    short = {A: 6, B: 6, C: 2}

    turned = steer(
        {c: short[c] for c in order},
        {c: landed[c] for c in order},
        {c: tried[c] for c in order},
        expected=0.7,
        least_cap=99,
    )

    assert turned == steer(short, landed, tried, expected=0.7, least_cap=99)
