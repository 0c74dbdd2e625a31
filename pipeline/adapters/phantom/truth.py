"""What a picture hides: classes of pixels, regions of the face, and landmarks that cannot be seen."""

from __future__ import annotations

import torch
from torch.nn import functional

from pipeline.adapters.phantom.heads import Head, Tensor
from pipeline.adapters.phantom.occluders import TINTED, Occluders
from pipeline.adapters.phantom.shadows import Scene
from pipeline.adapters.phantom.spectacles import PLANE_Z
from pipeline.adapters.phantom.views import View

REGIONS = ("forehead", "eyes", "nose", "mouth", "cheeks", "chin")
"""Parts of a face whose hidden share is told."""
_STEPS, _GRAZE = 60, 0.05


def region_masks(head: Head, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Which regions (N, regions, P) bool surface points belong to, given in head-frame coordinates."""
    x, y, z = head.normalise(x, y, z)
    ax = x.abs()
    front = z > 0.3
    eyes = front & (y.abs() < 0.13) & ((ax - head.eye_x).abs() < 0.19)
    nose = (z > 0.5) & (ax < head.nose_w + 0.07) & (y < 0.05) & (y > head.nose_y - 0.11)
    mouth = front & (ax < head.mouth_w + 0.03) & (y - head.mouth_y + 0.5 * head.gap).abs().lt(0.13 + 0.5 * head.gap)
    forehead = front & (y > head.brow_y + 0.08) & (y < 0.55)
    cheeks = front & (y < -0.13) & (y > -0.58) & ~nose & ~mouth
    chin = (z > 0.35) & (y < head.mouth_y - 0.14 - head.gap) & (y > -1.06)
    return torch.stack([forehead, eyes, nose, mouth, cheeks, chin & ~mouth], dim=1)


def hidden_shares(regions: Tensor, present: Tensor, covered: Tensor) -> Tensor:
    """Share (N, regions) of each region's pixels that is covered; NaN where a region shows no pixel at all.

    regions: (N, regions, K) bool; present: (N, K), 1 where the pixel counts; covered: (N, K) shares.
    """
    counted = regions.float() * present.unsqueeze(1)
    return (counted * covered.unsqueeze(1)).sum(-1) / counted.sum(-1)


def class_picture(covered: Tensor, side: int, size_px: int) -> Tensor:
    """Class numbers (N, size, size) uint8 from covered shares (N, classes, side*side).

    A pixel belongs to a class where things cover at least half of it; to the one that covers most.
    """
    shares = covered.view(len(covered), -1, side, side)
    if side != size_px:
        shares = functional.interpolate(
            shares, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False
        )
    return torch.where(shares.sum(1) >= 0.5, shares.argmax(1), 0).to(torch.uint8)


def seen_landmarks(head: Head, view: View, scene: Scene, things: Occluders | None) -> Tensor:
    """Which landmarks (N, 5) bool the camera sees: nothing of head, hair or what is worn lies before them."""
    x, y, target = view.landmarks.unbind(-1)
    z = torch.full_like(x, 1.75)
    clear = torch.ones_like(x, dtype=torch.bool)
    for _ in range(_STEPS):
        d = scene(x, y, z)
        clear &= (d > 0.0) | (z < target + _GRAZE)
        z = z - (0.9 * head.pace * d).clamp(min=0.012)
    if things is not None:  # a mask may lie closer to the skin than a ray tells from the skin itself
        for before in (0.0, 0.01, 0.02, 0.03, 0.04):
            clear &= things.nearest(*view.to_head(x, y, target + before)) > 0.0
    if things is not None and things.spectacles is not None:
        sight = view.rotation[:, 2].unsqueeze(-1)
        hx, hy, hz = view.to_head(x, y, torch.zeros_like(x))
        depth = (PLANE_Z - 0.012 - hz) / sight[:, 2].clamp(min=0.03)
        nx, ny, _ = head.normalise(hx + depth * sight[:, 0], hy + depth * sight[:, 1], hz)
        glass = things.spectacles.lens(nx, ny, 0.01)[0] > 0.5
        clear &= ~(glass & (depth > target) & (head.traits["glasses_tint"] >= TINTED))
    return clear
