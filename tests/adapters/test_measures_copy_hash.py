"""The perceptual hash: bits by hand, copies near, other pictures far, and the same bits for ever."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.adapters.codec import JpegCodec, JpegOptions
from pipeline.adapters.measures.copy_hash import CopyHash
from pipeline.domain.hashes import UInt64, hamming, joined
from pipeline.domain.records import UInt8


def hashes(faces: UInt8) -> UInt64:
    """Return the hash of each picture."""
    found = CopyHash().measure(faces)
    return joined(found["phash_hi"], found["phash_lo"])


def pictures(count: int, side: int = 112) -> UInt8:
    """Return pictures with the falling spectrum of natural images."""
    rng = np.random.default_rng(2)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1.0
    out = []
    for _ in range(count):
        wave = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) / frequency**1.5).real
        grey = np.clip(128 + 45 * (wave - wave.mean()) / wave.std(), 0, 255)
        out.append(np.repeat(grey[..., None], 3, axis=-1))
    return np.rint(np.stack(out)).astype(np.uint8)


def test_a_flat_picture_exceeds_no_median() -> None:
    """All coefficients are nothing, none exceeds the median, so every bit is 0."""
    assert hashes(np.full((1, 24, 24, 3), 200, np.uint8)).tolist() == [0]


def test_bits_by_hand() -> None:
    """Light that falls from left to right has coefficients across alone, above nothing at odd half waves only.

    With rows that are alike, the sum over a column of cos(pi v (2 y + 1) / (2 H)) is 0 for every v of 1 to 8, but for
    rounding to 1/1024, so a picture is needed that varies both ways: a product of the first wave across and the first
    down has one large coefficient, (1, 1), and nothing else near it. Its bit is the highest of the hash.
    """
    wave = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    grey = np.rint(128 + 100 * np.outer(wave, wave))
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    (bits,) = hashes(picture[None]).tolist()
    assert bits >> 63 == 1
    (turned,) = hashes((255 - picture)[None]).tolist()
    assert turned >> 63 == 0


def test_copies_are_near_and_others_far() -> None:
    """JPEG, another size and another brightness move few of 64 bits; other pictures differ in about half of them."""
    faces = pictures(12)
    own = hashes(faces)
    codec = JpegCodec(JpegOptions(use="jpeg"))
    copies = {
        "jpeg": np.stack([codec.decode(codec.encode(f)) for f in faces]),
        "resized": np.stack([np.asarray(Image.fromarray(f).resize((80, 80), Image.Resampling.BICUBIC)) for f in faces]),
        "dimmed": (faces * 0.8).astype(np.uint8),
    }
    for what, copied in copies.items():
        assert hamming(own, hashes(copied)).max() <= 6, what
    apart = hamming(own[:, None], own)[~np.eye(12, dtype=bool)]
    assert apart.min() >= 12
    assert apart.mean() == pytest.approx(32, abs=3)


def test_bits_are_those_of_the_first_release() -> None:
    """A change of formula must change the card's digest too: hashes are compared across datasets."""
    y, x = np.mgrid[0:48, 0:40]
    face = np.stack([(x * y) % 251, (7 * x) % 256, (5 * y + x) % 256], axis=-1).astype(np.uint8)
    assert f"{hashes(face[None])[0]:016x}" == "0f3e70e167ccc899"
    assert CopyHash.card.sha256[:16] == "982e24147a7eedf9"
