"""What was erased stays away: resuming, growing, judging again, measuring and repairing bring nothing back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jobs import wiring
from jobs.wiring.measuring import measure_on
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.domain.records import identity_of, slot_of
from pipeline.execute.run import Published
from pipeline.flow.commit import receipts
from pipeline.flow.orphans import find_orphans
from pipeline.flow.sidecars import read_added_embeddings
from pipeline.flow.versions import read_manifest, versions
from tests.flow.erasing import Traces, erase, found, rows_of, traces
from tests.flow.test_growth import PEOPLE, asked
from tests.recipes import all_on_recipe, sketch_recipe
from tests.worlds import Silent, copy_of, mint, problems

RECIPE = asked(6, 3)


@pytest.fixture(scope="module")
def whole() -> MemoryStore:
    """Return a small dataset."""
    store = MemoryStore()
    mint(RECIPE, store)
    return store


@pytest.fixture(scope="module")
def last(whole: MemoryStore) -> int:
    """Return the last ordinal that is enrolled, the label of whom is the highest."""
    return max(i.ordinal for i in Segments().read_identities(whole, "enrolled/g0.parquet")[0])


@pytest.fixture(scope="module")
def gone(whole: MemoryStore) -> tuple[int, str]:
    """Return the identity with the highest label, and an image of another one."""
    rows = rows_of(whole)
    return max(rows).identity, min(rows).key


@pytest.fixture(scope="module")
def sought(whole: MemoryStore, gone: tuple[int, str]) -> Traces:
    """Return what is erased."""
    return traces(whole, [gone[0]], [gone[1]])


@pytest.fixture(scope="module")
def erased(whole: MemoryStore, gone: tuple[int, str]) -> MemoryStore:
    """Return the dataset without that identity and that image."""
    store = copy_of(whole)
    erase(store, gone[0], images=[gone[1]])
    return store


def again(store: MemoryStore, recipe: Recipe, *, make_missing: bool) -> list[Published]:
    """Judge a dataset again."""
    return wiring.refilter_on(store, recipe, Silent(), None, make_missing, allow_short=True)


def require_gone(store: MemoryStore, sought: Traces, gone: tuple[int, str]) -> None:
    """Require that nothing erased is back, under no number, and that the dataset is sound."""
    assert found(store, sought) == []
    assert problems(store) == []
    slot = (identity_of(gone[1]), slot_of(gone[1]))
    for version in versions(store)[1:]:
        manifest = read_manifest(store, version)
        assert manifest.tombstones.identities == (gone[0],)
        if version == versions(store)[-1]:
            rows = rows_of(store, version)
            assert gone[0] not in {r.identity for r in rows}
            assert slot not in {(r.identity, slot_of(r.key)) for r in rows}
    known = receipts(store)
    planned = [r for n, r in known.items() if r.unit["stage"] == "make" and r.unit["generation"] > 0]
    assert not [n for n in planned if gone[0] in n.unit["ordinals"]]
    slots = {(o, s) for r in planned for o, owes in zip(r.unit["ordinals"], r.unit.get("open_slots", ()), strict=False)
             for s in owes}  # fmt: skip
    assert slot not in slots
    for path in store.list("enrolled/"):
        assert gone[0] not in {i.ordinal for i in Segments().read_identities(store, path)[0]}


def test_resuming_finds_everything_done(erased: MemoryStore, sought: Traces, gone: tuple[int, str]) -> None:
    """The same recipe means the version without the erased, and makes nothing."""
    store = copy_of(erased)
    published = mint(RECIPE, store)
    assert published.resumed
    assert published.manifest.version == "v000002"
    require_gone(store, sought, gone)


@pytest.mark.parametrize(("count", "images"), [(9, 3), (6, 5), (9, 5)])
def test_growing_plans_neither_number_nor_slot_again(
    erased: MemoryStore, sought: Traces, gone: tuple[int, str], count: int, images: int
) -> None:
    """More people and more images come under new ordinals, candidate numbers and labels; an erased slot stays open."""
    store = copy_of(erased)
    manifest = mint(asked(count, images), store).manifest
    require_gone(store, sought, gone)
    before, after = rows_of(erased), rows_of(store)
    assert {(r.label, r.identity, r.key) for r in before} <= {(r.label, r.identity, r.key) for r in after}
    # the erased one's label is nobody's
    labels = {r.label for r in after}
    assert max(r.label for r in before) < 5
    assert 5 not in labels
    assert len(labels) == manifest.counts["identities"] == count
    each = {o: sum(r.identity == o for r in after) for o in {r.identity for r in after}}
    assert each.pop(identity_of(gone[1])) == images - 1
    assert set(each.values()) == {images}
    numbers = [c for r in receipts(store).values() if r.unit["stage"] == "enrol" for c, _ in r.unit["proposals"]]
    assert len(numbers) == len(set(numbers))


def test_an_erased_last_ordinal_is_not_given_again(whole: MemoryStore, last: int) -> None:
    """Ordinals count on behind the erased, even where it was the last one enrolled."""
    store = copy_of(whole)
    erase(store, last)
    mint(asked(12, 3), store)
    later = [i.ordinal for i in Segments().read_identities(store, "enrolled/g2.parquet")[0]]
    assert min(later) == last + 1
    assert problems(store) == []


@pytest.mark.parametrize("make_missing", [False, True])
def test_judging_again_brings_nothing_back(
    erased: MemoryStore, sought: Traces, gone: tuple[int, str], make_missing: bool
) -> None:
    """Tighter filters, and then making what they left open, fill neither the erased place nor the erased slot."""
    store = copy_of(erased)
    own = {"use": "own-template", "cos": 0.75}
    published = again(store, asked(6, 3, filters=[own, *sketch_recipe()["filters"][1:]]), make_missing=make_missing)
    require_gone(store, sought, gone)
    assert len(published) == 1 + make_missing
    if make_missing:
        # the place is taken by somebody else, the slot by nobody
        assert published[-1].manifest.counts["identities"] == 6
        assert published[-1].manifest.counts["images"] == 17


def test_the_same_filters_judge_as_before(whole: MemoryStore) -> None:
    """Thresholds over people enrolled still count the erased, so nobody else is refused for an erasure."""
    store = copy_of(whole)
    erase(store, max(rows_of(whole)).identity)
    before = {r.key for r in rows_of(store)}
    filters = [*sketch_recipe()["filters"], {"use": "range", "measure": "yaw_deg", "min": -89}]
    again(store, asked(6, 3, filters=filters), make_missing=False)
    assert {r.key for r in rows_of(store)} >= before


def test_erasing_a_refused_attempt_leaves_its_slot_to_the_image_in_it() -> None:
    """A row that was never published can be erased, and the image that fills its slot stays where it is."""
    store = MemoryStore()
    filters = [*sketch_recipe()["filters"][:2], {**sketch_recipe()["filters"][2], "tolerance": 0.35}]
    recipe = asked(6, 3, filters=filters)
    mint(recipe, store)
    before = {r.key for r in rows_of(store)}
    key = next(k for k in sorted(before) if not k.endswith("-a00"))
    refused = f"{key[:-2]}00"
    erase(store, images=[refused])
    assert {r.key for r in rows_of(store)} == before
    for name, receipt in receipts(store).items():
        if receipt.unit["stage"] == "make":
            assert refused not in Segments().read_columns(store, name, ["key"])["key"]
    again(store, asked(6, 3, filters=[*filters, {"use": "range", "measure": "yaw_deg", "min": -89}]), make_missing=True)
    assert key in {r.key for r in rows_of(store)}
    assert problems(store) == []


def test_measuring_adds_to_revisions(erased: MemoryStore) -> None:
    """What is added after an erasure is added to the images that are left, in every unit."""
    store = copy_of(erased)
    measure_on(store, "sketch-screening", [], Silent())
    made = [n for n, r in receipts(store).items() if r.unit["stage"] == "make"]
    keys = {k for n in made for k in read_added_embeddings(Segments(), store, n, "sketch-screening")[0]}
    assert keys >= {r.key for r in rows_of(store)}
    assert problems(store) == []


def test_nothing_is_an_orphan_after_an_erasure(erased: MemoryStore) -> None:
    """Listing what nothing names finds leases and heartbeats of earlier runs, and nothing else."""
    orphans = find_orphans(erased, SystemClock(), grace_s=-1.0)
    assert {o.stored.path.split("/")[0] for o in orphans.files} <= {"runs"}
    assert not orphans.problems


def test_documents_that_are_lost_are_written_again(erased: MemoryStore) -> None:
    """A version that left somebody out speaks for itself: its card comes out again with the bytes that it had."""
    store = copy_of(erased)
    for name in ("README.md", "croissant.json", "contact_sheet.png"):
        store.delete(f"versions/v000002/{name}")
    published = mint(RECIPE, store)
    assert published.manifest.version == "v000002"
    assert problems(store) == []


def test_repairing_makes_what_it_can_and_never_what_was_erased(
    erased: MemoryStore, sought: Traces, gone: tuple[int, str]
) -> None:
    """A lost audit and a lost probe are made again; a revision is asked for back, and not made with the erased."""
    store = copy_of(erased)
    audit = next(p for p in store.list("audits/") if ".r1" in p)
    probes = next(p for p in store.list("segments/enrol-") if ".r1" not in p)
    wanted = {path: store.get(path) for path in (audit, probes)}
    for path in wanted:
        store.delete(path)
    mint(RECIPE, store, deep=True)
    assert {path: store.get(path) for path in wanted} == wanted
    require_gone(store, sought, gone)
    rows, tar = (next(p for p in store.list("segments/make-") if p.endswith(f".r1.{s}")) for s in ("parquet", "tar"))
    images, table = store.get(tar), store.get(rows)
    store.delete(tar)
    mint(RECIPE, store)
    assert store.get(tar) == images
    require_gone(store, sought, gone)
    store.delete(rows)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{rows}: missing or altered.*restore it from a copy"):
            mint(RECIPE, store)
    assert found(store, sought) == []
    store.put(rows, table)
    mint(RECIPE, store)
    require_gone(store, sought, gone)


def test_a_lost_tar_is_made_from_its_rows_where_the_unit_could_not_be_worked_again(whole: MemoryStore) -> None:
    """Whom others were measured against is gone, so their unit would come out otherwise; its rows still tell it."""
    nearest = Counter[int]()
    for name, receipt in receipts(whole).items():
        if receipt.unit["stage"] == "make":
            told = Segments().read_columns(whole, name, ["measures", "identity"])["measures"]
            nearest.update({int(m["nearest_other_identity"]) for m in told} - {*receipt.unit["ordinals"]})
    who = next(o for o, _ in nearest.most_common() if o in {r.identity for r in rows_of(whole)} or len(nearest) == 1)
    store = copy_of(whole)
    erase(store, who)
    for path in [p for p in store.list("segments/make-") if p.endswith(".tar")]:
        data = store.get(path)
        store.put(path, data[: len(data) // 2])
        mint(RECIPE, store)
        assert store.get(path) == data
    assert problems(store) == []


def test_with_everything_switched_on_nothing_is_left_and_tars_come_again() -> None:
    """Twins, two labellers, marginal cells, galleries: who stands in the list of nearest pairs goes from it too."""
    store = MemoryStore()
    recipe = parse_recipe(wiring.full_model(), all_on_recipe(5, 2), "test")
    mint(recipe, store)
    (pairs,) = store.list("private/leakage/")
    who = identity_of(json.loads(store.get(pairs))["judge"][0]["key"])
    sought = traces(store, [who])
    assert {"private", "exports", "segments"} <= {hit.split("/")[0] for hit in found(store, sought)}
    erase(store, who)
    assert found(store, sought) == []
    assert problems(store) == []
    tars = {p: store.get(p) for p in store.list("segments/make-") if p.endswith(".tar")}
    for path in tars:
        store.delete(path)
    mint(recipe, store)
    assert {p: store.get(p) for p in tars} == tars
    assert problems(store) == []


def test_lost_enrolled_identities_are_not_made_again_with_the_erased(erased: MemoryStore, sought: Traces) -> None:
    """Who is enrolled follows from probes that are gone: the file is asked for back, and comes back whole."""
    store = copy_of(erased)
    data = store.get("enrolled/g0.r1.parquet")
    store.delete("enrolled/g0.r1.parquet")
    with pytest.raises(StoreError, match=r"enrolled/g0\.r1\.parquet: missing or altered.*restore it from a copy"):
        mint(RECIPE, store)
    assert found(store, sought) == []
    store.put("enrolled/g0.r1.parquet", data)
    assert mint(RECIPE, store).resumed
    assert problems(store) == []


def test_what_killed_runs_left_is_swept_away_too(whole: MemoryStore, gone: tuple[int, str]) -> None:
    """A segment, an index or an export that nothing names may hold the erased, so it goes with the others."""
    store, sought = copy_of(whole), traces(whole, [gone[0]])
    segment = next(r.segment for r in rows_of(whole) if r.identity == gone[0])
    copies = {
        "segments/make-g7-000000.tar": f"segments/{segment}.tar",
        "audits/make-g7-000000.parquet": f"audits/{segment}.parquet",
        "versions/v000002/index-0000000000000000.parquet": next(
            p for p in whole.list("versions/v000001/") if "/index-" in p
        ),
        "exports/v000009/webdataset/train-000000.tar": f"segments/{segment}.tar",
    }
    for path, of in copies.items():
        store.put(path, whole.get(of))
    erase(store, gone[0])
    assert found(store, sought) == []
    assert problems(store) == []


def test_erasing_after_growth_reaches_every_unit_of_an_identity(whole: MemoryStore) -> None:
    """Images of one identity lie in units of two generations; all of them go, and all earlier versions retire."""
    store = copy_of(whole)
    mint(asked(6, 5), store)
    who = min(r.identity for r in rows_of(store))
    sought = traces(store, [who])
    assert len({r.segment for r in rows_of(store) if r.identity == who}) == 2
    erase(store, who)
    assert found(store, sought) == []
    assert problems(store) == []
    assert [store.list(f"versions/{v}/") for v in ("v000001", "v000002")] == [
        [f"versions/{v}/manifest.json"] for v in ("v000001", "v000002")
    ]


def vectors_recipe(path: Path) -> Recipe:
    """Return a recipe whose identities are the rows of a file."""
    people = {**PEOPLE, "count": 6, "images_per_identity": 2}
    people |= {"sampler": {"use": "files", "path": str(path), "licence": "made up", "real_people": False}}
    return asked(6, 2, identities=people, balance={"by": []})


def test_a_source_goes_with_whom_it_became_and_with_its_probes(tmp_path: Path) -> None:
    """A row of a sampler's file is erased as an identity, or as a candidate that nobody was enrolled from."""
    path = tmp_path / "people.npy"
    rows = np.random.Generator(np.random.Philox(3)).standard_normal((40, 16)).astype(np.float32)
    np.save(path, rows)
    path.with_suffix(".npy.json").write_text(_space_of())
    store = MemoryStore()
    recipe = vectors_recipe(path)
    mint(recipe, store)
    members = {m.candidate: m.ordinal for m in Segments().read_members(store, "enrolled/g0.parquet")}
    probed = [c for r in receipts(store).values() if r.unit["stage"] == "enrol" for c, _ in r.unit["proposals"]]
    one = min(c for c in members if members[c] in {r.identity for r in rows_of(store)})
    sought = traces(store, [members[one]])
    erase(store, sources=[one])
    assert found(store, sought) == []
    assert members[one] in read_manifest(store, "v000002").tombstones.identities
    refused = [c for c in probed if c not in members]
    if refused:
        erase(store, sources=[refused[0]])
        assert read_manifest(store, versions(store)[-1]).tombstones.candidates == (refused[0],)
        for name, receipt in receipts(store).items():
            if receipt.unit["stage"] == "enrol":
                assert refused[0] not in Segments().read_columns(store, name, ["candidate"])["candidate"]
    assert erase(store, sources=[one]).already == 1
    with pytest.raises(UserError, match="--source 39: nothing is stored here that was made from row 39"):
        erase(store, sources=[39])
    assert problems(store) == []


def _space_of() -> str:
    from pipeline.adapters.sketch import SketchBank

    return json.dumps({"space": SketchBank().space.to_dict()})
