"""Merge: one dataset of several, in which every image is where it was, and nobody stands twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs import examine, wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError, PlanMismatchError, StoreError, UserError
from pipeline.domain.manifest import IndexRow, Manifest, segment_path, sha256_hex
from pipeline.domain.merging import rekeyed
from pipeline.domain.separation import separate
from pipeline.domain.splits import folds
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.twins import is_twin
from pipeline.execute.run import Published
from pipeline.flow.diff import Side, diff
from pipeline.flow.erase.journal import Journal
from pipeline.flow.erase.plan import Wanted
from pipeline.flow.judge import NEAREST_ORDINAL
from pipeline.flow.merging.copying import read_table
from pipeline.flow.merging.merge import COPY, NEAR_COPY, NO_IMAGE_LEFT, UNREADABLE
from pipeline.flow.past import Past, published_templates
from pipeline.flow.rounds import COLLIDES
from pipeline.flow.splits import Asked
from pipeline.flow.versions import published_rows, read_manifest
from tests.flow.test_run import DyingStore, Killed
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, mint, problems, sketches

TABLES = ParquetTables()
MEASURES = [{"use": "sketch"}, {"use": "copy-hash"}]
TWINS = [{"use": "darkness", "share": 0.5}]


def recipe(count: int, **changes: Any) -> Any:
    """Return a recipe of so many people, two images each."""
    people = {**sketch_recipe()["identities"], "count": count, "images_per_identity": 2}
    enrol = {**sketch_recipe()["enrol"], "separation": {"cos": 0.9}}
    plain = {"identities": people, "enrol": enrol, "exports": [], "measures": MEASURES, "balance": {}}
    return sketches(**{**plain, **changes})


@pytest.fixture(scope="module")
def worlds() -> Mapping[str, MemoryStore]:
    """Return datasets that are merged in these tests; those of seed 7 hold the same people in other pictures."""
    made = {
        "a": recipe(8, name="first", twins=TWINS, use={"commercial": True, "purpose": "this"}),
        "b": recipe(6, name="second", seed=8, twins=TWINS, use={"purpose": "that"}),
        "noisy": recipe(6, name="noisy", generator={"use": "sketch", "noise": 0.5}),
        "squeezed": recipe(8, name="squeezed", encoding={"use": "jpeg", "quality": 90}),
        "judged": recipe(5, name="judged", seed=9, judge={"use": "sketch-screening"}),
    }
    stores = {name: MemoryStore() for name in made}
    for name, mine in made.items():
        mint(mine, stores[name])
    mint(recipe(10, name="first", twins=TWINS, use={"commercial": True, "purpose": "this"}), stores["a"])
    return stores


def merged(*stores: MemoryStore, out: MemoryStore | None = None, **options: Any) -> tuple[MemoryStore, Published]:
    """Merge the newest versions of some stores."""
    target = out if out is not None else MemoryStore()
    sides = [wiring.side_of(s) for s in stores]
    return target, wiring.merge_on(sides, target, wiring.MergeRequest(**options), Silent())


@pytest.fixture(scope="module")
def both(worlds: Mapping[str, MemoryStore]) -> tuple[MemoryStore, Published]:
    """Return two datasets merged."""
    return merged(worlds["a"], worlds["b"])


def newest(store: MemoryStore) -> Manifest:
    """Return the newest version of a store."""
    return examine.newest_manifest(store)


def rows_of(store: MemoryStore) -> list[IndexRow]:
    """Return the index of the newest version."""
    return published_rows(Segments(), store, newest(store))


def jpeg_of(store: MemoryStore, row: IndexRow) -> bytes:
    """Return an image's bytes."""
    return store.get_range(segment_path(row.segment, "tar"), row.offset, row.length)


def labels_of(store: MemoryStore) -> dict[int, int]:
    """Return ordinal -> label."""
    return {r.identity: r.label for r in rows_of(store)}


def test_counts_add_up_and_the_labels_of_the_first_stay(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """Whoever does not stand is accounted for; the first source keeps keys, ordinals and labels, the rest follow."""
    store, published = both
    facts = published.manifest.counts["merged"]
    before = [newest(worlds[n]).counts for n in "ab"]
    for told, counts in zip(facts, before, strict=True):
        assert told["identities"] + sum(told["identities_left_out"].values()) == counts["identities"]
    assert facts[0]["identities"] == 10
    assert facts[0]["images_left_out"] == {}
    mine, theirs = labels_of(store), labels_of(worlds["a"])
    assert theirs.items() <= mine.items()
    assert sorted(mine.values()) == list(range(published.manifest.counts["identities"]))
    others = {o: label for o, label in mine.items() if o not in theirs}
    offset = facts[1]["ordinals_from"]
    assert offset > max(theirs)
    old = {o + offset: label for o, label in labels_of(worlds["b"]).items()}
    assert sorted(others, key=lambda o: others[o]) == sorted(others, key=lambda o: old[o])
    assert problems(store) == []


def test_its_documents_name_its_sources_and_claim_no_yield(both: tuple[MemoryStore, Published]) -> None:
    """Card, Croissant and report say which versions images were copied from; copying is no making, nor its speed."""
    store, names = both[0], ("README.md", "croissant.json", "report.html")
    card, croissant, page = (store.get(f"versions/v000001/{name}").decode() for name in names)
    facts = wiring.report_on(store)
    told = [value for what, value in facts.provenance if what == "merged from"]
    for value, source in zip(told, newest(store).counts["merged"], strict=True):
        assert all(source["digest"] in document for document in (card, croissant, page, value))
        assert f"{source['images']:,} images of {source['identities']:,} identities" in value
    assert "Images were copied, in order of precedence, from" in croissant
    assert "were good enough" not in page
    assert "People proposed and enrolled" not in page
    assert facts.throughput == {}


def test_every_byte_and_number_of_an_image_is_carried_along(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """JPEG bytes, conditions, measures, embeddings and verdicts are the source's; twins come along with their image."""
    store, published = both
    here = {r.key: r for r in rows_of(store)}
    seen = 0
    for n, name in enumerate("ab"):
        source, facts = worlds[name], published.manifest.counts["merged"][n]
        there = {rekeyed(r.key, facts["ordinals_from"]): r for r in rows_of(source)}
        mine = {k for k in here if k in there}
        for segment in {there[k].segment for k in mine}:
            old = {r["key"]: r for r in Segments().read_rows(source, segment)}
            for key in sorted(k for k in mine if there[k].segment == segment):
                (new,) = (r for r in Segments().read_rows(store, here[key].segment) if r["key"] == key)
                was = old[there[key].key]
                assert jpeg_of(store, here[key]) == jpeg_of(source, there[key])
                for column in ("slot", "attempt", "conditions", "verdicts", "off_target"):
                    assert new[column] == was[column]
                assert np.array_equal(new["embedding"], was["embedding"])
                shifted = {**was["measures"]}
                if NEAREST_ORDINAL in shifted:
                    shifted[NEAREST_ORDINAL] += facts["ordinals_from"]
                assert new["measures"] == shifted
                seen += 1
    assert seen == len(here)
    assert sum(map(is_twin, here)) == published.manifest.counts["twins"] > 0


def test_the_tables_say_where_every_image_comes_from(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """A row per image: key, identity, label and cell here, key, identity, place and digest there."""
    store, published = both
    taken = [t for g in range(2) for t in read_table(TABLES, store, g)]
    assert {(t.key, t.identity, t.label, t.cell) for t in taken} == {
        (r.key, r.identity, r.label, r.cell) for r in rows_of(store)
    }
    for generation, name in enumerate("ab"):
        there = {r.key: r for r in rows_of(worlds[name])}
        for t in read_table(TABLES, store, generation):
            row = there[t.source_key]
            assert (t.source_identity, t.segment, t.offset, t.length) == (
                row.identity, row.segment, row.offset, row.length,
            )  # fmt: skip
            assert t.sha256 == sha256_hex(jpeg_of(worlds[name], row))
        assert published.manifest.counts["merged"][generation]["digest"] == newest(worlds[name]).digest


def test_nobody_who_stands_collides_and_everybody_dropped_does(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """The templates of all who stand are separated; each who was dropped comes too near to somebody before."""
    store, published = both
    assert problems(store) == []
    parts = wiring.build_parts(wiring.dataset_recipe(store), store, None, "test")
    rows = tuple(r for r in rows_of(store) if not is_twin(r.key))
    past = Past(rows=rows, labels={r.identity: r.label for r in rows})
    who, templates = published_templates(parts, past)
    first = sum(label < 10 for label in past.labels.values())  # type: ignore[union-attr]
    assert separate(templates[first:], 0.9, kept_before_ME=templates[:first]).kept_N.all()
    for pair in published.manifest.counts["merged"][1]["collisions_listed"]:
        assert pair["cos"] >= 0.9
        assert pair["with"] in who


def test_the_same_people_in_other_pictures_are_found(worlds: Mapping[str, MemoryStore]) -> None:
    """A dataset of the same vectors and other noise holds nobody new: each collides with himself and gives way."""
    store, published = merged(worlds["a"], worlds["noisy"])
    facts = published.manifest.counts["merged"][1]
    planted = {o for o in labels_of(worlds["noisy"]) if o in labels_of(worlds["a"])}
    listed = {p["identity"]: p["with"] for p in facts["collisions_listed"]}
    assert planted
    assert planted <= listed.keys()
    assert facts["identities_left_out"][COLLIDES] == facts["collisions"] >= len(planted)
    assert problems(store) == []


def test_a_dataset_merged_with_itself_is_itself(worlds: Mapping[str, MemoryStore]) -> None:
    """Every identity collides with itself; what is left has the images, keys and labels of the one."""
    a = worlds["a"]
    store, published = merged(a, a)
    facts = published.manifest.counts["merged"]
    assert facts[1]["identities_left_out"] == {COLLIDES: 10}
    assert all(p["with"] == p["identity"] and p["cos"] > 0.999 for p in facts[1]["collisions_listed"])
    found = diff(wiring.side_of(a), wiring.side_of(store), TABLES)
    kinds = ("added", "removed", "relabelled", "changed")
    assert not any(found[of].get(k) for of in ("identities", "images") for k in kinds)
    assert problems(store) == []


def test_collisions_can_be_kept_or_refused(worlds: Mapping[str, MemoryStore]) -> None:
    """Kept, both stand and the pairs are reported; refused, nothing is written."""
    _, published = merged(worlds["a"], worlds["noisy"], on_collision="keep", copy_bits=0)
    facts = published.manifest.counts["merged"][1]
    assert COLLIDES not in facts["identities_left_out"]
    assert facts["collisions"] > 0
    out = MemoryStore()
    with pytest.raises(UserError, match=r"identities collide .*--on-collision drop"):
        merged(worlds["a"], worlds["noisy"], out=out, on_collision="refuse")
    assert [p for p in out.list("") if not p.startswith("runs/")] == []


def test_copies_are_left_out_whoever_they_are_of(worlds: Mapping[str, MemoryStore]) -> None:
    """Kept although they collide, images of equal bytes are copies; encoded otherwise, their hashes tell."""
    store, published = merged(worlds["a"], worlds["a"], on_collision="keep")
    facts = published.manifest.counts["merged"][1]
    assert facts["identities_left_out"] == {NO_IMAGE_LEFT: 10}
    assert facts["images_left_out"] == {COPY: newest(worlds["a"]).counts["images"]}
    store, published = merged(worlds["a"], worlds["squeezed"], on_collision="keep")
    facts = published.manifest.counts["merged"][1]
    assert facts["images_left_out"][NEAR_COPY] > 0
    assert COPY not in facts["images_left_out"]
    images = newest(worlds["squeezed"]).counts["images"]
    assert facts["images"] + sum(facts["images_left_out"].values()) == images
    assert problems(store) == []


def killed_and_resumed(worlds: Mapping[str, MemoryStore], dies_at: int, *, after: bool) -> tuple[MemoryStore, bool]:
    """Return a merge that was run again if it died at its n-th write, and whether it did."""
    store = DyingStore(dies_at, after=after)
    try:
        merged(worlds["a"], worlds["b"], out=store)
    except Killed:
        merged(worlds["a"], worlds["b"], out=store)
        return store, True
    return store, False


@pytest.mark.parametrize(("dies_at", "after"), [(2, False), (5, True), (8, True), (13, False), (26, True)])
def test_a_merge_killed_is_the_same_when_run_again(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published], dies_at: int, after: bool
) -> None:
    """Killed at a write, before or after it, the next run ends with the bytes of a merge that was not killed."""
    store, died = killed_and_resumed(worlds, dies_at, after=after)
    assert died
    assert bytes_of(store) == bytes_of(both[0])


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True])
def test_a_merge_killed_at_any_write_is_the_same_when_run_again(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published], after: bool
) -> None:
    """There is no write at which it matters."""
    died, dies_at = True, 0
    while died:
        dies_at += 1
        store, died = killed_and_resumed(worlds, dies_at, after=after)
        assert bytes_of(store) == bytes_of(both[0])
    assert dies_at > 30


def test_again_nothing_is_made_and_what_is_lost_is_copied_again(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """A second run finds the version; where a segment or a document is gone it puts back the same bytes."""
    store = copy_of(both[0])
    _, published = merged(worlds["a"], worlds["b"], out=store)
    assert published.resumed
    for path in ("segments/make-g1-000000.tar", "versions/v000001/README.md"):
        store.delete(path)
    _, published = merged(worlds["a"], worlds["b"], out=store)
    assert not published.resumed
    assert bytes_of(store) == bytes_of(both[0])
    assert problems(store) == []


def test_use_models_and_sources_are_stated(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """The strictest use holds, models are united, and the recipe names versions and digests."""
    store, published = both
    manifest = published.manifest
    assert (manifest.use["commercial"], manifest.use["purpose"]) == (False, "this; that")
    assert [told["use"] for told in manifest.counts["merged"]] == [newest(worlds[n]).use for n in "ab"]
    cards = [newest(worlds[n]).models for n in "ab"]
    assert all(card in manifest.models.values() for models in cards for card in models.values())
    raw = wiring.dataset_recipe(store).model_dump(mode="json")
    assert raw["kind"] == "merge"
    assert [(s["name"], s["version"], s["digest"]) for s in raw["merged"]["sources"]] == [
        (m.name, m.version, m.digest) for m in (newest(worlds[n]) for n in "ab")
    ]


def test_models_that_differ_are_named_per_source(worlds: Mapping[str, MemoryStore]) -> None:
    """A role that two models had stands twice, the second under the name of its source."""
    other = copy_of(worlds["b"])
    _measured(other, "sketch-judge")
    judged = copy_of(worlds["judged"])
    _measured(judged, "sketch-judge")
    _, published = merged(worlds["a"], judged)
    assert published.manifest.models["judge"]["name"] == "sketch-judge"
    assert published.manifest.models["judge of judged"]["name"] == "sketch-screening"


def _measured(store: MemoryStore, name: str) -> None:
    wiring.measure_on(store, name, [], Silent())


def test_other_judges_need_one_in_common(worlds: Mapping[str, MemoryStore]) -> None:
    """Without a common judge the command that adds one is named; with it, its embeddings are those of the dataset."""
    judged = copy_of(worlds["judged"])
    with pytest.raises(UserError, match=r"no judge in common .*facemint measure .* --add sketch-judge"):
        merged(worlds["a"], judged)
    _measured(judged, "sketch-judge")
    store, published = merged(worlds["a"], judged)
    assert published.manifest.counts["merged"][1]["identities"] > 0
    taken = read_table(TABLES, store, 1)
    units = {r.segment for r in rows_of(store) if r.key in {t.key for t in taken}}
    here = {r["key"]: r for u in units for r in Segments().read_rows(store, u)}
    judge = wiring.build("judge", wiring.dataset_recipe(store).judge)
    for t in taken:
        face = JpegCodec().decode(judged.get_range(segment_path(t.segment, "tar"), t.offset, t.length))
        assert np.allclose(here[t.key]["embedding"], judge.embed(face[None])[0], atol=1e-5)
    assert problems(store) == []
    with pytest.raises(UserError, match="--judge lightning: no such recogniser"):
        merged(worlds["a"], judged, judge="lightning")


def test_other_verbs_work_on_it(worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]) -> None:
    """Status, measure, split, refilter and diff take it for a dataset; nothing is out of place afterwards."""
    store = copy_of(both[0])
    told = examine.status(store, SystemClock())
    assert told["stages"]["make"]["refused"] == 0
    assert told["stages"]["make"]["accepted"] == len([r for r in rows_of(store) if not is_twin(r.key)])
    wiring.measure_on(store, "lighting", ["alignment=sketch-32"], Silent())
    split = wiring.split_on(store, Asked("half", folds(2)))
    assert split["identities"] == newest(store).counts["identities"]
    found = diff(wiring.side_of(worlds["a"]), wiring.side_of(store), TABLES)
    assert found["images"]["changed"] == found["images"]["removed"] == found["identities"]["relabelled"] == 0
    assert found["identities"]["added"] == newest(store).counts["identities"] - 10
    stricter = wiring.changed_recipe(store, ["filters=[{use: own-template, cos: 0.9}]"], None)
    (judged,) = wiring.refilter_on(store, stricter, Silent(), None, False, False)
    assert 0 < judged.manifest.counts["images"] < both[1].manifest.counts["images"]
    assert problems(store) == []


def test_it_neither_grows_nor_makes_anything(both: tuple[MemoryStore, Published]) -> None:
    """Growth, completing and another merge at the same place are refused in one line each, and change nothing."""
    store = copy_of(both[0])
    before = bytes_of(store)
    for attempt in (
        lambda: mint(recipe(20), store),
        lambda: mint(wiring.dataset_recipe(store), store),
        lambda: wiring.refilter_on(store, wiring.dataset_recipe(store), Silent(), None, True, False),
    ):
        with pytest.raises(PlanMismatchError, match="a merged dataset does not grow"):
            attempt()
    assert bytes_of(store) == before


def test_another_merge_at_the_same_place_is_refused(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """A place holds one merge of certain versions; other sources, or another order, are named as other."""
    store = copy_of(both[0])
    with pytest.raises(PlanMismatchError, match=r"holds another dataset .*use another --out"):
        merged(worlds["b"], worlds["a"], out=store)
    with pytest.raises(PlanMismatchError, match=r"holds another dataset"):
        merged(worlds["a"], worlds["b"], out=copy_of(worlds["noisy"]))


def test_three_sources_and_a_merge_of_merges(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """A merged dataset is a source like any other, and three at once hold whom the steps would hold."""
    at_once, one = merged(worlds["a"], worlds["b"], worlds["noisy"])
    in_steps, other = merged(both[0], worlds["noisy"])
    pictures = [Counter(jpeg_of(s, r) for r in rows_of(s) if not is_twin(r.key)) for s in (at_once, in_steps)]
    assert pictures[0] == pictures[1]
    assert one.manifest.counts["identities"] == other.manifest.counts["identities"]
    assert problems(at_once) == problems(in_steps) == []


def test_twins_that_are_others_are_left_out_and_counted(worlds: Mapping[str, MemoryStore]) -> None:
    """Where the sources' twins differ, a twin's number would mean two things; none is taken, and it is said."""
    store, published = merged(worlds["b"], worlds["squeezed"])
    assert not any(is_twin(r.key) for r in rows_of(store))
    assert published.manifest.counts["merged"][0]["twins_left_out"] == newest(worlds["b"]).counts["twins"] > 0
    assert problems(store) == []


def test_images_of_another_size_are_refused(worlds: Mapping[str, MemoryStore]) -> None:
    """One dataset has one size: both are named, and nothing is written."""
    store = copy_of(worlds["b"])
    manifest, rows = newest(store), rows_of(store)
    path = segment_path(rows[0].segment, "tar")
    tar, jpeg = store.get(path), JpegCodec().encode(np.zeros((48, 40, 3), np.uint8))
    store.put(path, tar + jpeg)
    rows[0] = replace(rows[0], offset=len(tar), length=len(jpeg))
    entry = Segments().write_index(store, "v000001", rows)
    files = tuple(f for f in manifest.files if "index-" not in f.path)
    side = Side("other", store, replace(manifest, files=(*files, entry)), wiring.side_of(store).step)
    out = MemoryStore()
    with pytest.raises(UserError, match=r"its images are 40 x 48 px, those of .* 32 x 32 px"):
        wiring.merge_on([wiring.side_of(worlds["a"]), side], out, wiring.MergeRequest(), Silent())
    assert out.list("") == []


def test_a_source_that_changed_on_the_way_is_found(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """An image whose bytes are not those that were hashed when merging began stops the run and names the source."""
    target, source = copy_of(both[0]), copy_of(worlds["b"])
    path = f"segments/{rows_of(source)[0].segment}.tar"
    for unit in ("make-g1-000000", "make-g1-000001"):
        target.delete(f"segments/{unit}.tar")
    data = bytearray(source.get(path))
    for row in rows_of(source)[1:]:
        if segment_path(row.segment, "tar") == path:
            data[row.offset + row.length // 2] ^= 1
    source.put(path, bytes(data))
    with pytest.raises(StoreError, match="is not the image that was there when merging began"):
        merged(worlds["a"], source, out=target)


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_source_that_lacks_a_file_is_named(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published], suffix: str, begun: bool
) -> None:
    """A segment of a source that is gone, before anything is decided or when copying goes on, is said in one line."""
    source, target = copy_of(worlds["b"]), copy_of(both[0]) if begun else MemoryStore()
    target.delete("segments/make-g1-000000.tar")
    target.delete("segments/make-g1-000001.tar")
    gone = (max if begun else min)({r.segment for r in rows_of(source)})
    source.delete(segment_path(gone, suffix))
    with pytest.raises(StoreError, match=f"{segment_path(gone, suffix)}: missing; look with"):
        merged(worlds["a"], source, out=target)


def test_a_source_that_is_half_erased_is_refused(worlds: Mapping[str, MemoryStore]) -> None:
    """Somebody who is to go is still in its newest version, and must not be copied on."""
    store = copy_of(worlds["b"])
    journal = Journal(1, "v000001", 1, Tombstones(identities=(3,)), (), {}, {}, 0.0)
    store.put(journal.path, journal.to_json())
    with pytest.raises(PlanMismatchError, match="an erasure was begun and not finished"):
        merged(worlds["a"], store)


def test_a_retired_version_is_no_source(worlds: Mapping[str, MemoryStore]) -> None:
    """Nobody is brought back by merging a version that somebody was erased from: it is the user's mistake, said so."""
    store = copy_of(worlds["b"])
    gone = rows_of(store)[0].identity
    wanted = Wanted((gone,), (), ())
    wiring.erase_on(store, wiring.dataset_recipe(store), wanted, Silent())
    sides = [wiring.side_of(worlds["a"]), wiring.side_of(store, "v000001")]
    with pytest.raises(OutputError, match=r"v000001 was retired .* name a newer one, v000002 is the newest"):
        wiring.merge_on(sides, MemoryStore(), wiring.MergeRequest(), Silent())
    target, published = merged(worlds["a"], store)
    assert published.manifest.counts["merged"][1]["identities"] == newest(store).counts["identities"]
    assert problems(target) == []


def test_one_dataset_is_no_merge(worlds: Mapping[str, MemoryStore]) -> None:
    """At least two are named."""
    with pytest.raises(UserError, match="needs two datasets or more"):
        merged(worlds["a"])


def test_an_unreadable_face_is_left_out_with_its_reason(worlds: Mapping[str, MemoryStore]) -> None:
    """Without an embedding under the common judge nothing can be said of a face, so it does not stand."""
    judged = copy_of(worlds["judged"])
    _measured(judged, "sketch-judge")
    (path, *_) = (p for p in judged.list("measures/") if p.endswith(".parquet"))
    unit = path.removeprefix("measures/").removesuffix("-sketch-judge.parquet")
    car = Segments().read_side_car(judged, path, unit)
    gone = rows_of(judged)[0]
    emb = car.embedding_NE.copy()
    row = car.keys.index(gone.key)
    emb[row] = np.nan
    entry = Segments().write_side_car(judged, path, replace(car, embedding_NE=emb))
    record = json.loads(judged.get(path.replace(".parquet", ".json")))
    record["content"]["files"] = [{"path": entry.path, "sha256": entry.sha256, "bytes": entry.bytes}]
    judged.put(path.replace(".parquet", ".json"), json.dumps(record).encode())
    _, published = merged(worlds["a"], judged)
    assert published.manifest.counts["merged"][1]["images_left_out"] == {UNREADABLE: 1}


def test_the_version_that_is_named_is_merged(worlds: Mapping[str, MemoryStore]) -> None:
    """An older version can be a source: those who came later are not there, though their ordinals stay reserved."""
    store = MemoryStore()
    sides = [wiring.side_of(worlds["a"], "v000001"), wiring.side_of(worlds["b"])]
    published = wiring.merge_on(sides, store, wiring.MergeRequest(), Silent())
    assert published.manifest.counts["merged"][0]["identities"] == 8
    first = {
        r.identity: r.label for r in published_rows(Segments(), worlds["a"], read_manifest(worlds["a"], "v000001"))
    }
    assert first.items() <= labels_of(store).items()


def test_every_image_proves_and_names_its_source(
    worlds: Mapping[str, MemoryStore], both: tuple[MemoryStore, Published]
) -> None:
    """A proof follows an image to the version it was copied from, by digests; a table that was altered breaks it."""
    store = copy_of(both[0])
    taken = read_table(TABLES, store, 1)
    for t in (taken[0], taken[-1], read_table(TABLES, store, 0)[0]):
        found = wiring.prove_on(store, t.key)
        assert found["ok"], [link for link in found["links"] if not link["ok"]]
        (link,) = (x for x in found["links"] if x["name"].startswith("source in"))
        assert (link["facts"]["source_key"], link["facts"]["source_identity"]) == (t.source_key, t.source_identity)
    data = bytearray(store.get("enrolled/sources-g1.parquet"))
    data[len(data) // 2] ^= 1
    store.put("enrolled/sources-g1.parquet", bytes(data))
    assert any(p.startswith("enrolled/sources-g1.parquet: altered") for p in problems(store))
    assert not wiring.prove_on(store, taken[0].key)["ok"]


def test_cells_are_asked_for_as_the_sources_have_them() -> None:
    """A lopsided source is no fault of the whole: as many of each cell are asked for, and refiltering finds them."""
    one, other = MemoryStore(), MemoryStore()
    mint(recipe(6, name="one", balance={"by": ["shape"], "shares": {"round": 1.0}}), one)
    mint(recipe(4, name="other", seed=8, balance={"by": ["shape"]}), other)
    store, published = merged(one, other)
    cells = {c["cell"]: (c["asked"], c["reached"]) for c in published.manifest.figures["balance"]["cells"]}
    assert cells == {"round": (8, 8), "square": (2, 2)}
    looser = wiring.changed_recipe(store, ["filters=[{use: own-template, cos: 0.5}]"], None)
    (judged,) = wiring.refilter_on(store, looser, Silent(), None, False, False)
    assert judged.manifest.counts["identities"] == 10
    assert problems(store) == []


def test_cells_of_other_attributes_are_nobodys() -> None:
    """Where the sources balance over other attributes there are no cells, rather than two kinds of them."""
    one, other = MemoryStore(), MemoryStore()
    mint(recipe(4, name="one", balance={"by": ["shape"]}), one)
    mint(recipe(4, name="other", seed=8, balance={"by": ["shade"]}), other)
    store, published = merged(one, other)
    assert {r.cell for r in rows_of(store)} == {"all"}
    assert published.manifest.figures["balance"]["by"] == []
    assert problems(store) == []


def test_added_measures_come_along_where_all_sources_have_them(worlds: Mapping[str, MemoryStore]) -> None:
    """What every image has is stored with it; what only some have is left out, and that is said."""
    one, other = copy_of(worlds["b"]), copy_of(worlds["squeezed"])
    for store in (one, other):
        wiring.measure_on(store, "lighting", ["alignment=sketch-32"], Silent())
    wiring.measure_on(one, "skin-tone", ["alignment=sketch-32"], Silent())
    store, published = merged(one, other)
    told = published.manifest.counts["merged"]
    assert [bool(t["measures_left_out"]) for t in told] == [True, False]
    for segment in {r.segment for r in rows_of(store)}:
        for row in Segments().read_rows(store, segment, ["measures"]):
            assert "luminance_std" in row["measures"]
            assert not set(told[0]["measures_left_out"]) & row["measures"].keys()
    assert problems(store) == []
