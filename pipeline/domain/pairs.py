"""Verification lists: which two images show one person, which show two, and in which fold they are asked about.

Folds share no identity. The two people of a non-mated pair are of one cell, so that perceived attributes alone do not
tell them apart. Every fold has as many mated as non-mated pairs, every cell within a fold too, and over all folds cells
have equal numbers as far as their images allow. Two images of one origin (an image and its twin) are never a pair, and
no two origins are paired twice.

Legend: G identities of one cell in one fold, P pairs of them, F folds, C cells.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.rng import KEY_LIMIT, Key, Stream
from pipeline.domain.twins import parent_of

Int64 = npt.NDArray[np.int64]
_DEALING = KEY_LIMIT - 1
"""In place of a fold's number: the draw that deals a cell's identities to the folds."""
_MATED, _NON_MATED, _TRIPLETS = range(3)


class Pair(NamedTuple):
    """Two places in the index, and whether they show one person."""

    fold: int
    cell: str
    mated: bool
    a: int
    b: int


class Triplet(NamedTuple):
    """Three places in the index: two images of one person, and one of somebody else of the same cell and fold."""

    fold: int
    cell: str
    anchor: int
    positive: int
    negative: int


@dataclass(frozen=True, slots=True)
class Lists:
    """What was drawn, fold by fold: in each the mated pairs come first."""

    folds: int
    per_fold: int
    """Mated pairs in each fold, and as many non-mated."""
    pairs: tuple[Pair, ...]
    triplets: tuple[Triplet, ...]

    def mated_by_cell(self) -> dict[str, int]:
        """Return how many mated pairs each cell has; it has as many non-mated ones."""
        return dict(sorted(Counter(p.cell for p in self.pairs if p.mated).items()))


class _Person(NamedTuple):
    """An identity's images, as places in the index, grouped by what they were made of."""

    origins: tuple[tuple[int, ...], ...]


_Group = Sequence[_Person]
"""The people of one cell in one fold."""


def draw_lists(index: Sequence[IndexRow], *, folds: int, per_fold: int, run_seed: int) -> Lists:
    """Return verification lists over the images of an index.

    Args:
        index: the images; what is drawn does not depend on their order, though places in it do.
        folds: how many, 2 or more; they share no identity.
        per_fold: mated pairs wanted in each fold, and as many non-mated ones; fewer are drawn where images run out,
            in every fold the same number.
        run_seed: of the dataset's recipe.

    Raises:
        UserError: there are too few people of one cell for so many folds, or nobody in a fold has two images.
    """
    groups = _dealt(_people(index), folds, run_seed)
    room = {at: min(_mated_room(group), _non_mated_room(group)) for at, group in groups.items()}
    in_fold = Counter[int]()
    for (fold, _), most in room.items():
        in_fold[fold] += most
    each = min(per_fold, *in_fold.values())
    if not each:
        raise UserError(
            f"no mated pair can be drawn in one of {folds} folds: nobody there has two images; set fewer folds, or "
            "export a version with more images of each identity"
        )
    counts = _shared_out(room, folds, each)
    pairs: list[Pair] = []
    triplets: list[Triplet] = []
    cells = {cell: n for n, cell in enumerate(sorted({row.cell for row in index}))}
    for fold in range(folds):
        here = sorted(at for at in groups if at[0] == fold)
        other: list[Pair] = []
        for at in here:
            key, cell, group = (run_seed, fold, cells[at[1]]), at[1], groups[at]
            mated = [Pair(fold, cell, True, a, b) for a, b in _mated(group, counts[at], _rng(*key, _MATED))]
            pairs += mated
            other += [Pair(fold, cell, False, *p) for p in _non_mated(group, counts[at], _rng(*key, _NON_MATED))]
            triplets += _triplets(group, mated, _rng(*key, _TRIPLETS))
        pairs += other
    return Lists(folds, each, tuple(pairs), tuple(triplets))


def _rng(run_seed: int, fold: int, cell: int, what: int) -> np.random.Generator:
    return Key(run_seed, Stream.PAIRS, fold, cell, what).generator()


def _people(index: Sequence[IndexRow]) -> dict[str, list[_Person]]:
    """Return cell -> its people, in the order of their numbers, each with origins in the order of their keys."""
    found: dict[tuple[str, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place in sorted(range(len(index)), key=lambda n: index[n].key):
        row = index[place]
        found[row.cell, row.identity][parent_of(row.key) or row.key].append(place)
    people: dict[str, list[_Person]] = defaultdict(list)
    for (cell, _), origins in sorted(found.items()):
        people[cell].append(_Person(tuple(tuple(places) for _, places in sorted(origins.items()))))
    return people


def _dealt(people: Mapping[str, Sequence[_Person]], folds: int, run_seed: int) -> dict[tuple[int, str], _Group]:
    """Return (fold, cell) -> people, two or more in each; a cell with fewer than two of them is left out.

    Cells are dealt out one after the other, each going on at the fold where the one before stopped, so that folds get
    equal shares of them, give or take one.
    """
    groups: dict[tuple[int, str], _Group] = {}
    start = 0
    for number, (cell, who) in enumerate(sorted(people.items())):
        parts = min(folds, len(who) // 2)
        if not parts:
            continue
        order = _rng(run_seed, _DEALING, number, 0).permutation(len(who))
        for n, chunk in enumerate(np.array_split(order, parts)):
            groups[(start + n) % folds, cell] = [who[i] for i in sorted(chunk.tolist())]
        start += parts
    if start < folds:
        several = sum(len(who) for who in people.values())
        raise UserError(
            f"{several:,} identities in {len(people):,} cells make {start} groups of two of one cell, and each of "
            f"{folds} folds needs one, as folds share nobody: "
            + (f"set folds={start} or fewer" if start >= 2 else "export a version with more identities")
        )
    return groups


def _pairs_of(count: int) -> int:
    return count * (count - 1) // 2


def _mated_room(group: _Group) -> int:
    return sum(_pairs_of(len(person.origins)) for person in group)


def _non_mated_room(group: _Group) -> int:
    sizes = [len(person.origins) for person in group]
    return (sum(sizes) ** 2 - sum(s * s for s in sizes)) // 2


def _shared_out(room: Mapping[tuple[int, str], int], folds: int, each: int) -> dict[tuple[int, str], int]:
    """Return how many mated pairs each cell has in each fold: `each` per fold, and cells as even as room allows."""
    cells = sorted({cell for _, cell in room})
    room_FC = np.array([[room.get((fold, cell), 0) for cell in cells] for fold in range(folds)], np.int64)
    counts_FC = np.zeros_like(room_FC)
    for fold in range(folds):
        # even within the fold, and what is left over to the cells that have least so far
        totals_C = counts_FC.sum(axis=0)
        queue = [(0, int(totals_C[c]), c) for c in range(len(cells)) if room_FC[fold, c]]
        heapq.heapify(queue)
        for _ in range(each):
            had, total, c = heapq.heappop(queue)
            counts_FC[fold, c] = had + 1
            if had + 1 < room_FC[fold, c]:
                heapq.heappush(queue, (had + 1, total, c))
    while _evened(counts_FC, room_FC):
        pass
    return {(fold, cell): int(counts_FC[fold, cells.index(cell)]) for fold, cell in room}


def _evened(counts_FC: Int64, room_FC: Int64) -> bool:
    """Shift pairs, within their folds, from a cell that has many to one that has fewer; return whether any could be.

    A way may lead over other cells, each giving on what it gets: so the end is as even as can be, for a flow that no
    such way improves has the least sum of squares (R. Ahuja, T. Magnanti, J. Orlin, *Network Flows*, 1993, ch. 9).
    """
    totals_C = counts_FC.sum(axis=0)
    for high in np.argsort(-totals_C, kind="stable").tolist():
        before = _reached(high, counts_FC, room_FC)
        low = min(before, key=lambda cell: (int(totals_C[cell]), cell))
        if totals_C[high] - totals_C[low] < 2:
            continue
        way = [low]
        while way[0] != high:
            way.insert(0, before[way[0]])
        steps = []
        most = int(totals_C[high] - totals_C[low]) // 2
        for one, other in pairwise(way):
            free_F = np.minimum(counts_FC[:, one], room_FC[:, other] - counts_FC[:, other])
            fold = int(np.argmax(free_F))
            steps.append((fold, one, other))
            most = min(most, int(free_F[fold]))
        for fold, one, other in steps:
            counts_FC[fold, one] -= most
            counts_FC[fold, other] += most
        return True
    return False


def _reached(start: int, counts_FC: Int64, room_FC: Int64) -> dict[int, int]:
    """Return every cell to which pairs of a cell can be shifted, the shortest way first -> the cell before it."""
    gives_CC = ((counts_FC > 0).astype(np.int64).T @ (counts_FC < room_FC).astype(np.int64)) > 0
    before = {start: start}
    queue = deque([start])
    while queue:
        one = queue.popleft()
        for other in np.flatnonzero(gives_CC[one]).tolist():
            if other not in before:
                before[other] = one
                queue.append(other)
    return before


def spread(total: int, room_N: Int64, rng: np.random.Generator) -> Int64:
    """Return how many of `total` each place gets: as even as its room allows, what is left over at random.

    Args:
        total: at most the sum of the room.
        room_N: int64, shape (N,), what each place can hold.
        rng: draws who gets one more.
    """
    given_N = np.zeros_like(room_N)
    left = total
    while left:
        open_M = np.flatnonzero(given_N < room_N)
        share = left // len(open_M)
        if share:
            added_M = np.minimum(share, (room_N - given_N)[open_M])
            given_N[open_M] += added_M
            left -= int(added_M.sum())
        else:
            given_N[rng.permutation(open_M)[:left]] += 1
            left = 0
    return given_N


def _mated(group: _Group, count: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield so many pairs of images of one person each, spread evenly over the people."""
    room_G = np.array([_pairs_of(len(person.origins)) for person in group], np.int64)
    for person, most, wanted in zip(group, room_G.tolist(), spread(count, room_G, rng).tolist(), strict=True):
        for rank in sorted(rng.choice(most, wanted, replace=False).tolist()) if wanted else ():
            first, second = _unranked(rank)
            yield _one(person.origins[first], rng), _one(person.origins[second], rng)


def _non_mated(group: _Group, count: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield so many pairs of images of two people each, spread evenly over the pairs of people."""
    several = _pairs_of(len(group))
    if count <= several:
        ranks = sorted(rng.choice(several, count, replace=False).tolist()) if count else []
        wanted = [1] * len(ranks)
    else:
        ranks = list(range(several))
        sizes = [len(person.origins) for person in group]
        room_P = np.array([sizes[a] * sizes[b] for a, b in map(_unranked, ranks)], np.int64)
        wanted = spread(count, room_P, rng).tolist()
    for rank, times in zip(ranks, wanted, strict=True):
        one, two = (group[n] for n in _unranked(rank))
        width = len(two.origins)
        for spot in rng.choice(len(one.origins) * width, times, replace=False).tolist() if times else ():
            yield _one(one.origins[spot // width], rng), _one(two.origins[spot % width], rng)


def _triplets(group: _Group, mated: Sequence[Pair], rng: np.random.Generator) -> Iterator[Triplet]:
    """Yield a triplet for each mated pair: anybody else of the group, and any image of him."""
    owner = {place: n for n, person in enumerate(group) for places in person.origins for place in places}
    for pair in mated:
        drawn = int(rng.integers(len(group) - 1))
        person = group[drawn + (drawn >= owner[pair.a])]
        negative = _one(person.origins[int(rng.integers(len(person.origins)))], rng)
        yield Triplet(pair.fold, pair.cell, pair.a, pair.b, negative)


def _one(places: Sequence[int], rng: np.random.Generator) -> int:
    return places[0] if len(places) == 1 else places[int(rng.integers(len(places)))]


def _unranked(rank: int) -> tuple[int, int]:
    """Return the rank-th of the pairs (0, 1), (0, 2), (1, 2), (0, 3), ...: all a < b, by b and then a."""
    b = (1 + isqrt(8 * rank + 1)) // 2
    return rank - _pairs_of(b), b
