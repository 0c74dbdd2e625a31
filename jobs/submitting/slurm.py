"""Slurm as a ground: a batch job that starts a Ray cluster inside its own allocation, and is queued again when lost."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from pathlib import Path

from jobs.submitting import folders
from jobs.submitting.ground import Outcome, Say, Standing, State, outcome_of
from jobs.submitting.job import Job
from pipeline.domain.errors import FacemintError, StoreError, UserError

LOOK_S = 2.0
SCRIPT, ID = "job.sbatch", "id"
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
"""States of Slurm's after which a job does not run again by itself."""


class SlurmGround:
    """Implements `ground.Ground` by sbatch, squeue and scancel."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder of submissions, on a file system that every node sees."""
        self._folder = folder

    def rendered(self, job: Job, number: int) -> str:
        """Return the batch script of a try."""
        return batch_script(job, number, self._folder / job.attempt(number))

    def standing(self, job: Job) -> Standing | None:
        """Return the last try, by its folder and the queue."""
        numbers = folders.tries(self._folder, job)
        return self._standing(job, numbers[-1]) if numbers else None

    def _standing(self, job: Job, number: int) -> Standing:
        place = self._folder / job.attempt(number)
        job_id = _read(place / ID)
        # asked before the status file is looked at: a job may end between the two
        state, reason = _queued(job_id) if job_id else ("", "")
        # one that was pre-empted may have written a status, and runs again all the same
        comes_again = state and state not in OVER
        if not comes_again and (over := folders.ended(place, number)):
            return over
        if job_id is None:
            recent = time.time() - place.stat().st_mtime < 60
            told = Outcome(1, f"{place}: sbatch gave it no number")
            return Standing(place.name, number, State.WAITING if recent else State.ENDED, None if recent else told)
        if state and state not in OVER:
            running = state in ("RUNNING", "COMPLETING")
            return Standing(place.name, number, State.RUNNING if running else State.WAITING)
        return Standing(place.name, number, State.ENDED, _lost(state, reason))

    def submit(self, job: Job, number: int) -> bool:
        """Write the script, and hand it to sbatch.

        Raises:
            UserError: sbatch refused it.
        """
        place = folders.begin(self._folder, job, number)
        if place is None:
            return False
        (place / SCRIPT).write_text(self.rendered(job, number), encoding="utf-8")
        try:
            answer = _slurm("sbatch", "--parsable", str(place / SCRIPT))
        except FacemintError:
            shutil.rmtree(place)
            raise
        (place / ID).write_text(answer.strip().partition(";")[0], encoding="ascii")
        return True

    def follow(self, job: Job, standing: Standing, say: Say) -> Outcome:
        """Show the log, and what the queue does to the job, until it ends."""
        place = self._folder / standing.name
        tail, before = folders.Tail(place / folders.LOG), None
        while True:
            now = self._standing(job, standing.number)
            tail.show(say)
            if now.outcome is not None:
                return now.outcome
            if now.state is not before:
                say(f"{standing.name}: {now.state.name.lower()} in Slurm's queue as job {_read(place / ID)}")
                before = now.state
            time.sleep(LOOK_S)

    def cancel(self, job: Job, standing: Standing) -> Outcome:
        """Tell the batch script, which drains the run; a job that waits is taken out of the queue."""
        job_id = _read(self._folder / standing.name / ID)
        if job_id is None:
            return Outcome(1, "sbatch gave it no number")
        if standing.state is State.RUNNING:
            _slurm("scancel", "--signal=TERM", "--batch", job_id)
        else:
            _slurm("scancel", job_id)
        while (now := self._standing(job, standing.number)).outcome is None:
            time.sleep(LOOK_S)
        return now.outcome


def batch_script(job: Job, number: int, place: Path) -> str:
    """Return the batch script of a try whose folder is `place`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    compute, ray = job.compute, job.compute.executor == "ray"
    if not ray and compute.nodes > 1:
        raise UserError(
            f"compute.workers: got {job.workers()} on {compute.nodes} nodes with executor: inline, which works in one "
            "process; use executor: ray"
        )
    if compute.time_limit_min is not None and compute.time_limit_min * 60 < 2 * compute.slurm.warning_s:
        raise UserError(
            f"compute.time_limit_min: got {compute.time_limit_min}, of which compute.slurm.warning_s "
            f"{compute.slurm.warning_s} leaves less than half to work in; give more minutes, or a later warning"
        )
    words = job.words(str(place / folders.RECIPE), address="$FACEMINT_RAY" if ray else None)
    # the address is known when the job starts, and to the shell alone
    command = shlex.join(words).replace("'$FACEMINT_RAY'", '"$FACEMINT_RAY"')
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - a shell script; what goes into it is quoted for the shell, or one word
        keep_trailing_newline=True,
    )
    environment.filters["q"] = shlex.quote
    return environment.get_template("job.sbatch.jinja").render(
        name=job.attempt(number),
        log=_unquoted(place / folders.LOG),
        place=str(place),
        nodes=compute.nodes,
        cpus=compute.node_cpus,
        gpus=compute.node_gpus,
        memory_mib=compute.node_memory_mib,
        time_limit_min=compute.time_limit_min,
        partition=compute.slurm.partition,
        account=compute.slurm.account,
        qos=compute.slurm.qos,
        # all nodes of the allocation have the features, so Ray's may be labelled as its workers ask
        labels=",".join(f"{key}={value}" for key, value in compute.node_labels.items()),
        constraint="&".join(v for v in compute.node_labels.values() if v),
        warning_s=compute.slurm.warning_s,
        restarts=compute.slurm.restarts,
        model_cache=compute.model_cache,
        setup=compute.slurm.setup,
        ray=ray,
        command=command,
    )


def _unquoted(path: Path) -> str:
    """Return a path for an #SBATCH line, which no shell reads; % begins a pattern of Slurm's."""
    text = str(path)
    if any(c.isspace() or c in "\"'\\#" for c in text):
        raise UserError(f"{text}: sbatch reads no path with spaces or quotes; set FACEMINT_JOBS to another folder")
    return text.replace("%", "%%")


def _slurm(*words: str) -> str:
    try:
        done = subprocess.run(list(words), capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our words
    except FileNotFoundError:
        raise UserError(f"{words[0]}: no such command here; submit on a node that has Slurm's client") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"{words[0]}: Slurm did not answer within 60 s; run the command again") from None
    if done.returncode:
        raise UserError(f"{words[0]}: {(done.stderr or done.stdout).strip()[:300]}")
    return done.stdout


def _queued(job_id: str) -> tuple[str, str]:
    """Return a job's state and why it is in it; nothing where Slurm has forgotten it."""
    try:
        told = _slurm("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r")
    except UserError as error:
        if "Invalid job id" in str(error):
            return "", ""
        raise
    state, _, reason = told.strip().splitlines()[-1].partition("|") if told.strip() else ("", "", "")
    return state, reason


def _lost(state: str, reason: str) -> Outcome:
    """Return how a job ended that could not write down how."""
    if state in ("CANCELLED", "PREEMPTED"):
        return outcome_of(143, f"{state.lower()} in Slurm")
    if state in ("TIMEOUT", "DEADLINE"):
        return outcome_of(6, "its time limit ended it; submit again to go on")
    return outcome_of(1, f"Slurm: {state.lower() or 'unknown'} {reason}".strip())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
