"""Sharpness: it falls with blur and with nothing else, and each row stands alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.adapters.measures.sharpness import Sharpness
from pipeline.domain.ports import Measurer
from pipeline.domain.records import UInt8


def _picture(seed: int, size: int = 112) -> Any:
    """Return a float picture (H, W, 3) with the falling spectrum of natural images."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1.0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / frequency**1.5).real
    grey = 128 + 45 * (noise - noise.mean()) / noise.std()
    return np.repeat(grey[..., None], 3, axis=-1)


def _bytes(pictures: list[Any]) -> UInt8:
    return np.stack([np.clip(np.rint(p), 0, 255) for p in pictures]).astype(np.uint8)


def test_it_keeps_the_port() -> None:
    """Every declared name comes back as one float64 per row; the card allows any use."""
    measurer: Measurer = Sharpness()
    found = measurer.measure(_bytes([_picture(0), _picture(1)]))
    assert tuple(found) == measurer.names
    assert all(v.shape == (2,) and v.dtype == np.float64 for v in found.values())
    assert measurer.card.commercial_use
    assert measurer.card.row_independent
    assert len(measurer.card.sha256) == 64


def test_it_falls_with_every_step_of_blur() -> None:
    """A more blurred copy is always less sharp, on bright and on dim pictures."""
    for seed in range(4):
        for gain in (1.0, 0.3):
            steps = [gain * gaussian_filter(_picture(seed), (s, s, 0)) for s in (0, 0.6, 1, 1.5, 2.2)]
            sharpness = Sharpness().measure(_bytes(steps))["sharpness"]
            assert (np.diff(sharpness) < 0).all()
            assert sharpness[0] > 0.4 > 0.13 > sharpness[-1]


def test_light_is_not_taken_for_sharpness() -> None:
    """Half the light and half the contrast change sharpness little, far less than one pixel of blur does."""
    picture = _picture(3)
    full, dim, blurred = Sharpness().measure(
        _bytes([picture, picture / 2, gaussian_filter(picture, (1, 1, 0))])
    )["sharpness"]  # fmt: skip
    assert abs(full - dim) < 0.03 < 0.2 < full - blurred


def test_a_flat_picture_has_no_sharpness() -> None:
    """Nothing divides by nothing: a flat picture is 0, as is one of slow gradients."""
    ramp = np.repeat(np.linspace(0, 255, 112)[None, :, None], 112, axis=0).repeat(3, axis=-1)
    found = Sharpness().measure(_bytes([np.full((112, 112, 3), 77.0), ramp]))
    assert found["sharpness"][0] == 0.0
    assert found["sharpness"][1] < 0.05
    assert found["luma_contrast"][0] == 0.0


def test_luma_is_rec_709_in_0_to_1() -> None:
    """Black is 0, white is 1, and green weighs most; contrast of half black, half white is one half."""
    colours = np.zeros((5, 16, 16, 3), np.uint8)
    colours[1], colours[2, ..., 0], colours[3, ..., 1], colours[4, :8] = 255, 255, 255, 255
    found = Sharpness().measure(colours)
    assert found["luma_mean"] == pytest.approx([0.0, 1.0, 0.2126, 0.7152, 0.5], abs=2e-3)
    assert found["luma_contrast"] == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.5])


def test_rows_do_not_touch_each_other() -> None:
    """Alone, in a batch, in another order and beside other neighbours a row has the same bits."""
    faces = _bytes([_picture(seed) for seed in range(9)])
    whole = Sharpness().measure(faces)
    turned = Sharpness().measure(faces[::-1])
    for name, values in whole.items():
        alone = [float(Sharpness().measure(faces[i : i + 1])[name][0]) for i in range(9)]
        assert values.tolist() == alone == turned[name][::-1].tolist()


def test_memory_layout_changes_nothing() -> None:
    """A transposed view measures as its copy does."""
    view = _bytes([_picture(seed) for seed in range(2)]).transpose(0, 2, 1, 3)
    first, second = Sharpness().measure(view), Sharpness().measure(view.copy())
    assert {k: v.tolist() for k, v in first.items()} == {k: v.tolist() for k, v in second.items()}


def test_numbers_are_those_of_the_first_release() -> None:
    """A change of formula must change the card's digest too: thresholds of old recipes depend on these numbers."""
    y, x = np.mgrid[0:32, 0:40]
    face = np.stack([(x * y) % 251, (7 * x) % 256, (5 * y + x) % 256], axis=-1).astype(np.uint8)
    found = Sharpness().measure(face[None])
    assert {k: float(v[0]).hex() for k, v in found.items()} == {
        "sharpness": "0x1.c00279bb2620bp-1",
        "luma_mean": "0x1.c40fee54bb218p-2",
        "luma_contrast": "0x1.f2c5447002b89p-3",
    }
    assert Sharpness.card.sha256[:16] == "12aee67872ce8682"
