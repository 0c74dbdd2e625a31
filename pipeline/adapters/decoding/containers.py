"""Whether a file's container is whole, where the format lets that be known: checksums that decoders do not look at.

Pillow stops reading a PNG at its last row and never compares the checksums of its pixel data, so a flipped bit in
mid-stream would become a plausible picture. Sources: PNG (W3C, third edition) section 5, WebP container (RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from pipeline.domain.intake import Reason

_PNG_HEAD = 8
_RIFF_HEAD = 12
_CHUNK_EXTRA = 12
"""Length, type and checksum of a chunk."""


def container_problem(data: bytes, kind: str) -> tuple[Reason, str] | None:
    """Return why a file is not whole, or None where it is, or where its format does not tell."""
    if kind == "png":
        return _png_problem(data)
    if kind == "webp":
        size = 8 + struct.unpack_from("<I", data, 4)[0]
        if size > len(data):
            return Reason.TRUNCATED, f"webp: {len(data):,} of {size:,} bytes"
    return None


def chunk_names(data: bytes, kind: str) -> Iterator[bytes]:
    """Yield the names of a PNG's or WebP's chunks, as far as there are any."""
    at = _PNG_HEAD if kind == "png" else _RIFF_HEAD
    while at + 8 <= len(data):
        if kind == "png":
            length, name = struct.unpack_from(">I4s", data, at)
            at += _CHUNK_EXTRA + length
        else:
            name, length = struct.unpack_from("<4sI", data, at)
            at += 8 + length + length % 2
        yield name


def _png_problem(data: bytes) -> tuple[Reason, str] | None:
    at, view = _PNG_HEAD, memoryview(data)
    while at + _CHUNK_EXTRA <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + _CHUNK_EXTRA + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return Reason.CORRUPT, f"png: the checksum of chunk {name.decode('latin-1')} at byte {at:,} is wrong"
        if name == b"IEND":
            return None
        at = end
    return Reason.TRUNCATED, f"png: {len(data):,} bytes that end before the end chunk"
