"""`facemint submit` on this machine: ids, joining, cancelling, statuses; and two runs of one schedule at once."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import wiring
from jobs.submit import cancel
from jobs.submit import submit as hand_over
from jobs.submitting.ground import STATUSES, Outcome, Standing, State, outcome_of
from jobs.submitting.job import Job, submission_name
from jobs.submitting.local import LocalGround
from jobs.submitting.slurm import SlurmGround
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import UserError
from tests.command_line import facemint
from tests.end_to_end.commands import (
    PATIENCE_s,
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
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where submissions are written down, of this test alone."""
    monkeypatch.setenv("FACEMINT_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def submit(recipe: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a submission to this machine."""
    words = ["submit", str(recipe), "--out", str(out), "--on", "local", "--json", *more]
    return [sys.executable, "-m", "jobs.cli", *words]


def job_at(recipe: Path, out: Path) -> Job:
    """Return what the verb hands to this machine for a recipe file."""
    runs = [sys.executable, "-m", "jobs.cli"]
    return wiring.job_of(wiring.load_recipe(str(recipe)), str(out), (), runs, if_busy="wait", schedule=False)


def job_name(out: Path, arguments: tuple[str, ...] = (), **changes: Any) -> str:
    """Return the id of a submission of a sketch recipe."""
    words = {"arguments": arguments, "program": ["facemint"], "if_busy": "wait"}
    return wiring.job_of(sketches(**changes), str(out), schedule=False, **words).name


def halt(ground: LocalGround, jobs: Path, job: Job, out: Path) -> int:
    """Submit a run, and stop it in the middle as a machine that sleeps does; return its process, for SIGCONT."""
    handed = hand_over(ground, job, lambda _: None, wait=False)
    deadline_s = time.monotonic() + 120
    while receipts_in(out) < 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    pid = int((jobs / handed.name / "pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    # while its disk is written to it has not stopped yet, and another signal would still come before this one
    while not re.search(r"^State:\s*T", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE):
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    return pid


def wake_once_told(pid: int, sign: signal.Signals) -> threading.Thread:
    """Let a process that is stopped go on as soon as a signal waits for it; the thread that does so ends with that."""

    def look() -> None:
        deadline_s = time.monotonic() + 120
        while time.monotonic() < deadline_s:
            waiting = re.search(r"^ShdPnd:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
            if waiting is None or int(waiting[1], 16) >> (sign - 1) & 1:
                break
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=look)
    thread.start()
    return thread


def test_a_submission_is_followed_and_ends_with_the_status_of_the_run(jobs: Path, tmp_path: Path) -> None:
    """What the run says is shown, its end is the submission's end, and the dataset is that of a run by hand."""
    recipe, out = written(tmp_path), tmp_path / "set"
    process = start(submit(recipe, out, "--set", "compute.executor=inline"))
    told, errors = process.communicate(timeout=PATIENCE_s)

    assert process.returncode == 0, errors
    facts = json.loads(told)
    assert facts == {"submission": facts["submission"], "joined": False, "outcome": {"status": 0, "told": ""}}
    assert re.search(r"^Digest +[0-9a-f]{64}$", errors, flags=re.MULTILINE)
    require_undisturbed(LocalStore(out))


def test_the_same_submission_is_joined_cancelled_and_begun_again(jobs: Path, tmp_path: Path) -> None:
    """A second submission joins the first; cancelling drains it with 143; the next is a new try that resumes."""
    recipe, out, said = written(tmp_path), tmp_path / "set", list[str]()
    ground, job = LocalGround(jobs), job_at(recipe, out)
    pid = halt(ground, jobs, job, out)
    again = hand_over(ground, job, said.append, wait=False)
    assert (again.name, again.joined, again.outcome) == (job.attempt(1), True, None)
    waking = wake_once_told(pid, signal.SIGTERM)
    ended = cancel(ground, job, said.append)
    waking.join()
    assert ended is not None
    assert ended.outcome is not None
    assert ended.outcome.status == 143
    followed = ground.follow(job, Standing(again.name, 1, State.RUNNING), said.append)
    assert followed.status == 143
    assert "stopped by SIGTERM; run the same command again to resume" in said[-1]
    assert json.loads(max(out.glob("runs/lease-*.json")).read_text())["expires_s"] == 0
    done = hand_over(ground, job, said.append, wait=True)
    assert (done.name, done.joined, done.outcome) == (job.attempt(2), False, Outcome(0))
    require_undisturbed(LocalStore(out))
    assert cancel(ground, job, said.append) is None


def test_a_run_that_fails_passes_its_status_on(jobs: Path, tmp_path: Path) -> None:
    """A target that cannot be reached is exit status 4 of the submission too, after the run's own words."""
    hard = larger_recipe(8, 2, filters=[{"use": "own-template", "cos": 0.9999}], attempts=1, rounds=1)
    said = list[str]()
    done = hand_over(LocalGround(jobs), job_at(written(tmp_path, hard), tmp_path / "set"), said.append, wait=True)

    assert done.outcome is not None
    assert done.outcome.status == 4
    assert "facemint: " in said[-1]


@pytest.mark.soak
def test_a_killed_run_is_an_ended_one(jobs: Path, tmp_path: Path) -> None:
    """A run killed with SIGKILL is status 1 for who follows it, and the next submission is a new try that finishes."""
    out = tmp_path / "set"
    ground, job = LocalGround(jobs), job_at(written(tmp_path), out)
    os.kill(halt(ground, jobs, job, out), signal.SIGKILL)
    assert ground.follow(job, Standing(job.attempt(1), 1, State.RUNNING), lambda _: None).status == 1
    done = hand_over(ground, job, lambda _: None, wait=True)
    assert (done.name, done.outcome) == (job.attempt(2), Outcome(0))
    require_undisturbed(LocalStore(out))


@pytest.mark.soak
def test_a_schedule_fired_twice_at_once_runs_once(tmp_path: Path) -> None:
    """While one run works, the other exits 0 at once, and says which run holds the dataset; without the word, 5."""
    recipe, out = written(tmp_path), tmp_path / "set"
    first = start(command(recipe, out, "--if-busy", "ok"))
    wait_for(lambda: receipts_in(out) >= 1, first)
    first.send_signal(signal.SIGSTOP)
    holder = json.loads(max(out.glob("runs/lease-*.json")).read_text())["holder"]
    second, third = start(command(recipe, out, "--if-busy", "ok")), start(command(recipe, out))
    status, errors = end(second)
    assert status == 0, errors
    require_one_line(errors, f"run {holder['run']} on {holder['host']}", "nothing was done, as --if-busy ok asks")
    status, errors = end(third)
    assert status == 5
    require_one_line(errors, f"run {holder['run']} on {holder['host']}")
    first.send_signal(signal.SIGCONT)
    assert end(first)[0] == 0
    require_undisturbed(LocalStore(out))


@pytest.mark.soak
def test_a_run_that_waits_goes_on_when_a_dead_hold_ends(tmp_path: Path) -> None:
    """With `wait`, a hold that nobody renews is waited for; asked to end meanwhile, the run ends."""
    recipe, out = written(tmp_path), tmp_path / "set"
    (out / "runs").mkdir(parents=True)

    def hold(seconds: float) -> None:
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

    assert isinstance(done.exception, UserError)
    assert done.exception.exit_status == 2
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_refused_batch_job_leaves_nothing_behind(jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Slurm, or it refuses, that is one line, and the next submission is the first try again."""
    monkeypatch.setenv("PATH", str(tmp_path))
    job = job_at(written(tmp_path), tmp_path / "set")
    with pytest.raises(UserError, match="sbatch: no such command here"):
        SlurmGround(jobs).submit(job, 1)
    assert list(jobs.iterdir()) == []


def test_a_dry_run_hands_nothing_over(jobs: Path, tmp_path: Path) -> None:
    """--dry-run prints what would be run, and leaves neither a dataset nor a submission behind."""
    recipe = written(tmp_path, sketch_recipe())
    for ground, sign in (("local", "wait $pid"), ("slurm", "#SBATCH --requeue"), ("kuberay", "kind: RayJob")):
        image = ("--set", "compute.kubernetes.image=x:1", "--set", "compute.executor=ray")
        place = "s3://bucket/set" if ground == "kuberay" else str(tmp_path / "set")
        done = facemint("submit", str(recipe), "--out", place, "--on", ground, "--dry-run", *image)
        assert done.exit_code == 0, done.exception
        assert sign in done.stdout
    assert not jobs.exists()
    assert not (tmp_path / "set").exists()
    shown = facemint(
        "submit", str(recipe), "--out", "s3://b/s", "--on", "ray", "--dry-run", "--address", "http://h:8265"
    )
    asked = yaml.safe_load(shown.stdout)
    assert asked["working_dir_holds"]["recipe.yaml"]["name"] == "sketches"
    assert asked["entrypoint"].startswith("exec facemint generate recipe.yaml --out s3://b/s --executor ray")
