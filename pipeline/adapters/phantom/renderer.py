"""Draws phantoms: identity and nuisance rows in, pictures and exact landmarks out.

Rays parallel to the view axis are marched through each head's distance field, coarse first and then fine; the
surface is painted in head coordinates and lit by one soft key light and light from everywhere. A picture is a
pure function of its own two rows: no state, no randomness, no influence of the rest of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.adapters.phantom import accessories, colours, features, hair
from pipeline.adapters.phantom.heads import Head, Tensor, Traits, smoothstep
from pipeline.adapters.phantom.pixels import pick, put, take

_UNITS_HIGH = 112.0 / 46.0  # a picture shows this many units of 100 mm
_CPU_CHUNK, _GPU_CHUNK = 4, 64  # phantoms drawn at once: few enough for the cache of a processor core
_COARSE_STEPS, _MEND_STEPS = 13, 6
_BACK = -1.6  # rays that reach this depth have met nothing
_HIT = 0.006  # distance at which a ray counts as arrived, in units of 100 mm
_FACE_CENTRE_PX = (56.0, 65.5)  # where the mean of the five landmarks of a phantom goes, at 112 px


class Rendering(NamedTuple):
    """Pictures and truth: faces_NHWC uint8 RGB, landmarks_N52 float32 (x, y) in pixels.

    Landmark order: eye left in the image, eye right in the image, nose tip, mouth corner left, right.
    """

    faces_NHWC: npt.NDArray[np.uint8]
    landmarks_N52: npt.NDArray[np.float32]


def _rotation(t: Traits) -> Tensor:
    """Head-to-view rotation (N, 3, 3): yaw, then pitch, then roll."""
    yaw, pitch, roll = (torch.deg2rad(t[n].squeeze(1)) for n in ("yaw_deg", "pitch_deg", "roll_deg"))
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).view(-1, 3, 3)

    ry = matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    rx = matrix(one, zero, zero, zero, pitch.cos(), pitch.sin(), zero, -pitch.sin(), pitch.cos())
    rz = matrix(roll.cos(), roll.sin(), zero, -roll.sin(), roll.cos(), zero, zero, zero, one)
    return rz @ rx @ ry


class _View:
    """Maps rays of the picture into the head frame."""

    def __init__(self, head: Head) -> None:
        t = head.traits
        self.rotation = _rotation(t)
        self.landmarks = self._landmarks(head)  # (N, 5, 3) in view units
        self.unit_px = 112.0 / _UNITS_HIGH * t["scale"]  # (N, 1), pixels per unit at 112 px
        centre = self.landmarks.mean(dim=1)
        self.origin_x = _FACE_CENTRE_PX[0] + t["shift_x_px"] - centre[:, 0:1] * self.unit_px
        self.origin_y = _FACE_CENTRE_PX[1] + t["shift_y_px"] + centre[:, 1:2] * self.unit_px

    def _landmarks(self, head: Head) -> Tensor:
        """Five surface points, found by marching from the front in the head frame."""
        zero = torch.zeros_like(head.width)
        corner_y = head.mouth_y + head.corner_lift
        nx = torch.cat([-head.eye_x, head.eye_x, zero, -head.mouth_w, head.mouth_w], dim=1)
        ny = torch.cat([zero, zero, head.nose_y, corner_y, corner_y], dim=1)
        x, y = head.restore(nx, ny)
        z = torch.full_like(x, 1.05)
        for _ in range(14):
            z = z - 0.75 * head.distance(x, y, z, skin_only=True)[0]
        return torch.bmm(torch.stack([x, y, z], dim=-1), self.rotation.transpose(1, 2))

    def landmarks_px(self, size_px: int) -> Tensor:
        """(N, 5, 2) pixel positions; the centre of the top left pixel is (0, 0)."""
        x = self.origin_x + self.landmarks[..., 0] * self.unit_px
        y = self.origin_y - self.landmarks[..., 1] * self.unit_px
        return torch.stack([x, y], dim=-1) * (size_px / 112.0) - 0.5

    def rays(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """View x, y (N, side*side) of the centres of a side x side grid over the picture."""
        centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) * (112.0 / side)
        gy, gx = torch.meshgrid(centres, centres, indexing="ij")
        return (gx.reshape(1, -1) - self.origin_x) / self.unit_px, (self.origin_y - gy.reshape(1, -1)) / self.unit_px

    def to_head(self, vx: Tensor, vy: Tensor, vz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """View coordinates to head coordinates, all (N, P)."""
        x, y, z = torch.bmm(self.rotation.transpose(1, 2), torch.stack([vx, vy, vz], dim=1)).unbind(1)
        return x, y, z


def _march(head: Head, view: _View, vx: Tensor, vy: Tensor, vz: Tensor, steps: int, rate: float) -> Tensor:
    """March rays towards the back; returns their depth."""
    pace = rate * head.pace
    for _ in range(steps):
        d = torch.minimum(*head.distance(*view.to_head(vx, vy, vz)))
        vz = (vz - pace * d).clamp(min=_BACK)
    return vz


def _refine(head: Head, view: _View, coarse: Tensor, side: int, flat_steps: int, edge_steps: int) -> Tensor:
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
    depth = torch.full_like(near, _BACK)
    vx, vy = view.rays(side, coarse.device)
    flat = pick((near > _BACK + 0.05) & (near - far < 0.2))
    edge = pick((near > _BACK + 0.05) & (near - far >= 0.2))
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
        ez = torch.where(slipped, torch.minimum(ez, take(far, edge) + 0.12), ez).clamp(min=_BACK)
        put(depth, edge, _march(head, view, ex, ey, ez, _MEND_STEPS, 0.95))
    return depth.view(count, 1, side, side)


def _trace(head: Head, view: _View, side: int, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Surface points: solid (N, side*side) bool, index (N, K) and (vx, vy, vz, skin, loose hair distance), (N, K)."""
    small = max(side // 4, 1)
    vx, vy = view.rays(small, device)
    coarse = _march(head, view, vx, vy, torch.full_like(vx, 1.15), _COARSE_STEPS, 0.95).view(-1, 1, small, small)
    middle = _refine(head, view, coarse, side // 2, 2, 5)
    depth = _refine(head, view, middle, side, 0, 3).flatten(1)
    solid = depth > -1.2
    index = pick(solid)
    vx, vy = view.rays(side, device)
    vx, vy, vz = take(vx, index), take(vy, index), take(depth, index)
    skin, loose = head.distance(*view.to_head(vx, vy, vz))
    arrived = torch.zeros_like(depth)
    put(arrived, index, ((torch.minimum(skin, loose) < 2 * _HIT) & take(solid, index)).float())
    # Rays still under way along an inner edge (chin before neck) would leave a slit: close it, keep the outline.
    grown = functional.max_pool2d(arrived.view(-1, 1, side, side), 5, stride=1, padding=2)
    closed = -functional.max_pool2d(-grown, 5, stride=1, padding=2).flatten(1)
    solid = solid & (closed > 0.5)
    return solid, index, (vx, vy, vz, skin, loose)


def _normal(head: Head, view: _View, points: tuple[Tensor, ...], index: Tensor, side: int) -> Tensor:
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


def _light(t: Traits) -> Tensor:
    """Direction to the key light, (N, 1, 3) in the view frame."""
    az, el = torch.deg2rad(t["light_azimuth_deg"]), torch.deg2rad(t["light_elevation_deg"])
    return torch.stack([az.sin() * el.cos(), el.sin(), az.cos() * el.cos()], dim=-1)


def _shade_skin(t: Traits, canvas: features.Canvas, normal: Tensor, light: Tensor, depth: Tensor) -> Tensor:
    """Lit skin (N, P, 3), linear: light bleeds red past the terminator; gloss does not depend on pigment."""
    ambient = t["light_ambient"]
    facing = (normal * light).sum(-1)
    half = light + torch.tensor([0.0, 0.0, 1.0], device=depth.device)
    half = half / torch.linalg.vector_norm(half, dim=-1, keepdim=True)
    gleam = (normal * half).sum(-1).clamp(min=0.0)
    up = ambient * (0.80 + 0.20 * normal[..., 1]) * (0.78 + 0.22 * normal[..., 2].clamp(min=0.0))
    warmth = t["light_warmth"]
    tint = torch.cat([1.0 + 0.07 * warmth, torch.ones_like(warmth), 1.0 - 0.10 * warmth], dim=1)
    wraps = torch.tensor([0.42, 0.30, 0.25], device=depth.device)
    key = ((facing.unsqueeze(-1) + wraps) / (1.0 + wraps)).clamp(min=0.0)
    lit = up.unsqueeze(-1) + (1.0 - ambient).unsqueeze(-1) * key * 1.22 * tint.unsqueeze(1)
    # Occluded skin is lit by its neighbours, so its shadows turn warm rather than grey.
    warm = torch.tensor([0.82, 1.06, 1.10], device=depth.device)
    lit = lit * (1.0 - ((1.0 - canvas.shade * depth).unsqueeze(-1) * warm).clamp(max=0.95))
    matte: Tensor = canvas.albedo * lit
    visible = smoothstep(-0.05, 0.25, facing) * depth * canvas.gloss
    g4 = gleam**4
    g16 = g4**4
    spec = (0.036 * g4**2 + 0.055 * g16 + 0.05 * g16**3) * visible * (1.0 - 0.6 * ambient)
    rim = (1.0 - normal[..., 2].clamp(0.0, 1.0)) ** 3 * (0.02 + 0.05 * ambient) * canvas.gloss * depth
    shine: Tensor = (spec + rim).unsqueeze(-1)
    return matte + shine + canvas.sparkle.unsqueeze(-1)


def _surface_colour(head: Head, view: _View, points: tuple[Tensor, ...], normal: Tensor, pixel: float) -> Tensor:
    """Lit colour (N, K, 3), linear, of surface points."""
    t = head.traits
    vx, vy, vz, skin_d, loose_d = points
    hx, hy, hz = view.to_head(vx, vy, vz)
    x, y, z = head.normalise(hx, hy, hz)
    ax = x.abs()
    light = _light(t)
    # Soft occlusion: the neck and sides lie in the shadow of the head.
    below = smoothstep(-0.80, -1.12, y) * smoothstep(0.62, 0.35, z)
    depth = 1.0 - 0.38 * below - 0.14 * smoothstep(0.05, -0.35, z)
    loose = smoothstep(-0.008, 0.008, skin_d - loose_d)
    margin, ear = head.margin_and_ear(x, ax, y, z)
    cover, streak = hair.hair_cover(head, x, y, z, margin, loose)
    is_ear = smoothstep(0.02, -0.01, ear - skin_d) * (1.0 - loose)
    cover = cover * (1.0 - is_ear)
    colour = torch.zeros_like(normal)
    bare = pick(cover < 0.99)
    if bare.shape[1]:
        sx, sax, sy, sz = (take(v, bare) for v in (x, ax, y, z))
        canvas = features.paint_skin(head, sx, sax, sy, sz, pixel)
        in_ear = smoothstep(0.09, 0.03, (sax - 0.72).abs() + 0.6 * (sy + 0.06).abs()) * smoothstep(0.2, 0.05, sz)
        canvas.shade = canvas.shade * (1.0 - 0.35 * in_ear)
        accessories.paint_clothing(head, canvas, sax, sy, sz)
        put(colour, bare, _shade_skin(t, canvas, take(normal, bare), light, take(depth, bare)))
    hairy = pick(cover > 0.01)
    if hairy.shape[1]:
        root = 1.0 - 0.35 * take(loose * smoothstep(-0.2, -1.0, y) * smoothstep(0.6, 0.4, ax), hairy)
        lit = hair.hair_shade(head, take(y, hairy), take(streak, hairy), take(normal, hairy), light, root)
        skin = take(colour, hairy)
        put(colour, hairy, skin + take(cover, hairy).unsqueeze(-1) * (lit - skin))
    colour = accessories.glasses(head, view.rotation, (hx, hy, hz), colour, light, pixel)
    # A camera opens up a little for darker skin, as a photographer would; far less than full compensation.
    gain = t["exposure"] * (1.0 + 0.75 * smoothstep(5.0, 10.0, t["skin_tone_mst"]))
    colour = colour * (0.92 * gain).unsqueeze(-1)
    return colour / (1.0 + 0.22 * colour.clamp(min=0.0) ** 2)  # soft shoulder keeps highlights below white


def _render_chunk(identities: Tensor, nuisances: Tensor, size_px: int, side: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, size, size, 3) pictures and (N, 5, 2) landmarks of a few phantoms."""
    head = Head(Traits(identities, nuisances))
    view = _View(head)
    solid, index, points = _trace(head, view, side, identities.device)
    normal = _normal(head, view, points, index, side)
    colour = accessories.background(head.traits, side, identities.device)
    lit = _surface_colour(head, view, points, normal, _UNITS_HIGH / side)
    put(colour, index, torch.where(take(solid, index).unsqueeze(-1), lit, take(colour, index)))
    image = colours.to_srgb(colour).view(-1, side, side, 3).permute(0, 3, 1, 2)
    if side != size_px:
        image = functional.interpolate(
            image, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False
        )
    faces = (image * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return faces, view.landmarks_px(size_px)


def render(
    identities_NT: npt.NDArray[np.float32],
    nuisances_NC: npt.NDArray[np.float32],
    *,
    size_px: int = 112,
    supersample: float = 1.5,
    device: str | torch.device = "cpu",
) -> Rendering:
    """Draw N phantoms, clean and sharp: sensor blur and noise are left to `degrade`.

    identities_NT: float32 (N, len(IDENTITY_FIELDS)); nuisances_NC: float32 (N, len(NUISANCE_FIELDS)).
    size_px: side of the square picture, 48 or more.
    supersample: samples per pixel along each side, 1 (hard outlines) to 3; 1.25 is enough to train on.
    device: where to compute; pictures of different devices agree up to rounding.
    """
    side = max(round(size_px * supersample), size_px)
    where = torch.device(device)
    faces = np.empty((len(identities_NT), size_px, size_px, 3), dtype=np.uint8)
    landmarks = np.empty((len(identities_NT), 5, 2), dtype=np.float32)
    with torch.inference_mode():
        identities = torch.as_tensor(np.ascontiguousarray(identities_NT, dtype=np.float32), device=where)
        nuisances = torch.as_tensor(np.ascontiguousarray(nuisances_NC, dtype=np.float32), device=where)
        chunk = _CPU_CHUNK if where.type == "cpu" else _GPU_CHUNK
        for start in range(0, len(identities_NT), chunk):
            part = slice(start, start + chunk)
            images, points = _render_chunk(identities[part], nuisances[part], size_px, side)
            faces[part], landmarks[part] = images.cpu().numpy(), points.cpu().numpy()
    return Rendering(faces, landmarks)


def degrade(
    faces_NHWC: npt.NDArray[np.uint8],
    blur_px_N: npt.NDArray[np.float32],
    noise_sigma_N: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Gaussian blur (standard deviation in pixels, 0..3), then Gaussian sensor noise (levels of 255), per picture."""
    out = np.empty_like(faces_NHWC)
    offsets = torch.arange(-8, 9, dtype=torch.float32)
    for index, (face, blur, sigma) in enumerate(zip(faces_NHWC, blur_px_N, noise_sigma_N, strict=True)):
        picture = torch.as_tensor(face, dtype=torch.float32).permute(2, 0, 1).unsqueeze(0)
        if blur > 0.05:
            kernel = torch.exp(-0.5 * (offsets / float(blur)) ** 2)
            kernel = (kernel / kernel.sum()).expand(3, 1, -1)
            picture = functional.pad(picture, (8, 8, 8, 8), mode="reflect")
            picture = functional.conv2d(picture, kernel.unsqueeze(2), groups=3)
            picture = functional.conv2d(picture, kernel.unsqueeze(3), groups=3)
        values = picture.squeeze(0).permute(1, 2, 0).numpy()
        values = values + float(sigma) * rng.standard_normal(values.shape, dtype=np.float32)
        out[index] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return out
