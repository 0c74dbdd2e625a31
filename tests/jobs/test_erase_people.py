"""`facemint erase` on photographs: by the name that a source has, and what is said of pictures that stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import FacemintError
from pipeline.flow.versions import published_rows, read_manifest
from tests.crawls import crawl, crawl_recipe, crawled, gather
from tests.worlds import mint, sketches

NAME = "p01-Zoë"
COMING = "Photographs of them that sources bring later would come back as somebody new"
STAYING = "Other images of the same people stay"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of four people with three photographs each; one is called by a name with an accent."""
    home = tmp_path_factory.mktemp("people")
    root = crawl(home / "crawl", {"p00": range(3), NAME: range(3), "p02": range(3), "p03": range(3)})
    gather(crawled(root), LocalStore(home / "set"))
    return home / "set"


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "set"))


def erase(dataset: Path, *arguments: str) -> str:
    """Run the command; return what it prints, on one line."""
    done = CliRunner().invoke(app, ["erase", str(dataset), *arguments])
    assert done.exit_code == 0, done.exception
    return " ".join(done.stdout.split())


def row_of(dataset: Path, place: int = 0) -> Any:
    """Return a row of the first version's index."""
    store = LocalStore(dataset)
    return published_rows(Segments(), store, read_manifest(store, "v000001"))[place]


# the name as it was typed, and with the accent as a letter of its own
@pytest.mark.parametrize("name", [NAME, "p01-Zoe\N{COMBINING DIAERESIS}"])
def test_a_person_is_erased_by_the_name_that_the_source_has(dataset: Path, name: str) -> None:
    """All that lies under a label goes, however its letters are put together, and the name is found nowhere."""
    facts = json.loads(erase(dataset, "--label", name, "--json"))
    assert facts["images_by_version"] == {"v000001": 3}
    assert facts["identities_left"] == 3
    erase(dataset, "--label", name, "--yes")
    assert read_manifest(LocalStore(dataset), "v000002").counts["identities"] == 3
    assert [p for p in dataset.rglob("*") if p.is_file() and NAME.encode() in p.read_bytes()] == []


def test_of_a_person_it_is_said_that_others_may_come(dataset: Path) -> None:
    """Before and after, one line says that photographs of them that come later are taken for somebody new."""
    who = str(row_of(dataset).identity)
    for said in (erase(dataset, "--identity", who), erase(dataset, "--identity", who, "--yes")):
        assert COMING in said
        assert "keep them out of the sources" in said
        assert STAYING not in said


def test_of_an_image_it_is_said_that_others_stay(dataset: Path) -> None:
    """Before and after, one line says how many other images of that person stay, and how all of them go."""
    row = row_of(dataset, 4)
    for said in (erase(dataset, "--image", row.key), erase(dataset, "--image", row.key, "--yes")):
        assert f"{STAYING}: identity {row.identity} (2 images); --identity erases all of somebody." in said
        assert COMING not in said


def test_of_people_who_were_made_no_photographs_come(tmp_path: Path) -> None:
    """An erasure of somebody who is nobody says nothing of photographs, and has no names to go by."""
    store = LocalStore(tmp_path / "set")
    mint(sketches(exports=[]), store)
    row = row_of(tmp_path / "set")
    said = erase(tmp_path / "set", "--identity", str(row.identity))
    assert COMING not in said
    assert STAYING not in said
    assert f"{STAYING}: identity {row.identity} (2 images)" in erase(tmp_path / "set", "--image", row.key)
    done = CliRunner().invoke(app, ["erase", str(tmp_path / "set"), "--label", "p01"])
    assert isinstance(done.exception, FacemintError)
    assert "--label p01: images were made here" in str(done.exception)


def test_a_name_that_nobody_has_is_said(whole: Path) -> None:
    """A label that no source knows erases nothing, and the message says what to give."""
    done = CliRunner().invoke(app, ["erase", str(whole), "--label", "p0", "--yes"])
    assert isinstance(done.exception, FacemintError)
    assert done.exception.exit_status == 2
    assert "--label p0: no source has an image under this name" in str(done.exception)


def test_curating_again_after_an_erasure_tells_what_is_there(whole: Path, dataset: Path, tmp_path: Path) -> None:
    """A version that was erased from is told of like any other: nothing new, and what became of every input."""
    erase(dataset, "--label", NAME, "--yes")
    recipe = tmp_path / "crawl.yaml"
    recipe.write_text(yaml.safe_dump(crawl_recipe(whole.parent / "crawl")))
    done = CliRunner().invoke(app, ["curate", str(recipe), "--out", str(dataset)])
    assert done.exit_code == 0, done.exception
    said = " ".join(done.stdout.split())
    assert "its sources hold nothing new" in said
    assert "3 with 9 images" in said
    assert "cleaned out: erased" in said
    assert read_manifest(LocalStore(dataset), "v000002").counts["images_ai_made"] == 0
