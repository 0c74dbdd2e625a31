"""The pose condition of Vec2Face+: five landmarks drawn as discs, read by a small network into one token.

Crops are aligned, so where a turned head has its landmarks in one follows from the pose alone: the points of an upright
head are turned, seen from far away, and fitted to the template as every crop is.

Legend: N rows, 5 points, 2 axes, W width of a token.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.domain.detection import similarity
from pipeline.domain.landmarks import Alignment, alignment
from pipeline.domain.records import UInt8

Float64 = npt.NDArray[np.float64]
SIDE_PX = 112
RADIUS_PX = 3
EYE, NOSE, MOUTH = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS = (EYE, EYE, NOSE, MOUTH, MOUTH)
"""RGB of the discs, in the order of the landmarks."""
CHANNELS = (32, 64, 128, 256)


def landmarks_of(yaw_deg: float, pitch_deg: float, template: Alignment | None = None) -> Float64:
    """Return where an aligned crop of a head in this pose has its five landmarks, shape (5, 2), in pixels.

    Yaw is positive to the right of the image, pitch upwards, as `pipeline.domain.landmarks.pose_deg` reads them.
    """
    template = template or alignment("arcface-112")
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    seen_52 = (template.head_53() @ (nod @ turn).T)[:, :2] * np.array([1.0, -1.0])
    fit = similarity(seen_52, template, template.side_px)
    assert fit is not None, "a head seen from anywhere has its five points in more than one place"
    return np.asarray(seen_52 @ fit[:, :2].T + fit[:, 2])


def landmark_picture(points_52: npt.ArrayLike, side_px: int = SIDE_PX) -> UInt8:
    """Return the picture that stands for five landmarks: black, with a disc of radius 3 px at each, uint8 RGB.

    Eyes are red, the nose is green, mouth corners are blue; centres are rounded to whole pixels, and what lies beyond
    the picture is cut off.
    """
    picture = np.zeros((side_px, side_px, 3), np.uint8)
    y, x = np.mgrid[0:side_px, 0:side_px]
    for (centre_x, centre_y), colour in zip(np.rint(np.asarray(points_52, np.float64)), COLOURS, strict=True):
        picture[(x - centre_x) ** 2 + (y - centre_y) ** 2 <= RADIUS_PX**2] = colour
    return picture


class PoseModel(nn.Module):
    """Reads landmark pictures; named as in the published checkpoints."""

    def __init__(self, width: int, channels: tuple[int, int, int, int] = CHANNELS) -> None:
        """Make four convolutions that halve the picture, and a projection to one token."""
        super().__init__()
        first, second, third, fourth = channels
        self.conv1 = nn.Conv2d(3, first, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(third, fourth, 3, stride=2, padding=1)
        self.linear = nn.Linear(fourth * (SIDE_PX // 16) ** 2, width)

    def forward(self, pictures_NCHW: Tensor) -> Tensor:
        """Return one token per landmark picture in -1..1, (N, 1, W)."""
        x_NCHW = pictures_NCHW
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x_NCHW = F.relu(layer(x_NCHW))
        out: Tensor = self.linear(x_NCHW.flatten(1)).unsqueeze(1)
        return out


__all__ = ["PoseModel", "landmark_picture", "landmarks_of"]
