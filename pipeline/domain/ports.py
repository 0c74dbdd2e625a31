"""The promises that adapters, filters and executors keep. Read this file first.

Legend: N rows, D conditioning dimensions, E judge dimensions, H W C image axes. Images are uint8 RGB; embeddings
are float32 rows of unit length. A network sees batches of exactly its declared `batch` rows: the flow pads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.domain.calibration import Calibration
from pipeline.domain.manifest import Receipt
from pipeline.domain.records import (
    Cell,
    Conditions,
    Float32,
    Measures,
    Sample,
    UInt8,
    Verdict,
)
from pipeline.domain.space import Space
from pipeline.domain.storage import Exporter, ImageFacts, SegmentWriter, Store, Stored
from pipeline.domain.unit import Unit


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model says of itself. `epoch` is raised by hand when behaviour changes under equal weights."""

    name: str
    sha256: str
    licence: str
    source: str
    commercial_use: bool
    row_independent: bool
    epoch: int


@runtime_checkable
class Bank(Protocol):
    """What is known of a population of identities: fitted Gaussians, never its members."""

    space: Space
    card: ModelCard

    @property
    def gaussians(self) -> Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Return cell name (or `all`) -> mean (D,) and lower Cholesky factor (D, D) of its identities' means."""
        ...


@runtime_checkable
class IdentitySampler(Protocol):
    """Proposes identity vectors."""

    space: Space
    card: ModelCard
    candidates: int | None
    """How many it can propose, numbered from 0; None where there is no end."""

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one float32 vector of shape (D,) for a candidate, drawn towards `cell` where that is known how.

        The vector follows from the arguments alone: the same on every worker, whatever was drawn before.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Makes images of identities. Never draws noise itself."""

    space: Space
    card: ModelCard
    noise_shape: tuple[int, int, int]
    condition_names: tuple[str, ...]
    """Conditions that it obeys; others are refused when the recipe is checked.

    Those of them that no picture alone shows, if there are any, are named in an attribute `unseen_conditions` too.
    """
    condition_ranges: Mapping[str, tuple[float, float]]
    """Condition -> lowest and highest value that it can be asked for; one that is absent has no bounds."""
    image_px: int
    """Side of its pictures."""
    alignment: str | None
    """The named template in which its pictures show faces, as `arcface-112`; None where they are no crops, and the flow
    has to find and cut the face. It is not that of `space`, which says how the faces were cut that vectors are of."""

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC; row i depends on row i of each argument."""
        ...


@runtime_checkable
class Aligner(Protocol):
    """Cuts pictures to the alignment that the judge reads."""

    card: ModelCard
    alignment: str

    def align(self, pictures_NHWC: UInt8) -> tuple[UInt8, npt.NDArray[np.bool_]]:
        """Return crops_NHWC, and in which of N pictures a face was found; a crop without one is black.

        What becomes of a picture depends on nothing but the picture.
        """
        ...


@runtime_checkable
class Recogniser(Protocol):
    """Embeds aligned faces."""

    space: Space
    card: ModelCard
    calibration: Calibration

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return emb_NE, unit rows."""
        ...


@runtime_checkable
class Measurer(Protocol):
    """Adds named numbers to faces."""

    card: ModelCard
    names: tuple[str, ...]
    """Every measure it gives, always the same ones."""
    attributes: Mapping[str, tuple[str, ...]]
    """Categorical fields -> values; each value is a measure `field=value`, the values of a field sum to 1."""
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]]
    """field -> true value -> read value -> share, measured when the model was made; empty where unknown."""

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one float64 array of shape (N,) per name."""
        ...


@dataclass(frozen=True, slots=True)
class FilterContext:
    """What a filter's rates are turned into thresholds with.

    Attributes:
        calibration: the judge's.
        template_images: how many images the templates pool that samples are compared with.
        enrolled: identities enrolled, for 1:N thresholds.
        gallery_limits: measure -> value at which an image counts as a leak; empty where nothing is screened.
        planned: whether nobody is enrolled yet, and as many are asked for: a rate that the calibration does not
            support among so many is refused. Whoever is enrolled already is judged by the most that it does support.
    """

    calibration: Calibration
    template_images: int
    enrolled: int
    gallery_limits: Mapping[str, float] = field(default_factory=dict)
    planned: bool = False


@runtime_checkable
class Filter(Protocol):
    """A frozen set of thresholds over numbers."""

    @property
    def name(self) -> str:
        """Return its name, unique within a recipe."""
        ...

    @property
    def judges_condition(self) -> bool:
        """Return True where it compares what was measured with what was asked: failing it alone deletes no person."""
        ...

    @property
    def judges_siblings(self) -> bool:
        """Return True where it reads numbers about the identity's other images, which follow from the order of making.

        Those numbers are `SIBLING_MEASURES` of `pipeline.flow.siblings`.
        """
        ...

    @property
    def judges_cell(self) -> bool:
        """Return True where it compares a sample with the cell of its identity, whose numbers it is then given."""
        ...

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return every reason that its verdicts can give."""
        ...

    def judge(self, sample: Sample) -> Verdict:
        """Return this filter's verdict on a sample."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFace:
    """One face image of a known identity, or a vector where only that is there.

    Attributes:
        label: whose it is, as its source says.
        name: where it comes from, unique in its source: a path, a key.
        face_HWC: uint8 RGB, aligned as recognisers expect it; None where the source holds embeddings.
        vector_D: float32 embedding; None where the source holds images.
    """

    label: str
    name: str
    face_HWC: UInt8 | None = None
    vector_D: Float32 | None = None


class LabelledFaces(Protocol):
    """Faces that are there already, with the identity of each: what calibrations, banks and galleries are made of."""

    name: str
    """What it is, for the record: a path or a dataset's name and digest."""
    space: Space | None
    """Where the vectors of a source of embeddings live; None where it holds images."""

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield every face in an order that never changes, identity by identity or mixed."""
        ...


class Twin(Protocol):
    """Makes a harder version of an accepted image: covered, dark, small. A pure function of pixels and draws."""

    epoch: ClassVar[int]
    """Raised by hand when its pixels change under equal options and draws."""

    def apply(self, face_HWC: UInt8, parent: Sample, rng: np.random.Generator) -> tuple[UInt8, Measures]:
        """Return pixels of the same square shape, and what was drawn or set, by name and unit: `px`, `angle_deg`."""
        ...


class Codec(Protocol):
    """Turns pixels into stored bytes and back."""

    def encode(self, face_HWC: UInt8) -> bytes:
        """Return the bytes that are stored."""
        ...

    def decode(self, data: bytes) -> UInt8:
        """Return the pixels of stored bytes; raises ValueError on anything not decodable in full."""
        ...


class Worker(Protocol):
    """Does units and leaves their receipts in the store."""

    def device_kind(self) -> str:
        """Return accelerator model or CPU instruction level with the library versions that decide bytes."""
        ...

    def work(self, unit: Unit) -> Receipt:
        """Do one unit, commit it, and return its receipt."""
        ...


class Executor(Protocol):
    """Decides where units run; never what they are."""

    @property
    def workers(self) -> int:
        """Return how many workers stand now."""
        ...

    def worker_seconds(self) -> float:
        """Return for how long workers have been held so far, in seconds summed over them, working or waiting."""
        ...

    def device_kinds(self) -> set[str]:
        """Return the device kinds of the workers, starting them if need be."""
        ...

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield the receipt of every unit, in any order.

        Raises:
            QuarantinedError: at the end, where units killed their worker repeatedly.
            InterruptedRunError: after what was in flight ended, where the run was asked to stop.
        """
        ...

    def close(self) -> None:
        """Release the workers."""
        ...


class Observer(Protocol):
    """Is told what happens, for progress views and logs; never influences a result."""

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of one event."""
        ...


class Clock(Protocol):
    """Tells time, for leases and receipts; the only source of time below the entry points."""

    def now_s(self) -> float:
        """Return seconds since the epoch."""
        ...


__all__ = [
    "Aligner",
    "Bank",
    "Clock",
    "Codec",
    "Executor",
    "Exporter",
    "Filter",
    "FilterContext",
    "Generator",
    "IdentitySampler",
    "ImageFacts",
    "LabelledFace",
    "LabelledFaces",
    "Measurer",
    "Measures",
    "ModelCard",
    "Observer",
    "Recogniser",
    "SegmentWriter",
    "Store",
    "Stored",
    "Twin",
    "Worker",
]
