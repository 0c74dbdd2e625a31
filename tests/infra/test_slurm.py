"""Real Slurm: batch jobs of `submit` that are queued again and cancelled in the middle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.adapters.stores import LocalStore
from tests.end_to_end.commands import larger_recipe, receipts_in, require_undisturbed, run, start, wait_for
from tests.infra.slurm import slurm, why_not

pytestmark = [pytest.mark.slurm, pytest.mark.soak]
COUNT, IMAGES = 160, 6
LARGER = 500
"""Identities of a run that is still at work when a second command has started and asked it to end."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start Slurm for this file, where it can be."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    with slurm(folder) as environment:
        yield {**environment, "FACEMINT_JOBS": str(folder / "jobs")}


def recipe_file(folder: Path, count: int = COUNT) -> Path:
    """Write a recipe of some hundred units for two Ray workers, in the environment of these tests; return its path."""
    compute = {
        "executor": "ray",
        "workers": 2,
        "workers_per_node": 2,
        "cpus": 0.5,
        "slurm": {"setup": [f"export PATH={Path(sys.executable).parent}:$PATH"], "warning_s": 30},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(larger_recipe(count, IMAGES, compute=compute)))
    return path


def submit(recipe: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a submission to Slurm."""
    words = ["submit", str(recipe), "--out", str(out), "--on", "slurm", "--json", *more]
    return [sys.executable, "-m", "jobs.cli", *words]


def queue_number(jobs: Path) -> str:
    """Return the number that Slurm gave the newest submission."""
    newest = max(jobs.glob("*/id"), key=lambda p: p.stat().st_mtime)
    return newest.read_text().strip()


@pytest.mark.parametrize("how", ["queued again by Slurm", "told that its time is nearly over"])
def test_a_job_that_is_queued_again_ends_as_if_nothing_had_happened(
    how: str, running: dict[str, str], tmp_path: Path
) -> None:
    """A job taken off its node in the middle starts again, finishes, and the dataset is that of an undisturbed run."""
    recipe, out = recipe_file(tmp_path), tmp_path / "set"
    process = start(submit(recipe, out), **running)
    wait_for(lambda: receipts_in(out, "make") >= 3, process)
    number = queue_number(Path(running["FACEMINT_JOBS"]))
    words = ["scontrol", "requeue", number] if "again" in how else ["scancel", "--signal=USR1", "--batch", number]
    subprocess.run(words, env=running, check=True, capture_output=True)
    before = receipts_in(out)
    told, errors = process.communicate(timeout=400)

    assert process.returncode == 0, errors
    assert json.loads(told)["outcome"] == {"status": 0, "told": ""}
    shown = subprocess.run(["scontrol", "show", "job", number], env=running, check=True, capture_output=True, text=True)
    assert re.search(r"Restarts=1\b", shown.stdout), shown.stdout
    assert before < receipts_in(out), "it was over before it was disturbed"
    require_undisturbed(LocalStore(out), COUNT, IMAGES)


def test_the_demo_survives_being_queued_again(running: dict[str, str], tmp_path: Path) -> None:
    """The shipped demo, queued again once in the middle: its digest is that of a run by hand."""
    path = f"export PATH={Path(sys.executable).parent}:$PATH"
    compute = ("--set", "compute.workers_per_node=2", "--workers", "2", "--set", f"compute.slurm.setup=['{path}']")
    by_hand, out = tmp_path / "by-hand", tmp_path / "set"
    words = [sys.executable, "-m", "jobs.cli"]
    alone = [*words, "generate", "demo", "--out", str(by_hand), "--executor", "inline", "--json"]
    assert run(alone, **running)[0] == 0
    process = start([*words, "submit", "demo", "--out", str(out), "--on", "slurm", *compute], **running)
    wait_for(lambda: receipts_in(out, "make") >= 2, process)
    number = queue_number(Path(running["FACEMINT_JOBS"]))
    subprocess.run(["scontrol", "requeue", number], env=running, check=True, capture_output=True)
    _, errors = process.communicate(timeout=280)

    assert process.returncode == 0, errors
    shown = subprocess.run(["scontrol", "show", "job", number], env=running, check=True, capture_output=True, text=True)
    assert re.search(r"Restarts=1\b", shown.stdout), shown.stdout
    digests = [json.loads((place / "versions/v000001/manifest.json").read_text())["digest"] for place in (by_hand, out)]
    assert digests[0] == digests[1]


def test_a_cancelled_job_drains_and_the_next_submission_goes_on(running: dict[str, str], tmp_path: Path) -> None:
    """Cancelling ends with status 143 and no lease held; a second submission is a new try, and finishes the dataset."""
    recipe, out = recipe_file(tmp_path, LARGER), tmp_path / "set"
    process = start(submit(recipe, out), **running)
    wait_for(lambda: receipts_in(out, "make") >= 1, process)
    cancelled = start(submit(recipe, out, "--cancel"), **running)
    facts = json.loads(cancelled.communicate(timeout=120)[0])
    _, errors = process.communicate(timeout=60)

    assert (facts["cancelled"], facts["status"]) == (True, 143)
    assert process.returncode == 143, errors
    lease = max(out.glob("runs/lease-*.json"))
    assert json.loads(lease.read_text())["expires_s"] == 0
    again = start(submit(recipe, out), **running)
    facts = json.loads(again.communicate(timeout=300)[0])
    assert facts["submission"].endswith("-2")
    assert facts["outcome"]["status"] == 0
    require_undisturbed(LocalStore(out), LARGER, IMAGES)
