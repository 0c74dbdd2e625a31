"""The lease keeps two drivers of one dataset apart, whatever happens to either."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.adapters.machine import holder, is_dead
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import LeaseHeldError
from pipeline.flow.heartbeat import standing_lease
from pipeline.flow.lease import DURATION_S, acquire, guard_of
from tests.worlds import Silent, mint, sketches


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Start at some time."""
        self.time_s = 1e9

    def now_s(self) -> float:
        """Return the time set."""
        return self.time_s


def take(store: MemoryStore, clock: Clock, run: str) -> Any:
    """Take the lease for a process that nobody knows to be dead."""
    return acquire(store, clock, {"run": run, "host": "elsewhere", "pid": 1}, lambda who: False)


def test_a_lease_is_held_until_it_expires_and_renewing_puts_that_off() -> None:
    """A second driver is refused up to the last second, and let in after it."""
    store, clock = MemoryStore(), Clock()
    first = take(store, clock, "first")
    clock.time_s += DURATION_S - 1
    first.renew()
    clock.time_s += DURATION_S - 1
    with pytest.raises(LeaseHeldError, match="run first on elsewhere"):
        take(store, clock, "second")
    clock.time_s += 2
    assert take(store, clock, "second").number == first.number + 1


def test_who_was_replaced_can_neither_renew_nor_commit_nor_release() -> None:
    """A driver that wakes after its expiry finds the newer lease at every step, and leaves it as it is."""
    store, clock = MemoryStore(), Clock()
    first = take(store, clock, "first")
    clock.time_s += DURATION_S + 1
    take(store, clock, "second")
    for step in (first.renew, first.require, guard_of(store, first.number)):
        with pytest.raises(LeaseHeldError):
            step()
    first.release()
    standing = standing_lease(store)
    assert standing is not None
    assert standing.holder == {"run": "second", "host": "elsewhere", "pid": 1}
    assert standing.expires_s > clock.now_s()


def test_of_two_that_take_it_at_the_same_moment_one_gets_it() -> None:
    """Both saw the same expired lease; the number decides."""

    class Slow(MemoryStore):
        def put_if_absent(self, path: str, data: bytes) -> bool:
            super().put_if_absent(path, b"{}")
            return super().put_if_absent(path, data)

    with pytest.raises(LeaseHeldError, match="at the same moment"):
        take(Slow(), Clock(), "second")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"expires_s":"x"}', b'{"holder":null,"expires_s":9e99}', b"\xff"])
def test_a_lease_file_that_cannot_be_read_holds_nobody_up(body: bytes) -> None:
    """Damage in a lease, or a foreign file beside it, ends in no traceback."""
    store, clock = MemoryStore(), Clock()
    store.put("runs/lease-000004.json", body)
    store.put("runs/lease-old.json", b"{}")
    assert take(store, clock, "next").number == 5


def test_a_process_of_another_container_is_not_declared_dead() -> None:
    """Its number means nothing here, so only its expiry counts."""
    gone = {**holder("gone"), "pid": 2**22 - 3}
    assert is_dead(gone)
    assert not is_dead({**gone, "boot": str(gone["boot"]).rsplit(" ", 1)[0] + " pid:[1]"})
    assert not is_dead({**gone, "pid": None})


def test_a_run_that_lost_its_lease_commits_nothing_more() -> None:
    """Taken over in the middle, a run stops before its next receipt and publishes nothing."""
    store = MemoryStore()

    class Usurper(Silent):
        def event(self, kind: str, **facts: Any) -> None:
            super().event(kind, **facts)
            if kind == "unit" and len([k for k, _ in self.seen if k == "unit"]) == 2:
                store.put("runs/lease-000002.json", b"{}")

    with pytest.raises(LeaseHeldError):
        mint(sketches(), store, Usurper())
    assert len(store.list("receipts/")) == 2
    assert not store.list("versions/")
