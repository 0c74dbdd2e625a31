"""What is painted on a phantom's skin: eyes, brows, lips, facial hair, lines, freckles and moles.

Everything is a function of normalised head-frame coordinates, (N, P) tensors; colours are linear (N, P, 3).
A `Canvas` gathers albedo, shininess and soft occlusion for the shader.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from pipeline.adapters.phantom import colours
from pipeline.adapters.phantom.heads import Head, Tensor, gauss, smoothstep
from pipeline.adapters.phantom.pixels import pick, put, take


class Canvas:
    """Surface colour under construction: albedo (N, P, 3), gloss, occlusion and emission-free sparkle (N, P)."""

    def __init__(self, albedo: Tensor) -> None:
        self.albedo = albedo
        shape = albedo.shape[:2]
        self.gloss = albedo.new_ones(shape)
        self.shade = albedo.new_ones(shape)
        self.sparkle = albedo.new_zeros(shape)

    def part(self, index: Tensor) -> Canvas:
        """The pixels of `index` (N, K) as a canvas of their own."""
        part = Canvas(take(self.albedo, index))
        part.gloss, part.shade, part.sparkle = (take(v, index) for v in (self.gloss, self.shade, self.sparkle))
        return part

    def put(self, index: Tensor, part: Canvas) -> None:
        """Take back pixels painted on a part."""
        for name in ("albedo", "gloss", "shade", "sparkle"):
            put(getattr(self, name), index, getattr(part, name))

    def paint(self, colour: Tensor, mask: Tensor) -> None:
        """Lay a colour ((N, 3) or (N, P, 3)) over the albedo where mask (N, P) says so."""
        if colour.dim() == 2:
            colour = colour.unsqueeze(1)
        self.albedo = self.albedo + mask.unsqueeze(-1) * (colour - self.albedo)


def _bump(q: Tensor) -> Tensor:
    return (1.0 - q).clamp(min=0.0) ** 2


def _segment(ax: Tensor, y: Tensor, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to a segment and place along it (0..1)."""
    dx, dy = x1 - x0, y1 - y0
    h = (((ax - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0)
    return torch.sqrt((ax - x0 - h * dx) ** 2 + (y - y0 - h * dy) ** 2 + 1e-9), h


def _within(canvas: Canvas, where: Tensor, paint: Callable[..., None], *values: Tensor) -> None:
    """Paint only the pixels where `where` (N, P) is true; `paint` must leave others as they are anyway."""
    index = pick(where)
    if index.shape[1]:
        part = canvas.part(index)
        paint(part, *(take(value, index) for value in values))
        canvas.put(index, part)


Turn = tuple[Tensor, Tensor, Tensor]
"""What `views.View.turn` says of heads near profile."""


def paint_skin(
    head: Head, x: Tensor, ax: Tensor, y: Tensor, z: Tensor, soft: float, turn: Turn | None = None
) -> Canvas:
    """Bare skin with its variation, features and lines. `soft` is the size of a pixel in units."""
    t = head.traits
    skin = colours.skin_colour(t)
    front = smoothstep(0.15, 0.45, z)
    canvas = Canvas(skin.unsqueeze(1).expand(-1, x.shape[1], -1))
    # Around the head rather than across it, or the grain of cheeks near profile would be drawn out into streaks.
    around = x if turn is None else x + turn[0] * (0.72 * torch.atan2(x, z + 0.18) - x)
    grain = colours.noise(around * 0.9 + 0.13 * t["mole_y"], y * 0.9 + z * 0.4 + t["mole_x"])
    # blood: cheeks, nose tip, ears
    red = _bump(((ax - 0.42) / 0.3) ** 2 + ((y + 0.3) / 0.26) ** 2) + 0.8 * _bump(
        (ax / 0.16) ** 2 + ((y - head.nose_y) / 0.14) ** 2
    )
    red = (red * front + 0.6 * smoothstep(0.70, 0.78, ax)) * (0.25 + 0.75 * t["blush"])
    tint = torch.tensor([0.05, -0.17, -0.13], device=x.device)
    mottled = 1.0 + 0.022 * grain[:, 2] + 0.018 * grain[:, 0]
    canvas.albedo = canvas.albedo * (1.0 + red.unsqueeze(-1) * tint) * mottled.unsqueeze(-1)
    # freckles and moles
    spots = smoothstep(1.35, 2.0, grain[:, 0]) * _bump((ax / 0.62) ** 2 + ((y + 0.2) / 0.42) ** 2).sqrt()
    warm_brown = skin * torch.tensor([0.62, 0.45, 0.35], device=x.device)
    canvas.paint(warm_brown, 0.7 * spots * t["freckles"] * front)
    for mirror, scale in ((1.0, 1.0), (-0.7, 0.7)):
        r = torch.sqrt((x - mirror * t["mole_x"]) ** 2 + (y - t["mole_y"] * scale) ** 2)
        mole = smoothstep(soft, -soft, r - 0.026 * t["mole_size"] * scale) * (t["mole_size"] > 0)
        canvas.paint(skin * torch.tensor([0.30, 0.22, 0.2], device=x.device), 0.9 * mole * front)
    face = front > 0
    _within(canvas, face, partial(_lines, head), ax, y, front)
    if bool((torch.maximum(t["beard"], t["moustache"]) > 0).any()):
        _within(canvas, (y < -0.05) & (z > -0.06), partial(_facial_hair, head), around, ax, y, z, grain[:, 1])
    near_mouth = (y - head.mouth_y + 0.05).abs() < 0.27
    _within(canvas, face & near_mouth & (ax < 0.45), partial(_mouth, head, soft), x, y, front)
    _within(canvas, face & ((y - head.nose_y).abs() < 0.16) & (ax < 0.32), partial(_nostrils, head), ax, y, front)
    _within(canvas, face & (y.abs() < 0.2) & (ax > 0.08), partial(_eyes, head, soft, turn), x, ax, y, z, front)
    near_brow = (y - head.brow_y).abs() < 0.16
    _within(canvas, face & near_brow, partial(_brows, head), ax, y, front, grain[:, 0], grain[:, 1])
    return canvas


def paint_ear(head: Head, canvas: Canvas, y: Tensor, z: Tensor, share: Tensor) -> None:
    """Folds of the ear as a head near profile shows it; share (N, P) says where ear is and how much it turns to us."""
    size = 0.92 + 0.10 * head.traits["ear_size"]
    u, v = (z + 0.12) / (0.14 * size), (y + 0.05) / (0.235 * size)
    r = torch.sqrt(u * u + v * v + 1e-9)
    bowl = _bump(((u - 0.18) / 0.62) ** 2 + ((v + 0.14) / 0.50) ** 2)
    behind = smoothstep(0.75, 0.1, u - 0.6 * v) * smoothstep(-0.95, -0.55, v)
    fold = gauss(-(((r - 0.66) / 0.13) ** 2)) * behind
    fork = gauss(-(((u - 0.10 - 0.25 * v) / 0.16) ** 2)) * _bump(((v - 0.36) / 0.30) ** 2)
    rim = smoothstep(0.84, 1.04, r)
    dark = 0.85 * bowl + 0.5 * fold + 0.3 * fork + 0.35 * rim
    canvas.shade = canvas.shade * (1.0 - (share * dark).clamp(max=0.7))


def _lines(head: Head, canvas: Canvas, ax: Tensor, y: Tensor, front: Tensor) -> None:
    """Soft occlusion (all ages) and the lines of age and smiling; kept as shade so they work on every tone."""
    t = head.traits
    age = smoothstep(28.0, 78.0, t["age_years"]) * t["line_depth"]
    smile, ex, my = t["smile"], head.eye_x, head.mouth_y
    dark = 0.16 * _bump(((ax - 0.17) / 0.13) ** 2 + ((y - 0.03) / 0.14) ** 2)  # inner eye hollow
    dark = dark + 0.22 * _bump((ax / 0.17) ** 2 + ((y - head.nose_y + 0.10) / 0.07) ** 2)  # under the nose
    dark = dark + 0.16 * _bump((ax / 0.2) ** 2 + ((y - my + 0.15 + 0.6 * head.gap) / 0.06) ** 2)  # under the lip
    d, h = _segment(ax, y, head.nose_w + 0.06, head.nose_y + 0.03, head.mouth_w + 0.085, my - 0.02)
    fold = (0.14 + 0.34 * age + 0.22 * smile) * h.sqrt() * (1.15 - h)
    dark = dark + fold * gauss(-((d / 0.024) ** 2))
    d, h = _segment(ax, y, head.mouth_w + 0.04, my - 0.05, head.mouth_w + 0.07, my - 0.2)
    dark = dark + 0.24 * age * (1.0 - h) * gauss(-((d / 0.02) ** 2))
    bag = y + 0.145 - 0.45 * (ax - ex) ** 2 / 0.15
    inside = _bump(((ax - ex) / 0.2) ** 2)
    dark = dark + (0.05 + 0.26 * age) * inside * gauss(-((bag / 0.022) ** 2))
    feet = torch.sin((y - 0.01) / (ax - ex + 0.05).clamp(min=0.05) * 9.0)
    crow = _bump(((ax - ex - 0.26) / 0.09) ** 2 + ((y - 0.0) / 0.12) ** 2)
    dark = dark + (0.26 * age + 0.12 * age * smile) * crow * smoothstep(0.45, 0.95, feet)
    band = torch.sin(y * 62.0 + 1.2 * torch.cos(ax * 5.0) + t["mole_y"] * 5.0)
    brow_area = _bump((ax / 0.42) ** 2 + ((y - 0.42) / 0.17) ** 2).sqrt()
    dark = dark + (0.24 * age + 0.16 * age * t["brow_raise"]) * brow_area * smoothstep(0.5, 1.0, band)
    frown = gauss(-(((ax - 0.045) / 0.014) ** 2)) * _bump(((y - 0.17) / 0.10) ** 2)
    dark = dark + 0.24 * age * frown
    canvas.shade = canvas.shade * (1.0 - (dark * front).clamp(max=0.75))


def _facial_hair(head: Head, canvas: Canvas, x: Tensor, ax: Tensor, y: Tensor, z: Tensor, grain: Tensor) -> None:
    t = head.traits
    my, corner = head.mouth_y, head.mouth_w
    cheek = -0.40 - 0.34 * (1.0 - ((ax - 0.62) / 0.5) ** 2).clamp(0.0, 1.0) * (1.0 - t["beard_cheek"])
    cheek_line = cheek - 0.42 * smoothstep(0.55, 0.1, ax)
    edge = 0.05 * grain
    jaw = smoothstep(-0.10, 0.10, cheek_line - y + edge) * smoothstep(-1.22, -1.02, y)
    jaw = jaw * smoothstep(-0.05, 0.18, z) * (1.0 - (1.0 - t["beard_cheek"]) * smoothstep(0.28, 0.42, ax))
    goatee = smoothstep(-0.04, 0.05, my - 0.10 - y + 0.3 * edge) * smoothstep(0.34, 0.22, ax)
    sideburn = (
        smoothstep(0.1, 0.18, z) * smoothstep(0.52, 0.60, ax) * smoothstep(-0.1, -0.3, y) * smoothstep(-1.0, -0.8, y)
    )
    jaw = torch.maximum(torch.maximum(jaw, goatee * smoothstep(-1.22, -1.04, y)), sideburn * t["beard_cheek"] * 0.9)
    soul = smoothstep(0.10, 0.2, ax) + smoothstep(0.10, 0.16, my - 0.03 - y)
    jaw = jaw * soul.clamp(max=1.0)
    arch = my + 0.115 - 0.25 * ax * ax / corner.clamp(min=0.1)
    lip = smoothstep(0.075, 0.02, (y - arch + 0.035).abs() - 0.018 + 0.3 * edge) * smoothstep(0.06, -0.03, ax - corner)
    side = smoothstep(0.06, 0.02, (ax - corner - 0.015).abs()) * smoothstep(0.05, -0.02, y - my - 0.03)
    side = side * smoothstep(-0.2, -0.1, y - my + 0.05)
    density = torch.maximum(t["beard"] * jaw, t["moustache"] * lip)
    density = torch.maximum(density, torch.minimum(t["beard"], t["moustache"]) * side)
    fine = colours.noise(x * 1.5 + 0.31, y * 0.8 + 0.17)
    thick = (density * 1.25).clamp(max=1.0)
    cover = thick * (0.80 + 0.16 * fine[:, 0].clamp(-1.2, 1.2) * (1.0 - 0.55 * thick))
    # Grey comes to the chin first and in patches; the hair keeps darker roots so the form still reads.
    grey = (t["hair_grey"] * 1.15 + 0.13 * fine[:, 2] + 0.10 * fine[:, 0] - 0.05).clamp(0.0, 1.0) * (
        t["hair_grey"] > 0.03
    )
    dark_hair = colours.hair_colour(t) * 0.85
    pale = colours.grey_colour(t) * 0.72
    colour = dark_hair.unsqueeze(1) + grey.unsqueeze(-1) * (pale - dark_hair).unsqueeze(1)
    colour = colour * (1.0 + 0.20 * fine[:, 0].clamp(-1.5, 1.5)).unsqueeze(-1)
    canvas.paint(colour, cover.clamp(0.0, 0.97))
    canvas.gloss = canvas.gloss * (1.0 - 0.75 * cover)


def _mouth(head: Head, soft: float, canvas: Canvas, x: Tensor, y: Tensor, front: Tensor) -> None:
    t = head.traits
    s = (x / head.mouth_w).clamp(-1.3, 1.3)
    bow = 1.0 - s * s
    inside = bow.clamp(min=0.0)
    line = head.mouth_y + head.corner_lift * s * s - 0.008 * (1.0 - s.abs()).clamp(min=0) * (s.abs() < 1)
    dip = (0.20 + 0.12 * t["lip_bow"]) * gauss(-((s / 0.2) ** 2))
    lip_skin = colours.lip_colour(t, colours.skin_colour(t))
    top = line + 0.3 * head.gap * inside + head.lip_up * inside * (1.06 - dip - 0.12 * s.abs())
    bottom = line - 0.7 * head.gap * inside - head.lip_low * inside * (1.0 + 0.15 * inside) * 0.92
    within = smoothstep(0.0, 0.06, bow)
    body = smoothstep(-0.9 * soft, 0.9 * soft, torch.minimum(top - y, y - bottom)) * within * front
    upper_light = torch.where(y > line, 0.86, 1.04)
    canvas.paint(lip_skin.unsqueeze(1) * upper_light.unsqueeze(-1), 0.92 * body)
    canvas.gloss = canvas.gloss * (1.0 + 1.1 * body * (y < line))
    canvas.shade = canvas.shade + (1.0 - canvas.shade) * body * 0.7
    hi, lo = line + 0.3 * head.gap * inside, line - 0.7 * head.gap * inside
    hole = smoothstep(-0.8 * soft, 0.8 * soft, torch.minimum(hi - y, y - lo)) * within * front * (head.gap > 0.004)
    canvas.paint(torch.tensor([[0.055, 0.012, 0.012]], device=x.device), hole)
    teeth_low = hi - (0.042 + 0.014 * t["smile"]) * inside.sqrt()
    teeth = smoothstep(-soft, soft, y - torch.maximum(teeth_low, lo)) * hole * smoothstep(0.90, 0.72, s.abs())
    canvas.paint(torch.tensor([[0.70, 0.66, 0.58]], device=x.device), 0.95 * teeth * smoothstep(0.01, 0.04, head.gap))
    canvas.gloss = canvas.gloss * (1.0 - 0.6 * hole)
    thin = gauss(-(((y - line) / 0.011) ** 2)) * smoothstep(-0.06, 0.03, bow) * front * (1.0 - hole)
    corner = gauss(-((((s.abs() - 0.98) * head.mouth_w) / 0.022) ** 2) - ((y - line) / 0.018) ** 2) * front
    canvas.paint(
        lip_skin * torch.tensor([0.20, 0.13, 0.13], device=x.device), (0.85 * thin + 0.5 * corner).clamp(max=0.9)
    )


def _nostrils(head: Head, canvas: Canvas, ax: Tensor, y: Tensor, front: Tensor) -> None:
    q = ((ax - 0.62 * head.nose_w) / (0.5 * head.nose_w)) ** 2 + ((y - head.nose_y + 0.075) / 0.028) ** 2
    hole = _bump(q * 0.55)
    side = _bump(((ax - head.nose_w - 0.075) / 0.022) ** 2 + ((y - head.nose_y + 0.02) / 0.08) ** 2)
    canvas.paint(
        colours.skin_colour(head.traits) * torch.tensor([0.16, 0.09, 0.08], device=ax.device), 0.85 * hole * front
    )
    canvas.shade = canvas.shade * (1.0 - 0.28 * side * front)


def _on_eyeball(head: Head, turn: Turn, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where on the eyeball, from the middle of its front, the ray through a point between the lids arrives.

    From the front a bulging eye cannot be told from a picture of an eye; from the side it can.
    """
    _, sight, eye_z = turn
    radius = 0.165
    ox, oy = x - torch.sign(x) * head.eye_x, y - 0.012
    oz = z - (eye_z - radius + 0.035)
    b = ox * sight[:, 0] + oy * sight[:, 1] + oz * sight[:, 2]
    inside = b * b - (ox * ox + oy * oy + oz * oz - radius**2)
    back = b - inside.clamp(min=0.0).sqrt()
    qx, qy, qz = ox - back * sight[:, 0], oy - back * sight[:, 1], oz - back * sight[:, 2]
    # Along the ball rather than across it, so that the far side of the ball is far from the iris.
    swell = torch.atan2(torch.sqrt(qx * qx + qy * qy + 1e-9), qz) * radius / torch.sqrt(qx * qx + qy * qy + 1e-9)
    return qx * torch.sign(x) * swell, qy * swell


def _eyes(
    head: Head,
    soft: float,
    turn: Turn | None,
    canvas: Canvas,
    x: Tensor,
    ax: Tensor,
    y: Tensor,
    z: Tensor,
    front: Tensor,
) -> None:
    t = head.traits
    half = 0.168 + 0.010 * t["eye_width"]
    u = (ax - head.eye_x) / half
    v = y - (0.012 + 0.016 * t["eye_tilt"]) * u
    opening = (0.085 + 0.010 * t["eye_opening"]) * (1.0 - t["eye_close"]) * (1.0 - 0.22 * t["smile"]) + 0.012 * t[
        "brow_raise"
    ]
    arc = (1.0 - u * u).clamp(min=-0.6)
    upper = opening * arc * (1.0 - 0.12 * u)
    lower = -(0.62 * opening + 0.004) * arc * (1.0 + 0.12 * u)
    inside = smoothstep(-0.8 * soft, 0.8 * soft, torch.minimum(upper - v, v - lower)) * front
    ball = 1.0 - 0.30 * u.abs() ** 2
    lid_shadow = 0.55 + 0.45 * smoothstep(0.0, 0.06, upper - v)
    white = torch.tensor([0.70, 0.68, 0.66], device=x.device)
    canvas.paint(white * (ball * lid_shadow).unsqueeze(-1), inside)
    canvas.shade = canvas.shade + (1.0 - canvas.shade) * inside
    gx = ax - head.eye_x - 0.035 * t["gaze_x"] * torch.sign(x)
    gy = v - 0.012 - 0.016 * t["gaze_y"]
    if turn is not None:
        px, py = _on_eyeball(head, turn, x, y, z)
        gx = gx + 0.5 * turn[0] * (px - ax + head.eye_x)  # half way: more, and the iris slips out of sight
        gy = gy + 0.5 * turn[0] * (py - v + 0.012)
    r = torch.sqrt(gx * gx + gy * gy + 1e-9)
    iris = smoothstep(0.7 * soft, -0.7 * soft, r - 0.075) * inside
    colour = colours.iris_colour(t).unsqueeze(1) * (0.75 + 0.9 * smoothstep(0.03, -0.05, gy).unsqueeze(-1))
    limbus = smoothstep(0.048, 0.076, r)
    canvas.paint(colour * (1.0 - 0.62 * limbus).unsqueeze(-1) * (0.6 + 0.4 * lid_shadow).unsqueeze(-1), iris)
    black = torch.tensor([[0.004, 0.004, 0.005]], device=x.device)
    canvas.paint(black, smoothstep(0.7 * soft, -0.7 * soft, r - 0.030) * inside)
    glint_x = 0.024 * torch.sign(torch.sin(torch.deg2rad(t["light_azimuth_deg"])) + 1e-6) * torch.sign(x)
    glint = smoothstep(0.9 * soft, -0.5 * soft, torch.sqrt((gx - glint_x) ** 2 + (gy - 0.026) ** 2) - 0.015)
    canvas.sparkle = canvas.sparkle + 0.85 * glint * inside
    canvas.gloss = canvas.gloss * (1.0 - 0.9 * inside)
    skin = colours.skin_colour(t)
    corner = gauss(-(((u + 0.97) * half / 0.018) ** 2) - (v / 0.016) ** 2) * front
    canvas.paint(skin * 0.5 + torch.tensor([0.06, 0.01, 0.01], device=x.device), 0.7 * corner)
    feminine = 1.0 - t["presentation"]
    lash_w = 0.0135 + 0.005 * feminine + 0.004 * smoothstep(-0.2, 0.9, u) * (0.4 + feminine)
    reach = smoothstep(1.20, 1.02, u.abs())
    lash = gauss(-(((v - upper - 0.003) / lash_w) ** 2)) * reach * front
    lash_colour = colours.hair_colour(t) * 0.35
    canvas.paint(lash_colour, (0.95 * lash).clamp(max=0.95))
    low_lash = gauss(-(((v - lower + 0.004) / 0.009) ** 2)) * smoothstep(1.1, 0.9, u.abs()) * front
    canvas.paint(skin * 0.38, 0.42 * low_lash)
    crease = gauss(-(((v - upper - 0.040 - 0.010 * arc) / 0.012) ** 2)) * smoothstep(1.25, 0.8, u.abs()) * front
    canvas.shade = canvas.shade * (1.0 - (0.08 + 0.36 * t["lid_crease"]) * crease)


def _brows(head: Head, canvas: Canvas, ax: Tensor, y: Tensor, front: Tensor, fine: Tensor, soft_noise: Tensor) -> None:
    t = head.traits
    start = 0.125 + 0.018 * t["brow_gap"]
    along = (ax - start) / 0.40
    peak = 0.038 + 0.014 * t["brow_arch"]
    curve = (
        peak * (1.0 - ((along - 0.62) / 0.62) ** 2)
        + 0.02 * t["brow_tilt"] * (along - 0.5)
        - 0.02
        - 0.022 * (along - 0.35)
    )
    thick = (0.032 + 0.009 * t["brow_thickness"]) * (1.0 - 0.62 * along.clamp(0.0, 1.2) ** 1.5)
    d = (y - head.brow_y - curve).abs() - thick + 0.006 * soft_noise
    mask = smoothstep(0.016, -0.012, d) * smoothstep(-0.07, 0.06, along) * smoothstep(1.08, 0.85, along) * front
    # Brows keep to the natural darkness of the skin's range even where head hair is light (dyed, bleached).
    natural = 1.0 - 0.75 * smoothstep(4.0, 7.0, t["skin_tone_mst"])
    hair = colours.ramp(colours.HAIR_SRGB, t["hair_colour"] * natural)
    # Brows grey late and stay darker than the head hair; on dark skin they stay darker than the skin.
    colour = hair * 0.55 + 0.4 * t["hair_grey"] ** 2 * (colours.grey_colour(t) * 0.55 - hair * 0.55)
    cover = mask * (0.84 + 0.06 * fine.clamp(-2, 2))
    canvas.paint(colour, cover)
    canvas.gloss = canvas.gloss * (1.0 - 0.85 * cover)
