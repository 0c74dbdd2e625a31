"""Hard-condition twins in a run: made of what was accepted, counted apart, and in nobody's way."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs import examine, wiring
from jobs.wiring import build_parts
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import DeviceMemoryError, RecipeError
from pipeline.domain.ports import Recogniser
from pipeline.domain.records import Float32, UInt8
from pipeline.domain.twins import is_twin, parent_of, without_twins
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import Published, complete, generate, refilter
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.verify import verify
from pipeline.flow.versions import published_rows, read_manifest
from pipeline.flow.worker import UnitWorker
from tests.flow.test_make import remade
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

TWINS = [
    {"use": "face-mask", "share": 0.5},
    {"use": "low-resolution", "share": 0.25, "px": 8},
    {"use": "darkness", "share": 1.0},
]
NOISY = {"generator": {"use": "sketch", "noise": 2.0}, "attempts": 6}
SEGMENTS, CODEC = Segments(), JpegCodec()


def people(count: int = 8, images: int = 4) -> dict[str, Any]:
    """Return the `identities` of a recipe."""
    return {**sketch_recipe()["identities"], "count": count, "images_per_identity": images}


def run(store: MemoryStore, **changes: Any) -> Published:
    """Mint sketches with twins."""
    return mint(sketches(**{**NOISY, "twins": TWINS, "identities": people(), **changes}), store)


@pytest.fixture(scope="module")
def minted() -> tuple[MemoryStore, Published]:
    """Return a dataset with twins."""
    store = MemoryStore()
    return store, run(store)


def rows_of(store: MemoryStore) -> list[dict[str, Any]]:
    """Return every row of every make segment."""
    names = [p.split("/")[1].removesuffix(".parquet") for p in store.list("segments/make") if p.endswith(".parquet")]
    return [row for name in names for row in SEGMENTS.read_rows(store, name)]


def test_twins_are_counted_apart(minted: tuple[MemoryStore, Published]) -> None:
    """Every promised image is there, the shares are met, and what was accepted and refused adds up without twins."""
    store, published = minted
    counts = published.manifest.counts
    assert counts["images"] == counts["images_expected"] == 32
    make = counts["make"]
    assert make["candidates"] == make["accepted"] + make["refused"]
    rows = published_rows(SEGMENTS, store, published.manifest)
    kinds = [r.key[-3:] for r in rows if is_twin(r.key)]
    assert [kinds.count(t) for t in ("t01", "t02", "t03")] == [16, 8, 32]
    assert counts["twins"] == len(kinds) == 56
    assert len(without_twins(rows)) == 32
    assert published.exports[0]["num_images"] == 88
    figures = published.manifest.figures["twins"]
    assert [(f["twin"], f["images"]) for f in figures] == [("face-mask", 16), ("low-resolution", 8), ("darkness", 32)]
    cos = [dict(r["measures"])["own_template_cos"] for r in rows_of(store) if r["key"].endswith("-t01")]
    assert figures[0]["own_template_cos_mean"] == pytest.approx(np.mean(cos))


def test_a_twin_is_linked_to_its_parent_and_measured(minted: tuple[MemoryStore, Published]) -> None:
    """It lies beside its parent, with the parent's identity, slot, place and conditions, and numbers of its own."""
    store, _ = minted
    rows = {r["key"]: r for r in rows_of(store)}
    twins = {k: r for k, r in rows.items() if is_twin(k)}
    assert twins
    for key, row in twins.items():
        parent = rows[parent_of(key) or ""]
        assert parent["accepted"]
        assert [row[k] for k in ("identity", "slot", "attempt", "order", "off_target")] == [
            parent[k] for k in ("identity", "slot", "attempt", "order", "off_target")
        ]
        asked = dict(row["conditions"])
        assert asked["yaw_deg"] == dict(parent["conditions"])["yaw_deg"]
        use = TWINS[int(key[-2:]) - 1]["use"]
        assert asked[f"twin:{use}"] == int(key[-2:])
        assert row["verdicts"] == []
        assert dict(row["measures"])["own_template_cos"] != dict(parent["measures"])["own_template_cos"]
    assert any(dict(r["conditions"]).get("twin:low-resolution:px") == 8 for r in twins.values())


def test_a_twin_is_made_of_the_stored_pixels(minted: tuple[MemoryStore, Published]) -> None:
    """The low-resolution twin in the tar is what the transform makes of its parent's decoded JPEG."""
    store, published = minted
    rows = {r.key: r for r in published_rows(SEGMENTS, store, published.manifest)}

    def pixels(key: str) -> UInt8:
        row = rows[key]
        return CODEC.decode(store.get_range(f"segments/{row.segment}.tar", row.offset, row.length))

    parts = build_parts(sketches(**NOISY, twins=TWINS), store, None, "test")
    stored = {r["key"]: r for r in rows_of(store)}
    for key in [k for k in rows if k.endswith("-t02")]:
        face = pixels(parent_of(key) or "")
        reduced, _ = parts.twins[1].apply(face, stored[key], np.random.default_rng())  # type: ignore[arg-type]
        np.testing.assert_array_equal(CODEC.decode(CODEC.encode(reduced)), pixels(key))


def test_twins_change_nothing_about_the_images() -> None:
    """With and without twins the images, templates, labels and figures are the same, byte for byte and number."""
    with_them, without = MemoryStore(), MemoryStore()
    first, second = run(with_them), run(without, twins=[])
    mine = {r["key"]: r for r in rows_of(with_them) if not is_twin(r["key"])}
    theirs = {r["key"]: r for r in rows_of(without)}
    assert mine.keys() == theirs.keys()
    for key, row in mine.items():
        other = theirs[key]
        np.testing.assert_array_equal(row.pop("embedding"), other.pop("embedding"))
        assert row == other
    rows = [without_twins(published_rows(SEGMENTS, s, p.manifest)) for s, p in ((with_them, first), (without, second))]
    assert [(r.label, r.key, r.length) for r in rows[0]] == [(r.label, r.key, r.length) for r in rows[1]]
    figures = [
        json.dumps({k: p.manifest.figures[k] for k in ("judge", "auditor", "variation")}) for p in (first, second)
    ]
    assert figures[0] == figures[1]
    assert "twins" not in second.manifest.counts["make"]


def test_a_recipe_without_twins_has_the_fingerprint_that_it_had() -> None:
    """The empty section is no field of the fingerprint; a twin is one, with its epoch."""
    plain = wiring.prints_of(sketches())
    assert not [k for k in plain.fields if "twin" in k]
    fields = wiring.prints_of(sketches(twins=TWINS)).fields
    assert fields["twins.1.px"] == 8
    assert fields["model.twins low-resolution.epoch"] == 1


def test_a_grown_dataset_has_the_twins_of_its_first_slots_and_new_ones() -> None:
    """Growth keeps every twin in its place, gives new images theirs, and reads no twin into a template."""
    store = MemoryStore()
    first = run(store)
    before = {r.key: r for r in published_rows(SEGMENTS, store, first.manifest)}
    second = run(store, identities=people(9, 8))
    after = {r.key: r for r in published_rows(SEGMENTS, store, second.manifest)}
    assert second.manifest.counts["images"] == 72
    assert {k: after[k] for k in before} == before
    assert sum(k.endswith("-t03") for k in after) == 72
    per_identity = {r.identity for r in after.values()}
    assert sum(k.endswith("-t02") for k in after) == 2 * len(per_identity)
    assert verify(store, SEGMENTS, CODEC, deep=True, observer=None).problems == ()


def test_whole_datasets_with_twins_verify_and_mend() -> None:
    """Deep verification finds nothing; a lost segment is made again with the same bytes, twins included."""
    store = MemoryStore()
    run(store)
    assert examine.verify(store, SEGMENTS, CODEC, deep=True, observer=Silent())["problems"] == []
    whole = bytes_of(store)
    for path in ("segments/make-g0-000001.tar", "segments/make-g0-000002.parquet"):
        store.delete(path)
    run(store)
    assert bytes_of(store) == whole


def test_an_unknown_twin_in_an_index_is_found() -> None:
    """The count of twins is held against the manifest, as that of images is."""
    store = MemoryStore()
    manifest = run(store).manifest
    path = manifest.path
    raw = json.loads(store.get(path))
    raw["counts"]["twins"] += 1
    store.put(path, json.dumps(raw).encode())
    found = verify(store, SEGMENTS, CODEC, deep=False, observer=None).problems
    assert any("56 twins" in str(p) for p in found)


def test_a_receipt_that_miscounts_its_twins_is_found() -> None:
    """Twins are conserved like candidates: the rows of a segment are held against its receipt."""
    store = MemoryStore()
    run(store)
    path = "receipts/make-g0-000000.json"
    raw = json.loads(store.get(path))
    raw["content"]["counts"]["twins"] -= 1
    store.put(path, json.dumps(raw).encode())
    found = verify(store, SEGMENTS, CODEC, deep=True, observer=None).problems
    assert any(str(p).startswith(f"{path}: counts twins") for p in found)


@pytest.mark.parametrize("in_flight", [1, 2, None])
def test_how_many_batches_are_in_flight_changes_no_twin(in_flight: int | None) -> None:
    """Twins are made beside other batches, and come in one order whenever they are ready."""
    remade({"twins": TWINS, "compute": {"executor": "inline", "in_flight": in_flight}})


def test_a_device_without_room_for_twins_makes_them_alone() -> None:
    """Out of memory while twins are embedded means: again, once nothing else is under way; the bytes stay."""

    class Cramped:
        """A judge that now and then finds no room, once for each picture."""

        def __init__(self, inner: Recogniser) -> None:
            self._inner = inner
            self.refused: set[bytes] = set()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def embed(self, faces_NHWC: UInt8) -> Float32:
            seen = faces_NHWC.tobytes()
            # dark pictures are twins
            if faces_NHWC[0].mean() < 80 and seen not in self.refused:
                self.refused.add(seen)
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self._inner.embed(faces_NHWC)

    judges: list[Cramped] = []

    def cramped(inner: Recogniser) -> Cramped:
        judges.append(Cramped(inner))
        return judges[0]

    remade({"twins": [{"use": "darkness", "share": 1.0}]}, judge=cramped)
    assert judges[0].refused


def test_a_twin_that_cannot_be_embedded_costs_itself_alone() -> None:
    """It is a refused row without pixels; parent, identity and counts stay as they are."""

    class Blind:
        """A judge that sees nothing where it is dark, not even in a corner."""

        def __init__(self, inner: Recogniser) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def embed(self, faces_NHWC: UInt8) -> Float32:
            emb = self._inner.embed(faces_NHWC).copy()
            emb[faces_NHWC.reshape(len(faces_NHWC), -1).max(axis=1) < 120] = np.nan
            return emb

    store = MemoryStore()
    session = wiring.session_on(sketches(**NOISY, twins=TWINS, identities=people()), store, Silent())
    parts = replace(session.parts, judge=Blind(session.parts.judge))
    executor = InlineExecutor(lambda: UnitWorker(parts), stop=session.stop, quarantine=Quarantine(store, parts.clock))
    counts = generate(replace(session, parts=parts, executor=executor)).manifest.counts
    assert counts["images"] == 32
    assert counts["twins"] == counts["make"]["twins"] == 24, "the others are bright somewhere"
    lost = [r for r in rows_of(store) if is_twin(r["key"]) and not r["accepted"]]
    assert {r["key"][-3:] for r in lost} == {"t03"}
    assert all(r["reasons"] == ["numbers_not_finite"] and not r["embedding"].any() for r in lost)
    assert verify(store, SEGMENTS, CODEC, deep=True, observer=None).problems == ()


def test_refilter_keeps_the_twins_of_what_it_keeps() -> None:
    """Tighter filters judge images alone; the twins of one that goes go with it, and come back with what is made."""
    store = MemoryStore()
    run(store)
    tight = sketches(**{
        **NOISY, "twins": TWINS, "identities": people(),
        "filters": [{"use": "own-template", "fmr": 1e-3}, *sketch_recipe()["filters"][1:]],
    })  # fmt: skip
    second = refilter(wiring.session_on(tight, store, Silent()))
    counts = second.manifest.counts
    rows = published_rows(SEGMENTS, store, second.manifest)
    kept = {r.key for r in without_twins(rows)}
    assert 0 < counts["images"] < 32
    assert len(kept) == counts["images"]
    assert {parent_of(r.key) for r in rows if is_twin(r.key)} <= kept
    assert sum(r.key.endswith("-t03") for r in rows) == counts["images"]
    assert verify(store, SEGMENTS, CODEC, deep=True, observer=None).problems == ()
    third = complete(wiring.session_on(tight, store, Silent(), allow_short=True)).manifest
    rows = published_rows(SEGMENTS, store, third)
    assert third.counts["images"] > counts["images"]
    assert sum(r.key.endswith("-t03") for r in rows) == third.counts["images"]


def test_a_plan_reckons_with_the_size_of_twins() -> None:
    """Before anything is made, a plan with a twin for every image expects about twice the bytes."""
    without, with_them = (
        wiring.plan_run(sketches(twins=twins, exports=[]), None, 1)["bytes"]
        for twins in ([], [{"use": "darkness", "share": 1.0}])
    )
    assert 1.3 < with_them / without < 2.1


def test_an_export_may_leave_twins_out() -> None:
    """`twins: false` exports the images alone; the version holds both."""
    store = MemoryStore()
    published = run(store, exports=[{"use": "webdataset", "twins": False}, {"use": "recordio"}])
    assert [e["num_images"] for e in published.exports] == [32, 88]
    assert read_manifest(store, "v000001").counts["twins"] == 56


@pytest.mark.parametrize(
    ("twins", "why"),
    [
        ([{"use": "face-mask"}], r"twins\.0\.share: missing"),
        ([{"use": "face-mask", "share": 0}], r"twins\.0\.share: got 0; should be greater than 0"),
        ([{"use": "mask", "share": 1}], r"twins\.0\.use: unknown 'mask'; did you mean 'face-mask'"),
        ([{"use": "blur", "share": 1, "pxs": 2}], r"twins\.0\.pxs: unknown key; did you mean 'px'"),
    ],
)
def test_a_twin_that_is_asked_for_wrongly_is_refused_in_one_line(twins: list[dict[str, Any]], why: str) -> None:
    """Share, name and options are checked when the recipe is read."""
    with pytest.raises(RecipeError, match=why):
        sketches(twins=twins)


def test_device_memory_error_is_what_the_flow_acts_on() -> None:
    """Two refusals in a row end the unit with the knob's name."""

    class Full:
        def __init__(self, inner: Recogniser) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def embed(self, faces_NHWC: UInt8) -> Float32:
            if faces_NHWC[0].mean() < 80:
                raise RuntimeError("CUDA out of memory")
            return self._inner.embed(faces_NHWC)

    with pytest.raises(DeviceMemoryError, match=r"judge\.batch"):
        remade({"twins": [{"use": "darkness", "share": 1.0}]}, judge=Full)
