"""The plan: what a run would do, and that saying so writes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.wiring import build_parts
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import PlanMismatchError
from pipeline.domain.recipe import Recipe
from pipeline.execute.plan import Plan, plan
from tests.flow.test_growth import THREE_CELLS, asked
from tests.flow.test_make import Nonsense
from tests.flow.test_run import DyingStore, Killed
from tests.worlds import bytes_of, mint


def planned(recipe: Recipe, store: MemoryStore | LocalStore) -> Plan:
    """Return the plan of a recipe on a store, after checking that nothing was written."""
    before = {p: store.get(p) for p in store.list("")}
    found = plan(build_parts(recipe, store, None, "test"), workers=2)
    assert {p: store.get(p) for p in store.list("")} == before
    return found


def test_an_empty_place_is_planned_from_a_trial(tmp_path: Path) -> None:
    """Everything is new, figures come from images made here, and the folder that was named is not even created."""
    found = planned(asked(8, 3), LocalStore(tmp_path / "none", writable=False))
    assert not (tmp_path / "none").exists()
    assert found.identities == (0, 8)
    assert found.images == (0, 24)
    assert found.parent is None
    assert found.enrol_units[0] > 0
    assert found.make_units == (3, 0)
    assert found.candidates >= 24
    assert found.bytes > 0
    assert found.worker_hours is not None
    assert found.hours == pytest.approx(found.worker_hours / 2)
    assert "trial" in found.costs.source


def test_what_was_expected_is_near_what_was_made() -> None:
    """Candidates and bytes that the plan of a whole run expects are those of the run within a factor of two."""
    store = MemoryStore()
    expected = planned(asked(10, 4), store)
    manifest = mint(asked(10, 4), store).manifest
    made = manifest.counts["make"]["candidates"] + 3 * manifest.counts["enrol"]["candidates"]
    assert 0.5 < expected.candidates / made < 2
    size = sum(f.bytes for f in manifest.files if "segments/make" in f.path)
    assert 0.3 < expected.bytes / size < 3


def test_growth_is_planned_from_the_datasets_own_units() -> None:
    """Only what would be added is counted, and the cost is that of the units that are there."""
    store = MemoryStore()
    mint(asked(6, 2), store)
    found = planned(asked(12, 4, THREE_CELLS), store)
    assert found.generation == 1
    assert found.parent == "v000001"
    assert found.identities == (6, 6)
    assert found.images == (12, 6 * 4 + 6 * 2)
    assert found.cells["round/dark"] == (0, 2)
    assert "committed units" in found.costs.source


def test_a_published_dataset_and_one_in_the_middle() -> None:
    """What is published costs nothing more; of a run that was killed only what is left is planned."""
    whole = MemoryStore()
    mint(asked(6, 2), whole)
    assert planned(asked(6, 2), whole).published == "v000001"
    assert planned(asked(6, 2), whole).candidates == 0
    half = DyingStore(14, after=True)
    with pytest.raises(Killed):
        mint(asked(6, 2), half)
    half.left = -1
    found = planned(asked(6, 2), half)
    assert found.published is None
    assert found.enrol_units[1] > 0
    assert found.candidates < planned(asked(6, 2), MemoryStore()).candidates
    mint(asked(6, 2), half)
    assert bytes_of(half) == bytes_of(whole)


def test_what_would_be_refused_is_refused_when_planned() -> None:
    """A plan says so before anything is spent."""
    store = MemoryStore()
    mint(asked(6, 2), store)
    with pytest.raises(PlanMismatchError, match="only grows"):
        planned(asked(5, 2), store)


def test_a_judge_that_gives_no_numbers_for_some_faces_ends_no_plan() -> None:
    """A trial with NaN embeddings counts those faces as refused, as a run would."""
    parts = build_parts(asked(8, 3), MemoryStore(), None, "test")
    for one_in in (1, 3):
        found = plan(replace(parts, judge=Nonsense(parts.judge, one_in)), workers=1)
        assert 0 < found.costs.accepted_share < 1
