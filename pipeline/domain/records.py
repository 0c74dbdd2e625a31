"""Frozen values that travel between the parts: cells, identities, samples, verdicts.

Legend for array names: N rows, D conditioning dimensions, E judge dimensions, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import BadVectorError

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Measures = Mapping[str, float]
"""Named numbers about one image. A categorical estimate is one number per value, named `field=value`, summing to 1."""
Conditions = Mapping[str, float]
"""What is asked of one image, by name and unit: `yaw_deg`, `light_azimuth_deg`, `smile`."""

UNIT_TOLERANCE = 1e-3
"""How far the length of a float32 unit vector may lie from 1 before it counts as a mistake."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One combination of perceived attribute values, in the order of the recipe's `balance.by`."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        """Return the name used in files: values joined by `/`, or `all` where nothing is balanced."""
        return "/".join(self.values) or "all"

    @classmethod
    def parse(cls, name: str) -> Cell:
        """Return the cell whose name this is."""
        return cls(()) if name == "all" else cls(tuple(name.split("/")))


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """An enrolled identity.

    Attributes:
        ordinal: its number at enrolment: stable for the life of a dataset, never a label.
        candidate: the number of the candidate that it was.
        cell: perceived attributes pooled over its probe images.
        rank: its place in the order in which its cell's identities are used; the first `quota` are worked on,
            the others are the reserve.
        vector_D: float32, the point in the generator's space.
        template_E: float32 unit vector, mean of the probes' embeddings in the judge's space.
        template_images: how many embeddings the template pools.
        quality: mean own-template similarity of the probes, a cosine in [-1, 1].
    """

    ordinal: int
    candidate: int
    cell: Cell
    rank: int
    vector_D: Float32
    template_E: Float32
    template_images: int
    quality: float


@dataclass(frozen=True, slots=True)
class Member:
    """What an enrolled identity is counted by, without its vectors; the fields are those of `Identity`."""

    ordinal: int
    candidate: int
    cell: Cell
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One candidate image as the filters see it: numbers only."""

    key: str
    identity: int
    slot: int
    attempt: int
    conditions: Conditions
    measures: Measures
    embedding_E: Float32


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one filter says of one sample. Every filter speaks on every sample."""

    filter: str
    passed: bool
    reason: str
    """A stable identifier such as `own_template_too_far`; empty when passed. A verdict that passed and has a reason
    is that of a filter which observes: it would have refused."""
    value: float
    threshold: float


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One candidate image with everything that was learnt of it: a row of a segment's parquet."""

    sample: Sample
    order: int
    """The place in which the unit made it, from 0."""
    verdicts: tuple[Verdict, ...]
    accepted: bool
    off_target: bool
    """Accepted although its conditions were missed, because every attempt of its slot missed them."""
    jpeg: bytes | None = field(repr=False, default=None)
    """The stored bytes; None where the candidate was refused."""
    sourced: Mapping[str, str] = field(default_factory=dict)
    """What came with the picture from its source, as it was given: caption, date, licence; minted ones have none."""
    whole: bytes | None = field(repr=False, default=None)
    """The stored bytes of the picture that the crop was cut from; None where none is kept, and of a twin."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why it was refused, one reason per filter that refused it; empty where accepted."""
        return () if self.accepted else tuple(v.reason for v in self.verdicts if not v.passed)


@dataclass(frozen=True, slots=True)
class Whole:
    """Where a unit's tar holds the picture that a stored crop was cut from: `length` bytes from `offset`, and which."""

    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Audited:
    """What the audit found about a make unit's accepted images, in the order of its rows.

    Attributes:
        keys: N keys.
        offset_N: int64, where each image's bytes begin in the unit's tar.
        length_N: int64, how many bytes each has.
        auditor_NE: float32 unit rows, the auditor's embeddings; shape (0, 0) where N is 0.
    """

    keys: tuple[str, ...]
    offset_N: npt.NDArray[np.int64] = field(repr=False)
    length_N: npt.NDArray[np.int64] = field(repr=False)
    auditor_NE: Float32 = field(repr=False)


def minted_key(identity: int, slot: int, attempt: int) -> str:
    """Return the key of a minted image: no dots, because WebDataset splits names at the first dot."""
    return f"i{identity:08d}-s{slot:04d}-a{attempt:02d}"


def identity_of(key: str) -> int:
    """Return the ordinal in a minted image's key."""
    return int(key.split("-", maxsplit=1)[0].removeprefix("i"))


def slot_of(key: str) -> int:
    """Return the slot of a minted image's key."""
    return int(key.split("-")[1].removeprefix("s"))


def require_unit_rows(emb_NE: Float32, what: str) -> Float32:
    """Return `emb_NE` as C-contiguous float32 after checking that each row is finite and of unit length.

    Raises:
        BadVectorError: a row is NaN, infinite or not of unit length; NaN would slip through either side of a
            threshold, so it is refused before any comparison.
    """
    rows = np.ascontiguousarray(emb_NE, dtype=np.float32)
    if rows.ndim != 2:
        raise BadVectorError(f"{what}: shape {rows.shape} where (N, E) is expected")
    bad = np.flatnonzero(~unit_length(rows))
    if bad.size:
        row = int(bad[0])
        length = np.linalg.norm(rows[row].astype(np.float64))
        raise BadVectorError(
            f"{what}: row {row} has length {length:.6g} ({bad.size} of {len(rows)} rows); "
            "embeddings are finite float32 vectors of unit length"
        )
    return rows


def unit_length(emb_NE: Float32) -> npt.NDArray[np.bool_]:
    """Return which rows are finite and of unit length."""
    lengths = np.sqrt(np.einsum("ne,ne->n", emb_NE, emb_NE, dtype=np.float64))
    return np.asarray(np.abs(lengths - 1.0) <= UNIT_TOLERANCE)


def unit_rows(raw_NE: npt.NDArray[np.floating], what: str) -> Float32:
    """Return rows scaled to unit length as float32; NaN, infinite or zero rows are refused."""
    raw = np.asarray(raw_NE, dtype=np.float64)
    lengths = np.sqrt(np.einsum("ne,ne->n", raw, raw))
    bad = np.flatnonzero(~_has_length(lengths))
    if bad.size:
        raise BadVectorError(
            f"{what}: row {int(bad[0])} has length {lengths[bad[0]]:.6g} ({bad.size} of {len(raw)} rows) "
            "and cannot be scaled to unit length"
        )
    scaled: Float32 = (raw / lengths[:, None]).astype(np.float32)
    return scaled


def each_row(raw_NE: npt.NDArray[np.floating], what: str, *, unit: bool) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Return rows as float32, of unit length where asked for, and which of them are sound: finite, with a length.

    A row that is not sound is all zeros, and fails alone.
    """
    raw = np.asarray(raw_NE, dtype=np.float64)
    sound = _has_length(np.sqrt(np.einsum("ne,ne->n", raw, raw)))
    rows = np.zeros(raw.shape, np.float32)
    if sound.any():
        rows[sound] = unit_rows(raw[sound], what) if unit else raw[sound]
    return rows, sound


def _has_length(lengths_N: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(lengths_N) & (lengths_N > 1e-12))


def template_of(emb_KE: Float32) -> Float32:
    """Return the template of K embeddings: the unit-length mean, summed in float64 in row order. Shape (E,)."""
    total = np.cumsum(np.asarray(emb_KE, dtype=np.float64), axis=0)[-1]
    template: Float32 = unit_rows(total[None, :], "template")[0]
    return template
