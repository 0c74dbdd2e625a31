"""Images that exist already, as values: what a source hands in, what decoding makes of it, why something is refused.

Every input ends as exactly one of three: decoded, refused with a reason, or unreadable with a reason. Nothing is
skipped in silence, so that what was put in can be counted against what came out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.domain.records import UInt8


class Reason(StrEnum):
    """Why bytes did not become pixels. The words stand in rows and reports: append, never rename."""

    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    NOT_AN_IMAGE = "not_an_image"
    FORMAT_NOT_ALLOWED = "format_not_allowed"
    BAD_HEADER = "bad_header"
    TOO_MANY_PIXELS = "too_many_pixels"
    SIDE_TOO_LONG = "side_too_long"
    TOO_SMALL = "too_small"
    TOO_ELONGATED = "too_elongated"
    ANIMATED = "animated"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TRANSPARENT = "transparent"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TOO_SLOW = "decoder_too_slow"
    DECODER_OUT_OF_MEMORY = "decoder_out_of_memory"


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is decoded at all; a header that asks for more is refused before a pixel is read.

    Source: the bad-data rules of OWASP's image handling advice and of Pillow's own bomb limits, tightened for faces.
    """

    most_bytes: int = 200_000_000
    most_px: int = 50_000_000
    longest_side_px: int = 16_384
    shortest_side_px: int = 16
    most_elongated: float = 8.0
    """Longer side over shorter one."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an input did not become pixels.

    Attributes:
        reason: the stable word.
        found: what was got, for a person: `12,000 x 9,000 px`.
        value, threshold: the number that decided and its limit; None where the reason has none.
    """

    reason: Reason
    found: str
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image as upright 8-bit sRGB, and what was done to make it so.

    Attributes:
        image_HWC: uint8 RGB.
        kind: the format that its content is in: `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff`.
        orientation: the EXIF orientation that was undone, 1 where there was none.
        notes: what was done or found, in a fixed order: `cmyk`, `grey`, `palette`, `16_bit`, `alpha_over_grey`,
            `icc_converted`, `icc_ignored`, `first_frame`, `trailing_bytes`.
        marks: what the file says of its making: `iptc:<term>` for an IPTC digital source type, `c2pa` where a content
            credential is embedded, whether or not it is valid.
    """

    image_HWC: UInt8 = field(repr=False)
    kind: str
    orientation: int = 1
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
