"""The README's snippets run as they stand, on a dataset at the place they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore
from pipeline.execute.run import generate
from tests.worlds import Silent, sketches

ROOT = Path(__file__).resolve().parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a dataset at `out/demo`, where the snippets look for it."""
    folder = tmp_path_factory.mktemp("reader")
    generate(wiring.session_on(sketches(), LocalStore(folder / "out/demo"), Silent()))
    return folder


def test_there_are_three_ways_to_read() -> None:
    """Torch, webdataset and datasets each have a snippet."""
    assert len(SNIPPETS) == 3
    for snippet, library in zip(SNIPPETS, ("import torch", "import webdataset", "from datasets"), strict=True):
        assert library in snippet


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_as_it_stands(place: Path, number: int) -> None:
    """Copied into a file and run, a snippet prints what it read."""
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "HF_HOME": str(place / "hf")},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"(30|\(32, 32)", done.stdout), done.stdout


def test_commands_of_the_readme_exist() -> None:
    """Every `facemint` verb that the README types is a verb."""
    from typer.main import get_command

    from jobs.cli import app

    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    typed = re.findall(r"facemint ([a-z]+)", "\n".join(blocks))
    assert typed
    assert set(typed) <= verbs
