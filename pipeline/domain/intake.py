"""Images that exist already, as values: what a source hands in, what decoding makes of it, why something is refused.

Every input ends as exactly one of three: decoded, refused with a reason, or unreadable with a reason. Nothing is
skipped in silence, so that what was put in can be counted against what came out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import Field, model_validator

from pipeline.domain.recipe import Node
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


class Fault(StrEnum):
    """Why an input's bytes could not be had. The words stand in rows and reports: append, never rename."""

    CHANGED = "changed_since_planned"
    GONE = "gone_since_planned"
    NOT_ALLOWED = "reading_not_allowed"
    NOT_A_FILE = "not_a_regular_file"
    LINK_LOOP = "symlink_loop"
    LINK_BROKEN = "symlink_broken"
    LINK_LEADS_OUT = "symlink_leads_out"
    READ_FAILED = "read_failed"
    TRUNCATED_ARCHIVE = "truncated_archive"
    BAD_ARCHIVE = "bad_archive"
    NO_IMAGE = "no_image_in_sample"
    DUPLICATE_KEY = "duplicate_key"
    BAD_RECORD = "bad_record"
    TOO_LARGE = "too_large_to_read"
    TOO_DEEP = "too_many_folders_deep"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why an input's bytes could not be had.

    Attributes:
        reason: the stable word.
        found: what was got, for a person.
    """

    reason: Fault
    found: str


@dataclass(frozen=True, slots=True)
class Input:
    """One thing that a source hands in: a row of the frozen listing, whether or not it turns out to be a face.

    Attributes:
        path: of the file, below the source's root. Names that are not UTF-8 carry surrogate escapes (PEP 383).
        member: which of several images in that file; empty where the file is one image.
        offset, length: where its bytes lie in the file, in bytes; a length of -1 where only the source knows.
        stamp: of the file when it was listed (size and time of change, or the store's own tag): another one means that
            the file has changed.
        label: whose face the source says it is; None where it says nothing.
        columns: what else comes with it, as text: caption, date, licence.
        fault: why it cannot be read, where that was clear when it was listed.
    """

    path: str
    member: str = ""
    offset: int = 0
    length: int = -1
    stamp: str = ""
    label: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    fault: Unreadable | None = None


LOCATING = re.compile(r"(^|[^a-z])(ur[il]|exif|gps|latitude|longitude|path|file|file_?name)([^a-z]|$)")
"""Names of columns that say where a picture lay or was taken: of real people they are published only if named."""


class SourceNode(Node):
    """Base of every source's options: where it lies, and on which ground its pictures of people are used."""

    path: Annotated[str, Field(min_length=1)]
    """A folder, or an address of one: `s3://bucket/prefix`."""
    name: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """What a dataset knows the source by, wherever it lies; left out, its path."""
    licence: Annotated[str, Field(max_length=500)] = ""
    """Under which its images may be used: a name, or the address of its text."""
    lawful_basis: Annotated[str, Field(max_length=500)] = ""
    """On which ground these people's faces are processed, e.g. `consent` or `legitimate interest, assessment 12`."""
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Which of the columns that come with its images (caption, date, licence) pass through; left out: all of them but
    those that say where an image lay or what its camera wrote (`LOCATING`), which are published where they are named.
    """

    @model_validator(mode="after")
    def _may_be_used(self) -> SourceNode:
        lacking = [k for k in ("licence", "lawful_basis") if len(getattr(self, k).strip()) < 2]
        if lacking:
            raise ValueError(
                f"source {self.path!r} has no {' and no '.join(lacking)}; state under which licence and on which "
                "lawful basis these faces are used, or leave the source out"
            )
        return self

    def passed(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the columns that pass through."""
        if self.columns is None:
            return {k: v for k, v in columns.items() if not LOCATING.search(k.lower())}
        return {k: v for k, v in columns.items() if k in self.columns}


class Source(Protocol):
    """Images that exist already: folders, archives, tables. Listing and reading never stop at what is damaged."""

    name: str
    """What it is, for the record: a path or an address."""

    def listing(self) -> Iterator[Input]:
        """Yield every input in an order that follows from names alone; what cannot be read is an input with a fault."""
        ...

    def read(self, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield the bytes of each input, in order, or why they cannot be had; raises for none of them.

        `inputs` are some of `listing`, as it was when planning froze it.
        """
        ...


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


MADE_BY_MODELS = frozenset(
    f"iptc:{term.lower()}"
    for term in (
        "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia", "compositeSynthetic",
    )
)  # fmt: skip
"""IPTC's digital source types of pictures that a model, or another program, made wholly or in part."""


def says_ai_made(marks: Iterable[str]) -> bool:
    """Return whether a picture's marks state that a model made it, wholly or in part; a credential alone does not.

    Source: IPTC NewsCodes, "Digital Source Type"; an enhancement (`algorithmicallyEnhanced`) is none of these.
    """
    return any(mark.lower() in MADE_BY_MODELS for mark in marks)
