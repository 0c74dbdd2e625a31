"""What is true of merging datasets without any dataset: new keys, the strictest use, pictures that come twice.

Legend: N new pictures, M pictures before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.hashes import BITS, UInt64, hamming
from pipeline.domain.records import identity_of

Int64 = npt.NDArray[np.int64]

PURPOSE_chars = 500
"""What a recipe's `use.purpose` holds at most."""
_TOGETHER = 1 << 20
"""Pairs of hashes compared at once."""


def rekeyed(key: str, offset: int) -> str:
    """Return a minted image's key with `offset` added to its ordinal; slot, attempt and twin stay."""
    return f"i{identity_of(key) + offset:08d}-{key.partition('-')[2]}"


def strictest_use(uses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the use that every source allows: commercial only where all are, with every purpose named.

    Of what else a use states (a licence) only what all of them state alike holds for the whole.
    """
    purposes = "; ".join(dict.fromkeys(str(use["purpose"]) for use in uses))
    common = {k: v for k, v in uses[0].items() if all(use.get(k) == v for use in uses)}
    commercial = all(bool(use["commercial"]) for use in uses)
    return {**common, "commercial": commercial, "purpose": purposes[:PURPOSE_chars]}


def first_copies(new_N: UInt64, before_M: UInt64, bits: int) -> Int64:
    """Return for each new hash the first one before it that differs in `bits` bits or fewer; -1 where none does.

    Of bits + 1 bands of a hash at least one is equal in both, so only hashes that share a band are compared. Exact.
    """
    first_N = np.full(len(new_N), len(before_M), np.int64)
    edges = np.linspace(0, BITS, bits + 2).astype(np.int64)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mask = np.uint64((1 << (high - low)) - 1)
        band_N, band_M = (new_N >> np.uint64(low)) & mask, (before_M >> np.uint64(low)) & mask
        order = np.argsort(band_M, kind="stable")
        start = np.searchsorted(band_M[order], band_N, side="left")
        count = np.searchsorted(band_M[order], band_N, side="right") - start
        for rows in _chunks(count):
            pair_new = np.repeat(rows, count[rows])
            within = np.arange(len(pair_new)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
            pair_before = order[np.repeat(start[rows], count[rows]) + within]
            near = hamming(new_N[pair_new], before_M[pair_before]) <= bits
            np.minimum.at(first_N, pair_new[near], pair_before[near])
    return np.where(first_N < len(before_M), first_N, -1)


def _chunks(count_N: Int64) -> list[Int64]:
    """Return rows cut where their pairs become many; a row alone may have more."""
    rows = np.flatnonzero(count_N)
    if not rows.size:
        return []
    ends = np.cumsum(count_N[rows]) // _TOGETHER
    return np.split(rows, np.flatnonzero(np.diff(ends)) + 1)
