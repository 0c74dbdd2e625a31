"""`facemint models`, from a hub on loopback to a recipe: fetched once, checked, converted; licences; every mistake."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from jobs import wiring
from jobs.cli import app
from jobs.wiring import models
from jobs.wiring.calibrating import recogniser_node
from jobs.wiring.library import known_weights
from pipeline.domain.compute import Compute
from pipeline.domain.errors import ModelError, RecipeError, UserError
from pipeline.domain.model_cards import PUBLISHED
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.domain.weights import WeightsRef
from tests.recipes import sketch_recipe

COMMIT = "f00d" * 10
FILE = f"hf://owner/name@{COMMIT}/weights/model.safetensors"
MB = 1 << 20
PATIENCE_s = 240.0
"""For a command that takes seconds, on a machine that others keep busy."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for fetched weights, which is nobody's own."""
    monkeypatch.setenv("FACEMINT_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def facemint(*arguments: str) -> dict[str, Any]:
    """Run a verb in this process, and return the JSON that it prints."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    facts: dict[str, Any] = json.loads(done.output)
    return facts | {"exit": done.exit_code}


class Hub:
    """A hub on loopback that serves one file, slowly, and counts how often its bytes are asked for.

    Once `asked`, it sends none of them before `open`.
    """

    def __init__(self, content: bytes) -> None:
        self.asked, self.open = 0, threading.Event()
        self.open.set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _head(self) -> bool:
                found = self.path == f"/owner/name/resolve/{COMMIT}/weights/model.safetensors"
                self.send_response(200 if found else 404)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content) if found else 0))
                if not found:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return found

            def do_HEAD(self) -> None:
                self._head()

            def do_GET(self) -> None:
                if self._head():
                    hub.asked += 1
                    time.sleep(1.0)
                    if not hub.open.wait(300):
                        return
                    self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """Return a file of safe weights of about two megabytes."""
    save_file({"a.weight": torch.arange(MB / 2)}, tmp_path / "made.safetensors")
    return tmp_path / "made.safetensors"


@pytest.fixture
def hub(weights_file: Path) -> Iterator[Hub]:
    """Return a hub that has the weights."""
    served = Hub(weights_file.read_bytes())
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    yield served
    served.open.set()
    served.server.shutdown()
    served.server.server_close()
    thread.join()


def started(*arguments: str, most_kb: str = "unlimited", **environment: str) -> subprocess.Popen[str]:
    """Start a verb in a process of its own, with a network, whose files may have so many kilobytes."""
    return subprocess.Popen(
        ["bash", "-c", f'ulimit -f {most_kb}; exec "$@"', "-", sys.executable, "-m", "jobs.cli", *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_that_fetch_at_once_ask_the_hub_once(hub: Hub, weights_file: Path, cache: Path) -> None:
    """The second waits for the first and finds the bytes; then the cache is sound and serves without a network."""
    both = [started("models", "fetch", FILE, "--json", HF_ENDPOINT=hub.endpoint) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE_s) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    for out, _ in outputs:
        (row,) = json.loads(out)["fetched"]
        assert (row["sha256"], row["bytes"], row["uri"]) == (digest, weights_file.stat().st_size, FILE)
    assert hub.asked == 1
    found = facemint("models", "check")
    assert [(row["uri"], row["state"]) for row in found["checked"]] == [(FILE, "sound")]
    assert facemint("models", "fetch", FILE)["fetched"][0]["sha256"] == digest
    assert not list((cache / "arriving").glob("*"))


def test_a_killed_fetch_hinders_nobody(hub: Hub, weights_file: Path, cache: Path) -> None:
    """Who is killed in the middle leaves no lock, and nothing that counts as the file: the next one fetches it."""
    hub.open.clear()
    killed = started("models", "fetch", FILE, HF_ENDPOINT=hub.endpoint)
    deadline = time.monotonic() + PATIENCE_s
    while hub.asked == 0 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    _, err = killed.communicate()
    hub.open.set()
    assert hub.asked == 1, err
    assert not (cache / "blobs").exists()
    done = started("models", "fetch", FILE, "--json", HF_ENDPOINT=hub.endpoint)
    out, err = done.communicate(timeout=PATIENCE_s)
    assert done.returncode == 0, err
    assert json.loads(out)["fetched"][0]["sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()


def test_a_full_disk_while_fetching_is_one_line(weights_file: Path, cache: Path) -> None:
    """No room for the file ends in one line that says where, and gives back the room that it took."""
    limited = started("models", "fetch", f"local://{weights_file}", most_kb="1024")
    _, err = limited.communicate(timeout=PATIENCE_s)
    assert limited.returncode == 2
    said, told = err.splitlines()
    assert said == f"bringing local://{weights_file}"
    assert told.startswith(f"facemint: local://{weights_file}: there is no room for it in {cache}")
    assert "FACEMINT_MODELS" in err
    assert not list((cache / "arriving").rglob("part"))


def test_altered_and_missing_weights_end_a_check_with_2(weights_file: Path, tmp_path: Path) -> None:
    """A check reads bytes, not times: what was altered behind them is found; what is missing names the command."""
    uri = f"local://{weights_file}"
    kept = Path(facemint("models", "fetch", uri)["fetched"][0]["path"])
    times = kept.stat()
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes()[:-1] + b"\x7f")
    os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
    for reference in ([uri], []):
        found = facemint("models", "check", *reference)
        assert (found["checked"][0]["state"], found["problems"], found["exit"]) == ("altered", 1, 2), reference
    missing = facemint("models", "check", FILE)
    assert (missing["checked"][0]["state"], missing["exit"]) == ("missing", 2)
    assert "facemint models fetch" in missing["checked"][0]["said"]
    torch.save({"x": torch.nn.Linear(1, 1)}, tmp_path / "whole.pth")
    refused = facemint("models", "check", str(tmp_path / "whole.pth"))
    assert (refused["checked"][0]["state"], refused["exit"]) == ("refused", 2)
    assert "facemint models convert" in refused["checked"][0]["said"]


def test_a_recipe_is_fetched_and_checked_whole(tmp_path: Path, weights_file: Path) -> None:
    """Every reference in a recipe is fetched, wherever it stands; then each is checked under its pinned digest."""
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    uri = f"local://{weights_file}"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"generator: {{weights: {{uri: '{uri}', sha256: {digest}}}, commercial: true, licence: own}}\n"
        f"measures:\n  - weights: {{uri: {weights_file}}}\n  - weights: {{uri: 'formula:x'}}\n"
    )
    assert [row["sha256"] for row in facemint("models", "fetch", str(recipe))["fetched"][:2]] == [digest, digest]
    found = facemint("models", "check", str(recipe))
    assert [row["state"] for row in found["checked"]] == ["sound"] * 3
    assert found["exit"] == 0


def test_every_card_states_what_is_known_and_what_is_not() -> None:
    """Each has a licence and a source; a digest is a whole one or unknown; nothing unseen is said to allow commerce."""
    cards = facemint("models", "list")["models"]
    assert {card["name"] for card in cards} == set(PUBLISHED)
    for model in cards:
        assert model["licence"], model["name"]
        assert model["source"], model["name"]
        assert model["sha256"] is None or len(model["sha256"]) == 64, model["name"]
        assert not (model["commercial"] and ("not seen" in model["licence"] or "non-commercial" in model["licence"]))
    shown = CliRunner().invoke(app, ["models", "list", "vec2face"]).output
    assert "unknown: the published file was not seen here" in shown
    assert "WebFace4M" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "nobody"], "nobody: no such model is known; known: vec2face"),
        (["fetch", "arc2face-unet"], r"which commit of FoivosPar/Arc2Face\? Give arc2face-unet@COMMIT"),
        (["fetch", "magface"], "no address of its file is known here; get it from MagFace"),
        (["fetch", "hf://a/b@main/c"], "'main' is no commit"),
        (["fetch", FILE], "cannot be reached"),
        (["fetch", "demo"], "demo: names no weights"),
        (["fetch", "no-such-recipe"], "neither a file nor a shipped recipe"),
        (["fetch", FILE, "--sha256", "abc"], "--sha256 abc: is no SHA-256"),
        (["fetch", FILE, FILE, "--sha256", "a" * 64], "states the bytes of one file"),
        (["convert", "none.pth", "out.safetensors"], "none.pth: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    """A name nobody knows, a branch, no network, a recipe without weights: each says what to do."""
    with pytest.raises(UserError, match=message) as caught:
        facemint("models", *arguments)
    assert "\n" not in str(caught.value)


def test_a_pickle_becomes_safe_through_the_verb(tmp_path: Path) -> None:
    """`convert` writes a file whose digest it prints, and which a check finds sound."""
    torch.save({"model": {"a.weight": torch.ones(3)}}, tmp_path / "in.pth")
    fetched = f"local://{tmp_path / 'in.pth'}"
    facemint("models", "fetch", fetched)
    answer = facemint("models", "convert", fetched, str(tmp_path / "out"), "--section", "model")
    assert answer["sha256"] == hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()
    found = facemint("models", "check", str(tmp_path / "out"))["checked"][0]
    assert (found["state"], found["tensors"], found["form"]) == ("sound", 1, "safetensors")


def with_measure(node: dict[str, Any], *, commercial: bool = False) -> Recipe:
    """Return a recipe of sketches with one measure more."""
    raw = sketch_recipe()
    use = {**raw.get("use", {}), "commercial": commercial}
    return parse_recipe(wiring.full_model(), {**raw, "measures": [*raw["measures"], node], "use": use}, "mine")


KNOWN = {
    "use": "iresnet-norm",
    "weights": {"uri": f"hf://BooBooWu/Vec2Face@{COMMIT}/weights/magface-r100-glint360k.pth", "sha256": "a" * 64},
}


def test_a_commercial_recipe_stops_with_the_name_of_a_model_that_forbids_it() -> None:
    """Known weights bring their licence with them; whoever has another agreement states it."""
    with pytest.raises(RecipeError, match=r"use.commercial is true, but feature-norm is licensed MIT; trained on Web"):
        wiring.check_parts(with_measure(KNOWN, commercial=True), "mine")
    assert [card.name for card in known_weights(with_measure(KNOWN))] == ["vec2face-quality"]
    own = {**KNOWN, "licence": "our agreement of 2026", "commercial": True}
    assert known_weights(with_measure(own, commercial=True)) == []


def test_weights_are_named_by_digest_and_not_by_place(tmp_path: Path, weights_file: Path) -> None:
    """The same bytes at another path are the same recipe; other bytes at the same path are another one."""
    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes(weights_file.read_bytes())

    def fingerprint(path: Path) -> str:
        found: str = wiring.prints_of(with_measure({"use": "iresnet-norm", "weights": {"uri": str(path)}})).fingerprint
        return found

    before = fingerprint(weights_file)
    assert fingerprint(elsewhere) == before
    save_file({"a.weight": torch.ones(3)}, elsewhere)
    assert fingerprint(elsewhere) != before


def test_workers_fetch_only_where_the_environment_says_so(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline is the default of every process that runs a recipe; FACEMINT_FETCH=1 lets each machine fetch once."""
    ref = WeightsRef(uri=f"local://{weights_file}")
    with pytest.raises(ModelError, match="runs fetch nothing"):
        models.weights().path(ref)
    monkeypatch.setenv("FACEMINT_FETCH", "1")
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert models.weights().path(ref).name == digest
    weights_file.unlink()
    monkeypatch.delenv("FACEMINT_FETCH")
    assert models.weights().sha256(ref) == digest


@pytest.mark.parametrize(
    ("driver", "recipe", "node", "expected"),
    [
        ({"FACEMINT_MODELS": "/of/the/driver"}, None, {}, {"FACEMINT_MODELS": ""}),
        ({"FACEMINT_MODELS": "/of/the/driver"}, "/models", {}, {"FACEMINT_MODELS": "/models"}),
        ({}, "/models", {"FACEMINT_MODELS": "/of/the/node"}, {"FACEMINT_MODELS": "/of/the/node"}),
        ({"FACEMINT_FETCH": "1"}, None, {}, {"FACEMINT_FETCH": "1"}),
        ({"FACEMINT_FETCH": "1"}, None, {"FACEMINT_FETCH": "0"}, {"FACEMINT_FETCH": "0"}),
        ({"FACEMINT_FETCH": "0"}, None, {}, {"FACEMINT_FETCH": ""}),
        ({}, None, {"FACEMINT_FETCH": "1"}, {"FACEMINT_FETCH": "1"}),
    ],
)
def test_a_cluster_is_told_the_recipes_folder_and_the_leave_to_fetch_but_no_path_of_this_machine(
    driver: dict[str, str],
    recipe: str | None,
    node: dict[str, str],
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a node itself says stands; the folder of the driver, which another machine may not have, stays here."""

    def environment(said: dict[str, str]) -> None:
        for variable in ("FACEMINT_MODELS", "FACEMINT_FETCH"):
            monkeypatch.setenv(variable, said.get(variable, ""))

    environment(driver)
    compute = Compute(model_cache=recipe)
    assert models.told(compute, None) == {}
    told = models.told(compute, "head:6379")
    environment(node)

    assert models.built_there(told, lambda: {name: os.environ[name] for name in expected}) == expected


def test_a_recogniser_is_built_from_the_command_line_and_handed_its_weights() -> None:
    """`--set` reaches into the reference, the part brings features, and one that is missing says how to fetch it."""
    node = recogniser_node("iresnet", ["name=r18", "depth=18", "weights.uri=formula:r18"])
    emb_NE = wiring.build("judge", node).embed(np.zeros((1, 112, 112, 3), np.uint8))
    assert emb_NE.shape == (1, 512)
    with pytest.raises(ModelError, match="facemint models fetch"):
        wiring.build("judge", recogniser_node("iresnet", ["name=r18", f"weights.uri={FILE}"]))
