"""Which pictures of a version are shown: bounded choices that follow from keys and numbers alone."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.domain.manifest import IndexRow
from pipeline.flow.judge import OWN

RANDOM = 48
"""Pictures of the random gallery: as many of each cell."""
MOST_bytes = 1_200_000
"""Of one gallery: four of them, in base64, leave room in a page of 8 MB."""
WORST_OWN = 24
WORST_OTHER = 24
"""Of all other measures of quality together; each is kept so often, as nobody knows beforehand how many there are."""
T = TypeVar("T")
_QUALITIES = ("quality", "sharpness")


def shuffled(key: str) -> bytes:
    """Return what keys are ordered by where chance is wanted: it follows from the key, whoever asks."""
    return hashlib.sha256(f"gallery {key}".encode()).digest()


def random_keys(rows: Iterable[IndexRow], most: int = RANDOM) -> tuple[str, ...]:
    """Return evenly chosen keys: of each cell those whose digest is smallest, the cells taking turns up to `most`.

    They come turn by turn, so that the first of them, however few, are an even choice too.
    """
    smallest: dict[str, list[tuple[bytes, str]]] = defaultdict(list)
    held: dict[str, list[tuple[bytes, str]]] = defaultdict(list)
    for row in rows:
        mine = held[row.cell]
        mine.append((shuffled(row.key), row.key))
        if len(mine) >= 4 * most:
            held[row.cell] = heapq.nsmallest(most, mine)
    for cell, mine in held.items():
        smallest[cell] = heapq.nsmallest(most, mine)
    # where there are more cells than pictures, which of them are shown is chance too
    turns = sorted(
        (turn, shuffled(cell), cell, key) for cell, mine in smallest.items() for turn, (_, key) in enumerate(mine)
    )
    return tuple(key for _, _, _, key in turns[:most])


def within_bytes(pictures: Iterable[T], size: Callable[[T], int]) -> list[T]:
    """Return the first pictures that fit into a gallery together, one in any case.

    Args:
        pictures: in the order in which they are to be had; choose in turns, so that what does not fit is of all kinds.
        size: bytes of one.
    """
    kept: list[T] = []
    total = 0
    for picture in pictures:
        total += size(picture)
        if kept and total > MOST_bytes:
            break
        kept.append(picture)
    return kept


@dataclass(slots=True)
class Lowest:
    """Keeps, per measure of quality, the images that have the least of it: equal numbers in the order of keys."""

    kept: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Return whether a measure says how good an image is."""
        return name == OWN or any(word in name for word in _QUALITIES)

    def most(self, name: str) -> int:
        """Return how many images of a measure are kept."""
        return WORST_OWN if name == OWN else WORST_OTHER

    def offer(
        self, name: str, values_N: npt.NDArray[np.float64], at_N: npt.NDArray[np.int64], keys: Sequence[str]
    ) -> None:
        """Take note of numbers, those of the rows `at_N`."""
        most = self.most(name)
        if not len(values_N):
            return
        # all that are not above the last one kept: among equals the key decides
        edge = np.partition(values_N, min(most, len(values_N)) - 1)[min(most, len(values_N)) - 1]
        near = np.flatnonzero(values_N <= edge)
        mine = [(float(values_N[n]), keys[at_N[n]]) for n in near]
        self.kept[name] = heapq.nsmallest(most, [*self.kept.get(name, ()), *mine])

    def shown(self) -> list[tuple[str, list[tuple[float, str]]]]:
        """Return measures with what is shown of each, own-template similarity first, the others sharing their room."""
        others = sorted(name for name in self.kept if name != OWN)[:WORST_OTHER]
        each = {name: WORST_OTHER // len(others) for name in others} | {OWN: WORST_OWN}
        names = [*([OWN] if OWN in self.kept else []), *others]
        return [(name, self.kept[name][: each[name]]) for name in names]

    def keys(self) -> set[str]:
        """Return the keys that are kept."""
        return {key for mine in self.kept.values() for _, key in mine}
