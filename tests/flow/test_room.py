"""Room: a plan says how many candidates it takes until enough vectors lie apart, or that so many do not fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from jobs.show_plan import print_plan
from jobs.wiring import build_parts
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import unit_rows
from pipeline.domain.separation import separate
from pipeline.domain.unit import Proposal
from pipeline.execute.plan import Plan, plan
from pipeline.flow.enrol import draw_vector
from pipeline.flow.room import room_for
from tests.flow.test_growth import ENROL, asked


def people(count: int, apart_cos: float) -> Recipe:
    """Return a recipe of so many people of one cell, whose vectors lie below a cosine."""
    enrol = {**ENROL, "vector_separation_cos": apart_cos}
    return asked(count, 1, {}, balance={"by": []}, enrol=enrol, filters=[{"use": "own-template", "fmr": 1e-2}])


def planned(count: int, apart_cos: float, store: MemoryStore) -> tuple[Any, Plan]:
    """Return the parts and the plan of such a recipe."""
    parts = build_parts(people(count, apart_cos), store, None, "test")
    return parts, plan(parts, workers=1)


@pytest.mark.parametrize("apart_cos", [0.9, 0.6])
def test_so_many_candidates_are_taken(apart_cos: float) -> None:
    """Drawing candidates until as many vectors as wanted lie apart ends within the interval that the plan tells."""
    parts, found = planned(150, apart_cos, MemoryStore())
    room = found.room
    assert room is not None
    assert room.candidates is not None
    drawn = unit_rows(np.stack([draw_vector(parts, Proposal(5000 + n, "all")) for n in range(4000)]), "vectors")
    kept = np.cumsum(separate(drawn, apart_cos).kept_N)
    taken = int(np.searchsorted(kept, room.wanted)) + 1

    assert room.wanted == 150
    assert room.candidates_low is not None
    assert room.candidates_low * 0.95 <= taken <= 1.05 * (room.candidates_high or np.inf)


def test_more_than_fit_are_said_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    """People whose vectors cannot all lie so far apart are announced in the plan, with the knob to turn."""
    _, found = planned(400, -0.05, MemoryStore())
    assert found.room is not None
    assert found.room.candidates is None
    print_plan({"recipe": "r", "uri": None, "thresholds": [], **asdict(found)})

    said = capsys.readouterr().out
    assert "400 vectors below cosine -0.05 do not fit" in said
    assert "raise enrol.vector_separation_cos" in said


def test_a_small_round_tells_nothing() -> None:
    """A handful of candidates is no sample, and nothing is said."""
    parts, found = planned(8, 0.9, MemoryStore())

    assert found.room is None
    assert room_for(parts, range(1000), ["all"], 0, 0) is None
