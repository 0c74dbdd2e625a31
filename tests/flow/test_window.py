"""The sliding window hands out the lowest open keys and closes identities by the rules."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.flow.window import Outcome, Try, Window


def test_the_lowest_open_keys_come_first() -> None:
    """Keys come in order of identity, then slot, and only from identities inside the window."""
    window = Window([3, 5, 9], (0, 2), attempts=2, size=2)
    assert window.take(10) == [Try(3, 0, 0), Try(3, 1, 0), Try(5, 0, 0), Try(5, 1, 0)]


def test_a_slot_in_flight_is_not_handed_out_again() -> None:
    """A second batch skips what the first still works on."""
    window = Window([1], (0, 3), attempts=2, size=1)
    assert window.take(2) == [Try(1, 0, 0), Try(1, 1, 0)]
    assert window.take(5) == [Try(1, 2, 0)]
    assert window.take(5) == []


def test_a_refused_slot_is_tried_again_with_the_next_attempt() -> None:
    """Refusal opens the next attempt of the same slot."""
    window = Window([1], (0, 1), attempts=2, size=1)
    window.take(1)
    window.settle(Try(1, 0, 0), Outcome.REFUSED)
    assert window.take(1) == [Try(1, 0, 1)]


def test_an_identity_closes_when_full_and_the_next_one_enters() -> None:
    """Filling every slot closes the identity as full."""
    window = Window([1, 2], (0, 1), attempts=1, size=1)
    window.take(1)
    window.settle(Try(1, 0, 0), Outcome.ACCEPTED)
    (closed,) = window.closed()
    assert (closed.identity, closed.full, closed.off_target) == (1, True, frozenset())
    assert window.take(1) == [Try(2, 0, 0)]


def test_an_exhausted_slot_gives_the_identity_up() -> None:
    """Using up the attempts of one slot ends the identity without trying its other slots again."""
    window = Window([1], (0, 2), attempts=1, size=1)
    window.take(2)
    window.settle(Try(1, 0, 0), Outcome.REFUSED)
    assert window.closed() == [], "slot 1 is still in flight"
    window.settle(Try(1, 1, 0), Outcome.ACCEPTED)
    (closed,) = window.closed()
    assert not closed.full


def test_a_hard_condition_never_deletes_a_person() -> None:
    """A slot whose attempts run out takes the first one that missed its conditions alone."""
    window = Window([1], (0, 1), attempts=3, size=1)
    for attempt, outcome in enumerate([Outcome.REFUSED, Outcome.MISSED_CONDITION, Outcome.MISSED_CONDITION]):
        assert window.take(1) == [Try(1, 0, attempt)]
        window.settle(Try(1, 0, attempt), outcome)
    (closed,) = window.closed()
    assert closed.full
    assert closed.off_target == {Try(1, 0, 1)}


@pytest.mark.parametrize("seed", range(5))
def test_every_identity_closes_exactly_once(seed: int) -> None:
    """Under random outcomes and batch sizes every identity leaves once, with no try handed out twice."""
    rng = np.random.default_rng(seed)
    ordinals = list(range(10, 30))
    window = Window(ordinals, (0, 3), attempts=3, size=4)
    closed, flying, seen = [], [], set()
    while True:
        batch = window.take(int(rng.integers(1, 9)))
        assert not seen & set(batch)
        seen |= set(batch)
        flying += batch
        if not flying:
            break
        rng.shuffle(flying)
        for _ in range(int(rng.integers(0, len(flying) + 1))):
            window.settle(flying.pop(), Outcome(int(rng.integers(1, 4))))
        closed += [c.identity for c in window.closed()]
        if not batch:
            while flying:
                window.settle(flying.pop(), Outcome.ACCEPTED)
            closed += [c.identity for c in window.closed()]
    assert sorted(closed) == ordinals


def test_a_published_identity_is_not_given_up_for_one_slot() -> None:
    """Where identities persist, the other slots are tried on, and it closes when nothing is left to try."""
    window = Window([1], (4, 6), attempts=1, size=1, persistent=True)
    first, second = window.take(2)
    window.settle(first, Outcome.REFUSED)
    assert not window.closed()
    window.settle(second, Outcome.ACCEPTED)
    (closed,) = window.closed()
    assert not closed.full
