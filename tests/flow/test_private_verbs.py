"""Every verb that reads a dataset, on one of real people: it works as on a minted one, or says in one line why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.records import Cell
from pipeline.flow.versions import published_rows, read_manifest
from tests.command_line import facts_of, refused
from tests.flow.private_world import curated, draw, recipe_of

UNTRUE = ("do not exist", "synthetic", "are nobody", "was generated", "image generated", "made-up", "A generator")
"""Words that no document of photographs may use of the people on them."""


OPTIONS: dict[str, Any] = {
    "exports": [{"use": "hf"}, {"use": "recordio"}],
    "measures": [{"use": "sketch"}, {"use": "copy-hash"}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset in a folder, curated of twelve people, with exports of two kinds."""
    home = tmp_path_factory.mktemp("verbs")
    draw(home / "photos", range(12))
    curated(recipe_of(home / "photos", **OPTIONS), LocalStore(home / "set"))
    return home / "set"


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "set"))


def bare(place: Path) -> Path:
    """Return the dataset as it is published."""
    store = LocalStore(place)
    for path in store.list("private/"):
        store.delete(path)
    return place


def test_documents_speak_of_real_people(place: Path, tmp_path: Path) -> None:
    """Card, report, Croissant and cards of exports say that these are real people, and nothing untrue of them."""
    facts_of("report", place, "--out", tmp_path / "report.html")
    store = LocalStore(place)
    written = {p: store.get(p).decode() for p in store.list("") if p.endswith((".md", ".html", "croissant.json"))}
    written = {p: text for p, text in written.items() if not p.startswith("private/")}
    written["report"] = (tmp_path / "report.html").read_text()
    assert {p.partition("/")[0] for p in written} >= {"versions", "exports", "report"}
    for path, text in written.items():
        assert not [word for word in UNTRUE if word in text], path
        if not path.endswith("croissant.json") or "exports" not in path:
            assert "real people" in text, path
    card = written["versions/v000001/README.md"]
    assert "| 1 | CC BY 4.0 | consent |" in card
    assert "48\nlisted" in card or "48 listed" in card.replace("\n", " ")


def test_refilter_judges_photographs_again(place: Path) -> None:
    """Other filters give another version of stored images, told in the account of inputs; no source is asked."""
    store = LocalStore(place)
    before = read_manifest(store, "v000001").counts
    segments = {r.segment for r in published_rows(Segments(), store, read_manifest(store, "v000001"))}
    held = [m for name in sorted(segments) for m in Segments().read_columns(store, name, ["measures"])["measures"]]
    least = sorted(m["own_template_cos"] for m in held)[len(held) // 3]
    filters = f"filters=[{{use: range, measure: own_template_cos, min: {least!r}}}]"
    told = facts_of("refilter", place, "--set", filters, "--dry-run")
    assert told["slots_open"] == 0
    assert told["open_cells"] == {}
    facts_of("refilter", place, "--set", filters)
    after = read_manifest(store, "v000002").counts
    assert 0 < after["images"] < before["images"]
    assert after["inputs"]["listed"] == before["inputs"]["listed"]
    gone = before["inputs"]["kept"] - after["inputs"]["kept"]
    assert after["inputs"]["reasons"]["filter"]["own_template_cos_too_low"] == gone > 0
    assert {r.cell for r in published_rows(Segments(), store, read_manifest(store, "v000002"))} == {"all"}
    assert facts_of("verify", place, "--deep")["problems"] == []
    assert "photographs are not made" in refused("refilter", place, "--set", filters, "--make-missing")


def test_what_is_measured_later_is_private(place: Path) -> None:
    """An added measure and an added recogniser lie under `private/`, can be filtered by, and are in no export."""
    facts_of("measure", place, "--add", "lighting", "--set", "alignment=sketch-32")
    facts_of("measure", place, "--add", "sketch-screening")
    store = LocalStore(place)
    assert not store.list("measures/")
    assert len(store.list("private/measures/")) > 4
    facts_of("refilter", place, "--set", "filters=[{use: range, measure: luminance_mean, min: 0.0}]", "--dry-run")
    for name, folder in (("sketch-screening", "measures"), ("judge", "segments")):
        said = refused("export", place, "--to", "lmdb", "--set", f"features={name}", "--out", place.parent / name)
        assert f"embeddings of real people stay under private/ (private/{folder}/" in said


@pytest.mark.parametrize("kind", ["imagefolder", "lmdb", "webdataset"])
def test_a_publication_can_be_exported(place: Path, tmp_path: Path, kind: str) -> None:
    """Exports that hold images and labels need nothing that is private."""
    told = facts_of("export", bare(place), "--to", kind, "--out", tmp_path / "out")
    assert told["num_images"] == read_manifest(LocalStore(place), "v000001").counts["images"]


def test_a_photograph_is_proved_to_its_input(place: Path) -> None:
    """A proof leads from a published image to the number and digest of the input, and finds nothing broken."""
    store = LocalStore(place)
    key = published_rows(Segments(), store, read_manifest(store, "v000001"))[3].key
    told = facts_of("prove", place, key)
    assert told["ok"]
    (link,) = (link for link in told["links"] if link["name"].startswith("input in private/between/"))
    assert link["facts"]["row"] >= 0
    assert len(link["facts"]["source_sha256"]) == 64
    assert not [link for link in told["links"] if link["name"] == "random keys"]
    assert "this copy has no private/" in refused("prove", bare(place), key)


def test_what_a_publication_cannot_tell_is_refused_in_one_line(place: Path, tmp_path: Path) -> None:
    """Report and erasure of a copy without `private/` say so; its status and its verification do without."""
    bare(place)
    assert "this copy has no private/" in refused("report", place, "--out", tmp_path / "x.html")
    assert facts_of("verify", place)["private_absent"] > 10
    assert facts_of("status", place)["versions"][0]["images"] > 0


def test_sets_and_banks_of_real_people(place: Path, tmp_path: Path) -> None:
    """Splits, differences and banks work as on minted sets; a merge is refused, and so is calling people made up."""
    assert facts_of("split", place, "--name", "tt", "--parts", "train=0.5,test=0.5")
    assert facts_of("diff", f"{place}@v000001", f"{place}@v000001")["images"]["changed"] == 0
    said = ("--recogniser", "sketch-judge", "--licence", "CC BY 4.0", "--lawful-basis", "consent")
    assert facts_of("bank", "vectors", place, *said, "--out", tmp_path / "vectors.safetensors")["real_people"]
    assert "real people" in refused("bank", "vectors", place, *said, "--out", tmp_path / "x.safetensors", "--made-up")
    assert "holds photographs of real people" in refused("merge", place, place, "--out", tmp_path / "merged")


def test_a_bank_knows_the_cells_that_the_index_hides(place: Path) -> None:
    """Labels of a fit are the true cells of the people, from `private/`; of a publication there are none."""
    from jobs.wiring.banking import _cells
    from jobs.wiring.labelled import open_labelled

    source = open_labelled(str(place), alignment="sketch-32")
    told = _cells(str(place), None, source)
    assert told is not None
    store = LocalStore(place)
    (path,) = store.list("private/enrolled/")
    members = {str(m.ordinal): str(m.cell) for m in Segments().read_members(store, path)}
    assert told == {k: members[k] for k in told}
    assert all(Cell.parse(cell).values for cell in told.values())
    assert set((_cells(str(bare(place)), None, source) or {}).values()) == {""}


def test_a_refiltered_version_is_repaired(made: Path, place: Path) -> None:
    """What a version lacks that judged again is written anew, by curating again with its filters, to the same bytes."""
    store = LocalStore(place)
    filters = "[{use: range, measure: own_template_cos, min: 0.5}]"
    facts_of("refilter", place, "--set", f"filters={filters}")
    lost = ("versions/v000002/README.md", store.list("private/audits/")[0])
    before = [store.get(path) for path in lost]
    for path in lost:
        store.delete(path)
    recipe = recipe_of(made.parent / "photos", filters=yaml.safe_load(filters), **OPTIONS)
    assert not curated(recipe, store).resumed
    assert [store.get(path) for path in lost] == before
    assert facts_of("verify", place, "--deep")["problems"] == []


def test_a_folder_of_inputs_is_erased_by_its_path(place: Path) -> None:
    """`--source` takes a path, or a folder with `/` behind: whoever brought pictures need not know any number."""
    store = LocalStore(place)
    images = read_manifest(store, "v000001").counts["images"]
    told = facts_of("erase", place, "--source", "person-0003/", "--source", "person-0004/photo-0001.png")
    assert not told["erased"]
    done = facts_of("erase", place, "--source", "person-0003/", "--source", "person-0004/photo-0001.png", "--yes")
    # somebody of whom no picture is left leaves with their template
    there = {r.identity for r in published_rows(Segments(), store, read_manifest(store, "v000002"))}
    (path,) = store.list("private/enrolled/")
    assert {m.ordinal for m in Segments().read_members(store, path)} == there
    assert done["erasures"][0]["identities"] == 12 - 2 - len(there)
    assert images - 5 <= read_manifest(store, "v000002").counts["images"] < images
    assert not [p for p in store.list("") if b"person-0003" in store.get(p)]
    assert facts_of("verify", place, "--deep")["problems"] == []
    assert "no input lies there" in refused("erase", place, "--source", "person-0003/")


def test_a_signature_does_not_say_that_people_were_generated(place: Path, tmp_path: Path) -> None:
    """A version of photographs is signed as one that was captured; its images are not signed as made by us."""
    pytest.importorskip("c2pa", reason="the extra facemint[c2pa] is not installed")
    from pipeline.adapters.signing import CAPTURED, DATA
    from tests.jobs.test_sign import authority

    pair = authority()
    pems = {name: tmp_path / f"{name}.pem" for name in ("chain", "key")}
    for name, path in pems.items():
        path.write_bytes(getattr(pair, name))
    by = ("--cert", pems["chain"], "--key", pems["key"])
    facts_of("sign", place, *by)
    sidecar = LocalStore(place).get("versions/v000001/manifest.c2pa")
    assert CAPTURED.encode() in sidecar
    assert DATA.encode() not in sidecar
    facts_of("sign", place, "--check")
    facts_of("export", place, "--to", "imagefolder", "--out", tmp_path / "images")
    said = refused("sign", "--images", tmp_path / "images", "--out", tmp_path / "signed", *by)
    assert "an export of photographs of real people" in said
