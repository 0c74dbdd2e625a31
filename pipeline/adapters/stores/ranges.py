"""Which of many ranges are read together: a request, or a call of the system, costs more than a small gap does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.adapters.stores.paths import checked_range
from pipeline.domain.storage import Range

REMOTE_NEAR_bytes = 1 << 16
"""Across a network a gap up to this long is fetched sooner than a request is made."""
REMOTE_RANGE_bytes = 1 << 23
REMOTE_BATCH = 512
"""Requests handed to a library at once; how many of them it makes at a time is its own affair."""
Run = tuple[int, int, list[int]]
"""First byte, the byte behind the last, and which of the ranges lie in between."""


def by_path(ranges: Sequence[Range]) -> Iterator[tuple[str, list[int]]]:
    """Yield every path with the places of its ranges, those in the order of their offsets.

    Raises:
        ValueError: a range is negative.
    """
    places: dict[str, list[int]] = {}
    for place, (path, offset, length) in enumerate(ranges):
        if offset < 0 or length < 0:
            checked_range(offset, length)
        places.setdefault(path, []).append(place)
    for path, found in places.items():
        yield path, sorted(found, key=lambda place: ranges[place][1])


def joined(ranges: Sequence[Range], places: Sequence[int], *, near_bytes: int, most_bytes: int) -> Iterator[Run]:
    """Yield runs of one file's ranges, given in the order of their offsets.

    Args:
        ranges: what is wanted.
        places: which of them.
        near_bytes: gaps up to this long are read too.
        most_bytes: no run is made longer than this by joining.
    """
    together: list[int] = []
    start = end = 0
    for place in places:
        _, offset, length = ranges[place]
        if together and (offset - end > near_bytes or offset + length - start > most_bytes):
            yield start, end, together
            together = []
        if not together:
            start = end = offset
        together.append(place)
        if offset + length > end:
            end = offset + length
    if together:
        yield start, end, together


def fetched(
    ranges: Sequence[Range], cat: Callable[[Sequence[Range]], Sequence[Any]], alone: Callable[[str, int, int], bytes]
) -> Sequence[bytes]:
    """Return every range, in the order asked, in few requests.

    Args:
        ranges: what is wanted.
        cat: fetches many ranges at a time; gives bytes, or anything else where it could not.
        alone: fetches one, with patience and with the error that is to be raised; asked where `cat` did not give all.
    """
    found = [b""] * len(ranges)
    runs = [
        (path, *run)
        for path, places in by_path(ranges)
        for run in joined(ranges, places, near_bytes=REMOTE_NEAR_bytes, most_bytes=REMOTE_RANGE_bytes)
    ]
    for first in range(0, len(runs), REMOTE_BATCH):
        batch = runs[first : first + REMOTE_BATCH]
        answers = cat([(path, start, end - start) for path, start, end, _ in batch])
        for (path, start, end, together), data in zip(batch, answers, strict=True):
            whole = isinstance(data, bytes) and end > start and len(data) == end - start
            for place in together:
                _, offset, length = ranges[place]
                found[place] = data[offset - start :][:length] if whole else alone(path, offset, length)
    return found
