"""Kubernetes as a ground: a RayJob, with a Ray cluster of its own, through kubectl and whatever it is set up with."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.submitting import kinds as k
from jobs.submitting import manifests
from jobs.submitting.folders import Tail
from jobs.submitting.ground import Outcome, Say, Standing, State, outcome_of
from jobs.submitting.job import Job
from pipeline.domain.errors import StoreError, UserError

LOOK_S = 2.0
CONTAINER = "ray-head"
EXIT_CODE = re.compile(r"exit code (-?\d+)")
"""In Ray's message on a job that failed, which KubeRay passes on."""


class KuberayGround:
    """Implements `ground.Ground` by RayJobs."""

    def rendered(self, job: Job, number: int) -> str:
        """Return the manifests of a try."""
        manifests.require_renderable(job)
        name = job.attempt(number)
        run, parts = manifests.ray_job(job, name), (manifests.recipe_map, manifests.head_budget)
        return k.to_yaml(run, *(part(job, name) for part in parts))

    def standing(self, job: Job) -> Standing | None:
        """Return the last try, by the RayJobs of this name."""
        manifests.require_renderable(job)
        chosen = f"app.kubernetes.io/managed-by={manifests.PART_OF['app.kubernetes.io/managed-by']}"
        listed = _asked(job, "get", "rayjobs.ray.io", f"--selector={chosen}", "-o", "json")["items"]
        numbered = {_number(job, item["metadata"]["name"]): item for item in listed}
        known = [number for number in numbered if number is not None]
        return standing_of(numbered[max(known)], max(known)) if known else None

    def submit(self, job: Job, number: int) -> bool:
        """Create the RayJob, and with it as their owner what its pods mount: one deletion takes all along."""
        manifests.require_renderable(job)
        name = job.attempt(number)
        try:
            made = _asked(job, "create", "-f", "-", "-o", "json", given=k.to_yaml(manifests.ray_job(job, name)))
        except UserError as error:
            if "AlreadyExists" in str(error):
                return False
            raise
        owner = k.OwnerReference(api_version="ray.io/v1", kind="RayJob", name=name, uid=made["metadata"]["uid"])
        parts = k.to_yaml(manifests.recipe_map(job, name, owner), manifests.head_budget(job, name, owner))
        _kubectl(job, "apply", "-f", "-", given=parts)
        return True

    def follow(self, job: Job, standing: Standing, say: Say) -> Outcome:
        """Say each step of the RayJob, and show the driver's log while there is one."""
        before, log = "", _Log(job, standing.name)
        try:
            while True:
                now = _asked(job, "get", "rayjobs.ray.io", standing.name, "-o", "json")
                told = _told(now)
                if told != before:
                    say(f"{standing.name}: {told}")
                    before = told
                outcome = standing_of(now, standing.number).outcome
                log.show(say, over=outcome is not None)
                if outcome is not None:
                    return outcome
                time.sleep(LOOK_S)
        finally:
            log.close()

    def cancel(self, job: Job, standing: Standing) -> Outcome:
        """Have Ray stop the driver, which drains, and delete the RayJob with its cluster."""
        now = _asked(job, "get", "rayjobs.ray.io", standing.name, "-o", "json")
        status = now.get("status", {})
        if status.get("jobStatus") == "RUNNING":
            chosen = f"ray.io/cluster={status['rayClusterName']},ray.io/node-type=head"
            head = _kubectl(job, "get", "pods", f"--selector={chosen}", "-o", "name").split()
            if head:
                words = ("ray", "job", "stop", status["jobId"], "--address", "http://127.0.0.1:8265")
                _kubectl(job, "exec", head[0], "-c", CONTAINER, "--", *words, wait_s=manifests.DRAIN_S + 60)
        _kubectl(job, "delete", "rayjobs.ray.io", standing.name, "--ignore-not-found", wait_s=300)
        return outcome_of(143, "cancelled, its cluster is gone")


def schedule(job: Job, when: str, time_zone: str | None, through: str) -> str:
    """Return the manifests of a schedule: `raycronjob` or `cronjob`."""
    manifests.require_renderable(job)
    made = manifests.ray_cron_job if through == "raycronjob" else manifests.cron_job
    return k.to_yaml(manifests.recipe_map(job, job.name), made(job, job.name, when, time_zone))


def apply(job: Job, rendered: str) -> str:
    """Create what manifests say, or change what there is of it; return what kubectl said."""
    return _kubectl(job, "apply", "-f", "-", given=rendered).strip()


def unschedule(job: Job) -> str:
    """Delete a schedule, whichever of the two it is, and its recipe; runs at work go on."""
    gone = [_kubectl(job, "delete", kind, job.name, "--ignore-not-found") for kind in ("cronjobs.batch", "configmaps")]
    try:
        gone.append(_kubectl(job, "delete", "raycronjobs.ray.io", job.name, "--ignore-not-found"))
    except UserError as error:
        if "the server doesn't have a resource type" not in str(error):
            raise
    return "".join(gone).strip()


class _Log:
    """The driver's log, as the pod that submitted it shows it: kubectl writes it to a file, which is read here."""

    def __init__(self, job: Job, name: str) -> None:
        self._words = (*_words(job), "logs", "--follow", f"job/{name}")
        self._folder = tempfile.TemporaryDirectory(prefix="facemint-")
        self._path = Path(self._folder.name) / "log"
        self._tail = Tail(self._path)
        self._reader: subprocess.Popen[bytes] | None = None

    def show(self, say: Say, *, over: bool) -> None:
        """Say the lines that are new; kubectl is started again while the pod is not there yet."""
        if self._reader is None or self._reader.poll() not in (None, 0):
            with self._path.open("wb") as file:
                self._reader = subprocess.Popen(self._words, stdout=file, stderr=subprocess.DEVNULL)  # noqa: S603
        if over:
            try:
                self._reader.wait(timeout=10)
            except subprocess.TimeoutExpired:
                say("the rest of the log did not come")
        self._tail.show(say)

    def close(self) -> None:
        if self._reader is not None and self._reader.poll() is None:
            self._reader.kill()
            self._reader.wait()
        self._folder.cleanup()


def standing_of(found: dict[str, Any], number: int) -> Standing:
    """Return how far a RayJob is by what KubeRay says of it."""
    name, status = found["metadata"]["name"], found.get("status", {})
    ray, kube = status.get("jobStatus", ""), status.get("jobDeploymentStatus", "")
    outcome = None
    if ray == "SUCCEEDED" and kube == "Complete":
        outcome = outcome_of(0)
    elif ray == "STOPPED":
        outcome = outcome_of(143, "stopped in Ray")
    elif kube == "Failed" and status.get("reason") == "DeadlineExceeded":
        outcome = outcome_of(6, "its time limit ended it; submit again to go on")
    elif kube == "Failed":
        message = status.get("message", "")
        code = EXIT_CODE.search(message)
        gist = (message.strip().splitlines() or [""])[-1][:300]
        outcome = outcome_of(int(code[1]) if code else None, gist or status.get("reason", ""))
    state = State.ENDED if outcome else State.RUNNING if ray == "RUNNING" else State.WAITING
    return Standing(name, number, state, outcome)


def _told(found: dict[str, Any]) -> str:
    """Return where a RayJob is, in KubeRay's words."""
    status = found.get("status", {})
    words = [status.get(key, "") for key in ("jobDeploymentStatus", "jobStatus", "rayClusterName")]
    return ", ".join(word for word in words if word) or "waiting for KubeRay"


def _number(job: Job, name: str) -> int | None:
    front, _, number = name.rpartition("-")
    return int(number) if front == job.name and number.isdecimal() else None


def _words(job: Job) -> tuple[str, ...]:
    return ("kubectl", "--namespace", job.compute.kubernetes.namespace)


def _kubectl(job: Job, *words: str, given: str | None = None, wait_s: float = 60.0) -> str:
    """Run kubectl; return what it says.

    Raises:
        UserError: there is no kubectl, or the cluster refused.
        StoreError: the cluster did not answer.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our words
            [*_words(job), *words], input=given, capture_output=True, text=True, check=False, timeout=wait_s
        )
    except FileNotFoundError:
        raise UserError("kubectl: no such command here; install it, or print the manifests with --dry-run") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"kubectl {words[0]}: the cluster did not answer within {wait_s:.0f} s; try again") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise UserError(f"kubectl {words[0]}: {lines[-1][:300]}")
    return done.stdout


def _asked(job: Job, *words: str, given: str | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(_kubectl(job, *words, given=given))
    return answer
