"""Splits of a dataset: kept beside its versions, extended when it grows, mended when a run was killed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jobs import examine, wiring
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.cosines import NumpyProduct, exact_cos
from pipeline.domain.errors import LeaseHeldError, OutputError, StoreError, UserError
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.records import unit_rows
from pipeline.domain.splits import folds, parse_parts
from pipeline.flow.lease import acquire
from pipeline.flow.splits import Asked, Near, forget, near_pairs, read_split, split_names, split_version
from pipeline.flow.versions import image_rows, read_manifest, versions
from tests.flow.erasing import DyingAtAnyChange, erase
from tests.flow.test_run import DyingStore, Killed
from tests.recipes import sketch_recipe
from tests.worlds import copy_of, filled, mint, problems, sketches

HALVES = Asked("half", parse_parts("train=0.5,test=0.5"))
BY_CELL = Asked("cells", parse_parts("train=0.75,test=0.25"), by_cell=True)
TABLES = ParquetTables()


def sized(count: int) -> Any:
    """Return a recipe of so many people."""
    people = {**sketch_recipe()["identities"], "count": count, "images_per_identity": 2}
    enrol = {**sketch_recipe()["enrol"], "separation": {"cos": 0.9}}
    return sketches(identities=people, enrol=enrol, exports=[])


@pytest.fixture(scope="module")
def published() -> MemoryStore:
    """Return a store with a dataset of ten people."""
    store = MemoryStore()
    mint(sized(10), store)
    return store


@pytest.fixture
def store(published: MemoryStore) -> MemoryStore:
    """Return a copy of it."""
    return copy_of(published)


def cells_of(store: MemoryStore) -> dict[int, str]:
    """Return everybody's cell in the newest version."""
    return {r.identity: r.cell for r in image_rows(Segments(), store, newest(store))}


def newest(store: MemoryStore) -> Any:
    """Return the newest manifest."""
    return read_manifest(store, versions(store)[-1])


@pytest.mark.parametrize("asked", [HALVES, BY_CELL, Asked("five", folds(5))])
def test_everybody_has_one_part_and_asking_again_changes_nothing(store: MemoryStore, asked: Asked) -> None:
    """The table holds each published identity once, sorted, and the same command writes the same bytes."""
    facts = wiring.split_on(store, asked)
    there = {p: store.get(p) for p in store.list("splits/")}
    assert set(there) == {f"splits/{asked.name}.parquet", f"splits/{asked.name}.json"}
    found = TABLES.read(store, f"splits/{asked.name}.parquet", ["identity", "part"])
    assert found["identity"].tolist() == sorted(cells_of(store))
    assert found["identity"].dtype == np.int64
    assert set(found["part"]) <= {p.name for p in asked.parts}
    assert sum(facts["reached"].values()) == facts["identities"] == 10
    assert facts["source"]["digest"] == newest(store).digest
    assert facts["table"]["sha256"] == sha256_hex(there[f"splits/{asked.name}.parquet"])
    wiring.split_on(store, asked)
    assert {p: store.get(p) for p in store.list("splits/")} == there
    assert problems(store) == []


@pytest.mark.parametrize("asked", [HALVES, BY_CELL])
def test_growth_extends_a_split_and_moves_nobody(store: MemoryStore, asked: Asked) -> None:
    """After growth those who had a part have it, newcomers have one, and the record names the new version."""
    wiring.split_on(store, asked)
    before = read_split(store, TABLES, asked.name)
    mint(sized(16), store)
    wiring.split_on(store, asked)
    after = read_split(store, TABLES, asked.name)
    assert len(after.part_of) == 16
    assert before.part_of.items() <= after.part_of.items()
    assert after.record["source"]["version"] == "v000002"
    assert problems(store) == []
    if asked.by_cell:
        for parts in after.record["reached_by_cell"].values():
            size = sum(parts.values())
            assert abs(parts["train"] - 0.75 * size) < 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_split_killed_anywhere_is_the_same_when_run_again(published: MemoryStore, dies_at: int, after: bool) -> None:
    """Killed before or after the table or the record, the next run leaves what an undisturbed one does."""
    whole = copy_of(published)
    wiring.split_on(whole, BY_CELL)
    store = filled(DyingStore(dies_at, after=after), published)
    with pytest.raises(Killed):
        wiring.split_on(store, BY_CELL)
    wiring.split_on(store, BY_CELL)
    assert store.left < 0, "there are two writes, and each was one at which to die"
    assert {p: store.get(p) for p in store.list("splits/")} == {p: whole.get(p) for p in whole.list("splits/")}


def test_another_request_under_the_same_name_is_refused(store: MemoryStore) -> None:
    """Other shares, another order of parts or cells: nobody changes sides without a new name."""
    wiring.split_on(store, HALVES)
    before = store.get("splits/half.parquet")
    for other in (
        Asked("half", parse_parts("train=0.4,test=0.6")),
        Asked("half", HALVES.parts, by_cell=True),
        Asked("half", folds(2)),
    ):
        with pytest.raises(UserError, match="give another --name"):
            wiring.split_on(store, other)
    assert store.get("splits/half.parquet") == before


def test_two_people_the_judge_takes_for_one_are_reported_across_sides() -> None:
    """A planted pair is counted, and listed where its parts differ; nobody is moved."""
    store = MemoryStore()
    mint(sized(4), store)
    cells, asked = cells_of(store), Asked("x", folds(4))
    who = sorted(cells)
    pairs = tuple((a, b, 0.99) for n, a in enumerate(who) for b in who[n + 1 :])
    near = Near(0.9, pairs)
    split = split_version(store, TABLES, newest(store), cells, near, asked, 7, lambda: None)
    alone = split_version(MemoryStore(), TABLES, newest(store), cells, Near(0.9, ()), asked, 7, lambda: None)
    assert split.part_of == alone.part_of
    across = [(a, b) for a, b, _ in pairs if split.part_of[a] != split.part_of[b]]
    assert split.record["near"]["pairs"] == 6
    assert split.record["near"]["across"] == len(across) > 0
    assert [(p["other"], p["identity"]) for p in split.record["near"]["listed"]] == across


def test_near_pairs_are_all_pairs_at_or_above_the_threshold() -> None:
    """The blocked search finds what comparing every pair with every other one does, the threshold included."""
    rng = np.random.default_rng(5)
    emb_ME = unit_rows(rng.normal(size=(300, 5)), "test")
    every = {(a, b): exact_cos(emb_ME[a], emb_ME[b]) for a in range(300) for b in range(a + 1, 300)}
    threshold = sorted(every.values())[-200]
    product = NumpyProduct()
    product.block = (64, 48)
    found = near_pairs(range(300), emb_ME, threshold, product)
    assert {(a, b) for a, b, _ in found.pairs} == {p for p, cos in every.items() if cos >= threshold}
    assert len(found.pairs) >= 200
    assert all(every[a, b] == cos for a, b, cos in found.pairs)


def test_the_erased_leave_every_split(store: MemoryStore) -> None:
    """Their ordinals are gone from tables and records; the others stay where they were, and the rest is whole."""
    wiring.split_on(store, HALVES)
    wiring.split_on(store, BY_CELL)
    cells = cells_of(store)
    before = read_split(store, TABLES, "half").part_of
    gone = sorted(cells)[3]
    left = {o: c for o, c in cells.items() if o != gone}
    assert forget(store, TABLES, {gone}, left) == ["cells", "half"]
    assert read_split(store, TABLES, "half").part_of == {o: p for o, p in before.items() if o != gone}
    assert read_split(store, TABLES, "cells").record["identities"] == 9
    assert forget(store, TABLES, {gone}, left) == []
    assert problems(store) == []


@pytest.mark.parametrize("after", [False, True])
def test_an_erasure_killed_among_the_splits_is_ended_by_the_next_run(published: MemoryStore, after: bool) -> None:
    """Whichever write it dies at, the same command leaves tables that the records name, without the erased."""
    whole = copy_of(published)
    wiring.split_on(whole, HALVES)
    wiring.split_on(whole, BY_CELL)
    cells = cells_of(whole)
    gone = sorted(cells)[3]
    left = {o: c for o, c in cells.items() if o != gone}
    for dies_at in range(1, 5):
        store = filled(DyingAtAnyChange(dies_at, after=after), whole)
        with pytest.raises(Killed):
            forget(store, TABLES, {gone}, left)
        forget(store, TABLES, {gone}, left)
        assert problems(store) == []
        assert all(gone not in read_split(store, TABLES, name).part_of for name in split_names(store))


def test_a_table_without_a_record_goes_when_somebody_is_erased(store: MemoryStore) -> None:
    """What a killed split left beside no record may hold the erased, and the same command makes it anew."""
    wiring.split_on(store, HALVES)
    data = store.get("splits/half.parquet")
    store.delete("splits/half.json")
    assert forget(store, TABLES, {min(cells_of(store))}, cells_of(store)) == []
    assert store.list("splits/") == []
    wiring.split_on(store, HALVES)
    assert store.get("splits/half.parquet") == data


@pytest.mark.parametrize("damage", ["half.json", "half.parquet"])
def test_nobody_is_erased_beside_a_damaged_split(store: MemoryStore, damage: str) -> None:
    """A split that cannot be read stops an erasure before it begins, in one line that says what to do."""
    wiring.split_on(store, HALVES)
    store.delete("splits/half.parquet")
    if damage == "half.json":
        store.put("splits/half.json", b"{}")
    with pytest.raises(StoreError, match=rf"splits/{damage}: .*delete both files of this split"):
        erase(store, min(cells_of(store)))
    assert store.list("erasures/") == []
    assert versions(store) == ["v000001"]
    for path in store.list("splits/"):
        store.delete(path)
    assert erase(store, min(cells_of(store))).published.manifest.version == "v000002"
    assert problems(store) == []


def test_who_is_away_for_a_version_finds_his_part_again(store: MemoryStore) -> None:
    """An identity that a version does not hold keeps its row, and counts for nothing meanwhile."""
    wiring.split_on(store, BY_CELL)
    cells, before = cells_of(store), read_split(store, TABLES, "cells").part_of
    away = min(cells)
    some = {o: c for o, c in cells.items() if o != away}
    split = split_version(store, TABLES, newest(store), some, Near(0.9, ()), BY_CELL, 7, lambda: None)
    assert split.record["identities"] == 9
    assert split.part_of == before


def test_verify_names_a_table_or_a_record_that_is_altered(store: MemoryStore) -> None:
    """A flipped byte of the table, a table that is gone, a record that is torn: each is found, and said how to mend."""
    wiring.split_on(store, HALVES)
    data = bytearray(store.get("splits/half.parquet"))
    data[len(data) // 2] ^= 1
    store.put("splits/half.parquet", bytes(data))
    (found,) = problems(store)
    assert found.startswith("splits/half.parquet: altered")
    assert "same split command" in found
    store.delete("splits/half.parquet")
    assert problems(store)[0].startswith("splits/half.parquet: missing")
    whole = store.get("splits/half.json")
    store.put("splits/half.json", whole.replace(b'"identities":10', b'"identities":11'))
    assert any(p.startswith("splits/half.json: not the record of a split") for p in problems(store))
    store.put("splits/half.json", b"{}")
    assert problems(store)[0].startswith("splits/half.json: not the record of a split")
    with pytest.raises(StoreError, match="not the record of a split"):
        read_split(store, TABLES, "half")


def test_a_split_needs_a_version_and_nobody_at_work(store: MemoryStore) -> None:
    """Where nothing is published, and where a run holds the dataset, nothing is written."""
    with pytest.raises(OutputError, match="no dataset here"):
        wiring.split_on(MemoryStore(), HALVES)
    acquire(store, SystemClock(), {"run": "other", "host": "elsewhere", "pid": 1}, lambda _: False)
    with pytest.raises(LeaseHeldError):
        wiring.split_on(store, HALVES)
    assert split_names(store) == []
    with pytest.raises(UserError, match="no split 'half'; splits here: none"):
        read_split(store, TABLES, "half")


def test_a_dataset_that_lacks_a_segment_is_not_divided(store: MemoryStore) -> None:
    """Nobody could say who is too near to whom, so it is said in one line what is missing."""
    store.delete("segments/make-g0-000001.parquet")
    with pytest.raises(StoreError, match=r"segments/make-g0-000001.parquet: missing; look with"):
        wiring.split_on(store, HALVES)
    assert split_names(store) == []


def test_the_parts_follow_from_the_recipes_seed(store: MemoryStore) -> None:
    """Two datasets of other seeds are divided otherwise under the same name."""
    wiring.split_on(store, HALVES)
    record = json.loads(store.get("splits/half.json"))
    assert record["run_seed"] == examine.run_seed(store) == 7
    assert canonical_json(record) == store.get("splits/half.json")
    cells = dict.fromkeys(range(64), "all")
    one, other = (
        split_version(MemoryStore(), TABLES, newest(store), cells, Near(0.9, ()), HALVES, seed, lambda: None)
        for seed in (7, 8)
    )
    assert one.part_of != other.part_of
