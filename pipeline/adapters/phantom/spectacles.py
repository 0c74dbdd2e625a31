"""Glasses as things in space: frame, arms and lenses, for turned heads, hard shadows and tinted lenses.

Ordinary pictures have glasses painted before the eyes (`accessories.glasses`), which holds up to 45 degrees; these
here have the same outline and colours and hold to profile. All distances are in normalised head coordinates.
"""

from __future__ import annotations

import torch

from pipeline.adapters.phantom.heads import Head, Tensor, Traits, gauss, smoothstep
from pipeline.adapters.phantom.views import wide_pose

PLANE_Z, _BEND = 0.91, 0.12


def wide_rows(t: Traits) -> Tensor:
    """Which rows (N, 1) bool ask for anything that ordinary pictures do not have, age apart."""
    wide = wide_pose(t)
    for name in ("shadow", "glasses_tint", "face_mask", "hat", "hand"):
        wide = wide | (t[name] > 0)
    return wide


class Spectacles:
    """The glasses of N heads; rows that wear none, or painted ones, are far away from everything."""

    def __init__(self, head: Head) -> None:
        t = head.traits
        self.worn = (t["glasses"] > 0) & wide_rows(t)
        size = 0.86 + 0.28 * t["glasses_size"]
        self.half_w, self.half_h = 0.245 * size, (0.150 + 0.055 * t["glasses_round"]) * size
        self.power = 4.0 - 2.0 * t["glasses_round"]
        self.centre = head.eye_x + 0.01
        self.thick = 0.011 + 0.016 * t["glasses_dark"]
        self.tint, self.dark = t["glasses_tint"], t["glasses_dark"]

    def outline(self, ax: Tensor, y: Tensor) -> Tensor:
        """Signed distance (N, P) to the outline of a lens in its plane, negative inside."""
        u, v = (ax - self.centre).abs() / self.half_w, (y + 0.035).abs() / self.half_h
        q = u.clamp(min=1e-4) ** self.power + v.clamp(min=1e-4) ** self.power
        return (q ** (1.0 / self.power) - 1.0) * self.half_h

    def distance(self, ax: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Distance (N, P) to rims, bridge and arms."""
        before = z - (PLANE_Z - _BEND * ax * ax)
        rim = torch.sqrt(self.outline(ax, y) ** 2 + before**2) - self.thick
        beside = (ax - (self.centre - 0.97 * self.half_w)).clamp(min=0.0)
        bridge = torch.sqrt((y - 0.045) ** 2 + before**2 + beside**2) - self.thick
        # An arm runs straight from the outer end of the rim to the top of the ear.
        start_x = self.centre + 0.97 * self.half_w
        start_z = PLANE_Z - _BEND * start_x * start_x
        dx, dy, dz = 0.745 - start_x, 0.08, -0.06 - start_z
        px, py, pz = ax - start_x, y - 0.04, z - start_z
        h = ((px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz)).clamp(0.0, 1.0)
        arm = torch.sqrt((px - h * dx) ** 2 + (py - h * dy) ** 2 + (pz - h * dz) ** 2) - 0.8 * self.thick - 0.004
        return torch.minimum(torch.minimum(rim, bridge), arm) + 9.0 * ~self.worn

    def colour(self, y: Tensor) -> Tensor:
        """Albedo of the frame (N, P, 3), linear."""
        d = self.dark
        metal = torch.cat([0.30 - 0.29 * d, 0.26 - 0.252 * d, 0.20 - 0.192 * d], dim=1).clamp(min=0.008)
        return metal.unsqueeze(1).expand(-1, y.shape[1], -1)

    def lens(self, x: Tensor, y: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
        """Where in the plane of the lenses glass is and where it reflects, both (N, P) shares."""
        edge = self.outline(x.abs(), y)
        glass = smoothstep(pixel, -pixel, edge + 0.5 * self.thick) * self.worn
        band = (x * 0.8 + y - 0.06 - 0.25 * torch.sign(x)).abs()
        return glass, smoothstep(0.05, 0.0, band - 0.02) * glass

    def look_through(self, behind: Tensor, glass: Tensor, glare: Tensor, y: Tensor, light: Tensor) -> Tensor:
        """What is seen through the lenses (N, P, 3), given what lies behind them."""
        # Tinted lenses are darker above than below.
        stop = 0.06 + self.tint * (0.86 + 0.06 * smoothstep(-0.15, 0.1, y))
        sky = 0.006 + self.tint * (0.012 + 0.03 * gauss(-(((y - 0.08) / 0.06) ** 2)) * (0.4 + light[..., 1]))
        seen = behind * (1.0 - stop * glass).unsqueeze(-1)
        out: Tensor = seen + (sky * glass + 0.05 * glare).unsqueeze(-1)
        return out
