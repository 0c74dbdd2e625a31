"""Head pose: the network is the published one by its tensors, and yaws are those of the rotations it gives."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.head_pose.estimator import HeadPoseEstimator, HeadPoseOptions
from pipeline.adapters.head_pose.network import Size, empty, rotations, shapes, yaw_deg
from pipeline.adapters.models import FormulaWeights, ModelWeights
from pipeline.domain.errors import ModelError
from pipeline.domain.rng import Key, Stream
from pipeline.domain.weights import WeightsRef

REF = WeightsRef(uri="formula:pose")


class Counted(FormulaWeights):
    """Brings weights by formula, and counts how often; the first time it fails where it is told to."""

    def __init__(self, *, fails_first: bool = False) -> None:
        """Start with nothing brought."""
        super().__init__()
        self.brought = 0
        self._fails_first = fails_first

    def tensors(self, ref: WeightsRef, names: Any = None) -> Any:
        """Count, and return what the formula gives."""
        self.brought += 1
        if self._fails_first and self.brought == 1:
            raise ModelError("not here yet; fetch it")
        return super().tensors(ref, names)


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return the rotation about an axis, right-handed."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    first, second = [n for n in range(3) if n != axis]
    out = np.eye(3)
    sign = -1 if axis == 1 else 1
    out[first, first] = out[second, second] = c
    out[first, second], out[second, first] = -sign * s, sign * s
    return out


@given(st.floats(-89, 89), st.floats(-80, 80), st.floats(-170, 170), st.floats(0.1, 9), st.floats(-2, 2))
def test_yaw_is_that_of_the_rotation(yaw: float, pitch: float, roll: float, length: float, lean: float) -> None:
    """Of a head turned by roll, yaw and pitch the yaw comes back, however long or skew the six numbers are."""
    matrix = turn(2, roll) @ turn(1, yaw) @ turn(0, pitch)
    six = np.concatenate([matrix[:, 0] * length, matrix[:, 1] * 3 + matrix[:, 0] * lean])
    found = rotations(torch.from_numpy(six)[None])
    np.testing.assert_allclose(found[0].numpy(), matrix, atol=1e-9)
    assert float(yaw_deg(found)[0]) == pytest.approx(yaw, abs=1e-6)


def test_the_network_has_the_published_tensors() -> None:
    """B1g2 folded: 28 convolutions, every second of the 27 that follow the first in two groups, and six numbers."""
    known = shapes(empty("repvgg-b1g2"))
    weights = {name: shape for name, shape in known.items() if name.endswith("rbr_reparam.weight")}
    assert len(weights) == 28
    assert len(known) == 2 * 28 + 2
    assert weights["layer0.rbr_reparam.weight"] == (64, 3, 3, 3)
    assert weights["layer1.0.rbr_reparam.weight"] == (128, 64, 3, 3)
    assert weights["layer1.1.rbr_reparam.weight"] == (128, 64, 3, 3)
    assert weights["layer1.2.rbr_reparam.weight"] == (128, 128, 3, 3)
    assert weights["layer2.1.rbr_reparam.weight"] == (256, 128, 3, 3)
    assert weights["layer4.0.rbr_reparam.weight"] == (2048, 512, 3, 3)
    assert (known["linear_reg.weight"], known["linear_reg.bias"]) == ((6, 2048), (6,))
    # 41.36 million of RepVGG-B1g2 for use, as its authors count, with six numbers in place of its thousand classes
    assert sum(int(np.prod(shape)) for shape in known.values()) - 6 * 2049 + 1000 * 2049 == 41_360_104


def test_gradients_reach_pictures_and_signs_follow_the_option() -> None:
    """What is read can be differentiated row by row; counted the other way round it is the negative."""
    drawn = Key(2, Stream.CALIBRATION).generator().standard_normal((3, 3, 112, 112), dtype=np.float32)
    pictures = torch.from_numpy(drawn).requires_grad_()
    left, right = (
        HeadPoseEstimator(HeadPoseOptions(weights=REF, size="reduced", positive=p), FormulaWeights())
        for p in ("left", "right")
    )
    read = left.yaw_deg(pictures)
    assert read.shape == (3,)
    assert len(set(read.tolist())) == 3
    assert read.abs().max() <= 90
    np.testing.assert_array_equal((-read).detach().numpy(), right.yaw_deg(pictures).detach().numpy())
    (gradient,) = torch.autograd.grad(read[1], pictures)
    assert gradient[1].norm() > 0
    assert gradient[0].norm() == gradient[2].norm() == 0
    alone = left.yaw_deg(pictures[1:2]).item()
    assert alone == pytest.approx(read[1].item(), abs=1e-3)


def test_weights_load_once_however_many_threads_ask() -> None:
    """Threads that ask at the same moment share one network, which is not read before the first of them asks."""
    weights, together = Counted(), threading.Barrier(4)
    estimator = HeadPoseEstimator(HeadPoseOptions(weights=REF, size="reduced"), weights)
    assert weights.brought == 0

    def read() -> float:
        together.wait()
        return estimator.yaw_deg(torch.zeros(1, 3, 112, 112)).item()

    with ThreadPoolExecutor(4) as pool:
        found = [asked.result() for asked in [pool.submit(read) for _ in range(4)]]
    assert len(set(found)) == 1
    assert weights.brought == 1


def test_weights_that_could_not_be_had_are_asked_for_again() -> None:
    """A failure reaches whoever asked, and is no answer for whoever asks next."""
    weights = Counted(fails_first=True)
    estimator = HeadPoseEstimator(HeadPoseOptions(weights=REF, size="reduced"), weights)
    with pytest.raises(ModelError, match="not here yet"):
        estimator.yaw_deg(torch.zeros(1, 3, 112, 112))
    assert np.isfinite(estimator.yaw_deg(torch.zeros(1, 3, 112, 112)).item())
    assert weights.brought == 2


@pytest.mark.parametrize(("stored", "asked"), [("reduced", "repvgg-b1g2"), ("repvgg-b1g2", "reduced")])
def test_weights_of_another_network_are_refused(tmp_path: Path, stored: Size, asked: Size) -> None:
    """A file of a network of another size is no file of this one; one that fits is read, whatever group it is in."""
    tensors = FormulaWeights().tensors(REF, shapes(empty(stored)))
    path = tmp_path / "pose.pth"
    torch.save({"model_state_dict": dict(tensors)}, path)
    ref, weights = WeightsRef(uri=str(path)), ModelWeights(tmp_path / "cache")
    picture = torch.zeros(1, 3, 112, 112)
    with pytest.raises(ModelError, match=r"pose\.pth"):
        HeadPoseEstimator(HeadPoseOptions(weights=ref, size=asked), weights).yaw_deg(picture)
    if stored == "reduced":
        read = HeadPoseEstimator(HeadPoseOptions(weights=ref, size=stored), weights).yaw_deg(picture)
        made_up = HeadPoseEstimator(HeadPoseOptions(weights=REF, size=stored), FormulaWeights()).yaw_deg(picture)
        assert read.item() == made_up.item()
