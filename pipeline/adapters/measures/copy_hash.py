"""A perceptual hash: pictures that are copies of each other, resized or encoded anew, differ in few of its 64 bits.

The hash is that of `pipeline.domain.hashes`. Faces that are aligned alike share their coarse layout: of different
photographs (400 of LFW) one pair in a thousand differs in less than 14 bits, of phantoms (60) in less than 12, while
JPEG, another size or other brightness moves at most 6 in the tests.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.measures.crops import card_of, require_faces
from pipeline.domain.hashes import halves, perceptual_hash
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8

Float64 = npt.NDArray[np.float64]
FORMULA = "pHash: luma 54 183 19 / 256, cosines 1..8 of the picture's own pixels at 1/1024, above the median; version 1"
"""What the card's digest is taken of: change it whenever a number below changes."""


class CopyHashOptions(MeasureNode):
    """The hash has no options: two hashes must mean the same in every dataset."""

    use: Literal["copy-hash"] = "copy-hash"


class CopyHash:
    """Gives `phash_hi` and `phash_lo`: whole numbers of 0 to 2^32 - 1 (`pipeline.domain.hashes` compares them)."""

    card = card_of("copy-hash-dct64", FORMULA, "Zauner, 2010: DCT-based perceptual hash")
    names: tuple[str, ...] = ("phash_hi", "phash_lo")
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: CopyHashOptions | None = None) -> None:
        self.options = options or CopyHashOptions()

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, Float64]:
        """Return one float64 array of shape (N,) per name.

        Raises:
            ValueError: not uint8 RGB of shape (N, H, W, 3) with sides of 8 to 4,096 pixels.
        """
        require_faces(faces_NHWC)
        hi_N, lo_N = halves(perceptual_hash(faces_NHWC))
        return {"phash_hi": hi_N, "phash_lo": lo_N}
