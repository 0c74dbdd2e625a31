"""Heads to look at: normals of a plain head at a pose, as pictures for a ControlNet.

The published ControlNet of Arc2Face was trained on renderings of normals of fitted head models. Here the head is an
ellipsoid with another for the nose, in the proportions of the five landmarks: it tells pose, and nothing of a person.
Whether a plain head steers the published network as well as a fitted one was not measured. Colours are
(normal + 1) / 2 with x to the right, y upwards and z towards the viewer; around the head it is black.

Legend: N rows, C 3 channels, H W axes of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import Conditions, Float32

POSE_RANGES: Mapping[str, tuple[float, float]] = {
    "yaw_deg": (-75.0, 75.0),
    "pitch_deg": (-40.0, 40.0),
    "roll_deg": (-40.0, 40.0),
}
Float64 = npt.NDArray[np.float64]
CENTRE = np.array([0.0, -0.1, -1.41])
"""Of the head, from the middle of the eyes, in units of their distance; x to the right, y up, z to the viewer."""
PARTS: tuple[tuple[Float64, Float64], ...] = (
    (CENTRE, np.array([1.2, 1.8, 1.55])),
    (np.array([0.0, -0.45, -0.02]), np.array([0.24, 0.42, 0.44])),
)
"""Centre and half axes of head and nose."""


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Float64:
    """Return the matrix that turns a head: positive yaw to the right of the image, pitch upwards, roll clockwise.

    The order is that in which `pose_deg` of the domain reads them: yaw first, roll last.
    """
    yaw, pitch, roll = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y, np.float64)


def head_pictures(
    conditions: Sequence[Conditions], side_px: int, points: Sequence[tuple[float, float]]
) -> tuple[Float32, Float32]:
    """Return pictures, float32 in [0, 1], shape (N, 3, side, side), and 1 for each row that asks for a pose, (N,).

    Args:
        conditions: of each row; an angle that is not given is 0 where another one is.
        side_px: side of the pictures.
        points: where the five landmarks of an upright face lie, as shares of the side.
    """
    given = np.array([any(name in c for name in POSE_RANGES) for c in conditions], np.float32)
    pictures = np.zeros((len(conditions), 3, side_px, side_px), np.float32)
    for row, asked in enumerate(conditions):
        if given[row]:
            pictures[row] = head_picture([asked.get(name, 0.0) for name in POSE_RANGES], side_px, points)
    return pictures, given


def head_picture(pose_deg: Sequence[float], side_px: int, points: Sequence[tuple[float, float]]) -> Float32:
    """Return the picture of a head turned by yaw, pitch and roll, shape (3, side, side)."""
    (ax, ay), (bx, by) = points[:2]
    unit = float(np.hypot(bx - ax, by - ay))
    places = (np.arange(side_px) + 0.5) / side_px
    x, y = np.meshgrid((places - (ax + bx) / 2) / unit, ((ay + by) / 2 - places) / unit)
    turn = rotation(*pose_deg)
    # a ray through each pixel, seen from the head: the head turns about its own centre
    start = (np.stack([x, y, np.zeros_like(x)], axis=-1) - CENTRE) @ turn + CENTRE
    ahead = turn[2]
    nearest = np.full(x.shape, -np.inf)
    normal = np.zeros((*x.shape, 3))
    for centre, half in PARTS:
        depth, towards = _hit(start - centre, ahead, half)
        closer = depth > nearest
        nearest = np.where(closer, depth, nearest)
        normal = np.where(closer[..., None], towards @ turn.T, normal)
    seen = np.isfinite(nearest)[..., None]
    picture = np.where(seen, (normal + 1) / 2, 0.0)
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)


def _hit(start: Float64, ahead: Float64, half: Float64) -> tuple[Float64, Float64]:
    """Return how far along the ray an ellipsoid is met first, -inf where it is missed, and its unit normal there."""
    p, d = start / half, ahead / half
    a, b, c = d @ d, p @ d, (p * p).sum(axis=-1) - 1
    inside = b * b - a * c
    depth = np.where(inside > 0, (-b + np.sqrt(np.maximum(inside, 0))) / a, -np.inf)
    at = np.where(
        np.isfinite(depth)[..., None], start + np.where(np.isfinite(depth), depth, 0.0)[..., None] * ahead, 1.0
    )
    gradient = at / half**2
    return depth, gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
