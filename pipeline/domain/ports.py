"""The promises that adapters, filters and executors keep. Read this file first.

Legend: N rows, D conditioning dimensions, E judge dimensions, H W C image axes. Images are uint8 RGB; embeddings
are float32 rows of unit length. A network sees batches of exactly its declared `batch` rows: the flow pads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.domain.calibration import Calibration
from pipeline.domain.manifest import FileEntry, IndexRow, Receipt
from pipeline.domain.records import (
    Audited,
    Candidate,
    Cell,
    Conditions,
    Float32,
    Identity,
    Measures,
    Member,
    Sample,
    UInt8,
    Verdict,
)
from pipeline.domain.space import Space
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

    def draw(self, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one float32 vector of shape (D,), drawn towards `cell` where the bank knows it."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Makes images of identities. Never draws noise itself."""

    space: Space
    card: ModelCard
    noise_shape: tuple[int, int, int]
    condition_names: tuple[str, ...]
    """Conditions that it obeys; others are refused when the recipe is checked."""
    image_px: int

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC; row i depends on row i of each argument."""
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

    def judge(self, sample: Sample) -> Verdict:
        """Return this filter's verdict on a sample."""
        ...


class Codec(Protocol):
    """Turns pixels into stored bytes and back."""

    def encode(self, face_HWC: UInt8) -> bytes:
        """Return the bytes that are stored."""
        ...

    def decode(self, data: bytes) -> UInt8:
        """Return the pixels of stored bytes; raises ValueError on anything not decodable in full."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Stored:
    """One file of a store, as a listing tells of it."""

    path: str
    bytes: int
    modified_s: float
    """Seconds since the epoch at which it was last written, by the store's clock."""


class Store(Protocol):
    """Named bytes below one root. Paths are relative, with `/`."""

    uri: str

    @property
    def exclusive(self) -> bool:
        """Return whether of several writers that create one path exactly one wins.

        False where the place ignores conditional writes: then only the lease keeps two drivers apart.
        """
        ...

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return True, or False where it exists already (whatever it holds)."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path` as a whole: readers see the old or the new bytes, never a mixture."""
        ...

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file, in bounded memory."""
        ...

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        ...

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; FileNotFoundError where absent, StoreError where there are fewer."""
        ...

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        ...

    def get_many(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return path -> bytes of many small files, fetched together; absent ones are left out."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted."""
        ...

    def entries(self, prefix: str) -> Sequence[Stored]:
        """Return what `list` does, with sizes and times, in one listing."""
        ...

    def leftovers(self, before_s: float) -> Sequence[str]:
        """Return names of what killed writers left before that time: temporary files, unfinished uploads."""
        ...

    def remove_leftovers(self, before_s: float) -> int:
        """Remove them; return how many."""
        ...

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        ...


class SegmentWriter(Protocol):
    """Writes segments with repeatable bytes, and reads them."""

    def write_images(self, store: Store, unit: str, rows: Iterable[Candidate]) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.tar` (accepted) and `.parquet` (every candidate, in the order given)."""
        ...

    def write_probes(self, store: Store, unit: str, rows: Sequence[Mapping[str, Any]]) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.parquet` with one row per probed candidate identity."""
        ...

    def read_columns(self, store: Store, unit: str, columns: Sequence[str]) -> Mapping[str, Any]:
        """Return a segment's columns: numbers as numpy arrays (N,), vectors as float32 (N, E), the rest as lists."""
        ...

    def write_audit(self, store: Store, unit: str, found: Audited) -> FileEntry:
        """Write `audits/<unit>.parquet`: where a make unit's images lie, and the auditor's embeddings of them."""
        ...

    def read_audit(self, store: Store, unit: str) -> Audited:
        """Return what `write_audit` wrote about a make unit."""
        ...

    def read_rows(self, store: Store, unit: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return a segment's parquet rows; vectors come as float32 arrays."""
        ...

    def locate(self, store: Store, unit: str) -> dict[str, tuple[int, int]]:
        """Return key -> (offset, length) of the image bytes within `segments/<unit>.tar`."""
        ...

    def write_identities(self, store: Store, path: str, rows: Sequence[Identity], space: Space) -> FileEntry:
        """Write enrolled identities in ordinal order."""
        ...

    def read_identities(self, store: Store, path: str) -> tuple[list[Identity], Space]:
        """Return enrolled identities in ordinal order, and the space of their vectors."""
        ...

    def read_members(self, store: Store, path: str) -> list[Member]:
        """Return enrolled identities in ordinal order without their vectors: little memory, little to fetch."""
        ...

    def write_index(self, store: Store, version: str, rows: Sequence[IndexRow]) -> FileEntry:
        """Write `versions/<version>/index-<digest>.parquet`, sorted by label and key."""
        ...

    def read_index(self, store: Store, path: str) -> list[IndexRow]:
        """Return an index's rows in their order."""
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


class Exporter(Protocol):
    """Writes a published version in a form that trainers read."""

    kind: str

    def export(
        self, source: Store, index: Sequence[IndexRow], target: Store, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the export with its own digest list; return its summary."""
        ...


class Clock(Protocol):
    """Tells time, for leases and receipts; the only source of time below the entry points."""

    def now_s(self) -> float:
        """Return seconds since the epoch."""
        ...


__all__ = [
    "Bank",
    "Clock",
    "Codec",
    "Executor",
    "Exporter",
    "Filter",
    "Generator",
    "IdentitySampler",
    "Measurer",
    "Measures",
    "ModelCard",
    "Observer",
    "Recogniser",
    "SegmentWriter",
    "Store",
    "Worker",
]
