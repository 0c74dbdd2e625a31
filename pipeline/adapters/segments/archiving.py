"""Candidates on their way to a segment: images into the tar, everything else into row groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.adapters.segments.candidates import Gathering, side_car
from pipeline.adapters.segments.tables import ROW_GROUP
from pipeline.adapters.segments.tars import KEY, TarWriter
from pipeline.domain.records import Candidate

_Made = TypeVar("_Made")


def archived(
    archive: TarWriter, rows: Iterable[Candidate], gathering: Callable[[int | None], Gathering[_Made]]
) -> Iterator[_Made]:
    """Yield the candidates as row groups, each candidate after its image, if accepted, was added to the tar.

    Args:
        archive: takes images and side-cars.
        rows: the candidates.
        gathering: begins a row group, given the length of embeddings where it is known.

    Raises:
        ValueError: a key is malformed or comes twice, or an accepted candidate lacks its image.
    """
    seen: set[str] = set()
    group = gathering(None)
    for candidate in rows:
        key = candidate.sample.key
        if key in seen or not KEY.fullmatch(key):
            raise ValueError(
                f"key {key!r} is malformed or comes twice; it is 1 to 90 letters, digits, `_` and `-`, once"
            )
        seen.add(key)
        conditions, measures = group.add(candidate)
        if candidate.accepted:
            if not candidate.jpeg:
                raise ValueError(f"key {key!r} is accepted without an image; an accepted candidate carries its bytes")
            archive.add(f"{key}.jpg", candidate.jpeg)
            archive.add(f"{key}.json", side_car(candidate, conditions, measures))
        if group.rows == ROW_GROUP:
            full, group = group, gathering(group.size)
            yield full.columns()
            del full
    if group.rows:
        yield group.columns()
