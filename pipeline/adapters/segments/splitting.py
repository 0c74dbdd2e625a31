"""Writing a segment of real people: what is published, and beside it what stays under `private/`, row for row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.adapters.segments.archiving import archived
from pipeline.adapters.segments.candidates import IMAGES, MapColumn, Numbers, RowGroup, VerdictColumn, numbers
from pipeline.adapters.segments.tables import Columns, Spec, growing, vector_sizes
from pipeline.adapters.segments.tars import TarWriter
from pipeline.domain.manifest import FileEntry, segment_path
from pipeline.domain.privacy import is_personal, is_personal_filter, private_path
from pipeline.domain.records import Candidate, Whole

EMBEDDING = "embedding"
PERSONAL = (EMBEDDING, "measures", "verdicts")
"""Columns of which the whole lies under `private/`."""
PUBLISHED: Spec = {**{name: kind for name, kind in IMAGES.items() if name != EMBEDDING}, "sourced": "words"}
PRIVATE: Spec = {name: kind for name, kind in IMAGES.items() if name in ("key", *PERSONAL)}
MARK = "facemint_private"
"""Metadata of the public file: which columns are whole only under `private/`, as JSON."""


@dataclass(frozen=True, slots=True)
class Split:
    """A row group in two parts."""

    published: Columns
    private: Columns


class SplitGroup:
    """Up to 4,096 candidates as columns in two parts: implements `Gathering`.

    Args:
        size: length of the embeddings; None to take the first one's.
        attributes: publish what measures and verdicts say of the people.
    """

    def __init__(self, size: int | None = None, *, attributes: bool) -> None:
        self._whole, self._attributes = RowGroup(size, sourced=True), attributes
        self._measures, self._verdicts, self._sourced = MapColumn(), VerdictColumn(), MapColumn("words")

    @property
    def rows(self) -> int:
        """Return how many candidates it has."""
        return self._whole.rows

    @property
    def size(self) -> int | None:
        """Return the length of the embeddings, once it is known."""
        return self._whole.size

    def add(self, candidate: Candidate, _whole: Whole | None = None, /) -> tuple[Numbers, Numbers]:
        """Add a row; return its conditions and the measures that are published."""
        sample = candidate.sample
        conditions, measures = self._whole.add(candidate)
        verdicts = candidate.verdicts
        if not self._attributes:
            measures = numbers({k: v for k, v in sample.measures.items() if not is_personal(k)}, sample.key)
            verdicts = tuple(v for v in verdicts if not is_personal_filter(v.filter))
        self._measures.add(measures)
        self._verdicts.add(verdicts, sample.key)
        self._sourced.add_words(candidate.sourced)
        return conditions, measures

    def columns(self) -> Split:
        """Return the columns of `PUBLISHED` and of `PRIVATE`."""
        whole = self._whole.columns()
        less = {"measures": self._measures.array(), "verdicts": self._verdicts.array()}
        published = {**whole, **less, "sourced": self._sourced.array()}
        return Split({name: published[name] for name in PUBLISHED}, {name: whole[name] for name in PRIVATE})


def write_split(
    here: Path, unit: str, archive: TarWriter, rows: Iterable[Candidate], attributes: bool, empty: int
) -> dict[Path, FileEntry]:
    """Write both tables of a segment to local files, and images to the tar; return local file -> entry.

    Args:
        here: an empty folder.
        unit: name of the unit.
        archive: takes images and side-cars.
        rows: the candidates, in their order.
        attributes: publish what measures and verdicts say of the people.
        empty: length of embeddings where no row shows it.
    """
    public, private = here / "rows.parquet", here / "private.parquet"
    apart = (EMBEDDING,) if attributes else PERSONAL
    groups = archived(archive, rows, lambda size: SplitGroup(size, attributes=attributes))
    group = next(groups, None)
    sizes = vector_sizes(PRIVATE, group.private if group else None, empty)
    marks = {"facemint_unit": unit}
    with (
        growing(public, PUBLISHED, {}, {**marks, MARK: json.dumps(apart)}) as told,
        growing(private, PRIVATE, sizes, marks) as kept,
    ):
        while group:
            told.add(group.published)
            kept.add(group.private)
            # let go of this group before the next one is made
            del group
            group = next(groups, None)
    path = segment_path(unit, "parquet")
    return {public: told.out.entry(path), private: kept.out.entry(private_path(path))}
