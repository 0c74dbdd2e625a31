"""A Ray cluster that stands, with a token: submissions are followed, joined, cancelled, and resumed by the next."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.adapters.stores import LocalStore
from tests.end_to_end.commands import (
    end,
    larger_recipe,
    receipts_in,
    require_one_line,
    require_undisturbed,
    run,
    start,
    wait_for,
)
from tests.worlds import mint, sketches

pytestmark = [pytest.mark.ray, pytest.mark.soak]
COUNT, IMAGES = 300, 6
BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Start a Ray head with a dashboard that asks for a token; give the environment of those who have it."""
    pytest.importorskip("aiohttp_cors", reason="Ray's dashboard is not installed: pip install 'facemint[cluster]'")
    # a short path: names of sockets are
    folder, dashboard = tempfile.mkdtemp(prefix="fm-ray-"), free_port()
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    }
    words = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}", f"--temp-dir={folder}"]
    words += ["--include-dashboard=true", f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0"]
    words += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--object-store-memory={96 * 2**20}"]
    with Path(folder, "start").open("wb") as log:
        head = subprocess.Popen([str(BIN / words[0]), *words[1:]], env=environment, stdout=log, stderr=log)
    try:
        told = {**environment, "ADDRESS": f"http://127.0.0.1:{dashboard}"}
        ready = [
            sys.executable,
            "-c",
            f"from ray.job_submission import JobSubmissionClient as C; C({told['ADDRESS']!r})",
        ]
        wait_for(lambda: run(ready, **told)[0] == 0, head)
        yield told
    finally:
        head.terminate()
        try:
            head.wait(timeout=60)
        except subprocess.TimeoutExpired:
            head.kill()
        shutil.rmtree(folder, ignore_errors=True)


def recipe_file(folder: Path) -> Path:
    """Write a recipe of 150 units for two workers; return its path."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(larger_recipe(COUNT, IMAGES, compute={"executor": "ray", "workers": 2})))
    return path


def submit(cluster: dict[str, str], recipe: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a submission to that cluster."""
    words = ["submit", str(recipe), "--out", str(out), "--on", "ray", "--address", cluster["ADDRESS"], "--json"]
    return [sys.executable, "-m", "jobs.cli", *words, *more]


def test_submissions_are_cancelled_and_resumed(cluster: dict[str, str], tmp_path: Path) -> None:
    """A cancelled run drains and says 143; the next submission is a new try, and ends as an undisturbed run does."""
    recipe, out = recipe_file(tmp_path), tmp_path / "set"
    process = start(submit(cluster, recipe, out), **cluster)
    wait_for(lambda: receipts_in(out, "make") >= 1, process)
    status, errors = run(submit(cluster, recipe, out, "--cancel"), **cluster)
    assert status == 0, errors
    status, errors = end(process)
    assert status == 143, errors
    lease = max(out.glob("runs/lease-*.json"))
    assert json.loads(lease.read_text())["expires_s"] == 0, "it was killed before it had drained"
    again = start(submit(cluster, recipe, out), **cluster)
    told, errors = again.communicate(timeout=300)
    facts = json.loads(told)
    assert facts["submission"].endswith("-2"), errors
    assert facts["outcome"]["status"] == 0, errors
    # the driver's own words reached whoever followed it
    assert "Digest" in errors
    require_undisturbed(LocalStore(out), COUNT, IMAGES)


def test_statuses_are_those_of_the_run(cluster: dict[str, str], tmp_path: Path) -> None:
    """A mistake that only the run can find, a wrong token and a wrong address end with their status and one line."""
    recipe = recipe_file(tmp_path)
    mint(sketches(seed=8), LocalStore(tmp_path / "taken"))
    status, errors = run(submit(cluster, recipe, tmp_path / "taken"), **cluster)
    assert status == 2, errors
    assert "use another --out, or the recipe in recipes/g0.yaml" in errors
    status, errors = run(submit(cluster, recipe, tmp_path / "set"), **{**cluster, "RAY_AUTH_TOKEN": "f" * 32})
    assert status == 2
    require_one_line(errors, "--address http://127.0.0.1:", "the Ray cluster refused the token")
    elsewhere = {**cluster, "ADDRESS": f"http://127.0.0.1:{free_port()}"}
    status, errors = run(submit(elsewhere, recipe, tmp_path / "set"), **elsewhere)
    assert status == 2
    assert "no Ray cluster with a dashboard answers there" in errors
