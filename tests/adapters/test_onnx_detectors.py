"""Detectors on real photographs: faces where a person sees them, the same whatever else is going on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.cropping import aligned_crop
from pipeline.adapters.onnx.fitting import fitted
from pipeline.adapters.onnx.scrfd import Scrfd, ScrfdOptions
from pipeline.adapters.onnx.yunet import YuNet, YuNetOptions
from pipeline.domain.detection import chosen_face
from pipeline.domain.errors import UserError
from pipeline.domain.landmarks import alignment
from tests.photographs import ASSETS, SCRFD, lfw, pixels

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
with_assets = pytest.mark.skipif(not SCRFD.is_file(), reason=f"no {SCRFD.name}: the test assets are not here")


YUNET = ASSETS / "models" / "face_detection_yunet_2023mar.onnx"


def opened(name: str) -> Scrfd | YuNet:
    return Scrfd(ScrfdOptions(path=str(SCRFD))) if name == "scrfd" else YuNet(YuNetOptions(path=str(YUNET)))


@pytest.fixture(scope="module", params=["scrfd", "yunet"])
def detector(request: pytest.FixtureRequest) -> Scrfd | YuNet:
    """One session of each for all."""
    return opened(request.param)


@with_assets
def test_faces_are_found_where_a_person_counted_them(detector: Scrfd | YuNet) -> None:
    """Of photographs of one upright face at least 95 % give one or more; of those of nobody at most two give any."""
    with (ASSETS / "photos" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts: dict[str, list[int]] = {}
    for row in rows:
        if row["category"] in ("single", "noface"):
            found = detector.detect(pixels(ASSETS / "photos" / row["file"]))
            counts.setdefault(row["category"], []).append(len(found))
    assert len(counts["single"]) > 40
    assert np.mean(np.array(counts["single"]) >= 1) >= 0.95
    assert sum(n > 0 for n in counts["noface"]) <= 2


@with_assets
def test_crops_of_a_benchmark_are_aligned(detector: Scrfd | YuNet) -> None:
    """On LFW every face is found, and its points lie on the template after cropping to within a few pixels."""
    template = alignment("arcface-112")
    paths = lfw()[::60][:25]
    misses = []
    for path in paths:
        image = pixels(path)
        found = detector.detect(image)
        row = chosen_face(found, image.shape[1], image.shape[0], "central")
        assert row is not None, path
        crop = aligned_crop(image, found.points_K52[row], template, 112)
        assert crop is not None
        again = detector.detect(np.pad(crop, ((56, 56), (56, 56), (0, 0))))
        if len(again):
            misses.append(np.abs(again.points_K52[0] - 56 - np.array(template.points)).mean())
    assert len(misses) >= 20
    assert np.median(misses) < 3


@with_assets
def test_what_is_found_follows_from_the_picture_alone(detector: Scrfd | YuNet) -> None:
    """The same picture gives the same numbers again, after others, and in a new session."""
    image = pixels(min((ASSETS / "photos" / "group").glob("*.jpg")))
    first = detector.detect(image)
    assert len(first) > 1
    assert (np.diff(first.scores_K) <= 0).all()
    detector.detect(image[::-1])
    for again in (detector.detect(image), opened("scrfd" if isinstance(detector, Scrfd) else "yunet").detect(image)):
        np.testing.assert_array_equal(again.boxes_K4, first.boxes_K4)
        np.testing.assert_array_equal(again.points_K52, first.points_K52)


@with_assets
def test_no_face_gives_no_rows(detector: Scrfd | YuNet) -> None:
    """A grey picture of any shape has no face, and the arrays keep their shapes."""
    for shape in ((40, 40, 3), (16, 900, 3), (900, 16, 3)):
        found = detector.detect(np.full(shape, 128, np.uint8))
        assert len(found) == 0
        assert found.boxes_K4.shape == (0, 4)
        assert found.points_K52.shape == (0, 5, 2)


@with_assets
def test_another_model_is_one_line(tmp_path: Path) -> None:
    """A missing file, a file that is no model, and a model of another kind are the user's mistakes."""
    with pytest.raises(UserError, match="no such file"):
        Scrfd(ScrfdOptions(path=str(tmp_path / "none.onnx")))
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 99)
    with pytest.raises(UserError, match="cannot load it"):
        Scrfd(ScrfdOptions(path=str(tmp_path / "junk.onnx")))
    with pytest.raises(UserError, match="no such file"):
        YuNet(YuNetOptions(path=str(tmp_path / "none.onnx")))
    with pytest.raises(UserError, match="cannot run it as a YuNet"):
        YuNet(YuNetOptions(path=str(tmp_path / "junk.onnx")))
    with pytest.raises(UserError, match="scores, boxes and points"):
        Scrfd(ScrfdOptions(path=str(ASSETS / "models" / "mobilefacenet_foamliu_128d.onnx")))


def test_pictures_are_fitted_into_a_square() -> None:
    """The longer side fills the square, the rest is black, and the scale says how to get back."""
    for height, width in ((100, 50), (50, 100), (64, 64), (3, 999)):
        canvas, scale = fitted(np.full((height, width, 3), 200, np.uint8), 64)
        assert canvas.shape == (64, 64, 3)
        lit = canvas.any(axis=2)
        assert lit[0].any()
        assert max(lit.any(axis=0).sum(), lit.any(axis=1).sum()) == 64
        assert scale == pytest.approx(max(1, int(64 * height / max(height, width))) / height)
