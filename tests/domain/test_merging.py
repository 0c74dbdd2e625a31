"""Merging without datasets: keys, uses, and pictures that come twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.hashes import hamming
from pipeline.domain.merging import first_copies, rekeyed, strictest_use
from pipeline.domain.records import identity_of, minted_key
from pipeline.domain.twins import parent_of, twin_key

WORDS = st.integers(0, 2**64 - 1)


@given(st.integers(0, 10**8), st.integers(0, 9999), st.integers(0, 99), st.integers(0, 10**9))
def test_a_new_key_has_the_new_ordinal_and_everything_else_as_it_was(
    ordinal: int, slot: int, attempt: int, offset: int
) -> None:
    """Slot, attempt and twin stay, so the key is that of the same image of another number."""
    key = minted_key(ordinal, slot, attempt)
    assert rekeyed(key, offset) == minted_key(ordinal + offset, slot, attempt)
    twin = rekeyed(twin_key(key, 3), offset)
    assert parent_of(twin) == rekeyed(key, offset)
    assert identity_of(twin) == ordinal + offset


@given(
    st.lists(WORDS, max_size=30),
    st.lists(WORDS, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=9)), max_size=20),
    st.integers(0, 8),
)
def test_copies_are_found_exactly_as_by_comparing_all(
    new: list[int], before: list[int], planted: list[tuple[int, set[int]]], bits: int
) -> None:
    """Bands never miss a pair that differs in few bits, and never name one that differs in more, nor a later one."""
    new = [*new, *(before[at % len(before)] ^ sum(1 << b for b in flips) for at, flips in planted if before)]
    mine, theirs = np.array(new, np.uint64), np.array(before, np.uint64)
    near = hamming(mine[:, None], theirs[None, :]) <= bits
    expected = [int(np.argmax(row)) if row.any() else -1 for row in near]
    assert first_copies(mine, theirs, bits).tolist() == expected


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        ([(True, "a"), (True, "b")], (True, "a; b")),
        ([(True, "a"), (False, "a")], (False, "a")),
        ([(False, "x" * 400), (True, "y" * 400)], (False, f"{'x' * 400}; {'y' * 98}")),
    ],
)
def test_the_strictest_use_wins(uses: list[tuple[bool, str]], expected: tuple[bool, str]) -> None:
    """Commercial only where every source is; the purposes are named once each, within what a recipe holds."""
    told = strictest_use([{"commercial": c, "purpose": p} for c, p in uses])
    assert (told["commercial"], told["purpose"]) == expected


def test_a_licence_holds_where_all_state_it() -> None:
    """One licence of all is that of the whole; two are none, and stand with their sources."""
    one, other = ({"commercial": True, "purpose": "a", "licence": name} for name in ("CC-BY-4.0", "MIT"))
    assert strictest_use([one, one])["licence"] == "CC-BY-4.0"
    assert "licence" not in strictest_use([one, other])
