"""What every export copies: the published images, in a drawn order, fetched in windows of bounded size.

A shuffled order asks for images that lie scattered over all segments. The ranges of a window are asked of the store
together: it knows whether they are read one after another, joined, or many at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.domain.ports import Store
from pipeline.domain.rng import Key, Stream

WINDOW_bytes = 1 << 24
"""Images held at once."""
_BY_LABEL = attrgetter("label", "key")


def by_label(index: Iterable[IndexRow]) -> list[IndexRow]:
    """Return the rows grouped by label, each label's by key."""
    return sorted(index, key=_BY_LABEL)


def shuffled(index: Iterable[IndexRow], seed: int) -> Iterator[IndexRow]:
    """Yield the rows in one order drawn over all of them, so that neighbours are of different identities.

    The order depends on the run's seed and on which rows there are, not on the order in which they come.
    """
    ordered = by_label(index)
    for place in Key(seed, Stream.EXPORT_ORDER).generator().permutation(len(ordered)).tolist():
        yield ordered[place]


def with_images(source: Store, rows: Iterable[IndexRow]) -> Iterator[tuple[IndexRow, bytes]]:
    """Yield every row with its JPEG bytes, in the order given.

    Raises:
        StoreError: an image is not where its row says.
    """
    for window in _windows(rows):
        yield from zip(window, _fetched(source, window), strict=True)


def _windows(rows: Iterable[IndexRow]) -> Iterator[list[IndexRow]]:
    window: list[IndexRow] = []
    size = 0
    for row in rows:
        window.append(row)
        size += row.length
        if size >= WINDOW_bytes:
            yield window
            window, size = [], 0
    if window:
        yield window


def _fetched(source: Store, window: Sequence[IndexRow]) -> Sequence[bytes]:
    """Return the images of a window."""
    paths = {segment: segment_path(segment, "tar") for segment in {row.segment for row in window}}
    try:
        found = source.get_ranges([(paths[row.segment], row.offset, row.length) for row in window])
    except FileNotFoundError as error:
        row = next((r for r in window if paths[r.segment] == error.filename), window[0])
        raise _wrong(row, "is absent") from None
    for row, image in zip(window, found, strict=True):
        if image[:2] != b"\xff\xd8" or image[-2:] != b"\xff\xd9":
            raise _wrong(row, "does not begin and end as a JPEG")
    return found


def _wrong(row: IndexRow, problem: str) -> StoreError:
    return StoreError(
        f"{segment_path(row.segment, 'tar')}: {row.key} at byte {row.offset} {problem}; the segment is not as it was "
        "published: restore it from a copy"
    )
