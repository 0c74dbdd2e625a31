"""Admission: what enrolment rounds ask for, when a budget ends them, who comes first, and what a short one says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.balance import Targets, quotas, targets_of
from pipeline.domain.errors import RecipeError, TargetNotReachedError
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell
from pipeline.flow.admission import (
    DISAGREE,
    EXPECTED_YIELD,
    NO_CELL,
    Before,
    Enrolment,
    Probed,
    close_enrolment,
    plan_enrol_round,
    quota_among,
    quota_within,
)
from pipeline.flow.agreed import agreed_cell
from pipeline.flow.parts import Parts
from pipeline.flow.shortfall import Shortfall, explain
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

TWO = {"tone": ("light", "dark"), "presentation": ("feminine", "masculine")}
HALF = {"tone": {"light": 0.5, "dark": 0.5}, "presentation": {"feminine": 0.5, "masculine": 0.5}}
LF, LM, DF, DM = (
    Cell(v) for v in (("light", "feminine"), ("light", "masculine"), ("dark", "feminine"), ("dark", "masculine"))
)
ENROL: dict[str, Any] = sketch_recipe()["enrol"]


def parts_of(recipe: Recipe) -> Parts:
    """Return the parts of a recipe on a store in memory."""
    return wiring.build_parts(recipe, MemoryStore(), None, "test")


def asked(units: list[Any]) -> Counter[str]:
    """Return how many proposals units hold per cell."""
    return Counter(p.cell for u in units for p in u.proposals)


def state(
    parts: Parts, have: dict[Cell, int], landed: dict[Cell, dict[Cell, int]], tried: dict[Cell, int]
) -> Enrolment:
    """Return where enrolment stands with so many per cell."""
    quota = quotas(parts.targets, parts.recipe.identities.count)
    return Enrolment((), have, quota, quota, {}, sum(tried.values()), landed, tried, sum(tried.values()))


def test_the_first_round_asks_at_the_expected_yield_and_later_ones_at_what_was_measured() -> None:
    """A poor yield asks for more than the expected one, a cell that is full for none, all within the cap."""
    parts = parts_of(sketches(enrol={**ENROL, "reserve": 0, "vector_separation_cos": 0.999}))
    cells = list(parts.targets.cells)
    owed = quotas(parts.targets, 10)
    first, _ = plan_enrol_round(parts, 0, 0, 0, 0, None, Before(), Probed())
    assert asked(first) == {str(c): int(np.ceil(n / EXPECTED_YIELD)) for c, n in owed.items()}

    landed = {cells[0]: {cells[0]: 2}, cells[1]: {cells[1]: 20}}
    now = state(parts, {**owed, cells[0]: 1, cells[1]: 2}, landed, {cells[0]: 30, cells[1]: 22})
    later, _ = plan_enrol_round(parts, 0, 1, 9, 100, now, Before(), Probed())

    assert set(asked(later)) == {str(cells[0]), str(cells[1])}
    assert asked(later)[str(cells[0])] == 30  # at most what was tried: two of thirty came out, so more would be asked
    assert asked(later)[str(cells[1])] == 2  # at least 0.72 of those asked for came out, by Wilson


def test_a_budget_cuts_a_round_after_a_whole_unit_and_a_larger_one_keeps_what_was_planned() -> None:
    """No more candidates are probed than paid for, and the units before the cut are those of the larger budget."""
    free = sketches(enrol={**ENROL, "unit_candidates": 3})
    tight = free.model_copy(update={"enrol": free.enrol.model_copy(update={"budget": 8})})
    whole, all_numbered = plan_enrol_round(parts_of(free), 0, 0, 0, 0, None, Before(), Probed())
    cut, numbered = plan_enrol_round(parts_of(tight), 0, 0, 0, 0, None, Before(), Probed())

    assert sum(len(u.proposals) for u in cut) == 6
    assert cut == whole[:2]
    assert numbered == cut[-1].proposals[-1].candidate + 1 < all_numbered


def test_what_earlier_generations_probed_counts_against_the_budget() -> None:
    """A budget that is spent already plans nothing and numbers nobody."""
    recipe = sketches(enrol={**ENROL, "unit_candidates": 3, "budget": 8})
    before = Before(vectors_PD=np.eye(16, dtype=np.float32)[:6])

    assert plan_enrol_round(parts_of(recipe), 1, 0, 0, 50, None, before, Probed()) == ([], 0)


def test_a_spent_budget_ends_a_run_and_a_larger_one_ends_as_if_it_had_been_there() -> None:
    """Running again with more budget resumes and gives the bytes of a run that never had a limit."""
    strict = {**ENROL, "unit_candidates": 4}
    store, free = MemoryStore(), MemoryStore()
    with pytest.raises(
        TargetNotReachedError, match=r"after the whole of enrol\.budget \(9\) and 8 cand.*raise enrol\.budget"
    ):
        mint(sketches(enrol={**strict, "budget": 9}), store)
    mint(sketches(enrol={**strict, "budget": 10_000}), store)
    mint(sketches(enrol=strict), free)

    segments = {k: v for k, v in bytes_of(free).items() if k.startswith(("segments/", "enrolled/"))}
    assert segments == {k: v for k, v in bytes_of(store).items() if k.startswith(("segments/", "enrolled/"))}


def test_a_budget_below_one_unit_is_refused() -> None:
    """A budget that buys nothing is a mistake of the recipe."""
    with pytest.raises(RecipeError, match="budget 4 is less than one unit of unit_candidates 5"):
        sketches(enrol={**ENROL, "budget": 4})


def probed_of(cells: list[Cell], quality: list[float]) -> Probed:
    """Return probes of candidates that all passed, far from each other."""
    n = len(cells)
    return Probed(
        candidates=list(range(n)), asked=[str(c) for c in cells], cells=cells, accepted=[True] * n, quality=quality,
        vectors=[np.eye(16, dtype=np.float32)[:n]], templates=[np.eye(16, dtype=np.float32)[:n]],
    )  # fmt: skip


def test_inside_a_cell_those_whose_probes_agree_best_come_first() -> None:
    """Ordinals follow the candidates' numbers; ranks follow quality, in each cell for itself."""
    parts = parts_of(sketches())
    a, b = parts.targets.cells[:2]
    closed = close_enrolment(
        parts.recipe, parts.targets, parts.judge.calibration, probed_of([a, b, a, a], [0.5, 0.2, 0.9, 0.7]), Before()
    )

    assert [i.ordinal for i in closed.identities] == [0, 1, 2, 3]
    assert [i.rank for i in closed.identities] == [2, 0, 0, 1]
    assert closed.landed == {a: {a: 3}, b: {b: 1}}


@pytest.mark.parametrize(
    ("agreement", "second", "third", "cell"),
    [
        ("none", 0.9, 0.9, ("light",)),
        ("all", 0.2, 0.1, ("light",)),
        ("all", 0.9, 0.1, None),
        ("majority", 0.9, 0.1, ("light",)),
        ("majority", 0.9, 0.9, ("dark",)),
        ("all", float("nan"), 0.1, None),
    ],
)
def test_an_identity_counts_where_enough_labellers_agree(
    agreement: str, second: float, third: float, cell: tuple[str, ...] | None
) -> None:
    """Its cell is the value on which all, or most, of the labellers agree, whatever the primary one says."""
    targets = targets_of(["tone"], TWO, None, None, agreement=agreement)
    posterior = {"tone=light": 0.8, "tone=dark": 0.2}
    for name, dark in (("second", second), ("third", third)):
        posterior |= {f"tone@{name}=light": 1 - dark, f"tone@{name}=dark": dark}

    assert agreed_cell(posterior, targets) == (None if cell is None else Cell(cell))


def test_a_tie_between_two_labellers_is_no_majority() -> None:
    """One against one agrees on nothing."""
    targets = targets_of(["tone"], TWO, None, None, agreement="majority")
    posterior = {"tone=light": 0.8, "tone=dark": 0.2, "tone@b=light": 0.1, "tone@b=dark": 0.9}

    assert agreed_cell(posterior, targets) is None


def test_those_without_agreement_are_refused_with_the_reason() -> None:
    """A candidate whose labellers disagree is in no cell, is not enrolled, and is counted once."""
    targets = targets_of(["tone"], TWO, None, None, agreement="all")
    split = {"tone=light": 0.8, "tone=dark": 0.2, "tone@b=light": 0.1, "tone@b=dark": 0.9}
    united = {**split, "tone@b=light": 0.9, "tone@b=dark": 0.1}
    rows = np.eye(4, dtype=np.float32)
    probed = Probed()
    probed.add(
        {
            "candidate": [0, 1, 2], "cell_asked": ["light"] * 3, "posterior": [split, united, split],
            "accepted": [True, True, False], "quality": [0.9] * 3, "reasons": [[], [], ["probes_inconsistent"]],
            "vector": rows[:3], "template": rows[:3],
        },
        targets,
    )  # fmt: skip

    assert probed.accepted == [False, True, False]
    assert probed.cells == [NO_CELL, Cell(("light",)), NO_CELL]
    assert probed.reasons == {DISAGREE: 1, "probes_inconsistent": 1}


def test_a_run_with_two_labellers_who_must_agree_reaches_its_counts() -> None:
    """With a second labeller and agreement asked for, counts are exact, and the manifest states how many agree."""
    recipe = sketches(
        measures=[{"use": "sketch"}, {"use": "sketch", "labeller": "second"}],
        balance={"by": ["shape", "shade"], "agreement": "all"},
    )
    balance = mint(recipe).manifest.figures["balance"]

    assert balance["exact"]
    assert [(row["field"], row["agree"]) for row in balance["labellers"]] == [("shape", 1.0), ("shade", 1.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balance": {"by": ["shape"], "agreement": "all"}}, "needs several labellers of what it balances .shape."),
        ({"balance": {"by": ["shape", "shade"], "shares": {"dark/round": 1.0}}}, "did you mean 'round/dark'"),
        (
            {"identities": {**sketch_recipe()["identities"], "count": 3}},
            "3 identities leave nobody for 1 of the shares of balance .square/dark.; give at least 4",
        ),
    ],
)
def test_balance_that_cannot_be_meant_is_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    """What the recipe's tree cannot see is an error of one line."""
    with pytest.raises(RecipeError, match=message):
        sketches(**changes)


def marginals() -> Targets:
    """Return targets of halves by both fields."""
    return targets_of(list(TWO), TWO, None, HALF)


def test_a_cell_that_hardly_comes_out_does_not_hold_up_marginal_targets() -> None:
    """Beyond what is enrolled the quota avoids the dear cell; without prices it is the proportional table."""
    have, published = {LF: 3, LM: 5, DF: 5, DM: 0}, dict[Cell, int]()
    dear = {LF: 1.5, LM: 1.5, DF: 1.5, DM: 20.0}

    assert quota_within(marginals(), 20, have, published) == dict.fromkeys((LF, LM, DF, DM), 5)
    quota = quota_within(marginals(), 20, have, published, dear)
    assert quota == {LF: 0, LM: 10, DF: 10, DM: 0}


def test_the_reserve_of_one_cell_serves_another_under_marginal_targets_only() -> None:
    """Where a cell has nobody left, the places move to cells with reserves; joint shares stay what they are."""
    quota = dict.fromkeys((LF, LM, DF, DM), 5)
    held, waiting = {LF: 5, LM: 5, DF: 5, DM: 4}, {LF: 1, LM: 1, DF: 1, DM: 0}

    assert quota_among(marginals(), 20, quota, held, waiting) == quota
    moved = quota_among(marginals(), 20, quota, {LF: 5, LM: 4, DF: 4, DM: 5}, {LF: 0, LM: 0, DF: 0, DM: 1})
    assert moved == quota
    freed = quota_among(marginals(), 20, quota, {LF: 5, LM: 4, DF: 4, DM: 4}, {LF: 1, LM: 0, DF: 0, DM: 2})
    assert freed == {LF: 6, LM: 4, DF: 4, DM: 6}
    joint = targets_of(list(TWO), TWO, None, None)
    assert quota_among(joint, 20, quota, {LF: 5, LM: 4, DF: 4, DM: 4}, {LF: 1, DM: 2}) is quota


END = Shortfall(
    have={LF: 5, LM: 3}, quota={LF: 5, LM: 5}, landed={LF: {LF: 8}, LM: {LM: 3, LF: 20}}, tried={LF: 10, LM: 30},
    refused={"template_collides": 2, "probes_inconsistent": 7}, candidates=40, rounds=8, least_cap=20, probed=40,
    budget=None, spent=False, used_up=None,
)  # fmt: skip


WHOLE_LINE = (
    "after 8 enrolment rounds and 40 candidates 1 of 2 cells is short: light/masculine: 3 of 5 (yield 10.0 %: of 30 "
    "drawn towards it 3 came out as it and 20 as light/feminine); refused: template_collides 2, probes_inconsistent 7; "
    "at such yields it may take 35 more candidates: raise enrol.rounds and run again (to 10 or more); or, with another "
    "--out, ask for fewer of these cells in balance, or loosen enrol.consistency (probes_inconsistent refused most)"
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {},
            WHOLE_LINE,
        ),
        (
            {"spent": True, "budget": 45},
            "raise enrol.budget and run again (to 75 or more)",
        ),
        (
            {"have": {LF: 5}, "landed": {LF: {LF: 8}, LM: {LF: 25}}},
            "nothing that was tried comes out as light/masculine: with another --out, give it no share in balance",
        ),
        ({"landed": {}, "have": {}}, "nobody drawn towards them was enrolled: raise enrol.rounds and run again"),
        ({"refused": {}}, "refused: none; "),
    ],
)
def test_a_short_enrolment_says_what_was_tried_and_what_to_change(changes: dict[str, Any], says: str) -> None:
    """One line holds each short cell with its yield, where its proposals went, and how far to turn which knob."""
    line = explain(replace(END, **changes))

    assert says in line
    assert "\n" not in line


def test_manifest_figures_of_balance_say_how_even_the_set_is() -> None:
    """Cells keep their rows; values, evenness, association, the largest balanced set and diversity stand beside."""
    balance = mint(sketches(), observer=Silent()).manifest.figures["balance"]

    assert [row["reached"] for row in balance["cells"]] == [3, 3, 2, 2]
    assert [(r["value"], r["reached"]) for r in balance["values"]] == [
        ("round", 6), ("square", 4), ("light", 5), ("dark", 5)
    ]  # fmt: skip
    assert balance["summary"]["parity_min_to_max"] == pytest.approx(1.0)
    assert balance["summary"]["effective_cells"] == pytest.approx(3.9203, abs=1e-4)
    assert balance["summary"]["cells_empty"] == []
    assert balance["association"] == [{"between": ["shape", "shade"], "cramers_v": pytest.approx(0.0)}]
    assert balance["largest_balanced"]["identities"] == 10
    assert sum(row["soft_count"] for row in balance["cells"]) == pytest.approx(10.0)
    assert all(-1 <= row["mean_pairwise_cos"] < 1 for row in balance["cells"])
    assert all(0 < row["retention"] <= 1 for row in balance["cells"])
