"""Pixels to stored JPEG and back, over libjpeg-turbo: what judge and measures see is what is stored.

What `JpegCodec` encodes was generated, and says so: every JPEG carries an XMP packet with the IPTC digital source type
`trainedAlgorithmicMedia`. Pictures of other origin go through `PhotographCodec`, which says of them what their source
said, and nothing where it said nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline.domain.recipe import Node
from pipeline.domain.records import UInt8

Subsampling = Literal["444", "422", "420"]
SIDE_LIMIT_px = 16_384
"""Longest side that is decoded: a few altered header bytes must not ask for gigabytes."""
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = f"{SOURCE_TYPES}trainedAlgorithmicMedia"
"""What IPTC calls media that a trained model made."""
_BY_MODELS = (
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "algorithmicMedia",
    "compositeSynthetic",
)
"""Where a picture states several origins, these count before others, in this order: a file states one."""
_APP0, _APP1 = b"\xff\xe0", b"\xff\xe1"
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_IPTC_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
_XMP_BODY = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    b'Iptc4xmpExt:DigitalSourceType="%s"/></rdf:RDF></x:xmpmeta>'
)


def _mark(source_type: str) -> bytes:
    """Return the whole segment that states a digital source type, given by its address."""
    xmp = _XMP_HEAD + _XMP_BODY % source_type.encode("ascii")
    return _APP1 + (len(xmp) + 2).to_bytes(2, "big") + xmp


_MARK = _mark(SOURCE_TYPE)
"""The same in every image that is made."""


class JpegOptions(Node):
    """How accepted images are encoded."""

    use: Literal["jpeg"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100, strict=True)] = 95
    subsampling: Subsampling = "444"
    """Chroma subsampling; 444 keeps the colour resolution, which small faces need."""

    @field_validator("subsampling", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        # YAML reads an unquoted 444 as a number
        return str(value) if type(value) is int else value


class JpegCodec:
    """Baseline JPEG with the accurate transform, equal bytes for equal pixels under one libjpeg-turbo."""

    epoch = 2
    """Raised by hand when the bytes change under equal pixels and options."""

    def __init__(self, options: JpegOptions | None = None) -> None:
        import simplejpeg

        self._jpeg = simplejpeg
        self._options = options or JpegOptions()

    def encode(self, face_HWC: UInt8) -> bytes:
        """Return the JPEG of a generated uint8 RGB image of shape (H, W, 3); raises ValueError on anything else."""
        return self._encoded(face_HWC, _MARK)

    def _encoded(self, face_HWC: UInt8, mark: bytes) -> bytes:
        if face_HWC.dtype != np.uint8 or face_HWC.ndim != 3 or face_HWC.shape[2] != 3 or 0 in face_HWC.shape:
            raise ValueError(
                f"image of shape {face_HWC.shape} and type {face_HWC.dtype}; a face is uint8 RGB of shape (H, W, 3)"
            )
        data = self._jpeg.encode_jpeg(
            np.ascontiguousarray(face_HWC),
            quality=self._options.quality,
            colorspace="RGB",
            colorsubsampling=self._options.subsampling,
            fastdct=False,
        )
        # the JFIF segment has to come first; the mark comes next
        start = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == _APP0 else 2
        return b"".join((data[:start], mark, data[start:]))

    def decode(self, data: bytes) -> UInt8:
        """Return the pixels, uint8 RGB of shape (H, W, 3).

        Raises:
            ValueError: `data` is not one whole JPEG: another format, truncated, damaged, or with bytes after it.
        """
        # a decoder stops at the end marker; bytes after it mean that the range that was read is the wrong one
        if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
            raise ValueError(f"{len(data)} bytes that are not a whole JPEG: start or end marker missing")
        try:
            height, width, _, _ = self._jpeg.decode_jpeg_header(data, strict=True)
            if max(height, width) > SIDE_LIMIT_px:
                raise ValueError(f"{width} x {height} pixels, at most {SIDE_LIMIT_px} a side are decoded")
            pixels = self._jpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
        except ValueError as error:
            raise ValueError(f"{len(data)} bytes that do not decode as JPEG: {' '.join(str(error).split())}") from None
        return np.asarray(pixels, dtype=np.uint8)


class PhotographCodec(JpegCodec):
    """The same JPEG for pictures that exist already, which says nothing of itself that its source did not say.

    A content credential (C2PA) is bound to the bytes that it was signed over and cannot be kept; the digital source
    type that it, or the XMP, states can.
    """

    epoch = 1

    def encode(self, face_HWC: UInt8, marks: Sequence[str] = ()) -> bytes:
        """Return the JPEG of a uint8 RGB image of shape (H, W, 3); raises ValueError on anything else.

        Args:
            face_HWC: the picture.
            marks: what its source states of its making, as decoding found it: `iptc:<term>` is stated again; of several
                terms one that means a model's work is.
        """
        terms = sorted({m.removeprefix("iptc:") for m in marks if re.fullmatch(r"iptc:[A-Za-z]{3,60}", m)})
        stated = next((term for term in _BY_MODELS if term in terms), next(iter(terms), None))
        return self._encoded(face_HWC, _mark(SOURCE_TYPES + stated) if stated else b"")


def source_type(data: bytes) -> str | None:
    """Return the IPTC digital source type that the XMP of a JPEG states, whoever wrote it; None where none does.

    Source: Adobe XMP specification part 3, section 1.1.3 (JPEG), and IPTC Photo Metadata 2022, "Digital Source Type".
    """
    import xml.etree.ElementTree as ET

    for packet in _packets(data):
        # an XMP packet has no document type; without one an XML parser can be made neither to fetch nor to grow
        if b"<!DOCTYPE" in packet:
            continue
        try:
            root = ET.fromstring(packet)  # noqa: S314
        except ET.ParseError:
            continue
        for node in root.iter():
            stated = node.get(_IPTC_TYPE) or (node.text if node.tag == _IPTC_TYPE else None)
            if stated and stated.strip():
                return stated.strip()
    return None


def _packets(data: bytes) -> Iterator[bytes]:
    """Yield the XMP packets among a JPEG's segments, up to where its pixels begin."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0xD9, 0xDA):
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + length]
        if data[place : place + 2] == _APP1 and body.startswith(_XMP_HEAD):
            yield body.removeprefix(_XMP_HEAD)
        place += 2 + max(length, 2)
