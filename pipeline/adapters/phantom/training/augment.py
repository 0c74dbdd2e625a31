"""What happens to a clean render before a recogniser sees it: crop error, brightness, blur, noise, JPEG."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch import Tensor

from pipeline.adapters.phantom.renderer import degrade
from pipeline.adapters.phantom.training.device import tensor_of

UInt8 = npt.NDArray[np.uint8]


def to_input(faces_NHWC: UInt8) -> Tensor:
    """Pixels uint8 (N, H, W, 3) to float32 channels-last NCHW in -1..1."""
    return tensor_of(faces_NHWC).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_pixels(faces_NCHW: Tensor) -> UInt8:
    """Tensor NCHW in -1..1 to uint8 (N, H, W, 3), rounded and clamped."""
    scaled = ((faces_NCHW.permute(0, 2, 3, 1) + 1.0) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).contiguous().cpu().numpy()


def jpeg(faces_NHWC: UInt8, quality_N: npt.NDArray[np.int64] | int) -> UInt8:
    """Encode and decode every picture."""
    qualities = np.broadcast_to(np.asarray(quality_N), len(faces_NHWC))
    coded = [
        simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(np.ascontiguousarray(face), quality=int(q)))
        for face, q in zip(faces_NHWC, qualities, strict=True)
    ]
    return np.stack(coded)


def roughen(
    faces_NHWC: UInt8, blur_px_N: npt.NDArray[np.float32], noise_N: npt.NDArray[np.float32], rng: np.random.Generator
) -> UInt8:
    """Shift by up to two pixels, change brightness and contrast, blur, add noise, and store as JPEG at 88..97."""
    n = len(faces_NHWC)
    padded = np.pad(faces_NHWC, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    shifts = rng.integers(0, 5, size=(n, 2))
    moved = np.stack([face[y : y + 112, x : x + 112] for face, (y, x) in zip(padded, shifts, strict=True)])
    gain = rng.uniform(0.85, 1.15, (n, 1, 1, 1)).astype(np.float32)
    offset = rng.uniform(-12, 12, (n, 1, 1, 1)).astype(np.float32)
    moved = np.clip((moved - np.float32(128)) * gain + (128 + offset), 0, 255).astype(np.uint8)
    rough = (blur_px_N > 0.05) | (noise_N > 0.0)
    if rough.any():
        moved[rough] = degrade(moved[rough], blur_px_N[rough], noise_N[rough], rng)
    return jpeg(moved, rng.integers(88, 98, n))
