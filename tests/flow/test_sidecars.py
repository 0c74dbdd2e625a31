"""Side-cars: what is added beside segments is whole or not there, resumes, is found when damaged, and harms nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from jobs import examine, wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.sketch import SketchMeasures
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import LeaseHeldError, OutputError, PlanMismatchError, StoreError
from pipeline.domain.manifest import Receipt
from pipeline.domain.records import UInt8
from pipeline.domain.sidecar import SideCar
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import receipts
from pipeline.flow.orphans import find_orphans
from pipeline.flow.parts import Parts
from pipeline.flow.sidecars import (
    Addition,
    add_to_unit,
    additions,
    folder_of,
    plan_additions,
    read_added_embeddings,
    read_sidecars,
    record_path,
    remaining,
    side_car_path,
    stored_measures,
)
from pipeline.flow.verify import verify
from tests.worlds import Silent, bytes_of, filled, mint, sketches

RECIPE: dict[str, Any] = {"exports": []}


class Late:
    """Tells a time long past any grace."""

    def now_s(self) -> float:
        """Return the year 2100."""
        return 4.1e9


@pytest.fixture(scope="module")
def minted() -> Mapping[str, bytes]:
    """Return every file of a small dataset."""
    store = MemoryStore()
    mint(sketches(**RECIPE), store)
    return {path: store.get(path) for path in store.list("")}


@pytest.fixture
def store(minted: Mapping[str, bytes]) -> MemoryStore:
    """Return the dataset on a store of its own."""
    return filled(MemoryStore(), minted)


def add(store: MemoryStore, name: str = "lighting", *overrides: str, **options: Any) -> dict[str, Any]:
    """Add a component to a dataset."""
    return wiring.measure_on(store, name, overrides, Silent(), **options)


def parts_of(store: MemoryStore) -> Parts:
    """Return the parts of the dataset's recipe."""
    return wiring.build_parts(wiring.dataset_recipe(store), store, None, "test")


def units_of(store: MemoryStore) -> list[str]:
    """Return the names of the units of making."""
    return sorted(receipts(store, "make-"))


def side_cars(store: MemoryStore) -> dict[str, bytes]:
    """Return the files of side-cars."""
    return {path: store.get(path) for path in store.list("measures/")}


def content_of(store: MemoryStore, path: str) -> dict[str, Any]:
    """Return the part of a record that is equal on every machine."""
    return Receipt.from_json(store.get(path)).content()


def test_every_stored_image_has_what_a_measure_says_of_its_stored_bytes(store: MemoryStore) -> None:
    """The numbers are those of the decoded JPEG, for accepted images and for no other."""
    add(store, "sketch", "labeller=second")
    segments, codec, plain = Segments(), JpegCodec(), SketchMeasures()
    for unit in units_of(store):
        found = read_sidecars(segments, store, unit)
        rows = segments.read_rows(store, unit, ["key", "accepted", "measures"])
        assert set(found) == {r["key"] for r in rows if r["accepted"]}
        places = segments.locate(store, unit)
        for row in rows:
            if row["accepted"]:
                offset, length = places[row["key"]]
                face = codec.decode(store.get_range(f"segments/{unit}.tar", offset, length))
                alone = {k: float(v[0]) for k, v in plain.measure(face[None]).items()}
                assert found[row["key"]]["shape@second=round"] == alone["shape=round"]
                assert found[row["key"]]["yaw_deg@second"] == dict(row["measures"])["yaw_deg"]


def test_segments_versions_and_digest_stay_as_they_are(store: MemoryStore) -> None:
    """Nothing but side-cars, the lease and the heartbeat is written; the dataset's digest stays."""
    before, digest = bytes_of(store), examine.newest_manifest(store).digest
    done = add(store)
    assert bytes_of(store) == before
    assert examine.newest_manifest(store).digest == digest
    assert done["units"] == len(units_of(store)) > 1
    assert done["images"] == examine.newest_manifest(store).counts["images"]
    assert len(side_cars(store)) == 2 * done["units"]


def test_a_run_killed_between_two_side_cars_goes_on_where_it_was(store: MemoryStore) -> None:
    """What one run left is kept, what it did not reach is made, and the files are those of an undisturbed run."""
    add(store)
    whole = side_cars(store)
    names = units_of(store)
    # killed before its first byte; killed between the bytes and the record; cut while it was copied
    for suffix in ("parquet", "json"):
        store.delete(f"measures/{names[0]}-lighting.{suffix}")
    store.delete(f"measures/{names[1]}-lighting.json")
    cut = f"measures/{names[2]}-lighting.parquet"
    store.put(cut, whole[cut][:-7])
    done = add(store)
    assert done["units_before"] == len(names) - 3
    again = side_cars(store)
    assert again.keys() == whole.keys()
    assert {p: d for p, d in again.items() if p.endswith(".parquet")} == {
        p: d for p, d in whole.items() if p.endswith(".parquet")
    }
    assert add(store)["units_before"] == len(names)


def test_a_torn_record_is_made_again(store: MemoryStore) -> None:
    """A record that is no JSON is no record; verify names it, and running again replaces it."""
    add(store)
    path = f"measures/{units_of(store)[0]}-lighting.json"
    before = content_of(store, path)
    store.put(path, b'{"content": {"na')
    (problem,) = verify(store, Segments(), JpegCodec()).problems
    assert problem.path == path
    assert "run the same measure command again" in problem.remedy
    assert add(store)["units_before"] == len(units_of(store)) - 1
    assert content_of(store, path) == before


def test_other_options_under_one_name_are_refused_and_replaced_when_asked(store: MemoryStore) -> None:
    """A side-car of another model, or other options, is neither mixed with nor overwritten unasked."""
    parts = parts_of(store)
    one, other = (Addition("sketch", "sketch", {"batch": n}, SketchMeasures(), n) for n in (4, 8))
    folder = folder_of("generate")
    for unit in plan_additions(receipts(store, "make-"), one):
        add_to_unit(unit, parts, one)
    assert remaining(store, folder, plan_additions(receipts(store, "make-"), one)) == []
    changed = plan_additions(receipts(store, "make-"), other)
    with pytest.raises(PlanMismatchError, match="labeller=NAME, or make it anew with --replace"):
        remaining(store, folder, changed)
    assert remaining(store, folder, changed, replace=True) == changed
    assert not [p for p in store.list("measures/") if p.endswith(".json")]


def test_two_workers_on_one_unit_leave_one_record(store: MemoryStore) -> None:
    """A worker thought dead that was not does no harm; numbers that differ end the run."""
    parts = parts_of(store)
    addition = Addition("sketch", "sketch", {}, SketchMeasures(), 8)
    unit = plan_additions(receipts(store, "make-"), addition)[0]
    first = add_to_unit(unit, parts, addition)
    assert add_to_unit(unit, parts, addition).content() == first.content()

    class Drifting(SketchMeasures):
        def measure(self, faces_NHWC: UInt8) -> dict[str, Any]:
            return {k: v + 1e-9 for k, v in super().measure(faces_NHWC).items()}

    with pytest.raises(StoreError, match="other numbers stand there already"):
        add_to_unit(unit, parts, Addition("sketch", "sketch", {}, Drifting(), 8))


def test_nothing_is_recorded_once_another_run_took_over(store: MemoryStore) -> None:
    """The lease is compared before every record."""
    from dataclasses import replace

    def taken() -> None:
        raise LeaseHeldError("taken over")

    parts = replace(parts_of(store), guard=taken)
    addition = Addition("sketch", "sketch", {}, SketchMeasures(), 8)
    with pytest.raises(LeaseHeldError):
        add_to_unit(plan_additions(receipts(store, "make-"), addition)[0], parts, addition)
    assert not [p for p in store.list("measures/") if p.endswith(".json")]


def test_verify_counts_hashes_and_names_side_cars(store: MemoryStore) -> None:
    """A missing one is found by size, a flipped byte by reading, and both say how to mend them."""
    segments, codec = Segments(), JpegCodec()
    before = verify(store, segments, codec, deep=True)
    add(store)
    after = verify(store, segments, codec, deep=True)
    assert before.problems == after.problems == ()
    assert after.files == before.files + len(units_of(store))
    flipped, gone = (f"measures/{name}-lighting.parquet" for name in units_of(store)[:2])
    data = bytearray(store.get(flipped))
    data[len(data) // 2] ^= 1
    store.put(flipped, bytes(data))
    store.delete(gone)
    assert [p.path for p in verify(store, segments, codec).problems] == [gone]
    found = {p.path: p for p in verify(store, segments, codec, deep=True).problems}
    assert set(found) == {flipped, gone}
    assert found[flipped].remedy == "delete it, then run the same measure command again: it alone is made again"
    assert "altered" in found[flipped].found
    store.delete(flipped)
    add(store)
    assert verify(store, segments, codec, deep=True).problems == ()


def test_a_side_car_is_no_orphan_and_half_of_one_is(store: MemoryStore) -> None:
    """Whole side-cars are kept for ever; bytes without a record go with the other orphans."""
    add(store)
    assert [o.stored.path for o in find_orphans(store, Late()).files if o.stored.path.startswith("measures/")] == []
    name = units_of(store)[0]
    store.delete(f"measures/{name}-lighting.json")
    (orphan,) = [o for o in find_orphans(store, Late()).files if o.stored.path.startswith("measures/")]
    assert orphan.stored.path == f"measures/{name}-lighting.parquet"
    assert orphan.why == "no record of a side-car names it"


def test_a_damaged_side_car_is_not_read_as_if_it_were_whole(store: MemoryStore) -> None:
    """Reading numbers from a cut, a swapped or a missing file ends with its name."""
    add(store)
    one, other = units_of(store)[:2]
    path = f"measures/{one}-lighting.parquet"
    whole = store.get(path)
    for bytes_there in (whole[:-9], store.get(f"measures/{other}-lighting.parquet")):
        store.put(path, bytes_there)
        with pytest.raises(StoreError, match=path):
            read_sidecars(Segments(), store, one)
    store.delete(path)
    with pytest.raises(StoreError, match=f"{path}: missing; run the same"):
        read_sidecars(Segments(), store, one)


def test_altered_images_are_not_measured(store: MemoryStore) -> None:
    """A segment whose bytes are not those of its receipt ends the run, before numbers are made of it."""
    path = f"segments/{units_of(store)[0]}.tar"
    data = bytearray(store.get(path))
    data[600] ^= 1
    store.put(path, bytes(data))
    with pytest.raises(StoreError, match=f"{path}: its bytes are not those of its receipt"):
        add(store)
    assert store.list("measures/") == []


def test_a_recogniser_adds_embeddings(store: MemoryStore) -> None:
    """Another recogniser's vectors stand beside the segment: unit rows in its own space, one per stored image."""
    done = add(store, "sketch-auditor")
    assert done["measures"] == []
    assert done["space"]["name"] == "sketch-auditor"
    unit = units_of(store)[0]
    keys, emb = read_added_embeddings(Segments(), store, unit, "sketch-auditor")
    audited = Segments().read_audit(store, unit)
    assert keys == audited.keys
    np.testing.assert_array_equal(emb, audited.auditor_NE)
    assert read_sidecars(Segments(), store, unit) == {key: {} for key in keys}
    with pytest.raises(StoreError, match="no embeddings named 'phantom-judge' were added"):
        read_added_embeddings(Segments(), store, unit, "phantom-judge")


def test_several_additions_are_read_together_and_listed(store: MemoryStore) -> None:
    """A dataset says what was added to it, and each image has all of it."""
    add(store)
    add(store, "skin-tone")
    add(store, "sketch", "labeller=second")
    assert list(additions(Segments(), store)) == ["lighting", "sketch-as-second", "skin-tone"]
    about = additions(Segments(), store)["lighting"]
    assert about["model"]["name"] == "lighting-ofiq-style"
    numbers = next(iter(read_sidecars(Segments(), store, units_of(store)[0]).values()))
    assert {"luminance_mean", "skin_ita_deg", "shade@second=dark"} <= set(numbers)
    assert "yaw_deg" in stored_measures(Segments(), store)
    assert read_sidecars(Segments(), store, "make-g7-000000") == {}


def test_a_number_that_is_none_is_left_out_and_a_face_without_vector_is_nan() -> None:
    """NaN never reaches a side-car as a number: a filter would not know which side of a threshold it lies on."""
    store, segments = MemoryStore(), Segments()
    emb = np.array([[1, 0], [np.nan, np.nan]], np.float32)
    car = SideCar("make-g0-000000", ("a", "b"), ({"x": 1.0}, {}), emb, {"name": "t", "measures": ["x"]})
    entry = segments.write_side_car(store, "measures/t.parquet", car)
    back = segments.read_side_car(store, "measures/t.parquet", "make-g0-000000")
    assert (back.keys, back.measures, back.about) == (car.keys, car.measures, car.about)
    np.testing.assert_array_equal(back.embedding_NE, emb)
    assert segments.write_side_car(store, "measures/t.parquet", car) == entry
    broken = SideCar("make-g0-000000", ("a",), ({"x": math.nan},), emb[:1])
    with pytest.raises(ValueError, match="x is nan"):
        segments.write_side_car(store, "measures/u.parquet", broken)
    with pytest.raises(ValueError, match="2 keys, 1 measures"):
        segments.write_side_car(store, "u", SideCar("u", ("a", "b"), ({},), emb))
    with pytest.raises(ValueError, match="'a' comes twice"):
        segments.write_side_car(store, "u", SideCar("u", ("a", "a"), ({}, {}), emb))


def test_a_dataset_without_images_has_nothing_to_add_to(store: MemoryStore) -> None:
    """Where no unit of making is committed there is nothing to read, and nothing is written."""
    for path in store.list("receipts/make-"):
        store.delete(path)
    with pytest.raises(OutputError, match="no image is stored here yet"):
        add(store)
    assert store.list("measures/") == []


def test_a_unit_of_measuring_is_a_value_that_comes_back() -> None:
    """Its name tells unit and addition apart; its files lie under `private/` for curated sets; JSON gives it back."""
    unit = Unit(Stage.MEASURE, 0, 3, 1, of="make-g0-000003", reader="abc", side_car="lighting")
    assert unit.name == "measure-make-g0-000003-lighting"
    assert Unit.from_dict(unit.to_dict()) == unit
    assert (side_car_path(unit, folder_of("generate")), record_path(unit, folder_of("curate"))) == (
        "measures/make-g0-000003-lighting.parquet",
        "private/measures/make-g0-000003-lighting.json",
    )
    assert "side_car" not in Unit(Stage.AUDIT, 0, 3, 1, of="make-g0-000003").to_dict()


def test_a_grown_dataset_is_added_to_where_it_grew(store: MemoryStore) -> None:
    """Side-cars of what stood are kept; only the new units are read."""
    add(store)
    before = side_cars(store)
    identities = {**sketches(**RECIPE).identities.model_dump(), "count": 14}
    mint(sketches(**RECIPE, identities=identities), store)
    done = add(store)
    assert done["units_before"] == len(before) // 2
    assert done["units"] == len(units_of(store)) > done["units_before"]
    assert {p: d for p, d in side_cars(store).items() if p in before} == before
