"""One image's bytes to pixels, in this process: header first, limits next, then strict decoding and normalisation.

Not to be called on foreign bytes by a process that must live: see `guarded`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.adapters.decoding.containers import container_problem
from pipeline.adapters.decoding.marks import marks_of
from pipeline.adapters.decoding.sniffing import ALLOWED, sniff
from pipeline.domain.intake import Decoded, DecodeLimits, Reason, Refusal
from pipeline.domain.records import UInt8

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_PILLOW = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF"}
_EXIF_ORIENTATION = 0x0112
_GREY = 128
"""What stands behind pixels that let something through: mid-grey, the least of edges on either side."""
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")


class _RefusedError(Exception):
    """Carries a refusal out of the depths of one decode."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.found)
        self.refusal = refusal


def decode(data: bytes, limits: DecodeLimits, *, first_frame: bool = False) -> Decoded | Refusal:
    """Return upright 8-bit sRGB pixels, or why there are none.

    Args:
        data: a file's whole content.
        limits: what is decoded at all.
        first_frame: take an animation's first frame, which is noted, instead of refusing it.

    Raises:
        MemoryError: the machine has not enough; a fact about the machine, so it is not turned into a refusal here.
    """
    try:
        return _decoded(data, limits, first_frame)
    except _RefusedError as refused:
        return refused.refusal


def too_large(data: bytes, limits: DecodeLimits) -> Refusal | None:
    """Return the refusal of a file of too many bytes, None where it is none."""
    if len(data) <= limits.most_bytes:
        return None
    return Refusal(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes", len(data), limits.most_bytes)


def _decoded(data: bytes, limits: DecodeLimits, first_frame: bool) -> Decoded:
    kind = _kind(data, limits)
    if broken := container_problem(data, kind):
        raise _refused(*broken)
    image = _opened(data, kind)
    _hold_against(image.size, limits)
    notes: list[str] = []
    if (frames := _frames(image, kind)) > 1:
        if not first_frame:
            raise _refused(Reason.ANIMATED, f"{frames} frames", frames, 1)
        notes.append("first_frame")
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    rgb = _jpeg(data, image, notes) if kind == "jpeg" else _other(image, notes)
    rgb = _in_srgb(rgb, profile, image.mode, notes)
    # Pillow itself has turned a TIFF when it loaded it
    upright = np.ascontiguousarray(_TURNS[1 if kind == "tiff" else orientation](rgb))
    return Decoded(upright, kind, orientation, tuple(notes), marks_of(data, kind))


def _kind(data: bytes, limits: DecodeLimits) -> str:
    if not data:
        raise _refused(Reason.EMPTY, "0 bytes", 0, 1)
    if refused := too_large(data, limits):
        raise _RefusedError(refused)
    kind = sniff(data)
    if kind == "unknown":
        raise _refused(Reason.NOT_AN_IMAGE, f"{len(data):,} bytes that begin with {data[:8].hex(' ')}")
    if kind not in ALLOWED:
        reason = Reason.NOT_AN_IMAGE if kind in ("html", "text", "program", "zip", "gzip", "rar") else None
        raise _refused(reason or Reason.FORMAT_NOT_ALLOWED, kind)
    return kind


def _opened(data: bytes, kind: str) -> Picture:
    """Return the image with its header read and no pixel decoded."""
    from PIL import Image

    # limits of ours are tighter, and they refuse where Pillow only warns
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=(_PILLOW[kind],))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        # a parser of hostile headers may raise anything, and none of it is a mistake of ours
        raise _broken(error, Reason.BAD_HEADER, f"{kind}: ") from None


def _hold_against(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    what = f"{width:,} x {height:,} px"
    if min(size) < limits.shortest_side_px:
        raise _refused(Reason.TOO_SMALL, what, min(size), limits.shortest_side_px)
    if max(size) > limits.longest_side_px:
        raise _refused(Reason.SIDE_TOO_LONG, what, max(size), limits.longest_side_px)
    if width * height > limits.most_px:
        raise _refused(Reason.TOO_MANY_PIXELS, what, width * height, limits.most_px)
    if max(size) > limits.most_elongated * min(size):
        raise _refused(Reason.TOO_ELONGATED, what, max(size) / min(size), limits.most_elongated)


def _frames(image: Picture, kind: str) -> int:
    """Return how many pictures follow each other; what cameras put behind a JPEG, a preview or a gain map, is none."""
    if kind == "jpeg":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        # counting reads the header of every frame, and any of them may be damaged
        raise _broken(error, Reason.CORRUPT, f"{kind}: frames: ") from None


def _orientation(image: Picture) -> int:
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        # damaged EXIF says nothing, and the picture is still there
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _jpeg(data: bytes, image: Picture, notes: list[str]) -> UInt8:
    """Decode strictly: libjpeg's warnings, which it would paint over, are refusals."""
    import simplejpeg

    if image.mode in ("CMYK", "L"):
        notes.append("cmyk" if image.mode == "CMYK" else "grey")
    try:
        rgb = simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError as error:
        raise _broken(error, Reason.CORRUPT, "jpeg: ") from None
    if b"\xff\xd9" not in data[-2:]:
        notes.append("trailing_bytes")
    if rgb.shape[:2] != (image.height, image.width):
        found = f"jpeg: header says {image.width} x {image.height}, data {rgb.shape[1]} x {rgb.shape[0]}"
        raise _refused(Reason.CORRUPT, found)
    return np.asarray(rgb, np.uint8)


def _other(image: Picture, notes: list[str]) -> UInt8:
    mode, info = image.mode, dict(image.info)
    _load(image)
    if mode in _SIXTEEN or mode == "I":
        return _sixteen(image, notes)
    if mode in ("1", "L", "LA"):
        notes.append("grey")
    if mode in ("P", "PA"):
        notes.append("palette")
    if mode == "CMYK":
        notes.append("cmyk")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in info:
        return _over_grey(image, notes)
    if mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        raise _refused(Reason.UNSUPPORTED_PIXELS, f"pixels of type {mode}")
    return np.asarray(image.convert("RGB"), np.uint8)


def _load(image: Picture) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        raise _broken(error, Reason.CORRUPT) from None


def _sixteen(image: Picture, notes: list[str]) -> UInt8:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion clips, and nearly all of such a picture turns white."""
    deep = np.asarray(image)
    if deep.min() < 0 or deep.max() > 65_535:
        raise _refused(Reason.UNSUPPORTED_PIXELS, f"values from {deep.min()} to {deep.max()}, at most 16 bits are read")
    notes += ["grey", "16_bit"]
    grey = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _over_grey(image: Picture, notes: list[str]) -> UInt8:
    """Lay a see-through picture over mid-grey: dropping the alpha would show what its maker hid."""
    rgba = np.asarray(image.convert("RGBA"), np.uint16)
    alpha = rgba[..., 3:]
    if not alpha.any():
        raise _refused(Reason.TRANSPARENT, "every pixel is fully transparent", 0.0, 1.0)
    if int(alpha.min()) < 255:
        notes.append("alpha_over_grey")
    return ((rgba[..., :3] * alpha + _GREY * (255 - alpha) + 127) // 255).astype(np.uint8)


def _in_srgb(rgb_HWC: UInt8, profile: Any, mode: str, notes: list[str]) -> UInt8:
    """Convert from the embedded profile where it is one of RGB; one that cannot be used is ignored, and noted."""
    if not profile:
        return rgb_HWC
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != "RGB" or mode in ("CMYK", "L", "LA", "1"):
            notes.append("icc_ignored")
            return rgb_HWC
        if "srgb" in (source.profile.profile_description or "").lower():
            return rgb_HWC
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(Image.fromarray(rgb_HWC), source, target, outputMode="RGB")
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        # a damaged profile is a fact about the file, and its pixels are still there
        notes.append("icc_ignored")
        return rgb_HWC
    notes.append("icc_converted")
    return np.asarray(converted, np.uint8)


_TURNS: Mapping[int, Callable[[UInt8], UInt8]] = {
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
"""EXIF orientation -> what undoes it (CIPA DC-008, Exif 3.0, tag 274)."""


def _broken(error: Exception, reason: Reason, what: str = "") -> _RefusedError:
    """Return the refusal that a decoder's error means.

    Raises:
        MemoryError: native decoders say in words that they had no memory, which is no fault of the file.
    """
    said = _said(error)
    if any(words in said.lower() for words in ("out of memory", "memory allocation", "insufficient memory")):
        raise MemoryError(said) from None
    return _refused(Reason.TRUNCATED if _is_cut(said) else reason, f"{what}{said}")


def _is_cut(said: str) -> bool:
    return any(words in said.lower() for words in ("truncated", "premature end", "not enough", "unexpected end"))


def _said(error: Exception) -> str:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    # Pillow names the object that it was given, which is nobody's file
    return "its header cannot be read" if said.startswith("cannot identify") else said


def _refused(reason: Reason, found: str, value: float | None = None, threshold: float | None = None) -> _RefusedError:
    return _RefusedError(Refusal(reason, found, value, threshold))
