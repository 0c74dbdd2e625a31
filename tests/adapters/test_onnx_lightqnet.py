"""LightQNet behind the port: a sharp face scores above its blurred copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.onnx.lightqnet import LightQNet, LightQNetOptions
from pipeline.domain.errors import UserError
from tests.photographs import ASSETS, aligned, lfw

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
MODEL = ASSETS / "models" / "lightqnet-dm100.pb"
with_assets = pytest.mark.skipif(not MODEL.is_file(), reason=f"no {MODEL.name}: the test assets are not here")


@pytest.fixture(scope="module")
def model() -> LightQNet:
    """One network for all."""
    return LightQNet(LightQNetOptions(path=str(MODEL)))


@with_assets
def test_blur_costs_quality_and_company_changes_nothing(model: LightQNet) -> None:
    """Nearly every face of the benchmark scores above its copy blurred by four pixels; scores follow the face alone."""
    faces = aligned(lfw()[::80][:20])
    blurred = np.stack([cv2.GaussianBlur(face, (0, 0), 4) for face in faces])
    sharp, soft = model.measure(faces)["lightqnet"], model.measure(blurred)["lightqnet"]
    assert ((sharp > 0) & (sharp < 1)).all()
    assert (sharp > soft + 0.1).mean() >= 0.95
    np.testing.assert_array_equal(model.measure(faces[::-1])["lightqnet"][::-1], sharp)
    assert model.measure(faces[:0])["lightqnet"].shape == (0,)


@with_assets
def test_another_file_is_one_line(tmp_path: Path) -> None:
    """A missing file, and one that is no graph, are the user's mistakes."""
    with pytest.raises(UserError, match="no such file"):
        LightQNet(LightQNetOptions(path=str(tmp_path / "none.pb")))
    (tmp_path / "junk.pb").write_bytes(b"junk" * 99)
    with pytest.raises(UserError, match="cannot run it as a LightQNet"):
        LightQNet(LightQNetOptions(path=str(tmp_path / "junk.pb")))
