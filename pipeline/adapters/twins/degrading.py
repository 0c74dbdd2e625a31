"""What cameras and networks do to faces: few pixels, strong compression, blur, too little light."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.domain.recipe import TwinNode
from pipeline.domain.records import Sample, UInt8


class LowResolutionOptions(TwinNode):
    """A face that was far away: scaled down and up again."""

    use: Literal["low-resolution"]
    px: Annotated[int, Field(ge=4, le=1024, strict=True)] = 28
    """Side of the picture in between."""


class CompressionOptions(TwinNode):
    """A face that went through a messenger: JPEG of low quality, chroma halved."""

    use: Literal["compression"]
    quality: Annotated[int, Field(ge=1, le=95, strict=True)] = 20


class BlurOptions(TwinNode):
    """Out of focus, or moved while the shutter was open."""

    use: Literal["blur"]
    kind: Literal["focus", "motion"] = "focus"
    px: Annotated[float, Field(gt=0, le=64)] = 2.0
    """On a face of 112 pixels: standard deviation of the blur, or length of the motion."""


class DarknessOptions(TwinNode):
    """Too little light: stops of exposure less, and the noise that a sensor then shows."""

    use: Literal["darkness"]
    stops: Annotated[float, Field(gt=0, le=8)] = 2.5
    noise: Annotated[float, Field(ge=0, le=0.2)] = 0.006
    """Standard deviation of the read noise in linear light, as a share of white; light itself adds as much as it must
    at 2,000 electrons for white."""


class LowResolution:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: LowResolutionOptions, alignment: str) -> None:
        """Take the size."""
        self._px = options.px

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the face from fewer pixels; recorded is their number a side. Nothing is drawn."""
        from PIL import Image

        height, width = face_HWC.shape[:2]
        small = min(self._px, height)
        reduced = Image.fromarray(face_HWC).resize((max(1, round(width * small / height)), small), Image.Resampling.BOX)
        back = reduced.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(back, np.uint8).copy(), {"px": float(small)}


class Compression:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: CompressionOptions, alignment: str) -> None:
        """Take the quality."""
        self._quality = options.quality

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the face after one JPEG more; recorded is its quality. Nothing is drawn."""
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(face_HWC).save(out, "JPEG", quality=self._quality, subsampling=2)
        with Image.open(io.BytesIO(out.getvalue())) as again:
            return np.asarray(again.convert("RGB"), np.uint8).copy(), {"quality": float(self._quality)}


class Blur:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: BlurOptions, alignment: str) -> None:
        """Take kind and strength."""
        self._options = options

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the blurred face; recorded is the strength, and of motion its direction, which is drawn."""
        from scipy.ndimage import convolve, gaussian_filter

        size = self._options.px * face_HWC.shape[0] / 112
        levels = face_HWC.astype(np.float64)
        if self._options.kind == "focus":
            soft, facts = gaussian_filter(levels, (size, size, 0), mode="nearest"), {}
        else:
            angle = float(rng.uniform(0, 180))
            soft = convolve(levels, _line(size, np.radians(angle))[..., None], mode="nearest")
            facts = {"angle_deg": angle}
        return np.clip(np.rint(soft), 0, 255).astype(np.uint8), {"px": size, **facts}


class Darkness:
    """Implements `ports.Twin`."""

    epoch: ClassVar[int] = 1

    def __init__(self, options: DarknessOptions, alignment: str) -> None:
        """Take how dark."""
        self._options = options

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Mapping[str, float]]:
        """Return the face in less light; recorded are the stops. The noise is drawn. sRGB is that of IEC 61966-2-1."""
        encoded = face_HWC.astype(np.float64) / 255
        linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
        dim = linear * 2.0**-self._options.stops
        spread = np.sqrt(self._options.noise**2 + dim / 2000) if self._options.noise else np.zeros_like(dim)
        seen = np.clip(dim + spread * rng.standard_normal(dim.shape), 0, 1)
        again = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        return np.rint(again * 255).astype(np.uint8), {"stops": self._options.stops}


def _line(length_px: float, angle_rad: float) -> npt.NDArray[np.float64]:
    """Return the kernel of a straight motion, its sum 1: points along the line, each shared among four pixels."""
    reach = int(np.ceil(length_px / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for t in np.linspace(-length_px / 2, length_px / 2, 8 * reach + 1):
        x, y = reach + t * np.cos(angle_rad), reach + t * np.sin(angle_rad)
        left, top = int(np.floor(x)), int(np.floor(y))
        for row, high in ((top, top + 1 - y), (top + 1, y - top)):
            for column, wide in ((left, left + 1 - x), (left + 1, x - left)):
                kernel[row, column] += high * wide
    return np.asarray(kernel / kernel.sum())
