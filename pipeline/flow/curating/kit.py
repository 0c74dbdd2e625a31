"""What curating works with beside the parts of every run: sources, decoder, detector, crops and tables.

Legend: H W C image axes, 5 points, 2 axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy.typing as npt

from pipeline.domain.curation import Curation, curation_of
from pipeline.domain.detection import Detector
from pipeline.domain.errors import PlanMismatchError
from pipeline.domain.intake import Decoded, Refusal, Source
from pipeline.domain.plain_tables import GroupedTables, PlainTables
from pipeline.domain.records import UInt8
from pipeline.flow.parts import Parts

if TYPE_CHECKING:
    from pipeline.flow.curating.review import Item


class Decoder(Protocol):
    """Turns bytes that nobody vouches for into pixels; whatever they hold costs no more than this one image."""

    def decode(self, data: bytes) -> Decoded | Refusal:
        """Return upright 8-bit sRGB pixels, or why there are none."""
        ...


class Encoder(Protocol):
    """Turns crops of photographs into stored bytes and back."""

    def encode(self, face_HWC: UInt8, marks: Sequence[str] = ()) -> bytes:
        """Return the bytes that are stored; `marks` is what the picture says of its making."""
        ...

    def decode(self, data: bytes) -> UInt8:
        """Return the pixels of stored bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Kit:
    """Everything that curating needs beside `Parts`.

    Attributes:
        sources: by name, in the order of the recipe.
        licences: source's name -> its licence and lawful basis.
        decoder: of bytes from sources.
        detector: None where images are aligned crops already.
        crop: picture and five points -> aligned crop, None where the points say nothing; without a detector it is
            handed None and returns None where the picture has not the crop's shape.
        encoder: of crops.
        tables: of listings.
        grouped: of what is read again in parts.
        review_page: name, review queue with pictures and path of its table -> a page to look at.
    """

    sources: Mapping[str, Source]
    licences: Mapping[str, Mapping[str, str]]
    decoder: Decoder
    detector: Detector | None
    crop: Callable[[UInt8, npt.ArrayLike | None], UInt8 | None]
    encoder: Encoder
    tables: PlainTables
    grouped: GroupedTables
    review_page: Callable[[str, Sequence[Item], str], bytes] = lambda _name, _items, _table: b""

    def source(self, name: str) -> Source:
        """Return a source that inputs were listed of.

        Raises:
            PlanMismatchError: the recipe names it no more.
        """
        if name not in self.sources:
            raise PlanMismatchError(
                f"source {name}: inputs of it are still to be read, and the recipe names {', '.join(self.sources)}; "
                f"name it as before, or, where it has moved, give its new path `name: {name}`"
            )
        return self.sources[name]


def curation(parts: Parts) -> Curation:
    """Return what the recipe says of curating."""
    found = curation_of(parts.recipe)
    assert found is not None
    return found


def words(found: Mapping[str, str]) -> dict[str, str]:
    """Return text by name in the order of names, as tables hold it."""
    return dict(sorted(found.items()))
