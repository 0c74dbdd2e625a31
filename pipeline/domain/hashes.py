"""Perceptual hashes: 64 bits that copies of a picture share; as numbers that a table of measures holds; their distance.

A hash of 64 bits does not fit into a float64, which is exact up to 53: it travels as two halves of 32 bits.

Legend: N and M hashes, H W C image axes, 8 frequencies.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import UInt8

UInt64 = npt.NDArray[np.uint64]
BITS = 64
FREQUENCIES = 8
STEPS = 1024.0
BLOCK = 16
"""Pictures at once: bounds memory, and changes nothing."""
_HALF = 2.0**32


def perceptual_hash(faces_NHWC: UInt8) -> UInt64:
    """Return one hash per picture, uint64 of shape (N,).

    DCT hash (C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010): the cosines of 1
    to 8 half waves across and down the picture's Rec. 709 luma; bit 8 v + u, counted from the highest, says whether the
    coefficient of column frequency u + 1 and row frequency v + 1 exceeds the median of all 64. Here the cosines are
    taken over the picture's own pixels, whatever its size, and rounded to 1/1024, so that every sum is of whole
    numbers, hence exact: neither the batch nor the CPU changes a bit.

    Raises:
        ValueError: not an array of RGB pictures.
    """
    if faces_NHWC.ndim != 4 or faces_NHWC.shape[3] != 3:
        raise ValueError(
            f"perceptual hash: got an array of shape {faces_NHWC.shape}; pictures are uint8 RGB (N, H, W, 3)"
        )
    hashes = np.zeros(len(faces_NHWC), np.uint64)
    for start in range(0, len(faces_NHWC), BLOCK):
        hashes[start : start + BLOCK] = _block(faces_NHWC[start : start + BLOCK])
    return hashes


def _block(faces_NHWC: UInt8) -> UInt64:
    count, height, width, _ = faces_NHWC.shape
    luma_NHW = _luma(faces_NHWC).astype(np.float64)
    # whole numbers below 2^53 all the way: 8 bits of luma, twice 10 of cosine and 12 of side
    across = luma_NHW.reshape(count * height, width) @ _waves(width).T
    coefficients = np.matmul(_waves(height), across.reshape(count, height, FREQUENCIES)).reshape(count, BITS)
    ordered = np.sort(coefficients, axis=1)
    twice_median_N = ordered[:, BITS // 2 - 1] + ordered[:, BITS // 2]
    bits = 2.0 * coefficients > twice_median_N[:, None]
    return np.asarray(np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64), np.uint64)


def _luma(faces_NHWC: UInt8) -> npt.NDArray[np.uint8]:
    """Return Rec. 709 luma, 0..255, rounded."""
    red, green, blue = (faces_NHWC[..., channel].astype(np.uint16) for channel in range(3))
    return ((54 * red + 183 * green + 19 * blue + 128) >> 8).astype(np.uint8)


@cache
def _waves(side_px: int) -> npt.NDArray[np.float64]:
    """Return the cosines of 1 to 8 half waves over a side, in whole steps of 1/1024; shape (8, side)."""
    centres = (np.arange(side_px) + 0.5) / side_px
    waves = np.arange(1, FREQUENCIES + 1)[:, None]
    return np.rint(np.cos(np.pi * waves * centres) * STEPS)


def joined(hi_N: npt.ArrayLike, lo_N: npt.ArrayLike) -> UInt64:
    """Return hashes, uint64 (N,), from their halves.

    Raises:
        ValueError: a half is not a whole number of 0 to 2^32 - 1.
    """
    hi, lo = np.asarray(hi_N, np.float64), np.asarray(lo_N, np.float64)
    for name, half in (("hi", hi), ("lo", lo)):
        if not ((half >= 0) & (half < _HALF) & (half == np.floor(half))).all():
            raise ValueError(f"{name} half of a hash: got a number that is not whole, or not 0 to 2^32 - 1")
    return (hi.astype(np.uint64) << np.uint64(32)) | lo.astype(np.uint64)


def halves(hash_N: UInt64) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the upper and the lower 32 bits of hashes, as float64 that hold them exactly."""
    return (hash_N >> np.uint64(32)).astype(np.float64), (hash_N & np.uint64(0xFFFFFFFF)).astype(np.float64)


def hamming(one: UInt64, other: UInt64) -> npt.NDArray[np.int64]:
    """Return in how many bits hashes differ, 0 to 64; shapes broadcast: `hamming(a_N[:, None], b_M)` is (N, M)."""
    return np.bitwise_count(np.bitwise_xor(one, other)).astype(np.int64)
