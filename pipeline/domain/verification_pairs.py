"""Pairs to verify, drawn from pictures of known people: ten folds that share nobody, as many genuine as impostor pairs.

Each fold holds its genuine pairs first, as the field's sets do. Every second impostor pair shows two people of one
cell, where cells are known: pairs across cells are easy, and say nothing of how well people within one are told apart.

Legend: N pictures, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.rng import Key, Stream
from pipeline.domain.verification import FOLDS, Bool

Int64 = npt.NDArray[np.int64]
LEAST_PEOPLE = 2 * FOLDS
"""Two people a fold, or there is no impostor pair in it."""
PAIRS_PART = 16
"""Last part of the key of these draws; training counts its own from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class PairList:
    """Pairs of pictures by their rows, in the order of the folds.

    Attributes:
        first_P: int64 rows.
        second_P: int64 rows.
        same_P: bool, whether both show one person.
    """

    first_P: Int64
    second_P: Int64
    same_P: Bool

    def __len__(self) -> int:
        return len(self.same_P)


def adjacent_pairs(same_P: Bool) -> PairList:
    """Return the pairs of a verification set, whose pictures 2p and 2p + 1 are pair p."""
    first = 2 * np.arange(len(same_P), dtype=np.int64)
    return PairList(first, first + 1, np.asarray(same_P, bool))


def draw_pairs(labels_N: Int64, cells: Mapping[int, str], pairs: int, seed: int, what: str) -> PairList:
    """Return at most `pairs` pairs: as many of each kind in each fold as the poorest fold allows.

    Args:
        labels_N: int64, who is on each picture.
        cells: person -> cell; empty where unknown.
        pairs: how many in all.
        seed: of the draws.
        what: the source, for messages.

    Raises:
        UserError: fewer than 20 people with two or more pictures, or fewer than 20 pairs asked for.
    """
    rows_of = {int(p): np.flatnonzero(labels_N == p).tolist() for p in np.unique(labels_N)}
    people = [p for p, rows in rows_of.items() if len(rows) > 1]
    if len(people) < LEAST_PEOPLE or pairs < 2 * FOLDS:
        raise UserError(
            f"{what}: {len(people)} people with two or more pictures, and {pairs} pairs asked for; ten folds that "
            f"share nobody need {LEAST_PEOPLE} of each"
        )
    wanted = pairs // (2 * FOLDS)
    drawn = []
    for fold, members in enumerate(_divided(people, cells, seed)):
        rng = Key(seed, Stream.EVALUATION, fold + 1, 0, PAIRS_PART).generator()
        genuine = _taken(_genuine(members, rows_of, rng), wanted)
        drawn.append((genuine, _taken(_impostors(members, rows_of, cells, rng), wanted)))
    each = min(len(kind) for fold in drawn for kind in fold)
    listed = [pair for genuine, impostor in drawn for pair in (*genuine[:each], *impostor[:each])]
    first, second = np.array(listed, np.int64).T
    same = np.tile(np.repeat([True, False], each), FOLDS)
    return PairList(np.ascontiguousarray(first), np.ascontiguousarray(second), same)


def _divided(people: Sequence[int], cells: Mapping[int, str], seed: int) -> list[list[int]]:
    """Return the people of each fold: shuffled, then dealt out cell by cell, so that folds have cells alike."""
    rng = Key(seed, Stream.EVALUATION, 0, 0, PAIRS_PART).generator()
    shuffled = [people[i] for i in rng.permutation(len(people))]
    dealt = sorted(shuffled, key=lambda person: cells.get(person, ""))
    return [dealt[fold::FOLDS] for fold in range(FOLDS)]


def _genuine(
    members: Sequence[int], rows_of: Mapping[int, list[int]], rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Yield pairs of one person, person by person in turn, until everybody's are used up."""
    mine = []
    for person in members:
        pairs = list(combinations(rows_of[person], 2))
        mine.append([pairs[i] for i in rng.permutation(len(pairs))])
    for turn in range(max(len(pairs) for pairs in mine)):
        yield from (pairs[turn] for pairs in mine if turn < len(pairs))


def _impostors(
    members: Sequence[int], rows_of: Mapping[int, list[int]], cells: Mapping[int, str], rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Yield pairs of two people, each once; every second one within a cell, where it holds somebody else."""
    seen: set[tuple[int, int]] = set()
    possible = sum(len(rows_of[a]) * len(rows_of[b]) for a, b in combinations(members, 2))
    for attempt in range(20 * possible):
        person = members[attempt % len(members)]
        others = [p for p in members if p != person]
        alike = [p for p in others if cells.get(p, "") == cells.get(person, "")]
        among = alike if alike and (attempt // len(members)) % 2 == 0 else others
        other = among[int(rng.integers(len(among)))]
        pair = (_any(rows_of[person], rng), _any(rows_of[other], rng))
        key = (min(pair), max(pair))
        if key not in seen:
            seen.add(key)
            yield pair


def _any(rows: Sequence[int], rng: np.random.Generator) -> int:
    return rows[int(rng.integers(len(rows)))]


def _taken(pairs: Iterator[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    return [pair for pair, _ in zip(pairs, range(count), strict=False)]
