"""`facemint split`, `diff` and `merge`: what a user types, gets wrong, and gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import FacemintError, UserError
from tests.command_line import facemint, facts_of
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two finished datasets in folders."""
    folder = tmp_path_factory.mktemp("sets")
    for name, seed, count in (("one", 7, 6), ("two", 8, 5)):
        people = {**sketch_recipe()["identities"], "count": count, "images_per_identity": 2}
        mint(sketches(name=name, seed=seed, identities=people, exports=[], balance={}), LocalStore(folder / name))
    return folder / "one", folder / "two"


def test_split_prints_a_table_and_json(datasets: tuple[Path, Path]) -> None:
    """The table has a column per part, JSON the same numbers, and the files lie below splits/."""
    shown = facemint("split", datasets[0], "--name", "half", "--parts", "train=2/3,test=1/3", "--by-cell")
    assert shown.exit_code == 0
    assert "Split half" in shown.stdout
    assert "66.7%" in shown.stdout
    assert "splits/half.parquet" in shown.stdout
    facts = facts_of("split", datasets[0], "--name", "half", "--parts", "train=2/3,test=1/3", "--by-cell")
    assert facts["reached"] == {"train": 4, "test": 2}
    assert (datasets[0] / "splits" / "half.json").exists()
    assert facts_of("split", datasets[0], "--name", "tenths", "--fold", "3")["identities"] == 6


def test_diff_says_what_differs_and_ends_as_asked(datasets: tuple[Path, Path]) -> None:
    """Status 0 either way; with --exit-code 4 where something differs, and 0 where nothing does."""
    one, two = datasets
    same = facemint("diff", one, f"{one}@v000001", "--exit-code")
    assert same.exit_code == 0
    assert "Nothing differs" in same.stdout
    shown = facemint("diff", one, two)
    assert shown.exit_code == 0
    for words in ("Recipe", "seed", "Counts", "Figures and thresholds", "People and images", "images changed"):
        assert words in shown.stdout
    assert facemint("diff", one, two, "--exit-code").exit_code == 4
    facts = facts_of("diff", one, two)
    assert facts["equal"] is False
    assert {"name": "seed", "a": 7, "b": 8, "decides": "samples"} in facts["recipe"]


def test_merge_makes_a_dataset_that_the_other_verbs_take(datasets: tuple[Path, Path], tmp_path: Path) -> None:
    """It prints what came from where; verify, digest, export and status work on what it made; again, it resumes."""
    out = tmp_path / "both"
    shown = facemint("merge", *datasets, "--out", out)
    assert shown.exit_code == 0, shown.exception
    assert "one-two, merged" in shown.stdout
    assert "together" in shown.stdout
    assert facts_of("verify", out, "--deep")["problems"] == []
    assert facemint("digest", out).stdout.strip() in shown.stdout
    exported = facemint("export", out, "--to", "recordio", "--out", tmp_path / "rec")
    assert exported.exit_code == 0, exported.exception
    assert facemint("status", out).exit_code == 0
    again = facemint("merge", *datasets, "--out", out)
    assert "is merged already" in " ".join(again.stdout.split())
    merged = facts_of("merge", *datasets, "--out", out)
    counts = json.loads((out / "versions" / "v000001" / "manifest.json").read_text())["counts"]
    assert sum(s["identities"] for s in counts["merged"]) == counts["identities"]
    assert merged["digest"] == facemint("digest", out).stdout.strip()


def test_a_split_of_it_is_exported_by_parts(datasets: tuple[Path, Path], tmp_path: Path) -> None:
    """Every identity of a merged dataset is in one part, and the export of a part holds its images alone."""
    out = tmp_path / "both"
    assert facemint("merge", *datasets, "--out", out).exit_code == 0
    facts = facts_of("split", out, "--name", "half", "--fold", "2")
    assert sum(facts["reached"].values()) == facts["identities"]
    command = ("export", out, "--to", "webdataset", "--out", tmp_path / "half", "--split", "half")
    exported = facemint(*command)
    assert exported.exit_code == 0, exported.exception
    assert {p.name for p in (tmp_path / "half").iterdir()} >= {"fold-0", "fold-1"}


MISTAKES: list[tuple[list[str], str]] = [
    (["split", "ONE", "--name", "x"], "give --parts NAME=SHARE,... or --fold K"),
    (["split", "ONE", "--name", "x", "--fold", "2", "--parts", "a=1"], "one of the two"),
    (["split", "ONE", "--name", "../x", "--fold", "2"], "--name ../x: 1 to 32"),
    (["split", "ONE", "--name", "x", "--parts", "a=0.5"], "add up to 0.5"),
    (["split", "NOWHERE", "--name", "x", "--fold", "2"], "no dataset here"),
    (["diff", "ONE", "NOWHERE"], "no dataset here"),
    (["diff", "ONE", "ONE@v000009"], "no version v000009; versions here: v000001"),
    (["merge", "ONE", "--out", "OUT"], "needs two datasets or more"),
    (["merge", "ONE", "NOWHERE", "--out", "OUT"], "no dataset here"),
    (["merge", "ONE", "TWO", "--out", "ONE"], "is the source .* itself"),
    (["merge", "ONE", "TWO", "--out", "LINK"], "is the source .* itself"),
    (["merge", "ONE", "TWO", "--out", "INSIDE"], "lies inside the source .*one, or around it"),
    (["merge", "ONE", "TWO", "--out", "AROUND"], "lies inside the source .*one, or around it"),
    (["merge", "ONE", "TWO", "--out", "OUT", "--judge", "x"], "--judge x: no such recogniser"),
    (
        ["merge", "ONE", "TWO", "--out", "OUT", "--judge", "sketch-auditor"],
        "not every source .*--add sketch-auditor`, then merge again",
    ),
    (["merge", "ONE", "TWO", "--out", "OUT", "--name", "Not a name"], "name: got 'Not a name'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    datasets: tuple[Path, Path], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """Status 2 and what is allowed; nothing is left behind."""
    places = {"ONE": datasets[0], "TWO": datasets[1], "NOWHERE": tmp_path / "nowhere", "OUT": tmp_path / "out"}
    places |= {"LINK": tmp_path / "link", "INSIDE": datasets[0] / "merged", "AROUND": datasets[0].parent}
    places["LINK"].symlink_to(datasets[0])
    given = [
        str(places.get(a.partition("@")[0], a)) + (f"@{a.partition('@')[2]}" if "@" in a else "") for a in arguments
    ]
    before = LocalStore(datasets[0]).list("")
    result = facemint(*given)
    error = result.exception
    assert isinstance(error, UserError), error
    assert error.exit_status == 2
    assert "\n" not in str(error)
    with pytest.raises(FacemintError, match=message):
        raise error
    assert [p for p in LocalStore(datasets[0]).list("") if p not in before] == []
    assert not list((tmp_path / "out").rglob("*.json"))
    assert not places["NOWHERE"].exists()
    assert not places["INSIDE"].exists()


def test_help_of_the_verbs_loads_no_numbers() -> None:
    """What a person reads before anything runs is there at once."""
    code = (
        "import sys; from typer.testing import CliRunner; from jobs.cli import app; "
        "ok = all(CliRunner().invoke(app, [v, '--help']).exit_code == 0 for v in ('split', 'diff', 'merge')); "
        "sys.exit(not ok or any(m in sys.modules for m in ('numpy', 'torch', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
