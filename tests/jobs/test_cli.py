"""The command line: what a user can get wrong ends in one clear line and the right exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jobs import recipe_file, wiring
from pipeline.domain.errors import FacemintError, RecipeError
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches


def facemint(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def sketch_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe file of the sketch world."""
    path = tmp_path_factory.mktemp("recipes") / "sketches.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe()))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, sketch_file: Path) -> Path:
    """Return a finished dataset, minted through the command line."""
    out = tmp_path_factory.mktemp("datasets") / "sketches"
    done = facemint("generate", str(sketch_file), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


BAD_KEYS: list[tuple[str, Any, str]] = [
    ("generator.nose", 1, r"generator.nose: unknown key; did you mean 'noise'"),
    ("atempts", 3, r"atempts: unknown key; did you mean 'attempts'"),
    ("generator.use", "sketchy", r"generator.use: unknown 'sketchy'; did you mean 'sketch'"),
    ("identities.count", -4, r"identities.count: got -4; should be greater than or equal to 1"),
    ("identities.count", "many", r"identities.count: got 'many'; should be a valid integer"),
    ("identities.count", None, r"identities.count: got None"),
    ("attempts", 0, r"attempts: got 0"),
    ("seed", 2**40, r"seed: got 1099511627776"),
    ("filters.0.fmr", 2, r"filters.0.*fmr: got 2"),
    ("filters.0.cos", 0.5, r"filters.0.*exactly one of"),
    ("filters", "strict", r"filters: got 'strict'"),
    ("generator.batch", "x", r"generator.*batch: got 'x'"),
    ("conditions.yaw_deg", {"use": "uniform", "low": 9, "high": 1}, r"low 9 must be below high 1"),
    ("conditions.beard", {"use": "constant", "value": 1}, r"conditions.beard: the sketch generator does not obey it"),
    ("balance.by", ["hat"], r"balance.by: no measure estimates 'hat'.*shade, shape"),
    ("balance.shares", {"round/light": 0.5}, r"balance.shares: shares add up to 0.5; they must add up to 1"),
    ("auditor.use", "sketch-judge", r"auditor.use: got 'sketch-judge', which is the judge"),
    ("kind", "curate", r"identities.sampler.use: got 'gaussian'; should be 'photographs'"),
    ("kind", "mint", r"kind: got 'mint'"),
    ("leakage.galleries", ["x"], r"leakage.galleries"),
    ("enrol.separation", {}, r"enrol.separation: got {}; give exactly one"),
    ("name", "../up", r"name: got '../up'"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD_KEYS)
def test_a_bad_recipe_ends_in_one_clear_line(sketch_file: Path, key: str, value: Any, message: str) -> None:
    """Unknown keys, wrong types and impossible numbers are named with their path, in one line."""
    with pytest.raises(RecipeError, match=message) as caught:
        wiring.load_recipe(str(sketch_file), [f"{key}={json.dumps(value)}"])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


BAD_FILES = [
    ("kind: generate\n  name: x\n", r"bad.yaml: line 2 not valid YAML"),
    ("kind: generate\nseed: 1\nseed: 2\n", r"line 3: key 'seed' is given twice"),
    ("- a\n- b\n", r"got list where a mapping of recipe keys is expected"),
    ("", r"got NoneType where a mapping"),
    ("{[a, b]: 1}\n", r"line 1: a list as key"),
    ("kind: generate\nname: x\n", r"missing; it must be given"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_ends_in_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    """Broken YAML, keys given twice and missing keys are the user's mistakes too."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        wiring.load_recipe(str(path))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["generate", "no-such-recipe", "--out", "x"], 2, "neither a file nor a shipped recipe; shipped: arc2face"),
        (["generate", "gone.yaml", "--out", "x"], 2, "gone.yaml: no such file"),
        (["generate", "demo", "--out", "ftp://host/x"], 2, "ftp"),
        (["generate", "demo", "--out", "/proc/nowhere/x"], 2, "/proc/nowhere"),
        (["generate", "demo", "--out", "x", "--set", "nonsense"], 2, "--set nonsense: got no `=`"),
        (["generate", "demo", "--out", "x", "--set", "seed.a.b=1"], 2, "'a' leads nowhere"),
        (["status", "/proc/nowhere"], 2, "/proc/nowhere"),
        (["export", "/proc/nowhere", "--to", "carrier-pigeon", "--out", "x"], 2, ""),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_a_bad_call_exits_with_2_and_no_traceback(arguments: list[str], status: int, message: str) -> None:
    """A mistake on the command line is one line on standard error."""
    done = facemint(*arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if arguments[0] != "frobnicate":
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_finished_run_reads_well(dataset: Path, sketch_file: Path) -> None:
    """Running again resumes at once, and prints funnel, balance, similarity, paths and digest."""
    done = facemint("generate", str(sketch_file), "--out", str(dataset), COLUMNS="160")
    assert done.returncode == 0, done.stderr
    for part in ("published already", "images made", "accepted", "round/light", "judge", "auditor", "EER"):
        assert part in done.stdout
    assert facemint("digest", str(dataset)).stdout.strip() in done.stdout
    assert (dataset / "versions/v000001/contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (dataset / "versions/v000001/report.html").read_bytes().startswith(b"<!doctype html>")


def test_verify_and_status_speak_json(dataset: Path) -> None:
    """Both verbs give machine-readable facts about the same dataset."""
    checked = json.loads(facemint("verify", str(dataset), "--deep", "--json").stdout)
    assert checked["problems"] == []
    assert checked["files"] > 10
    stands = json.loads(facemint("status", str(dataset), "--json").stdout)
    assert stands["state"] == "published v000001"
    made = stands["stages"]["make"]
    assert made["candidates"] == made["accepted"] + made["refused"] > 0


def test_verify_names_what_is_altered(tmp_path: Path, sketch_file: Path) -> None:
    """One flipped byte passes the look at sizes, is named by --deep, and a missing file by both; exit status 7."""
    out = tmp_path / "out"
    assert facemint("generate", str(sketch_file), "--out", str(out), "--json").returncode == 0
    tar = min((out / "segments").glob("make-*.tar"))
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(bytes(data))
    assert facemint("verify", str(out)).returncode == 0
    deep = facemint("verify", str(out), "--deep")
    assert deep.returncode == 7
    assert f"segments/{tar.name}: altered" in deep.stdout
    tar.unlink()
    assert facemint("verify", str(out)).returncode == 7


def test_another_recipe_at_the_same_place_is_refused(dataset: Path, sketch_file: Path) -> None:
    """Another fingerprint ends with the differing field and exit status 2."""
    done = facemint("generate", str(sketch_file), "--out", str(dataset), "--set", "attempts=9")
    assert done.returncode == 2
    assert "attempts 9 instead of 4" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_export_copies_to_another_place(dataset: Path, tmp_path: Path) -> None:
    """An export elsewhere equals the one made at publish, shard by shard."""
    done = facemint("export", str(dataset), "--to", "webdataset", "--out", str(tmp_path / "wds"))
    assert done.returncode == 0, done.stderr
    assert "num_classes = 10" in done.stdout
    for shard in (dataset / "exports/v000001/webdataset").glob("*.tar"):
        assert (tmp_path / "wds" / shard.name).read_bytes() == shard.read_bytes()


def test_a_commercial_recipe_refuses_a_model_whose_licence_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A component that is not for commercial use stops a commercial recipe with its name and licence."""
    from dataclasses import replace

    from pipeline.adapters import sketch

    card = replace(sketch.SketchMeasures().card, commercial_use=False, licence="CC BY-NC 4.0")
    monkeypatch.setattr(sketch, "_card", lambda name: card)
    with pytest.raises(RecipeError, match=r"use.commercial is true, but sketch-measures is licensed CC BY-NC 4.0"):
        sketches(use={"commercial": True, "purpose": "product"})


def test_the_recipe_verb_lists_checks_and_describes() -> None:
    """It names the shipped recipes, fills in defaults, and prints a JSON Schema that knows the components."""
    assert {"demo", "tiny", "vec2face_10k"} <= set(facemint("recipe").stdout.split())
    assert yaml.safe_load(facemint("recipe", "tiny").stdout)["identities"]["count"] == 12
    schema = json.loads(facemint("recipe", "--schema").stdout)
    assert "PhantomGeneratorOptions" in schema["$defs"]


def minting() -> list[str]:
    """Return the shipped recipes that mint; those that curate ask for a licence first, and have tests of their own."""
    kinds = {name: recipe_file.read_recipe(recipe_file.find(name))["kind"] for name in recipe_file.shipped_recipes()}
    return [name for name, kind in kinds.items() if kind == "generate"]


@pytest.mark.parametrize("name", minting())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    """A recipe that ships can be read as it is, whether its weights are here or not."""
    assert wiring.load_recipe(name, unfetched=True).name == name


def test_two_runs_cannot_hold_one_dataset(tmp_path: Path) -> None:
    """While a run holds the lease another is refused with exit status 5; a dead holder is not waited for."""
    from pipeline.adapters.machine import SystemClock, holder, is_dead
    from pipeline.adapters.stores import MemoryStore
    from pipeline.flow.lease import acquire

    store = MemoryStore()
    held = acquire(store, SystemClock(), holder("first"), is_dead)
    with pytest.raises(FacemintError, match=r"run first on .* holds this dataset") as caught:
        mint(sketches(), store)
    assert caught.value.exit_status == 5
    held.release()
    gone = {**holder("gone"), "pid": 2**22 - 3}
    acquire(store, SystemClock(), gone, is_dead)
    assert mint(sketches(), store).manifest.counts["images"] == 30


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends in status 130 and one line, whatever the command-line library makes of it."""
    from jobs import cli

    def interrupted() -> None:
        raise KeyboardInterrupt

    app = typer.Typer()
    app.command()(interrupted)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["facemint"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "interrupted; run the same command again to resume" in capsys.readouterr().err


def test_one_thread_per_worker_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More threads change the order of sums, so the command line sets their number itself."""
    from jobs import cli

    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(sys, "argv", ["facemint", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "generate" in capsys.readouterr().out


def test_a_damaged_recipe_of_a_dataset_stops_an_export(dataset: Path, tmp_path: Path) -> None:
    """Export needs the seed, and says so in one line where the stored recipe is not readable."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "recipes/g0.yaml").write_text("recipe: [")
    with pytest.raises(FacemintError, match=r"recipes/g0.yaml: not a recipe of ours"):
        wiring.export_dataset(str(copy), "webdataset", str(tmp_path / "wds"))
