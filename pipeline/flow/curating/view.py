"""Stored images that show more than models read: whoever decodes one sees the judge's crop, cut out of what is stored.

So measures, judge and auditor read the same pixels when a face is looked at, refiltered, audited or measured later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.domain.ports import Codec
from pipeline.domain.records import UInt8


@dataclass(frozen=True, slots=True)
class InnerView:
    """Implements `ports.Codec`: whole images are encoded, and of what is decoded the inner part is given.

    Attributes:
        codec: of the whole images.
        cut: whole image, uint8 RGB (H, W, 3) -> what models read; raises ValueError where it has not the shape stored.
    """

    codec: Codec
    cut: Callable[[UInt8], UInt8]

    def encode(self, face_HWC: UInt8) -> bytes:
        """Return the bytes of a whole image."""
        return self.codec.encode(face_HWC)

    def decode(self, data: bytes) -> UInt8:
        """Return what models read of stored bytes; raises ValueError on anything not decodable in full."""
        return self.cut(self.codec.decode(data))
