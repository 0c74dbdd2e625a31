"""The phantom models are made again from nothing: stopped in its middle, the training ends with the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.phantom.training.__main__ import main
from pipeline.adapters.phantom.training.groups import AGE_BANDS, by_group
from pipeline.adapters.phantom.training.measure_generator import edges, own_pairs, pairs, templates

ROOT = Path(__file__).parents[2]
STAGES = ("render", "crops", "recognisers", "decoder", "attributes", "flow", "likeness", "export")


def begin(folder: Path) -> subprocess.Popen[bytes]:
    """Start the short training in a process group of its own."""
    words = ["--config", "short", "--home", str(folder / "home"), "--weights", str(folder / "weights")]
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.adapters.phantom.training", *STAGES, *words],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def finished(folder: Path) -> dict[str, str]:
    """Run to the end and return the digest of every file of weights."""
    assert begin(folder).wait(timeout=600) == 0, (folder / "log").read_text()[-2000:]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((folder / "weights").iterdir())}


@pytest.mark.slow
def test_training_killed_in_its_middle_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Killed while recognisers train and again while the flow does, it goes on and gives the weights of one go."""
    whole = finished(tmp_path / "whole")
    for stage in ("judge", "flow"):
        process = begin(tmp_path / "parts")
        checkpoint = tmp_path / "parts" / "home" / "checkpoints" / f"{stage}.pt"
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, (tmp_path / "parts" / "log").read_text()[-2000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert finished(tmp_path / "parts") == whole
    assert {"generator.safetensors", "judge.safetensors", "card.json"} <= whole.keys()


def test_pairs_are_those_of_a_double_loop() -> None:
    """Genuine and impostor cosines, and the rows of the latter, are what two loops find."""
    rng = np.random.default_rng(3)
    emb = rng.standard_normal((9, 4))
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    owner = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
    genuine, impostor, left, right = pairs(emb, owner)
    every = [(i, j) for i in range(9) for j in range(i + 1, 9)]
    np.testing.assert_allclose(genuine, [emb[i] @ emb[j] for i, j in every if owner[i] == owner[j]])
    np.testing.assert_allclose(impostor, [emb[i] @ emb[j] for i, j in every if owner[i] != owner[j]])
    np.testing.assert_array_equal(owner[left] == owner[right], False)
    np.testing.assert_allclose(np.concatenate(own_pairs(emb, owner)), genuine)
    np.testing.assert_allclose(np.linalg.norm(templates(emb, owner, 2), axis=1), 1.0)


def test_groups_state_their_widest_gap() -> None:
    """Of two groupings the gap is that of the one whose groups differ most; a group of nobody is left out."""
    values = np.array([0.9, 0.8, 0.7, 0.6])
    groups = {"presentation": np.array([0, 1, 0, 1]), "age": np.array([0, 0, 2, 2])}
    found = by_group(groups, lambda of: float(values[of].mean()))
    assert found["age"].keys() == {AGE_BANDS[0], AGE_BANDS[2]}
    assert found["widest_gap"] == pytest.approx(0.2)


def test_blur_lowers_edges_of_any_brightness_alike() -> None:
    """A picture at half its light has the edges of the whole one, and a blurred one has fewer."""
    noise = np.random.default_rng(4).integers(40, 216, (1, 112, 112, 3))
    blurred = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))) // 4
    plain, dark, soft = (edges(x.astype(np.uint8))[0] for x in (noise, noise // 2, blurred))
    assert dark == pytest.approx(plain, rel=0.1)
    assert soft < 0.7 * plain


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--device", "toaster"], "--device toaster: "), (["--only", "nobody"], "--only nobody: no draw and no model")],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device or name that is not there ends with status 2 and says what there is, before anything is made."""
    with pytest.raises(SystemExit) as ended:
        main(["export", "--config", "short", "--home", str(tmp_path / "home"), *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
