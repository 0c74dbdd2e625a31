"""Erasing: nothing of who was erased is left, nobody else changes, and a kill at any moment is made up for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from jobs import wiring
from jobs.wiring.measuring import measure_on
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError, PlanMismatchError, StoreError, UserError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.records import identity_of
from pipeline.domain.revisions import parsed
from pipeline.flow.commit import receipts
from pipeline.flow.erase.journal import PREFIX, unfinished
from pipeline.flow.erase.plan import Wanted
from pipeline.flow.erase.suppression import Suppressed
from pipeline.flow.versions import published_rows, read_manifest, versions
from tests.flow.erasing import DyingAtAnyChange, erase, final, found, rows_of, traces
from tests.flow.test_growth import asked
from tests.flow.test_run import Killed
from tests.recipes import sketch_recipe
from tests.worlds import Silent, copy_of, filled, mint, problems

OWN, OTHER, YAW = sketch_recipe()["filters"]
RECIPE = asked(
    8, 3, twins=[{"use": "darkness", "share": 0.5}], filters=[OWN, OTHER, {**YAW, "tolerance": 0.35}], attempts=6
)
ERASED = 9


def measured(store: MemoryStore) -> None:
    """Add a recogniser's embeddings to every image of a dataset."""
    measure_on(store, "sketch-screening", [], Silent())


@pytest.fixture(scope="module")
def whole() -> MemoryStore:
    """Return a dataset with twins, previews, side-cars and an export."""
    store = MemoryStore()
    mint(RECIPE, store)
    measured(store)
    return store


@pytest.fixture(scope="module")
def erased(whole: MemoryStore) -> MemoryStore:
    """Return it without one identity."""
    store = copy_of(whole)
    erase(store, ERASED)
    return store


def key_of(store: MemoryStore, identity: int) -> str:
    """Return the key of an image that has a twin, of this identity or of one after it."""
    twins = [row.key for row in rows_of(store) if row.key.endswith("-t01") and row.identity >= identity]
    return twins[0].removesuffix("-t01")


def test_nothing_of_an_erased_identity_is_found_in_any_byte_or_row(whole: MemoryStore, erased: MemoryStore) -> None:
    """Its images, embeddings, templates, vector and keys were all over the dataset, and are nowhere in it."""
    sought = traces(whole, [ERASED])
    folders = {hit.split("/")[0] for hit in found(whole, sought)}
    assert {"segments", "audits", "enrolled", "versions", "exports", "measures", "previews"} <= folders
    assert found(erased, sought) == []
    assert not problems(erased)


def test_nothing_of_an_erased_image_is_found_and_its_twin_goes_with_it(whole: MemoryStore) -> None:
    """One image goes with its twin; its identity keeps the others, and the slot stays open for ever."""
    store, key = copy_of(whole), key_of(whole, 0)
    sought = traces(whole, images=[key])
    assert any(k.endswith("-t01") for k in sought.keys)
    erase(store, images=[key])
    assert found(store, sought) == []
    before, after = rows_of(whole), rows_of(store)
    assert {r.key for r in before} - {r.key for r in after} == {key, f"{key}-t01"}
    assert not problems(store)


def test_segments_that_hold_nothing_of_it_keep_their_bytes(whole: MemoryStore, erased: MemoryStore) -> None:
    """Only the units of the erased are rewritten, under the names of revisions; every other file is what it was."""
    before, after = final(whole), final(erased)
    same = ("segments/", "audits/", "previews/", "measures/", "recipes/g0.yaml", "receipts/")
    revised = {p for p in after if ".r1" in p}
    kept = {p for p in after if p.startswith(same) and p not in revised} - {"receipts/enrolled-g0.json"}
    assert all(before[p] == after[p] for p in kept - {"receipts/enrolled-g1.json"})
    assert (
        0
        < len([p for p in revised if p.startswith("segments/make")])
        < len([p for p in after if p.startswith("segments/make")])
    )


def test_labels_and_images_of_the_others_stay(whole: MemoryStore, erased: MemoryStore) -> None:
    """Everybody else has the label that he had, and every byte of his images, wherever they lie now."""

    def images(store: MemoryStore) -> dict[tuple[int, str], bytes]:
        tars = {r.segment: store.get(f"segments/{r.segment}.tar") for r in rows_of(store)}
        return {(r.label, r.key): tars[r.segment][r.offset : r.offset + r.length] for r in rows_of(store)}

    before, after = images(whole), images(erased)
    assert after == {k: v for k, v in before.items() if identity_of(k[1]) != ERASED}
    manifest = read_manifest(erased, "v000002")
    assert manifest.tombstones.to_list() == [ERASED]
    assert (manifest.parent, manifest.counts["identities"]) == ("v000001", 7)


def test_earlier_versions_keep_their_manifest_alone(erased: MemoryStore) -> None:
    """Index, documents and exports of the version before are gone, and who asks for it is told why."""
    assert erased.list("versions/v000001/") == ["versions/v000001/manifest.json"]
    assert not erased.list("exports/v000001/")
    # exports make labels dense, whatever gap the version has
    made = json.loads(erased.get("exports/v000002/webdataset/manifest.json"))
    assert (made["num_classes"], made["num_images"]) == (7, len(rows_of(erased)))
    assert {r.label for r in rows_of(erased)} < set(range(8))
    with pytest.raises(OutputError, match=r"v000001 was retired when something was erased, .* v000002 is the newest"):
        published_rows(Segments(), erased, read_manifest(erased, "v000001"))


def test_rows_of_revisions_are_those_that_stay(whole: MemoryStore, erased: MemoryStore) -> None:
    """A revision holds every number of the rows that stay, in their order, and the audits say the same of them."""
    segments, looked_at = Segments(), 0
    for name, receipt in receipts(erased).items():
        base, number = parsed(name)
        if not number or receipt.unit["stage"] != "make":
            continue
        stays = [r for r in segments.read_rows(whole, base) if r["identity"] != ERASED]
        rows = segments.read_rows(erased, name)
        plain = [{k: v for k, v in r.items() if k != "embedding"} for r in rows]
        assert plain == [{k: v for k, v in r.items() if k != "embedding"} for r in stays]
        assert [r["embedding"].tobytes() for r in rows] == [r["embedding"].tobytes() for r in stays]
        before, after = segments.read_audit(whole, base), segments.read_audit(erased, name)
        mine = [n for n, k in enumerate(before.keys) if identity_of(k) != ERASED]
        assert after.keys == tuple(before.keys[n] for n in mine)
        assert after.auditor_NE.tobytes() == before.auditor_NE[mine].tobytes()
        looked_at += 1
    assert looked_at


@pytest.mark.parametrize("after", [False, True])
def test_killed_on_the_way_and_run_again_it_ends_the_same(whole: MemoryStore, after: bool) -> None:
    """Whichever change it dies at, nothing else is done with the dataset before the same command ends it."""
    assert killed_at(whole, range(7 if after else 2, 400, 12), after=after) >= 3


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_change_and_run_again_it_ends_the_same(whole: MemoryStore, after: bool) -> None:
    """Every single write and removal is died at, before and after it."""
    assert killed_at(whole, range(1, 400), after=after) > 40


def killed_at(whole: MemoryStore, changes: Iterable[int], *, after: bool) -> int:
    """Kill an erasure at each of these changes and run it again; return how often one had begun by then."""
    undisturbed = copy_of(whole)
    erase(undisturbed, ERASED)
    wanted, begun = final(undisturbed), 0
    for dies_at in changes:
        store = filled(DyingAtAnyChange(dies_at, after=after), whole)
        try:
            erase(store, ERASED)
        except Killed:
            pass
        else:
            return begun
        if unfinished(store) is not None:
            begun += 1
            if begun % 3 == 0:
                refused(store)
        erase(store, ERASED)
        assert final(store) == wanted, (dies_at, after)
    return begun


def refused(store: MemoryStore) -> None:
    """Every other verb says what to run, and verification names nothing but the open erasure."""
    for call in (lambda: mint(RECIPE, store), lambda: measured(store)):
        with pytest.raises(PlanMismatchError, match=r"not finished \(erasures/000001.json\); run `facemint erase"):
            call()
    assert [p.split(":")[0] for p in problems(store)] == [f"{PREFIX}000001.json"]


def test_any_erasure_finishes_one_that_was_killed(whole: MemoryStore) -> None:
    """What was begun is finished by whoever erases next, whatever he asks for, or nothing at all."""
    everybody = {r.identity for r in rows_of(whole)}
    for others in ((), (13,)):
        store = filled(DyingAtAnyChange(9, after=True), whole)
        with pytest.raises(Killed):
            erase(store, ERASED)
        done = erase(store, *others)
        assert [j.tombstones.identities for j in done.journals] == [(ERASED,), *([others] if others else [])]
        assert {r.identity for r in rows_of(store)} == everybody - {ERASED, *others}
        assert not problems(store)


def test_erasing_again_changes_nothing(erased: MemoryStore) -> None:
    """What is erased already is said to be so, and no version is published for it."""
    store = copy_of(erased)
    done = erase(store, ERASED)
    assert (done.already, done.journals) == (1, ())
    assert final(store) == final(erased)


def test_a_second_erasure_revises_revisions(erased: MemoryStore) -> None:
    """Another identity of the same unit gives its second revision, and both stay away."""
    store = copy_of(erased)
    same = next(r for n, r in receipts(store).items() if r.unit["stage"] == "make" and ".r1" in n)
    other = next(o for o in same.unit["ordinals"] if o != ERASED)
    sought = traces(store, [other])
    erase(store, other)
    assert f"{parsed(same.name)[0]}.r2" in receipts(store)
    assert found(store, sought) == []
    assert read_manifest(store, versions(store)[-1]).tombstones.identities == tuple(sorted((ERASED, other)))
    assert not problems(store)


def test_the_log_and_suppression_lead_to_nobody_and_know_the_same_bytes(
    whole: MemoryStore, erased: MemoryStore
) -> None:
    """The log counts, without numbers of anybody; an erased image is known again by its bytes alone."""
    sought = traces(whole, [ERASED])
    log = erased.get("erasures/000001.json").decode()
    assert '"done":true' in log
    assert '"identities":1' in log
    assert "units" not in log
    assert "tombstones" not in log
    stored = [image for image in sought.images if sha256_hex(image) in Suppressed(erased)]
    assert stored
    assert sha256_hex(stored[0]) not in Suppressed(whole)
    assert sha256_hex(b"another") not in Suppressed(erased)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"identities": (99,)}, "--identity 99: nobody of that number is enrolled"),
        ({"images": ("x",)}, "--image x: no key of an image of ours"),
        ({"images": ("i00000001-s0000-a77",)}, "no such image is stored"),
        ({"sources": (99,)}, "--source 99: nothing is stored here"),
        ({"identities": tuple(range(8))}, "this would erase everybody"),
        ({}, "nothing to erase"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(whole: MemoryStore, wanted: dict[str, Any], said: str) -> None:
    """An unknown number or key, and the last of all, are refused before anything is written."""
    store = copy_of(whole)
    if wanted.get("identities") == tuple(range(8)):
        wanted = {"identities": tuple(sorted({r.identity for r in rows_of(store)}))}
    with pytest.raises(UserError, match=said) as refusal:
        erase(store, *wanted.get("identities", ()), images=wanted.get("images", ()), sources=wanted.get("sources", ()))
    assert "\n" not in str(refusal.value)
    assert final(store) == final(whole)


def test_an_altered_file_is_named_before_anything_is_written(whole: MemoryStore) -> None:
    """What stays is copied, so a segment that is not as it was written stops the erasure before it begins."""
    store = copy_of(whole)
    receipt = next(r for r in receipts(store).values() if ERASED in r.unit.get("ordinals", ()))
    path = f"segments/{receipt.name}.tar"
    data = bytearray(store.get(path))
    data[700] ^= 1
    store.put(path, bytes(data))
    with pytest.raises(StoreError, match=f"{path}: its bytes are not those of its receipt"):
        erase(store, ERASED)
    assert not store.list(PREFIX)


def test_a_dry_run_names_what_goes_and_writes_nothing(whole: MemoryStore) -> None:
    """Identities, images by version, files rewritten and removed are told, and the dataset is untouched."""
    store = copy_of(whole)
    facts = wiring.erase_plan(store, wiring.dataset_recipe(store), Wanted(identities=(ERASED,)))
    assert {p: store.get(p) for p in store.list("")} == {p: whole.get(p) for p in whole.list("")}
    images = [r for r in rows_of(whole) if r.identity == ERASED]
    assert facts["images_by_version"] == {"v000001": len(images)}
    assert [p["identity"] for p in facts["identities"]] == [ERASED]
    assert facts["exports"] == ["exports/v000001/webdataset"]
    assert {f["path"] for f in facts["rewritten"]} >= {f"segments/{images[0].segment}.tar", "enrolled/g0.parquet"}
    assert {"versions", "exports", "audits", "measures"} <= facts["removed"].keys()


def test_tampering_with_a_revision_is_named(erased: MemoryStore) -> None:
    """Deep verification reads revisions as it reads everything else; of their files images alone come again."""
    for path in erased.list("segments/"):
        if ".r1." in path:
            store = copy_of(erased)
            data = bytearray(store.get(path))
            data[len(data) // 2] ^= 1
            store.put(path, bytes(data))
            named = [p for p in problems(store) if p.startswith(path)]
            assert named, path
            again = "its unit alone is made again" if path.endswith(".tar") else "restore it from a copy"
            assert all(p.endswith(again) for p in named)
