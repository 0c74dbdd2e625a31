"""What is worn over face and head: masks, caps and headscarves, as distances in normalised head coordinates."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom import colours
from pipeline.adapters.phantom.heads import HAT_SLOPE, PRESSED, Head, Tensor, Traits, gauss, hat_line, smoothstep

Point = tuple[Tensor, Tensor, Tensor]


def _cloth(t: Traits, prefix: str) -> Tensor:
    return colours.to_linear(torch.cat([t[f"{prefix}_{c}"] for c in "rgb"], dim=1)).clamp(0.01, 0.85)


def _blend(a: Tensor, b: Tensor, k: float) -> Tensor:
    """The union of two distances, blended over a width of about k."""
    step = (k - (a - b).abs()).clamp(min=0.0)
    return torch.minimum(a, b) - step * step * (0.25 / k)


def _edged(body: Tensor, cut: Tensor, r: float) -> Tensor:
    """What of a body lies where `cut` is negative, with an edge rounded by r."""
    inner = torch.maximum(body, cut) + r
    outer = torch.sqrt((body + r).clamp(min=0.0) ** 2 + (cut + r).clamp(min=0.0) ** 2)
    return torch.where(inner > 0, outer, inner) - r


def _capsule(p: Point, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """Distance (N, P) to the segment from a to b, each (N, 1) per coordinate."""
    dx, dy, dz = (bi - ai for ai, bi in zip(a, b, strict=True))
    ox, oy, oz = (pi - ai for pi, ai in zip(p, a, strict=True))
    h = ((ox * dx + oy * dy + oz * dz) / (dx * dx + dy * dy + dz * dz)).clamp(0.0, 1.0)
    return torch.sqrt((ox - h * dx) ** 2 + (oy - h * dy) ** 2 + (oz - h * dz) ** 2 + 1e-12)


class FaceMask:
    """Masks over mouth and nose: cloth that spans from the nose to the chin, with loops to the ears."""

    def __init__(self, head: Head) -> None:
        t = self._t = head.traits
        self.worn = t["face_mask"] > 0.5
        self._pleated = (t["face_mask"] < 1.5).float()
        drop, zero = t["mask_drop"], torch.zeros_like(head.width)
        tip_z = 0.915 + 0.03 * t["nose_projection"]
        self._top = -0.115 - 0.47 * drop
        self._bottom = -1.03 - head.opening_drop - 0.03 * drop
        self._high = (zero, head.nose_y + 0.06 - 0.40 * drop, tip_z - 0.105 - 0.11 * drop)
        self._low = (zero, -0.90 - head.opening_drop, 0.60 + 0.035 * t["chin_projection"])
        self.colour_N3 = _cloth(t, "mask")

    def distance(self, p: Point, ax: Tensor, skin: Tensor) -> Tensor:
        """Distance (N, P); `skin` is the distance to the bare head there."""
        _, y, z = p
        span = _capsule((0.55 * ax, y, z), self._high, self._low) - 0.205
        body = _blend(skin - 0.022, span, 0.22)
        top = y - (self._top - 0.36 * ax * (0.4 + ax))
        low = self._bottom + 0.62 * (ax - 0.12).clamp(min=0.0) ** 1.3 - y
        side = (0.30 - 0.06 * self._pleated) - z
        cut = torch.maximum(torch.maximum(top, low), side)
        mask = _edged(body, cut, 0.02)
        return torch.minimum(mask, self._loops(ax, y, z, skin)) + 9.0 * ~self.worn

    def _loops(self, ax: Tensor, y: Tensor, z: Tensor, skin: Tensor) -> Tensor:
        """Two cords on either side, lying on the skin."""
        drop = self._top + 0.115
        cords = []
        for start_y, start_z, end_y, end_z in ((-0.40, 0.27, 0.10, -0.02), (-0.72, 0.30, -0.24, -0.03)):
            dy, dz = end_y - start_y - 0.5 * drop, end_z - start_z
            oy, oz = y - start_y - 0.5 * drop, z - start_z
            h = ((oy * dy + oz * dz) / (dy * dy + dz * dz)).clamp(0.0, 1.0)
            across = torch.sqrt((oy - h * dy) ** 2 + (oz - h * dz) ** 2) - 0.011
            cords.append(torch.maximum(torch.maximum(across, (skin - 0.012).abs() - 0.010), 0.4 - ax))
        return torch.minimum(cords[0], cords[1])

    def paint(self, p: Point) -> tuple[Tensor, Tensor]:
        """Albedo (N, P, 3) and occlusion (N, P) of the cloth: pleats and hems."""
        _, y, z = p
        place = (y - self._top + 0.47) / 0.15  # three pleats, each a fold with a shadow below it
        step = place - place.round()
        pleat = gauss(-((step / 0.13) ** 2)) + 0.5 * smoothstep(-0.45, 0.0, step) * (step < 0)
        pleat = pleat * (place.round().abs() < 1.5) * self._pleated * smoothstep(0.34, 0.46, z)
        seam = gauss(-((p[0] / 0.010) ** 2)) * (1.0 - self._pleated)
        hem = gauss(-(((z - 0.34) / 0.012) ** 2))
        weave = colours.noise(p[0] * 2.1, y * 2.1)[:, 0]
        shade = 1.0 - 0.22 * pleat - 0.28 * seam - 0.2 * hem
        albedo = self.colour_N3.unsqueeze(1) * (1.0 + 0.03 * weave).unsqueeze(-1)
        return albedo, shade


class Hat:
    """Knitted caps, peaked caps and headscarves; the hair under them is pressed down (`heads.PRESSED`)."""

    def __init__(self, head: Head) -> None:
        t = head.traits
        self.scarf = t["hat"] > 2.5
        self.peaked = (t["hat"] > 1.5) & ~self.scarf
        self.knitted = (t["hat"] > 0.5) & ~self.peaked & ~self.scarf
        self.worn_hat, self.worn_scarf = self.knitted | self.peaked, self.scarf
        self._line = hat_line(t)
        self._part = t["hair_part"]
        self._opening = head.opening_drop
        self.colour_N3 = _cloth(t, "hat")

    @staticmethod
    def _skull(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return 0.74 * (torch.sqrt((x / 0.71) ** 2 + ((y - 0.22) / 0.75) ** 2 + ((z + 0.06) / 0.92) ** 2) - 1.0)

    def hat_distance(self, p: Point) -> Tensor:
        """Distance (N, P) to a knitted or peaked cap."""
        x, y, z = p
        skull = self._skull(x, y, z)
        above = y - HAT_SLOPE * z - self._line
        crown = 0.03 + PRESSED + 0.025 * smoothstep(0.1, 0.5, above)
        knit = _edged(skull - crown - 0.02 * self.knitted, -above, 0.03)
        roll = _edged(skull - crown - 0.055, torch.maximum(-above, above - 0.20), 0.045)
        body = torch.where(self.knitted, torch.minimum(knit, roll), knit)
        # The peak: a bent sheet before the forehead.
        out = z - 0.52
        sheet = (y - self._line - HAT_SLOPE * 0.80 - 0.10 + 0.42 * x * x + 0.36 * out).abs() * 0.85 - 0.016
        oval = (torch.sqrt((x / 0.52) ** 2 + (out / 0.74) ** 2) - 1.0) * 0.52
        peak = _edged(sheet, torch.maximum(oval, -out), 0.012)
        body = torch.where(self.peaked, torch.minimum(body, peak), body)
        return body * 0.9 + 9.0 * ~self.worn_hat

    def scarf_distance(self, p: Point, ax: Tensor, skin: Tensor) -> Tensor:
        """Distance (N, P) to a headscarf, open over the face."""
        x, y, z = p
        zero = torch.zeros_like(self._line)
        ear = 0.05 * gauss(-(((y + 0.05) / 0.22) ** 2) - ((z + 0.17) / 0.18) ** 2)
        folds = 0.012 * torch.sin(9.0 * y + 4.0 * z + 5.0 * self._part) * smoothstep(-0.5, -1.0, y)
        h = ((-0.5 - y) / 1.0).clamp(0.0, 1.6)
        drape = torch.sqrt(x * x + (z + 0.02) ** 2 + (y + 0.5).clamp(min=0.0) ** 2) - 0.60 - 0.24 * h - folds
        body = _blend(_blend(self._skull(x, y, z) - 0.085 - ear, skin - 0.07, 0.15), 0.9 * drape, 0.25)
        height = torch.where(y > -0.2, 0.74 + zero, 0.86 + self._opening)
        oval = (torch.sqrt((ax / 0.575) ** 2 + ((y + 0.2) / height) ** 2) - 1.0) * 0.575
        hole = torch.maximum(oval, 0.16 - z)
        return 0.85 * _edged(body, -hole, 0.05) + 9.0 * ~self.worn_scarf

    def paint(self, p: Point) -> tuple[Tensor, Tensor]:
        """Albedo (N, P, 3) and occlusion (N, P): ribs of knitting, seams of a cap, folds of a scarf."""
        x, y, z = p
        angle = torch.atan2(x, z + 0.06)
        rib = torch.sin(angle * 34.0) * smoothstep(0.95, 0.5, y)
        above = y - HAT_SLOPE * z - self._line
        rim = gauss(-(((above - 0.205) / 0.018) ** 2))
        seams = gauss(-((torch.sin(angle * 3.0) / 0.07) ** 2)) * smoothstep(0.02, 0.08, above) * smoothstep(0.9, 0.6, y)
        band = gauss(-(((above - 0.03) / 0.015) ** 2))
        folds = torch.sin(7.0 * y + 6.0 * angle + 4.0 * self._part) * smoothstep(0.1, -0.6, y)
        shade = 1.0 - (0.10 + 0.10 * rib + 0.3 * rim) * self.knitted
        shade = shade - (0.22 * seams + 0.25 * band) * self.peaked - (0.06 + 0.06 * folds) * self.scarf
        weave = colours.noise(angle * 0.7, y * 1.1)[:, 0]
        albedo = self.colour_N3.unsqueeze(1) * (1.0 + 0.04 * weave).unsqueeze(-1)
        return albedo, shade
