"""The shape of a phantom's head: a signed distance field built from identity values and expression.

Head frame: origin midway between the eyes on the ear-to-ear axis, x to image right, y up, z to the viewer of a
frontal head; one unit is 100 mm. The field is written in normalised coordinates (`normalise`), where every head
has the same width and length; x comes in as its magnitude because heads are symmetric.
"""

from __future__ import annotations

import torch

from pipeline.adapters.phantom.traits import IDENTITY_FIELDS, NUISANCE_FIELDS

Tensor = torch.Tensor
MOUTH_Y = -0.69
EYE_X = 0.335
HAT_SLOPE, PRESSED = 0.23, 0.04
"""How the edge of a hat rises from nape to forehead, and how thick hair under it is at most (normalised units)."""
_CACHE_POINTS = 12_000


def smoothstep(low: float | Tensor, high: float | Tensor, value: Tensor) -> Tensor:
    """Cubic step from 0 at `low` to 1 at `high`; `low` may exceed `high`."""
    t = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return t.square() * (3.0 - 2.0 * t)


def gauss(exponent: Tensor) -> Tensor:
    """A bell of compact support, near exp(exponent) for exponent <= 0; exp itself is slow where it underflows."""
    return (1.0 + 0.25 * exponent).clamp(min=0.0).square().square()


def smooth_min(a: Tensor, b: Tensor, k: Tensor, k_value: float) -> Tensor:
    """The union of two distances, blended over a width of about k; k comes as a tensor and as its value."""
    blend = torch.sub(k, (a - b).abs_()).clamp_(min=0.0)
    return torch.addcmul(torch.minimum(a, b), blend, blend, value=-0.25 / k_value)


_BASIS = ("xx", "yy", "zz", "ax", "y", "z", "axz", "x", "one")
_Terms = dict[str, Tensor | float]


def _square(name: str, centre: Tensor | float, radius: Tensor | float) -> _Terms:
    """Terms of ((v - centre) / radius)^2 for v one of x, y, z; x is meant as its magnitude."""
    linear, quadratic = {"x": ("ax", "xx"), "y": ("y", "yy"), "z": ("z", "zz")}[name]
    inverse = 1.0 / (radius * radius)
    return {quadratic: inverse, linear: -2.0 * inverse * centre, "one": inverse * centre * centre}


def _sum(*parts: _Terms, sign: float = 1.0, plus: float = 0.0) -> _Terms:
    total: _Terms = {"one": plus}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + sign * value
    return total


def _step(name: str, low: float, high: float) -> _Terms:
    """Terms of (v - low) / (high - low)."""
    return {name: 1.0 / (high - low), "one": -low / (high - low)}


class Traits:
    """Named (N, 1) float32 columns of one chunk of identities and nuisances, ready to broadcast over pixels."""

    def __init__(self, identities_NT: Tensor, nuisances_NC: Tensor) -> None:
        self._columns = {f.name: identities_NT[:, i : i + 1] for i, f in enumerate(IDENTITY_FIELDS)}
        self._columns.update({f.name: nuisances_NC[:, i : i + 1] for i, f in enumerate(NUISANCE_FIELDS)})

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name]


def hat_line(t: Traits) -> Tensor:
    """Edge of a hat (N, 1): it covers what lies above y = line + HAT_SLOPE * z."""
    return 0.31 - 0.15 * t["hat_low"]


class Head:
    """Geometry of N heads: feature places (all (N, 1), normalised units) and the distance field."""

    def __init__(self, t: Traits) -> None:
        self.traits = t
        smile, opening = t["smile"], t["mouth_open"]
        self.width = 1.0 + 0.045 * t["face_width"]
        self.length_low = 1.0 + 0.042 * t["face_length"]
        self.length_high = 1.0 + 0.03 * t["skull_height"]
        self.eye_x = EYE_X + 0.016 * t["eye_spacing"]
        self.nose_y = -0.40 - 0.035 * t["nose_length"]
        self.nose_w = 0.105 * (1.0 + 0.2 * t["nose_width"])
        self.mouth_y = MOUTH_Y - 0.022 * t["mouth_height"]
        self.mouth_w = (0.245 + 0.026 * t["mouth_width"]) * (1.0 + 0.16 * smile - 0.1 * opening * (1.0 - smile))
        self.corner_lift = 0.055 * smile + 0.006
        self.lip_up = 0.056 * (1.0 + 0.32 * t["lip_upper"])
        self.lip_low = 0.078 * (1.0 + 0.28 * t["lip_lower"])
        self.gap = 0.105 * opening + 0.035 * smile * smoothstep(0.35, 0.8, smile)
        self.brow_y = 0.212 + 0.02 * t["brow_height"] + 0.035 * t["brow_raise"]
        self.hairline = 0.60 + 0.05 * t["forehead_height"] - 0.30 * t["hair_fringe"]
        self.jaw_w = 0.608 + 0.026 * t["jaw_width"]
        self.taper = 0.27 - 0.06 * t["jaw_square"] - 0.03 * t["jaw_width"]
        self.square = 0.22 + 0.10 * t["jaw_square"]
        self.opening_drop = 0.05 * opening
        self._hair_constants()
        self._skull_constants()

    def _relief(self) -> list[_Terms]:
        """Soft bumps and hollows: heights into `amp`, and terms that are positive inside each bump."""
        t, zero = self.traits, torch.zeros_like(self.width)
        smile, side = t["smile"], 2.0 * t["presentation"] - 1.0
        drop = 0.6 * self.gap
        old = smoothstep(35.0, 80.0, t["age_years"])
        ex, my = self.eye_x, self.mouth_y
        lift = 0.05 * smile
        bumps: list[tuple[Tensor, Tensor, Tensor | float, Tensor | float, Tensor]] = [
            # centre x, y, radius x, y, height
            (0.30 + zero, self.brow_y - 0.01, 0.30, 0.14, 0.022 + 0.016 * t["brow_ridge"] + 0.008 * side),
            (zero, 0.12 + zero, 0.16, 0.16, 0.012 + 0.01 * t["brow_ridge"]),
            (ex - 0.02, 0.015 + zero, 0.27, 0.20, -0.088 - 0.016 * t["eye_depth"]),
            (ex, -0.005 + zero, 0.185, 0.125, 0.052 + 0.006 * t["eye_width"]),
            (0.45 + zero, -0.22 + lift, 0.27, 0.23, 0.042 + 0.02 * t["cheekbones"] + 0.025 * smile),
            (0.45 + zero, -0.58 + zero, 0.24, 0.30, -0.03 + 0.03 * t["cheek_fullness"] - 0.02 * old),
            (0.33 + zero, -0.36 + lift, 0.20, 0.18, 0.012 + 0.012 * t["cheek_fullness"] + 0.03 * smile),
            (zero, my + 0.02, 0.38, 0.30, 0.065 + zero),
            (0.07 + zero, my + 0.6 * self.lip_up, 0.21, 0.062, 0.024 + 0.006 * t["lip_upper"]),
            (zero, my - 0.6 * self.lip_low - drop, 0.22, 0.075, 0.034 + 0.008 * t["lip_lower"]),
            (zero, my - 0.155 - drop, 0.24, 0.075, -0.03 + zero),
            (zero, my + 0.125, 0.05, 0.085, -0.014 + zero),
            (self.mouth_w + 0.05, my + 0.02, 0.09, 0.12, -0.02 - 0.015 * smile),
            (zero, my, 0.8 * self.mouth_w + 0.03, 0.5 * self.gap + 0.02, -0.09 * self.gap / 0.1),
            (0.60 + zero, 0.28 + zero, 0.20, 0.28, -0.02 + zero),
            (0.54 + zero, -0.62 + zero, 0.22, 0.24, 0.022 * t["jaw_square"] + 0.012 * old),
            (zero, 0.46 + zero, 0.50, 0.28, 0.014 - 0.008 * side),
            (ex + 0.01, -0.155 + zero, 0.15, 0.045, -0.014 * old),
        ]
        self.amp = torch.stack([bump[4] for bump in bumps], dim=1).transpose(1, 2).contiguous()
        return [_sum(_square("x", cx, rx), _square("y", cy, ry), sign=-1.0, plus=1.0) for cx, cy, rx, ry, _ in bumps]

    def normalise(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Head-frame coordinates to normalised ones; z is unchanged."""
        return x * self.inv_width, y * self.inv_high + y.clamp(max=0.0) * self.inv_below, z

    def restore(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised x and y back to the head frame."""
        return x * self.width, torch.where(y < 0, y * self.length_low, y * self.length_high)

    def _hair_constants(self) -> None:
        """What `distance` needs of the hair and does not depend on the point, worked out once per head."""
        t = self.traits
        cap, curl, body = t["hair_cap"], t["hair_curl"], t["hair_body"]
        self.margin_side = 0.17 - 1.1 * (cap - 0.12).clamp(min=0.0)
        self.margin_rise = self.hairline - self.margin_side
        self.recession_base, self.recession_temple = 0.05 * t["hair_recession"], 0.24 * t["hair_recession"]
        self.sideburn = 0.30 * (1.0 - 5.0 * (cap - 0.06).clamp(min=0.0)).clamp(min=0.0)
        self.fringe_fall = 0.35 * t["hair_fringe"] * t["hair_part"]
        self.cap, self.cap_width = cap, 1.0 / (0.34 + 1.3 * cap)
        self.lump_phase, self.lump_size = 3.0 * t["hair_part"], 0.04 + 0.13 * curl
        self.cap_start = 0.02 * self.cap_width
        self.wave_size, self.wave_lumps = 0.012 + 0.035 * curl, 0.03 * curl
        self.loose_x, self.loose_grow = 0.76 + 0.5 * cap + 0.10 * curl * body, 0.02 + 0.12 * body
        self.loose_iz, self.loose_front = 1.0 / (0.94 + cap), 0.16 + 0.12 * body
        covered, bare = t["hat"] > 2.5, t["hat"] < 0.5
        self.drop, self.bun = t["hair_drop"] * ~covered, 0.30 * t["hair_bun"] * bare
        self.has_hat = not bool(bare.all())
        self.side_view = smoothstep(45.0, 70.0, t["yaw_deg"].abs())
        self.has_turned = bool((self.side_view > 0).any())
        # A hat presses the hair under it; a headscarf all of it, and the ears.
        self.ears_off = 9.0 * covered
        self.press_from = torch.where(bare, 9.0, torch.where(covered, -9.0, hat_line(t) - 0.02))
        # Thick hair changes fast from place to place, so rays must go more carefully there.
        self.pace = 1.0 / (1.0 + 1.6 * cap)
        self.has_loose, self.has_bun = bool((self.drop > 0).any()), bool((self.bun > 0).any())

    def _skull_constants(self) -> None:
        """The same for the head itself; most of it goes into the table of `forms`."""
        t, zero = self.traits, torch.zeros_like(self.width)
        self.inv_width, self.inv_high = 1 / self.width, 1 / self.length_high
        self.inv_below = 1 / self.length_low - self.inv_high
        self.root_scale = torch.tensor([[[0.74], [0.2], [0.075], [0.06]]], device=zero.device).expand(len(zero), -1, -1)
        # Numbers as tensors: an operation with a bare number costs twice as much on small batches.
        self.k22, self.k085, self.k10, self.k06 = (zero + k for k in (0.22, 0.085, 0.10, 0.06))
        self.three, self.minus_face, self.minus_neck, self.quarter = (zero + k for k in (3.0, -0.6, -0.42, 0.25))
        self.unit, self.ridge_r = zero + 1.0, zero - 0.040
        self.jaw_inv, self.boxed, self.round = 1.0 / self.jaw_w, self.square, 1.0 - self.square
        self.taper_inv = self.taper / self.jaw_w
        self.neck_r = 0.42 + 0.035 * t["neck_width"]
        bridge_z = 0.80 + 0.022 * t["nose_bridge"]
        tip_z = 0.915 + 0.03 * t["nose_projection"]
        self.tip_shrink = 0.040 - 0.088 * (1.0 + 0.12 * t["nose_tip"])
        self.ridge_y, self.ridge_z = self.nose_y - 0.06, tip_z - bridge_z
        norm = 1.0 / (self.ridge_y**2 + self.ridge_z**2)
        hy, hz = self.ridge_y * norm, self.ridge_z * norm
        ear = 0.92 + 0.10 * t["ear_size"]
        tilt = 0.20 + 0.12 * t["ear_angle"]
        ear_x = 0.685 + 0.04 * tilt
        flat: _Terms = {  # ((|x| - ear_x + tilt z) / 0.05)^2, written out
            "xx": 400.0, "zz": 400.0 * tilt * tilt, "one": 400.0 * ear_x * ear_x,
            "ax": -800.0 * ear_x, "axz": 800.0 * tilt, "z": -800.0 * ear_x * tilt,
        }  # fmt: skip
        opening = self.opening_drop
        # Every row below is a polynomial of the point; one product with the basis gives them all. The groups are
        # bumps (clipped, squared), clipped, smooth steps, roots, waves, and plain values.
        rows = self._relief()
        self.bump_count = len(rows)
        rows += [{"y": -1.0, "one": -0.3}, {"y": -1.0, "one": -0.93}]
        rows += [
            _sum(_square("x", 0.40, 0.22), sign=-1.0, plus=1.0),
            _sum(_square("z", 0.22, 0.15), sign=-1.0, plus=1.0),
        ]
        rows += [_step("z", 0.25, 0.72), _step("z", -0.28, -0.60), _step("z", 0.1, 0.4), _step("y", -0.7, 0.6)]
        rows += [
            _sum(_square("x", 0.0, 0.71), _square("y", 0.22, 0.75), _square("z", -0.06, 0.92)),
            _sum(
                _square("x", 0.0, 0.25 + 0.035 * t["chin_width"]),
                _square("y", -0.855 - opening, 0.185),
                _square("z", 0.50 + 0.035 * t["chin_projection"], 0.22),
            ),
            _sum(
                _square("x", self.nose_w, 0.072),
                _square("y", self.nose_y - 0.015, 0.075),
                _square("z", tip_z - 0.075, 0.12),
            ),
            _sum(flat, _square("y", -0.05, 0.235 * ear), _square("z", -0.12, 0.14 * ear)),
        ]
        rows += [{"x": 15.0, "one": self.lump_phase}, {"y": 15.0, "one": 1.0}, {"z": 15.0}]
        rows += [
            {"y": hy, "z": hz, "one": -0.06 * hy - bridge_z * hz},
            {"y": 1.0, "one": -0.06},
            {"z": 1.0, "one": -bridge_z},
            _square("y", -0.26, 0.77 + 0.45 * opening),
            _square("z", 0.22, 0.61),
            _square("z", -0.16, 0.42),
            {"y": 1.0, "one": 0.3},
            {"y": 1.0, "one": -self.margin_side},
        ]
        self.forms = torch.stack(
            [torch.cat([zero + row.get(name, 0.0) for name in _BASIS], dim=1) for row in rows], dim=1
        ).contiguous()  # (N, rows, basis)

    def _rows(self, x: Tensor, ax: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """The groups of rows of `_skull_constants` at normalised points, each (N, rows, P)."""
        basis = torch.stack([x * x, y * y, z * z, ax, y, z, ax * z, x, torch.ones_like(x)], dim=1)
        groups = [self.bump_count, 4, 4, 4, 3, 8]
        values = torch.bmm(self.forms, basis)
        bumps, clipped, steps, roots, waves, plain = values.split_with_sizes(groups, dim=1)
        steps = steps.clamp(0.0, 1.0)
        steps = steps.square() * torch.add(self.three.unsqueeze(1), steps, alpha=-2.0)
        return bumps, clipped.clamp(min=0.0), steps, roots, waves, plain

    def _margin(
        self, x: Tensor, above: Tensor, front: Tensor, nape: Tensor, temple: Tensor, sideburn: Tensor
    ) -> Tensor:
        rise = torch.addcmul(self.margin_rise + self.recession_base, temple, self.recession_temple)
        rise = torch.addcmul(rise, x, self.fringe_fall)  # a parted fringe falls to one side
        margin = torch.addcmul(above, front, rise, value=-1.0)
        return torch.add(torch.addcmul(margin, sideburn, self.sideburn), nape, alpha=0.95)

    def margin_and_ear(self, x: Tensor, ax: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """At normalised points: height above the hairline (positive where hair grows), distance to the nearer ear."""
        _, clipped, steps, roots, _, plain = self._rows(x, ax, y, z)
        margin = self._margin(x, plain[:, 7], steps[:, 0], steps[:, 1], clipped[:, 2], clipped[:, 3])
        return margin, roots[:, 3].clamp(min=0.0).sqrt() * 0.06 - 0.06

    def distance(self, x: Tensor, y: Tensor, z: Tensor, skin_only: bool = False) -> tuple[Tensor, Tensor]:
        """Distance to (skin with short hair, loose hair) at head-frame points; all (N, P), units of 100 mm.

        Written for few, large operations: this is where rendering spends its time. On a processor long rows of
        points are cut so that each part stays in its cache.
        """
        longest = max(_CACHE_POINTS // len(x), 1)
        if x.device.type == "cpu" and x.shape[1] > 1.5 * longest:
            cuts = [slice(start, start + longest) for start in range(0, x.shape[1], longest)]
            parts = [self.distance(x[:, cut], y[:, cut], z[:, cut], skin_only) for cut in cuts]
            return torch.cat([p[0] for p in parts], dim=1), torch.cat([p[1] for p in parts], dim=1)
        x, y, z = self.normalise(x, y, z)
        ax = x.abs()
        xx = x * x
        bumps, clipped, steps, roots, waves, plain = self._rows(x, ax, y, z)
        low, below, temple, sideburn = clipped.unbind(1)
        front, nape, fade, up = steps.unbind(1)
        along, py, pz, sy, sz, neck_z, above_neck, above = plain.unbind(1)
        roots = roots.clamp(min=0.0).sqrt_()
        skull, chin, wing, ear = torch.addcmul(-self.root_scale, roots, self.root_scale).unbind(1)
        sx = xx * torch.addcmul(self.jaw_inv, low, self.taper_inv).square_()
        boxed = torch.addcmul(torch.addcmul(sx * sx, sy, sy), sz, sz).sqrt_()
        face = torch.addcmul((sx + sy).add_(sz).mul_(self.round), boxed, self.boxed).sqrt_()
        face = torch.add(self.minus_face, face, alpha=0.6)
        d = smooth_min(smooth_min(skull, face, self.k22, 0.22), chin, self.k22, 0.22)
        relief = torch.bmm(self.amp, bumps.clamp(min=0.0).square_()).squeeze(1)
        d = torch.addcmul(d, relief, fade, value=-1.0)
        h = along.clamp(0.0, 1.0)
        dy, dz = torch.addcmul(py, h, self.ridge_y, value=-1.0), torch.addcmul(pz, h, self.ridge_z, value=-1.0)
        ridge = torch.addcmul(torch.addcmul(xx, dy, dy), dz, dz).sqrt_()
        ridge = torch.addcmul(ridge, h.square(), self.tip_shrink).add_(self.ridge_r)
        d = smooth_min(d, smooth_min(ridge, wing, self.k06, 0.06), self.k085, 0.085)
        if skin_only:
            return d, d
        across = ax / torch.addcmul(self.neck_r, below, below, value=2.2)
        neck = torch.add(self.minus_neck, torch.addcmul(neck_z, across, across).sqrt_(), alpha=0.42)
        d = smooth_min(d, torch.maximum(neck, above_neck), self.k10, 0.10)
        margin = self._margin(x, above, front, nape, temple, sideburn)
        t = torch.addcmul(self.cap_start, margin, self.cap_width).clamp_(0.0, 1.0)
        cap = t.square() * torch.add(self.three, t, alpha=-2.0) * self.cap
        s0, s1, s2 = torch.sin(waves).unbind(1)
        lumps = s0 * s1 * s2
        cap = cap * torch.add(self.quarter, up, alpha=0.75) * torch.addcmul(self.unit, lumps, self.lump_size)
        if self.has_hat:
            ear = ear + self.ears_off
            cap = torch.minimum(cap, PRESSED + 2.0 * (self.press_from - (y - HAT_SLOPE * z)).clamp(min=0.0))
        return torch.minimum(d - cap, ear), self._loose_hair(x, xx, y, z, lumps)

    def _loose_hair(self, x: Tensor, xx: Tensor, y: Tensor, z: Tensor, lumps: Tensor) -> Tensor:
        hair = torch.full_like(y, 9.0)
        if self.has_loose:
            wave = torch.sin(8.0 * y + 2.5 * z + 2.0 * x) * self.wave_size + self.wave_lumps * lumps
            wide = self.loose_x + self.loose_grow * (0.3 - y).clamp(0.0, 1.0) + wave
            front = z - self.loose_front - 0.30 * smoothstep(-0.1, 0.45, y)
            if self.has_turned:
                # From the side the sheet shows its edges: wavy in front, and sinking into the cap above.
                lock = 0.030 * torch.sin(6.0 * y + self.lump_phase) + 0.014 * torch.sin(17.0 * y + 5.0 * x)
                front = front + self.side_view * (lock + self.wave_size * torch.sin(11.0 * y))
                wide = wide - self.side_view * 0.12 * smoothstep(0.0, 0.42, y)
            around = torch.sqrt(xx / wide.square() + ((z + 0.08) * self.loose_iz).square()) * 0.8 - 0.8
            cut = torch.maximum(torch.maximum(front, -y - self.drop), y - 0.42)
            if self.has_hat:
                cut = torch.maximum(cut, y - HAT_SLOPE * z - self.press_from)
            r = 0.13
            sheet = torch.sqrt((around + r).clamp(min=0.0).square() + (cut + r).clamp(min=0.0).square())
            sheet = sheet + (torch.maximum(around, cut) + r).clamp(max=0.0) - r
            hair = torch.where(self.drop > 0.0, sheet, hair)
        if self.has_bun:
            bun = torch.sqrt(xx + (y - 0.98).square() + (z + 0.25).square()) - self.bun * (1.0 + 0.06 * lumps)
            hair = torch.where(self.bun > 0.0, torch.minimum(hair, bun), hair)
        return hair
