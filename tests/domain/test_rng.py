"""Randomness: equal keys give equal numbers for ever, different keys have nothing to do with each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.rng import KEY_LIMIT, Key, Stream

PART = st.integers(0, KEY_LIMIT - 1)
KEYS = st.builds(Key, PART, st.sampled_from(Stream), PART, PART, PART)

# Part of every dataset ever made: a change here means that no dataset can be grown or reproduced any more.
GOLDEN = [
    (Key(0, Stream.CANDIDATE_VECTOR), [1678888160678392419, 3637983519732821589, 1506881694213228729]),
    (Key(42, Stream.SAMPLE_NOISE, 7, 3, 1), [10219311390457785542, 9316991296582726269, 670698785747234463]),
    (
        Key(KEY_LIMIT - 1, Stream.PREVIEW, KEY_LIMIT - 1, KEY_LIMIT - 1, KEY_LIMIT - 1),
        [13508415904707479160, 7506739344863808486, 7415879486536851274],
    ),
]


@pytest.mark.parametrize(("key", "expected"), GOLDEN, ids=lambda v: str(v) if isinstance(v, Key) else "")
def test_numbers_of_a_key_never_change(key: Key, expected: list[int]) -> None:
    """The raw 64-bit words of these keys are what they were in the first release."""
    assert key.generator().bit_generator.random_raw(3).tolist() == expected


def test_normal_draws_of_a_key_are_those_of_the_pinned_numpy() -> None:
    """Normal noise of this key is what it was in the first release.

    numpy keeps its bit streams between versions but not its distributions: a new pin may fail here, and only here.
    """
    drawn = Key(42, Stream.SAMPLE_NOISE, 7, 3, 1).generator().standard_normal(3)

    assert drawn.tolist() == [0.8998616715215775, 0.061512278557746033, 0.5101774547820731]


def test_stream_numbers_never_change() -> None:
    """Streams keep their numbers; new ones are appended."""
    assert [(s.name, int(s)) for s in Stream][:7] == [
        ("CANDIDATE_VECTOR", 1),
        ("PROBE_NOISE", 2),
        ("PROBE_CONDITION", 3),
        ("SAMPLE_NOISE", 4),
        ("SAMPLE_CONDITION", 5),
        ("EXPORT_ORDER", 6),
        ("PREVIEW", 7),
    ]


@given(KEYS, KEYS)
def test_keys_agree_exactly_when_they_are_equal(one: Key, other: Key) -> None:
    """Two keys give the same first words if and only if they are equal."""
    same = one.generator().integers(0, 2**63, 4).tolist() == other.generator().integers(0, 2**63, 4).tolist()

    assert same == (one == other)


@pytest.mark.parametrize("part", ["run_seed", "identity", "slot", "attempt"])
def test_seed_and_index_do_not_add_up(part: str) -> None:
    """Moving one from any part of the key to any other gives other numbers: nothing is seed + index."""
    base = Key(42, Stream.SAMPLE_NOISE, 7, 7, 7)
    moved = dataclasses.replace(base, **{part: getattr(base, part) + 1})
    neighbours = [
        dataclasses.replace(moved, **{other: getattr(base, other) - 1})
        for other in ("run_seed", "identity", "slot", "attempt")
        if other != part
    ]
    first = {tuple(k.generator().integers(0, 2**63, 4).tolist()) for k in [base, moved, *neighbours]}

    assert len(first) == 5


def test_streams_of_neighbouring_keys_are_uncorrelated() -> None:
    """Normal draws of 200 neighbouring keys correlate no more than independent ones would."""
    draws = np.stack([Key(1, Stream.SAMPLE_NOISE, i).generator().standard_normal(2000) for i in range(200)])
    correlation = np.corrcoef(draws)[np.triu_indices(200, 1)]

    assert np.abs(correlation).max() < 6 / np.sqrt(2000)
    assert abs(correlation.mean()) < 5 / np.sqrt(2000 * correlation.size)


def test_generator_is_fresh_each_time() -> None:
    """Asking a key twice starts the same stream twice: nothing is carried from draw to draw."""
    key = Key(3, Stream.PROBE_NOISE, 1)
    key.generator().standard_normal(10)

    np.testing.assert_array_equal(key.generator().standard_normal(5), key.generator().standard_normal(5))


@pytest.mark.parametrize("part", ["run_seed", "identity", "slot", "attempt"])
@pytest.mark.parametrize("value", [-1, KEY_LIMIT])
def test_part_outside_its_range_is_refused(part: str, value: int) -> None:
    """A negative part, or one of 2**32 and more, is refused by name of the range."""
    with pytest.raises(ValueError, match=rf"key part {value} is outside \[0, 2\*\*32\)"):
        dataclasses.replace(Key(0, Stream.SAMPLE_NOISE), **{part: value})
