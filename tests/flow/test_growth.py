"""Growth: a larger recipe adds to a published dataset, and what was published stays as it is, byte for byte."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import PlanMismatchError, RecipeError, StoreError, TargetNotReachedError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.recipe import Recipe
from pipeline.execute.run import Published
from pipeline.flow.commit import receipts
from pipeline.flow.versions import published_rows, read_manifest, versions
from tests.flow.test_run import DyingStore, Killed
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, filled, mint, sketches

PEOPLE = sketch_recipe()["identities"]
TWO_CELLS = {"round/light": 0.5, "square/dark": 0.5}
THREE_CELLS = {"round/light": 0.4, "square/dark": 0.4, "round/dark": 0.2}


def asked(count: int, images: int, shares: dict[str, float] | None = None, **changes: Any) -> Recipe:
    """Return a recipe of so many people, with a generator that now and then misses a person."""
    recipe = {
        "identities": {**PEOPLE, "count": count, "images_per_identity": images},
        "generator": {"use": "sketch", "noise": 1.5},
        "balance": {"by": ["shape", "shade"], "shares": shares or TWO_CELLS},
        "enrol": ENROL,
    }
    return sketches(**{**recipe, **changes})


ENROL = {**sketch_recipe()["enrol"], "separation": {"cos": 0.9}}
STEPS = [asked(6, 2), asked(10, 2), asked(10, 4), asked(12, 4, THREE_CELLS)]


def rows_of(store: MemoryStore, version: str) -> list[IndexRow]:
    """Return the index of a version."""
    return published_rows(Segments(), store, read_manifest(store, version))


def grow(store: MemoryStore) -> list[Published]:
    """Take a dataset through every step."""
    return [mint(step, store) for step in STEPS]


@pytest.fixture(scope="module")
def grown() -> MemoryStore:
    """Return a store whose dataset grew in three steps: more people, more images of each, a new cell."""
    store = MemoryStore()
    grow(store)
    return store


def test_no_old_byte_changes_and_versions_chain() -> None:
    """After every step all earlier segments and versions are what they were, and each version names its parent."""
    store, before = MemoryStore(), dict[str, bytes]()
    for number, step in enumerate(STEPS, start=1):
        published = mint(step, store)
        now = bytes_of(store)
        assert {k: now[k] for k in before} == before
        before = now
        manifest = published.manifest
        assert manifest.version == f"v{number:06d}"
        assert manifest.generation == number - 1
        assert manifest.parent == (f"v{number - 1:06d}" if number > 1 else None)
        if number > 1:
            assert manifest.parent_digest == read_manifest(store, f"v{number - 1:06d}").digest
    assert versions(store) == ["v000001", "v000002", "v000003", "v000004"]


def test_labels_and_images_of_a_version_stand_in_every_later_one(grown: MemoryStore) -> None:
    """An identity's label never changes, its images stay, and new people come after everybody else."""
    for old, new in (("v000001", "v000002"), ("v000002", "v000003"), ("v000003", "v000004")):
        before, after = rows_of(grown, old), rows_of(grown, new)
        assert set(before) <= set(after)
        assert max(r.label for r in before) == len({r.identity for r in before}) - 1
        newcomers = {r.identity for r in after} - {r.identity for r in before}
        assert all(r.label > max(b.label for b in before) for r in after if r.identity in newcomers)


def test_each_step_reaches_what_it_asked_for(grown: MemoryStore) -> None:
    """Counts, images each and cells of the last version are those of the last recipe."""
    rows = rows_of(grown, "v000004")
    assert set(Counter(r.identity for r in rows).values()) == {4}
    cells = Counter({r.identity: r.cell for r in rows}.values())
    assert cells == {"round/light": 5, "square/dark": 5, "round/dark": 2}
    assert sorted({r.label for r in rows}) == list(range(12))
    slots = {(r.identity, int(r.key.split("-")[1][1:])) for r in rows}
    assert len(slots) == 48


def test_growing_repeats_no_work_of_earlier_generations(grown: MemoryStore) -> None:
    """Nobody is probed whom a reserve can replace, no slot is made twice, and no candidate number is given twice."""
    known = receipts(grown)
    made = [r for r in known.values() if r.unit["stage"] == "make"]
    worked = Counter((o, s) for r in made for o in r.unit["ordinals"] for s in range(*r.unit["slots"]))
    assert max(worked.values()) == 1
    numbers = Counter(c for r in known.values() if r.unit["stage"] == "enrol" for c, _ in r.unit["proposals"])
    assert max(numbers.values()) == 1


@pytest.mark.parametrize("every", [10, pytest.param(3, marks=pytest.mark.soak)])
def test_growth_killed_at_any_write_ends_in_the_same_bytes(grown: MemoryStore, every: int) -> None:
    """Each step is killed before and after every write and run again: the dataset is the undisturbed one."""
    wanted = bytes_of(grown)
    base, writes = MemoryStore(), 0
    for number, step in enumerate(STEPS):
        for after in (False, True):
            for dies_at in range(1 + number % every, 200, every):
                store = filled(DyingStore(dies_at, after=after), base)
                try:
                    mint(step, store)
                except Killed:
                    writes += 1
                else:
                    break
                if dies_at % 2:
                    mint(step, store)
                    now = bytes_of(store)
                    assert now == {k: wanted[k] for k in now}, f"step {number} killed at write {dies_at}"
        mint(step, base)
    assert writes > 150 // every


def test_a_reserve_is_used_before_anybody_new_is_probed() -> None:
    """Identities that were enrolled and never worked on take the new places first."""
    store = MemoryStore()
    mint(asked(6, 2, enrol={**ENROL, "reserve": 1.0}), store)
    observer = Silent()
    mint(asked(10, 2, enrol={**ENROL, "reserve": 0.0}), store, observer)
    stages = [f["receipt"].unit["stage"] for kind, f in observer.seen if kind == "unit"]
    assert "enrol" not in stages
    assert "make" in stages


def test_a_smaller_or_another_recipe_is_refused_and_touches_nothing(grown: MemoryStore) -> None:
    """Fewer people, fewer images, other fields of balance or another fingerprint end in one line that names them."""
    before = bytes_of(grown)
    refusals = [
        (asked(11, 4, THREE_CELLS), PlanMismatchError, "only grows: identities.count 11 instead of 12"),
        (asked(12, 3, THREE_CELLS), PlanMismatchError, "only grows: identities.images_per_identity 3 instead of 4"),
        (asked(12, 4, THREE_CELLS, attempts=7), PlanMismatchError, "attempts 7 instead of 4"),
        (asked(14, 4, {"square/light": 1.0}), RecipeError, "a version drops nobody"),
        (
            sketches(identities={**PEOPLE, "count": 14, "images_per_identity": 4},
                     generator={"use": "sketch", "noise": 1.5}, balance={"by": ["shade"]}, enrol=ENROL),
            PlanMismatchError, "balance.by cannot change",
        ),
    ]  # fmt: skip
    for recipe, kind, message in refusals:
        with pytest.raises(kind, match=message):
            mint(recipe, copy_of(grown))
    store = copy_of(grown)
    with pytest.raises(RecipeError):
        mint(asked(14, 4, {"square/light": 1.0}), store)
    assert bytes_of(store) == before
    assert not store.list("recipes/g4"), "a step that cannot be is not begun"


def test_a_step_that_is_begun_must_be_finished_first(grown: MemoryStore) -> None:
    """A growth that was killed is resumed by its own recipe; a third plan is told so; more rounds are allowed."""
    store = copy_of(grown)
    more = asked(13, 4, THREE_CELLS, rounds=1)
    step = filled(DyingStore(4, after=True), store)
    with pytest.raises(Killed):
        mint(more, step)
    with pytest.raises(PlanMismatchError, match=r"generation 4 is begun and not published.*recipes/g4.yaml"):
        mint(asked(14, 4, THREE_CELLS), step)
    assert mint(asked(13, 4, THREE_CELLS, rounds=3), step).manifest.version == "v000005"


def test_an_identity_that_cannot_fill_its_new_slots_is_short_and_stays() -> None:
    """Attempts that are used up leave the published images standing; the version says who lacks how many."""
    hard = {"attempts": 1, "identities": {**PEOPLE, "count": 8, "images_per_identity": 1},
            "generator": {"use": "sketch", "noise": 1.8}, "enrol": ENROL, "rounds": 8}  # fmt: skip
    store = MemoryStore()
    mint(sketches(**hard), store)
    before = bytes_of(store)
    larger = sketches(**{**hard, "identities": {**PEOPLE, "count": 8, "images_per_identity": 9}})
    with pytest.raises(TargetNotReachedError, match=r"published identities could not fill \d+ of their new slots"):
        mint(larger, store)
    manifest = mint(larger, store, allow_short=True).manifest
    assert {k: v for k, v in bytes_of(store).items() if k in before} == before
    owned = Counter(r.identity for r in rows_of(store, "v000002"))
    assert len(owned) == 8
    short = {int(o): n for o, n in manifest.counts["identities_short"].items()}
    assert short
    assert all(owned[o] == 9 - short.get(o, 0) for o in owned)


def test_a_lost_segment_of_an_earlier_generation_is_made_again(grown: MemoryStore) -> None:
    """Whatever generation a unit is of, it is found missing and made again with the same bytes."""
    for lost in (
        "segments/make-g0-000000.tar", "segments/make-g2-000000.parquet", "segments/enrol-g0-000001.parquet",
        "enrolled/g0.parquet", "audits/make-g1-000000.parquet",
    ):  # fmt: skip
        store, observer = copy_of(grown), Silent()
        store.delete(lost)
        mint(STEPS[-1], store, observer)
        assert bytes_of(store) == bytes_of(grown), lost
        assert sum(kind == "unit" for kind, _ in observer.seen) == (0 if lost.startswith("enrolled/") else 1)


def test_receipts_that_no_plan_brings_back_are_asked_for_by_name(grown: MemoryStore) -> None:
    """A published generation without its enrolment's receipts ends in one line; a make unit of the newest is remade."""
    for name in ("enrolled-g1", "enrol-g0-000000", "make-g1-000000"):
        store = copy_of(grown)
        store.delete(f"receipts/{name}.json")
        for recipe in (STEPS[-1], asked(14, 4, THREE_CELLS)):
            with pytest.raises(StoreError, match=rf"receipts/{name}.json: missing.*restore receipts/ from a copy"):
                mint(recipe, store)
    store = copy_of(grown)
    store.delete("receipts/make-g3-000000.json")
    mint(STEPS[-1], store)
    assert bytes_of(store) == bytes_of(grown)
