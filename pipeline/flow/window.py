"""The sliding window of a make unit: which (identity, slot, attempt) is tried next. Pure, and the same on every worker.

Each batch takes the lowest open keys of the identities in the window. A slot is open while nothing it made was
accepted, it has attempts left and none of them is in flight. An identity closes when it is full, or when a slot has
used its attempts up and has nothing to fall back on; then the next identity enters. One that is published already is
not given up: its other slots are tried all the same, as each image that it gains is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass(frozen=True, slots=True, order=True)
class Try:
    """One image to be made."""

    identity: int
    slot: int
    attempt: int


class Outcome(Enum):
    """What became of a try."""

    ACCEPTED = auto()
    REFUSED = auto()
    MISSED_CONDITION = auto()
    """Refused by condition agreement alone: the slot may fall back on it when its attempts run out."""


@dataclass(slots=True)
class _Slot:
    next_attempt: int = 0
    in_flight: int = 0
    filled_by: int | None = None
    fallback: int | None = None
    used_up: bool = False


@dataclass(slots=True)
class _Open:
    slots: dict[int, _Slot]
    given_up: bool = False

    def idle(self) -> bool:
        return all(s.in_flight == 0 for s in self.slots.values())

    def full(self) -> bool:
        return all(s.filled_by is not None for s in self.slots.values())

    def over(self) -> bool:
        return self.given_up or all(s.filled_by is not None or s.used_up for s in self.slots.values())


@dataclass(frozen=True, slots=True)
class Closed:
    """An identity that left the window.

    Attributes:
        identity: its ordinal.
        full: whether every slot is filled.
        off_target: the tries that fill a slot although they missed its conditions.
    """

    identity: int
    full: bool
    off_target: frozenset[Try]


@dataclass(slots=True)
class Window:
    """Hands out tries and takes outcomes back.

    Args:
        ordinals: identities in the order in which they enter.
        slots: half-open range of slots that each owes.
        attempts: tries per slot.
        size: identities open at once.
        persistent: whether an identity is kept although one of its slots used its attempts up.
        owes: identity -> its slots, where it does not owe all of `slots`.
    """

    ordinals: Sequence[int]
    slots: tuple[int, int]
    attempts: int
    size: int
    persistent: bool = False
    owes: Mapping[int, Sequence[int]] = field(default_factory=dict)
    _open: dict[int, _Open] = field(default_factory=dict)
    _entered: int = 0

    def take(self, limit: int) -> list[Try]:
        """Return up to `limit` lowest open keys and mark them in flight."""
        tries = [t for t, _ in zip(self._tries(), range(limit), strict=False)]
        for t in tries:
            slot = self._open[t.identity].slots[t.slot]
            slot.in_flight += 1
            slot.next_attempt += 1
        return tries

    def available(self, limit: int) -> int:
        """Return how many keys, up to `limit`, could be taken now."""
        return sum(1 for _ in zip(self._tries(), range(limit), strict=False))

    def settle(self, tried: Try, outcome: Outcome) -> None:
        """Take note of an outcome."""
        state = self._open[tried.identity]
        slot = state.slots[tried.slot]
        slot.in_flight -= 1
        if outcome is Outcome.ACCEPTED and slot.filled_by is None:
            slot.filled_by = tried.attempt
        elif outcome is Outcome.MISSED_CONDITION and slot.fallback is None:
            slot.fallback = tried.attempt
        exhausted = slot.next_attempt >= self.attempts and slot.in_flight == 0 and slot.filled_by is None
        if exhausted and slot.fallback is not None:
            slot.filled_by = slot.fallback
        elif exhausted:
            slot.used_up = True
            state.given_up = not self.persistent

    def closed(self) -> list[Closed]:
        """Remove and return the identities that are full or given up and have nothing in flight, lowest first."""
        done = [i for i, s in sorted(self._open.items()) if s.idle() and s.over()]
        out = []
        for identity in done:
            state = self._open.pop(identity)
            missed = frozenset(
                Try(identity, number, slot.filled_by)
                for number, slot in state.slots.items()
                if slot.filled_by is not None and slot.filled_by == slot.fallback
            )
            out.append(Closed(identity, state.full(), missed))
        return out

    def _tries(self) -> Iterator[Try]:
        self._fill()
        for identity in sorted(self._open):
            state = self._open[identity]
            if state.given_up:
                continue
            for number, slot in sorted(state.slots.items()):
                if slot.filled_by is None and slot.in_flight == 0 and slot.next_attempt < self.attempts:
                    yield Try(identity, number, slot.next_attempt)

    def _fill(self) -> None:
        while len(self._open) < self.size and self._entered < len(self.ordinals):
            ordinal = self.ordinals[self._entered]
            self._open[ordinal] = _Open({k: _Slot() for k in self.owes.get(ordinal, range(*self.slots))})
            self._entered += 1
