"""Which images an export is handed: at most so many each, twins with their images, parts of a split, dense labels."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import examine, wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError, RecipeError, UserError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.recipe import ExportNode, export_folder, parse_recipe
from pipeline.domain.records import minted_key
from pipeline.domain.splits import Part
from pipeline.domain.twins import is_twin, parent_of, twin_key
from pipeline.flow.exporting import StoredFacts, chosen_rows, dense_labels
from pipeline.flow.orphans import find_orphans
from pipeline.flow.splits import Asked
from pipeline.flow.versions import published_rows, read_manifest
from tests.recipes import sketch_recipe
from tests.worlds import Silent, copy_of, mint, sketches

TWINS = [{"use": "darkness", "share": 0.5}]
PARTS = (Part("train", Fraction(1, 2)), Part("val", Fraction(1, 4)), Part("test", Fraction(1, 4)))


@pytest.fixture(scope="module")
def dataset() -> MemoryStore:
    """Return a published dataset of 10 identities, 3 images each, some with a twin, and a split of it."""
    store = MemoryStore()
    mint(sketches(exports=[], twins=TWINS), store)
    wiring.split_on(store, Asked("main", PARTS))
    return store


def exported(store: MemoryStore, kind: str = "recordio", **given: Any) -> tuple[MemoryStore, list[dict[str, Any]]]:
    """Return a place with an export, and what was said of it."""
    target = MemoryStore()
    return target, wiring.export_on(store, wiring.build_exporter(kind, (), given), target)


def images(target: MemoryStore, part: str = "") -> dict[str, int]:
    """Return key -> label of a RecordIO export's images."""
    lines = target.get(f"{part}/train.lst".lstrip("/")).decode().splitlines()
    return {name.removesuffix(".jpg"): int(label) for _, label, name in (line.split("\t") for line in lines)}


def row(identity: int, slot: int, twin: int = 0) -> IndexRow:
    """Return an index row of an image or its twin."""
    key = minted_key(identity, slot, 0)
    return IndexRow(identity, twin_key(key, twin) if twin else key, identity, "all", "make-g0-000000", 0, 1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 40), st.booleans(), st.randoms())
def test_max_per_identity_is_even_and_does_not_depend_on_order(
    sizes: list[int], most: int, twins: bool, shuffler: Any
) -> None:
    """Of n images m come, no gap between two twice as long as another's and one more; twins come with theirs."""
    index = [row(i, s, t) for i, n in enumerate(sizes) for s in range(n) for t in (0, 1)]
    options = ExportNode(use="x", max_per_identity=most, twins=twins)
    mixed = list(index)
    shuffler.shuffle(mixed)
    found = chosen_rows(mixed, options)
    assert sorted(found) == sorted(chosen_rows(index, options))
    plain = [r for r in found if not is_twin(r.key)]
    assert [r for r in mixed if r in found] == found, "the order is that of the index"
    assert len(found) == len(plain) * (2 if twins else 1)
    for identity, count in enumerate(sizes):
        slots = sorted(int(r.key.split("-")[1][1:]) for r in plain if r.identity == identity)
        assert len(slots) == min(count, most)
        gaps = [b - a for a, b in pairwise(slots)]
        assert not gaps or max(gaps) - min(gaps) <= 1
        assert slots[0] <= count // (2 * len(slots))


@given(st.sets(st.integers(0, 50), min_size=1))
def test_labels_become_dense_in_their_order(labels: set[int]) -> None:
    """New labels run from 0 in the order of the old, and each says which one it was; identities stay."""
    index = [IndexRow(n, f"k{n}-{i}", 100 + n, "all", "s", 0, 1) for n in sorted(labels) for i in range(2)]
    dense, old = dense_labels(index)
    assert sorted({r.label for r in dense}) == list(range(len(labels)))
    assert [old[r.label] for r in dense] == [r.label for r in index]
    assert [(r.key, r.identity) for r in dense] == [(r.key, r.identity) for r in index]


def test_a_split_is_exported_part_by_part(dataset: MemoryStore) -> None:
    """Each part is an export of its own in a folder of its name; together they hold every image once."""
    target, written = exported(dataset, split="main")
    assert [w["part"] for w in written] == ["test", "train", "val"]
    every: dict[str, str] = {}
    for said in written:
        part = said["part"]
        found = images(target, part)
        assert sorted(set(found.values())) == list(range(said["num_classes"]))
        assert (len(found), said["split"]) == (said["num_images"], "main")
        assert json.loads(target.get(f"{part}/manifest.json"))["split_sha256"] == said["split_sha256"]
        assert not every.keys() & found.keys()
        every |= dict.fromkeys(found, part)
        assert f"part `{part}` of the split `main`" in target.get(f"{part}/README.md").decode()
    rows = published_rows(Segments(), dataset, read_manifest(dataset, "v000001"))
    assert every.keys() == {r.key for r in rows}
    for r in rows:
        # nobody, no twin and nothing else of one identity lies on two sides
        mates = {every[o.key] for o in rows if o.identity == r.identity}
        assert mates == {every[r.key]}
        assert not is_twin(r.key) or every[str(parent_of(r.key))] == every[r.key]
    assert any(is_twin(r.key) for r in rows)


def test_one_part_alone_lies_where_it_was_asked_for(dataset: MemoryStore) -> None:
    """`part` writes that part without a folder, the same files as among the others."""
    whole, _ = exported(dataset, split="main")
    target, (said,) = exported(dataset, split="main", part="val")
    assert said["part"] == "val"
    assert {p: target.get(p) for p in target.list("")} == {
        p.removeprefix("val/"): whole.get(p) for p in whole.list("val/")
    }


def test_two_parts_do_not_pass_for_each_other(dataset: MemoryStore) -> None:
    """Parts of equal size have equal numbers; an export of one where the other stands is written anew all the same."""
    target, _ = exported(dataset, split="main", part="val")
    wiring.export_on(dataset, wiring.build_exporter("recordio", (), {"split": "main", "part": "test"}), target)
    fresh, _ = exported(dataset, split="main", part="test")
    assert images(target) == images(fresh)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "other"}, "no split 'other'; splits here: main"),
        ({"split": "main", "part": "dev"}, "has no part 'dev'; its parts: test, train, val"),
    ],
)
def test_unknown_splits_and_parts(dataset: MemoryStore, given: dict[str, str], said: str) -> None:
    """What there is is named."""
    with pytest.raises(UserError, match=said):
        exported(dataset, **given)


def test_a_part_of_no_split_is_refused() -> None:
    """A part means nothing without the split that it is of."""
    with pytest.raises(UserError, match="export to hf: part 'val' of no split; name the `split`"):
        wiring.build_exporter("hf", (), {"part": "val"})


def test_growth_after_a_split_asks_for_the_split_again() -> None:
    """Identities that came after it have no part; nobody is put anywhere in silence."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    wiring.split_on(store, Asked("main", PARTS))
    whole = sketches().identities.model_dump(mode="json") | {"count": 14}
    mint(sketches(exports=[], identities=whole), store)
    with pytest.raises(UserError, match=r"says nothing of 4 identities .* run the same `facemint split` again"):
        exported(store, split="main")
    target, (said,) = _of_version(store, "v000001")
    assert said["source"]["version"] == "v000001"
    assert images(target)
    wiring.split_on(store, Asked("main", PARTS))
    assert sum(w["num_images"] for w in exported(store, split="main")[1]) == 42


def _of_version(store: MemoryStore, version: str) -> tuple[MemoryStore, list[dict[str, Any]]]:
    target = MemoryStore()
    exporter = wiring.build_exporter("recordio", (), {"split": "main", "part": "train"})
    return target, wiring.export_on(store, exporter, target, version)


def test_an_empty_part_is_left_out() -> None:
    """A small set may leave a part empty: there is nothing to write of it, and asked for alone it is an error."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    tiny = (Part("most", Fraction(999, 1000)), Part("few", Fraction(1, 1000)))
    record = wiring.split_on(store, Asked("lopsided", tiny))
    assert record["reached"]["few"] == 0
    target, written = exported(store, split="lopsided")
    assert [w["part"] for w in written] == ["most"]
    assert target.list("few/") == []
    with pytest.raises(OutputError, match="no image to export in part 'few' of split 'lopsided'"):
        exported(store, split="lopsided", part="few")


def test_a_part_that_cannot_be_written_is_named(dataset: MemoryStore) -> None:
    """What stops one part of several says which."""
    with pytest.raises(UserError, match=r"^part 'test' of split 'main': \d identities in \d cells make"):
        exported(dataset, "pairs", split="main")
    with pytest.raises(UserError, match=r"^10 identities in 4 cells make"):
        exported(dataset, "pairs")


def test_facts_hold_what_was_added_later(dataset: MemoryStore) -> None:
    """Conditions and measures come by key, those of side-cars among them; embeddings are unit rows, as stored."""
    store = copy_of(dataset)
    segment = published_rows(Segments(), store, read_manifest(store, "v000001"))[0].segment
    before = StoredFacts(store, Segments()).numbers(segment)
    wiring.measure_on(store, "sharpness", [], Silent())
    after = StoredFacts(store, Segments()).numbers(segment)
    assert before.keys() == after.keys() == StoredFacts(store, Segments()).embeddings(segment, "judge").keys()
    for key, (conditions, measures) in after.items():
        assert "yaw_deg" in conditions
        assert before[key][1].items() < measures.items()
        assert "sharpness" in measures


def test_exports_of_a_recipe_take_the_same_options() -> None:
    """Folder, size and number are options in a recipe too; each export lies in its folder of the version."""
    store = MemoryStore()
    exports = [
        {"use": "recordio", "max_per_identity": 2},
        {"use": "recordio", "folder": "rec-small", "image_px": 16, "twins": False},
    ]
    published = mint(sketches(exports=exports, twins=TWINS), store)
    assert [e["uri"].split("/exports/")[1] for e in published.exports] == ["v000001/recordio", "v000001/rec-small"]
    assert published.exports[0]["max_per_identity"] == 2
    assert (published.exports[1]["image_px"], published.exports[1]["num_images"]) == (16, 30)
    assert store.get("exports/v000001/rec-small/property") == b"10,16,16\n"


def test_a_recipe_may_export_a_split() -> None:
    """Until there is one the run says so, its version published; then the same run writes every part of it."""
    store, recipe = MemoryStore(), sketches(exports=[{"use": "webdataset", "split": "main"}])
    with pytest.raises(UserError, match="no split 'main'; splits here: none; make one with `facemint split`"):
        mint(recipe, store)
    assert store.size("versions/v000001/manifest.json")
    wiring.split_on(store, Asked("main", PARTS))
    published = mint(recipe, store)
    assert published.resumed
    assert [e["part"] for e in published.exports] == ["test", "train", "val"]
    assert sum(e["num_images"] for e in published.exports) == 30
    assert store.size("exports/v000001/webdataset/val/manifest.json")
    assert examine.verify(store, Segments(), JpegCodec(), deep=True)["problems"] == []
    orphans = [o.stored.path for o in find_orphans(store, SystemClock(), 0.0).files]
    assert not [path for path in orphans if path.startswith("exports/")]
    shard = "exports/v000001/webdataset/train/train-000000.tar"
    store.put(shard, store.get(shard)[:-1] + b"x")
    assert examine.verify(store, Segments(), JpegCodec(), deep=True)["damaged"] == [shard]


def test_exports_change_neither_fingerprint_nor_plan() -> None:
    """What is exported, and how, is no part of what a dataset is."""
    recipes = [
        sketches(exports=exports)
        for exports in ([], [{"use": "hf", "max_per_identity": 3, "image_px": 64, "folder": "x"}, {"use": "lmdb"}])
    ]
    prints = [wiring.prints_of(recipe) for recipe in recipes]
    assert prints[0].fingerprint == prints[1].fingerprint
    assert prints[0].plan_digest == prints[1].plan_digest


@pytest.mark.parametrize(
    ("exports", "said"),
    [
        ([{"use": "hf"}, {"use": "hf", "twins": False}], "two exports are written to the folder 'hf'"),
        ([{"use": "hf", "folder": "lmdb"}, {"use": "lmdb"}], "two exports are written to the folder 'lmdb'"),
        ([{"use": "hf", "part": "x"}], "part 'x' of no split"),
        ([{"use": "hf", "image_px": 8}], "exports.0.image_px"),
        ([{"use": "hf", "fold": 3}], "unknown key; did you mean 'folder'"),
        ([{"use": "hf", "folder": "../x"}], "exports.0.folder"),
    ],
)
def test_mistakes_in_a_recipe(exports: list[dict[str, Any]], said: str) -> None:
    """One line each, with what is allowed."""
    with pytest.raises(RecipeError, match=said):
        parse_recipe(wiring.full_model(), sketch_recipe(exports=exports), "test")


def test_folders_are_called_as_kinds_by_default() -> None:
    """An export without a folder of its own lies under the name of its kind."""
    assert export_folder(ExportNode(use="hf")) == "hf"
    assert export_folder(ExportNode(use="hf", folder="small")) == "small"
