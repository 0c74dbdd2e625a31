"""Lays what is worn and held over a lit head, and keeps count of what that covers."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom import features, occluders, shading
from pipeline.adapters.phantom.heads import Head, Tensor
from pipeline.adapters.phantom.occluders import CLASSES, GLASSES, HAND, HAT, MASK, SCARF, Layer, Occluders
from pipeline.adapters.phantom.pixels import put, take
from pipeline.adapters.phantom.shadows import Scene, sunlight
from pipeline.adapters.phantom.views import View

_GLOSS = {GLASSES: 0.25, MASK: 0.02, HAT: 0.015, SCARF: 0.03}


def _paint(head: Head, things: Occluders, layer: Layer, normal: Tensor, light: Tensor, sun: Tensor | None) -> Tensor:
    """Lit colour (N, K, 3), linear, of a layer."""
    t = head.traits
    x, y, z = head.normalise(*layer.point)
    painted: dict[int, tuple[Tensor, Tensor]] = {}
    if things.spectacles is not None:
        painted[GLASSES] = (things.spectacles.colour(y), torch.ones_like(y))
    if things.mask is not None:
        painted[MASK] = things.mask.paint((x, y, z))
    if things.hat is not None:
        painted[HAT] = painted[SCARF] = things.hat.paint((x, y, z))
    colour = torch.zeros_like(normal)
    for kind, (albedo, shade) in painted.items():
        gloss = torch.full_like(y, _GLOSS[kind])
        lit = shading.shade_matter(t, albedo, gloss, shade, normal, light, sun)
        colour = torch.where((layer.kind == kind).unsqueeze(-1), lit, colour)
    if things.hand is not None:
        albedo, shade = things.hand.paint(x, y, z)
        canvas = features.Canvas(albedo)
        canvas.shade, canvas.gloss = shade, torch.full_like(y, 0.7)
        lit = shading.shade_skin(t, canvas, normal, light, torch.ones_like(y), sun)
        colour = torch.where((layer.kind == HAND).unsqueeze(-1), lit, colour)
    return shading.expose(t, colour)


def cover_picture(
    head: Head, view: View, things: Occluders, scene: Scene, colour: Tensor, depth: Tensor, side: int
) -> Tensor:
    """Lay the things over the picture `colour` (N, side*side, 3), in place.

    depth: of the head, (N, side*side). Returns what share of each pixel each class covers, (N, classes, side*side).
    """
    light = shading.light_direction(head.traits)
    covered = colour.new_zeros(len(colour), len(CLASSES), side * side)
    layer = occluders.trace_layer(things, view, depth, side)
    if layer is not None:
        normal = occluders.layer_normal(things, view, layer)
        vx, vy, vz = torch.bmm(view.rotation, torch.stack(layer.point, dim=1)).unbind(1)
        sun = sunlight(scene, head, (vx, vy, vz), normal, light, layer.place, side)
        lit = _paint(head, things, layer, normal, light, sun)
        under = take(colour, layer.place)
        put(colour, layer.place, under + layer.cover.unsqueeze(-1) * (lit - under))
        for kind in things.kinds:
            put(covered[:, kind], layer.place, layer.cover * (layer.kind == kind))
        depth = depth.clone()
        put(depth, layer.place, torch.where(layer.cover > 0.5, layer.depth, take(depth, layer.place)))
    glass = occluders.lenses(things, view, depth, side)
    if glass is not None and things.spectacles is not None:
        pane, glare, height = glass
        colour.copy_(things.spectacles.look_through(colour, pane, glare, height, light))
        tinted = pane * (head.traits["glasses_tint"] >= occluders.TINTED)
        covered[:, GLASSES] = torch.maximum(covered[:, GLASSES], tinted)
    return covered
