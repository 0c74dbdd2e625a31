"""What every export copies: the published images, in a drawn order, fetched in windows of bounded size.

A shuffled order asks for images that lie scattered over all segments. A window of them is fetched at once, each
segment's in the order in which they lie and near ones together, while the window before it is being written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.domain.ports import Store
from pipeline.domain.rng import Key, Stream

WINDOW_bytes = 1 << 27
"""Images held at once, twice: the window that is written and the one that is fetched."""
NEAR_bytes = 1 << 16
"""Gaps up to this long are fetched along with what lies around them: a request costs more than they do."""
RANGE_bytes = 1 << 22
"""No request is made longer than this by joining."""
READERS = 4
"""Threads that fetch: a store across a network answers several as quickly as one."""
_BY_LABEL = attrgetter("label", "key")

_Fetched = dict[str, bytes]


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
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="export")
    begun: deque[tuple[list[IndexRow], list[Future[_Fetched]]]] = deque()
    try:
        for window in _windows(rows):
            begun.append((window, _begin(pool, source, window)))
            if len(begun) > 1:
                yield from _ended(*begun.popleft())
        while begun:
            yield from _ended(*begun.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


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


def _begin(pool: ThreadPoolExecutor, source: Store, window: Sequence[IndexRow]) -> list[Future[_Fetched]]:
    by_segment: dict[str, list[IndexRow]] = {}
    for row in window:
        by_segment.setdefault(row.segment, []).append(row)
    return [pool.submit(_fetch, source, segment, rows) for segment, rows in sorted(by_segment.items())]


def _ended(window: Sequence[IndexRow], parts: Sequence[Future[_Fetched]]) -> Iterator[tuple[IndexRow, bytes]]:
    fetched: _Fetched = {}
    for part in parts:
        fetched.update(part.result())
    for row in window:
        yield row, fetched.pop(row.key)


def _fetch(source: Store, segment: str, rows: list[IndexRow]) -> _Fetched:
    """Return the images of one segment by key."""
    rows.sort(key=attrgetter("offset"))
    found: _Fetched = {}
    path = segment_path(segment, "tar")
    for together in _joined(rows):
        start = together[0].offset
        try:
            data = source.get_range(path, start, max(r.offset + r.length for r in together) - start)
        except FileNotFoundError:
            raise _wrong(path, together[0], "is absent") from None
        for row in together:
            image = data[row.offset - start : row.offset - start + row.length]
            if image[:2] != b"\xff\xd8" or image[-2:] != b"\xff\xd9":
                raise _wrong(path, row, "does not begin and end as a JPEG")
            found[row.key] = image
    return found


def _joined(rows: Sequence[IndexRow]) -> Iterator[list[IndexRow]]:
    """Yield runs of rows that lie near each other."""
    run: list[IndexRow] = []
    start = end = 0
    for row in rows:
        if run and (row.offset - end > NEAR_bytes or row.offset + row.length - start > RANGE_bytes):
            yield run
            run = []
        if not run:
            start = end = row.offset
        run.append(row)
        end = max(end, row.offset + row.length)
    if run:
        yield run


def _wrong(path: str, row: IndexRow, problem: str) -> StoreError:
    return StoreError(
        f"{path}: {row.key} at byte {row.offset} {problem}; the segment is not as it was published: "
        "restore it from a copy"
    )
