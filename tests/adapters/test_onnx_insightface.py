"""Packs of InsightFace: what each file is follows from its shapes, and what is run is what our own parts run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.onnx.insightface import (
    InsightFaceDetector,
    InsightFaceDetectorOptions,
    InsightFaceRecogniser,
    InsightFaceRecogniserOptions,
)
from pipeline.adapters.onnx.packs import DETECTOR, RECOGNISER, SCRFD_WIDTHS, pack_file
from pipeline.adapters.onnx.recogniser import OnnxRecogniser, OnnxRecogniserOptions
from pipeline.adapters.onnx.scrfd import Scrfd, ScrfdOptions
from pipeline.domain.errors import UserError
from tests.onnx_files import colours, model, node
from tests.photographs import ASSETS, SCRFD, aligned, lfw, pixels

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
PACK = ASSETS / "insightface" / "models" / "buffalo_sc"
with_assets = pytest.mark.skipif(not SCRFD.is_file(), reason=f"no {SCRFD.name}: the test assets are not here")


def test_a_recogniser_is_known_by_its_shapes(tmp_path: Path) -> None:
    """Of files that take other crops or give a handful of numbers, and junk, the one recogniser is chosen."""
    rng = np.random.default_rng(0)
    (tmp_path / "a_landmarks.onnx").write_bytes(colours(rng.normal(size=(3, 212)), side=192))
    (tmp_path / "b_quality.onnx").write_bytes(colours(rng.normal(size=(3, 1))))
    (tmp_path / "c_anything.onnx").write_bytes(colours(rng.normal(size=(3, 128))))
    (tmp_path / "d_junk.onnx").write_bytes(b"junk" * 50)
    assert pack_file(str(tmp_path), RECOGNISER).name == "c_anything.onnx"
    with pytest.raises(UserError, match=r"b_quality.onnx \(another kind\), c_anything.onnx \(recogniser\).* an SCRFD"):
        pack_file(str(tmp_path), DETECTOR)
    (tmp_path / "e_foreign.onnx").write_bytes(colours(rng.normal(size=(3, 512))))
    with pytest.raises(
        UserError, match=r"c_anything\.onnx, e_foreign\.onnx are each a recogniser .* name one with `file`"
    ):
        pack_file(str(tmp_path), RECOGNISER)
    chosen = InsightFaceRecogniser(InsightFaceRecogniserOptions(path=str(tmp_path), file="e_foreign.onnx"))
    assert chosen.space.dimensions == 512
    assert chosen.space.name == "insightface-e_foreign"


def test_a_detector_for_one_size_is_used_at_that_size(tmp_path: Path) -> None:
    """A model with a fixed input, and a batch axis on its outputs, runs at its own size; another one is refused."""
    widths = dict(zip("abcdefghi", SCRFD_WIDTHS, strict=True))
    nodes = [node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [node("MatMul", ["mean", f"w{k}"], [f"flat{k}"]) for k in widths]
    # outputs of shape (1, anchors, width): every anchor has the same score
    nodes += [node("MatMul", [f"ones{k}", f"flat{k}"], [f"rows{k}"]) for k in widths]
    nodes += [node("Unsqueeze", [f"rows{k}", "axis"], [k]) for k in widths]
    anchors = {k: 2 * (64 // (8, 16, 32)[n % 3]) ** 2 for n, k in enumerate(widths)}
    constants: dict[str, np.ndarray] = {f"w{k}": np.full((3, w), 0.3) for k, w in widths.items()}
    constants |= {f"ones{k}": np.ones((count, 1)) for k, count in anchors.items()} | {"axis": np.array([0])}
    outputs = {k: (1, anchors[k], w) for k, w in widths.items()}
    (tmp_path / "det.onnx").write_bytes(model(nodes, {"x": (1, 3, 64, 64)}, outputs, constants))
    found = InsightFaceDetector(InsightFaceDetectorOptions(path=str(tmp_path), size_px=64)).detect(
        np.full((64, 64, 3), 255, np.uint8)
    )
    assert len(found) > 0
    np.testing.assert_allclose(found.scores_K, 0.9 * 127.5 / 128, atol=1e-3)
    with pytest.raises(UserError, match="takes pictures of 64 x 64 px alone; size_px is 320"):
        InsightFaceDetector(InsightFaceDetectorOptions(path=str(tmp_path)))


def test_a_folder_without_models_is_one_line(tmp_path: Path) -> None:
    """No folder, an empty one, and a file that is not there are the user's mistakes; nothing is downloaded."""
    with pytest.raises(UserError, match="no such folder"):
        InsightFaceDetector(InsightFaceDetectorOptions(path=str(tmp_path / "none")))
    with pytest.raises(UserError, match="holds no ONNX file"):
        InsightFaceRecogniser(InsightFaceRecogniserOptions(path=str(tmp_path)))
    with pytest.raises(UserError, match="no such file"):
        InsightFaceDetector(InsightFaceDetectorOptions(path=str(tmp_path), file="gone.onnx"))
    with pytest.raises(ValueError, match="pattern"):
        InsightFaceDetectorOptions(path=str(tmp_path), file="../elsewhere.onnx")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is offered here")
def test_a_device_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    """Asked for CUDA, an onnxruntime without it does not quietly compute on the CPU: the recipe's device is kept."""
    (tmp_path / "m.onnx").write_bytes(colours(np.ones((3, 128))))
    with pytest.raises(UserError, match=r"device cuda: this onnxruntime offers .*CPUExecutionProvider; install"):
        InsightFaceRecogniser(InsightFaceRecogniserOptions(path=str(tmp_path), device="cuda"))


@with_assets
def test_a_pack_gives_what_its_files_give() -> None:
    """Faces and embeddings of a pack are those of its files by name; cards state digest and licence."""
    detector = InsightFaceDetector(InsightFaceDetectorOptions(path=str(PACK)))
    direct = Scrfd(ScrfdOptions(path=str(SCRFD)))
    image = pixels(lfw()[0])
    np.testing.assert_array_equal(detector.detect(image).boxes_K4, direct.detect(image).boxes_K4)
    assert detector.card == direct.card
    assert detector.card.licence == "InsightFace, non-commercial research"
    assert not detector.card.commercial_use
    assert detector.size_px == 320
    recogniser = InsightFaceRecogniser(InsightFaceRecogniserOptions(path=str(PACK), batch=2))
    given = OnnxRecogniser(
        OnnxRecogniserOptions(path=str(PACK / "w600k_mbf_uint8dyn.onnx"), name="given", licence="as stated", batch=2)
    )
    faces = aligned(lfw()[:2])
    np.testing.assert_array_equal(recogniser.embed(faces), given.embed(faces))
    assert recogniser.space.name == "insightface-w600k_mbf_uint8dyn"
    assert recogniser.card.sha256 == given.card.sha256
    assert not recogniser.card.row_independent


@with_assets
def test_a_foreign_recogniser_in_a_pack_is_seen(tmp_path: Path) -> None:
    """A recogniser of somebody else that lies in a pack is not silently taken for the pack's own."""
    for path in (*PACK.glob("*.onnx"), ASSETS / "models" / "mobilefacenet_foamliu_128d.onnx"):
        shutil.copy(path, tmp_path)
    with pytest.raises(UserError, match="are each a recogniser"):
        InsightFaceRecogniser(InsightFaceRecogniserOptions(path=str(tmp_path)))
    assert InsightFaceDetector(InsightFaceDetectorOptions(path=str(tmp_path))).card.name == "scrfd-det_500m"
