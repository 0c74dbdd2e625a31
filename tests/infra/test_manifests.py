"""What `infra/` ships for clusters: every manifest is valid to the letter, and keeps the promises of its README."""

from __future__ import annotations

import functools
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.strict import problems, requires_schemas

INFRA = Path(__file__).resolve().parents[2] / "infra"
FOLDERS = ("base", "overlays/dev", "overlays/gpu", "overlays/spot")

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed: no kustomize here"
)


@functools.cache
def built(folder: str) -> list[dict[str, Any]]:
    """Return what kustomize makes of a folder."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(INFRA / "kubernetes" / folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(folder: str, kind: str) -> dict[str, Any]:
    """Return the only manifest of a kind."""
    (found,) = (d for d in built(folder) if d["kind"] == kind)
    return found


def worker_pod(folder: str) -> dict[str, Any]:
    """Return the pod that workers are."""
    spec: dict[str, Any] = one(folder, "RayCluster")["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    return spec


@requires_schemas
@pytest.mark.parametrize("path", sorted((INFRA / "kubernetes").glob("base/*.yaml")), ids=lambda p: p.name)
def test_plain_files_are_valid_to_the_letter(path: Path) -> None:
    """Every manifest of the base is valid as it lies there, without a field that its kind does not have."""
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] != "Kustomization":
            assert problems(document) == [], document["kind"]


@needs_kubectl
@requires_schemas
@pytest.mark.parametrize("folder", FOLDERS)
def test_overlays_build_and_are_valid_to_the_letter(folder: str) -> None:
    """What kustomize makes of the base and of every overlay is valid, and all of it lies in one namespace."""
    made = built(folder)

    assert [p for document in made for p in problems(document)] == []
    spaces = {d["metadata"]["namespace"] for d in made if d["kind"] != "Namespace"}
    assert spaces == {next(d["metadata"]["name"] for d in made if d["kind"] == "Namespace")}


@needs_kubectl
@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_hold_what_the_namespace_enforces(folder: str) -> None:
    """Head and workers keep to the restricted pod security standard, have probes and bounded memory."""
    spec = one(folder, "RayCluster")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"livenessProbe", "readinessProbe"} <= container.keys()
            assert container["resources"]["limits"]["memory"]
            assert [e for e in container.get("env", []) if "SECRET" in e["name"]] == []
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["workerGroupSpecs"][0]["minReplicas"] == 0


@needs_kubectl
def test_overlays_change_what_they_say() -> None:
    """Dev is one small worker and no budget, gpu asks for a device, spot puts up with what marks such nodes."""
    assert one("overlays/dev", "RayCluster")["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 1
    assert [d for d in built("overlays/dev") if d["kind"] == "PodDisruptionBudget"] == []
    limits = worker_pod("overlays/gpu")["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert "affinity" not in worker_pod("overlays/gpu")
    spot = worker_pod("overlays/spot")
    keys = {t["key"] for t in spot["tolerations"]}
    terms = spot["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {t["matchExpressions"][0]["key"] for t in terms} == keys - {"nvidia.com/gpu"}
    assert "affinity" not in one("overlays/spot", "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]


def test_cluster_is_of_the_ray_that_is_tested() -> None:
    """The cluster's Ray version is the one that constraints.txt pins and this environment has."""
    cluster = yaml.safe_load((INFRA / "kubernetes/base/cluster.yaml").read_text())

    assert cluster["spec"]["rayVersion"] == version("ray")
    assert f"ray=={version('ray')}" in (INFRA.parent / "constraints.txt").read_text().splitlines()


@requires_schemas
def test_the_check_refuses_what_servers_would() -> None:
    """A mistyped field, a wrong type and a pod that is none are each found: the checks above can fail."""
    document = yaml.safe_load((INFRA / "kubernetes/base/cluster.yaml").read_text())
    assert problems(document) == []
    group = document["spec"]["workerGroupSpecs"][0]
    for place, name, value in (
        (document["spec"], "enableInTreeAutoscalling", True),
        (group, "maxReplicas", "8"),
        (group["template"]["spec"], "tolerationz", []),
        (group["template"]["spec"]["containers"][0], "terminationMessagePath", 3),
        (document["metadata"], "label", {}),
    ):
        before = dict(place)
        place[name] = value
        assert problems(document) != [], name
        place.clear()
        place.update(before)
