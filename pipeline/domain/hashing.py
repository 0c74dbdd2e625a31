"""Perceptual hashes: 64 bits of a face that survive another encoding, another size and a little noise.

A copy is found by the number of bits in which two hashes differ (the Hamming distance); identity plays no part.
Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import UInt8

SIDE = 32
"""Faces are averaged down to so many pixels a side before the transform."""
KEPT = 8
"""Lowest frequencies kept along each axis: KEPT x KEPT bits."""

UInt64 = npt.NDArray[np.uint64]


def perceptual_hash(faces_NHWC: UInt8) -> UInt64:
    """Return one 64-bit hash per face, uint64, shape (N,).

    Grey (Rec. 601 luma), averaged down to 32 x 32 by area, DCT-II of frequencies 1 to 8 along each axis; bit n tells
    whether coefficient n, row by row, lies above the median of the 64. After pHash (Zauner, *Implementation and
    Benchmarking of Perceptual Image Hash Functions*, 2010).

    Raises:
        ValueError: not an array of RGB images.
    """
    faces = np.asarray(faces_NHWC)
    if faces.ndim != 4 or faces.shape[3] != 3:
        raise ValueError(f"perceptual hash: got an array of shape {faces.shape}; faces are uint8 RGB (N, H, W, 3)")
    rows, columns = _averaging(faces.shape[1]), _averaging(faces.shape[2])
    basis = _cosines()
    hashes = np.zeros(len(faces), np.uint64)
    weights = np.uint64(1) << np.arange(KEPT * KEPT, dtype=np.uint64)
    for n, face in enumerate(faces):
        grey = face.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        low = basis @ (rows @ grey @ columns.T) @ basis.T
        bits = (low > np.median(low)).ravel()
        hashes[n] = weights[bits].sum(dtype=np.uint64)
    return hashes


def hash_distance(one: UInt64, other: UInt64) -> npt.NDArray[np.int64]:
    """Return in how many of 64 bits hashes differ; shapes broadcast."""
    return np.bitwise_count(np.bitwise_xor(one, other)).astype(np.int64)


@cache
def _averaging(length: int) -> npt.NDArray[np.float64]:
    """Return the (SIDE, length) matrix that averages by area; each output pixel covers length / SIDE input pixels."""
    edges = np.linspace(0.0, length, SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.clip(overlap, 0.0, None)
    weights: npt.NDArray[np.float64] = covered / covered.sum(axis=1, keepdims=True)
    return weights


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """Return the (KEPT, SIDE) DCT-II rows of frequencies 1 to KEPT: frequency 0 is brightness, which copies change."""
    frequency = np.arange(1, KEPT + 1)[:, None]
    place = np.arange(SIDE)[None, :] + 0.5
    basis: npt.NDArray[np.float64] = np.cos(np.pi * frequency * place / SIDE)
    return basis
