"""What a run tells of itself: facts that follow from events, a heartbeat that outlives a failing store."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.flow.heartbeat import KEPT_STAGES, Heartbeat, Progress, Tee, standing_lease, top_reasons
from pipeline.flow.lease import DURATION_S, Lease, acquire
from tests.worlds import Silent

WHO = {"run": "abc", "host": "here", "pid": 7, "boot": "x"}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Start at some time."""
        self.time_s = 1e9

    def now_s(self) -> float:
        """Return the time set."""
        return self.time_s


def receipt(stage: str = "make", seconds: float = 60.0, **refused: int) -> Receipt:
    """Return the receipt of a unit of 100 candidates."""
    counts = Counts(100, 100 - sum(refused.values()), sum(refused.values()), refused)
    return Receipt(
        {"stage": stage}, f"{stage}-g0-000000", "f", "p", counts, (), {"start_s": 5.0, "end_s": 5.0 + seconds}
    )


def began(clock: Clock, total: int = 10, done: int = 0, workers: int | None = 2) -> Progress:
    """Return the progress of a run whose make stage has just begun."""
    progress = Progress(clock, WHO)
    if workers:
        progress.event("workers", number=workers)
    progress.event("stage", name="make", total=total, done=done, round=0, generation=1)
    return progress


def worked(progress: Progress, clock: Clock, units: int, each_s: float, **refused: int) -> None:
    """Let units end one after the other."""
    for _ in range(units):
        clock.time_s += each_s
        progress.event("unit", receipt=receipt(**refused))


def test_before_anything_happened_nothing_is_claimed() -> None:
    """A fresh run has no stage, no speed and no time left, and its facts are JSON."""
    facts = json.loads(json.dumps(Progress(Clock(), WHO).to_dict()))
    assert (facts["run"], facts["host"], facts["pid"]) == ("abc", "here", 7)
    assert (facts["stage"], facts["images_per_s"], facts["eta_s"], facts["candidates"]) == (None, None, None, 0)


def test_units_are_counted_with_their_candidates_and_top_reasons() -> None:
    """Done, accepted and refused add up over the units of this run; what was committed before counts as done."""
    clock = Clock()
    progress = began(clock, total=10, done=3)
    worked(progress, clock, 2, 30.0, blurred=5, own_template_too_far=9)
    facts = progress.to_dict()
    assert (facts["units_done"], facts["units_total"], facts["stages"][0]["before"]) == (5, 10, 3)
    assert (facts["candidates"], facts["accepted"], facts["refused"]) == (200, 172, 28)
    assert list(facts["reasons"].items()) == [("own_template_too_far", 18), ("blurred", 10)]
    assert (facts["stage"], facts["round"], facts["generation"]) == ("make", 0, 1)
    assert facts["last_event_s"] == clock.time_s


def test_speed_is_that_of_the_recent_minutes() -> None:
    """Old units fall out of it once enough newer ones are there."""
    clock = Clock()
    progress = began(clock, total=100)
    worked(progress, clock, 30, 100.0)
    assert progress.to_dict()["images_per_s"] == pytest.approx(1.0, abs=0.01)
    worked(progress, clock, 30, 20.0)
    assert progress.to_dict()["images_per_s"] == pytest.approx(5.0, abs=0.1)


def test_time_left_follows_from_the_median_unit_and_the_workers() -> None:
    """Two workers halve it; it counts down between units, and an overdue unit makes it unknown."""
    clock = Clock()
    progress = began(clock, total=10)
    assert progress.to_dict()["eta_s"] is None
    worked(progress, clock, 2, 30.0)
    assert progress.to_dict()["eta_s"] == pytest.approx(8 * 60 / 2)
    clock.time_s += 15
    assert progress.to_dict()["eta_s"] == pytest.approx(225)
    clock.time_s += 600
    assert progress.to_dict()["eta_s"] is None


def test_time_left_is_unknown_while_nobody_said_how_many_work() -> None:
    """Without the number of workers no time is made up."""
    clock = Clock()
    progress = began(clock, workers=None)
    worked(progress, clock, 3, 30.0)
    assert progress.to_dict()["eta_s"] is None


def test_the_last_unit_takes_as_long_as_a_unit_takes() -> None:
    """Eight workers do not share one unit."""
    clock = Clock()
    progress = began(clock, total=10, workers=8)
    worked(progress, clock, 9, 8.0)
    assert progress.to_dict()["eta_s"] == pytest.approx(60)


def test_time_left_is_known_at_once_in_a_later_round_and_not_in_another_stage() -> None:
    """Units of one stage are alike over its rounds; an audit is something else."""
    clock = Clock()
    progress = began(clock, total=1)
    worked(progress, clock, 1, 30.0)
    progress.event("stage", name="make", total=4, done=0, round=1)
    assert progress.to_dict()["eta_s"] == pytest.approx(120)
    assert progress.to_dict()["images_per_s"] == pytest.approx(100 / 30, abs=0.001)
    progress.event("stage", name="audit", total=4, done=0)
    assert progress.to_dict()["eta_s"] is None
    assert progress.to_dict()["images_per_s"] is None


def test_enrolment_is_counted_until_images_are_made() -> None:
    """What enrolment refused shows while it runs; audits count no candidates."""
    clock = Clock()
    progress = Progress(clock, WHO)
    progress.event("stage", name="enrol", total=1, done=0)
    progress.event("unit", receipt=receipt("enrol", probes_inconsistent=7))
    progress.event("enrolled", have={"a": 9, "b": 1}, wanted={"a": 5, "b": 5}, refused={})
    facts = progress.to_dict()
    assert (facts["counted"], facts["reasons"]) == ("enrol", {"probes_inconsistent": 7})
    assert facts["enrolled"] == {"have": 6, "wanted": 10}
    progress.event("stage", name="make", total=1, done=0)
    progress.event("unit", receipt=receipt("make"))
    progress.event("stage", name="audit", total=1, done=0)
    progress.event("unit", receipt=receipt("audit"))
    assert (progress.to_dict()["counted"], progress.to_dict()["candidates"]) == ("make", 100)


def test_a_stage_without_units_is_full_when_the_next_begins() -> None:
    """Publishing is one step; a stage whose units were set aside is not called full."""
    clock = Clock()
    progress = began(clock, total=3)
    worked(progress, clock, 2, 30.0)
    progress.event("stage", name="publish", total=1, done=0)
    progress.finish()
    assert [(s["done"], s["total"]) for s in progress.to_dict()["stages"]] == [(2, 3), (1, 1)]


def test_facts_stay_small_however_long_a_run_lasts() -> None:
    """Thousands of units and hundreds of rounds leave a heartbeat of a few kilobytes."""
    clock = Clock()
    progress = began(clock)
    for number in range(200):
        progress.event("stage", name="make", total=50, done=0, round=number)
        worked(progress, clock, 30, 0.01, **{f"reason_{number}": 1})
    facts = progress.to_dict()
    assert len(facts["stages"]) == KEPT_STAGES
    assert len(facts["reasons"]) == 5
    assert len(json.dumps(facts)) < 4096


def test_reasons_of_equal_number_come_by_name() -> None:
    """The order never flickers."""
    assert list(top_reasons({"b": 1, "a": 1, "c": 2}, 2)) == ["c", "a"]


def test_every_observer_hears_of_every_event() -> None:
    """A view and the heartbeat are told the same."""
    one, other = Silent(), Silent()
    Tee(one, other).event("stage", name="make")
    assert one.seen == other.seen == [("stage", {"name": "make"})]


def test_reading_while_a_run_writes_is_safe() -> None:
    """The heartbeat's thread reads facts in the middle of events."""
    progress = began(Clock(), total=10**6)
    stop = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                json.dumps(progress.to_dict())
            except RuntimeError as error:  # pragma: no cover: what this test would catch
                failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(3000):
        progress.event("unit", receipt=receipt(**{f"reason_{number % 50}": 1}))
    stop.set()
    reader.join()
    assert not failed
    assert progress.to_dict()["units_done"] == 3000


def held(store: MemoryStore, clock: Clock) -> Lease:
    """Take the lease of a dataset."""
    return acquire(store, clock, WHO, lambda who: False)


def until(condition: Any) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_heartbeat_renews_the_lease_and_says_how_far_the_run_is() -> None:
    """Another machine reads progress and expiry; the last beat says how it ended, and the lease is let go."""
    store, clock = MemoryStore(), Clock()
    progress = began(clock)
    with Heartbeat(held(store, clock), store, clock, progress, interval_s=0.005):
        first = standing_lease(store)
        assert first is not None
        assert (first.beat["stage"], first.beat["ended"]) == ("make", None)
        clock.time_s += 40
        progress.event("unit", receipt=receipt())
        # a beat is two writes: the lease renewed before that event may stand beside facts of after it, until the next
        until(
            lambda: (
                (now := standing_lease(store))
                and now.beat.get("units_done") == 1
                and now.expires_s == clock.time_s + DURATION_S
            )
        )
        now = standing_lease(store)
        assert now is not None
        assert now.seen_s() == clock.time_s
    last = standing_lease(store)
    assert last is not None
    assert (last.beat["ended"], last.expires_s) == ("done", 0.0)


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (StoreError("the disk\nis full"), "the disk is full"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError("secret"), "ZeroDivisionError"),
    ],
)
def test_the_last_beat_says_why_a_run_ended(error: BaseException, ended: str) -> None:
    """An error that we foresee tells its message, a bug its type alone."""
    store, clock = MemoryStore(), Clock()
    with (
        pytest.raises(type(error)),
        Heartbeat(held(store, clock), store, clock, began(clock), interval_s=60),
    ):
        raise error
    last = standing_lease(store)
    assert last is not None
    assert last.beat["ended"] == ended


def test_a_store_that_fails_for_a_while_does_not_stop_the_heart() -> None:
    """Beats go on when the store is back; a store that is gone at the end hides no error of the run."""
    clock = Clock()

    class Shaky(MemoryStore):
        fails = False
        failed = 0

        def put(self, path: str, data: bytes) -> None:
            if self.fails:
                self.failed += 1
                raise StoreError("gone")
            super().put(path, data)

    store = Shaky()
    lease = held(store, clock)
    with Heartbeat(lease, store, clock, began(clock), interval_s=0.005):
        store.fails = True
        until(lambda: store.failed > 2)
        store.fails = False
        clock.time_s += 50
        until(lambda: (now := standing_lease(store)) and now.expires_s == clock.time_s + DURATION_S)
        store.fails = True


def test_a_heart_falls_silent_where_another_run_took_over() -> None:
    """The usurper's lease and heartbeat are left as they are."""
    store, clock = MemoryStore(), Clock()
    lease = held(store, clock)
    with Heartbeat(lease, store, clock, began(clock), interval_s=0.005):
        clock.time_s += DURATION_S + 1
        acquire(store, clock, {**WHO, "run": "other"}, lambda who: True)
        until(lambda: not [t for t in threading.enumerate() if t.name == "heartbeat"])
    now = standing_lease(store)
    assert now is not None
    assert (now.number, now.holder["run"]) == (2, "other")
    assert now.expires_s == clock.time_s + DURATION_S


@pytest.mark.parametrize("body", [b"", b"[]", b'{"holder":[],"expires_s":"x"}', b'{"holder":{"run":"../x"}}', b"\xff"])
def test_a_damaged_lease_or_heartbeat_reads_as_nobody(body: bytes) -> None:
    """What cannot be read holds nobody up and ends in no traceback."""
    store = MemoryStore()
    assert standing_lease(store) is None
    store.put("runs/lease-000003.json", body)
    found = standing_lease(store)
    assert found is not None
    assert (found.number, found.expires_s, dict(found.beat)) == (3, 0.0, {})
