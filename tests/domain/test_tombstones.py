"""Tombstones and revisions: bare numbers that only grow, and names that only count up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.records import minted_key
from pipeline.domain.revisions import newest, parsed, revised, revised_path
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.twins import twin_key
from pipeline.flow.erase.gone import Gone, image_of

NUMBERS = st.integers(0, 40)
STONES = st.builds(
    lambda i, m, c: Tombstones(tuple(sorted(i)), tuple(sorted(m)), tuple(sorted(c))),
    st.sets(NUMBERS),
    st.sets(st.tuples(NUMBERS, NUMBERS, NUMBERS)),
    st.sets(NUMBERS),
)


@given(STONES, STONES)
def test_a_union_holds_both_and_a_difference_what_is_new(one: Tombstones, other: Tombstones) -> None:
    """Whatever is erased later adds to what was erased before, and can be told from it."""
    both = one | other
    assert both - one == other - one
    assert (one | one, both - both) == (one, Tombstones())
    assert max(len(one), len(other)) <= len(both) <= len(one) + len(other)


@given(STONES)
def test_what_a_manifest_says_is_read_back(stones: Tombstones) -> None:
    """The list in a manifest is what was meant, whatever its order."""
    said = stones.to_list()
    assert Tombstones.from_list(said) == Tombstones.from_list(said[::-1]) == stones
    assert len(said) == len(stones)


@given(st.integers(0, 99_999_999), st.integers(0, 9999), st.integers(0, 99), st.integers(1, 99))
def test_a_twin_goes_with_its_image(identity: int, slot: int, attempt: int, twin: int) -> None:
    """A twin's key leads to the image that it was made of, and so to whom it is of."""
    key = minted_key(identity, slot, attempt)
    assert image_of(key) == image_of(twin_key(key, twin)) == (identity, slot, attempt)
    by_image = Gone(frozenset(), frozenset({(identity, slot, attempt)}), frozenset())
    by_identity = Gone(frozenset({identity}), frozenset(), frozenset())
    assert all(gone.takes(k) for gone in (by_image, by_identity) for k in (key, twin_key(key, twin)))
    assert not by_image.takes(minted_key(identity, slot, (attempt + 1) % 100))


@pytest.mark.parametrize("key", ["", "me.jpg", "i1-s0-a0", "i00000001-s0001", "r0000000123-f00", "i1-s0001-a00"])
def test_what_is_no_key_is_no_image(key: str) -> None:
    """A name that only looks like a key is refused, and not taken for somebody."""
    with pytest.raises(ValueError, match="no key of a minted image"):
        image_of(key)


@given(st.lists(st.tuples(st.sampled_from(["make-g0-000001", "enrol-g1-000000"]), st.integers(0, 30)), min_size=1))
def test_the_newest_revision_is_the_one_with_the_highest_number(found: list[tuple[str, int]]) -> None:
    """Numbers count, not letters: r10 comes after r9."""
    names = [base if number == 0 else f"{base}.r{number}" for base, number in found]
    for base, name in newest(names).items():
        assert parsed(name) == (base, max(n for b, n in found if b == base))


def test_revisions_count_up() -> None:
    """The first revision is r1, of names and of paths."""
    assert revised("make-g0-000001") == "make-g0-000001.r1"
    assert revised("make-g0-000001.r9") == "make-g0-000001.r10"
    assert revised_path("enrolled/g0.parquet") == "enrolled/g0.r1.parquet"
    assert revised_path("segments/make-g0-000001.r1.tar") == "segments/make-g0-000001.r2.tar"
