"""Draws phantoms: identity and nuisance rows in, pictures and exact landmarks out.

Rays parallel to the view axis are marched through each head's distance field, coarse first and then fine; the
surface is painted in head coordinates and lit by one soft key light and light from everywhere. Where a row asks for
it the key light casts shadows, and things that are worn or held are laid over the head (`covering`). A picture is a
pure function of its own two rows: no state, no randomness, no influence of the rest of the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.adapters.phantom import accessories, colours, truth
from pipeline.adapters.phantom.ageing import aged
from pipeline.adapters.phantom.covering import cover_picture
from pipeline.adapters.phantom.heads import Head, Tensor, Traits
from pipeline.adapters.phantom.marching import BACK, surface_normal, trace
from pipeline.adapters.phantom.occluders import CLASSES, GLASSES, occluders_of
from pipeline.adapters.phantom.pixels import put, take
from pipeline.adapters.phantom.shading import light_direction, surface_colour
from pipeline.adapters.phantom.shadows import scene_of, sunlight
from pipeline.adapters.phantom.traits import nuisance_column
from pipeline.adapters.phantom.views import UNITS_HIGH, View

_CPU_CHUNK, _GPU_CHUNK = 4, 64  # phantoms drawn at once: few enough for the cache of a processor core


class Rendering(NamedTuple):
    """Pictures and truth: faces_NHWC uint8 RGB, landmarks_N52 float32 (x, y) in pixels.

    Landmark order: eye left in the image, eye right in the image, nose tip, mouth corner left, right.
    """

    faces_NHWC: npt.NDArray[np.uint8]
    landmarks_N52: npt.NDArray[np.float32]


class Truth(NamedTuple):
    """What pictures hide.

    occlusion_NHW: uint8, the class of each pixel (`occluders.CLASSES`): 0 where nothing lies before the head and the
        wall, otherwise what covers at least half of the pixel. Clear lenses do not count, tinted ones do.
    visible_N5: bool, False for a landmark that lies behind head, hair or something worn; where it would be in the
        picture is stated all the same.
    hidden_NR: float32 0..1, how much of what the camera sees of each region of the bare head (`truth.REGIONS`) is
        covered; NaN where it sees nothing of the region.
    """

    occlusion_NHW: npt.NDArray[np.uint8]
    visible_N5: npt.NDArray[np.bool_]
    hidden_NR: npt.NDArray[np.float32]


def _render_chunk(identities: Tensor, nuisances: Tensor, size_px: int, side: int, told: bool) -> tuple[Tensor, ...]:
    """uint8 (N, size, size, 3) pictures and (N, 5, 2) landmarks of a few phantoms, and the three parts of their truth
    where it is to be told.
    """
    head = Head(Traits(identities, nuisances))
    view = View(head)
    things = occluders_of(head)
    scene = scene_of(head, view, things)
    solid, index, points = trace(head, view, side, identities.device)
    normal = surface_normal(head, view, points, index, side)
    colour = accessories.background(head.traits, side, identities.device)
    sun = sunlight(scene, head, points, normal, light_direction(head.traits), index, side)
    contact = None if things is None else things.contact(*view.to_head(*points[:3]))
    lit, frame = surface_colour(head, view, points, normal, UNITS_HIGH / side, sun, contact)
    seen = take(solid, index)
    put(colour, index, torch.where(seen.unsqueeze(-1), lit, take(colour, index)))
    covered = None
    if things is not None:
        depth = torch.full_like(colour[..., 0], BACK)
        put(depth, index, torch.where(seen, points[2], torch.full_like(points[2], BACK)))
        covered = cover_picture(head, view, things, scene, colour, depth, side)
    image = colours.to_srgb(colour).view(-1, side, side, 3).permute(0, 3, 1, 2)
    if side != size_px:
        image = functional.interpolate(
            image, size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False
        )
    faces = (image * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    if not told:
        return faces, view.landmarks_px(size_px)
    if covered is None:
        covered = colour.new_zeros(len(colour), len(CLASSES), side * side)
    if frame is not None:
        painted = torch.zeros_like(colour[..., 0])
        put(painted, index, torch.where(seen, frame, torch.zeros_like(frame)))
        covered[:, GLASSES] = torch.maximum(covered[:, GLASSES], painted * (covered.sum(1) < 0.5))
    regions = truth.region_masks(head, *view.to_head(*points[:3]))
    fresh = torch.cat([seen[:, :1], seen[:, 1:] & (index[:, 1:] > index[:, :1])], dim=1)  # rows are padded: `pixels`
    hidden = truth.hidden_shares(regions, fresh.float(), take(covered.sum(1).clamp(max=1.0), index))
    visible = truth.seen_landmarks(head, view, scene, things)
    return faces, view.landmarks_px(size_px), truth.class_picture(covered, side, size_px), visible, hidden


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
    return _render(identities_NT, nuisances_NC, size_px, supersample, device, told=False)[0]


def render_with_truth(
    identities_NT: npt.NDArray[np.float32],
    nuisances_NC: npt.NDArray[np.float32],
    *,
    size_px: int = 112,
    supersample: float = 1.5,
    device: str | torch.device = "cpu",
) -> tuple[Rendering, Truth]:
    """Draw as `render` does, the same pictures, and tell what is hidden in them."""
    return _render(identities_NT, nuisances_NC, size_px, supersample, device, told=True)


def _alike(nuisances_NC: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """An order of the rows in which those that need the same work lie together; ordinary rows stay as they are."""
    asks = [
        nuisances_NC[:, nuisance_column(name)] > 0 for name in ("glasses_tint", "hat", "face_mask", "hand", "shadow")
    ]
    return np.lexsort(asks)


def _render(
    identities_NT: npt.NDArray[np.float32],
    nuisances_NC: npt.NDArray[np.float32],
    size_px: int,
    supersample: float,
    device: str | torch.device,
    *,
    told: bool,
) -> tuple[Rendering, Truth]:
    side = max(round(size_px * supersample), size_px)
    where, count = torch.device(device), len(identities_NT)
    drawn = Rendering(np.empty((count, size_px, size_px, 3), np.uint8), np.empty((count, 5, 2), np.float32))
    hidden = Truth(
        np.empty((count, size_px, size_px), np.uint8),
        np.empty((count, 5), np.bool_),
        np.empty((count, len(truth.REGIONS)), np.float32),
    )
    wholes: tuple[npt.NDArray[Any], ...] = (*drawn, *hidden)
    shown = aged(identities_NT, nuisances_NC)
    with torch.inference_mode():
        identities = torch.as_tensor(np.ascontiguousarray(shown, dtype=np.float32), device=where)
        nuisances = torch.as_tensor(np.ascontiguousarray(nuisances_NC, dtype=np.float32), device=where)
        chunk = _CPU_CHUNK if where.type == "cpu" else _GPU_CHUNK
        order = _alike(nuisances_NC)
        for start in range(0, count, chunk):
            part = order[start : start + chunk]
            parts = _render_chunk(identities[part], nuisances[part], size_px, side, told)
            for whole, one in zip(wholes, parts, strict=False):
                whole[part] = one.cpu().numpy()
    return drawn, hidden


def degrade(
    faces_NHWC: npt.NDArray[np.uint8],
    blur_px_N: npt.NDArray[np.float32],
    noise_sigma_N: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Gaussian blur (standard deviation in pixels, 0..3), then Gaussian sensor noise (levels of 255), per picture."""
    out = np.empty_like(faces_NHWC)
    offsets = torch.arange(-8, 9, dtype=torch.float32, device="cpu")
    for index, (face, blur, sigma) in enumerate(zip(faces_NHWC, blur_px_N, noise_sigma_N, strict=True)):
        picture = torch.as_tensor(face, dtype=torch.float32, device="cpu").permute(2, 0, 1).unsqueeze(0)
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
