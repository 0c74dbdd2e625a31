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
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.phantom.training import config, draws, flow
from pipeline.adapters.phantom.training.__main__ import main
from pipeline.adapters.phantom.training.autoencoder import focus
from pipeline.adapters.phantom.training.finish import detail_loss, grid, others
from pipeline.adapters.phantom.training.groups import AGE_BANDS, by_group
from pipeline.adapters.phantom.training.measure_generator import own_pairs, pairs, templates
from pipeline.adapters.phantom.training.reader import READS, scaled
from pipeline.adapters.phantom.training.sharpness import Prices, aims, edges
from pipeline.adapters.phantom.traits import nuisance_column

ROOT = Path(__file__).parents[2]
STAGES = (
    "render", "crops", "recognisers", "decoder", "attributes", "flow", "reader", "likeness", "finish", "export",
)  # fmt: skip


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
    """Killed while the judge, the flow and the decoder train, it goes on and gives the weights of one go."""
    whole = finished(tmp_path / "whole")
    for stage in ("judge", "flow", "finish"):
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


def test_a_gap_is_told_from_what_a_division_at_random_gives() -> None:
    """Groups that differ lie further apart than by chance; groups that do not, hardly ever."""
    rng = np.random.default_rng(11)
    groups = {"presentation": np.arange(400) % 2, "tone": rng.integers(0, 3, 400)}
    values = rng.normal(0, 1, 400) + 0.5 * groups["presentation"]
    found = by_group(groups, lambda of: float(values[of].mean()), np.random.default_rng(12))
    gaps = {name: max(found[name].values()) - min(found[name].values()) for name in groups}
    assert gaps["presentation"] > 2 * found["gap_by_chance"]["presentation"]
    assert 0.1 < found["gap_by_chance"]["tone"] < 0.4
    assert gaps["tone"] < found["gap_by_chance"]["tone"]


def test_blur_lowers_edges_of_any_brightness_alike() -> None:
    """A picture at half its light has the edges of the whole one, and a blurred one has fewer."""
    noise = np.random.default_rng(4).integers(40, 216, (1, 112, 112, 3))
    blurred = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))) // 4
    plain, dark, soft = (edges(x.astype(np.uint8))[0] for x in (noise, noise // 2, blurred))
    assert dark == pytest.approx(plain, rel=0.1)
    assert soft < 0.7 * plain


def test_edges_are_those_of_the_size_that_is_asked_for() -> None:
    """Stripes of a pixel are edges at one pixel and none at two; the value is the Laplacian's, by hand."""
    stripes = np.full((1, 112, 112, 3), 100, dtype=np.uint8)
    stripes[:, :, ::2] = 140
    assert edges(stripes)[0] == pytest.approx(2 * 40 / (120 + 8), rel=1e-4)
    assert edges(stripes, block_px=2)[0] == pytest.approx(0, abs=1e-5)


def test_pictures_at_other_ages_belong_to_the_people_of_the_draw_they_are_of(tmp_path: Path) -> None:
    """Rows of an aged draw carry the identities of its first draw, and the flow finds them under the same numbers."""
    training = config.short(tmp_path)
    for aged in config.AGED_DRAWS:
        own = training.draws[aged].people_of
        people, _, _ = draws.rows_of(training, own)
        owner, identities, nuisances = draws.rows_of(training, aged)
        first = np.searchsorted(people, owner)
        np.testing.assert_array_equal(identities, draws.rows_of(training, own)[1][first])
        assert (nuisances[:, nuisance_column("age_offset_years")] != 0).all()
        assert np.abs(nuisances[:, nuisance_column("age_offset_years")]).max() <= 20
    sizes = {name: training.draws[name].identities for name in config.GENERATOR_DRAWS}
    begins = np.cumsum([0, *sizes.values()])
    wanted = [begins[config.GENERATOR_DRAWS.index(own)] + np.arange(sizes[own]) for own in ("A4", "A5")]
    np.testing.assert_array_equal(flow.owners_of_aged(training), np.concatenate(wanted))


@given(gain=st.floats(0.3, 1.0), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_detail_is_that_of_the_face_and_not_of_its_light(gain: float, seed: int) -> None:
    """Less light is no less detail; the same picture lacks none, a blurred one lacks some, and so does a grainy one."""
    noise = np.random.default_rng(seed).random((2, 3, 112, 112), dtype=np.float32)
    face = torch.nn.functional.avg_pool2d(torch.from_numpy(noise), 3, 1, 1)
    soft = torch.nn.functional.avg_pool2d(face, 3, 1, 1)
    weight = focus(np.full((2, 5, 2), 56, dtype=np.float32))
    clean, dim, blurred, grainy = (2 * x - 1 for x in (face, gain * face, soft, (face + torch.from_numpy(noise)) / 2))
    assert float(detail_loss(clean, clean, weight).mean()) == 0
    assert float(detail_loss(dim, clean, weight).mean()) < 0.2 * float(detail_loss(blurred, clean, weight).mean())
    assert float(detail_loss(grainy, clean, weight).mean()) > float(detail_loss(dim, clean, weight).mean())


def test_a_group_that_lacks_sharpness_pays_more_until_it_lacks_none() -> None:
    """A price rises with what its own group lacks, however often the group is drawn, and falls when that turns."""
    prices, of = Prices(2), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    lacking, share = torch.tensor([0.1, 0.3, -0.2, 0.0]), torch.tensor([1.0, 3.0, 1.0, 1.0])
    prices.rise(lacking, of, share)
    ratio = float(prices.price_G[0] / prices.price_G[1])
    assert float(prices.price_G[0]) > 0 > float(prices.price_G[1])
    assert ratio == pytest.approx((0.1 + 0.3 / 3) / (4 / 3) / -0.1)
    assert float(prices.cost(lacking, of)) == pytest.approx(float((of @ prices.price_G * lacking).mean()))
    for _ in range(10):
        prices.rise(-lacking, of, share)
    assert float(prices.price_G[0]) < 0 < float(prices.price_G[1])


def test_aims_have_the_means_of_renders_in_every_group() -> None:
    """What is asked of a picture goes with what is drawn of it, and of no group more or less than its renders have."""
    rng = np.random.default_rng(8)
    member = np.concatenate([np.eye(3)[rng.integers(0, 3, 400)], np.eye(2)[rng.integers(0, 2, 400)]], axis=1)
    drawn = rng.normal(10.0, 2.0, 400)
    rendered = drawn + member @ [0.5, 1.0, 2.0, 0.0, -0.7] + rng.normal(0.0, 2.0, 400)
    wanted = aims(drawn, rendered, member.astype(np.float32))
    np.testing.assert_allclose(member.T @ wanted, member.T @ rendered, rtol=1e-6)
    assert np.corrcoef(wanted, drawn)[0, 1] > 0.9 > np.corrcoef(rendered, drawn)[0, 1]


def test_a_picture_is_told_nothing_of_itself() -> None:
    """What a picture is sampled for is the mean of its person's other pictures, whatever it shows itself."""
    emb = np.random.default_rng(9).normal(size=(7, 5)).astype(np.float32)
    owner = np.array([0, 0, 0, 1, 1, 1, 1])
    found = others(emb, owner)
    mean = emb[[3, 4, 6]].mean(0)
    np.testing.assert_allclose(found[5], mean / np.linalg.norm(mean), rtol=1e-5)
    emb[5] *= -3
    np.testing.assert_allclose(others(emb, owner)[5], found[5], rtol=1e-4)


def test_a_pattern_that_all_pictures_share_is_told_from_what_each_has() -> None:
    """Grain of its own in every picture is no grid; two grey levels that come back with every block are one."""
    noise = torch.from_numpy(np.random.default_rng(6).normal(0, 0.05, (32, 3, 112, 112)).astype(np.float32))
    blocks = torch.zeros(8, 8)
    blocks[::4, ::2] = 4 / 255
    assert float(grid(noise + blocks.repeat(14, 14))) > 3 * float(grid(noise))


def test_what_the_reader_is_taught_lies_in_its_range() -> None:
    """Every end of every range is scaled to -1 and 1, and an offset in years is not among what can be seen."""
    ends = np.array([[low, high] for _, low, high in READS]).T
    np.testing.assert_array_equal(scaled(ends), [[-1.0] * len(READS), [1.0] * len(READS)])
    assert "age_offset_years" not in {name for name, _, _ in READS}


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
