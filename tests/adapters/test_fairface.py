"""FairFace behind the port: which output is which, what crop the network sees, that the network is the stated one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.adapters.measures import fairface
from pipeline.adapters.measures.fairface import (
    AGE,
    CHIP,
    HUB_RACES,
    ORDER,
    PRESENTATION,
    RACE,
    FairFace,
    FairFaceOptions,
)
from pipeline.adapters.measures.resnet34 import ResNet34
from pipeline.domain.landmarks import ALIGNMENTS
from pipeline.domain.weights import Weights, WeightsRef

MODEL_RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
"""The order of the model's outputs, as its authors' `predict.py` has it."""
DATASET_RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")
"""The order of the class numbers in the data set on the Hugging Face hub."""
REF = WeightsRef(uri="made-up")


@functools.cache
def drawn(names: tuple[tuple[str, tuple[int, ...]], ...]) -> Mapping[str, Any]:
    """Return numbers for tensors of these names and shapes, such that outputs stay small."""
    rng, found = np.random.default_rng(7), {}
    for name, shape in names:
        fan = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        numbers = rng.standard_normal(shape, np.float32) / np.float32(fan**0.5)
        if "bn" in name or "downsample.1" in name:
            numbers = np.abs(numbers) * np.float32(0.2) + np.float32(2.0 if "running_var" in name else 0.5)
        found[name] = torch.from_numpy(numbers)
    return found


class MadeUp(Weights):
    """Weights that are drawn from a seed, with a last layer that says the same of every face where it is asked to."""

    def __init__(self, outputs: np.ndarray | None = None) -> None:
        """Take the 18 outputs; None leaves the last layer drawn."""
        self.outputs = outputs

    def path(self, ref: WeightsRef) -> Path:
        raise NotImplementedError

    def sha256(self, ref: WeightsRef) -> str:
        return "0" * 64

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Any]:
        assert names is not None
        found = dict(drawn(tuple(names.items())))
        if self.outputs is not None:
            found["fc.weight"] = torch.zeros(names["fc.weight"])
            found["fc.bias"] = torch.from_numpy(self.outputs.astype(np.float32))
        return found


def model(outputs: np.ndarray | None = None, **options: Any) -> FairFace:
    return FairFace(FairFaceOptions(weights=REF, **options), MadeUp(outputs))


def faces(count: int, side: int = 112) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def plain(race: str) -> str:
    return race.lower().replace(" ", "_")


@pytest.mark.parametrize(
    ("output", "field", "value"),
    [(n, RACE, plain(race)) for n, race in enumerate(MODEL_RACES)]
    + [
        (7, PRESENTATION, "masculine"),
        (8, PRESENTATION, "feminine"),
        (9, AGE, "0-2"),
        (11, AGE, "10-19"),
        (17, AGE, "70+"),
    ],
)
def test_each_output_is_the_value_that_the_authors_read_it_as(output: int, field: str, value: str) -> None:
    """The model that is sure of one output gives that value, by the order of the model and not of the data set."""
    raw = np.zeros(18)
    raw[output] = 9.0
    found = model(raw).measure(faces(1))
    best = max(ORDER[field], key=lambda v: found[f"{field}={v}"][0])
    assert best == value
    # the other two questions are left as open as they were
    for other in ORDER:
        if other != field:
            shares = [found[f"{other}={v}"][0] for v in ORDER[other]]
            np.testing.assert_allclose(shares, 1 / len(shares), atol=1e-12)


def test_the_data_set_numbers_its_words_in_another_order() -> None:
    """What 0 to 6 mean on the hub is the same seven words in another order; four and more of them would be swapped."""
    assert tuple(map(plain, DATASET_RACES)) == HUB_RACES
    assert set(HUB_RACES) == set(ORDER[RACE])
    assert sum(a != b for a, b in zip(HUB_RACES, ORDER[RACE], strict=True)) >= 6


def test_questions_have_a_softmax_each() -> None:
    """Each question's shares sum to one and follow from its own outputs alone."""
    raw = np.random.default_rng(0).normal(size=18) * 3
    found = model(raw).measure(faces(2))
    at = 0
    for field, values in ORDER.items():
        part = np.exp(raw[at : at + len(values)].astype(np.float32).astype(np.float64))
        for n, value in enumerate(values):
            np.testing.assert_allclose(found[f"{field}={value}"], part[n] / part.sum(), rtol=1e-6)
        at += len(values)
    assert at == 18
    assert set(found) == set(FairFace.names)


def test_a_face_is_measured_alone() -> None:
    """A face has the same numbers in any company and at any place; of none there are none."""
    given = model()
    some = faces(3)
    found, turned = given.measure(some), given.measure(some[::-1])
    for name in given.names:
        np.testing.assert_array_equal(found[name], turned[name][::-1])
        assert len(np.unique(found[name])) == 3
    assert all(v.shape == (0,) for v in given.measure(some[:0]).values())


def by_hand(tensors: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a ResNet-34 written out: 3, 4, 6, 3 blocks of two convolutions, halved between groups."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = [tensors[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, training=False, eps=1e-5)

    x = F.max_pool2d(norm(F.conv2d(x, tensors["conv1.weight"], stride=2, padding=3), "bn1").relu(), 3, 2, 1)
    for group, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            name, stride = f"layer{group}.{block}", 2 if group > 1 and block == 0 else 1
            inner = norm(F.conv2d(x, tensors[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").relu()
            inner = norm(F.conv2d(inner, tensors[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, tensors[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
            x = (x + inner).relu()
    return F.linear(x.mean(dim=(2, 3)), tensors["fc.weight"], tensors["fc.bias"])


def test_the_network_is_a_resnet34_with_the_published_names() -> None:
    """It has as many numbers as ResNet-34 with 18 outputs, under torchvision's names, and computes what it should."""
    network = ResNet34(18).eval()
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert sum(p.numel() for p in network.parameters()) == 21_797_672 - 1000 * 513 + 18 * 513
    assert own["layer3.5.bn2.running_var"] == (256,)
    assert own["layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert "layer1.0.downsample.0.weight" not in own
    tensors = MadeUp().tensors(REF, {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")})
    network.load_state_dict(dict(tensors), strict=False)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 3, 96, 96)).astype(np.float32))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), by_hand(tensors, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "side"), [("arcface-112", 112), ("arcface-112", 224), (CHIP, 224), (CHIP, 300)])
def test_the_network_looks_at_its_own_chip(name: str, side: int) -> None:
    """Points of the crop come to lie where the chip has them, whatever the crop's alignment and size."""
    points = ALIGNMENTS[name].points_in(side, side)
    y, x = np.mgrid[0:side, 0:side]
    for (px, py), (cx, cy) in zip(points, ALIGNMENTS[CHIP].points, strict=True):
        crop = np.repeat((255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18)).astype(np.uint8)[..., None], 3, axis=2)
        seen = fairface.chip(crop, name)
        assert seen.shape == (3, 224, 224)
        light = seen[0] - seen[0].min()
        ys, xs = np.mgrid[0:224, 0:224]
        found = np.array([(xs * light).sum(), (ys * light).sum()]) / light.sum()
        assert np.abs(found - (cx, cy)).max() < 0.7


def test_pixels_are_scaled_as_in_training() -> None:
    """A grey crop is (grey / 255 - mean) / std of ImageNet, plane by plane, red first; its edge goes on below."""
    crop = np.zeros((112, 112, 3), np.uint8)
    crop[...] = (255, 128, 0)
    seen = fairface.chip(crop, "arcface-112")
    for plane, value, mean, std in zip(
        seen, (1.0, 128 / 255, 0.0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True
    ):
        np.testing.assert_allclose(plane, (value - mean) / std, atol=1e-5)
    crop[-1] = 200
    lowest = fairface.chip(crop, "arcface-112")[:, -15:]
    np.testing.assert_allclose(lowest, np.broadcast_to(lowest[:, :1, :1], lowest.shape), atol=1e-5)
