"""Hard-condition twins: which accepted images get one, and how their keys say whose they are.

A twin is made of an accepted image's stored pixels and carries its key with `-t01` behind it: the first twin of the
recipe. It is an image of the same identity, slot and attempt, with the parent's place in the order of making, and
counts towards nothing: no quota, template, sibling number or figure rests on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from pipeline.domain.conditions import sobol
from pipeline.domain.manifest import IndexRow
from pipeline.domain.rng import KEY_LIMIT, Key, Stream

PREFIX = "twin:"
"""Before a twin's own numbers in the conditions of its row: `twin:blur` is its number, `twin:blur:px` what was set."""
_KEY = re.compile(r"(.+)-t\d{2}")
_NO_SLOT = KEY_LIMIT - 1
Row = TypeVar("Row", bound=IndexRow)


def twin_key(parent: str, number: int) -> str:
    """Return the key of a parent's twin; `number` is its place among the recipe's twins, from 1."""
    return f"{parent}-t{number:02d}"


def parent_of(key: str) -> str | None:
    """Return the key of the image that this one is a twin of; None where it is no twin."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


def number_of(key: str) -> int:
    """Return which of the recipe's twins a twin is, from 1."""
    return int(key[-2:])


def is_twin(key: str) -> bool:
    """Return whether an image was made of another one."""
    return parent_of(key) is not None


def without_twins(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of an index that are no twins: what quotas, templates and figures rest on."""
    return [row for row in rows if not is_twin(row.key)]


def twins_of(run_seed: int, shares: Sequence[float], identity: int, slot: int) -> tuple[int, ...]:
    """Return the numbers of the twins that the image of a slot gets, rising.

    Of an identity's first 2**m slots, twin n falls on its share of them, give or take one, and on which follows from
    its key; the twins of a recipe are placed independently, so an image may get two. More slots change no earlier one.
    """
    out = []
    for number, share in enumerate(shares, start=1):
        # no slot of any identity has this number, so the key is nobody's pixels
        shift = Key(run_seed, Stream.TWIN, identity, _NO_SLOT, number).generator().integers(0, KEY_LIMIT)
        if (sobol(0, slot) ^ int(shift)) + 0.5 < share * KEY_LIMIT:
            out.append(number)
    return tuple(out)
