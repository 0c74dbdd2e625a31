"""What is not the head itself: clothing at the neck, glasses, and the wall behind."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom import colours, features
from pipeline.adapters.phantom.heads import Head, Tensor, Traits, gauss, smoothstep
from pipeline.adapters.phantom.spectacles import wide_rows


def _rgb(t: Traits, prefix: str) -> Tensor:
    return colours.to_linear(torch.cat([t[f"{prefix}_{c}"] for c in "rgb"], dim=1))


def paint_clothing(head: Head, canvas: features.Canvas, ax: Tensor, y: Tensor, z: Tensor) -> None:
    """A collar: cloth below a line on the neck that dips at the throat."""
    t = head.traits
    line = -1.30 + 0.10 * t["collar"] - 0.10 * smoothstep(-0.1, 0.35, z) * smoothstep(0.45, 0.0, ax)
    cloth = smoothstep(0.012, -0.012, y - line) * smoothstep(0.5, 0.4, z)
    seam = gauss(-(((y - line + 0.05) / 0.012) ** 2))
    colour = _rgb(t, "cloth").unsqueeze(1) * (1.0 - 0.3 * seam).unsqueeze(-1)
    canvas.paint(colour, cloth)
    canvas.gloss = canvas.gloss * (1.0 - 0.9 * cloth)


def glasses(
    head: Head, rotation: Tensor, point: tuple[Tensor, Tensor, Tensor], colour: Tensor, light: Tensor, pixel: float
) -> tuple[Tensor, Tensor | None]:
    """Lay glasses over the lit picture (N, P, 3): a flat frame before the eyes and arms along the temples.

    Also returns the share (N, P) of each point that the frame covers; None where nobody wears painted glasses. Rows of
    a wide picture wear `spectacles` instead.
    """
    t = head.traits
    worn = t["glasses"] * ~wide_rows(t)
    if not bool((worn > 0).any()):
        return colour, None
    hx, hy, hz = point
    plane = 0.93
    r = rotation.unsqueeze(-1)
    # along the view axis from the surface point to the plane z = plane of the head frame
    step = (plane - hz) / r[:, 2, 2].clamp(min=0.2)
    gx, gy, _ = head.normalise(hx + step * r[:, 2, 0], hy + step * r[:, 2, 1], hz)
    before = (step > 0).float()
    ax = gx.abs()
    size = 0.86 + 0.28 * t["glasses_size"]
    half_w, half_h = 0.245 * size, (0.150 + 0.055 * t["glasses_round"]) * size
    power = 4.0 - 2.0 * t["glasses_round"]
    cx = head.eye_x + 0.01
    q = ((ax - cx) / half_w).abs() ** power + ((gy + 0.035) / half_h).abs() ** power
    edge = (q.clamp(min=1e-6) ** (1.0 / power) - 1.0) * half_h
    thick = 0.012 + 0.018 * t["glasses_dark"]
    rim = smoothstep(0.7 * pixel, -0.7 * pixel, (edge.abs() - thick))
    bridge = smoothstep(0.7 * pixel, -0.7 * pixel, ((gy - 0.045).abs() - thick)) * (ax < cx - half_w * 0.97)
    sx, sy, _ = head.normalise(hx, hy, hz)
    arm = smoothstep(0.6 * pixel, -0.6 * pixel, (sy - 0.04).abs() - 0.8 * thick - 0.006)
    arm = (
        arm
        * smoothstep(0.02, 0.06, hz)
        * smoothstep(plane, plane - 0.08, hz)
        * (sx.abs() > cx + 0.85 * half_w)
        * (sx.abs() < 0.74)
    )
    frame = torch.maximum(torch.maximum(rim, bridge) * before, arm) * worn
    lens = smoothstep(pixel, -pixel, edge + thick) * before * worn
    glare = smoothstep(0.05, 0.0, (gx * 0.8 + gy - 0.06 - 0.25 * torch.sign(gx)).abs() - 0.02) * lens
    colour = colour * (1.0 - 0.06 * lens).unsqueeze(-1) + (0.05 * glare + 0.006 * lens).unsqueeze(-1)
    dark = t["glasses_dark"]
    metal = torch.cat([0.30 - 0.29 * dark, 0.26 - 0.252 * dark, 0.20 - 0.192 * dark], dim=1).clamp(min=0.008)
    shine = 0.10 * gauss(-(((edge - 0.3 * thick) / (0.4 * thick)) ** 2)) * (0.5 + light[..., 1])
    return colour + frame.unsqueeze(-1) * (metal.unsqueeze(1) + shine.unsqueeze(-1) - colour), frame


def background(t: Traits, side: int, device: torch.device) -> Tensor:
    """An out-of-focus wall (N, side*side, 3), linear: a colour, a brightness ramp and a few soft shapes."""
    axis = torch.linspace(-1.0, 1.0, side, device=device)
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    gx, gy = gx.reshape(1, -1), gy.reshape(1, -1)
    angle, phase = torch.deg2rad(t["background_angle_deg"]), t["background_phase"]
    level = t["background_gradient"] * (gx * angle.cos() + gy * angle.sin())
    shapes = torch.sin(2.3 * gx + phase) * torch.cos(1.9 * gy + 2.0 * phase) + 0.6 * torch.sin(
        4.1 * gx - 3.0 * gy + 3.0 * phase
    )
    level = level + t["background_blobs"] * 0.5 * shapes
    base = torch.cat([t[f"background_{c}"] for c in "rgb"], dim=1).unsqueeze(1)
    return colours.to_linear((base + level.unsqueeze(-1)).clamp(0.02, 0.97))
