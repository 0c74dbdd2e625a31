"""The verbs around a growing dataset, as a person types them: plan, grow, mend, verify, collect."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from tests.jobs.test_cli import facemint
from tests.recipes import sketch_recipe


@pytest.fixture
def sketch_file(tmp_path: Path) -> Path:
    """Return a recipe file of the sketch world."""
    path = tmp_path / "sketch.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe()))
    return path


def test_plan_grow_mend_and_collect(tmp_path: Path, sketch_file: Path) -> None:
    """Plan, mint, plan more, grow, lose a segment, mend it, sweep what is left over: each says what it did."""
    recipe, out = str(sketch_file), tmp_path / "set"
    planned = facemint("plan", recipe, "--out", str(out))
    assert planned.returncode == 0, planned.stderr
    assert "begins a dataset (generation 0)" in planned.stdout
    assert "Nothing was written." in planned.stdout
    assert not out.exists()
    assert facemint("generate", recipe, "--out", str(out), "--json").returncode == 0
    more = ("--set", "identities.count=13")
    facts = json.loads(facemint("plan", recipe, "--out", str(out), *more, "--json").stdout)
    assert facts["parent"] == "v000001"
    assert facts["identities"] == [10, 3]
    grown = facemint("generate", recipe, "--out", str(out), *more, "--json")
    assert grown.returncode == 0, grown.stderr
    assert json.loads(grown.stdout)["version"] == "v000002"
    lost = out / "segments" / "make-g0-000001.tar"
    lost.unlink()
    found = facemint("verify", str(out))
    assert found.returncode == 7
    assert "make-g0-000001.tar: missing" in found.stdout
    assert facemint("generate", recipe, "--out", str(out), *more, "--json").returncode == 0
    assert facemint("verify", str(out), "--deep").returncode == 0
    left = out / "segments" / ".tmp-killed"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    listed = facemint("verify", str(out), "--gc")
    assert "1 leftover of" in listed.stdout
    assert left.exists()
    assert facemint("verify", str(out), "--gc", "--yes").returncode == 0
    assert not left.exists()
    assert json.loads(facemint("status", str(out), "--json").stdout)["state"] == "published v000002"


def test_a_published_dataset_is_planned_as_such(tmp_path: Path, sketch_file: Path) -> None:
    """What stands is said to stand; --yes without --gc is a mistake."""
    out = str(tmp_path / "set")
    assert facemint("generate", str(sketch_file), "--out", out, "--json").returncode == 0
    assert "A run would make nothing" in facemint("plan", str(sketch_file), "--out", out).stdout
    into_itself = facemint("export", out, "--to", "webdataset", "--out", out)
    assert into_itself.returncode == 2
    assert "holds a dataset; name a place of its own" in into_itself.stderr
    assert facemint("plan", str(sketch_file), "--workers", "0").returncode == 2
    wrong = facemint("verify", out, "--yes")
    assert wrong.returncode == 2
    assert "--yes: removes what --gc lists; give both" in wrong.stderr
