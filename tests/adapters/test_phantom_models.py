"""The shipped phantom models keep what their card says, and the training loop continues where it stopped."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.adapters.phantom import loading, networks, renderer, traits
from pipeline.adapters.phantom.attributes import PhantomAttributes, PhantomAttributesOptions
from pipeline.adapters.phantom.generator import CONDITION_NAMES
from pipeline.adapters.phantom.networks_readers import RECOGNISERS
from pipeline.adapters.phantom.training import attributes, augment, autoencoder, config, loop, recognition
from pipeline.adapters.phantom.training.bank import TONE_GROUPS, cell_of, tone_group
from pipeline.adapters.phantom.training.sampling import Generator, probe_conditions

ROLES = tuple(RECOGNISERS)


def _rng(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(4711, spawn_key=(number,))))


@cache
def _renders() -> tuple[Any, Any, Any]:
    """Twelve fresh identities, five pictures each, stored as JPEG 95."""
    identities = np.repeat(traits.sample_identities(12, _rng(1)), 5, axis=0)
    nuisances = traits.sample_nuisances(60, _rng(2))
    faces = renderer.render(identities, nuisances, supersample=1.25).faces_NHWC
    return augment.jpeg(faces, 95), identities, nuisances


def test_every_file_is_the_one_that_the_card_names() -> None:
    """Digest and size of each weights file equal the card's; all together they stay below 15 MB."""
    total = 0
    for entry in loading.card()["models"].values():
        data = (loading.WEIGHTS / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert len(data) == entry["bytes"]
        assert entry["licence"] == "Apache-2.0"
        total += len(data)
    assert total < 15e6


@pytest.mark.parametrize("role", ROLES)
def test_recogniser_gives_unit_vectors_that_tell_people_apart(role: str) -> None:
    """Rows are unit vectors, and genuine pairs are on average far more alike than impostor pairs."""
    faces, _, _ = _renders()
    emb = recognition.embed(loading.load_recogniser(role), faces)
    assert emb.shape == (60, loading.card()["models"][role]["dimensions"])
    assert emb.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(emb, axis=1), 1.0, atol=1e-5)
    owner = np.repeat(np.arange(12), 5)
    cos, same = emb @ emb.T, owner[:, None] == owner[None, :]
    assert cos[same & ~np.eye(60, dtype=bool)].mean() > cos[~same].mean() + 0.35


@pytest.mark.parametrize("name", [*ROLES, "attributes"])
def test_rows_of_readers_do_not_influence_each_other(name: str) -> None:
    """A row's output changes with its place and neighbours no more than the card says."""
    faces, _, _ = _renders()
    model = loading.load_attributes() if name == "attributes" else loading.load_recogniser(name)

    def outputs(rows: Any) -> Any:
        with torch.no_grad():
            out = model(augment.to_input(faces[rows]))
        return (out[0] if isinstance(out, tuple) else out).numpy()

    alone, moved = outputs(np.arange(16)), outputs(np.roll(np.arange(16), 5))[(np.arange(16) + 5) % 16]
    np.testing.assert_allclose(alone, moved, atol=2e-4)
    if loading.card()["models"][name]["row_independent"]:
        np.testing.assert_array_equal(alone, moved)


def test_same_noise_gives_the_same_image() -> None:
    """The generator draws nothing itself: equal arguments give equal pictures, other noise gives others."""
    who = loading.load_bank().means_ND[:2]
    asked = probe_conditions(2, _rng(3))
    first, again, other = (Generator().make(who, asked, _rng(n)) for n in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2


def test_generated_picture_shows_the_person_asked_for() -> None:
    """Pictures made from the template of a fresh rendered identity match that identity more than the others."""
    faces, _, _ = _renders()
    owner = np.repeat(np.arange(12), 5)
    templates = {}
    for role in ("conditioning", "judge"):
        emb = recognition.embed(loading.load_recogniser(role), faces)
        means = np.stack([emb[owner == i].mean(0) for i in range(12)])
        templates[role] = means / np.linalg.norm(means, axis=1, keepdims=True)
    made = Generator().make(templates["conditioning"], probe_conditions(12, _rng(6)), _rng(7))
    cos = recognition.embed(loading.load_recogniser("judge"), made) @ templates["judge"].T
    assert (cos.argmax(1) == np.arange(12)).mean() >= 0.75
    assert np.diag(cos).mean() > 0.4 + (cos.sum() - np.trace(cos)) / (12 * 11)


def test_generator_turns_the_head_as_asked() -> None:
    """The yaw that the attribute model reads follows the yaw that was asked for."""
    asked = probe_conditions(16, _rng(8))
    asked[:, 0] = np.linspace(-30, 30, 16)
    faces = Generator().make(loading.load_bank().means_ND[:16], asked, _rng(9))
    yaw = attributes.read(loading.load_attributes(), faces)["yaw_deg"]
    assert np.corrcoef(yaw, asked[:, 0])[0, 1] > 0.8


def test_attributes_are_read_from_fresh_renders() -> None:
    """Presentation, tone group and pose are right on most of sixty pictures that nothing was trained on."""
    faces, identities, nuisances = _renders()
    found = attributes.read(loading.load_attributes(), faces)
    truth = identities[:, traits.identity_column("presentation")] > 0.5
    tone = identities[:, traits.identity_column("skin_tone_mst")]
    assert ((found["presentation"] > 0.5) == truth).mean() >= 0.8
    assert np.abs(found["skin_tone_mst"] - tone).mean() < 1.0
    assert np.abs(found["yaw_deg"] - nuisances[:, traits.nuisance_column("yaw_deg")]).mean() < 6


def test_readings_say_how_far_off_they_are() -> None:
    """About nine in ten of sixty fresh renders lie within 1.645 of the spread that each reading states."""
    faces, identities, nuisances = _renders()
    found = PhantomAttributes(PhantomAttributesOptions(use="phantom-attributes")).measure(faces)
    truth = {
        "est_skin_tone_mst": identities[:, traits.identity_column("skin_tone_mst")],
        "apparent_age_years": identities[:, traits.identity_column("age_years")],
        "yaw_deg": nuisances[:, traits.nuisance_column("yaw_deg")],
        "smile": nuisances[:, traits.nuisance_column("smile")],
    }
    within = [np.abs(found[name] - true) <= 1.645 * found[f"{name}_sd"] for name, true in truth.items()]
    assert 0.75 <= np.mean(within) <= 0.99
    assert all(found[f"{name}_sd"].std() > 0 for name in truth)
    groups = [found[f"est_skin_tone_group={group}"] for group in TONE_GROUPS]
    np.testing.assert_allclose(sum(groups), 1.0, atol=1e-12)


_WIDE = ("none", "face_mask", "sunglasses", "hat", "profile")


@cache
def _wide_readings() -> tuple[dict[str, Any], Any]:
    """Eight fresh people, each bare, masked, in sunglasses, under a cap and in profile: readings (people, 5), yaw."""
    identities = np.repeat(traits.sample_identities(8, _rng(12)), len(_WIDE), axis=0)
    nuisances = traits.sample_nuisances(8, _rng(13))
    nuisances[:, traits.nuisance_column("glasses")] = 0.0
    nuisances = np.repeat(nuisances, len(_WIDE), axis=0)
    for place, values in enumerate(
        ({}, {"face_mask": 1.0, "mask_r": 0.6, "mask_g": 0.8, "mask_b": 0.9}, {"glasses": 1.0, "glasses_tint": 0.9},
         {"hat": 1.0, "hat_low": 0.7, "hat_r": 0.2, "hat_g": 0.3, "hat_b": 0.5}, {"yaw_deg": 80.0}),
    ):  # fmt: skip
        for name, value in values.items():
            nuisances[place :: len(_WIDE), traits.nuisance_column(name)] = value
    nuisances[4 :: 2 * len(_WIDE), traits.nuisance_column("yaw_deg")] *= -1
    faces = renderer.render(identities, nuisances, supersample=1.0).faces_NHWC
    found = PhantomAttributes(PhantomAttributesOptions(use="phantom-attributes")).measure(augment.jpeg(faces, 95))
    yaw = nuisances[:, traits.nuisance_column("yaw_deg")]
    return {name: values.reshape(8, len(_WIDE)) for name, values in found.items()}, yaw.reshape(8, len(_WIDE))


@pytest.mark.parametrize(
    ("worn", "region"), [("face_mask", "mouth"), ("sunglasses", "eyes"), ("hat", "forehead")], ids=_WIDE[1:4]
)
def test_what_hides_a_face_is_read_from_fresh_renders(worn: str, region: str) -> None:
    """A covered region is read as hidden and a bare one is not, and what covers it is named."""
    found, _ = _wide_readings()
    place = _WIDE.index(worn)
    p, hidden = found[f"{worn}_p"], found[f"occlusion_{region}"]
    assert (p[:, place] > 0.5).sum() >= 7
    assert (p[:, 0] > 0.5).sum() <= 1
    assert hidden[:, place].mean() > hidden[:, 0].mean() + 0.4
    assert hidden[:, 0].mean() < 0.1
    assert (found["occlusion"][:, place] > found["occlusion"][:, 0]).all()


def test_heads_are_read_to_profile() -> None:
    """Of heads turned by 80 degrees the reading says so to within ten degrees on average, on the side they turn to."""
    found, yaw = _wide_readings()
    read, true = found["yaw_deg"][:, 4], yaw[:, 4]
    assert set(true) == {-80.0, 80.0}
    assert (np.sign(read) == np.sign(true)).all()
    assert np.abs(read - true).mean() < 10


def test_bank_cells_are_cells_of_appearance() -> None:
    """The bank has unit means and one Gaussian per cell, and its factors are lower triangles."""
    bank = loading.load_bank()
    assert bank.cells[0] == "all"
    assert len(bank.cells) == 7 == len(bank.mean_CD) == len(bank.factor_CDD)
    np.testing.assert_allclose(np.linalg.norm(bank.means_ND, axis=1), 1.0, atol=1e-5)
    assert not np.triu(bank.factor_CDD, 1).any()
    assert set(bank.cell_N) == set(range(1, 7))


def test_confusion_shares_sum_to_one() -> None:
    """Every true value of the card's confusion tables has shares that sum to one."""
    confusion = loading.card()["models"]["attributes"]["confusion"]
    assert set(confusion["est_skin_tone_group"]) == set(TONE_GROUPS)
    for table in confusion.values():
        for shares in table.values():
            assert sum(shares.values()) == pytest.approx(1.0, abs=2e-3)


def test_condition_names_are_the_networks() -> None:
    """The runtime adapter and the network list conditions in one order; values outside the range are clamped."""
    assert tuple(name for name, _, _ in networks.CONDITIONS) == CONDITION_NAMES
    scaled = networks.scale_conditions(torch.tensor([[90.0, -20.0, 0.0, 0.0, 25.0, 0.45, 0.5, 0.5, 0.5, -10.0]]))
    np.testing.assert_allclose(scaled.numpy(), [[1, -1, 0, 0, 0, 0, 0, 0, 0, -0.5]], atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_schedule_runs_from_noise_to_data(shift: float) -> None:
    """Sigmas fall strictly from one to zero."""
    sigmas = networks.sigma_schedule(6, shift)
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (1.0, 0.0, 7)
    assert all(a > b for a, b in pairwise(sigmas))


def test_recogniser_roles_have_different_nets() -> None:
    """No two recognisers share their parameter shapes."""
    shapes = [sorted(tuple(p.shape) for p in make().parameters()) for make in RECOGNISERS.values()]
    assert len({str(s) for s in shapes}) == 3


def test_stopped_training_continues_to_the_same_bits(tmp_path: Path) -> None:
    """Six steps in one go and three and three with a checkpoint between give equal parameters."""
    short = config.short(tmp_path)

    def train(home: Path, steps: list[int]) -> Any:
        for last in steps:
            model = loop.initialised(lambda: nn.Linear(6, 6), short.rng("flow", 9))
            muon = loop.Muon([model.weight], lr=0.02)
            adam = loop.adamw([model.bias], 1e-2)

            def step(number: int, rng: np.random.Generator, model: Any = model, both: Any = (muon, adam)) -> Any:
                del number
                loss = model(torch.from_numpy(rng.standard_normal((4, 6), dtype=np.float32))).square().mean()
                model.zero_grad()
                loss.backward()
                for optimiser in both:
                    optimiser.step()
                return {"loss": float(loss.detach())}

            schedule = config.Schedule(last, 4, 1.0, decay=0.0, warmup=2)
            kept = loop.Average(model)
            loop.run(
                "tiny", replace(short, home=home), schedule, step, stream="flow", models={"model": model},
                optimisers=[muon, adam], average=kept,
            )  # fmt: skip
        return model.weight.detach().numpy().copy(), kept.values["weight"].numpy()

    whole, parts = train(tmp_path / "a", [6]), train(tmp_path / "b", [3, 6])
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_muon_steps_are_close_to_orthogonal() -> None:
    """The update of a matrix has singular values near one, whatever the gradient's."""
    gradient = torch.from_numpy(_rng(10).standard_normal((8, 20), dtype=np.float32))
    singular = torch.linalg.svdvals(loop._orthogonal(gradient))
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.4


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    """The schedule warms up, holds, and falls along a straight line."""
    schedule = config.Schedule(100, 4, 1.0, decay=0.5, warmup=10)
    shares = [loop.rate_at(schedule, step) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[30] == 1.0
    assert shares[75] == pytest.approx(0.5)
    assert shares[99] == pytest.approx(0.02)


def test_mirrored_landmarks_of_mirrored_landmarks_are_the_landmarks() -> None:
    """Mirroring twice changes nothing, and left stays left of right."""
    points = _rng(11).random((3, 5, 2), dtype=np.float32)
    np.testing.assert_allclose(attributes.mirror_points(attributes.mirror_points(points)), points, atol=1e-6)


def test_eyes_weigh_most_in_the_autoencoder() -> None:
    """The weight at an eye is a multiple of the weight in a corner."""
    points = np.full((1, 5, 2), 56.0, dtype=np.float32)
    points[0, :2] = [[40, 50], [72, 50]]
    weight = autoencoder.focus(points)[0, 0]
    assert float(weight[50, 40]) > 4
    assert float(weight[0, 0]) < 1.05


def test_cells_follow_presentation_and_tone() -> None:
    """Cell numbers count tone groups within presentations."""
    np.testing.assert_array_equal(tone_group(np.array([3.4, 3.5, 6.5, 6.6])), [0, 1, 1, 2])
    np.testing.assert_array_equal(cell_of(np.array([0.1, 0.9]), np.array([1.0, 9.0])), [1, 6])


def test_conditions_are_fields_of_the_phantom() -> None:
    """Every value that the generator can be asked for exists among the phantom's fields."""
    known = {field.name for field in (*traits.IDENTITY_FIELDS, *traits.NUISANCE_FIELDS)}
    assert {name for name, _, _ in networks.CONDITIONS} <= known
