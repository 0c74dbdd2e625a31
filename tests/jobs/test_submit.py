"""`facemint submit` on this machine: ids, joining, cancelling, statuses; and two runs of one schedule at once."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import wiring
from jobs.submitting.ground import STATUSES, Outcome, outcome_of
from jobs.submitting.job import submission_name
from pipeline.adapters.stores import LocalStore
from tests.end_to_end.commands import (
    command,
    end,
    larger_recipe,
    receipts_in,
    require_one_line,
    require_undisturbed,
    run,
    start,
    wait_for,
    written,
)
from tests.jobs.test_cli import facemint
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches

LONG = 400
"""Identities of a run that is still at work when a second command has started."""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where submissions are written down, of this test alone."""
    monkeypatch.setenv("FACEMINT_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def submit(recipe: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a submission to this machine."""
    words = ["submit", str(recipe), "--out", str(out), "--on", "local", "--json", *more]
    return [sys.executable, "-m", "jobs.cli", *words]


def job_name(out: Path, arguments: tuple[str, ...] = (), **changes: Any) -> str:
    """Return the id of a submission of a sketch recipe."""
    words = {"arguments": arguments, "program": ["facemint"], "if_busy": "wait"}
    return wiring.job_of(sketches(**changes), str(out), schedule=False, **words).name


def test_a_submission_is_followed_and_ends_with_the_status_of_the_run(jobs: Path, tmp_path: Path) -> None:
    """What the run says is shown, its end is the submission's end, and the dataset is that of a run by hand."""
    recipe, out = written(tmp_path), tmp_path / "set"
    process = start(submit(recipe, out, "--set", "compute.executor=inline"))
    told, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors
    facts = json.loads(told)
    assert facts == {"submission": facts["submission"], "joined": False, "outcome": {"status": 0, "told": ""}}
    assert re.search(r"^Digest +[0-9a-f]{64}$", errors, flags=re.MULTILINE)
    require_undisturbed(LocalStore(out))


def test_the_same_submission_is_joined_cancelled_and_begun_again(jobs: Path, tmp_path: Path) -> None:
    """A second submission follows the first; cancelling drains both with 143; the next is a new try that resumes."""
    recipe, out = written(tmp_path, larger_recipe(LONG)), tmp_path / "set"
    first = start(submit(recipe, out))
    wait_for(lambda: receipts_in(out) >= 1, first)
    second = start(submit(recipe, out))
    cancelled = start(submit(recipe, out, "--cancel"))
    facts = json.loads(cancelled.communicate(timeout=120)[0])
    assert (facts["cancelled"], facts["status"]) == (True, 143)
    told, errors = second.communicate(timeout=120)
    assert (second.returncode, json.loads(told)["joined"]) == (143, True), errors
    status, errors = end(first)
    assert status == 143
    assert "stopped by SIGTERM; run the same command again to resume" in errors
    assert json.loads(max(out.glob("runs/lease-*.json")).read_text())["expires_s"] == 0
    done = receipts_in(out)
    third = start(submit(recipe, out, "--detach"))
    name = json.loads(third.communicate(timeout=60)[0])["submission"]
    assert name == facts["submission"].removesuffix("-1") + "-2"
    # whoever asks again, and does not detach, follows that try to its end
    assert json.loads(start(submit(recipe, out)).communicate(timeout=120)[0])["outcome"]["status"] == 0
    assert receipts_in(out) > done
    require_undisturbed(LocalStore(out), LONG)
    nothing = json.loads(start(submit(recipe, out, "--cancel")).communicate(timeout=60)[0])
    assert nothing["cancelled"] is False


def test_a_run_that_fails_passes_its_status_on(jobs: Path, tmp_path: Path) -> None:
    """A target that cannot be reached is exit status 4 of the submission too, with the run's last words."""
    hard = larger_recipe(filters=[{"use": "own-template", "cos": 0.9999}], attempts=1, rounds=1)
    process = start(submit(written(tmp_path, hard), tmp_path / "set"))
    told, errors = process.communicate(timeout=120)

    assert process.returncode == 4, errors
    assert json.loads(told)["outcome"]["status"] == 4
    assert "facemint: " in errors


def test_a_killed_run_is_an_ended_one(jobs: Path, tmp_path: Path) -> None:
    """A run killed with SIGKILL is status 1 for who follows it, and the next submission is a new try that finishes."""
    recipe, out = written(tmp_path, larger_recipe(LONG)), tmp_path / "set"
    process = start(submit(recipe, out))
    wait_for(lambda: receipts_in(out) >= 1, process)
    (pid,) = (int(path.read_text()) for path in jobs.glob("*/pid"))
    import os

    os.kill(pid, signal.SIGKILL)
    status, errors = end(process)
    assert status == 1, errors
    assert run(submit(recipe, out))[0] == 0
    assert len(list(jobs.glob("*-2/status"))) == 1
    require_undisturbed(LocalStore(out), LONG)


def test_a_schedule_fired_twice_at_once_runs_once(tmp_path: Path) -> None:
    """While one run works, the other exits 0 at once, and says which run holds the dataset; without the word, 5."""
    recipe, out = written(tmp_path, larger_recipe(LONG)), tmp_path / "set"
    first = start(command(recipe, out, "--if-busy", "ok"))
    wait_for(lambda: receipts_in(out) >= 1, first)
    holder = json.loads(max(out.glob("runs/lease-*.json")).read_text())["holder"]
    second, third = start(command(recipe, out, "--if-busy", "ok")), start(command(recipe, out))
    status, errors = end(second)
    assert status == 0, errors
    require_one_line(errors, f"run {holder['run']} on {holder['host']}", "nothing was done, as --if-busy ok asks")
    status, errors = end(third)
    assert status == 5
    require_one_line(errors, f"run {holder['run']} on {holder['host']}")
    assert end(first)[0] == 0
    require_undisturbed(LocalStore(out), LONG)


def test_a_run_that_waits_goes_on_when_a_dead_hold_ends(tmp_path: Path) -> None:
    """With `wait`, a hold that nobody renews is waited for; asked to end meanwhile, the run ends."""
    recipe, out = written(tmp_path), tmp_path / "set"
    (out / "runs").mkdir(parents=True)

    def hold(seconds: float) -> None:
        import time

        body = {"holder": {"run": "gone", "host": "elsewhere", "pid": 1}, "expires_s": time.time() + seconds}
        (out / "runs" / "lease-000001.json").write_text(json.dumps(body))

    hold(60)
    waiting = start(command(recipe, out, "--if-busy", "wait"))
    with pytest.raises(Exception, match="timed out"):
        waiting.wait(timeout=4)
    waiting.send_signal(signal.SIGTERM)
    status, errors = end(waiting)
    assert status == 143, errors
    hold(3)
    status, errors = run(command(recipe, out, "--if-busy", "wait"))
    assert status == 0, errors
    require_undisturbed(LocalStore(out))


def test_ids_follow_from_what_would_be_made(tmp_path: Path) -> None:
    """Equal requests have equal ids; another place, recipe, plan, argument or newest version is another id."""
    out = tmp_path / "set"
    names = {
        job_name(out),
        job_name(tmp_path / "other"),
        job_name(out, seed=8),
        job_name(out, identities={**sketch_recipe()["identities"], "count": 11}),
        job_name(out, arguments=("--allow-short",)),
    }
    assert len(names) == 5
    assert job_name(out) == job_name(out, compute={"executor": "ray", "workers": 9})
    before = job_name(out)
    mint(sketches(), LocalStore(out))
    assert job_name(out) != before


def test_names_of_any_recipe_fit_every_ground() -> None:
    """The longest name, with a hundred tries behind it, is a label of Kubernetes' and short enough for KubeRay."""
    for recipe in ("a", "a" * 64, "tiny_-_x" * 8, "a---------------------b"):
        name = submission_name(recipe, out="s3://b/s") + "-999"
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 47


@pytest.mark.parametrize(
    ("code", "status"),
    [*((s, s) for s in STATUSES), (-15, 143), (-2, 130), (137, 1), (-9, 1), (None, 1), (77, 1)],
)
def test_every_end_is_one_of_the_documented_statuses(code: int | None, status: int) -> None:
    """Exit codes become documented statuses; one that is none of ours is status 1, and is said."""
    outcome = outcome_of(code)

    assert outcome.status == status
    assert str(Outcome(status)).startswith(STATUSES[status])
    assert (code in (137, -9, 77)) == (str(code) in outcome.told)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on", "slurm", "--schedule", "0 2 * * *"), "--schedule: got it with --on slurm"),
        (("--on", "slurm", "--address", "auto"), "--address: got auto with --on slurm"),
        (("--on", "kuberay", "--dry-run"), "compute.kubernetes.image: left out"),
        (("--on", "ray", "--address", "http://127.0.0.1:9"), "no Ray cluster with a dashboard answers there"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str, jobs: Path, tmp_path: Path) -> None:
    """What cannot be submitted as it was asked is exit status 2 and one line."""
    recipe = written(tmp_path, sketch_recipe(compute={"executor": "ray"}))
    done = facemint("submit", str(recipe), "--out", "s3://nowhere/set", *words)

    assert done.returncode == 2, done.stderr
    require_one_line(done.stderr, message)


def test_a_dry_run_hands_nothing_over(jobs: Path, tmp_path: Path) -> None:
    """--dry-run prints what would be run, and leaves neither a dataset nor a submission behind."""
    recipe = written(tmp_path, sketch_recipe())
    for ground, sign in (("local", "wait $pid"), ("slurm", "#SBATCH --requeue"), ("kuberay", "kind: RayJob")):
        image = ("--set", "compute.kubernetes.image=x:1", "--set", "compute.executor=ray")
        place = "s3://bucket/set" if ground == "kuberay" else str(tmp_path / "set")
        done = facemint("submit", str(recipe), "--out", place, "--on", ground, "--dry-run", *image)
        assert done.returncode == 0, done.stderr
        assert sign in done.stdout
    assert not jobs.exists()
    assert not (tmp_path / "set").exists()
    shown = facemint(
        "submit", str(recipe), "--out", "s3://b/s", "--on", "ray", "--dry-run", "--address", "http://h:8265"
    )
    asked = yaml.safe_load(shown.stdout)
    assert asked["working_dir_holds"]["recipe.yaml"]["name"] == "sketches"
    assert asked["entrypoint"].startswith("exec facemint generate recipe.yaml --out s3://b/s --executor ray")
