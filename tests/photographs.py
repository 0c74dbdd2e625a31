"""Real photographs and models for tests, where they are: decoded, detected and aligned by our own parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.adapters.cropping import aligned_crop
from pipeline.adapters.decoding import decode
from pipeline.adapters.onnx.scrfd import Scrfd, ScrfdOptions
from pipeline.domain.detection import chosen_face
from pipeline.domain.intake import Decoded, DecodeLimits
from pipeline.domain.landmarks import alignment

ASSETS = Path(__file__).resolve().parents[1].parent / "shared" / "assets"
LFW = ASSETS / "lfw"
SCRFD = ASSETS / "insightface" / "models" / "buffalo_sc" / "det_500m.onnx"


def pixels(path: Path) -> np.ndarray:
    """Return a picture, uint8 RGB (H, W, 3)."""
    found = decode(path.read_bytes(), DecodeLimits())
    assert isinstance(found, Decoded), (path, found)
    return found.image_HWC


@cache
def lfw() -> tuple[Path, ...]:
    """Return every picture of the benchmark, in the order of paths."""
    return tuple(sorted(LFW.rglob("*.jpg")))


def aligned(paths: Sequence[Path]) -> np.ndarray:
    """Return one crop per picture, uint8 RGB (N, 112, 112, 3): the most central face, aligned to `arcface-112`."""
    detector, template = Scrfd(ScrfdOptions(path=str(SCRFD))), alignment("arcface-112")
    out = []
    for path in paths:
        image = pixels(path)
        seen = detector.detect(image)
        row = chosen_face(seen, image.shape[1], image.shape[0], "central")
        assert row is not None, path
        crop = aligned_crop(image, seen.points_K52[row], template, 112)
        assert crop is not None
        out.append(crop)
    return np.stack(out)
