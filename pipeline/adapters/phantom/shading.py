"""Light on a phantom: skin and hair under one key light and light from everywhere, hard shadows where asked for."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom import accessories, features, hair
from pipeline.adapters.phantom.heads import Head, Tensor, Traits, smoothstep
from pipeline.adapters.phantom.pixels import pick, put, take
from pipeline.adapters.phantom.views import View


def light_direction(t: Traits) -> Tensor:
    """Direction to the key light, (N, 1, 3) in the view frame."""
    az, el = torch.deg2rad(t["light_azimuth_deg"]), torch.deg2rad(t["light_elevation_deg"])
    return torch.stack([az.sin() * el.cos(), el.sin(), az.cos() * el.cos()], dim=-1)


def shade_skin(
    t: Traits, canvas: features.Canvas, normal: Tensor, light: Tensor, depth: Tensor, sun: Tensor | None = None
) -> Tensor:
    """Lit skin (N, P, 3), linear: light bleeds red past the terminator; gloss does not depend on pigment.

    sun: share (N, P) of the key light that reaches each point; None where nothing casts shadows.
    """
    ambient = t["light_ambient"]
    facing = (normal * light).sum(-1)
    half = light + torch.tensor([0.0, 0.0, 1.0], device=depth.device)
    half = half / torch.linalg.vector_norm(half, dim=-1, keepdim=True)
    gleam = (normal * half).sum(-1).clamp(min=0.0)
    up = ambient * (0.80 + 0.20 * normal[..., 1]) * (0.78 + 0.22 * normal[..., 2].clamp(min=0.0))
    warmth = t["light_warmth"]
    tint = torch.cat([1.0 + 0.07 * warmth, torch.ones_like(warmth), 1.0 - 0.10 * warmth], dim=1)
    wraps = torch.tensor([0.42, 0.30, 0.25], device=depth.device)
    if sun is not None:
        wraps = wraps * (1.0 - 0.55 * t["shadow"]).unsqueeze(-1)
    key = ((facing.unsqueeze(-1) + wraps) / (1.0 + wraps)).clamp(min=0.0)
    if sun is not None:
        key = key * sun.unsqueeze(-1)
    lit = up.unsqueeze(-1) + (1.0 - ambient).unsqueeze(-1) * key * 1.22 * tint.unsqueeze(1)
    # Occluded skin is lit by its neighbours, so its shadows turn warm rather than grey.
    warm = torch.tensor([0.82, 1.06, 1.10], device=depth.device)
    lit = lit * (1.0 - ((1.0 - canvas.shade * depth).unsqueeze(-1) * warm).clamp(max=0.95))
    matte: Tensor = canvas.albedo * lit
    visible = smoothstep(-0.05, 0.25, facing) * depth * canvas.gloss
    if sun is not None:
        visible = visible * sun
    g4 = gleam**4
    g16 = g4**4
    spec = (0.036 * g4**2 + 0.055 * g16 + 0.05 * g16**3) * visible * (1.0 - 0.6 * ambient)
    rim = (1.0 - normal[..., 2].clamp(0.0, 1.0)) ** 3 * (0.02 + 0.05 * ambient) * canvas.gloss * depth
    shine: Tensor = (spec + rim).unsqueeze(-1)
    return matte + shine + canvas.sparkle.unsqueeze(-1)


def shade_matter(
    t: Traits, albedo: Tensor, gloss: Tensor, shade: Tensor, normal: Tensor, light: Tensor, sun: Tensor | None
) -> Tensor:
    """Lit cloth, metal or plastic (N, P, 3), linear."""
    ambient = t["light_ambient"]
    facing = (normal * light).sum(-1)
    half = light + torch.tensor([0.0, 0.0, 1.0], device=normal.device)
    half = half / torch.linalg.vector_norm(half, dim=-1, keepdim=True)
    key = ((facing + 0.15) / 1.15).clamp(min=0.0)
    spec = gloss * (normal * half).sum(-1).clamp(min=0.0) ** 24 * smoothstep(-0.05, 0.2, facing)
    if sun is not None:
        key, spec = key * sun, spec * sun
    up = ambient * (0.78 + 0.22 * normal[..., 1]) * (0.78 + 0.22 * normal[..., 2].clamp(min=0.0))
    lit = (up + (1.0 - ambient) * 1.22 * key) * shade
    out: Tensor = albedo * lit.unsqueeze(-1) + (spec * (1.0 - 0.5 * ambient)).unsqueeze(-1)
    return out


def expose(t: Traits, colour: Tensor) -> Tensor:
    """What the camera makes of lit colours (N, P, 3), linear."""
    # A camera opens up a little for darker skin, as a photographer would; far less than full compensation.
    gain = t["exposure"] * (1.0 + 0.75 * smoothstep(5.0, 10.0, t["skin_tone_mst"]))
    colour = colour * (0.92 * gain).unsqueeze(-1)
    return colour / (1.0 + 0.22 * colour.clamp(min=0.0) ** 2)  # soft shoulder keeps highlights below white


def surface_colour(
    head: Head,
    view: View,
    points: tuple[Tensor, ...],
    normal: Tensor,
    pixel: float,
    sun: Tensor | None,
    contact: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Lit colour (N, K, 3), linear, of surface points, and what share of each painted glasses cover (None: nobody's).

    sun: share (N, K) of the key light that reaches each point; contact: share of the light from around. None is all.
    """
    t = head.traits
    vx, vy, vz, skin_d, loose_d = points
    hx, hy, hz = view.to_head(vx, vy, vz)
    x, y, z = head.normalise(hx, hy, hz)
    ax = x.abs()
    light = light_direction(t)
    # Soft occlusion: the neck and sides lie in the shadow of the head.
    below = smoothstep(-0.80, -1.12, y) * smoothstep(0.62, 0.35, z)
    depth = 1.0 - 0.38 * below - 0.14 * smoothstep(0.05, -0.35, z)
    if contact is not None:
        depth = depth * contact
    loose = smoothstep(-0.008, 0.008, skin_d - loose_d)
    margin, ear = head.margin_and_ear(x, ax, y, z)
    cover, streak = hair.hair_cover(head, x, y, z, margin, loose)
    turn = view.turn()
    # Seen from below, loose hair ends in a dark hollow.
    hollow = loose * smoothstep(0.07, 0.0, y + head.drop) * view.turned if bool(view.turned.any()) else None
    is_ear = smoothstep(0.02, -0.01, ear - skin_d) * (1.0 - loose)
    cover = cover * (1.0 - is_ear)
    colour = torch.zeros_like(normal)
    bare = pick(cover < 0.99)
    if bare.shape[1]:
        sx, sax, sy, sz = (take(v, bare) for v in (x, ax, y, z))
        canvas = features.paint_skin(head, sx, sax, sy, sz, pixel, turn)
        in_ear = smoothstep(0.09, 0.03, (sax - 0.72).abs() + 0.6 * (sy + 0.06).abs()) * smoothstep(0.2, 0.05, sz)
        canvas.shade = canvas.shade * (1.0 - 0.35 * in_ear)
        if turn is not None:
            features.paint_ear(head, canvas, sy, sz, take(is_ear, bare) * turn[0])
        accessories.paint_clothing(head, canvas, sax, sy, sz)
        lit_part = None if sun is None else take(sun, bare)
        put(colour, bare, shade_skin(t, canvas, take(normal, bare), light, take(depth, bare), lit_part))
    hairy = pick(cover > 0.01)
    if hairy.shape[1]:
        root = 1.0 - 0.35 * take(loose * smoothstep(-0.2, -1.0, y) * smoothstep(0.6, 0.4, ax), hairy)
        if contact is not None:
            root = root * take(contact, hairy)
        if hollow is not None:
            root = root * (1.0 - 0.75 * take(hollow, hairy))
        lit_part = None if sun is None else take(sun, hairy)
        lit = hair.hair_shade(head, take(y, hairy), take(streak, hairy), take(normal, hairy), light, root, lit_part)
        skin = take(colour, hairy)
        put(colour, hairy, skin + take(cover, hairy).unsqueeze(-1) * (lit - skin))
    colour, frame = accessories.glasses(head, view.rotation, (hx, hy, hz), colour, light, pixel)
    return expose(t, colour), frame
