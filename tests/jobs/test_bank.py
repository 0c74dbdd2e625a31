"""`facemint bank`: from labelled faces to a file, from the file to a recipe, and what is refused on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import show_bank, wiring
from jobs.wiring.banking import notes_of
from jobs.wiring.calibrating import recogniser_node
from jobs.wiring.parts import build
from pipeline.adapters.banks import read_bank
from pipeline.adapters.samplers.vector_files import read_vectors
from pipeline.adapters.sketch import SHAPES
from pipeline.adapters.stores import LocalStore
from pipeline.domain.banking import fit
from pipeline.domain.errors import FacemintError, OutputError, RecipeError, SpaceMismatchError, UserError
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches

FACES = "sketch://faces?identities=120&images=3"
READER = "sketch-conditioning"
ABOUT = {"licence": "CC0-1.0", "lawful_basis": "made-up people"}


def fitted(folder: Path, source: str = FACES, reader: str = READER, name: str = "b", **options: Any) -> dict[str, Any]:
    """Fit a bank of sketches; return what it says of itself."""
    return wiring.fit_bank(source, reader, str(folder / f"{name}.safetensors"), **{**ABOUT, **options})


def drawn_from(path: str, sampler: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return recipe keys that draw from a bank file."""
    asked = {**sketch_recipe()["identities"], "bank": {"use": "file", "path": path}}
    return {"identities": {**asked, "sampler": sampler or {"use": "gaussian"}}, **changes}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a published dataset of sketches with 21 identities in each of two cells."""
    store = LocalStore(tmp_path_factory.mktemp("sets"))
    asked = {**sketch_recipe()["identities"], "count": 42, "images_per_identity": 2}
    enrol = {**sketch_recipe()["enrol"], "separation": {"cos": 0.999}, "reserve": 0, "unit_candidates": 60}
    whole = {"unit": {"identities": 42, "window": 8}, "balance": {"by": ["shape"]}}
    mint(sketches(identities=asked, enrol=enrol, filters=[], exports=[], **whole), store)
    return store.uri


def test_a_dataset_of_ours_becomes_a_bank_with_its_cells(dataset: str, tmp_path: Path) -> None:
    """Identities, images and cells are those of the index, and what is drawn towards a cell comes out as it."""
    facts = fitted(tmp_path, dataset)
    assert facts["identities"] == 42
    assert facts["images"] == 84
    assert {c: how["identities"] for c, how in facts["cells"].items()} == {"all": 42, "round": 21, "square": 21}
    gaussians, _, _ = read_bank(Path(facts["path"]))
    assert gaussians["round"][0][0] < -0.1
    assert gaussians["square"][0][0] > 0.1
    published = mint(sketches(**drawn_from(facts["path"]), balance={"by": ["shape"]}))
    assert published.manifest.models["bank"]["sha256"] == facts["sha256"]
    assert [c["cell"] for c in published.manifest.figures["balance"]["cells"]] == list(SHAPES)


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    """A bank is byte-repeatable; writing it again changes nothing, and another bank does not replace it."""
    first = fitted(tmp_path)
    (tmp_path / "again").mkdir()
    assert fitted(tmp_path / "again")["sha256"] == first["sha256"]
    assert fitted(tmp_path)["sha256"] == first["sha256"]
    before = Path(first["path"]).read_bytes()
    with pytest.raises(OutputError, match="another file stands there"):
        fitted(tmp_path, licence="MIT")
    assert Path(first["path"]).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "b.safetensors"]


def test_a_bank_holds_nobody(tmp_path: Path) -> None:
    """Neither names nor labels nor vectors of identities are in the file; the vectors command writes those."""
    facts = fitted(tmp_path)
    data = Path(facts["path"]).read_bytes()
    people = wiring.fit_vectors(FACES, READER, str(tmp_path / "v.safetensors"), **ABOUT)
    rows = read_vectors(Path(people["path"])).rows_ND
    assert len(rows) == 120
    assert b"s000001" not in data
    assert not any(row.tobytes() in data or row.astype(np.float64).tobytes() in data for row in rows)


def test_cells_come_from_a_csv(tmp_path: Path) -> None:
    """Labels are put into cells; small ones are left to all, people without a cell count among everyone."""
    cells = ["round/dark"] * 60 + ["square/dark"] * 30 + ["rare/dark"] * 7
    table = tmp_path / "cells.csv"
    table.write_text("label,cell\n" + "".join(f"s{n:06d},{cell}\n" for n, cell in enumerate(cells)))
    facts = fitted(tmp_path, cells=str(table), least=25)
    assert set(facts["cells"]) == {"all", "round/dark", "square/dark"}
    assert facts["too_few"] == {"rare/dark": 7}
    assert facts["without_cell"] == 120 - 97
    assert facts["least_identities"] == 25
    assert any("too few identities" in note for note in facts["notes"])


def test_at_most_k_images_are_used(tmp_path: Path) -> None:
    """The file says how many images its means rest on."""
    facts = fitted(tmp_path, at_most=2)
    assert facts["images"] == 240
    assert facts["images_per_identity"] == {"least": 2, "mean": 2.0, "most": 2, "at_most": 2}
    assert facts["sha256"] != fitted(tmp_path, name="c")["sha256"]


def test_few_people_for_the_dimensions_are_said_to_be() -> None:
    """A covariance whose axes span little but its members comes with a warning about membership, others without."""
    wide = np.linalg.qr(np.random.Generator(np.random.Philox(2)).standard_normal((64, 64)))[0]
    assert "membership" in notes_of(fit(wide[:30]), 64)[0]
    narrow = np.random.Generator(np.random.Philox(2)).standard_normal((30, 8))
    assert notes_of(fit(narrow), 8) == []


def test_a_bank_under_a_closed_licence_stops_a_commercial_recipe(tmp_path: Path) -> None:
    """Only licences known to allow it do."""
    closed = fitted(tmp_path, licence="CC-BY-NC-4.0")
    free = fitted(tmp_path, name="free")
    sketches(**drawn_from(free["path"]), use={"commercial": True})
    with pytest.raises(RecipeError, match=r"use.commercial is true, but b is licensed CC-BY-NC-4.0"):
        sketches(**drawn_from(closed["path"]), use={"commercial": True})


def test_a_bank_of_another_space_never_reaches_the_generator(tmp_path: Path) -> None:
    """What the judge's vectors were fitted to is refused for a generator that another recogniser conditions."""
    with pytest.raises(SpaceMismatchError, match=r"identities.bank: got vectors of space 'sketch-judge'"):
        sketches(**drawn_from(fitted(tmp_path, reader="sketch-judge")["path"]))


def test_the_bank_is_fingerprinted_and_its_place_is_not(tmp_path: Path) -> None:
    """A copy elsewhere is the same bank; a bank of other people is another."""
    first = fitted(tmp_path)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(first["path"]).read_bytes())
    other = fitted(tmp_path, "sketch://faces?identities=120&images=3&seed=5", name="c")
    prints = [
        wiring.prints_of(sketches(**drawn_from(str(p)))).fingerprint for p in (first["path"], copy, other["path"])
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    "sampler",
    [{"use": "pca", "variance": 0.9}, {"use": "packed", "size": 32, "steps": 5}, {"use": "sphere"}],
    ids=lambda s: str(s["use"]),
)
def test_every_sampler_mints_from_a_bank_file(sampler: dict[str, Any], tmp_path: Path) -> None:
    """A whole mint with each sampler reaches its counts."""
    path = fitted(tmp_path)["path"]
    published = mint(sketches(**drawn_from(path, sampler, balance={})))
    assert published.manifest.counts["identities"] == 10


def test_reference_people_become_identities(tmp_path: Path) -> None:
    """One vector per labelled identity, with licence and lawful basis, is minted from; the run's models name it."""
    path = str(tmp_path / "v.safetensors")
    people = wiring.fit_vectors(FACES, READER, path, licence="agreement 7", lawful_basis="written consent")
    assert people["real_people"]
    space = {"use": "space", **people["space"]}
    asked = {**sketch_recipe()["identities"], "bank": space, "sampler": {"use": "files", "path": path}}
    recipe = sketches(identities=asked, balance={})
    models = mint(recipe).manifest.models
    assert models["sampler"]["sha256"] == people["sha256"]
    assert "written consent" in models["sampler"]["source"]
    with pytest.raises(RecipeError, match="licensed agreement 7"):
        sketches(identities=asked, balance={}, use={"commercial": True})


def test_a_population_is_asked_for_where_it_is_drawn_from() -> None:
    """A Gaussian over a bare space is refused when the recipe is read."""
    space = {"use": "space", **build("judge", recogniser_node(READER, ())).space.to_dict()}
    asked = {**sketch_recipe()["identities"], "bank": space}
    with pytest.raises(RecipeError, match=r"identities.sampler.use: gaussian draws from a population"):
        sketches(identities=asked)


WRONG: list[tuple[str, dict[str, Any], type[FacemintError], str]] = [
    ("b.safetensors", {"reader": "nobody"}, UserError, r"nobody: unknown recogniser; known: .*sketch-judge"),
    ("b.npz", {}, OutputError, r"--out .*b.npz: got .npz; give a local file that ends in .safetensors"),
    ("no/b.safetensors", {}, OutputError, r"there is no folder .*no; make it first"),
    ("b.safetensors", {"source": "sketch://faces?identities=19"}, UserError, r"19 identities in 16 dimensions"),
    ("b.safetensors", {"source": "nowhere"}, UserError, "nowhere"),
    ("b.safetensors", {"cells": "none.csv"}, UserError, r"--cells none.csv: cannot be read as CSV"),
    ("b.safetensors", {"least": 5}, UserError, "fewer than 20 would tell too much"),
]


@pytest.mark.parametrize(("out", "options", "kind", "message"), WRONG)
def test_what_cannot_be_fitted_is_refused(
    out: str, options: dict[str, Any], kind: type[FacemintError], message: str, tmp_path: Path
) -> None:
    """Unknown recognisers, places that cannot be written, sources that are too small: one line, and no file."""
    asked = {"source": FACES, "reader": READER, **options}
    source, reader = asked.pop("source"), asked.pop("reader")
    with pytest.raises(kind, match=message) as caught:
        wiring.fit_bank(source, reader, str(tmp_path / out), **ABOUT, **asked)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [("name,group\nx,y\n", "it needs `label` and `cell`"), ("label,cell\na,x\na,y\n", "line 3 puts 'a' into 'y'")],
)
def test_a_table_of_cells_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """Missing columns, and labels in two cells, are named."""
    table = tmp_path / "cells.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        fitted(tmp_path, cells=str(table))


def test_what_is_printed_says_what_the_bank_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables show cells, space, counts, licence and basis, of banks and of vectors."""
    facts = fitted(tmp_path)
    show_bank.print_bank(wiring.bank_facts(facts["path"]))
    said = capsys.readouterr().out
    for part in ("Bank b", "sketch-conditioning, 16 dimensions", "120 identities, 360 images", "CC0-1.0; commercial"):
        assert part in said
    show_bank.print_vectors(wiring.fit_vectors(FACES, READER, str(tmp_path / "v.safetensors"), **ABOUT))
    assert "real people: personal data" in capsys.readouterr().out


def test_the_command_line_fits_a_bank(tmp_path: Path) -> None:
    """`bank fit --json` writes the file and prints what `bank show` finds in it."""
    out = str(tmp_path / "b.safetensors")
    command = [sys.executable, "-m", "jobs.cli", "bank", "fit", FACES, "--recogniser", READER, "--out", out]
    command += ["--licence", "CC0-1.0", "--lawful-basis", "made-up people", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).items() <= wiring.bank_facts(out).items()


def test_a_file_that_is_no_bank_cannot_be_shown(tmp_path: Path) -> None:
    """A missing bank is one line that says how to make one."""
    with pytest.raises(UserError, match="no such file; make a bank with `facemint bank fit`"):
        wiring.bank_facts(str(tmp_path / "none.safetensors"))
