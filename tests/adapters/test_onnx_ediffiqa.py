"""EDifFIQA behind the port, on models made up here: how pixels reach the network, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.onnx.ediffiqa import EDifFIQA, EDifFIQAOptions
from pipeline.domain.errors import UserError
from tests.onnx_files import colours, model, node

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
WEIGHTS = np.array([[0.5], [0.25], [-0.125]])


def opened(place: Path, data: bytes) -> EDifFIQA:
    path = place / "quality.onnx"
    path.write_bytes(data)
    return EDifFIQA(EDifFIQAOptions(path=str(path)))


@pytest.mark.parametrize("batch", ["n", 1])
def test_pixels_reach_the_network_as_it_was_trained(tmp_path: Path, batch: int | str) -> None:
    """Red, green and blue, in this order, from -1 to 1; with a batch axis or without one."""
    faces = np.zeros((3, 112, 112, 3), np.uint8)
    faces[0], faces[1], faces[2] = (255, 0, 0), (0, 255, 0), (51, 102, 204)
    found = opened(tmp_path, colours(WEIGHTS, batch=batch)).measure(faces)["ediffiqa"]
    scaled = (np.array([(255, 0, 0), (0, 255, 0), (51, 102, 204)]) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(found, scaled @ WEIGHTS[:, 0], atol=1e-4)
    assert found.dtype == np.float64


def test_a_face_is_measured_alone(tmp_path: Path) -> None:
    """A face has the same number in any company; of no face there is none."""
    given = opened(tmp_path, colours(WEIGHTS))
    faces = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
    found = given.measure(faces)["ediffiqa"]
    np.testing.assert_array_equal(given.measure(faces[::-1])["ediffiqa"][::-1], found)
    assert given.measure(faces[:0])["ediffiqa"].shape == (0,)
    assert given.card.licence == "CC-BY-4.0"
    with pytest.raises(ValueError, match="eDifFIQA reads"):
        given.measure(faces[:, :96, :96])


def test_other_models_are_refused(tmp_path: Path) -> None:
    """A missing file, crops of another size, two inputs, and an embedding in place of a number are one line each."""
    with pytest.raises(UserError, match="no such file"):
        EDifFIQA(EDifFIQAOptions(path=str(tmp_path / "none.onnx")))
    with pytest.raises(UserError, match="takes one crop of 3 x 112 x 112"):
        opened(tmp_path, colours(WEIGHTS, side=96))
    with pytest.raises(UserError, match=r"gives \[1, 5\] for a face"):
        opened(tmp_path, colours(np.ones((3, 5))))
    shape = (1, 3, 112, 112)
    with pytest.raises(UserError, match="takes one crop"):
        opened(tmp_path, model([node("Add", ["a", "b"], ["y"])], {"a": shape, "b": shape}, {"y": shape}))
