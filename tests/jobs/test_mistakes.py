"""Mistakes that clumsy hands make: each is one line, says what was got and what to do, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs import recipe_file, wiring
from jobs.cli import app
from jobs.documents import _sheet_rows
from jobs.wiring.refiltering import changed_recipe
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import FacemintError, OutputError, RecipeError, StoreError, TargetNotReachedError, UserError
from pipeline.domain.manifest import segment_path
from pipeline.flow.versions import image_rows, read_manifest
from tests.recipes import sketch_recipe
from tests.worlds import Silent, mint, sketches

FACES = "sketch://faces?identities=30&images=3"
READER = "sketch-conditioning"
ABOUT: dict[str, Any] = {"licence": "CC0-1.0", "lawful_basis": "made-up people"}


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Return a folder of three people, one of whose pictures is a text file."""
    root = tmp_path / "crops of staff"
    for name in ("ada", "bea", "cid"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), (40 * number, 90, 60)).save(root / name / f"{number}.png")
    (root / "ada" / "x.jpg").write_text("no picture")
    return root


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leakage": {"control": FACES}}, r"leakage.control: there is no gallery to hold against; give leakage.gall"),
        ({"leakage": {"screening": {"use": "sketch-screening"}}}, r"leakage.screening: there is no gallery"),
        ({"leakage": {"cos": 0.4}}, r"leakage.cos: there is no gallery"),
        ({"filters": [{"use": "leakage"}]}, r"filters.0: leakage compares with galleries.*give leakage.galleries"),
        ({"twins": [{"use": "low-resolution", "share": 0.5, "px": 32}]}, r"twins.0.px: got 32.*give less than 32"),
    ],
)
def test_what_could_do_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    """Screening without a gallery, and a twin that loses no pixel, are refused before any work."""
    with pytest.raises(RecipeError, match=message):
        sketches(**changes)


def test_a_cone_that_no_separation_allows_is_not_advised() -> None:
    """A cosine so low that vectors would have to point away from each other has one way out, not two."""
    with pytest.raises(RecipeError) as caught:
        sketches(conditions={"vector_cos": {"use": "uniform", "low": 0.5, "high": 1.0}})
    assert "or separate the vectors" not in str(caught.value)


def test_text_that_yaml_reads_otherwise_is_told_to_be_quoted() -> None:
    """An address with a question mark inside braces is no YAML; the message says to quote it."""
    with pytest.raises(RecipeError, match=r"not valid YAML; .* in quotes"):
        recipe_file.override({}, "leakage.galleries=[{source: sketch://faces?identities=3}]")


def test_a_key_given_twice_is_refused_on_the_command_line_too() -> None:
    """A share that stands twice would silently be the last one."""
    with pytest.raises(RecipeError, match=r"--set balance.shares: line 1: key 'a/b' is given twice; keep one"):
        recipe_file.override({}, "balance.shares={a/b: 0.5, a/b: 1.0}")


def test_candidates_that_are_used_up_are_counted_once(tmp_path: Path) -> None:
    """A sampler of files that runs out says how many it had, without a second figure beside it."""
    path = tmp_path / "v.safetensors"
    wiring.fit_vectors("sketch://faces?identities=10&images=3", READER, str(path), **ABOUT, made_up=True)
    sampler = {"use": "files", "path": str(path)}
    with pytest.raises(
        TargetNotReachedError, match=r"^after all 10 candidates that the sampler has \d of 4 cells are short"
    ):
        mint(sketches(identities={**sketch_recipe()["identities"], "sampler": sampler}), MemoryStore())


def test_few_rounds_are_said_in_the_singular() -> None:
    """One round is one round."""
    enrol = {**sketch_recipe()["enrol"], "rounds": 1, "separation": {"cos": 0.3}}
    filters = [{"use": "own-template", "fmr": 1e-2}]
    with pytest.raises(TargetNotReachedError, match=r"^after 1 enrolment round and \d+ candidates "):
        mint(sketches(enrol=enrol, filters=filters), MemoryStore())


@pytest.mark.parametrize("option", ["licence", "lawful_basis"])
@pytest.mark.parametrize("verb", ["fit_bank", "fit_vectors"])
def test_a_file_of_people_says_its_licence_and_lawful_basis(tmp_path: Path, verb: str, option: str) -> None:
    """Neither may be empty."""
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')}: got ' '"):
        getattr(wiring, verb)(FACES, READER, str(tmp_path / "b.safetensors"), **{**ABOUT, option: " "})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["fit_bank", "fit_vectors"])
def test_a_folder_is_no_file_to_write(tmp_path: Path, verb: str) -> None:
    """A folder of the name is refused before anything is embedded."""
    (tmp_path / "b.safetensors").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        getattr(wiring, verb)(FACES, READER, str(tmp_path / "b.safetensors"), **ABOUT)


def test_cells_of_other_people_are_refused(tmp_path: Path) -> None:
    """A table whose labels are none of the source's would silently fit no cell."""
    table = tmp_path / "cells.csv"
    table.write_text("label,cell\nsomebody,a\n")
    with pytest.raises(UserError, match=r"gives a cell to nobody in .* such as 's000000'; write labels as"):
        wiring.fit_bank(FACES, READER, str(tmp_path / "b.safetensors"), **ABOUT, cells=str(table))


def test_vectors_are_not_shown_as_a_bank(tmp_path: Path) -> None:
    """The message says what the file is, and where a recipe names it."""
    path = str(tmp_path / "v.safetensors")
    wiring.fit_vectors(FACES, READER, path, **ABOUT, made_up=True)
    with pytest.raises(UserError, match=r"holds vectors of individuals .* identities.sampler: \{use: files"):
        wiring.bank_facts(path)


def test_unreadable_pictures_may_be_left_out_of_vectors(tmp_path: Path, people: Path) -> None:
    """Without the option the file is named with both ways out; with it, it is counted."""
    path = str(tmp_path / "v.safetensors")
    with pytest.raises(UserError, match=r"x\.jpg: .*remove the file, or pass --skip-unreadable$"):
        wiring.fit_vectors(str(people), READER, path, **ABOUT)
    assert wiring.fit_vectors(str(people), READER, path, **ABOUT, skip_unreadable=True)["unreadable"] == 1


def test_a_gallery_is_not_advised_an_option_that_is_not_there(people: Path) -> None:
    """`generate` has no --skip-unreadable, so the advice is to remove the file."""
    gallery = {"name": "staff", "source": str(people), "licence": "internal", "lawful_basis": "consent"}
    with pytest.raises(UserError, match=r"x\.jpg: .*; remove the file$"):
        mint(sketches(leakage={"galleries": [gallery], "cos": 0.9}), MemoryStore())


def test_where_faces_lay_is_not_in_what_is_written(tmp_path: Path, people: Path) -> None:
    """A file of vectors, whose source every card repeats, names the last part of a local path alone."""
    path = tmp_path / "v.safetensors"
    facts = wiring.fit_vectors(str(people), READER, str(path), **ABOUT, skip_unreadable=True)
    assert facts["source"] == "crops of staff"
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": "s3://bucket/c.json"}, "--out s3://bucket/c.json: is no file of this machine; name one"),
        ({"overrides": ["nope=7"]}, r"--set nope=7: .*; options of sketch-judge: batch, calibration"),
        ({"template_sizes": [3]}, r"template size 3 needs .* got 0; give more images of each, or leave that size out"),
    ],
)
def test_calibrating_wrongly_says_the_way_out(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """Each message ends with what to do, and no file is left."""
    asked = {"out": str(tmp_path / "c.json"), "template_sizes": [], **arguments}
    with pytest.raises(FacemintError, match=message):
        wiring.calibrate_recogniser("sketch-judge", FACES, **asked)
    assert not list(tmp_path.iterdir())


def test_filters_of_a_whole_recipe_are_no_list(tmp_path: Path) -> None:
    """A file that holds a mapping is refused with the form that is read."""
    store = MemoryStore()
    mint(sketches(), store)
    file = tmp_path / "f.yaml"
    file.write_text(json.dumps(sketch_recipe()))
    with pytest.raises(RecipeError, match=r"--filters .*holds no list; write `- \{use: ...\}`"):
        changed_recipe(store, [], str(file))


@pytest.mark.parametrize(
    "words",
    [
        ["measure", "--add", "lighting"],
        ["refilter"],
        ["refilter", "--dry-run"],
        ["erase", "--identity", "1", "--yes"],
        ["split", "--name", "main", "--parts", "a=0.5,b=0.5"],
    ],
)
def test_a_mistyped_place_is_not_created(words: list[str], tmp_path: Path) -> None:
    """A verb that changes a dataset says that there is none, and leaves no folder where it was looked for."""
    place = tmp_path / "mistyped"
    with pytest.raises(OutputError, match="no dataset here"):
        app([words[0], str(place), *words[1:]], standalone_mode=False)
    assert not place.exists()


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_lost_image_is_no_traceback_while_documents_are_drawn(damage: str) -> None:
    """Where a contact sheet is to be drawn again and an image's file is gone or cut, one line says which."""
    store = MemoryStore()
    mint(sketches(), store)
    row = image_rows(Segments(), store, read_manifest(store, "v000001"))[0]
    path = segment_path(row.segment, "tar")
    parts = wiring.session_on(sketches(), store, Silent()).parts
    if damage == "gone":
        store.delete(path)
    else:
        store.put(path, b"\0" * len(store.get(path)))
    with pytest.raises(StoreError, match=row.segment):
        _sheet_rows(store, parts, [row])
