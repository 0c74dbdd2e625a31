"""The promises of what keeps bytes: stores, segments, exports. `pipeline.domain.ports` names them with the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.previews import Preview
from pipeline.domain.recipe import ExportNode
from pipeline.domain.records import Audited, Candidate, Conditions, Float32, Identity, Measures, Member, Whole
from pipeline.domain.sidecar import SideCar
from pipeline.domain.space import Space


@dataclass(frozen=True, slots=True, order=True)
class Stored:
    """One file of a store, as a listing tells of it."""

    path: str
    bytes: int
    modified_s: float
    """Seconds since the epoch at which it was last written, by the store's clock."""


Range = tuple[str, int, int]
"""Bytes of a file: its path, their offset, their number."""


class Sink(Protocol):
    """A file that is being written from its beginning to its end."""

    def write(self, data: bytes, /) -> object:
        """Append all of `data`; the caller may change its buffer afterwards."""
        ...


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

    def writing(self, path: str, *, about_bytes: int = 0) -> AbstractContextManager[Sink]:
        """Create or replace `path` by what is written within the block, in bounded memory, without a local copy.

        It stands when the block is left without an error; otherwise what stood there before still does.
        `about_bytes` is roughly how much will come; where it is far too low, a store may refuse very large files.
        """
        ...

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        ...

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; FileNotFoundError where absent, StoreError where there are fewer."""
        ...

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Return what `get_range` does for each range, in the order asked: together, as this store does it fastest.

        All of it is held at once: how much that is lies with the caller.
        """
        ...

    def blocks(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes from the first to the last, in bounded memory; a block is valid until the next is asked for.

        Raises:
            FileNotFoundError: absent.
        """
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

    def write_images(
        self, store: Store, unit: str, rows: Iterable[Candidate], *, wholes: bool = False
    ) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.tar` (accepted) and `.parquet` (every candidate, in the order given).

        With `wholes` every accepted candidate but a twin brings the picture that it was cut from; else none does.
        """
        ...

    def write_probes(self, store: Store, unit: str, rows: Sequence[Mapping[str, Any]]) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.parquet` with one row per probed candidate identity."""
        ...

    def read_columns(self, store: Store, unit: str, columns: Sequence[str]) -> Mapping[str, Any]:
        """Return a segment's columns: numbers as numpy arrays (N,), vectors as float32 (N, E), the rest as lists."""
        ...

    def read_wholes(self, store: Store, unit: str) -> dict[str, Whole] | None:
        """Return key -> whole picture of a make unit's images; None where the unit keeps none."""
        ...

    def read_published(self, store: Store, unit: str, columns: Sequence[str]) -> Mapping[str, Any]:
        """Return what `read_columns` does, of what is published: of real people nothing private, so no embeddings."""
        ...

    def write_audit(self, store: Store, unit: str, found: Audited) -> FileEntry:
        """Write `audits/<unit>.parquet`: where a make unit's images lie, and the auditor's embeddings of them."""
        ...

    def read_audit(self, store: Store, unit: str) -> Audited:
        """Return what `write_audit` wrote about a make unit."""
        ...

    def read_places(self, store: Store, unit: str) -> dict[str, tuple[int, int]]:
        """Return key -> (offset, length) of a make unit's images as its audit found them."""
        ...

    def write_side_car(self, store: Store, path: str, car: SideCar) -> FileEntry:
        """Write what was added about a unit's images, its segment unchanged."""
        ...

    def read_side_car(self, store: Store, path: str, unit: str) -> SideCar:
        """Return what `write_side_car` wrote about a unit."""
        ...

    def write_previews(self, store: Store, unit: str, rows: Sequence[Preview]) -> FileEntry:
        """Write `previews/<unit>.parquet`: refused images that a make unit keeps for people to look at."""
        ...

    def read_previews(self, store: Store, unit: str) -> list[Preview]:
        """Return what `write_previews` wrote about a make unit; raises FileNotFoundError where it keeps none."""
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


class ImageFacts(Protocol):
    """What a dataset knows of its images beside its index."""

    def numbers(self, segment: str) -> Mapping[str, tuple[Conditions, Measures]]:
        """Return key -> conditions and measures of every image of a segment; what was added later is among them."""
        ...

    def wholes(self, segment: str) -> Mapping[str, Whole]:
        """Return key -> whole picture of the images of a segment that have theirs stored beside them."""
        ...

    def sourced(self, segment: str) -> Mapping[str, Mapping[str, str]]:
        """Return key -> what came with every image of a segment of photographs: licence, caption, date."""
        ...

    def embeddings(self, segment: str, recogniser: str) -> Mapping[str, Float32]:
        """Return key -> embedding (E,) of every image of a segment: the judge's, or of a recogniser that was added.

        Raises:
            UserError: no recogniser of that name was added to the dataset.
        """
        ...


class Exporter(Protocol):
    """Writes a published version in a form that trainers read."""

    kind: str

    @property
    def options(self) -> ExportNode:
        """Return its options; those that all exports share say which images it is to be handed."""
        ...

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export with its own digest list; return its summary.

        Args:
            source: the dataset.
            index: the images to export, chosen already; labels are dense.
            target: holds this export and nothing else.
            about: name, version, digest (of the dataset) and seed (of the run); if wanted `balance` (what cells are
                made of), `chosen` (options by which the images were chosen), `labels` (each label's in the version) and
                `whole_pictures` (how many images of the dataset have theirs stored).
            facts: what else is known of the images; some kinds cannot do without.
        """
        ...
