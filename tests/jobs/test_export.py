"""`facemint export`: options on the command line, what is printed, and mistakes in one line."""

from __future__ import annotations

import functools
import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import wiring
from jobs.cli import app
from jobs.components import COMPONENTS
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import FacemintError, OutputError, UserError
from pipeline.domain.splits import Part
from pipeline.flow.splits import Asked
from tests.command_line import printed
from tests.worlds import mint, sketches

PARTS = (Part("train", Fraction(1, 2)), Part("test", Fraction(1, 2)))


export = functools.partial(printed, "export")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a dataset with two versions and a split of the second."""
    out = str(tmp_path_factory.mktemp("datasets") / "sketches")
    mint(sketches(exports=[]), LocalStore(Path(out)))
    whole = sketches().identities.model_dump(mode="json") | {"count": 12}
    mint(sketches(exports=[], identities=whole), LocalStore(Path(out)))
    wiring.split_on(LocalStore(Path(out)), Asked("main", PARTS))
    return out


def test_numbers_that_trainers_ask_for(dataset: str, tmp_path: Path) -> None:
    """Place and kind are printed, and how many classes and images there are."""
    printed = export(dataset, "--to", "lmdb", "--out", str(tmp_path / "x"))
    assert printed.splitlines()[1:] == ["num_classes = 12", "num_image = 36"]
    assert printed.splitlines()[0].endswith(f"{tmp_path / 'x'}: lmdb")


def test_what_killed_runs_left_goes_after_a_day(dataset: str, tmp_path: Path) -> None:
    """A finished export removes old temporary files of its own folder; young ones may be another run's."""
    export(dataset, "--to", "recordio", "--out", str(tmp_path / "x"))
    old, young = tmp_path / "x" / ".tmp-old", tmp_path / "x" / ".tmp-young"
    for left in (old, young):
        left.write_bytes(b"half a file")
    os.utime(old, (0, 0))
    export(dataset, "--to", "recordio", "--out", str(tmp_path / "x"))

    assert not old.exists()
    assert young.exists()


def test_parts_leave_the_folder_above_them_alone(dataset: str, tmp_path: Path) -> None:
    """Where every part has a folder of its own, nothing beside these folders is touched."""
    other = tmp_path / "x" / "others" / ".tmp-old"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"somebody else's")
    os.utime(other, (0, 0))
    export(dataset, "--to", "recordio", "--split", "main", "--out", str(tmp_path / "x"))

    assert other.exists()


def test_options_reach_the_export(dataset: str, tmp_path: Path) -> None:
    """Words of their own and `--set` end in the manifest; `--json` prints it."""
    said = json.loads(
        export(
            dataset, "--to", "recordio", "--out", str(tmp_path / "x"), "--version", "v000001",
            "--max-per-identity", "2", "--image-px", "16", "--set", "legacy=true", "--set", "image_quality=80",
            "--json",
        )
    )  # fmt: skip
    wanted = {"layout": "legacy", "max_per_identity": 2, "image_px": 16, "image_quality": 80, "num_images": 20}
    assert {name: said[name] for name in wanted} == wanted
    assert said["source"]["version"] == "v000001"
    stored = json.loads((tmp_path / "x/manifest.json").read_text())
    assert said == {**stored, "uri": said["uri"]}
    assert (tmp_path / "x/property").read_text() == "10,16,16\n"


def test_a_split_is_printed_part_by_part(dataset: str, tmp_path: Path) -> None:
    """Every part has its folder and its numbers; one part alone needs no folder."""
    printed = export(dataset, "--to", "webdataset", "--out", str(tmp_path / "x"), "--split", "main")
    assert [line.rpartition("/")[2] for line in printed.splitlines()[::3]] == [
        "test: webdataset, part test of split main",
        "train: webdataset, part train of split main",
    ]
    said = json.loads(export(dataset, "--to", "webdataset", "--out", str(tmp_path / "x"), "--split", "main", "--json"))
    assert [part["part"] for part in said["parts"]] == ["test", "train"]
    assert sum(part["num_classes"] for part in said["parts"]) == 12
    (one,) = [part for part in said["parts"] if part["part"] == "test"]
    alone = json.loads(
        export(
            dataset, "--to", "webdataset", "--out", str(tmp_path / "y"), "--split", "main", "--part", "test", "--json"
        )
    )
    assert alone["digest"] == one["digest"]
    assert (tmp_path / "y/train-000000.tar").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--to", "rec"),
            "--to rec: unknown export; known: cross-pairs, hf, imagefolder, lmdb, pairs, recordio, webda",
        ),
        (
            ("--to", "recordio", "--set", "legasy=true"),
            "recordio has no option 'legasy'; its options: aligned, image_px, .*legacy",
        ),
        (("--to", "hf", "--set", "folder=x"), "hf has no option 'folder'; its options: aligned, class_names, "),
        (("--to", "hf", "--set", "use=lmdb"), "hf has no option 'use'"),
        (("--to", "hf", "--set", "shard_bytes"), "--set shard_bytes: got no `=`"),
        (
            ("--to", "hf", "--set", "shard_bytes=5"),
            "shard_bytes=5: input should be greater .*; options of hf: aligned, class_names",
        ),
        (("--to", "hf", "--max-per-identity", "0"), "max_per_identity=0: input should be greater than or equal to 1"),
        (("--to", "hf", "--part", "test"), "export to hf: part 'test' of no split"),
        (("--to", "hf", "--split", "other"), "no split 'other'; splits here: main"),
        (("--to", "hf", "--version", "v000009"), "no version v000009; versions here: v000001, v000002"),
        (("--to", "pairs"), "12 identities in 4 cells make 4 groups .* set folds=4 or fewer"),
    ],
)
def test_mistakes_are_one_line(dataset: str, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """What was got, what is allowed, what to do; nothing is written."""
    with pytest.raises(FacemintError, match=said) as caught:
        export(dataset, "--out", str(tmp_path / "x"), *arguments)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "x").rglob("*") if p.is_file()] if (tmp_path / "x").exists() else True


def test_a_dataset_is_not_written_into(dataset: str) -> None:
    """An export among a dataset's files would be strewn there."""
    with pytest.raises(OutputError, match="holds a dataset; name a place of its own"):
        export(dataset, "--to", "hf", "--out", dataset)


@pytest.mark.parametrize("kind", ["imagefolder", "hf"])
def test_other_files_are_left_alone(dataset: str, tmp_path: Path, kind: str) -> None:
    """A folder with somebody's own pictures is refused, in a part's folder too, and stays as it is."""
    for folder in (tmp_path, tmp_path / "train"):
        (folder / "0").mkdir(parents=True)
        (folder / "0/holiday.jpg").write_bytes(b"mine")
        (folder / "README.md").write_text("my holidays")
    for split in ((), ("--split", "main")):
        with pytest.raises(
            OutputError, match=r"holds \d files that are of no export \((0/holiday.jpg|README.md) is one"
        ):
            export(dataset, "--to", kind, "--out", str(tmp_path), *split)
    assert (tmp_path / "0/holiday.jpg").read_bytes() == b"mine"


def test_a_run_killed_before_its_manifest_goes_on(dataset: str, tmp_path: Path) -> None:
    """Where only the card stands with the files, the place is known as that of this dataset's export."""
    export(dataset, "--to", "hf", "--out", str(tmp_path / "x"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "x").rglob("*") if p.is_file()}
    (tmp_path / "x/manifest.json").unlink()
    export(dataset, "--to", "hf", "--out", str(tmp_path / "x"))
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "x").rglob("*") if p.is_file()}


def test_nothing_published_is_said(tmp_path: Path) -> None:
    """A place without a dataset has nothing to export."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no dataset here"):
        export(str(tmp_path / "empty"), "--to", "hf", "--out", str(tmp_path / "x"))


def test_help_names_every_kind() -> None:
    """What can be written stands in the help."""
    done = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "300"})
    assert all(kind in done.stdout for kind in COMPONENTS["exports"])
