"""A stand-in for a Kubernetes API server: as much of one as kubectl needs to make, read, change and delete objects.

It keeps what it is given, after the strict checks of `strict.py`: a manifest with an unknown field is refused as a
server refuses it. Nothing runs: a test plays KubeRay by writing a RayJob's status.
"""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.infra.strict import problems

GROUPS: dict[str, dict[str, tuple[str, bool]]] = {
    # group and version -> plural -> kind, and whether it lies in a namespace
    "v1": {
        "configmaps": ("ConfigMap", True),
        "namespaces": ("Namespace", False),
        "persistentvolumeclaims": ("PersistentVolumeClaim", True),
        "pods": ("Pod", True),
        "serviceaccounts": ("ServiceAccount", True),
    },
    "batch/v1": {"cronjobs": ("CronJob", True), "jobs": ("Job", True)},
    "networking.k8s.io/v1": {"networkpolicies": ("NetworkPolicy", True)},
    "policy/v1": {"poddisruptionbudgets": ("PodDisruptionBudget", True)},
    "rbac.authorization.k8s.io/v1": {"roles": ("Role", True), "rolebindings": ("RoleBinding", True)},
    "ray.io/v1": {
        "rayclusters": ("RayCluster", True),
        "rayjobs": ("RayJob", True),
        "raycronjobs": ("RayCronJob", True),
    },
}


class Cluster:
    """What the server keeps: objects by (group and version, plural, name)."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.lock = threading.RLock()

    def names(self, plural: str) -> list[str]:
        """Return the names of the objects of a kind."""
        with self.lock:
            return sorted(name for _, kind, name in self.objects if kind == plural)

    def rayjob(self, name: str) -> dict[str, Any]:
        """Return a RayJob."""
        return self.objects["ray.io/v1", "rayjobs", name]

    def tell(self, name: str, **status: Any) -> None:
        """Write a RayJob's status, as KubeRay does."""
        with self.lock:
            self.rayjob(name)["status"] = status

    def create(self, version: str, plural: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Keep a new object, or refuse it."""
        name = document["metadata"]["name"]
        if wrong := problems(document):
            return 422, _failure("Invalid", f"strict decoding error: {wrong[0]}", 422)
        if (version, plural, name) in self.objects:
            return 409, _failure("AlreadyExists", f'{plural} "{name}" already exists', 409)
        document["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": "1"}
        self.objects[version, plural, name] = document
        return 201, document

    def change(self, key: tuple[str, str, str], patch: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Merge a patch into an object, or refuse it."""
        merged = _merged(self.objects[key], patch)
        bare = {k: v for k, v in merged["metadata"].items() if k not in ("uid", "resourceVersion")}
        if wrong := problems({**merged, "metadata": bare}):
            return 422, _failure("Invalid", f"strict decoding error: {wrong[0]}", 422)
        self.objects[key] = merged
        return 200, merged

    def delete(self, key: tuple[str, str, str]) -> None:
        """Remove an object, and what it owns."""
        gone = self.objects.pop(key)
        for other, kept in list(self.objects.items()):
            owners = kept["metadata"].get("ownerReferences", [])
            if any(o["uid"] == gone["metadata"]["uid"] for o in owners):
                self.objects.pop(other, None)


@contextmanager
def api_server(folder: Path) -> Iterator[tuple[Cluster, str]]:
    """Serve while the block lasts, on loopback; give what it keeps and the file that kubectl finds it by."""
    cluster = Cluster()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(where))
    try:
        yield cluster, str(path)
    finally:
        server.shutdown()
        server.server_close()


def _handler(cluster: Cluster) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def answer(self, code: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def body(self) -> dict[str, Any]:
            value: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            return value

        def place(self) -> tuple[str, str, str | None]:
            """Return group and version, plural and name of what a path speaks of."""
            parts = urllib.parse.urlparse(self.path).path.strip("/").split("/")
            version, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
            if len(rest) > 2 and rest[0] == "namespaces":
                rest = rest[2:]
            return version, rest[0], rest[1] if len(rest) > 1 else None

        def do_GET(self) -> None:
            url = urllib.parse.urlparse(self.path)
            if known := _discovery(url.path) or _openapi(url.path):
                self.answer(200, known)
                return
            if url.path.startswith(("/openapi", "/version")):
                self.answer(404, _failure("NotFound", "not here", 404))
                return
            version, plural, name = self.place()
            with cluster.lock:
                if name is not None:
                    found = cluster.objects.get((version, plural, name))
                    missing = _failure("NotFound", f'{plural} "{name}" not found', 404)
                    self.answer(200 if found else 404, found or missing)
                    return
                wanted = urllib.parse.parse_qs(url.query).get("labelSelector", [""])[0]
                labels = dict(pair.split("=") for pair in wanted.split(",") if pair)
                items = [
                    kept
                    for (v, p, _), kept in cluster.objects.items()
                    if (v, p) == (version, plural) and labels.items() <= kept["metadata"].get("labels", {}).items()
                ]
                kind = GROUPS[version][plural][0]
                self.answer(200, {"apiVersion": version, "kind": f"{kind}List", "metadata": {}, "items": items})

        def do_POST(self) -> None:
            version, plural, _ = self.place()
            with cluster.lock:
                self.answer(*cluster.create(version, plural, self.body()))

        def do_PATCH(self) -> None:
            version, plural, name = self.place()
            with cluster.lock:
                self.answer(*cluster.change((version, plural, name or ""), self.body()))

        def do_DELETE(self) -> None:
            version, plural, name = self.place()
            self.body()
            with cluster.lock:
                if (version, plural, name or "") not in cluster.objects:
                    self.answer(404, _failure("NotFound", f'{plural} "{name}" not found', 404))
                    return
                cluster.delete((version, plural, name or ""))
            self.answer(200, {"apiVersion": "v1", "kind": "Status", "status": "Success", "details": {"name": name}})

    return Handler


def _discovery(path: str) -> dict[str, Any] | None:
    """Return what a path of the discovery tells; None for other paths."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [v for v in GROUPS if "/" in v]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(v) for v in versions]}
    version = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    if version not in GROUPS:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": inside, "kind": kind, "verbs": verbs}
        for plural, (kind, inside) in GROUPS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _openapi(path: str) -> dict[str, Any] | None:
    """Return what tells kubectl that this server validates fields itself, as every server since 1.27 does."""
    places = {("apis/" if "/" in version else "api/") + version: version for version in GROUPS}
    if path == "/openapi/v3":
        return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}
    version = places.get(path.removeprefix("/openapi/v3/"), "")
    group, _, number = version.rpartition("/")
    paths = {}
    for plural, (kind, _) in GROUPS.get(version, {}).items():
        patch = {
            "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {},
        }
        paths[f"/{path.removeprefix('/openapi/v3/')}/{plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "test", "version": "1"}, "paths": paths} if version else None


def _group(version: str) -> dict[str, Any]:
    one = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [one], "preferredVersion": one}


def _merged(old: Any, patch: Any) -> Any:
    """Return a JSON merge patch applied; lists are replaced."""
    if not (isinstance(old, dict) and isinstance(patch, dict)):
        return patch
    out = dict(old)
    for name, value in patch.items():
        if value is None:
            out.pop(name, None)
        else:
            out[name] = _merged(out.get(name), value)
    return out


def _failure(reason: str, message: str, code: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
