"""What covers a phantom's face: its distance field, its layer over the picture, and what of the face it hides.

Glasses, masks, hats, headscarves and hands are things in space that turn with the head, hide what lies behind them
and cast shadows. Each has a class number, the value of its pixels in the occlusion picture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from pipeline.adapters.phantom.covers import FaceMask, Hat
from pipeline.adapters.phantom.hands import Hand
from pipeline.adapters.phantom.heads import Head, Tensor, smoothstep
from pipeline.adapters.phantom.marching import BACK
from pipeline.adapters.phantom.pixels import pick, put, take
from pipeline.adapters.phantom.spectacles import PLANE_Z, Spectacles, wide_rows
from pipeline.adapters.phantom.views import View

CLASSES = ("none", "glasses", "mask", "hat", "hand", "headscarf")
"""What the numbers of an occlusion picture mean."""
GLASSES, MASK, HAT, HAND, SCARF = 1, 2, 3, 4, 5
_FRONT = 1.75  # no thing reaches nearer to the camera
_COARSE_STEPS, _FINE_STEPS, _LATE_STEPS = 22, 6, (10, 32)
TINTED = 0.3
"""Lenses from this tint on hide the eyes behind them."""


class Layer(NamedTuple):
    """Pixels (N, K) that things cover: where, by what share, how deep, class number, and head coordinates."""

    place: Tensor
    cover: Tensor
    depth: Tensor
    kind: Tensor
    point: tuple[Tensor, Tensor, Tensor]


class Occluders:
    """The things on N heads."""

    def __init__(self, head: Head) -> None:
        self.head = head
        t = head.traits
        self.spectacles = Spectacles(head) if bool(((t["glasses"] > 0) & wide_rows(t)).any()) else None
        self.mask = FaceMask(head) if bool((t["face_mask"] > 0.5).any()) else None
        self.hat = Hat(head) if bool((t["hat"] > 0.5).any()) else None
        self.hand = Hand(head) if bool((t["hand"] > 0.5).any()) else None
        self.kinds: list[int] = []
        if self.spectacles is not None:
            self.kinds.append(GLASSES)
        if self.mask is not None:
            self.kinds.append(MASK)
        if self.hat is not None:
            self.kinds += [HAT, SCARF]
        if self.hand is not None:
            self.kinds.append(HAND)

    def distances(self, hx: Tensor, hy: Tensor, hz: Tensor) -> Tensor:
        """Distance (N, kinds, P) at head-frame points to the thing of each kind, in the order of `kinds`."""
        x, y, z = self.head.normalise(hx, hy, hz)
        ax = x.abs()
        found = []
        skin = torch.zeros_like(x)
        if self.mask is not None or (self.hat is not None and bool(self.hat.worn_scarf.any())):
            skin = self.head.distance(hx, hy, hz, skin_only=True)[0]
        if self.spectacles is not None:
            found.append(self.spectacles.distance(ax, y, z))
        if self.mask is not None:
            found.append(self.mask.distance((x, y, z), ax, skin))
        if self.hat is not None:
            found += [self.hat.hat_distance((x, y, z)), self.hat.scarf_distance((x, y, z), ax, skin)]
        if self.hand is not None:
            found.append(self.hand.distance(x, y, z))
        return torch.stack(found, dim=1)

    def nearest(self, hx: Tensor, hy: Tensor, hz: Tensor) -> Tensor:
        """Distance (N, P) to the nearest thing."""
        return self.distances(hx, hy, hz).amin(1)

    def contact(self, hx: Tensor, hy: Tensor, hz: Tensor) -> Tensor:
        """How much light from around reaches points of the head (N, P) beside the things: 1 is all of it."""
        d = self.distances(hx, hy, hz)
        wide = [i for i, kind in enumerate(self.kinds) if kind != GLASSES]
        if not wide:
            return 1.0 - 0.12 * smoothstep(0.05, 0.0, d[:, 0])
        return 1.0 - 0.42 * smoothstep(0.13, -0.01, d[:, wide].amin(1))


def occluders_of(head: Head) -> Occluders | None:
    """The things on these heads; None where nobody wears or does anything."""
    found = Occluders(head)
    return found if found.kinds else None


class _Rays:
    """Rays under way: where they are, where each came closest to a thing and how close.

    hit: the distance (N, 1) at which a ray has arrived.
    """

    def __init__(self, vx: Tensor, vy: Tensor, vz: Tensor, stop: Tensor, hit: Tensor) -> None:
        self.vx, self.vy, self.vz, self.stop, self.hit = vx, vy, vz, stop, hit
        self.place, self.closest = vz, torch.full_like(vz, 9.0)

    def march(self, occluders: Occluders, view: View, steps: int) -> None:
        """Go on towards `stop`; rays that graze a thing go past it, those that have arrived stay."""
        for _ in range(steps):
            d = occluders.nearest(*view.to_head(self.vx, self.vy, self.vz))
            closer = d < self.closest
            self.closest, self.place = torch.where(closer, d, self.closest), torch.where(closer, self.vz, self.place)
            onward = torch.where(d < self.hit, torch.zeros_like(d), torch.maximum(0.92 * d, 2.0 * self.hit))
            self.vz = torch.maximum(self.vz - onward, torch.minimum(self.stop, self.vz))

    def march_late(self, occluders: Occluders, view: View, steps: int) -> None:
        """Go on with those that have neither arrived nor reached their end, which are few."""
        going = (self.closest >= self.hit) & (self.vz > self.stop)
        late = pick(going)
        if not late.shape[1]:
            return
        vx, vy, vz, stop = (take(v, late) for v in (self.vx, self.vy, self.vz, self.stop))
        some = _Rays(vx, vy, vz, stop, self.hit)
        some.place, some.closest = take(self.place, late), take(self.closest, late)
        some.march(occluders, view, steps)
        moved = take(going, late)  # rows are padded with pixels that had arrived: see `pixels`
        for name in ("vz", "place", "closest"):
            whole = getattr(self, name)
            put(whole, late, torch.where(moved, getattr(some, name), take(whole, late)))


def trace_layer(occluders: Occluders, view: View, depth: Tensor, side: int) -> Layer | None:
    """What of the things is seen before a head of depth (N, side*side); None where nothing is."""
    small = max(side // 4, 1)
    vx, vy = view.rays(small, depth.device)
    cell = 1.0 / small * 112.0 / view.unit_px  # (N, 1) side of a coarse pixel in units
    start = torch.full_like(vx, _FRONT)
    coarse = _Rays(vx.expand_as(start), vy, start, torch.full_like(start, BACK), torch.full_like(cell, 0.005))
    coarse.march(occluders, view, _COARSE_STEPS)
    near = (coarse.closest - 1.1 * cell).view(-1, 1, small, small)
    near = -functional.max_pool2d(-near, 3, stride=1, padding=1)
    begin = functional.max_pool2d(coarse.place.view(-1, 1, small, small), 3, stride=1, padding=1)
    maybe, begin = (functional.interpolate(v, size=(side, side), mode="nearest").flatten(1) for v in (near, begin))
    index = pick(maybe < 0)
    if not index.shape[1]:
        return None
    vx, vy = (take(v, index) for v in view.rays(side, depth.device))
    behind = take(depth, index)
    start = torch.maximum((take(begin, index) + 0.15).clamp(max=_FRONT), behind + 0.02)
    pixel = 112.0 / side / view.unit_px
    rays = _Rays(vx, vy, start, behind - 0.03, (0.25 * pixel).clamp(max=0.006))
    rays.march(occluders, view, _FINE_STEPS)
    for steps in _LATE_STEPS:
        rays.march_late(occluders, view, steps)
    cover = smoothstep(0.9 * pixel, 0.3 * pixel, rays.closest) * (rays.place > behind - 0.02)
    seen = pick((cover > 0) & take(maybe < 0, index))
    if not seen.shape[1]:
        return None
    place = take(rays.place, seen)
    point = view.to_head(take(vx, seen), take(vy, seen), place)
    kinds = torch.tensor(occluders.kinds, device=vx.device)
    return Layer(take(index, seen), take(cover, seen), place, kinds[occluders.distances(*point).argmin(1)], point)


def layer_normal(occluders: Occluders, view: View, layer: Layer) -> Tensor:
    """Unit surface normal (N, K, 3) of the layer in the view frame."""
    vx, vy, vz = torch.bmm(view.rotation, torch.stack(layer.point, dim=1)).unbind(1)
    e = 0.010
    here = occluders.nearest(*layer.point)
    slope = torch.stack(
        [
            occluders.nearest(*view.to_head(vx + dx, vy + dy, vz + dz)) - here
            for dx, dy, dz in ((e, 0, 0), (0, e, 0), (0, 0, e))
        ],
        dim=-1,
    ) + 1e-5 * torch.tensor([0.0, 0.0, 1.0], device=vx.device)
    return slope / torch.sqrt((slope * slope).sum(-1, keepdim=True)).clamp(min=1e-6)


def lenses(occluders: Occluders, view: View, depth: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Glass and glare shares and height in the head, all (N, side*side), of lenses before what is `depth` deep."""
    worn = occluders.spectacles
    if worn is None:
        return None
    vx, vy = view.rays(side, depth.device)
    hx, hy, hz = view.to_head(vx, vy, torch.zeros_like(vx))
    sight = view.rotation[:, 2].unsqueeze(-1)  # the viewing axis in head coordinates, (N, 3, 1)
    flat = sight[:, 2]
    vz = (PLANE_Z - 0.012 - hz) / flat.clamp(min=0.03)
    x, y, _ = occluders.head.normalise(hx + vz * sight[:, 0], hy + vz * sight[:, 1], hz)
    glass, glare = worn.lens(x, y, 112.0 / side / 46.0)
    before = (vz > depth - 0.01) * smoothstep(0.03, 0.12, flat)
    return glass * before, glare * before, y
