"""Side by side with the package insightface, where it is installed: the same faces, crops and embeddings.

A quantised recogniser turns one last bit of an input into thousandths of a cosine, so that "the same" here means the
same bits of points and pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.cropping import aligned_crop
from pipeline.adapters.onnx.insightface import (
    InsightFaceDetector,
    InsightFaceDetectorOptions,
    InsightFaceRecogniser,
    InsightFaceRecogniserOptions,
)
from pipeline.domain.detection import chosen_face
from pipeline.domain.landmarks import alignment
from tests.photographs import ASSETS, SCRFD, lfw, pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # insightface and what it imports warn of each other's changes
    pytest.mark.skipif(not SCRFD.is_file(), reason=f"no {SCRFD.name}: the test assets are not here"),
]
PACK = SCRFD.parent


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Return their analysis of one pack at the side that ours is pinned to."""
    pytest.importorskip("insightface", reason="insightface is not installed: pip install 'facemint[insightface]'")
    from insightface.app import FaceAnalysis

    found = FaceAnalysis(name=PACK.name, root=str(ASSETS / "insightface"), providers=["CPUExecutionProvider"])
    found.prepare(ctx_id=-1, det_size=(320, 320))
    return found


def pictures() -> list[Path]:
    return [*lfw()[::150], *sorted((ASSETS / "photos" / "people").rglob("*.jpg"))[::12]]


def test_faces_crops_and_embeddings_are_insightfaces(theirs: Any) -> None:
    """Over photographs of several sizes points and crops are theirs to the bit, and every cosine is 0.999 or more."""
    from insightface.utils.face_align import norm_crop

    detector = InsightFaceDetector(InsightFaceDetectorOptions(path=str(PACK)))
    judge = InsightFaceRecogniser(InsightFaceRecogniserOptions(path=str(PACK), batch=1))
    compared = 0
    for path in pictures():
        image = pixels(path)
        bgr = np.ascontiguousarray(image[..., ::-1])
        seen = theirs.get(bgr, max_num=1)
        ours = detector.detect(image)
        row = chosen_face(ours, image.shape[1], image.shape[0], "central")
        assert (row is None) == (not seen), path
        if row is None:
            continue
        np.testing.assert_array_equal(ours.points_K52[row], seen[0].kps)
        crop = aligned_crop(image, ours.points_K52[row], alignment("arcface-112"), 112)
        assert crop is not None
        np.testing.assert_array_equal(crop[..., ::-1], norm_crop(bgr, seen[0].kps, 112))
        assert float(judge.embed(crop[None])[0] @ seen[0].normed_embedding) >= 0.999, path
        compared += 1
    assert compared >= 10
