"""Datasets of real people: what is published, what stays under `private/`, and what a copy without it still tells."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import examine
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import UserError
from pipeline.domain.privacy import PRIVATE, REVIEW, is_personal
from pipeline.flow.commit import enrolled_path, enrolled_paths, receipts
from pipeline.flow.exporting import StoredFacts
from pipeline.flow.orphans import find_orphans
from pipeline.flow.verify import Verified, verify
from pipeline.flow.versions import published_rows, read_manifest
from tests.flow.private_world import CLEAN, curated, draw, recipe_of
from tests.worlds import copy_of

IMAGES = 28
"""Four of each person of the largest balanced choice."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures of ten people."""
    home = tmp_path_factory.mktemp("people") / "photos"
    draw(home, range(10))
    return home


@pytest.fixture(scope="module")
def made(folder: Path) -> MemoryStore:
    """Return what was curated of it."""
    store = MemoryStore()
    curated(recipe_of(folder), store)
    return store


@pytest.fixture
def store(made: MemoryStore) -> MemoryStore:
    """Return a copy of it that may be changed."""
    return copy_of(made)


def checked(store: MemoryStore, *, deep: bool) -> Verified:
    """Return what verification finds."""
    return verify(store, Segments(), JpegCodec(), deep=deep)


def bare(store: MemoryStore) -> MemoryStore:
    """Return the dataset as it is published: without `private/`."""
    for path in store.list(PRIVATE):
        store.delete(path)
    return store


def test_manifest_and_digest_leave_out_what_is_private(store: MemoryStore) -> None:
    """A version stands on tars and public tables; the private ones are named by receipts alone."""
    manifest = read_manifest(store, "v000001")
    assert not [f.path for f in manifest.files if f.path.startswith(PRIVATE)]
    named = {f.path for r in receipts(store).values() for f in r.files if f.path.startswith(PRIVATE)}
    assert {p.split("/")[1] for p in named} >= {"segments", "audits", "enrolled", "sources", "features", "cleaned"}
    assert named == {p for p in store.list(PRIVATE) if p in named or not p.startswith(REVIEW)}
    assert enrolled_paths(store, 1) == [enrolled_path(0, private=True)]


def test_nothing_published_labels_a_person(store: MemoryStore) -> None:
    """Index, tables and side-cars hold no cell and no attribute, and no vector lies outside `private/`."""
    assert {r.cell for r in published_rows(Segments(), store, read_manifest(store, "v000001"))} == {"all"}
    members = Segments().read_members(store, enrolled_path(0, private=True))
    assert len({str(m.cell) for m in members}) > 1
    for path in store.list("segments/make"):
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(store.get(path)))
            assert "embedding" not in table.column_names
            assert not [k for row in table["measures"].to_pylist() for k, _ in row if is_personal(k)]
        else:
            assert b"shade=" not in store.get(path)


@pytest.mark.parametrize(
    ("measure", "personal"),
    [("apparent_age_years_sd", True), ("est_skin_tone_group=dark", True), ("hat_p", True), ("yaw_deg", False),
     ("glasses_p", False), ("occlusion_mouth", False)],
)  # fmt: skip
def test_what_a_person_looks_like_is_personal(measure: str, personal: bool) -> None:
    """Age, tone and what is worn on the head (it can tell a faith) are personal; pose and coverings are not."""
    assert is_personal(measure) is personal


def test_attributes_are_published_with_a_reason(folder: Path) -> None:
    """A recipe that says why publishes cells and attributes; embeddings stay private all the same."""
    why = {"publish_attributes": "consent of everybody, form 12 of the study"}
    store = MemoryStore()
    curated(recipe_of(folder, curate={"clean": CLEAN, "rows": 8, "buckets": 3, **why}, exports=[]), store)
    rows = published_rows(Segments(), store, read_manifest(store, "v000001"))
    assert len({r.cell for r in rows}) > 1
    segment = rows[0].segment
    assert any(is_personal(k) for k in Segments().read_published(store, segment, ["measures"])["measures"][0])
    with pytest.raises(ValueError, match="no column embedding"):
        Segments().read_published(store, segment, ["embedding"])


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_dataset_of_people_is_sound(deep: bool, store: MemoryStore) -> None:
    """Verification names every private file, finds nothing wrong, and says of none that it was not looked for."""
    found = checked(store, deep=deep)
    assert not found.problems
    assert found.private == 0
    assert found.images == (IMAGES if deep else 0)


@pytest.mark.parametrize("deep", [False, True])
def test_a_publication_is_checked_without_its_private_files(deep: bool, store: MemoryStore) -> None:
    """Of a copy without `private/` verification says how much was not looked for, and checks the rest, images too."""
    count = len({f.path for r in receipts(store).values() for f in r.files if f.path.startswith(PRIVATE)})
    facts = examine.verify(bare(store), Segments(), JpegCodec(), deep=deep)
    assert facts["problems"] == []
    assert facts["private_absent"] == count
    assert facts["decoded"] == (IMAGES if deep else 0)
    tar = next(p for p in store.list("segments/") if p.endswith(".tar"))
    store.put(tar, store.get(tar)[:-1] + b"x" + (b"" if deep else b"x"))
    assert [p.path for p in checked(store, deep=deep).problems] == [tar]


@pytest.mark.parametrize("lost", ["segments", "audits", "enrolled", "sources", "features", "cleaned", "between"])
@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_one_lost_private_file_is_a_problem_as_any_other(lost: str, harm: str, store: MemoryStore) -> None:
    """Where other private files are there, one that is missing or altered is named, with the command that mends it."""
    path = store.list(f"{PRIVATE}{lost}/")[0]
    data = store.get(path)
    store.delete(path) if harm == "missing" else store.put(path, data[:-1] + bytes([data[-1] ^ 1]))
    (problem,) = (p for p in checked(store, deep=True).problems if p.path == path)
    assert problem.found.startswith(harm)
    assert ("restore it" if lost == "sources" else "run the same curate command again") in problem.remedy


def test_a_lost_private_table_is_made_again(folder: Path, store: MemoryStore) -> None:
    """A run over a dataset whose private table is gone works its unit again, to the same bytes, and nothing else."""
    before = {p: store.get(p) for p in store.list("") if p.startswith((PRIVATE, "segments/", "versions/"))}
    store.delete(next(p for p in before if p.startswith("private/segments/")))
    curated(recipe_of(folder), store)
    assert {p: store.get(p) for p in before} == before


def test_private_files_that_nothing_names_are_orphans(store: MemoryStore) -> None:
    """A private table that a killed unit left is found and no other file; galleries and suppressions never are."""
    kept = ("private/suppressed/000001.json", "private/galleries/x", "private/review/g0.csv")
    for path in ("private/segments/make-g0-000099.parquet", *kept):
        store.put(path, b"{}")
    found = find_orphans(store, _Later(), grace_s=0.0)
    assert [o.stored.path for o in found.files if o.stored.path.startswith(PRIVATE)] == [
        "private/segments/make-g0-000099.parquet"
    ]


class _Later:
    def now_s(self) -> float:
        return 1e12

    def monotonic_s(self) -> float:
        return 1e12


def test_exports_get_no_attributes_and_no_embeddings_of_people(store: MemoryStore) -> None:
    """What exporters are told of an image says nothing of the person, from a whole dataset as from a publication."""
    segment = published_rows(Segments(), store, read_manifest(store, "v000001"))[0].segment
    facts = StoredFacts(store, Segments())
    told = facts.numbers(segment)
    assert all("yaw_deg" in measures and "own_template_cos" in measures for _, measures in told.values())
    assert not [name for _, measures in told.values() for name in measures if is_personal(name)]
    with pytest.raises(UserError, match="embeddings of real people stay under private/"):
        facts.embeddings(segment, "judge")
    assert StoredFacts(bare(store), Segments()).numbers(segment) == told
    with pytest.raises(UserError, match="this copy has no private/"):
        StoredFacts(store, Segments()).embeddings(segment, "judge")


def test_templates_are_found_where_they_lie(store: MemoryStore) -> None:
    """Workers and reports find who is enrolled under `private/` as they find minted identities."""
    identities, space = Segments().read_identities(store, enrolled_paths(store, 1)[0])
    assert len(identities) == read_manifest(store, "v000001").counts["identities"]
    assert np.isfinite(np.stack([i.template_E for i in identities])).all()
    assert space.name == "sketch-judge"


def test_balance_is_told_although_nobody_is_labelled(store: MemoryStore) -> None:
    """Figures by cell are those of the true cells, as aggregates: people and images of each, none under `all`."""
    members = Segments().read_members(store, enrolled_path(0, private=True))
    rows = published_rows(Segments(), store, read_manifest(store, "v000001"))
    there = {r.identity for r in rows}
    cells = Counter(str(m.cell) for m in members if m.ordinal in there)
    cell_of = {m.ordinal: str(m.cell) for m in members}
    figures = read_manifest(store, "v000001").figures
    assert {row["cell"]: row["reached"] for row in figures["balance"]["cells"]} == cells
    assert {c: f["published"] for c, f in figures["funnel"].items()} == Counter(cell_of[r.identity] for r in rows)
