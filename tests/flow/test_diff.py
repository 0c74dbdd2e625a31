"""Diff: two versions differ in what was changed about them, in nothing else, and the other way round in reverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError
from pipeline.domain.manifest import segment_path
from pipeline.execute.run import refilter
from pipeline.flow.diff import KINDS, diff
from pipeline.flow.versions import published_rows, read_manifest, versions
from tests.recipes import sketch_recipe
from tests.worlds import Silent, copy_of, mint, sketches

TABLES = ParquetTables()
LISTS = ("recipe", "counts", "refusals", "balance", "figures", "models", "use")


def sized(count: int = 8, **changes: Any) -> Any:
    """Return a recipe of so many people."""
    people = {**sketch_recipe()["identities"], "count": count, "images_per_identity": 2}
    enrol = {**sketch_recipe()["enrol"], "separation": {"cos": 0.9}}
    return sketches(**{"identities": people, "enrol": enrol, "exports": [], **changes})


def compared(a: MemoryStore, b: MemoryStore, version_a: str | None = None, version_b: str | None = None) -> Any:
    """Return the diff of two versions."""
    return diff(wiring.side_of(a, version_a), wiring.side_of(b, version_b), TABLES)


@pytest.fixture(scope="module")
def worlds() -> Mapping[str, MemoryStore]:
    """Return datasets that differ in one thing each; `grown` has three versions, the last of stricter filters."""
    stores = {name: MemoryStore() for name in ("plain", "seed", "tolerant", "grown", "unbalanced")}
    mint(sized(), stores["plain"])
    mint(sized(seed=8), stores["seed"])
    own = {"use": "own-template", "fmr": 5e-2}
    mint(sized(filters=[own, *sketch_recipe()["filters"][1:]]), stores["tolerant"])
    mint(sized(balance={}, use={"purpose": "another"}), stores["unbalanced"])
    mint(sized(), stores["grown"])
    mint(sized(12), stores["grown"])
    stricter = wiring.changed_recipe(stores["grown"], ["filters=[{use: own-template, cos: 0.9}]"], None)
    refilter(wiring.session_on(stricter, stores["grown"], Silent()))
    return stores


def names(rows: list[dict[str, Any]]) -> set[str]:
    """Return what differs."""
    return {row["name"] for row in rows}


@pytest.mark.parametrize("name", ["plain", "seed", "grown", "unbalanced"])
def test_nothing_differs_from_itself(worlds: Mapping[str, MemoryStore], name: str) -> None:
    """A version compared with itself, and with a copy elsewhere, has no difference at all."""
    for other in (worlds[name], copy_of(worlds[name])):
        facts = compared(worlds[name], other)
        assert facts["equal"] is True
        assert not any(facts[k] for k in LISTS)
        assert not any(facts[of].get(k) for of in ("identities", "images") for k in KINDS)
        assert facts["images"]["a"] == facts["images"]["b"] > 0


@pytest.mark.parametrize(
    ("one", "other"), [("plain", "seed"), ("plain", "tolerant"), ("seed", "grown"), ("unbalanced", "plain")]
)
def test_the_other_way_round_everything_is_reversed(worlds: Mapping[str, MemoryStore], one: str, other: str) -> None:
    """What A has and B lacks, B lacks and A has: values swap sides, added and removed change places."""
    there, back = compared(worlds[one], worlds[other]), compared(worlds[other], worlds[one])
    assert there["equal"] is back["equal"] is False
    for key in LISTS:
        assert [{**r, "a": r["b"], "b": r["a"]} for r in there[key]] == back[key]
    for of in ("identities", "images"):
        swapped = {"a": "b", "b": "a", "added": "removed", "removed": "added"}
        swapped |= {f"{k}_listed": f"{v}_listed" for k, v in swapped.items()}
        assert {swapped.get(k, k): v for k, v in there[of].items()} == back[of]


def test_growth_adds_people_and_changes_nobody(worlds: Mapping[str, MemoryStore]) -> None:
    """Between the first and the second version people and images are added, none is relabelled, no byte changes."""
    facts = compared(worlds["grown"], worlds["grown"], "v000001", "v000002")
    assert (facts["identities"]["a"], facts["identities"]["b"], facts["identities"]["added"]) == (8, 12, 4)
    assert facts["images"]["added"] == 8
    assert not any(facts[of].get(k) for of in ("identities", "images") for k in ("removed", "relabelled", "changed"))
    (row,) = facts["recipe"]
    assert row == {"name": "identities.count", "a": 8, "b": 12, "decides": "plan"}
    assert {"identities", "images", "make.accepted"} <= names(facts["counts"])


def test_refiltering_takes_away_and_names_the_threshold(worlds: Mapping[str, MemoryStore]) -> None:
    """Stricter filters remove images; the recipe's key and the threshold in force differ, with both values."""
    store = worlds["grown"]
    facts = compared(store, store, "v000002", "v000003")
    assert facts["images"]["removed"] > 0 == facts["images"]["added"]
    own = [r for r in facts["recipe"] if r["name"] in ("filters.0.fmr", "filters.0.cos")]
    assert [(r["a"], r["b"], r["decides"]) for r in own] == [(None, 0.9, "samples"), (1e-2, None, "samples")]
    assert "thresholds.own-template.threshold_cos" in names(facts["figures"])
    before, after = (
        {r.key for r in published_rows(Segments(), store, read_manifest(store, v))} for v in versions(store)[1:]
    )
    assert facts["images"]["removed"] == len(before - after)
    assert set(facts["images"]["removed_listed"]) <= before - after


def test_other_pixels_under_the_same_key_are_a_change(worlds: Mapping[str, MemoryStore]) -> None:
    """Two runs of other seeds have the keys of some slots in common, and none of the images."""
    one, other = worlds["plain"], worlds["seed"]
    facts = compared(one, other)
    bytes_of = [
        {r.key: s.get_range(segment_path(r.segment, "tar"), r.offset, r.length) for r in rows}
        for s, rows in ((s, published_rows(Segments(), s, read_manifest(s, "v000001"))) for s in (one, other))
    ]
    common = bytes_of[0].keys() & bytes_of[1].keys()
    assert facts["images"]["changed"] == sum(bytes_of[0][k] != bytes_of[1][k] for k in common) == len(common) > 0
    assert "seed" in names(facts["recipe"])


def test_equal_images_in_other_segments_are_no_change(worlds: Mapping[str, MemoryStore]) -> None:
    """Where the tars differ and the bytes of an image do not, it has not changed."""
    facts = compared(worlds["plain"], worlds["tolerant"])
    rows = [published_rows(Segments(), worlds[n], read_manifest(worlds[n], "v000001")) for n in ("plain", "tolerant")]
    common = {r.key for r in rows[0]} & {r.key for r in rows[1]}
    assert facts["images"]["changed"] < len(common)
    assert {"filters.0.fmr", "identities.count"} & names(facts["recipe"]) == {"filters.0.fmr"}


def test_what_is_no_number_differs_too(worlds: Mapping[str, MemoryStore]) -> None:
    """Use and cells: a purpose in words, and what one side has of balance where the other has nothing."""
    facts = compared(worlds["unbalanced"], worlds["plain"])
    assert {"name": "purpose", "a": "another", "b": "research"} in facts["use"]
    assert {"by", "cells.round/light.reached"} <= names(facts["balance"])
    assert next(r for r in facts["balance"] if r["name"] == "cells.round/light.reached")["a"] is None


def test_a_version_that_is_not_there_is_a_mistake(worlds: Mapping[str, MemoryStore]) -> None:
    """No dataset, no such version, and a version whose index is gone are said in one line."""
    with pytest.raises(OutputError, match="no dataset here"):
        wiring.side_of(MemoryStore())
    with pytest.raises(OutputError, match="no version v000007; versions here: v000001"):
        wiring.side_of(worlds["plain"], "v000007")
    store = copy_of(worlds["plain"])
    (index,) = (p for p in store.list("versions/v000001/") if "index-" in p)
    store.delete(index)
    with pytest.raises(OutputError, match="has no index any more"):
        compared(store, worlds["plain"])
