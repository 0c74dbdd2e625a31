"""Frames as a decoder gives them -> images of 8 bits, whole or cut by a fixed square.

A crop is two products with sparse matrices of weights, one per axis: triangles as wide as a pixel of the larger grid,
so that a smaller image is an average and a larger one bilinear. What lies outside of the frame is black.

Legend: N rows, C 3 channels, H W axes of the frame, S side of the crop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.domain.records import Float32, UInt8


def axis_weights(first_px: float, length_px: float, frame_px: int, side_px: int) -> Float32:
    """Return the weights of a frame's pixels in each pixel of a crop along one axis, shape (S, frame).

    Args:
        first_px: where the crop begins, from the outer edge of the first pixel.
        length_px: how much of the frame it covers.
        frame_px: pixels of the frame.
        side_px: pixels of the crop.
    """
    step = length_px / side_px
    centres = first_px + (np.arange(side_px) + 0.5) * step
    pixels = np.arange(frame_px) + 0.5
    weights = np.clip(1.0 - np.abs(pixels - centres[:, None]) / max(step, 1.0), 0.0, None)
    # at the edge of the frame the triangle is cut, and what is left counts in full
    total = weights.sum(axis=1, keepdims=True)
    inside = (centres >= 0.0) & (centres <= frame_px)
    return np.where(inside[:, None] & (total > 0), weights / np.where(total > 0, total, 1.0), 0.0).astype(np.float32)


class Framing:
    """Turns decoded frames into images of 8 bits."""

    def __init__(
        self, frame_px: int, square: tuple[float, float, float] | None, side_px: int, at: torch.device
    ) -> None:
        """Prepare the weights.

        Args:
            frame_px: side of a frame.
            square: left edge, top edge and side of the crop as shares of the frame; None leaves frames whole.
            side_px: side of the crop.
            at: where frames are.
        """
        self._weights: tuple[Tensor, Tensor] | None = None
        if square is not None:
            left, top, side = (share * frame_px for share in square)
            y_SH, x_SW = (axis_weights(first, side, frame_px, side_px) for first in (top, left))
            self._weights = torch.from_numpy(y_SH).to(at), torch.from_numpy(x_SW).to(at)

    def images(self, decoded_NCHW: Tensor) -> UInt8:
        """Return faces_NHWC, uint8 RGB, of frames in [-1, 1]; what lies beyond is clipped, levels are rounded."""
        x = (decoded_NCHW.float() / 2 + 0.5).clamp(0, 1)
        if self._weights is not None:
            y_SH, x_SW = self._weights
            x = y_SH @ x.contiguous() @ x_SW.T
        levels = (x * 255).round().to(torch.uint8)
        faces: UInt8 = np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())
        return faces
