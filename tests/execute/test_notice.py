"""Workers that are told that they are about to be taken away, and workers that nothing is left for."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import pipeline.execute.workers as pool
from pipeline.execute.idling import Idling
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.stop import Stop
from pipeline.execute.workers import WorkersExecutor
from tests.execute.test_ray import drive
from tests.execute.test_workers import Desk, done
from tests.execute.toys import Toy, name, units
from tests.worlds import Silent


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses."""
    monkeypatch.setattr(pool, "POLL_S", 0.01)
    monkeypatch.setattr(pool, "LEAVING_LOOK_S", 0.0)


def over(desk: Desk, **more: Any) -> WorkersExecutor:
    """Return an executor on a desk."""
    quarantine = desk.toy.quarantine
    return WorkersExecutor(desk, workers=None, unit_limit_s=60.0, quarantine=quarantine, stop=Stop(), **more)


def test_a_node_that_got_a_notice_is_given_nothing_new(tmp_path: Path) -> None:
    """Workers of a node that drains end what they work and go; all units are done, none bears a death."""
    desk, seen = Desk(Toy(tmp_path), {"a": 2, "b": 1}), Silent()
    executor, worked_at = over(desk, observer=seen), 0
    for number, _ in enumerate(executor.run(units(*range(30)))):
        if number == 5:
            desk.noticed.add("a")
            del desk.nodes["a"]
            worked_at = len(desk.worked)
    assert {n for _, n in desk.worked} == set(range(30))
    assert "a" in {node for node, _ in desk.worked[:worked_at]}
    # what was being worked when the notice came may end there, on each of its two workers
    assert sum(node == "a" for node, _ in desk.worked[worked_at:]) <= 2
    assert desk.toy.store.list("quarantine/") == []
    assert [facts["by"] for kind, facts in seen.seen if kind == "lost"] == ["notice", "notice"]


def test_workers_that_nothing_is_left_for_go_down_to_the_number_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the tail of a barrier idle workers are let go; the next barrier has as many as before."""
    desk = Desk(Toy(tmp_path), {"a": 4})
    executor = over(desk, idle_s=0.05, min_workers=1)
    executor.device_kinds()
    # not how many stand now: on a busy machine those that idle may be gone by now
    assert len(desk.processes) == 4
    answer = desk.answer

    def slow(call: Any, node: str | None) -> Any:
        time.sleep(0.1 if call.method == "work" else 0.0)
        return answer(call, node)

    monkeypatch.setattr(desk, "answer", slow)
    assert done(executor, 0, 1) == [name(0), name(1)]
    assert 1 <= executor.workers < 4
    assert done(executor, *range(2, 14)) == sorted(name(n) for n in range(2, 14))
    executor.close()


def test_between_barriers_idle_workers_go_by_themselves(tmp_path: Path) -> None:
    """Scale to zero: nobody asks for units for a while, and the pool is empty; the next units find new workers."""
    desk = Desk(Toy(tmp_path), {"a": 3})
    executor = over(desk, idle_s=0.1)
    seen = [(executor.workers, executor.worker_seconds()) for _ in executor.run(units(*range(6)))]
    (most, _), (_, held_s) = max(seen), seen[-1]
    assert most == 3
    deadline_s = time.monotonic() + 60
    while executor.workers and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert executor.workers == 0
    executor._idling.end()  # the last of them has been counted
    rested_s = executor.worker_seconds()
    assert rested_s > held_s
    time.sleep(0.05)
    assert executor.worker_seconds() == rested_s
    assert done(executor, 6) == [name(6)]
    executor.close()


def test_a_pool_that_is_needed_is_not_let_go() -> None:
    """Whoever needs the pool before the time is over ends the clock: nothing is let go under their hands."""
    gone, before = threading.Event(), set(threading.enumerate())
    idling = Idling(3600.0, gone.set)
    idling.begin()
    (clock,) = (t for t in set(threading.enumerate()) - before if isinstance(t, threading.Timer))
    idling.end()
    assert not clock.is_alive()
    assert not gone.is_set()
    idling = Idling(0.05, gone.set)
    idling.begin()
    assert gone.wait(60.0)
    Idling(None, gone.clear).begin()
    assert gone.is_set()


def noticed(toy: Toy, number: int, notice_s: float, count: int) -> list[str]:
    """Work units on one Ray worker that gets SIGTERM while it works a unit; return the names of the receipts.

    Where the unit waits, it is let go after the signal.
    """
    executor = RayExecutor(
        toy, workers=1, address=None, unit_limit_s=60.0, quarantine=toy.quarantine, stop=Stop(), notice_s=notice_s
    )

    ended = threading.Event()

    def notify() -> None:
        while not toy.tries(number):
            if ended.wait(0.02):
                return
        os.kill(int(toy.tries(number)[0].split()[0]), signal.SIGTERM)
        toy.let_go(number)

    thread = threading.Thread(target=notify)
    thread.start()
    try:
        return sorted(r.name for r in executor.run(units(*range(count))))
    finally:
        ended.set()
        thread.join()
        executor.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_gets_sigterm_ends_its_unit_and_takes_no_other(tmp_path: Path) -> None:
    """The unit in hand is done by that process, once; the next ones by another, and nobody is blamed."""
    toy = Toy(tmp_path, {1: "wait"})
    assert noticed(toy, 1, 60.0, 5) == [name(n) for n in range(5)]
    assert [len(toy.tries(n)) for n in range(5)] == [1, 1, 1, 1, 1]
    first, second = toy.tries(1)[0].split()[0], toy.tries(2)[0].split()[0]
    assert first == toy.tries(0)[0].split()[0]
    assert first != second
    assert toy.store.list("quarantine/") == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_unit_that_outlasts_the_notice_is_given_back_without_a_death(tmp_path: Path) -> None:
    """After the notice's time the unit goes back, is done by another process, and bears no death."""
    toy = Toy(tmp_path, {0: "hang 1"}, seconds=0.05)
    assert noticed(toy, 0, 0.4, 2) == [name(0), name(1)]
    tries = [line.split() for line in toy.tries(0)]
    assert len(tries) == 2
    assert tries[0][0] != tries[1][0]
    assert tries[1][1] == "0"
    assert toy.store.list("quarantine/") == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
def test_a_node_that_drains_is_left_with_every_unit_worked_once(tmp_path: Path) -> None:
    """Ray was told that a node will be taken away: its worker ends its unit and goes, and no unit is worked again."""
    ended = drive("notice", tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(told["done"]) == [name(n) for n in range(40)]
    assert told["deaths"] == []
    by_process = Counter(line.split()[0] for n in range(40) for line in Toy(tmp_path).tries(n))
    assert sum(by_process.values()) <= 41, "at most one unit had been sent behind another to the node that went"
    assert len(by_process) == 2
    assert min(by_process.values()) < 10
