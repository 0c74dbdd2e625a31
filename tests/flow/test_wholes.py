"""Whole pictures: stored beside their crops where the recipe asks, and known to everything that touches image bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import examine, wiring
from jobs.wiring.parts import aligner_of
from jobs.wiring.rehearsing import rehearsed
from pipeline.adapters.codec import SOURCE_TYPE, JpegCodec, source_type
from pipeline.adapters.labelled.exported import ExportedFaces
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import RecipeError, StoreError, UserError
from pipeline.domain.manifest import FileEntry, IndexRow, Receipt, manifest_path, sha256_hex
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.domain.twins import is_twin
from pipeline.domain.unit import Stage, Unit
from pipeline.domain.ustar import member_bytes
from pipeline.flow.audit import audit_unit
from pipeline.flow.commit import receipts
from pipeline.flow.estimate import from_receipts, from_trial
from pipeline.flow.verify import Verified, verify
from pipeline.flow.versions import published_rows, read_manifest
from tests.flow.erasing import erase, found, traces
from tests.flow.test_growth import asked
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, mint, problems, sketches

SCENE = {"use": "sketch-scene", "empty": 0.1}
KEEPS: dict[str, Any] = {"detector": {"use": "sketch"}, "keep_whole": True}
OBSERVING = {**sketch_recipe()["enrol"], "separation": {"cos": 0.9}, "consistency": {"cos": 0.1}, "mode": "observe"}
TWINS = [{"use": "darkness", "share": 0.5}]


def keeping(align: Mapping[str, Any] = KEEPS, **changes: Any) -> Recipe:
    """Return a sketch recipe whose pictures are cut, and kept whole."""
    return sketches(**{"generator": SCENE, "align": align, **changes})


@pytest.fixture(scope="module")
def kept() -> MemoryStore:
    """Return a dataset with whole pictures, with twins, and with previews of what was refused."""
    store = MemoryStore()
    mint(keeping(twins=TWINS), store)
    return store


def units_of(store: MemoryStore) -> list[str]:
    """Return the names of the units of making."""
    return [r.name for _, r in sorted(receipts(store).items()) if r.unit["stage"] == Stage.MAKE.value]


def rows_of(store: MemoryStore) -> list[IndexRow]:
    """Return the newest index, twins included."""
    return published_rows(Segments(), store, examine.newest_manifest(store))


def members(store: MemoryStore, path: str) -> dict[str, bytes]:
    """Return the members of a tar in their order, as the standard library reads them."""
    with tarfile.open(fileobj=io.BytesIO(store.get(path))) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def wholes_in(store: MemoryStore) -> dict[str, bytes]:
    """Return key -> whole picture of every image that has one."""
    out = {}
    for unit in units_of(store):
        for key, whole in (Segments().read_wholes(store, unit) or {}).items():
            out[key] = store.get_range(f"segments/{unit}.tar", whole.offset, whole.length)
    return out


def deeply(store: MemoryStore, *, decode: bool = True) -> Verified:
    """Return what deep verification finds."""
    return verify(store, Segments(), JpegCodec(), deep=True, decode=decode)


def test_tar_and_table_say_the_same(kept: MemoryStore) -> None:
    """Each accepted image but twins has its picture right behind it, where and what its row says; others have none."""
    seen = 0
    for unit in units_of(kept):
        files = members(kept, f"segments/{unit}.tar")
        tar, names = kept.get(f"segments/{unit}.tar"), list(files)
        for row in Segments().read_rows(kept, unit):
            place = (row["whole_offset"], row["whole_length"], row["whole_sha256"])
            if not row["accepted"] or is_twin(row["key"]):
                assert place == (None, None, None)
                assert f"{row['key']}.whole.jpg" not in files
                continue
            data = files[f"{row['key']}.whole.jpg"]
            assert tar[place[0] : place[0] + place[1]] == data
            assert place[2] == sha256_hex(data)
            at = names.index(f"{row['key']}.jpg")
            assert names[at + 1 : at + 3] == [f"{row['key']}.whole.jpg", f"{row['key']}.json"]
            assert JpegCodec().decode(data).shape == (96, 96, 3)
            assert source_type(data) == SOURCE_TYPE
            seen += 1
    counts = examine.newest_manifest(kept).counts
    assert seen == counts["make"]["wholes"] == counts["make"]["accepted"] == 30
    assert counts["whole_pictures"] == counts["images"] == 30
    assert deeply(kept).problems == ()


def test_the_crop_is_cut_from_the_picture_that_is_kept() -> None:
    """At a fixed place, cutting the stored picture again gives the stored crop, but for what JPEG took."""
    points = [[0.4, 0.42], [0.6, 0.42], [0.5, 0.52], [0.42, 0.62], [0.58, 0.62]]
    align = {"detector": {"use": "fixed", "points": points}, "keep_whole": True}
    recipe = keeping(align, filters=[], balance={}, enrol=OBSERVING)
    store, codec = MemoryStore(), JpegCodec()
    mint(recipe, store)
    crops = {r.key: store.get_range(f"segments/{r.segment}.tar", r.offset, r.length) for r in rows_of(store)}
    wholes = wholes_in(store)
    assert wholes.keys() >= crops.keys()
    pictures = np.stack([codec.decode(wholes[key]) for key in crops])
    again, there = aligner_of(recipe, "sketch-32").align(pictures)
    assert there.all()
    stored = np.stack([codec.decode(data) for data in crops.values()])
    assert np.abs(again.astype(int) - stored.astype(int)).mean() < 3
    # and of another picture it is not: the figure above says something
    assert np.abs(np.roll(again, 1, axis=0).astype(int) - stored.astype(int)).mean() > 12


def test_whole_pictures_are_the_same_whoever_makes_them(kept: MemoryStore) -> None:
    """Neither batches in flight nor a run that was killed and went on changes a byte."""
    other, resumed = MemoryStore(), copy_of(kept)
    mint(keeping(twins=TWINS, compute={"executor": "inline", "in_flight": 1}), other)
    assert bytes_of(other) == bytes_of(kept)
    unit = units_of(kept)[1]
    for path in ("receipts/{}.json", "segments/{}.tar", "segments/{}.parquet", "receipts/audit-{}.json"):
        resumed.delete(path.format(unit))
    for path in [*resumed.list("versions/"), *resumed.list("exports/")]:
        resumed.delete(path)
    mint(keeping(twins=TWINS), resumed)
    assert bytes_of(resumed) == bytes_of(kept)


def test_crops_are_those_of_a_run_that_keeps_none(kept: MemoryStore) -> None:
    """Keeping changes what is stored beside the crops, and no crop, number or label; datasets without have no trace."""
    plain = MemoryStore()
    mint(keeping({"detector": {"use": "sketch"}}, twins=TWINS), plain)
    for unit in units_of(plain):
        more = members(kept, f"segments/{unit}.tar")
        assert members(plain, f"segments/{unit}.tar") == {k: v for k, v in more.items() if ".whole." not in k}
        ours, theirs = (pq.read_table(io.BytesIO(s.get(f"segments/{unit}.parquet"))) for s in (plain, kept))
        assert [n for n in theirs.column_names if n not in ours.column_names] == [
            "whole_offset",
            "whole_length",
            "whole_sha256",
        ]
        assert theirs.select(ours.column_names).equals(ours)
        assert Segments().read_wholes(plain, unit) is None
    assert "whole" not in json.dumps(examine.newest_manifest(plain).counts)
    for path in plain.list("exports/"):
        assert b"whole" not in plain.get(path)


def test_only_who_keeps_has_another_fingerprint() -> None:
    """The key decides bytes; set to what recipes without it have, it changes no fingerprint."""
    plain, off, on = (
        wiring.prints_of(keeping({"detector": {"use": "sketch"}, **more}))
        for more in ({}, {"keep_whole": False}, {"keep_whole": True})
    )
    assert plain.fingerprint == off.fingerprint != on.fingerprint
    assert "align.keep_whole" not in plain.fields
    assert on.fields["align.keep_whole"] is True


def test_a_flipped_byte_of_a_whole_picture_is_named(kept: MemoryStore) -> None:
    """Deep verification names the tar and the picture in it; where a crop was altered it names no picture."""
    row = next(r for r in rows_of(kept) if not is_twin(r.key))
    path = f"segments/{row.segment}.tar"
    place = (Segments().read_wholes(kept, row.segment) or {})[row.key]
    for offset, named in ((place.offset + place.length // 2, True), (row.offset + row.length // 2, False)):
        store = copy_of(kept)
        data = bytearray(store.get(path))
        data[offset] ^= 1
        store.put(path, bytes(data))
        (problem,) = deeply(store, decode=False).problems
        assert problem.path == path
        assert (f"1 of its whole pictures, that of {row.key} for one" in problem.found) == named


def forged(kept: MemoryStore, unit: str, tar: bytes) -> MemoryStore:
    """Return a dataset in which a tar is another one, and receipt and manifest name it: only its content tells."""
    store, path = copy_of(kept), f"segments/{unit}.tar"
    store.put(path, tar)
    entry = FileEntry(path, sha256_hex(tar), len(tar))
    receipt = Receipt.from_json(store.get(f"receipts/{unit}.json"))
    files = tuple(entry if f.path == path else f for f in receipt.files)
    store.put(receipt.path, replace(receipt, files=files).to_json())
    manifest = read_manifest(store, "v000001")
    files = tuple(entry if f.path == path else f for f in manifest.files)
    store.put(manifest_path("v000001"), replace(manifest, files=files).to_json())
    return store


def spoilt(kept: MemoryStore, unit: str, how: str) -> tuple[str, bytes]:
    """Return a key and its unit's tar, with its whole picture under another name, no JPEG any more, or a bit off."""
    key, place = min((Segments().read_wholes(kept, unit) or {}).items())
    tar = bytearray(kept.get(f"segments/{unit}.tar"))
    if how == "renamed":
        # the same letters: the sum in the header stays right
        at = place.offset - 512
        tar[at : at + 30] = bytes(tar[at : at + 30]).replace(b".whole.", b".wohle.")
    elif how == "noise":
        tar[place.offset : place.offset + 64] = bytes(64)
    else:
        tar[place.offset + place.length - 20] ^= 1
    return key, bytes(tar)


@pytest.mark.parametrize(
    ("how", "what"), [("renamed", "not what or where"), ("noise", "do not decode"), ("bit", "not what or where")]
)
def test_what_no_digest_of_a_file_tells_their_own_tell(kept: MemoryStore, how: str, what: str) -> None:
    """Where every record names an altered tar, rows and pictures still disagree: verification and audit find it."""
    unit = units_of(kept)[0]
    key, tar = spoilt(kept, unit, how)
    store = forged(kept, unit, tar)
    told = [str(p) for p in deeply(store).problems if p.path == f"segments/{unit}.tar"]
    assert any(what in line for line in told), told
    parts = wiring.build_parts(keeping(twins=TWINS), store, None, "test")
    generation, index = (int(n.strip("g")) for n in unit.split("-")[1:])
    again = Unit(Stage.AUDIT, generation, index, 0, of=unit, reader="test")
    if how == "renamed":
        # the rows say where, and there it lies
        return
    with pytest.raises(StoreError, match=f"whole picture of {key} is not as it was written"):
        audit_unit(again, parts)


def test_erasing_leaves_nothing_of_the_whole_picture(kept: MemoryStore) -> None:
    """Of an identity and of a single image no byte is left anywhere; others keep theirs."""
    rows, before = rows_of(kept), wholes_in(kept)
    who, image = rows[0].identity, rows[-1].key[:20]
    sought = traces(kept, [who], [image])
    goes = {k for k in before if k.startswith(f"i{who:08d}") or k == image}
    assert len(goes) == 4
    assert {before[k] for k in goes} <= set(sought.images)
    store = copy_of(kept)
    manifest = erase(store, who, images=[image]).published.manifest
    assert found(store, sought) == []
    assert problems(store) == []
    assert deeply(store).problems == ()
    assert wholes_in(store) == {k: data for k, data in before.items() if k not in goes}
    assert manifest.counts["whole_pictures"] == manifest.counts["images"] == 26


def test_a_revision_that_is_lost_is_made_again(kept: MemoryStore) -> None:
    """Of what stays after an erasure, crops and whole pictures come back with the very bytes they had."""
    store = copy_of(kept)
    erase(store, rows_of(kept)[0].identity)
    lost = next(p for p in store.list("segments/") if p.endswith(".r1.tar"))
    data = store.get(lost)
    store.delete(lost)
    mint(keeping(twins=TWINS), store)
    assert store.get(lost) == data
    assert problems(store) == []


def test_growing_and_judging_again_keep_them() -> None:
    """New images have theirs too; a version under other filters says how many of those that it keeps have."""
    store = MemoryStore()
    mint(asked(6, 3, generator=SCENE, align=KEEPS, exports=[{"use": "webdataset"}]), store)
    grown = mint(asked(8, 4, generator=SCENE, align=KEEPS, exports=[{"use": "webdataset"}]), store).manifest
    assert grown.counts["whole_pictures"] == grown.counts["images"] == 32
    tight = [{"use": "own-template", "cos": 0.9}]
    recipe = asked(8, 4, generator=SCENE, align=KEEPS, filters=tight, exports=[{"use": "webdataset"}])
    for version in wiring.refilter_on(store, recipe, Silent(), None, True, allow_short=True):
        counts = version.manifest.counts
        assert counts["whole_pictures"] == counts["images"]
        files = members(store, f"exports/{version.manifest.version}/webdataset/train-000000.tar")
        assert sum(name.endswith(".whole.jpg") for name in files) == counts["images"]
    assert deeply(store).problems == ()


def test_a_recipe_that_stops_keeping_them_does_not_go_on(kept: MemoryStore) -> None:
    """A dataset keeps them or not: another answer is another dataset, and the refusal names the key."""
    with pytest.raises(UserError, match=r"align\.keep_whole absent instead of True"):
        mint(keeping({"detector": {"use": "sketch"}}, twins=TWINS), copy_of(kept))


@pytest.mark.parametrize("first", [True, False])
def test_merging_copies_them(kept: MemoryStore, first: bool) -> None:
    """Each image keeps the whole picture it had, byte for byte; those of a source without any have none."""
    plain, target = MemoryStore(), MemoryStore()
    mint(sketches(name="plain", seed=8, twins=TWINS), plain)
    sources = (kept, plain) if first else (plain, kept)
    sides = [wiring.side_of(s) for s in sources]
    counts = wiring.merge_on(sides, target, wiring.MergeRequest(), Silent()).manifest.counts
    before, after = wholes_in(kept), wholes_in(target)
    assert counts["whole_pictures"] == len(after) < counts["images"]
    assert set(after.values()) <= set(before.values())
    mine = f"make-g{0 if first else 1}-"
    assert len(after) == sum(r.segment.startswith(mine) and not is_twin(r.key) for r in rows_of(target))
    assert deeply(target).problems == ()
    third = MemoryStore()
    with pytest.raises(UserError, match="keeps the whole pictures of") as refused:
        wiring.merge_on([wiring.side_of(s) for s in (target, plain)], third, wiring.MergeRequest(), Silent())
    assert "\n" not in str(refused.value)


def test_a_source_whose_picture_was_altered_is_not_merged(kept: MemoryStore) -> None:
    """Merging holds each whole picture against its row, as it does each image."""
    plain, store = MemoryStore(), copy_of(kept)
    mint(sketches(name="plain", seed=8, twins=TWINS), plain)
    key, tar = spoilt(kept, rows_of(kept)[0].segment, "bit")
    store.put(f"segments/{rows_of(kept)[0].segment}.tar", tar)
    sides = [wiring.side_of(s) for s in (store, plain)]
    with pytest.raises(StoreError, match=f"the whole picture of {key} is not what its row says"):
        wiring.merge_on(sides, MemoryStore(), wiring.MergeRequest(), Silent())


def exported(store: MemoryStore, kind: str, *overrides: str) -> tuple[MemoryStore, dict[str, Any]]:
    """Return an export of the newest version, and its manifest."""
    target = MemoryStore()
    (manifest,) = wiring.export_on(store, wiring.build_exporter(kind, overrides), target)
    return target, manifest


def test_webdataset_carries_them(kept: MemoryStore) -> None:
    """Every image but twins brings its picture, byte for byte, in whatever size crops go; or, if asked, none does."""
    wholes = {f"{key}.whole.jpg": data for key, data in wholes_in(kept).items()}
    for more in ((), ("image_px=16",), ("shard_bytes=20000",), ("twins=false",)):
        target, manifest = exported(kept, "webdataset", *more)
        shards = [members(target, p) for p in target.list("") if p.endswith(".tar")]
        files = {name: data for shard in shards for name, data in shard.items()}
        assert {name: data for name, data in files.items() if ".whole." in name} == wholes
        assert manifest["whole_pictures"] == 30
        side_px = 16 if more == ("image_px=16",) else 32
        # who trains on it, or measures it, reads the crops
        assert sum(1 for _ in ExportedFaces(target, JpegCodec(), side_px=side_px)) == manifest["num_images"]
        largest = max(sum(member_bytes(len(data)) for data in shard.values()) for shard in shards)
        assert more != ("shard_bytes=20000",) or (len(shards) > 1 and largest <= 20_000)
        card = target.get("README.md").decode()
        assert "its alignment is none" in card
        assert ("export without twins" in card) == (more != ("twins=false",))
    target, manifest = exported(kept, "webdataset", "whole_pictures=false")
    assert manifest["whole_pictures"] == 0
    assert not [name for name in members(target, "train-000000.tar") if ".whole." in name]
    assert "Crops alone" in target.get("README.md").decode()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("recordio", ()), ("hf", ()), ("imagefolder", ()), ("lmdb", ()), ("pairs", ("folds=2", "per_fold=4"))],
)
def test_other_exports_say_that_they_hold_crops_alone(kept: MemoryStore, kind: str, options: tuple[str, ...]) -> None:
    """Whoever looks for the whole pictures there is told where they are."""
    target, manifest = exported(kept, kind, *options)
    assert manifest["whole_pictures"] == 0
    assert "Crops alone: the whole pictures" in target.get("README.md").decode()


def test_documents_say_that_they_are_there(kept: MemoryStore) -> None:
    """Card and Croissant count them, state that they have no alignment, and that nothing screened what they show."""
    card = kept.get("versions/v000001/README.md").decode()
    assert "Whole pictures: 30 images" in card
    assert "Their alignment is none" in card
    assert "screened for likeness to real people" in card
    assert "field `whole.jpg` of a sample" in card
    said = json.loads(kept.get("versions/v000001/croissant.json"))
    globs = {s["name"]: s["includes"] for s in said["distribution"] if s["@type"] == "cr:FileSet"}
    assert globs == {"jpegs": "*[0-9].jpg", "wholes": "*.whole.jpg"}
    assert any("alignment is none" in line for line in said["rai:dataPreprocessingProtocol"])


def test_the_forecast_counts_them() -> None:
    """An image costs as much more as its picture takes; afterwards the receipts tell."""
    costs = {}
    for keep in (False, True):
        recipe = keeping({**KEEPS, "keep_whole": keep})
        costs[keep] = from_trial(wiring.build_parts(recipe, MemoryStore(), None, "test"))
    more = costs[True].bytes_per_image - costs[False].bytes_per_image
    store = MemoryStore()
    mint(keeping(), store)
    wholes = wholes_in(store)
    assert more == pytest.approx(np.mean([len(data) for data in wholes.values()]) + 512, rel=0.3)
    assert "with their whole pictures" in costs[True].source
    told = from_receipts(receipts(store))
    assert told is not None
    assert "with their whole pictures" in told.source
    assert told.bytes_per_image == pytest.approx(costs[True].bytes_per_image, rel=0.5)


def test_a_rehearsal_keeps_them_where_the_recipe_does() -> None:
    """The path is rehearsed that the run will take: cut at a fixed place, kept whole."""
    raw = sketch_recipe(generator=SCENE, align=KEEPS)
    recipe = rehearsed(raw, "test")
    assert recipe.align is not None
    assert recipe.align.keep_whole
    store = MemoryStore()
    counts = mint(recipe, store).manifest.counts
    assert counts["whole_pictures"] == counts["images"] == len(wholes_in(store)) == 30
    assert rehearsed({**raw, "align": {"detector": {"use": "sketch"}}}, "test").align.keep_whole is False  # type: ignore[union-attr]


def test_misuse_is_one_line() -> None:
    """Where there is nothing to keep, or people to protect, the recipe is refused before anything runs."""
    crops = sketch_recipe(align={"detector": {"use": "fixed", "alignment": "sketch-32"}, "keep_whole": True})
    with pytest.raises(
        RecipeError, match=r"keep_whole: the sketch generator makes faces aligned to 'sketch-32' already"
    ):
        wiring.check_parts(parse_recipe(wiring.full_model(), crops, "test"), "test")
    with pytest.raises(RecipeError, match=r"align\.keep_whole: the sketch generator makes faces aligned"):
        rehearsed(crops, "test")
    with pytest.raises(RecipeError, match=r"align\.detector"):
        parse_recipe(wiring.full_model(), sketch_recipe(align={"keep_whole": True}), "test")
    curated = {
        "kind": "curate",
        "name": "people",
        "seed": 1,
        "sources": [{"use": "folder", "path": "faces", "licence": "mine", "lawful_basis": "consent"}],
        "align": KEEPS,
        **{k: sketch_recipe()[k] for k in ("judge", "auditor", "encoding")},
    }
    with pytest.raises(RecipeError, match=r"align.*keep_whole is for generated pictures") as refused:
        parse_recipe(wiring.full_model(), curated, "test")
    assert "\n" not in str(refused.value)
