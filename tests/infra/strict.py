"""Strict checks of manifests offline: KubeRay's own schemas, and Kubernetes' for what stands inside and beside them.

A field that a schema does not list is refused, as a server does under strict field validation.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas"
KUBERNETES = "1.34"
KUBERAY = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}

requires_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason=f"the schemas of KubeRay's kinds are not there ({SCHEMAS.name}/)"
)


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a manifest, as `path: what`; nothing where it is well."""
    if document["kind"] not in KUBERAY:
        return _kubernetes(document)
    found = [
        f"{'/'.join(map(str, e.path))}: {e.message[:200]}" for e in _validator(document["kind"]).iter_errors(document)
    ]
    # the schemas say nothing about metadata, and of pods what the server would check once they are made
    found += _kubernetes({"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]})
    for path, template in _templates(document["spec"], "spec"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        found += [f"{path}: {problem}" for problem in _kubernetes(pod)]
    return found


def _kubernetes(document: Mapping[str, Any]) -> list[str]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(dict(document), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


def _templates(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pod templates inside a custom resource."""
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield path, node
            return
        for name, inner in node.items():
            yield from _templates(inner, f"{path}/{name}")
    elif isinstance(node, list):
        for n, inner in enumerate(node):
            yield from _templates(inner, f"{path}/{n}")


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"kuberay_{KUBERAY[kind]}_v1.schema.json").read_text())
    return jsonschema.Draft202012Validator(closed(schema))


def closed(schema: Any) -> Any:
    """Return a structural schema that refuses what it does not list."""
    schema = copy.deepcopy(schema)
    _close(schema)
    return schema


def _close(node: Any) -> None:
    if isinstance(node, list):
        for inner in node:
            _close(inner)
    if not isinstance(node, dict):
        return
    open_ = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and not open_ and node.get("type") == "object":
        node["additionalProperties"] = False
    for name, inner in node.items():
        if name == "properties":
            for one in inner.values():
                _close(one)
        else:
            _close(inner)
