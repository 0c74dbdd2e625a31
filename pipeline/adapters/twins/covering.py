"""Things in front of a face: a mask over mouth and nose, dark glasses, something that gets in the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.adapters.twins.geometry import (
    Float64,
    Head,
    Place,
    face_area,
    filled,
    moved,
    over,
    smooth,
    stroke,
    to_pixels,
)
from pipeline.domain.recipe import TwinNode
from pipeline.domain.records import Sample, UInt8

MASKS = ((150, 186, 208), (226, 228, 226), (38, 39, 44), (118, 124, 130), (205, 158, 168))
"""sRGB: surgical blue, white, black, grey, rose."""
THINGS = ((92, 74, 60), (52, 58, 70), (168, 152, 130), (120, 128, 132), (196, 162, 138), (74, 96, 84), (150, 60, 54))
_MASK: tuple[Place, ...] = (
    (0.0, 0.40, 0.30), (0.42, 0.56, 0.10), (0.88, 0.58, -0.24), (0.95, 1.00, -0.26), (0.72, 1.42, -0.08),
    (0.34, 1.68, 0.08), (0.0, 1.76, 0.14), (-0.34, 1.68, 0.08), (-0.72, 1.42, -0.08), (-0.95, 1.00, -0.26),
    (-0.88, 0.58, -0.24), (-0.42, 0.56, 0.10),
)  # fmt: skip
_LENS: tuple[Place, ...] = (
    (0.16, -0.14, 0.14), (0.50, -0.22, 0.08), (0.88, -0.16, -0.10), (0.86, 0.10, -0.10), (0.56, 0.30, 0.06),
    (0.22, 0.20, 0.14),
)  # fmt: skip


class FaceMaskOptions(TwinNode):
    """A cloth or surgical mask over nose, mouth and chin."""

    use: Literal["face-mask"]


class SunglassesOptions(TwinNode):
    """Dark glasses."""

    use: Literal["sunglasses"]


class OccluderOptions(TwinNode):
    """Something in front of the face, pushed in from one side until it hides a share of it."""

    use: Literal["occluder"]
    area: tuple[Annotated[float, Field(gt=0, le=0.8)], Annotated[float, Field(gt=0, le=0.8)]] = (0.15, 0.4)
    """Smallest and largest share of the face that is hidden."""

    @model_validator(mode="after")
    def _rising(self) -> OccluderOptions:
        if self.area[0] > self.area[1]:
            raise ValueError(f"area {self.area[0]:g} to {self.area[1]:g}: the smaller share comes first")
        return self


class FaceMask:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: FaceMaskOptions, alignment: str) -> None:
        """Take how faces are aligned; there is nothing to choose."""
        self._alignment = alignment

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the face with a mask; what is recorded is the mask's colour, sRGB 0 to 255, and its lift."""
        head, side = Head.of(self._alignment, face_HWC.shape[0], parent), face_HWC.shape[0]
        colour = _colour(MASKS, rng, 6.0)
        lift = float(rng.uniform(-0.05, 0.06))
        worn = tuple((u, v - lift * (v < 1.0), d) for u, v, d in _MASK)
        stencil = filled(smooth(head.pixels(worn)), side)
        face = face_HWC.astype(np.float64)
        for x in (-1.0, 1.0):
            ear = (x * 1.02, 0.22, -0.62)
            loops = [[(x * 0.88, 0.60 - lift, -0.24), ear], [(x * 0.76, 1.36, -0.1), (x * 1.02, 0.5, -0.62)]]
            for loop in loops:
                strap = stroke(head.pixels(loop), side / 112, side)
                face = over(face, np.broadcast_to(0.9 * colour + 18, face.shape), 0.8 * strap)
        # its own shadow below the edge, then cloth in the light that falls on the face
        face = over(face, face * 0.6, 0.5 * moved(stencil, max(1, side // 112), 0))
        cloth = colour * _light(face_HWC, stencil, head)[..., None] * self._folds(head, side)[..., None]
        out = to_pixels(over(face, cloth, stencil))
        red, green, blue = (float(c) for c in np.rint(colour))
        return out, {"red": red, "green": green, "blue": blue, "lift": lift}

    def _folds(self, head: Head, side: int) -> Float64:
        """Return the brightness of pleats and of the ridge over the nose, (H, W), about 1."""
        folds = np.ones((side, side))
        for v in (0.86, 1.06, 1.26):
            line = head.pixels([(-0.8, v - 0.05, -0.2), (-0.3, v, 0.1), (0.0, v + 0.02, 0.2), (0.3, v, 0.1)])
            line += head.pixels([(0.8, v - 0.05, -0.2)])
            folds -= 0.13 * stroke(line, 0.9 * side / 112, side)
        ridge = np.array(head.pixels([(0.0, 0.75, 0.3)])[0])
        y, x = np.mgrid[:side, :side] + 0.5
        near = np.exp(-(((x - ridge[0]) / (0.35 * head.eyes_px)) ** 2 + ((y - ridge[1]) / (0.5 * head.height_px)) ** 2))
        return np.asarray(folds + 0.10 * near)


class Sunglasses:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: SunglassesOptions, alignment: str) -> None:
        """Take how faces are aligned."""
        self._alignment = alignment

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the face with dark glasses; what is recorded is how much light they take, 0 to 1, and their size."""
        head, side = Head.of(self._alignment, face_HWC.shape[0], parent), face_HWC.shape[0]
        opaque, size = float(rng.uniform(0.9, 0.98)), float(rng.uniform(0.92, 1.12))
        tint = np.array([26.0, 24.0, 26.0]) + rng.uniform(0, 14, 3)
        face = face_HWC.astype(np.float64)
        frame = np.broadcast_to(tint * 0.5, face.shape)
        for x in (-1.0, 1.0):
            temple = [(x * 0.88, -0.10, -0.1), (x * 1.06, -0.08, -0.62)]
            face = over(face, frame, stroke(head.pixels(temple), 1.6 * side / 112, side))
            lens = [(x * (0.5 + (u - 0.5) * size), v * size, d) for u, v, d in _LENS]
            outline = smooth(head.pixels(lens))
            y = (np.arange(side)[:, None, None] + 0.5 - head.centre_px[1]) / head.height_px
            # the sky is brighter than the ground: lenses darken downwards
            glass = tint * np.clip(1.5 - 1.6 * y, 0.8, 2.2) + np.zeros_like(face)
            face = over(face, glass, opaque * filled(outline, side))
            face = over(face, frame, stroke([*outline, outline[0]], 1.2 * side / 112, side))
        bridge = [(-0.2, -0.10, 0.16), (0.0, -0.14, 0.2), (0.2, -0.10, 0.16)]
        face = over(face, frame, stroke(head.pixels(bridge), 1.8 * side / 112, side))
        return to_pixels(face), {"opacity": opaque, "size": size}


class Occluder:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: OccluderOptions, alignment: str) -> None:
        """Take how large it may be, and how faces are aligned."""
        self._area, self._alignment = options.area, alignment

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the face behind something; recorded are the share of the face hidden, and where it comes in, degrees.

        Degrees run clockwise from image right.
        """
        head, side = Head.of(self._alignment, face_HWC.shape[0], parent), face_HWC.shape[0]
        area = float(rng.uniform(*self._area))
        # from the sides and from below: what hangs from above is hair
        angle = float(rng.uniform(-20.0, 200.0))
        stencil, share = self._placed(self._shape(rng), np.radians(angle), area, head)
        colour = _colour(THINGS, rng, 8.0)
        y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
        slope = rng.normal(0, 0.35, 2)
        bright = np.clip(1.0 + slope[0] * x + slope[1] * y + self._grain(rng, side), 0.4, 1.5)
        soft = max(1, round(2 * side / 112))
        rim = np.clip(stencil - moved(stencil, soft, soft), 0, 1)
        face = face_HWC.astype(np.float64)
        face = over(face, face * 0.65, 0.6 * moved(stencil, soft, -soft))
        thing = colour * (bright * (1 + 0.12 * rim))[..., None]
        return to_pixels(over(face, thing, stencil)), {"share": share, "angle_deg": angle}

    def _shape(self, rng: np.random.Generator) -> Float64:
        """Return a rounded outline around 0, (64, 2), of radius about 1."""
        turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = np.ones(64)
        for k in (2, 3, 4):
            radius += rng.normal(0, 0.16 / k) * np.cos(k * turn + rng.uniform(0, 2 * np.pi))
        return np.stack([np.cos(turn), np.sin(turn)], 1) * np.maximum(radius, 0.4)[:, None]

    def _placed(self, shape: Float64, angle: float, area: float, head: Head) -> tuple[Float64, float]:
        """Return the stencil of the shape, pushed in until it hides `area` of the face, and what it hides."""
        face = face_area(head)
        (centre,) = head.pixels([(0.0, 0.45, 0.0)])
        radius = 1.15 * head.eyes_px
        way = np.array([np.cos(angle), np.sin(angle)])

        def hides(distance: float) -> tuple[Float64, float]:
            places = shape * radius + np.array(centre) + way * distance
            stencil = filled([(float(x), float(y)) for x, y in places], head.side_px)
            return stencil, float((stencil * face).sum() / face.sum())

        near, far = 0.0, 2.0 * head.side_px
        for _ in range(10):
            middle = (near + far) / 2
            near, far = (middle, far) if hides(middle)[1] > area else (near, middle)
        return hides(near)

    def _grain(self, rng: np.random.Generator, side: int) -> Float64:
        """Return a coarse and a fine unevenness of brightness, (H, W)."""
        from PIL import Image

        grain = np.zeros((side, side))
        for cells, strength in ((5, 0.10), (24, 0.05)):
            rough = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
            grain += strength * np.asarray(rough.resize((side, side), Image.Resampling.BICUBIC), np.float64)
        return grain


def _colour(palette: tuple[tuple[int, int, int], ...], rng: np.random.Generator, spread: float) -> Float64:
    """Return a colour of the palette, a little off, sRGB 0 to 255."""
    chosen = np.array(palette[int(rng.integers(len(palette)))], np.float64)
    return np.clip(chosen + rng.normal(0, spread, 3), 0, 255)


def _light(face_HWC: UInt8, stencil_HW: Float64, head: Head) -> Float64:
    """Return how the light on the face varies over the stencil, (H, W), about 1."""
    from scipy.ndimage import gaussian_filter

    grey = face_HWC.astype(np.float64).mean(axis=2)
    inside = stencil_HW + 1e-3
    wide = 0.3 * head.eyes_px
    smooth_grey = gaussian_filter(grey * inside, wide) / gaussian_filter(inside, wide)
    middle = float((smooth_grey * stencil_HW).sum() / max(stencil_HW.sum(), 1e-9))
    return np.asarray(np.clip((smooth_grey / max(middle, 1.0)) ** 0.8, 0.5, 1.15))
