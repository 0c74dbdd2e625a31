"""Recognisers that users bring as ONNX files: what they say of themselves, and what they reach on real faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.onnx.recogniser import OnnxRecogniser, OnnxRecogniserOptions
from pipeline.domain.calibration import equal_error_rate
from pipeline.domain.errors import CalibrationError, UserError
from tests.photographs import ASSETS, LFW, aligned, lfw

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
FOAMLIU = ASSETS / "models" / "mobilefacenet_foamliu_128d.onnx"
W600K = ASSETS / "insightface" / "models" / "buffalo_sc" / "w600k_mbf_uint8dyn.onnx"
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
with_assets = pytest.mark.skipif(not FOAMLIU.is_file(), reason=f"no {FOAMLIU.name}: the test assets are not here")


def recogniser(path: Path, **options: Any) -> OnnxRecogniser:
    return OnnxRecogniser(OnnxRecogniserOptions(path=str(path), name="given", licence="as stated", **options))


@with_assets
def test_a_batched_model_gives_the_same_rows_in_any_company() -> None:
    """A float model with a batch axis says that its rows are independent, and they are."""
    given = recogniser(FOAMLIU, **IMAGENET)
    assert given.card.row_independent
    assert given.space.dimensions == 128
    faces = aligned(lfw()[:6])
    emb = given.embed(faces)
    assert emb.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(emb, axis=1), 1.0, atol=1e-6)
    full = faces[np.arange(16) % 6]
    np.testing.assert_array_equal(given.embed(full[::-1])[::-1], given.embed(full))


@with_assets
def test_a_quantised_model_is_run_one_image_at_a_time() -> None:
    """A dynamically quantised model says that its rows depend on each other; run alone they no longer do."""
    given = recogniser(W600K)
    assert not given.card.row_independent
    assert given.space.dimensions == 512
    faces = aligned(lfw()[:5])
    emb = given.embed(faces)
    np.testing.assert_array_equal(given.embed(faces[::-1])[::-1], emb)
    np.testing.assert_array_equal(given.embed(faces[2:3])[0], emb[2])


@with_assets
def test_without_a_calibration_no_rate_can_be_given() -> None:
    """A recogniser that a user brings has thresholds only once it is calibrated, and says how."""
    with pytest.raises(CalibrationError, match="facemint calibrate onnx"):
        recogniser(FOAMLIU).calibration.kind(probe_images=1, reference_images=1)


@with_assets
def test_models_of_another_kind_are_one_line(tmp_path: Path) -> None:
    """A missing file, a detector, and a model for other crops are the user's mistakes."""
    with pytest.raises(UserError, match="no such file"):
        recogniser(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="takes"):
        recogniser(ASSETS / "models" / "face_detection_yunet_2023mar.onnx")


@with_assets
@pytest.mark.slow
def test_pairs_of_a_benchmark_are_told_apart() -> None:
    """On 1,200 LFW pairs, decoded, detected, aligned and embedded by us: at least 98.9 % right, EER at most 1.2 %.

    The threshold of the first fold is applied to the second one, and the other way round.
    """
    lines = (LFW / "pairs.txt").read_text().splitlines()
    pairs = [_pair(line.split()) for line in lines if len(line.split()) in (3, 4)][:1200]
    paths = sorted({path for left, right, _ in pairs for path in (left, right)})
    faces = aligned([LFW / path for path in paths])
    given = recogniser(FOAMLIU, **IMAGENET)
    emb = np.concatenate([given.embed(np.stack(faces[n : n + 16])) for n in range(0, len(faces), 16)])
    place = {path: n for n, path in enumerate(paths)}
    cos = np.array([float(emb[place[a]] @ emb[place[b]]) for a, b, _ in pairs])
    same = np.array([s for _, _, s in pairs])
    half = np.arange(len(pairs)) < len(pairs) // 2
    right = [_accuracy(cos[~h], same[~h], _best(cos[h], same[h])) for h in (half, ~half)]
    assert np.mean(right) >= 0.989, right
    assert equal_error_rate(cos[same], cos[~same]) <= 0.012


def _pair(words: list[str]) -> tuple[str, str, bool]:
    if len(words) == 3:
        name, first, second = words
        return f"{name}/{name}_{int(first):04d}.jpg", f"{name}/{name}_{int(second):04d}.jpg", True
    name, first, other, second = words
    return f"{name}/{name}_{int(first):04d}.jpg", f"{other}/{other}_{int(second):04d}.jpg", False


def _best(cos: np.ndarray, same: np.ndarray) -> float:
    levels = np.unique(cos)
    return float(levels[int(np.argmax([_accuracy(cos, same, t) for t in levels]))])


def _accuracy(cos: np.ndarray, same: np.ndarray, level: float) -> float:
    return float(((cos >= level) == same).mean())


def field(number: int, value: int | bytes) -> bytes:
    """Return one field of a protobuf message: a number below 128, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    size = len(value)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 0x7F | 0x80, size >> 7])]) + value


def flattening(batch: int) -> bytes:
    """Return an ONNX model that takes `batch` crops, always, and gives their pixels as rows."""

    def tensor(name: bytes, *dims: int | bytes) -> bytes:
        shape = b"".join(field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in dims)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, b"crops") + field(2, b"rows") + field(4, b"Flatten")
    graph = field(1, node) + field(2, b"g") + field(11, tensor(b"crops", batch, 3, 112, 112))
    graph += field(12, tensor(b"rows", batch, b"e"))
    return field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 13))


def test_a_model_that_always_takes_several_crops_is_one_line(tmp_path: Path) -> None:
    """A batch axis that is fixed at more than one is the user's mistake; one of 1 goes image by image, even none."""
    path = tmp_path / "m.onnx"
    path.write_bytes(flattening(4))
    with pytest.raises(UserError, match="takes 4 crops at once"):
        recogniser(path)
    path.write_bytes(flattening(1))
    given = recogniser(path)
    assert not given.card.row_independent
    assert given.space.dimensions == 3 * 112 * 112
    assert given.embed(np.empty((0, 112, 112, 3), np.uint8)).shape == (0, given.space.dimensions)
    assert given.embed(np.full((2, 112, 112, 3), 9, np.uint8)).shape == (2, given.space.dimensions)
