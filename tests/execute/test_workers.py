"""What the pool does when workers are lost, seen without an engine: a cluster on a desk, whose losses are scripted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.execute.workers as pool
from pipeline.domain.errors import FacemintError, InterruptedRunError, RetryableStoreError, WorkerStartError
from pipeline.domain.unit import Unit
from pipeline.execute.cluster import Loss, Lost, Raised
from pipeline.execute.restarts import START_DEATHS_ALLOWED, MemoryKills, Restarts
from pipeline.execute.stop import Stop
from pipeline.execute.workers import WorkersExecutor
from tests.execute.toys import Toy, ToyWorker, name, units


@dataclass(eq=False)
class Process:
    """A worker of the desk cluster."""

    node: str
    worker: ToyWorker | None = None
    dead: Lost | None = None
    calls: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Call:
    """A call of a process."""

    process: Process
    method: str
    args: tuple[Any, ...]


class Desk:
    """Implements `cluster.Cluster` within this process: every look lets each process answer one call.

    Args:
        toy: builds the workers.
        nodes: node -> CPUs; may be changed while it runs.
        losses: (unit number, how often) -> what happens to the process that works it.
    """

    def __init__(self, toy: Toy, nodes: dict[str, int], losses: dict[int, list[Loss]] | None = None) -> None:
        self.toy, self.nodes, self.losses = toy, nodes, losses or {}
        self.processes: list[Process] = []
        self.worked: list[tuple[str, int]] = []
        self.mute: set[int] = set()
        """Units whose worker is lost after the receipt is written, and before the answer is sent."""
        self.noticed: set[str] = set()
        self.before_start: Callable[[], Lost | Raised | None] = lambda: None

    def open(self) -> None:
        """Do nothing: a desk is always there."""

    def close(self) -> None:
        """Do nothing."""

    def room(self) -> float:
        """Return the CPUs of the nodes."""
        return float(sum(self.nodes.values()))

    def asked(self) -> str:
        """Return what every process takes."""
        return "1 CPU"

    def lack(self) -> str:
        """Return what is wrong where no node has a CPU."""
        return "" if any(self.nodes.values()) else "no node has a CPU"

    def leaving(self) -> set[str]:
        """Return the nodes that got a notice."""
        return self.noticed

    def hire(self, workers: int | None) -> Process:
        """Return a process on the node with most room, or one that waits for room."""
        room = {n: c - sum(p.node == n and p.dead is None for p in self.processes) for n, c in self.nodes.items()}
        node = max(room, key=lambda n: room[n], default="")
        self.processes.append(Process(node if room.get(node, 0) > 0 else ""))
        return self.processes[-1]

    def call(self, handle: Process, method: str, *args: Any) -> Call:
        """Queue a call."""
        handle.calls.append(Call(handle, method, args))
        return handle.calls[-1]  # type: ignore[no-any-return]

    def answered(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Return the calls of every process that has found room, or died."""
        return [c for c in calls if c.process.node or c.process.dead]

    def answer(self, call: Call, node: str | None) -> Any:
        """Carry the call out."""
        process = call.process
        process.calls.remove(call)
        if process.dead:
            return process.dead
        if call.method == "where":
            return {"node": process.node, "host": process.node, "pid": id(process)}
        if call.method == "hello":
            went_wrong = self.before_start()
            process.dead = went_wrong if isinstance(went_wrong, Lost) else None
            process.worker = process.worker or self.toy()
            return went_wrong or process.worker.device_kind()
        unit: Unit = call.args[0]
        self.worked.append((process.node, unit.index))
        assert process.worker is not None
        if self.losses.get(unit.index):
            if unit.index in self.mute:
                process.worker.work(unit)
            process.dead = Lost(self.losses[unit.index].pop(0), "scripted")
            return process.dead
        try:
            return process.worker.work(unit)
        except FacemintError as error:
            return Raised(error)

    def dismiss(self, handle: Process) -> None:
        """Let a process go."""
        handle.dead = handle.dead or Lost(Loss.PROCESS, "dismissed")


def over(desk: Desk, workers: int | None = None, stop: Stop | None = None) -> WorkersExecutor:
    """Return an executor on a desk."""
    return WorkersExecutor(
        desk,
        workers=workers,
        unit_limit_s=60.0,
        quarantine=desk.toy.quarantine,
        stop=stop or Stop(),
    )


def done(executor: WorkersExecutor, *numbers: int) -> list[str]:
    """Run units and return the names of their receipts, sorted."""
    return sorted(r.name for r in executor.run(units(*numbers)))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses."""
    monkeypatch.setattr(pool, "POLL_S", 0.01)
    monkeypatch.setattr("pipeline.execute.restarts.BACKOFF_S", 0.01)


@pytest.mark.parametrize("losses", [[Loss.NODE], [Loss.NODE] * 7])
def test_a_unit_that_loses_its_node_is_issued_again_without_a_death(tmp_path: Path, losses: list[Loss]) -> None:
    """However often nodes are lost under a unit, none of it is held against the unit."""
    desk = Desk(Toy(tmp_path), {"a": 1, "b": 1}, {1: list(losses)})
    assert done(over(desk), *range(6)) == [name(n) for n in range(6)]
    assert desk.toy.store.list("quarantine/") == []
    assert sum(n == 1 for _, n in desk.worked) == 1 + len(losses)


@pytest.mark.parametrize("loss", [Loss.PROCESS, Loss.NODE])
def test_a_worker_lost_with_its_answer_unsent_blames_nobody(tmp_path: Path, loss: Loss) -> None:
    """The receipt in the store says that the unit is done: it comes once, is not worked again, and bears no death."""
    desk = Desk(Toy(tmp_path), {"a": 1}, {1: [loss]})
    desk.mute = {1}
    assert done(over(desk), *range(4)) == [name(n) for n in range(4)]
    assert [len(desk.toy.tries(n)) for n in range(4)] == [1, 1, 1, 1]
    assert desk.toy.store.list("quarantine/") == []


class Slow(Desk):
    """A desk with a clock of its own, on which a unit takes 40 s, or for ever where its process is stuck with it."""

    now_s = 0.0

    def __init__(self, toy: Toy, nodes: dict[str, int], stuck: set[int]) -> None:
        super().__init__(toy, nodes)
        self.stuck, self.looks = stuck, Counter[Call]()

    def answered(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Let ten seconds pass; return what is done by then."""
        self.now_s += 10.0
        self.looks.update(calls)
        return [c for c in super().answered(calls, timeout_s) if c.method != "work" or self._is_done(c)]

    def _is_done(self, call: Call) -> bool:
        return call.args[0].index not in self.stuck and self.looks[call] >= 4

    def dismiss(self, handle: Process) -> None:
        """Let a process go, and what it was stuck with."""
        self.stuck -= {call.args[0].index for call in handle.calls[:1]}
        super().dismiss(handle)


def test_the_limit_counts_from_when_a_unit_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 s after it was issued behind another a unit of 40 s is done within its 60; one that is stuck bears a death."""
    desk = Slow(Toy(tmp_path), {"a": 1}, {3})
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: desk.now_s, sleep=lambda _: None))
    assert done(over(desk), *range(5)) == [name(n) for n in range(5)]
    assert [number for _, number in desk.worked] == [0, 1, 2, 4, 3]
    assert [desk.toy.quarantine.deaths(name(n)) for n in range(5)] == [0, 0, 0, 1, 0]
    assert desk.toy.quarantine.why(name(3)) == "no result in 60 s"


def test_a_memory_kill_beside_others_shrinks_the_pool_and_blames_nobody(tmp_path: Path) -> None:
    """The monitor picks the youngest, not the largest: with neighbours the unit is innocent, and one works less."""
    desk = Desk(Toy(tmp_path), {"a": 3}, {2: [Loss.MEMORY]})
    executor = over(desk)
    assert done(executor, *range(12)) == [name(n) for n in range(12)]
    assert desk.toy.store.list("quarantine/") == []
    assert sum(p.dead is None for p in desk.processes) == 2
    executor.close()


@pytest.mark.parametrize("cpus", [1, 3])
def test_a_unit_that_needs_more_memory_than_its_node_has_is_quarantined(tmp_path: Path, cpus: int) -> None:
    """Every kill shrinks the pool until the unit has the node for itself; from then on kills count: no endless loop."""
    desk = Desk(Toy(tmp_path), {"a": cpus}, {2: [Loss.MEMORY] * 20})
    executor = over(desk)
    with pytest.raises(FacemintError, match=f"quarantined.*{name(2)}"):
        done(executor, *range(8))
    assert len(desk.toy.store.list("quarantine/")) == 3
    assert 20 - len(desk.losses[2]) <= 3 + cpus


class Stopped(Slow):
    """A desk whose run is asked to stop as soon as two workers have two units each; unit 1 takes 30 s longer."""

    def __init__(self, toy: Toy, stop: Stop) -> None:
        super().__init__(toy, {"a": 1, "b": 1}, set())
        self.stop, self.let_go_s = stop, dict[str, float]()

    def answered(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Look at what waits first."""
        if sum(call.method == "work" for process in self.processes for call in process.calls) == 4:
            self.stop.ask()
        return super().answered(calls, timeout_s)

    def _is_done(self, call: Call) -> bool:
        return self.looks[call] >= 2 + 3 * call.args[0].index

    def dismiss(self, handle: Process) -> None:
        """Note when a worker was let go."""
        self.let_go_s[handle.node] = self.now_s
        super().dismiss(handle)


def test_after_a_stop_each_worker_goes_when_its_unit_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what waited behind it, while others end theirs; what is ended is kept, and nobody bears a death."""
    stop = Stop()
    desk = Stopped(Toy(tmp_path), stop)
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: desk.now_s, sleep=lambda _: None))
    executor = over(desk, stop=stop)
    executor.device_kinds()
    received: list[str] = []
    with pytest.raises(InterruptedRunError):
        received.extend(r.name for r in executor.run(units(*range(8))))
    assert received == [name(0), name(1)]
    assert sorted(desk.let_go_s) == ["a", "b"]
    first_s, last_s = sorted(desk.let_go_s.values())
    assert last_s - first_s == 30.0
    assert sorted(n for _, n in desk.worked) == [0, 1]
    assert desk.toy.store.list("quarantine/") == []


def test_the_last_units_wait_for_idle_workers(tmp_path: Path) -> None:
    """No unit waits behind another while a worker has none: two units on two workers go to one each."""
    desk = Desk(Toy(tmp_path), {"a": 1, "b": 1})
    executor = over(desk)
    executor.device_kinds()
    done(executor, 0, 1)
    assert sorted(node for node, _ in desk.worked) == ["a", "b"]


def test_a_cluster_that_grows_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a number of workers there is one per CPU, looked up again and again."""
    monkeypatch.setattr(pool, "CLUSTER_LOOK_S", 0.0)
    desk = Desk(Toy(tmp_path), {"a": 1}, {9: [Loss.NODE]})
    executor = over(desk)
    for number, _ in enumerate(executor.run(units(*range(20)))):
        if number == 3:
            desk.nodes["b"] = 2
    assert {node for node, _ in desk.worked} == {"a", "b"}
    assert sum(p.dead is None for p in desk.processes) == 3


def test_a_cluster_without_room_ends_the_run_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that finds no room for any worker waits so long and no longer."""
    monkeypatch.setattr(pool, "ROOM_S", 0.1)
    executor = over(Desk(Toy(tmp_path), {}), workers=2)
    told = r"^no worker found room .* 0.1 s: 2 are wanted, each with 1 CPU, .* for 0 \(no node has a CPU\); .* resume$"
    with pytest.raises(WorkerStartError, match=told):
        done(executor, 0)


@pytest.mark.parametrize(("cpus", "warnings"), [(0, 1), (1, 0)])
def test_what_no_node_could_hold_is_said_before_the_wait_for_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cpus: int, warnings: int
) -> None:
    """Once, well before the run ends, and not of a node that is merely taken: another may still join."""
    monkeypatch.setattr(pool, "LACK_S", 0.05)
    monkeypatch.setattr(pool, "ROOM_S", 0.3)
    desk = Desk(Toy(tmp_path), {"a": cpus})
    if cpus:
        desk.hire(1)
    with pytest.raises(WorkerStartError):
        done(over(desk, workers=1), 0)
    assert caplog.messages == ["no node has a CPU; waiting up to 0.3 s for one that has to join"] * warnings


def test_device_kinds_do_not_wait_for_workers_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Five are wanted and two find room: after a while those two are enough to begin, which is said."""
    monkeypatch.setattr(pool, "GATHER_S", 0.1)
    executor = over(Desk(Toy(tmp_path), {"a": 2}), workers=5)
    assert executor.device_kinds() == {"toy"}
    assert caplog.messages == ["2 of 5 workers found room, each with 1 CPU; others wait"]
    assert done(executor, 0, 1, 2) == [name(0), name(1), name(2)]


@pytest.mark.parametrize(
    ("went_wrong", "told"),
    [
        (Lost(Loss.PROCESS, "signal 9"), r"a worker died while it started \(signal 9\)"),
        (Raised(RetryableStoreError("time-out")), "time-out"),
    ],
)
def test_starts_that_fail_are_bounded(tmp_path: Path, went_wrong: Lost | Raised, told: str) -> None:
    """Three starts in a row may fail where nobody works; then the run ends with what the last one said."""
    desk = Desk(Toy(tmp_path), {"a": 1})
    desk.before_start = lambda: went_wrong
    with pytest.raises(FacemintError, match=told):
        done(over(desk), 0)
    assert len(desk.processes) == START_DEATHS_ALLOWED


def test_starts_that_fail_do_not_end_a_run_in_which_others_work(tmp_path: Path) -> None:
    """One node is broken: what starts there dies, and the other node does all units."""
    desk = Desk(Toy(tmp_path), {"a": 2})
    executor = over(desk, workers=1)
    executor.device_kinds()
    desk.before_start = lambda: Lost(Loss.PROCESS, "signal 9")
    executor._workers = 2
    assert done(executor, *range(30)) == [name(n) for n in range(30)]


def test_pauses_between_starts_grow_and_end_with_a_success() -> None:
    """The pause doubles up to half a minute, however often it failed, and one success forgets it."""
    restarts = Restarts()
    pauses = []
    for _ in range(2000):
        restarts.failed(WorkerStartError("no"), now_s=0.0)
        pauses.append(restarts.not_before_s)
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]
    assert max(pauses) == 30.0
    assert restarts.exhausted
    assert not restarts.may_start(29.9)
    restarts.succeeded()
    assert restarts.may_start(0.0)
    assert not restarts.exhausted


def test_workers_killed_at_one_blow_were_each_others_company() -> None:
    """The second of two killed within seconds had company; not so one that began, or died, well after the first."""
    kills = MemoryKills()
    assert kills.had_company("a", neighbours=1, began_s=1.0, now_s=10.0)
    assert kills.had_company("a", neighbours=0, began_s=1.0, now_s=10.1)
    assert not kills.had_company("a", neighbours=0, began_s=10.2, now_s=11.0)
    assert not kills.had_company("a", neighbours=0, began_s=1.0, now_s=60.0)
    assert not kills.had_company("b", neighbours=0, began_s=1.0, now_s=60.0)
