"""Hashes as pairs of numbers: nothing is lost on the way, and distance is the number of bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.hashes import halves, hamming, joined, perceptual_hash

HASH = st.integers(0, 2**64 - 1)


@given(st.lists(HASH, max_size=8))
def test_halves_hold_a_hash_exactly(values: list[int]) -> None:
    """Taken apart into two floats and joined, a hash is what it was."""
    hashes = np.array(values, np.uint64)
    assert joined(*halves(hashes)).tolist() == values


@given(HASH, HASH)
def test_distance_is_the_number_of_differing_bits(one: int, other: int) -> None:
    """It is that of the binary digits, the same both ways."""
    a, b = np.array([one], np.uint64), np.array([other], np.uint64)
    assert hamming(a, b).tolist() == hamming(b, a).tolist() == [(one ^ other).bit_count()]


def test_many_are_compared_with_many() -> None:
    """Shapes broadcast to a table of distances."""
    a, b = np.array([0, 2**64 - 1], np.uint64), np.array([0, 1, 3], np.uint64)
    assert hamming(a[:, None], b).tolist() == [[0, 1, 2], [64, 63, 62]]


@pytest.mark.parametrize("half", [-1.0, 0.5, 2.0**32, math.nan, math.inf])
def test_what_is_no_half_is_refused(half: float) -> None:
    """A negative, broken, too large or missing number is no half of a hash."""
    with pytest.raises(ValueError, match="half of a hash"):
        joined([half], [0.0])


def test_hashes_take_pictures_only() -> None:
    """Anything else than RGB pictures is an error that says what was got."""
    with pytest.raises(ValueError, match=r"\(2, 8, 8\)"):
        perceptual_hash(np.zeros((2, 8, 8), np.uint8))
