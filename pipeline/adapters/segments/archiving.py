"""Candidates on their way to a segment: images into the tar, everything else into row groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.adapters.segments.candidates import Gathering, side_car
from pipeline.adapters.segments.tables import ROW_GROUP
from pipeline.adapters.segments.tars import KEY, TarWriter
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.records import Candidate, Whole
from pipeline.domain.twins import is_twin

_Made = TypeVar("_Made")


def archived(
    archive: TarWriter,
    rows: Iterable[Candidate],
    gathering: Callable[[int | None], Gathering[_Made]],
    *,
    wholes: bool = False,
) -> Iterator[_Made]:
    """Yield the candidates as row groups, each candidate after its image, if accepted, was added to the tar.

    An image is `<key>.jpg`, its whole picture, if any, `<key>.whole.jpg`, its side-car `<key>.json`, in this order:
    WebDataset takes the first dot for the end of the key.

    Args:
        archive: takes images and side-cars.
        rows: the candidates.
        gathering: begins a row group, given the length of embeddings where it is known.
        wholes: the picture that it was cut from comes with every accepted candidate but twins; else with none.

    Raises:
        ValueError: a key is malformed or comes twice, or an accepted candidate lacks its image or its whole picture, or
            has one that nobody asked for.
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
        whole = _pictures(archive, candidate, wholes=wholes) if candidate.accepted else None
        conditions, measures = group.add(candidate, whole)
        if candidate.accepted:
            archive.add(f"{key}.json", side_car(candidate, conditions, measures))
        if group.rows == ROW_GROUP:
            full, group = group, gathering(group.size)
            yield full.columns()
            del full
    if group.rows:
        yield group.columns()


def _pictures(archive: TarWriter, candidate: Candidate, *, wholes: bool) -> Whole | None:
    """Add an accepted candidate's image to the tar, and its whole picture; return where that lies."""
    key, whole = candidate.sample.key, candidate.whole
    if not candidate.jpeg:
        raise ValueError(f"key {key!r} is accepted without an image; an accepted candidate carries its bytes")
    if bool(whole) != (wholes and not is_twin(key)):
        there = "comes with" if whole else "lacks"
        raise ValueError(f"key {key!r} {there} a whole picture; a unit keeps one of every image but twins, or of none")
    archive.add(f"{key}.jpg", candidate.jpeg)
    if not whole:
        return None
    return Whole(archive.add(f"{key}.whole.jpg", whole), len(whole), sha256_hex(whole))
