"""Vec2Face and Vec2Face+ at full size against what the published programs gave on weights made by formula."""

from __future__ import annotations

import copy
import ctypes
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.adapters.generators.vec2face.drawing import MaskLaw, token_masks
from pipeline.adapters.generators.vec2face.loading import load_network, load_pose, placed
from pipeline.adapters.generators.vec2face.network import Masks, Vec2FaceNetwork
from pipeline.adapters.generators.vec2face.options import Vec2FacePlusOptions
from pipeline.adapters.generators.vec2face.pose import landmark_picture
from pipeline.adapters.models import FormulaWeights
from pipeline.domain.weights import WeightsRef

HERE = Path(__file__).resolve().parent.parent / "golden"
WHOLE = HERE.parent.parent.parent / "shared" / "golden"
"""Every array that was recorded, where it is there; the small ones are beside the tests."""
REF = WeightsRef(uri="formula:vec2face")
CPU, FLOAT32, FLOAT64 = torch.device("cpu"), torch.float32, torch.float64
PICTURE, TOKEN = 1e-4, 3e-5
"""Largest difference in float32, as the recordings state it: of pictures, of tokens."""
EXACT = 1e-9
"""The same in float64."""


def recorded(name: str) -> Mapping[str, np.ndarray]:
    """Return recorded arrays."""
    with np.load(HERE / f"{name}.npz") as file:
        return dict(file)


def drawn(arrays: Mapping[str, np.ndarray], *, posed: bool = False, rows: int | None = None, part: str = "") -> Masks:
    """Return the masks that follow from a recording's noise, of its first rows."""
    noise = arrays[f"{part}noise"][:rows]
    count = len(noise)
    masked = int(np.ceil(49 * arrays[f"{part}mask_rate"]))
    found = token_masks(
        noise, np.full(count, masked), 40 if posed or "pose_cond" in arrays else 5, np.full(count, posed)
    )
    return Masks(*(torch.from_numpy(a) for a in found), torch.full((count,), posed))


def given(array: np.ndarray, dtype: torch.dtype = FLOAT32) -> torch.Tensor:
    """Return an array as a tensor."""
    return torch.from_numpy(array).to(dtype)


@pytest.fixture(scope="module", autouse=True)
def _give_back() -> Iterator[None]:
    """Return the gigabytes of these networks to the system: later tests fork, and a large process forks slowly."""
    yield
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module")
def plain() -> Vec2FaceNetwork:
    """Return Vec2Face as it runs: folded, channels last."""
    network = load_network(FormulaWeights(), REF, "published")
    network.im_decoder.fold()
    return placed(network, CPU, FLOAT32)


@pytest.fixture(scope="module")
def plus64() -> Vec2FaceNetwork:
    """Return Vec2Face+ in float64, its LoRA merged without rounding."""
    options = Vec2FacePlusOptions(use="vec2face-plus", weights=REF)
    lora = (options.lora_rank, options.lora_alpha)
    network = load_network(Doubled(), REF, "published", lora, dtype=FLOAT64)
    network.im_decoder.fold()
    return network


@pytest.fixture(scope="module")
def plus(plus64: Vec2FaceNetwork) -> Vec2FaceNetwork:
    """Return Vec2Face+ as it runs: its LoRA merged and rounded once."""
    return placed(copy.deepcopy(plus64), CPU, FLOAT32)


class TestVec2Face:
    """Without a pose."""

    arrays = recorded("vec2face")

    def test_masks_follow_from_the_recorded_noise(self) -> None:
        """The smallest numbers are dropped, the next masked, and the identity's token never is."""
        masks = drawn(self.arrays)
        kept = np.ones((4, 50), bool)
        kept[np.arange(4)[:, None], masks.kept_NK.numpy()] = False
        assert_array_equal(kept, self.arrays["drop_mask"])
        assert_array_equal(masks.masked_NT.numpy(), self.arrays["all_mask"][:, 1:])
        assert MaskLaw().dropped == self.arrays["n_dropped"]

    def test_the_picture_in_float32(self, plain: Vec2FaceNetwork) -> None:
        """A picture in a batch of four is the recorded one, and so is one of which every token is masked."""
        with torch.inference_mode():
            picture = plain(given(self.arrays["v"]), drawn(self.arrays))[0]
            full = plain(given(self.arrays["v"][:1]), drawn(self.arrays, part="full_"))
        assert_allclose(picture, self.arrays["image_0"][0], atol=PICTURE, rtol=0)
        assert_allclose(full, self.arrays["full_image"], atol=PICTURE, rtol=0)

    def test_the_published_8_bit_picture_is_the_truncated_one(self, plain: Vec2FaceNetwork) -> None:
        """Truncation gives the published bytes but for float32 noise at a whole number; ours are the nearest levels."""
        with torch.inference_mode():
            levels = (plain(given(self.arrays["v"][:1]), drawn(self.arrays, rows=1)).clamp(-1, 1) + 1) * 127.5
        published = self.arrays["image_u8_0"].transpose(2, 0, 1).astype(int)
        apart = np.abs(levels.floor().numpy()[0].astype(int) - published)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3
        nearest = levels.round().numpy()[0] - published
        assert set(np.unique(nearest)) <= {-1.0, 0.0, 1.0}
        # of the levels in between, half are nearer to the next one up
        between = (levels[0].numpy() > 0) & (levels[0].numpy() < 255)
        assert 0.45 < nearest[between].mean() < 0.55

    def test_the_picture_in_float64(self, plain: Vec2FaceNetwork) -> None:
        """With rounding out of the way, the arithmetic is the published one."""
        with torch.inference_mode():
            network = copy.deepcopy(plain).double()
            network.im_decoder.fold()
            vector, masks = given(self.arrays["v"][:1], FLOAT64), drawn(self.arrays, rows=1)
            encoded = network.encode(vector, masks)
            decoded = network.decode(encoded, masks)
            picture = network.pictures(decoded)
        assert_allclose(picture, self.arrays["f64_image"], atol=EXACT, rtol=0)
        whole = whole_recording("vec2face")
        if whole is not None:
            assert_allclose(encoded, whole["f64_encoder_norm"], atol=EXACT, rtol=0)
            assert_allclose(decoded, whole["f64_decoder_norm"], atol=EXACT, rtol=0)

    def test_tokens_in_float32(self, plain: Vec2FaceNetwork) -> None:
        """Encoder and decoder give the recorded tokens for every row of the batch."""
        whole = required("vec2face")
        with torch.inference_mode():
            masks = drawn(self.arrays)
            encoded = plain.encode(given(whole["v"]), masks)
            decoded = plain.decode(encoded, masks)
            pictures = plain.pictures(decoded)
        assert_allclose(encoded, whole["encoder_norm"], atol=TOKEN, rtol=0)
        assert_allclose(decoded, whole["decoder_norm"], atol=TOKEN, rtol=0)
        assert_allclose(pictures, whole["image"], atol=PICTURE, rtol=0)


class TestVec2FacePlus:
    """With LoRA, and a pose as a landmark picture."""

    arrays = recorded("vec2face_plus")

    def test_landmark_pictures_are_drawn_by_the_published_rule(self) -> None:
        """Discs of radius 3 at whole pixels: eyes red, nose green, mouth corners blue."""
        upright = landmark_picture([(38, 46), (73, 45), (56, 66), (41, 86), (70, 87)])
        turned = landmark_picture([(54, 49), (60, 48), (40, 65), (54, 82), (60, 83)])
        assert_array_equal(upright, self.arrays["landmark_u8"][0])
        assert_array_equal(turned, self.arrays["landmark_u8"][1])

    def test_the_pose_model_reads_them(self) -> None:
        """A landmark picture becomes the recorded token."""
        with torch.inference_mode():
            model = placed(load_pose(FormulaWeights(), REF, "published"), CPU, FLOAT32)
            pictures = given(self.arrays["landmark_u8"]).permute(0, 3, 1, 2)
            found = model((pictures / 255 - 0.5) / 0.5)
        assert_allclose(found, self.arrays["pose_cond"], atol=1e-5, rtol=0)

    def test_pictures_in_float32(self, plus: Vec2FaceNetwork) -> None:
        """With a pose, without one, and with both kinds in a batch: always the recorded picture."""
        vectors, pose = given(self.arrays["v"]), given(self.arrays["pose_cond"])
        with torch.inference_mode():
            posed = plus(vectors, drawn(self.arrays, posed=True), pose)
            free = plus(vectors[:1], drawn(self.arrays, rows=1))
            mixed = plus(vectors, joined(drawn(self.arrays), drawn(self.arrays, posed=True)), pose)
        assert_allclose(posed[1:], self.arrays["image_1"], atol=PICTURE, rtol=0)
        assert_allclose(free, self.arrays["nocond_image_0"], atol=PICTURE, rtol=0)
        assert_allclose(mixed[:1], self.arrays["nocond_image_0"], atol=PICTURE, rtol=0)
        assert_allclose(mixed[1:], self.arrays["image_1"], atol=PICTURE, rtol=0)

    def test_the_picture_in_float64(self, plus64: Vec2FaceNetwork) -> None:
        """With rounding out of the way, the arithmetic is the published one, LoRA merged."""
        with torch.inference_mode():
            masks = drawn(self.arrays, posed=True, rows=1)
            vector, pose = given(self.arrays["v"][:1], FLOAT64), given(self.arrays["pose_cond"][:1], FLOAT64)
            encoded = plus64.encode(vector, masks)
            decoded = plus64.decode(encoded, masks, pose)
            picture = plus64.pictures(decoded)
        assert_allclose(picture, self.arrays["f64_image"], atol=EXACT, rtol=0)
        whole = whole_recording("vec2face_plus")
        if whole is not None:
            assert_allclose(encoded, whole["f64_encoder_norm"], atol=EXACT, rtol=0)
            assert_allclose(decoded, whole["f64_decoder_norm"], atol=EXACT, rtol=0)


class Doubled(FormulaWeights):
    """The same weights as float64, so that merging LoRA rounds nothing."""

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Any]:
        """Return the formula's numbers in float64."""
        return {name: value.double() for name, value in super().tensors(ref, names).items()}


def joined(first: Masks, second: Masks) -> Masks:
    """Return the first row of one and the second of another."""
    return Masks(*(torch.cat([a[:1], b[1:]]) for a, b in zip(first, second, strict=True)))


def whole_recording(name: str) -> Mapping[str, np.ndarray] | None:
    """Return every array of a recording; None where it is not on this machine."""
    path = WHOLE / f"{name}.npz"
    return np.load(path) if path.is_file() else None


def required(name: str) -> Mapping[str, np.ndarray]:
    """Return every array of a recording; skips where it is not on this machine."""
    whole = whole_recording(name)
    if whole is None:
        pytest.skip(f"{WHOLE}/{name}.npz: the whole recording is not on this machine")
    return whole
