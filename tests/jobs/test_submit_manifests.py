"""Manifests and batch scripts that `submit` renders: valid for every recipe, and all of one set of resources."""

from __future__ import annotations

import math
import shlex
import subprocess
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import wiring
from jobs.submitting import kuberay
from jobs.submitting.job import Job
from jobs.submitting.kuberay import KuberayGround
from jobs.submitting.manifests import require_renderable
from jobs.submitting.slurm import batch_script
from pipeline.domain.errors import RecipeError, UserError
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.execute.demand import Node, demand_of
from tests.infra.strict import problems, requires_schemas
from tests.recipes import sketch_recipe

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
KEY = st.from_regex(
    r"([a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?\.io/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,12}[A-Za-z0-9])?", fullmatch=True
)
PATH = st.from_regex(r"(/[A-Za-z0-9][A-Za-z0-9._-]{0,10}){1,3}", fullmatch=True)
IMAGE = st.sampled_from(["facemint:cpu", "r.example.com:5000/a/facemint:v1.2", f"facemint@sha256:{'a' * 64}"])
TOLERATION = st.fixed_dictionaries(
    {"key": KEY},
    optional={"value": LABEL, "effect": st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])},
)
KUBERNETES = st.fixed_dictionaries(
    {"image": IMAGE},
    optional={
        "namespace": LABEL,
        "pull_secret": LABEL,
        "service_account": LABEL,
        "credentials": LABEL,
        "cache_claim": LABEL,
        "data_claim": LABEL,
        "data_path": PATH,
        "gpu_resource": st.sampled_from(["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb"]),
        "tolerations": st.lists(TOLERATION, max_size=3),
        "queue": LABEL,
        "head_cpus": st.floats(0.1, 64),
        "head_memory_gib": st.floats(0.5, 512),
    },
)
SLURM = st.fixed_dictionaries(
    {},
    optional={
        "partition": LABEL,
        "account": LABEL,
        "qos": LABEL,
        "warning_s": st.integers(20, 600),
        "setup": st.lists(
            st.sampled_from(["module load cuda", "source /opt/x/bin/activate", "ulimit -n 4096"]), max_size=2
        ),
    },
)
COMPUTE = st.fixed_dictionaries(
    {"kubernetes": KUBERNETES, "slurm": SLURM},
    optional={
        "workers": st.integers(1, 5000),
        "workers_per_node": st.integers(1, 16),
        "cpus": st.floats(0.25, 64),
        "gpus": st.one_of(st.integers(0, 8), st.floats(0.05, 1)),
        "memory_gib": st.floats(0.5, 512),
        "spot": st.booleans(),
        "node_labels": st.dictionaries(KEY, LABEL, max_size=3),
        "model_cache": PATH,
        "time_limit_min": st.integers(20, 100_000),
        "unit_limit_s": st.floats(1, 1e6),
    },
)


def recipe_of(compute: dict[str, Any], **changes: Any) -> Recipe:
    """Return a validated sketch recipe with this `compute`."""
    return parse_recipe(wiring.full_model(), sketch_recipe(compute={"executor": "ray", **compute}, **changes), "test")


def job_of(compute: dict[str, Any], out: str = "s3://bucket/set", **more: Any) -> Job:
    """Return a job of such a recipe."""
    recipe = recipe_of(compute)
    return Job("facemint-sketches-0123456789", recipe.model_dump(mode="json"), out, recipe.compute, **more)


def manifests_of(job: Job) -> list[dict[str, Any]]:
    """Return everything that Kubernetes could be sent for a job."""
    texts = [KuberayGround().rendered(job, 1)]
    texts += [kuberay.schedule(job, "0 2 * * *", "Europe/Zurich", kind) for kind in ("raycronjob", "cronjob")]
    return [document for text in texts for document in yaml.safe_load_all(text)]


@requires_schemas
@settings(max_examples=15)
@given(compute=COMPUTE)
def test_manifests_of_any_recipe_are_valid_to_the_letter(compute: dict[str, Any]) -> None:
    """Whatever a valid recipe asks for, every manifest of it is valid, with no field that its kind does not have."""
    job = job_of(compute)
    made = manifests_of(job)

    assert [d["kind"] for d in made] == [
        "RayJob", "ConfigMap", "PodDisruptionBudget", "ConfigMap", "RayCronJob", "ConfigMap", "CronJob",
    ]  # fmt: skip
    assert [p for document in made for p in problems(document)] == []
    assert all(len(d["metadata"]["name"]) <= 47 for d in made)


@settings(max_examples=30)
@given(compute=COMPUTE)
def test_the_recipe_that_pods_mount_is_the_recipe(compute: dict[str, Any]) -> None:
    """The recipe that travels says the same as the one that was given: equal values, so an equal fingerprint."""
    recipe = recipe_of(compute)
    job = Job("facemint-x-0", recipe.model_dump(mode="json"), "s3://bucket/set", recipe.compute)

    again = parse_recipe(wiring.full_model(), yaml.safe_load(job.recipe_yaml()), "there")

    assert again == recipe
    assert wiring.prints_of(again).fingerprint == wiring.prints_of(recipe_of({})).fingerprint


@settings(max_examples=30)
@given(compute=COMPUTE)
def test_one_set_of_resources_drives_every_ground(compute: dict[str, Any]) -> None:
    """Pods and Slurm's nodes are as many and as large as the recipe's workers need, and no smaller."""
    job = job_of(compute)
    asked = job.compute
    group = manifests_of(job)[0]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    container = group["template"]["spec"]["containers"][0]
    script = batch_script(job, 1, kuberay.Path("/jobs/x"))

    assert group["maxReplicas"] * asked.workers_per_node >= job.workers()
    assert (group["maxReplicas"] - 1) * asked.workers_per_node < job.workers()
    assert f"#SBATCH --nodes={group['maxReplicas']}\n" in script
    cpus = int(container["resources"]["requests"]["cpu"])
    assert cpus >= asked.cpus * asked.workers_per_node > cpus - 1
    assert f"#SBATCH --cpus-per-task={cpus}\n" in script
    gpus = int(container["resources"].get("limits", {}).get(asked.kubernetes.gpu_resource, 0))
    assert gpus >= asked.gpus * asked.workers_per_node - 1e-6
    assert (gpus > 0) == (asked.gpus > 0) == (f"#SBATCH --gpus-per-node={gpus}\n" in script)
    if asked.memory_gib is not None:
        mib = int(container["resources"]["requests"]["memory"].removesuffix("Mi"))
        assert mib == math.ceil(asked.memory_gib * asked.workers_per_node * 1024)
        assert f"#SBATCH --mem={mib}M\n" in script
    params = group["rayStartParams"]
    labels = group.get("labels", {})
    node = Node(float(params["num-cpus"]), float(params["num-gpus"]), float(params.get("memory", 0)), labels)
    assert demand_of(asked).fit(node) >= asked.workers_per_node
    words = [f"--memory={params['memory']}"] if "memory" in params else []
    words += [shlex.quote("--labels=" + ",".join(f"{k}={v}" for k, v in labels.items()))] if labels else []
    assert f'        {" ".join([*words, ">>"])} "$place/ray.log"' in script
    assert ("affinity" in group["template"]["spec"]) == asked.spot
    told = {e["name"]: e["value"] for e in container["env"]}
    assert told.get("FACEMINT_MODELS") == asked.model_cache
    assert (f"export FACEMINT_MODELS={asked.model_cache}\n" in script) == (asked.model_cache is not None)


@settings(max_examples=15)
@given(compute=COMPUTE, out=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
def test_batch_scripts_are_shell_and_quote_what_they_are_given(compute: dict[str, Any], out: str) -> None:
    """Bash can read every script, and the place of the dataset arrives as one word, whatever is in it."""
    job = job_of(compute, f"s3://bucket/{out}", arguments=("--summary", "a b'c"))
    script = batch_script(job, 1, kuberay.Path("/jobs/x"))

    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    (line,) = (line for line in script.splitlines() if line.startswith("facemint generate"))
    words = shlex.split(line.removesuffix(" &"))
    assert words[words.index("--out") + 1] == f"s3://bucket/{out}"
    assert words[-2:] == ["--summary", "a b'c"]


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"gpus": 1.5}, "more than one device and not a whole number"),
        ({"min_workers": 3, "workers": 2}, "min_workers 3 is more than workers 2"),
        ({"slurm": {"setup": ["a\nb"]}}, "one shell line per item"),
        ({"kubernetes": {"namespace": "Upper"}}, "compute.kubernetes.namespace"),
        ({"model_cache": "relative"}, "compute.model_cache"),
        ({"model_cache": "/models/../etc"}, "compute.model_cache"),
        ({"slurm": {"partition": "a b; rm"}}, "compute.slurm.partition"),
    ],
)
def test_resources_that_no_ground_could_give_are_refused(compute: dict[str, Any], message: str) -> None:
    """Nonsense in `compute` is one line that names the key."""
    with pytest.raises(RecipeError) as refused:
        recipe_of(compute)

    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("compute", "out", "message"),
    [
        ({}, "s3://bucket/set", "compute.kubernetes.image: left out"),
        ({"kubernetes": {"image": "x:1"}, "executor": "inline"}, "s3://bucket/set", "set ray"),
        ({"kubernetes": {"image": "x:1"}}, "/home/me/set", "which pods do not see"),
        ({"kubernetes": {"image": "x:1", "data_claim": "data"}}, "/database/set", "which pods do not see"),
    ],
)
def test_what_pods_could_not_do_is_refused(compute: dict[str, Any], out: str, message: str) -> None:
    """Without an image, a cluster or a place that pods see, nothing is rendered."""
    with pytest.raises(UserError, match=message):
        require_renderable(job_of(compute, out))


def test_an_allocation_without_time_to_work_is_refused() -> None:
    """A time limit of which the warning takes more than half would queue a job again and again, and make nothing."""
    with pytest.raises(UserError, match="leaves less than half to work in"):
        batch_script(job_of({"time_limit_min": 2}), 1, kuberay.Path("/jobs/x"))


def test_a_claim_makes_a_folder_of_pods_usable() -> None:
    """With a claim for data, a path below its mount is a place, and every pod of the run sees it."""
    job = job_of({"kubernetes": {"image": "x:1", "data_claim": "sets"}}, "/data/set")
    spec = manifests_of(job)[0]["spec"]["rayClusterSpec"]

    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "sets"}} in pod["volumes"]
        assert {"name": "data", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]


def test_no_secret_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the submitting machine are in nothing that is rendered: pods take theirs from a secret by name."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "do-not-tell")
    job = job_of({"kubernetes": {"image": "x:1", "credentials": "store"}})

    texts = [KuberayGround().rendered(job, 1), batch_script(job, 1, kuberay.Path("/jobs/x"))]

    assert "do-not-tell" not in "".join(texts)
    assert "secretRef:\n" in texts[0]


@pytest.mark.parametrize(
    ("compute", "arguments", "tries"),
    [
        ({}, (), 2),
        ({"deadline": "6h"}, (), 0),
        ({"budget": {"images": 1000}}, (), 0),
        ({}, ("--budget", "worker-hours=8"), 0),
        ({}, ("--deadline=6h",), 0),
    ],
)
def test_a_run_with_a_limit_is_not_tried_again_by_kubernetes(
    compute: dict[str, Any], arguments: tuple[str, ...], tries: int
) -> None:
    """KubeRay cannot tell status 6 from a lost head: one more try would spend a budget once more."""
    job = job_of({"kubernetes": {"image": "registry/facemint:1"}, **compute}, arguments=arguments)
    ray_jobs = [d["spec"] for d in manifests_of(job) if d["kind"] == "RayJob"]
    ray_jobs += [d["spec"]["jobTemplate"] for d in manifests_of(job) if d["kind"] == "RayCronJob"]
    assert [spec["backoffLimit"] for spec in ray_jobs] == [tries] * 2
