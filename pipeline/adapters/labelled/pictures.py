"""Bytes of a face crop to pixels, strictly: what is cut short, animated, transparent or of another size is refused.

JPEG goes through libjpeg-turbo in strict mode, because Pillow reads JPEGs whose middle is damaged without a word; PNG,
WebP and BMP go through Pillow. The format is told by the first bytes, never by the name, and the size is compared
before any pixel is decoded, so that a few header bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import io
import warnings

import numpy as np

from pipeline.domain.records import UInt8

_PLAIN_MODES = ("RGB", "L", "P", "1")
"""Pillow's modes that become 8-bit RGB without losing or inventing anything."""


def sniff(head: bytes) -> str | None:
    """Return `JPEG`, `PNG`, `WEBP` or `BMP` by the first 16 bytes of a file, or None where it is none of them."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return "BMP" if head.startswith(b"BM") else None


def require_side(height: int, width: int, side_px: int) -> None:
    """Raise ValueError, saying how to align, unless a picture is a crop of this side."""
    if (height, width) != (side_px, side_px):
        raise ValueError(
            f"{width} x {height} pixels where the recogniser reads aligned crops of {side_px} x {side_px}; detect the "
            "face, warp its five landmarks to the recogniser's template (insightface: face_align.norm_crop), save that"
        )


def decode(data: bytes, side_px: int) -> UInt8:
    """Return the pixels of one JPEG, PNG, WebP or BMP file, uint8 RGB of shape (side_px, side_px, 3).

    Raises:
        ValueError: another format, damaged, animated, transparent, deeper than 8 bits, or of another size.
    """
    kind = sniff(data[:16])
    if kind is None:
        raise ValueError(f"{len(data)} bytes that are no JPEG, PNG, WebP or BMP")
    faces = _jpeg(data, side_px) if kind == "JPEG" else _other(data, kind, side_px)
    return np.ascontiguousarray(faces, dtype=np.uint8)


def _jpeg(data: bytes, side_px: int) -> UInt8:
    import simplejpeg

    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError as error:
        raise ValueError(f"not a whole JPEG: {_one_line(error)}") from None
    require_side(height, width, side_px)
    try:
        pixels: UInt8 = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError as error:
        raise ValueError(f"damaged JPEG: {_one_line(error)}") from None
    return pixels


def _other(data: bytes, kind: str, side_px: int) -> UInt8:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # a file's odd metadata is its own affair, a picture of absurd size is not
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[kind]) as picture:
                require_side(picture.height, picture.width, side_px)
                if getattr(picture, "n_frames", 1) > 1:
                    raise ValueError("an animation; give one still picture")
                if picture.mode not in _PLAIN_MODES or "transparency" in picture.info:
                    raise ValueError(f"{kind} of mode {picture.mode}; 8-bit RGB, grey or palette without alpha is read")
                return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged {kind}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
