"""The command line as an operator runs it, on a sketch recipe that lasts a second or two: long enough to have a middle.

What a run must end with comes from `undisturbed`, which mints the same recipe in this process, in memory.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.ports import Store
from tests.recipes import sketch_recipe
from tests.worlds import bytes_of, mint, sketches

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_s = 240.0
"""For a command that takes seconds, on a machine that others keep busy."""


def larger_recipe(count: int = 24, images: int = 5, **changes: Any) -> dict[str, Any]:
    """Return a sketch recipe of some thirty units whose generator misses now and then."""
    small = sketch_recipe()
    recipe = {
        "identities": {**small["identities"], "count": count, "images_per_identity": images},
        "enrol": {**small["enrol"], "separation": {"cos": 0.9}},
        "filters": [{"use": "own-template", "fmr": 1e-2}, *small["filters"][2:]],
        "generator": {"use": "sketch", "noise": 2.0},
        "attempts": 6,
        "unit": {"identities": 2, "window": 2},
    }
    return sketch_recipe(**{**recipe, **changes})


@functools.cache
def undisturbed(count: int = 24, images: int = 5) -> Mapping[str, bytes]:
    """Return the bytes of a larger recipe's dataset that nothing happened to."""
    store = MemoryStore()
    mint(sketches(**larger_recipe(count, images)), store)
    return bytes_of(store)


def require_undisturbed(store: Store, count: int = 24, images: int = 5) -> None:
    """Fail unless a store holds what an undisturbed run leaves, naming the files that differ."""
    wanted, there = undisturbed(count, images), bytes_of(store)
    assert sorted(there.keys() ^ wanted.keys()) == [], f"there or wanted alone: {sorted(there.keys() ^ wanted.keys())}"
    differing = [path for path in wanted if there[path] != wanted[path]]
    assert differing == [], differing


def written(folder: Path, recipe: Mapping[str, Any] | None = None) -> Path:
    """Write a recipe as YAML; return its path."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe or larger_recipe())))
    return path


def command(recipe: Path, out: str | Path, *more: str) -> list[str]:
    """Return the command line that mints a recipe, quietly; inline where `more` names no executor."""
    executor = () if "--executor" in more else ("--executor", "inline")
    return [sys.executable, "-m", "jobs.cli", "generate", str(recipe), "--out", str(out), "--json", *executor, *more]


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command; what it says is kept."""
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command; return its exit status and what it wrote to standard error."""
    try:
        _, errors = process.communicate(timeout=PATIENCE_s)
    finally:
        process.kill()
    return process.returncode, errors


def run(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Run a command to its end; return its exit status and what it wrote to standard error."""
    return end(start(arguments, **environment))


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so while a command runs."""
    deadline_s = time.monotonic() + PATIENCE_s
    while not done():
        if process.poll() is not None:
            raise AssertionError(f"it ended first, with status {process.returncode}: {end(process)[1]}")
        if time.monotonic() > deadline_s:
            process.kill()
            raise AssertionError(f"it did not come to that: {end(process)[1]}")
        time.sleep(0.002)


def freeze(process: subprocess.Popen[str]) -> None:
    """Stop a command, as a machine that sleeps does; returns when all of its threads stand still."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def receipts_in(out: Path, stage: str = "") -> int:
    """Return how many receipts a local dataset has, of one stage or of all."""
    return len(list(out.glob(f"receipts/{stage}*.json")))


def require_one_line(errors: str, *parts: str) -> None:
    """Fail unless a command said one line, ours, which has these parts."""
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("facemint: "), errors
    assert [part for part in parts if part not in lines[0]] == [], errors
