"""Splits: which identity belongs to which part (train, val, test), so that growth never moves anybody.

An identity is in one part with all its images. Without cells its part follows from (run seed, name of the split,
ordinal) and from nothing else. By cell, every cell is divided within less than one identity of what is asked, and stays
so when it grows, although whoever has a part keeps it: the j-th place of a part with share s is taken between identity
floor((j - 1) / s) + 1 and identity ceil(j / s) of its cell, the windows of S. Baruah et al., *Proportionate progress*,
Algorithmica 15 (1996). Where a cell leaves a choice, that part is taken which lacks most over all cells. Shares are
fractions: no rounding decides anything.

Legend: N identities, P parts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.rng import KEY_LIMIT, Key, Stream

Float64 = npt.NDArray[np.float64]

FOLDER = "splits/"
MOST_FOLDS = 1000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CHOSEN = 16
"""How many of the last identities of a cell are dealt out with an eye on the other cells; before, nothing is gained."""
_BLOCK = 4096
"""Ordinals whose draws come from one key: making a generator costs more than a thousand draws."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a split, and the share of the identities that it is to have."""

    name: str
    share: Fraction


def split_paths(name: str) -> tuple[str, str]:
    """Return where a split's table of identities lies, and the record beside it."""
    return f"{FOLDER}{name}.parquet", f"{FOLDER}{name}.json"


def require_name(name: str) -> str:
    """Return a split's name; raises UserError where it cannot be part of a path."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: 1 to 32 of a-z, 0-9, `_` and `-`, beginning with a letter or digit")
    return name


def parse_parts(text: str) -> tuple[Part, ...]:
    """Return the parts of `train=0.8,val=0.1,test=0.1`, in this order; a share may be written `1/3`.

    Raises:
        UserError: a part is malformed, comes twice, or the shares do not add up to 1.
    """
    parts = []
    for one in text.split(","):
        name, _, share = (piece.strip() for piece in one.partition("="))
        if not _NAME.fullmatch(name):
            raise UserError(f"--parts {text}: {one.strip()!r} is no part; write NAME=SHARE, as in train=0.8,test=0.2")
        parts.append(Part(name, _share(share, text)))
    names = [p.name for p in parts]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UserError(f"--parts {text}: part {twice[0]!r} comes twice; name each once")
    if (total := sum((p.share for p in parts), Fraction())) != 1:
        raise UserError(f"--parts {text}: the shares add up to {float(total):g}; they add up to 1, thirds as 1/3")
    return tuple(parts)


def folds(number: int) -> tuple[Part, ...]:
    """Return so many equal parts, `fold-0` and on; raises UserError for fewer than two."""
    if not 2 <= number <= MOST_FOLDS:
        raise UserError(f"--fold {number}: a split has 2 to {MOST_FOLDS} folds")
    return tuple(Part(f"fold-{n}", Fraction(1, number)) for n in range(number))


def draws(run_seed: int, name: str, ordinals: Sequence[int]) -> Float64:
    """Return one number in [0, 1) per identity, float64 (N,), which follows from seed, name and ordinal alone."""
    digest = sha256_hex(name.encode())
    slot, attempt = int(digest[:8], 16) % KEY_LIMIT, int(digest[8:16], 16) % KEY_LIMIT
    who = np.asarray(ordinals, np.int64)
    out_N = np.empty(len(who))
    if not len(who):
        return out_N
    order = np.argsort(who, kind="stable")
    blocks, begin = np.unique(who[order] // _BLOCK, return_index=True)
    for block, rows in zip(blocks.tolist(), np.split(order, begin[1:]), strict=True):
        drawn = Key(run_seed, Stream.SPLIT, block, slot, attempt).generator().random(_BLOCK)
        out_N[rows] = drawn[who[rows] % _BLOCK]
    return out_N


def assign(parts: Sequence[Part], draw_N: Float64) -> list[str]:
    """Return each identity's part from its draw alone; shares are met on the average."""
    ends = np.cumsum([float(p.share) for p in parts])[:-1]
    return [parts[n].name for n in np.searchsorted(ends, draw_N, side="right")]


def assign_by_cell(
    parts: Sequence[Part],
    draw_N: Float64,
    ordinals: Sequence[int],
    cells: Sequence[str],
    before: Mapping[int, str],
) -> list[str]:
    """Return each identity's part, so that each cell is divided as asked, give or take less than one identity.

    Args:
        parts: what is asked for.
        draw_N: of each identity.
        ordinals: N ordinals.
        cells: N cells.
        before: ordinal -> part of those who have one: they keep it.
    """
    by_cell: dict[str, list[int]] = defaultdict(list)
    for n, cell in enumerate(cells):
        by_cell[cell].append(n)
    out = [before.get(o, "") for o in ordinals]
    whole = _Turns(parts, Counter(part for part in out if part))
    for _, rows in sorted(by_cell.items()):
        turns = _Turns(parts, Counter(out[n] for n in rows if out[n]))
        # a tie of draws is next to impossible, and decided all the same
        todo = sorted((n for n in rows if not out[n]), key=lambda n: (draw_N[n], ordinals[n]))
        for left, n in zip(range(len(todo), 0, -1), todo, strict=True):
            p = turns.first_due() if left > _CHOSEN else turns.chosen(whole.behind())
            turns.take(p)
            whole.take(p)
            out[n] = parts[p].name
    return out


class _Turns:
    """Whose turn it is, over shares a_p / D in whole numbers.

    Attributes:
        have: identities that each part has.
    """

    def __init__(self, parts: Sequence[Part], have: Mapping[str, int]) -> None:
        self._whole = lcm(*(p.share.denominator for p in parts))
        self._share = [int(p.share * self._whole) for p in parts]
        self.have = [have.get(p.name, 0) for p in parts]
        self._count = sum(self.have)

    def take(self, p: int) -> None:
        """Count one more identity of part p."""
        self.have[p] += 1
        self._count += 1

    def behind(self) -> list[int]:
        """Return what each part would lack of its share, with one identity more, in D-ths of an identity."""
        return [(self._count + 1) * a - h * self._whole for a, h in zip(self._share, self.have, strict=True)]

    def first_due(self) -> int:
        """Return which part has to be served first: of those that may have the next identity."""
        return min(self._open(), key=lambda p: (self._due(p), p))

    def chosen(self, wanted: Sequence[int]) -> int:
        """Return which part is wanted most, of those after which every later place can still be taken in time."""
        fit = [p for p in self._open() if self._leaves_room(p)]
        return max(fit, key=lambda p: (wanted[p], -p)) if fit else self.first_due()

    def _open(self) -> list[int]:
        behind = self.behind()
        # nobody may only where identities have gone, and what is left is further from the shares than any cell was
        return [p for p, b in enumerate(behind) if b > 0] or [behind.index(max(behind))]

    def _due(self, p: int) -> int:
        return -(-(self.have[p] + 1) * self._whole // self._share[p])

    def _leaves_room(self, p: int) -> bool:
        """Return whether no later identity finds more places due than there are identities: Hall's condition.

        Beyond the time at which the part that is furthest ahead is level again, all is as if nobody were.
        """
        have, count = list(self.have), self._count + 1
        have[p] += 1
        ahead = [-(-h * self._whole // a) for h, a in zip(have, self._share, strict=True)]
        return all(
            sum(max(0, at * a // self._whole - h) for a, h in zip(self._share, have, strict=True)) <= at - count
            for at in range(count, max(ahead) + 2)
        )


def reached(parts: Sequence[Part], cells: Iterable[str], assigned: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return cell -> part -> identities that it has, for every cell and, of every cell, each part."""
    found = Counter(zip(cells, assigned, strict=True))
    return {cell: {p.name: found[cell, p.name] for p in parts} for cell in sorted({c for c, _ in found})}


def _share(text: str, whole: str) -> Fraction:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--parts {whole}: {text!r} is no share; write a number above 0, as 0.8 or 1/3") from None
    if not 0 < share <= 1 or share.denominator > 1_000_000:
        raise UserError(f"--parts {whole}: {text!r} is no share; write a number above 0 and up to 1, as 0.8 or 1/3")
    return share
