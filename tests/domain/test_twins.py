"""Which images get a twin, and whose a twin is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.manifest import Counts, IndexRow
from pipeline.domain.records import minted_key
from pipeline.domain.twins import is_twin, number_of, parent_of, twin_key, twins_of, without_twins


@given(st.integers(0, 10**8 - 1), st.integers(0, 9999), st.integers(0, 99), st.integers(1, 32))
def test_a_twin_names_its_parent(identity: int, slot: int, attempt: int, number: int) -> None:
    """The key of a twin is its parent's with a number; a parent is nobody's twin."""
    parent = minted_key(identity, slot, attempt)
    twin = twin_key(parent, number)
    assert (parent_of(twin), parent_of(parent)) == (parent, None)
    assert number_of(twin) == number
    assert [is_twin(twin), is_twin(parent)] == [True, False]
    assert "." not in twin, "WebDataset splits names at the first dot"


def test_only_twins_are_left_out() -> None:
    """Minted and curated images stay; what was made of them goes."""
    keys = ["i00000001-s0000-a00", "i00000001-s0000-a00-t01", "r0000000123-f00", "i00000001-s0001-a02-t12"]
    rows = [IndexRow(0, key, 1, "all", "make-g0-000000", 0, 1) for key in keys]
    assert [r.key for r in without_twins(rows)] == [keys[0], keys[2]]


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("slots", [8, 16, 64])
def test_twins_are_spread_evenly_over_an_identity(share: float, slots: int) -> None:
    """Of n slots exactly the share gets a twin, and of the first half of them half as many, rounded."""
    for identity in range(20):
        given_to = [bool(twins_of(3, [share], identity, slot)) for slot in range(slots)]
        assert sum(given_to) == share * slots
        assert abs(sum(given_to[: slots // 2]) - share * slots / 2) <= 0.5


@given(st.integers(0, 2**31), st.lists(st.floats(0.01, 1), max_size=5), st.integers(0, 10**6), st.integers(0, 500))
def test_a_choice_follows_from_its_key_alone(seed: int, shares: list[float], identity: int, slot: int) -> None:
    """Equal arguments give equal twins, and a further twin in the recipe changes nobody else's."""
    chosen = twins_of(seed, shares, identity, slot)
    assert chosen == twins_of(seed, shares, identity, slot)
    assert chosen == tuple(n for n in twins_of(seed, [*shares, 0.5], identity, slot) if n <= len(shares))


def test_shares_are_met_over_identities_and_twins_do_not_always_meet() -> None:
    """A share too small for one identity is met over many, and two kinds fall on different images."""
    pairs = [twins_of(5, [0.1, 0.1], identity, slot) for identity in range(400) for slot in range(5)]
    for number in (1, 2):
        assert np.mean([number in p for p in pairs]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([len(p) == 2 for p in pairs]) == pytest.approx(0.01, abs=0.01)


def test_twins_are_no_candidates_in_counts() -> None:
    """They add up beside the candidates, and counts without any say nothing of them, as they always did."""
    plain = Counts.of([(True, False, ()), (False, False, ("too_blurred",))])
    some = replace(plain, twins=3)
    assert "twins" not in plain.to_dict()
    assert Counts(**some.to_dict()) == some
    total = Counts.total([plain, some, some])
    assert (total.twins, total.candidates, total.accepted, total.refused) == (6, 6, 3, 3)
