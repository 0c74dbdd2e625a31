"""Erasing real people: nothing of them is found again, in what is published or under `private/`, and they stay away."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.grouped import GroupedParquet
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.ports import Store
from pipeline.domain.records import slot_of
from pipeline.flow.curating.outcomes import outcome_path
from pipeline.flow.versions import read_manifest, versions
from tests.flow.erasing import DyingAtAnyChange, erase, final, found, rows_of, traces
from tests.flow.private_world import curated, draw, recipe_of
from tests.flow.test_run import Killed
from tests.worlds import copy_of, filled, problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures of eight people."""
    home = tmp_path_factory.mktemp("people") / "photos"
    draw(home, range(8))
    # a copy of a picture, and one more under the name of somebody who is not on it
    shutil.copy(home / "person-0002" / "photo-0001.png", home / "person-0002" / "photo-copy.png")
    shutil.copy(home / "person-0002" / "photo-0002.png", home / "person-0003" / "photo-wrong.png")
    return home


@pytest.fixture(scope="module")
def made(folder: Path) -> MemoryStore:
    """Return what was curated of it, everybody kept."""
    store = MemoryStore()
    curated(recipe_of(folder, balance={"by": []}), store)
    return store


@pytest.fixture
def store(made: MemoryStore) -> MemoryStore:
    """Return a copy of it that may be changed."""
    return copy_of(made)


def newest(store: Store) -> Any:
    """Return the newest manifest."""
    return read_manifest(store, versions(store)[-1])


def person(store: Store, name: str) -> int:
    """Return the ordinal of whoever came under a label."""
    told = ParquetTables().read(store, "private/between/g0-identities.parquet", ["owner", "ordinal"])
    return int(next(o for n, o in zip(told["owner"], told["ordinal"], strict=True) if n.endswith(name)))


def cells_of_tables(store: Store) -> Iterator[tuple[str, Any]]:
    """Yield every value of every table, with the file that it is in."""
    for path in store.list(""):
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(store.get(path)))
            for column in table.column_names:
                yield from ((f"{path}: {column}", value) for value in table[column].to_pylist())


def mentions(store: Store, *words: str) -> list[str]:
    """Return where one of these words is found, in raw bytes and in every value of every table."""
    out = [path for path in store.list("") if any(word.encode() in store.get(path) for word in words)]
    out += [where for where, value in cells_of_tables(store) if any(word in repr(value) for word in words)]
    return out


def vectors_at(store: Store, rows: set[int]) -> list[bytes]:
    """Return the embeddings that ingest found of these inputs."""
    out = []
    for path in store.list("private/features/"):
        held = GroupedParquet(16).read(store, path, ["row", "embedding"])
        out += [e.tobytes() for r, e in zip(held["row"], held["embedding"], strict=True) if int(r) in rows]
    return [v for v in out if np.isfinite(np.frombuffer(v, np.float32)).all()]


def rows_named(store: Store, *parts: str) -> set[int]:
    """Return the numbers of inputs whose path has one of these parts."""
    listed = ParquetTables().read(store, "private/sources/s000001.parquet", ["row", "path"])
    return {int(r) for r, p in zip(listed["row"], listed["path"], strict=True) if any(x.encode() in p for x in parts)}


def test_nothing_of_a_person_is_left(store: MemoryStore) -> None:
    """Images, embeddings, templates, keys, name, captions and paths of a person are gone, and copies under others."""
    who = person(store, "person-0002")
    sought = traces(store, [who])
    rows = rows_named(store, "person-0002", "photo-wrong")
    sought.vectors += vectors_at(store, rows)
    shas = {sha for path in store.list("private/features/") for sha in _shas(store, path, rows)}
    assert len(rows) == 6
    assert len(shas) == 4
    assert mentions(store, "person-0002", "caption of 2,", *shas)
    erase(store, who)
    assert found(store, sought) == []
    assert mentions(store, "person-0002", "photo-wrong", "caption of 2,", *shas) == []
    assert problems(store) == []


def _shas(store: Store, path: str, rows: set[int]) -> set[str]:
    held = GroupedParquet(16).read(store, path, ["row", "sha256"])
    return {s for r, s in zip(held["row"], held["sha256"], strict=True) if int(r) in rows}


def test_everybody_else_stays_as_they_were(store: MemoryStore, made: MemoryStore) -> None:
    """Images, numbers, embeddings and labels of the others are the same, and so is what is known of their inputs."""
    who = person(store, "person-0002")
    before = {r.key: r for r in rows_of(made) if r.identity != who}
    erase(store, who)
    after = {r.key: r for r in rows_of(store)}
    assert {k: (r.label, r.identity) for k, r in before.items()} == {k: (r.label, r.identity) for k, r in after.items()}
    held: dict[tuple[int, str], dict[str, Any]] = {}
    for number, side in enumerate((made, store)):
        wanted = before if side is made else after
        for segment in {r.segment for r in wanted.values()}:
            held |= {(number, r["key"]): r for r in Segments().read_rows(side, segment) if r["key"] in wanted}
        for row in wanted.values():
            image = side.get_range(f"segments/{row.segment}.tar", row.offset, row.length)
            held[number, row.key]["sha256"] = sha256_hex(image)
    for key in before:
        one, other = held[0, key], held[1, key]
        assert one.pop("embedding").tolist() == other.pop("embedding").tolist()
        assert one == other
    names = ["row", "owner", "stage", "embedding", "sha256"]
    gone = rows_named(made, "person-0002", "photo-wrong")
    for path in made.list("private/features/"):
        sides = [GroupedParquet(16).read(side, path, names) for side in (made, store)]
        ours, theirs = (
            {int(s["row"][n]): [np.asarray(s[k][n]).tolist() for k in names[1:]] for n in range(len(s["row"]))}
            for s in sides
        )
        assert {r: v for r, v in ours.items() if r not in gone} == {r: v for r, v in theirs.items() if r not in gone}


def test_every_input_is_still_accounted_for(store: MemoryStore) -> None:
    """The account of inputs adds up to what was listed; what was erased is counted as that."""
    before = newest(store).counts["inputs"]
    erase(store, person(store, "person-0002"))
    after = newest(store).counts["inputs"]
    assert after["listed"] == before["listed"] == 34
    assert after["kept"] == before["kept"] - 4
    assert after["reasons"]["clean"]["erased"] == 6
    assert after["kept"] + after["refused"] + after["unreadable"] == after["listed"]


def test_who_was_erased_does_not_come_back(store: MemoryStore, folder: Path) -> None:
    """Their files are not listed again, the same bytes under another name are refused, and others still join."""
    recipe = recipe_of(folder, balance={"by": []})
    who = person(store, "person-0002")
    labels = {r.label for r in rows_of(store) if r.identity == who}
    erase(store, who)
    assert curated(recipe, store).resumed
    assert versions(store) == ["v000001", "v000002"]
    try:
        shutil.copytree(folder / "person-0002", folder / "person-0099")
        draw(folder, range(20, 21))
        manifest = curated(recipe, store).manifest
    finally:
        shutil.rmtree(folder / "person-0099")
        shutil.rmtree(folder / "person-0020")
    assert manifest.version == "v000003"
    assert manifest.counts["identities"] == 8
    assert manifest.counts["inputs"]["reasons"]["read"] == {"erased_before": 5}
    assert {r.label for r in rows_of(store)} == set(range(9)) - labels
    assert problems(store) == []


def test_one_image_goes_with_its_input(store: MemoryStore) -> None:
    """Erasing an image takes its input and copies of it, and leaves its person with the others and their numbers."""
    who = person(store, "person-0002")
    row = next(r for r in rows_of(store) if r.identity == who and slot_of(r.key) == 1)
    sought = traces(store, images=[row.key])
    erase(store, images=[row.key])
    assert found(store, sought) == []
    assert sum(r.identity == who for r in rows_of(store)) == 3
    told = ParquetTables().read(store, outcome_path(0), ["identity", "slot", "reason", "sha256"])
    mine = [n for n in range(len(told["slot"])) if told["identity"][n] == who and told["slot"][n] == 1]
    assert [(told["reason"][n], told["sha256"][n]) for n in mine] == [("erased", "")]
    assert problems(store) == []


@pytest.mark.parametrize("published", [True, False])
def test_an_input_is_erased_by_its_number(store: MemoryStore, published: bool) -> None:
    """`--source` names an input: what was made of it goes, and one that was refused leaves no trace either."""
    name = "person-0005/photo-0003" if published else "photo-copy"
    (row,) = rows_named(store, name)
    images = len(rows_of(store))
    vectors = vectors_at(store, {row})
    assert vectors
    erase(store, sources=[row])
    assert len(rows_of(store)) == images - published
    assert mentions(store, name) == []
    assert vectors_at(store, {row}) == []
    assert newest(store).tombstones.candidates == (row,)
    assert problems(store) == []
    assert erase(store, sources=[row]).already == 1


def test_an_unknown_input_is_refused(store: MemoryStore) -> None:
    """A number that no input has is the user's mistake, told in one line."""
    with pytest.raises(UserError, match="--source 999: no input of that number"):
        erase(store, sources=[999])


@pytest.mark.parametrize("after", [True, False])
def test_killed_at_any_change_it_completes(made: MemoryStore, after: bool) -> None:
    """Whenever the process dies, running the command again ends with the same files as an unbroken erasure."""
    whole = copy_of(made)
    who = person(whole, "person-0002")
    recipe = wiring.dataset_recipe(whole)
    erase(whole, who)
    deaths = 0
    # some changes before and others after they are done: each costs two erasures
    for dies_at in range(1 + 9 * after, 400, 18):
        broken = DyingAtAnyChange(dies_at, after=after)
        filled(broken, made)
        try:
            wiring.erase_on(broken, recipe, _wanted(who), _silent())
            break
        except Killed:
            deaths += 1
        broken.left = 10**9
        wiring.erase_on(broken, wiring.dataset_recipe(broken), _wanted(who), _silent())
        assert final(broken) == final(whole)
    assert deaths >= 3


def _wanted(who: int) -> Any:
    from pipeline.flow.erase.plan import Wanted

    return Wanted((who,))


def _silent() -> Any:
    from tests.worlds import Silent

    return Silent()


def test_the_journal_tells_no_name(store: MemoryStore) -> None:
    """What remains of an erasure is numbers: how much it was, and salted digests."""
    erase(store, person(store, "person-0002"))
    log = json.loads(store.get("erasures/000001.json"))
    assert log["inputs"] == 6
    assert "faces" not in log


@pytest.mark.parametrize("lost", ["segments/make-g0-000000.r1.tar", "private/features/", "private/sources/"])
def test_what_is_lost_after_an_erasure_comes_from_a_copy_alone(store: MemoryStore, folder: Path, lost: str) -> None:
    """Nothing is made of inputs that were erased in part: verification and curating say so, and change nothing."""
    erase(store, person(store, "person-0002"))
    path = store.list(lost)[0]
    store.delete(path)
    (said,) = problems(store, deep=False)
    assert said.startswith(f"{path}: missing")
    assert said.endswith("restore it from a copy")
    with pytest.raises(StoreError, match=f"{path}: missing.*restore it from a copy"):
        curated(recipe_of(folder, balance={"by": []}), store)
    assert versions(store) == ["v000001", "v000002"]


def test_an_audit_that_is_lost_after_an_erasure_is_repeated(store: MemoryStore, folder: Path) -> None:
    """An audit reads what is stored, and nothing that was erased: it is made again, to the same bytes."""
    erase(store, person(store, "person-0002"))
    path = next(p for p in store.list("private/audits/") if ".r1" in p)
    data = store.get(path)
    store.delete(path)
    curated(recipe_of(folder, balance={"by": []}), store)
    assert store.get(path) == data
    assert problems(store) == []
