"""Screening in whole runs of the sketch world: who leaks is refused, and galleries stay where they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import wiring
from jobs.examine import verify
from jobs.wiring.galleries import with_gallery_digests
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import CalibrationError, PlanMismatchError, RecipeError, StoreError, UserError
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.domain.records import Cell
from pipeline.execute.galleries import prepare
from pipeline.execute.generations import read_step
from pipeline.execute.run import generate
from pipeline.flow.leakage import FacesDigest, gallery_root, pack, read_note, unpack
from pipeline.flow.rounds import Harvest, close_round
from pipeline.flow.versions import published_rows
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, mint, sketches

MADE_UP = {"licence": "made up", "lawful_basis": "nobody of it is a person"}
CONTROL = "sketch://faces?identities=300&images=3&seed=12"
STRANGERS = "sketch://faces?identities=20&images=3&seed=11"
REASON = "leaks_gallery_identity"


def screened(source: str, *, leak_filter: bool = True, **leakage: Any) -> Recipe:
    """Return a sketch recipe that screens against a gallery."""
    filters = [*sketch_recipe()["filters"], *([{"use": "leakage"}] if leak_filter else [])]
    section = {"galleries": [{"name": "people", "source": source, **MADE_UP}], "control": CONTROL, **leakage}
    return sketches(leakage={k: v for k, v in section.items() if v is not None}, filters=filters)


@pytest.fixture(scope="module")
def clean() -> MemoryStore:
    """Return a dataset that screened against nobody."""
    store = MemoryStore()
    mint(sketches(), store)
    return store


@pytest.fixture(scope="module")
def planted(clean: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """Return a gallery of four people whom the same recipe mints, and their candidates' numbers."""
    root = tmp_path_factory.mktemp("gallery")
    manifest = wiring.newest_manifest
    rows = published_rows(Segments(), clean, _manifest(clean))
    assert manifest is not None
    members = {m.ordinal: m.candidate for m in Segments().read_members(clean, "enrolled/g0.parquet")}
    chosen = sorted({r.identity for r in rows})[::3]
    for row in rows:
        if row.identity in chosen:
            face = JpegCodec().decode(clean.get_range(f"segments/{row.segment}.tar", row.offset, row.length))
            folder = root / f"person-{row.identity}"
            folder.mkdir(exist_ok=True)
            Image.fromarray(face).save(folder / f"{row.key}.png")
    return root, {members[o] for o in chosen}


def _manifest(store: Store) -> Any:
    from jobs.examine import newest_manifest

    return newest_manifest(store)


@pytest.fixture(scope="module")
def found(planted: tuple[Path, set[int]]) -> MemoryStore:
    """Return the dataset of the recipe that screens against them."""
    store = MemoryStore()
    mint(screened(str(planted[0]), screening={"use": "sketch-screening"}, copies={"bits": 2}, keep_pairs=5), store)
    return store


def probed(store: Store) -> dict[int, dict[str, Any]]:
    """Return candidate -> row of every probed candidate."""
    units = [p[9:-5] for p in store.list("receipts/enrol-")]
    return {r["candidate"]: r for u in units for r in Segments().read_rows(store, u)}


def test_planted_people_are_refused_at_enrolment_and_replaced(
    found: MemoryStore, planted: tuple[Path, set[int]]
) -> None:
    """The very candidates whom the gallery holds are refused with their reason; the dataset is full all the same."""
    rows = probed(found)
    refused = {c for c, row in rows.items() if REASON in row["reasons"]}
    assert planted[1] <= refused
    assert len(refused - planted[1]) <= 0.1 * len(rows)
    manifest = _manifest(found)
    assert manifest.counts["images"] == manifest.counts["images_expected"] == 30
    assert manifest.counts["candidates_refused_at_enrolment"][REASON] == len(
        [c for c in refused if rows[c]["reasons"][0] == REASON]
    )
    members = Segments().read_members(found, "enrolled/g0.parquet")
    assert not planted[1] & {m.candidate for m in members}


def test_samples_have_the_numbers_that_the_filter_reads(found: MemoryStore) -> None:
    """Every candidate image says how near the galleries are, under judge and screening recogniser."""
    (unit, *_) = [p[9:-5] for p in found.list("receipts/make-")]
    for row in Segments().read_rows(found, unit):
        assert {
            "nearest_gallery_cos", "nearest_gallery_centroid_cos", "nearest_gallery_cos_screening",
            "nearest_gallery_centroid_cos_screening", "nearest_gallery_copy_bits",
        } <= set(row["measures"])  # fmt: skip
        assert any(v["filter"] == "leakage" for v in row["verdicts"])


def test_a_recipe_without_galleries_has_none_of_it(clean: MemoryStore) -> None:
    """No number, no file, no field of the fingerprint but that there is no gallery."""
    (unit, *_) = [p[9:-5] for p in clean.list("receipts/make-")]
    assert not any("gallery" in k for row in Segments().read_rows(clean, unit) for k in row["measures"])
    assert not clean.list("private/")
    fields = wiring.prints_of(sketches()).fields
    assert [k for k in fields if k.startswith("leakage") or "leakage" in k] == ["leakage.galleries"]
    assert _manifest(clean).figures["leakage"] == "not screened: no gallery was given"


def test_the_manifest_reports_every_recogniser_and_no_path(found: MemoryStore, planted: tuple[Path, set[int]]) -> None:
    """Gallery, digest, numbers, thresholds with their origin; the auditor too, who decides nothing."""
    figures = _manifest(found).figures["leakage"]
    assert {role: told["decides"] for role, told in figures["found"].items()} == {
        "judge": True, "screening": True, "auditor": False
    }  # fmt: skip
    assert figures["galleries"]["people"] == {"faces": 12, "people": 4, **MADE_UP} | {
        "digest": figures["galleries"]["people"]["digest"]
    }
    row = figures["found"]["auditor"]["compared"]["templates to centroids"]
    assert row["threshold"]["origin"] == "control"
    assert row["control"]["n"] == 300
    assert row["n"] == 10
    assert figures["found"]["judge"]["compared"]["images to samples"]["flagged"] == 0
    published = [p for p in found.list("") if not p.startswith(("private/", "recipes/"))]
    shown = b"".join(found.get(p) for p in published if p.endswith((".json", ".md", ".html")))
    assert str(planted[0]).encode() not in shown
    assert b"person-" not in shown


def test_pairs_for_review_and_embeddings_stay_private(found: MemoryStore) -> None:
    """The nearest pairs name keys and gallery faces; neither they nor embeddings are among the version's files."""
    manifest = _manifest(found)
    kept = manifest.figures["leakage"]["private"]["pairs"]
    pairs = json.loads(found.get(kept["path"]))
    assert {role: len(listed) for role, listed in pairs.items()} == {"judge": 5, "screening": 5, "auditor": 5}
    assert pairs["judge"][0]["gallery"].startswith("people/person-")
    cos = [p["cos"] for p in pairs["judge"]]
    assert cos == sorted(cos, reverse=True)
    assert not [f for f in (*manifest.files, *manifest.documents) if f.path.startswith("private/")]
    exports = found.list("exports/")
    assert exports
    assert not [p for p in exports if "private" in p or "galler" in p]
    assert b"private/" not in found.get("versions/v000001/croissant.json")


def test_the_card_has_a_table_of_leakage(found: MemoryStore) -> None:
    """The card states galleries with licence and lawful basis, and a row per comparison."""
    card = found.get("versions/v000001/README.md").decode()
    assert "people (12 faces of 4 people" in card
    assert "lawful basis nobody of it is a person" in card
    assert "| auditor | templates to centroids |" in card


def test_verification_knows_what_is_private(found: MemoryStore) -> None:
    """A lost block, altered pairs and a torn note are each named; garbage collection would touch none of it."""
    assert not verify(found, Segments(), JpegCodec(), deep=True)["problems"]
    for path, damage in (
        (next(p for p in found.list("private/galleries/people") if "judge" in p), None),
        (found.list("private/leakage/")[0], b"[]"),
        (next(p for p in found.list("private/galleries/people") if p.endswith(".json")), b"{"),
    ):
        store = MemoryStore()
        for p in found.list(""):
            if p != path:
                store.put(p, found.get(p))
        if damage is not None:
            store.put(path, damage)
        problems = verify(store, Segments(), JpegCodec(), deep=False)["problems"]
        assert [str(p).split(":")[0] for p in problems] == [path]


class Breaking:
    """A store that fails at its n-th write, once."""

    def __init__(self, inner: MemoryStore, at: int) -> None:
        """Wrap a store; `at` counts from 0."""
        self._inner, self._left = inner, at

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute, a writing verb with the counting around it."""
        value = getattr(self._inner, name)
        if name not in ("put", "put_if_absent", "put_file"):
            return value

        def counted(path: str, *args: Any) -> Any:
            if path.startswith(("private/", "segments/", "receipts/")):
                self._left -= 1
                if self._left == -1:
                    raise StoreError(f"{path}: broken on purpose")
            return value(path, *args)

        return counted


@pytest.mark.parametrize("at", [0, 3, 7, 9, 12, 30])
def test_a_run_that_breaks_and_resumes_has_the_same_bytes(
    found: MemoryStore, planted: tuple[Path, set[int]], at: int
) -> None:
    """Wherever preparing, enrolling or making breaks off, the dataset ends as if it had not; private files too."""
    recipe = screened(str(planted[0]), screening={"use": "sketch-screening"}, copies={"bits": 2}, keep_pairs=5)
    store = MemoryStore()
    with pytest.raises(StoreError, match="on purpose"):
        mint(recipe, Breaking(store, at))  # type: ignore[arg-type]
    mint(recipe, store)
    assert bytes_of(store) == bytes_of(found)
    private = {p: found.get(p) for p in found.list("private/")}
    assert {p: store.get(p) for p in store.list("private/")} == private


def test_a_changed_gallery_is_another_fingerprint_and_named(tmp_path: Path) -> None:
    """A picture more in the gallery refuses the place, naming the gallery's digest; nothing is written."""
    folder = tmp_path / "gallery" / "somebody"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for n in range(2):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{n}.png")
    recipe, store = screened(str(folder.parent)), MemoryStore()
    mint(recipe, store)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "2.png")
    before = store.list("")
    with pytest.raises(PlanMismatchError, match=r"leakage\.galleries\.0\.digest"):
        mint(recipe, store)
    assert [p for p in store.list("") if not p.startswith("runs/")] == [p for p in before if not p.startswith("runs/")]


def test_a_pinned_digest_is_held_against_the_source_and_spares_reading_it(tmp_path: Path) -> None:
    """The resolved recipe resumes without the source; another source under that digest is refused."""
    folder = tmp_path / "gallery" / "somebody"
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "0.png")
    recipe, store = screened(str(folder.parent)), MemoryStore()
    mint(recipe, store)
    resolved = with_gallery_digests(recipe, store)
    (folder / "0.png").unlink()
    assert mint(resolved, store).resumed
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "0.png")
    with pytest.raises(PlanMismatchError, match="'people' holds faces of digest"):
        mint(resolved, MemoryStore())


def test_where_a_gallery_lies_and_what_is_kept_are_not_fingerprinted() -> None:
    """Source, licence, basis and pairs kept change nothing; quantile, mode, screening and digests do."""

    def prints(**leakage: Any) -> str:
        return str(wiring.prints_of(screened(STRANGERS, **leakage)).fingerprint)

    base = prints()
    other = [{"name": "people", "source": "elsewhere", "licence": "other", "lawful_basis": "another"}]
    assert prints(galleries=other) == base
    assert prints(keep_pairs=3) == base
    changes: list[dict[str, Any]] = [
        {"quantile": 0.99}, {"mode": "observe"}, {"screening": {"use": "sketch-screening"}}, {"copies": {"bits": 1}},
        {"control_digest": "0" * 64}, {"galleries": [{**other[0], "digest": "0" * 64}]},
    ]  # fmt: skip
    assert len({base, *(prints(**change) for change in changes)}) == len(changes) + 1


def test_a_worker_has_the_fingerprint_of_its_driver() -> None:
    """The recipe that travels to workers holds the digests, so they read no source."""
    recipe = with_gallery_digests(screened(STRANGERS))
    again = parse_recipe(wiring.full_model(), recipe.model_dump(mode="json"), "worker")
    assert wiring.prints_of(again).fingerprint == wiring.prints_of(recipe).fingerprint


def test_a_plan_prepares_no_gallery() -> None:
    """What a run would do is told before galleries are prepared, in an empty place and where the digest is asked."""
    recipe = screened(STRANGERS)
    assert wiring.plan_run(recipe, None, 1)["identities"] == (0, 10)


def test_observing_refuses_nobody_and_reports(planted: tuple[Path, set[int]], clean: MemoryStore) -> None:
    """With `mode: observe` the same people are enrolled as without galleries, and the table says who is flagged."""
    store = MemoryStore()
    manifest = mint(screened(str(planted[0]), mode="observe", leak_filter=False), store).manifest
    assert REASON not in manifest.counts["candidates_refused_at_enrolment"]
    one, other = (Segments().read_members(s, "enrolled/g0.parquet") for s in (store, clean))
    assert [m.candidate for m in one] == [m.candidate for m in other]
    table = manifest.figures["leakage"]["found"]
    assert table["judge"]["compared"]["templates to centroids"]["flagged"] >= len(planted[1])
    assert table["auditor"]["compared"]["templates to centroids"]["flagged"] >= len(planted[1])


def test_a_gallery_of_vectors_is_compared_where_they_live(tmp_path: Path) -> None:
    """Embeddings in the judge's space screen under the judge; the auditor is said to see nothing of them."""
    judge = wiring.build_parts(sketches(), MemoryStore(), None, "test").judge
    vectors = np.random.default_rng(3).standard_normal((40, 16)).astype(np.float32)
    path = tmp_path / "people.npz"
    np.savez(path, vectors=vectors, labels=np.array([f"p{n // 2}" for n in range(40)]))
    (tmp_path / "people.npz.json").write_text(json.dumps({"space": judge.space.to_dict()}))
    found = mint(screened(str(path))).manifest.figures["leakage"]["found"]
    assert found["auditor"]["compared"] == "no gallery can be compared under it"
    assert found["judge"]["compared"]["images to centroids"]["n"] == 30
    with pytest.raises(UserError, match="nothing is a copy"):
        mint(screened(str(path), copies={"bits": 3}))
    with pytest.raises(UserError, match=r"leave leakage\.screening out"):
        mint(screened(str(path), screening={"use": "sketch-screening"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"galleries": [{"name": "x", "source": "y"}]}, "no licence and no lawful_basis"),
        ({"galleries": [{"name": "x", "source": "y", "licence": "CC0"}]}, "'x' has no lawful_basis"),
        ({"galleries": [{"name": "x", "source": "y", **MADE_UP}] * 2}, "two galleries are called 'x'"),
        ({"screening": {"use": "sketch-judge"}}, "is the judge"),
        ({"screening": {"use": "sketch-auditor"}}, "is the auditor"),
        ({"screening": {"use": "phantom-judge"}}, "aligned"),
        ({"control": None, "cos": 2}, "less than or equal to 1"),
        ({"cos": 0.5}, "`control` or `cos`"),
        ({"galleries": [], "copies": {"bits": 3}}, "no gallery to copy"),
        ({"galleries": []}, "leakage.control: there is no gallery"),
    ],
)
def test_recipes_that_cannot_screen_are_refused(change: dict[str, Any], said: str) -> None:
    """One line each, before anything is read."""
    with pytest.raises(RecipeError, match=said):
        screened(STRANGERS, **change)


def test_the_recogniser_that_conditions_the_generator_does_not_screen() -> None:
    """It would find what the generator was told, whoever that looks like."""
    recipe = wiring.load_recipe("tiny").model_dump(mode="json")
    gallery = {"name": "x", "source": "phantom://renders", **MADE_UP}
    raw = {**recipe, "leakage": {"galleries": [gallery], "screening": {"use": "phantom-conditioning"}}}
    with pytest.raises(RecipeError, match="conditions the generator"):
        wiring.check_parts(parse_recipe(wiring.full_model(), raw, "tiny"), "tiny")


def test_without_a_control_an_unsupported_rate_is_refused() -> None:
    """The sketch judge knows no 1:N figure for 1 % over 60 faces: nothing is enrolled on a guess."""
    with pytest.raises(CalibrationError, match=r"give leakage\.control .* or leakage\.cos"):
        mint(screened(STRANGERS, control=None, fpir=1e-3))
    assert mint(screened(STRANGERS, control=None, cos=0.97)).manifest.figures["leakage"]["found"]["judge"]


def test_the_control_is_not_the_gallery() -> None:
    """The same faces on both sides would hide everybody."""
    with pytest.raises(RecipeError, match="same faces as gallery 'people'"):
        mint(screened(CONTROL))


def test_who_leaks_when_a_round_closes_gives_way_to_everybody() -> None:
    """A leaking newcomer fails with its reason and knocks nobody out; leaking growth is taken back."""
    a, eye = Cell(("a",)), np.eye(4, dtype=np.float32)
    fresh = Harvest("make-g0-000000", (0, 1), np.array([2, 2]), np.array([2, 2]), eye[[0, 0]], grown=False)
    standing = close_round({0: a, 1: a}, {a: 2}, [fresh], {}, ([], np.empty((0, 4), np.float32)), 0.9, frozenset({0}))
    assert (standing.filled, standing.failed, standing.open_cells) == ((1,), {0: REASON}, {a: 1})
    grown = Harvest("make-g1-000000", (5,), np.array([2]), np.array([2]), eye[[1]], grown=True)
    standing = close_round({5: a}, {a: 1}, [grown], {}, ([5], eye[[2]]), 0.9, frozenset({5}))
    assert standing.withdrawn == {5}
    assert standing.short == {5: 2}


def test_a_changing_source_is_noticed_while_it_is_read() -> None:
    """Faces that are not those of the digest leave nothing prepared."""
    store = MemoryStore()
    session = wiring.session_on(screened(STRANGERS), store, Silent())
    other = wiring.session_on(screened("sketch://faces?identities=5&images=3&seed=1"), MemoryStore(), Silent())
    swapped = replace(session, galleries={**session.galleries, "people": other.galleries["people"]})
    with pytest.raises(PlanMismatchError, match="changed while it was read"):
        prepare(swapped)
    root = session.parts.screen.root("people")
    assert read_note(store, root) is None
    assert not store.list(f"{root}/")
    session.lease.release()
    generate(wiring.session_on(screened(STRANGERS), store, Silent()))


def test_packed_arrays_come_back_and_have_one_form() -> None:
    """Equal arrays give equal bytes, whenever; what is damaged is named."""
    arrays = {"embedding": np.eye(3, dtype=np.float32), "sound": np.array([True, False])}
    data = pack(arrays)
    assert data == pack({k: v.copy() for k, v in arrays.items()})
    assert all(np.array_equal(v, arrays[k]) for k, v in unpack(data, "x").items())
    with pytest.raises(StoreError, match="block-0"):
        unpack(data[:40], "block-0")


def test_a_gallery_is_named_by_all_that_it_holds() -> None:
    """Another label, name, pixel or order gives another digest, and another folder."""
    source = wiring.session_on(screened(STRANGERS), MemoryStore(), Silent()).galleries["people"]
    held = list(source())

    def digest(faces: list[Any]) -> str:
        out = FacesDigest()
        for face in faces:
            out.add(face)
        return out.hex

    pixel = held[0].face_HWC.copy()
    pixel[0, 0, 0] ^= 1
    variants = [
        held, held[::-1], held[:-1], [replace(held[0], label="x"), *held[1:]], [replace(held[0], name="x"), *held[1:]],
        [replace(held[0], face_HWC=pixel), *held[1:]],
    ]  # fmt: skip
    assert len({digest(v) for v in variants}) == len(variants)
    assert gallery_root("people", digest(held)) != gallery_root("people", digest(held[:-1]))


def test_faces_without_an_embedding_are_counted_and_a_gallery_of_nothing_else_refused(tmp_path: Path) -> None:
    """A vector without length has no person; a gallery of such screens nobody, which is not done in silence."""
    judge = wiring.build_parts(sketches(), MemoryStore(), None, "test").judge
    vectors = np.random.default_rng(3).standard_normal((6, 16)).astype(np.float32)
    vectors[2] = 0
    path = tmp_path / "people.npz"
    (tmp_path / "people.npz.json").write_text(json.dumps({"space": judge.space.to_dict()}))
    np.savez(path, vectors=vectors, labels=np.array(list("abcdef")))
    galleries = mint(screened(str(path))).manifest.figures["leakage"]["galleries"]
    assert (galleries["people"]["faces"], galleries["people"]["unreadable"]) == (6, 1)
    np.savez(path, vectors=vectors * 0, labels=np.array(list("abcdef")))
    with pytest.raises(UserError, match="no face of the galleries can be embedded"):
        mint(screened(str(path)))


def test_a_screened_dataset_grows(planted: tuple[Path, set[int]]) -> None:
    """More people and more images each: the galleries stand, and thresholds for the larger templates are added."""
    store, source = MemoryStore(), str(planted[0])
    mint(screened(source), store)
    blocks = {p: store.get(p) for p in store.list("private/galleries/") if p.endswith(".npz")}
    smaller = screened(source)
    larger = smaller.identities.model_copy(update={"count": 12, "images_per_identity": 4})
    manifest = mint(smaller.model_copy(update={"identities": larger}), store).manifest
    assert (manifest.counts["identities"], manifest.counts["images"]) == (12, 48)
    assert {p: store.get(p) for p in store.list("private/galleries/") if p.endswith(".npz")} == blocks
    assert manifest.figures["leakage"]["found"]["judge"]["compared"]["templates to samples"]["n"] == 12
    assert not verify(store, Segments(), JpegCodec(), deep=True)["problems"]


def test_no_file_outside_private_says_where_a_gallery_lies(found: MemoryStore, planted: tuple[Path, set[int]]) -> None:
    """The stored recipe names galleries by digest alone, is enough to go on with, and says so where it is not."""
    place = str(planted[0])
    told = [p for p in found.list("") if not p.startswith("private/") and place.encode() in found.get(p)]
    assert told == []

    raw = read_step(found, 0)["recipe"]
    stored = parse_recipe(wiring.full_model(), raw, "g0.yaml")
    assert mint(stored, copy_of(found)).resumed
    bare = copy_of(found)
    for path in bare.list("private/"):
        bare.delete(path)
    with pytest.raises(UserError, match="restore private/ from a copy"):
        mint(stored, bare)
