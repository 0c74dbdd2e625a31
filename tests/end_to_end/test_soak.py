"""Long tests, run by `make soak`: many kills at moments that nobody chose."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from jobs import wiring
from pipeline.adapters.stores import LocalStore
from pipeline.execute.run import generate
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, sketches

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("seed", range(3))
def test_forty_kills_at_random_moments_change_nothing(tmp_path: Path, seed: int) -> None:
    """A run that is killed again and again, each time a little later, ends in the bytes of an undisturbed one."""
    changes = {"generator": {"use": "sketch", "noise": 2.0}, "attempts": 3, "seed": seed}
    undisturbed = LocalStore(tmp_path / "undisturbed")
    generate(wiring.session_on(sketches(**changes), undisturbed, Silent()))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(sketch_recipe(**changes)))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "jobs.cli", "generate", str(recipe), "--out", str(out)]
    rng = np.random.default_rng(seed)
    killed = 0
    for attempt in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        # starting takes seconds and minting less than one, so the moment is counted from the first sign of work
        before = len(list(out.rglob("*")))
        while process.poll() is None and len(list(out.rglob("*"))) == before:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.05 * (attempt + 1))))
        if process.poll() is None:
            process.kill()
            killed += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert "Traceback" not in errors
    assert process.returncode == 0
    assert killed >= 2
    assert bytes_of(LocalStore(out)) == bytes_of(undisturbed)
