"""Kubernetes through the real kubectl, against a server that keeps objects and refuses unknown fields."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.submit import cancel, submit
from jobs.submitting import kuberay
from jobs.submitting.ground import Outcome, State
from jobs.submitting.job import Job
from jobs.submitting.kuberay import KuberayGround
from pipeline.domain.errors import UserError
from tests.infra.api_server import Cluster, api_server
from tests.infra.strict import requires_schemas
from tests.infra.test_manifests import FOLDERS, INFRA
from tests.jobs.test_submit_manifests import job_of

pytestmark = [
    requires_schemas,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Serve an empty cluster that kubectl finds."""
    monkeypatch.setattr(kuberay, "LOOK_S", 0.05)
    with api_server(tmp_path) as (kept, config):
        monkeypatch.setenv("KUBECONFIG", config)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield kept


@pytest.fixture
def job() -> Job:
    """Return a job that pods can do."""
    return job_of({"kubernetes": {"image": "facemint:cpu"}, "workers": 4})


def soon(done: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_rayjob_is_made_once_and_takes_its_parts_along(cluster: Cluster, job: Job) -> None:
    """A submission makes a RayJob that owns its recipe and budget; the same one joins it; deletion leaves nothing."""
    ground, said = KuberayGround(), list[str]()
    first = submit(ground, job, said.append, wait=False)
    second = submit(ground, job, said.append, wait=False)

    assert (first.name, first.joined, second.name, second.joined) == (job.attempt(1), False, job.attempt(1), True)
    assert [cluster.names(k) for k in ("rayjobs", "configmaps", "poddisruptionbudgets")] == [[first.name]] * 3
    assert cluster.objects["v1", "configmaps", first.name]["data"]["recipe.yaml"] == job.recipe_yaml()
    assert ground.submit(job, 1) is False
    ended = cancel(ground, job, said.append)
    assert ended is not None
    assert ended.outcome == Outcome(143, "cancelled, its cluster is gone")
    assert cluster.objects == {}


FAILED = {
    "jobStatus": "FAILED",
    "jobDeploymentStatus": "Failed",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed with exit code 4, last available logs\nfacemint: too few",
}


def test_a_follower_sees_each_step_and_the_end(cluster: Cluster, job: Job) -> None:
    """What KubeRay says of a RayJob is said on, its end is a status of ours, and the next submission a new try."""
    ground, said, done = KuberayGround(), list[str](), list[Outcome | None]()
    follower = threading.Thread(target=lambda: done.append(submit(ground, job, said.append, wait=True).outcome))
    follower.start()
    soon(lambda: job.attempt(1) in cluster.names("rayjobs"))
    cluster.tell(job.attempt(1), jobStatus="RUNNING", jobDeploymentStatus="Running", rayClusterName="c")
    soon(lambda: any("Running, RUNNING, c" in line for line in said))
    cluster.tell(job.attempt(1), **FAILED)
    follower.join(timeout=60)

    assert done == [Outcome(4, "facemint: too few")]
    standing = ground.standing(job)
    assert standing is not None
    assert (standing.state, standing.number) == (State.ENDED, 1)
    assert submit(ground, job, said.append, wait=False).name == job.attempt(2)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, State.WAITING),
        ({"jobDeploymentStatus": "Initializing"}, State.WAITING),
        ({"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}, State.RUNNING),
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Retrying"}, State.WAITING),
        ({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, 0),
        (FAILED, 4),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, 6),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, 143),
        ({"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed", "message": "no image"}, 1),
    ],
)
def test_what_kuberay_says_becomes_a_state_or_a_status(status: dict[str, str], expected: State | int) -> None:
    """Each of KubeRay's words on a RayJob is a state of a submission, or one of our exit statuses."""
    standing = kuberay.standing_of({"metadata": {"name": "facemint-x-1"}, "status": status}, 1)

    if isinstance(expected, State):
        assert (standing.state, standing.outcome) == (expected, None)
    else:
        assert standing.outcome is not None
        assert standing.outcome.status == expected


@pytest.mark.parametrize("through", ["cronjob", "raycronjob"])
def test_schedules_are_made_changed_and_taken_away(through: str, cluster: Cluster, job: Job) -> None:
    """Applying a schedule again changes the one that is there; taking it away leaves nothing."""
    for when in ("0 2 * * *", "30 3 * * 1"):
        kuberay.apply(job, kuberay.schedule(job, when, "Etc/UTC", through))
    group = "batch/v1" if through == "cronjob" else "ray.io/v1"

    assert cluster.names(f"{through}s") == [job.name]
    spec = cluster.objects[group, f"{through}s", job.name]["spec"]
    assert spec["schedule"] == "30 3 * * 1"
    if through == "cronjob":
        assert spec["concurrencyPolicy"] == "Forbid"
    kuberay.unschedule(job)
    assert cluster.objects == {}


def test_a_server_that_refuses_is_one_line(cluster: Cluster, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server refuses, and a server that is not there, end as a user's mistake of one line."""
    bad = kuberay.schedule(job, "0 2 * * *", None, "cronjob").replace("concurrencyPolicy", "concurrencyPolizy")
    with pytest.raises(UserError, match=r"kubectl apply: .*concurrencyPoli") as refused:
        kuberay.apply(job, bad)
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    with pytest.raises(UserError, match="kubectl get: ") as nobody:
        KuberayGround().standing(job)
    assert "\n" not in str(nobody.value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubectl_takes_what_infra_ships(folder: str, cluster: Cluster) -> None:
    """`kubectl apply` makes every object of every overlay, as a dry run and for good."""
    words = ["kubectl", "apply", "-k", str(INFRA / "kubernetes" / folder)]
    tried = subprocess.run([*words, "--dry-run=client"], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    assert cluster.objects == {}
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert cluster.names("rayclusters") == ["facemint"]
    assert len(cluster.objects) == len(done.stdout.splitlines()) == len(tried.stdout.splitlines())
