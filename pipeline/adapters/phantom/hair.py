"""Hair on a phantom's head: where it covers, its strands, and its colour with grey and sheen."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom import colours
from pipeline.adapters.phantom.heads import Head, Tensor, smoothstep


def hair_cover(head: Head, x: Tensor, y: Tensor, z: Tensor, margin: Tensor, loose: Tensor) -> tuple[Tensor, Tensor]:
    """Cover by hair 0..1 and strand noise, both (N, P). `margin` is the height above the hairline,
    `loose` 1 where the surface is loose hair.

    The hairline is broken up by strands and, for cropped hair, thin: skin shows through.
    """
    t = head.traits
    angle = torch.atan2(x, z + 0.25)
    curl = t["hair_curl"]
    sway = curl * 0.05 * torch.sin(y * 12.0 + 3.0 * angle) + 0.03 * torch.sin(3.0 * y + 2.0 * angle)
    across = 0.42 * angle + sway + 0.11 * t["hair_part"]
    strands = colours.noise(across, y * (0.07 + 0.45 * curl * curl) + 0.05 * angle)
    streak = 0.55 * strands[:, 0] + 0.6 * strands[:, 1] + 0.5 * strands[:, 2]
    dense = smoothstep(0.0, 0.05, t["hair_cap"])
    line = smoothstep(-0.045, 0.075, margin + 0.028 * streak)
    cover = line * (0.80 * smoothstep(0.0, 0.02, t["hair_cap"]) + 0.20 * dense)
    return torch.maximum(cover, loose), streak


def hair_shade(
    head: Head, y: Tensor, streak: Tensor, normal: Tensor, light: Tensor, depth: Tensor, sun: Tensor | None = None
) -> Tensor:
    """Lit hair colour (N, P, 3), linear. `normal` (N, P, 3) and `light` (N, 1, 3) are in the view frame.

    sun: share (N, P) of the key light that reaches each point; None where nothing casts shadows.
    """
    t = head.traits
    soft_streak = streak.clamp(-1.8, 1.8)
    grey = t["hair_grey"]
    share = ((grey * 1.06 + 0.10 * soft_streak - 0.04) * (grey > 0.02)).clamp(0.0, 1.0).unsqueeze(-1)
    base = colours.hair_colour(t).unsqueeze(1)
    albedo = base + share * (colours.grey_colour(t).unsqueeze(1) - base)
    albedo = albedo * (1.0 + 0.24 * soft_streak).unsqueeze(-1)
    # Strands run away from the crown; light glides along them, so sheen forms a band across.
    down = torch.stack([torch.zeros_like(y), -torch.ones_like(y), 0.15 * torch.ones_like(y)], dim=-1)
    tangent = down - (down * normal).sum(-1, keepdim=True) * normal
    tangent = tangent / torch.linalg.vector_norm(tangent, dim=-1, keepdim=True).clamp(min=1e-3)
    half = light + torch.tensor([0.0, 0.0, 1.0], device=y.device)
    half = half / torch.linalg.vector_norm(half, dim=-1, keepdim=True)
    along = (tangent * half).sum(-1) + 0.10 * soft_streak * (1.0 + t["hair_curl"])
    facing = (normal * light).sum(-1)
    band = (1.0 - along * along).clamp(min=0.0) ** 14 * smoothstep(-0.1, 0.5, facing)
    wrap = ((facing + 0.3) / 1.3).clamp(min=0.0)
    if sun is not None:
        band, wrap = band * sun, wrap * sun
    lit = t["light_ambient"] * (0.72 + 0.28 * normal[..., 1]) + (1.0 - t["light_ambient"]) * wrap * 1.25
    sheen = band * (0.055 - 0.02 * t["hair_curl"]) * (1.0 + 0.35 * soft_streak)
    rim = (1.0 - normal[..., 2].clamp(0.0, 1.0)) ** 3 * 0.022
    tone = 0.5 + 0.5 * albedo / albedo.mean(-1, keepdim=True).clamp(min=1e-4)
    out: Tensor = albedo * (lit * depth).unsqueeze(-1) + ((sheen + rim) * depth).unsqueeze(-1) * tone
    return out
