"""Where rays meet a phantom's head: depth by marching, coarse first and then fine, and the normal of the surface."""

from __future__ import annotations

import torch
from torch.nn import functional

from pipeline.adapters.phantom.heads import Head, Tensor
from pipeline.adapters.phantom.pixels import pick, put, take
from pipeline.adapters.phantom.views import View

BACK = -1.6
"""Rays that reach this depth have met nothing."""
_COARSE_STEPS, _MEND_STEPS, _LATE_STEPS, _GAP_STEPS = 13, 6, 16, 48
_HIT = 0.006  # distance at which a ray counts as arrived, in units of 100 mm


def _march(head: Head, view: View, vx: Tensor, vy: Tensor, vz: Tensor, steps: int, rate: float) -> Tensor:
    """March rays towards the back; returns their depth."""
    pace = rate * head.pace
    for _ in range(steps):
        d = torch.minimum(*head.distance(*view.to_head(vx, vy, vz)))
        vz = (vz - pace * d).clamp(min=BACK)
    return vz


def _refine(head: Head, view: View, coarse: Tensor, side: int, flat_steps: int, edge_steps: int) -> Tensor:
    """Depth (N, 1, side, side) from a coarser depth picture.

    Where the coarse depths around a pixel agree, their blend is nearly right already. Elsewhere, at edges, the ray
    starts from the nearest of them, and once more from behind the edge if it slipped past (chin before neck).
    """
    shape, count = (side, side), len(coarse)
    near = functional.max_pool2d(coarse, 3, stride=1, padding=1)
    far = -functional.max_pool2d(-coarse, 3, stride=1, padding=1)
    blend = functional.interpolate(coarse, size=shape, mode="bilinear", align_corners=False).view(count, -1)
    near = functional.interpolate(near, size=shape, mode="nearest").view(count, -1)
    far = functional.interpolate(far, size=shape, mode="nearest").view(count, -1)
    depth = torch.full_like(near, BACK)
    vx, vy = view.rays(side, coarse.device)
    flat = pick((near > BACK + 0.05) & (near - far < 0.2))
    edge = pick((near > BACK + 0.05) & (near - far >= 0.2))
    if flat.shape[1]:
        put(depth, flat, _march(head, view, take(vx, flat), take(vy, flat), take(blend, flat), flat_steps, 0.95))
    if edge.shape[1]:
        ex, ey = take(vx, edge), take(vy, edge)
        ez = _march(head, view, ex, ey, take(near, edge), edge_steps, 1.0)
        before = torch.minimum(*head.distance(*view.to_head(ex, ey, ez)))
        ez = ez - head.pace * before
        after = torch.minimum(*head.distance(*view.to_head(ex, ey, ez)))
        ez = ez - head.pace * after
        slipped = (after > before) & (after > _HIT)  # moving away again: what it grazed is not in its way
        ez = torch.where(slipped, torch.minimum(ez, take(far, edge) + 0.12), ez).clamp(min=BACK)
        put(depth, edge, _march(head, view, ex, ey, ez, _MEND_STEPS, 0.95))
    return depth.view(count, 1, side, side)


def _closed(solid: Tensor, side: int) -> Tensor:
    """A mask (N, side*side), 0 or 1, with gaps up to four pixels wide closed."""
    grown = functional.max_pool2d(solid.view(-1, 1, side, side), 5, stride=1, padding=2)
    return -functional.max_pool2d(-grown, 5, stride=1, padding=2).flatten(1)


def _fill(head: Head, view: View, depth: Tensor, side: int) -> Tensor:
    """Depth (N, side*side) with the gaps of turned heads marched again, from the depth of their neighbours.

    Where a ray grazes nose or lips, the quick way may lose what lies behind them.
    """
    solid = depth > -1.2
    gaps = ~solid & (_closed(solid.float(), side) > 0.5) & view.turned
    index = pick(gaps)
    if not index.shape[1]:
        return depth
    near = functional.max_pool2d(depth.view(-1, 1, side, side), 5, stride=1, padding=2).flatten(1)
    vx, vy = (take(v, index) for v in view.rays(side, depth.device))
    vz = take(near, index) + 0.05
    for _ in range(_GAP_STEPS):
        d = torch.minimum(*head.distance(*view.to_head(vx, vy, vz)))
        onward = torch.where(d < _HIT, torch.zeros_like(d), (0.8 * head.pace * d).clamp(min=0.5 * _HIT))
        vz = (vz - onward).clamp(min=BACK)
    put(depth, index, torch.where(take(gaps, index), vz, take(depth, index)))
    return depth


def _finish(head: Head, view: View, points: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Points of `trace` with the rays of turned heads marched to their ends: seen from the side, ears and hair have
    edges that the quick way leaves rays hovering along.
    """
    vx, vy, vz, skin, loose = points
    going = (torch.minimum(skin, loose) > 0.5 * _HIT) & view.turned
    late = pick(going)
    if not late.shape[1]:
        return points
    lx, ly, lz = (take(v, late) for v in (vx, vy, vz))
    ended = _march(head, view, lx, ly, lz, _LATE_STEPS, 0.95)
    put(vz, late, torch.where(take(going, late), ended, lz))
    for known, new in zip((skin, loose), head.distance(*view.to_head(lx, ly, ended)), strict=True):
        put(known, late, torch.where(take(going, late), new, take(known, late)))
    return vx, vy, vz, skin, loose


def trace(head: Head, view: View, side: int, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Surface points: solid (N, side*side) bool, index (N, K) and (vx, vy, vz, skin, loose hair distance), (N, K)."""
    small = max(side // 4, 1)
    vx, vy = view.rays(small, device)
    coarse = _march(head, view, vx, vy, torch.full_like(vx, 1.15), _COARSE_STEPS, 0.95).view(-1, 1, small, small)
    middle = _refine(head, view, coarse, side // 2, 2, 5)
    depth = _refine(head, view, middle, side, 0, 3).flatten(1)
    if bool(view.turned.any()):
        depth = _fill(head, view, depth, side)
    solid = depth > -1.2
    index = pick(solid)
    vx, vy = view.rays(side, device)
    vx, vy, vz = take(vx, index), take(vy, index), take(depth, index)
    skin, loose = head.distance(*view.to_head(vx, vy, vz))
    if bool(view.turned.any()):
        vx, vy, vz, skin, loose = _finish(head, view, (vx, vy, vz, skin, loose))
    arrived = torch.zeros_like(depth)
    put(arrived, index, ((torch.minimum(skin, loose) < 2 * _HIT) & take(solid, index)).float())
    # Rays still under way along an inner edge (chin before neck) would leave a slit: close it, keep the outline.
    grown = functional.max_pool2d(arrived.view(-1, 1, side, side), 5, stride=1, padding=2)
    closed = -functional.max_pool2d(-grown, 5, stride=1, padding=2).flatten(1)
    solid = solid & (closed > 0.5)
    return solid, index, (vx, vy, vz, skin, loose)


def surface_normal(head: Head, view: View, points: tuple[Tensor, ...], index: Tensor, side: int) -> Tensor:
    """Unit surface normal (N, K, 3) in the view frame.

    By forward differences at every other pixel of every other row, blended in between: shading is smooth there.
    """
    half, count = (side + 1) // 2, len(index)
    some = pick(((index // side) % 2 == 0) & ((index % side) % 2 == 0))
    vx, vy, vz, skin, loose = (take(v, some) for v in points)
    e = 0.012
    shifted = view.to_head(
        torch.cat([vx + e, vx, vx], dim=1), torch.cat([vy, vy + e, vy], dim=1), torch.cat([vz, vz, vz + e], dim=1)
    )
    slope = torch.minimum(*head.distance(*shifted)).view(count, 3, -1) - torch.minimum(skin, loose).unsqueeze(1)
    slope = (slope / torch.sqrt((slope * slope).sum(1, keepdim=True)).clamp(min=1e-6)).transpose(1, 2)
    if bool(view.turned.any()):
        # What faces well away cannot be seen: the ray has slipped behind the rim of an ear, whose neighbours face us.
        away = (slope[..., 2] < -0.2) & view.turned
        slope = torch.where(away.unsqueeze(-1), torch.tensor([0.0, 0.0, 1.0], device=slope.device), slope)
    known = slope.new_zeros(count, half * half, 3)
    place = take(index, some)
    put(known, (place // side // 2) * half + (place % side) // 2, slope)
    # Pixel 2i of the fine grid is pixel i of the half grid, so the fine grid is cut from one twice as large.
    full = functional.interpolate(
        known.transpose(1, 2).reshape(count, 3, half, half),
        size=(2 * half - 1, 2 * half - 1),
        mode="bilinear",
        align_corners=True,
    )
    full = functional.pad(full, (0, 1, 0, 1), mode="replicate")[:, :, :side, :side].reshape(count, 3, -1)
    normal = take(full.transpose(1, 2), index) + 1e-4 * torch.tensor([0.0, 0.0, 1.0], device=full.device)
    return normal / torch.sqrt((normal * normal).sum(2, keepdim=True))
