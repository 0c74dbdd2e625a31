"""What Ray adds to the contract: workers that die, hang or cannot start; who is blamed, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.domain.errors import InterruptedRunError, QuarantinedError, WorkerStartError
from pipeline.domain.manifest import Receipt, receipt_path
from pipeline.execute.demand import GIB, Demand
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.stop import Stop, on_signals
from tests.execute.toys import Toy, ToyWorker, name, units

pytestmark = pytest.mark.ray
session = pytest.mark.usefixtures("ray_session")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between starts that fail."""
    monkeypatch.setattr("pipeline.execute.restarts.BACKOFF_S", 0.05)


def on_ray(
    toy: Toy, workers: int = 1, limit_s: float = 60.0, stop: Stop | None = None, demand: Demand | None = None
) -> RayExecutor:
    """Return an executor on the session's Ray, which counts as somebody's cluster where a demand is given."""
    return RayExecutor(
        toy,
        workers=workers,
        address="the session's" if demand else None,
        unit_limit_s=limit_s,
        quarantine=toy.quarantine,
        stop=stop or Stop(),
        demand=demand,
    )


def is_gone(pid: int, within_s: float = 60.0) -> bool:
    """Return whether a process is gone, or soon is."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def sigterm_once(so: Callable[[], bool]) -> Iterator[None]:
    """Send this process SIGTERM as soon as something is so, unless the block has ended before."""
    over = threading.Event()

    def look() -> None:
        while not so():
            if over.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


@session
def test_a_worker_killed_once_costs_one_retry_written_down_before_it(tmp_path: Path) -> None:
    """The unit is done by a second worker, which finds the death of the first in the store, with what is known."""
    toy = Toy(tmp_path, {0: "kill 1"}, seconds=0.05)
    executor = on_ray(toy)
    done = [r.name for r in executor.run(units(*range(6)))]
    executor.close()
    assert sorted(done) == [name(n) for n in range(6)]
    (first, none), (second, one) = (line.split() for line in toy.tries(0))
    assert (none, one) == ("0", "1")
    assert first != second
    record = json.loads(toy.store.get(f"quarantine/{name(0)}-1.json"))
    assert record["unit"] == name(0)
    assert record["number"] == 1
    assert str(record["worker"]["pid"]) == first
    assert record["worker"]["device_kind"] == "toy"
    assert "Worker" in record["why"]


@session
def test_the_unit_that_waited_behind_a_killer_is_innocent(tmp_path: Path) -> None:
    """With one worker every unit but the first waits behind another; none bears a death, none is worked twice."""
    toy = Toy(tmp_path, {0: "kill", 2: "kill", 4: "kill"})
    done: list[Receipt] = []
    executor = on_ray(toy)
    with pytest.raises(QuarantinedError, match=f"{name(0)}, {name(2)}, {name(4)}"):
        done.extend(executor.run(units(*range(6))))
    executor.close()
    quarantine = toy.quarantine
    assert [quarantine.deaths(name(n)) for n in range(6)] == [3, 0, 3, 0, 3, 0]
    assert [len(toy.tries(n)) for n in (1, 3, 5)] == [1, 1, 1]
    assert sorted(r.name for r in done) == [name(n) for n in (1, 3, 5)]


@session
def test_three_deaths_quarantine_a_unit_until_it_is_released(tmp_path: Path) -> None:
    """The others are done; the next run leaves it out; released and mended, it is done."""
    toy = Toy(tmp_path, {1: "kill"})
    done: list[Receipt] = []
    executor = on_ray(toy, workers=2)
    with pytest.raises(QuarantinedError, match=r"^1 units are quarantined.*make-g0-000001 \(last: .*\)"):
        done.extend(executor.run(units(0, 1, 2, 3, 4, 5)))
    assert sorted(r.name for r in done) == [name(n) for n in (0, 2, 3, 4, 5)]
    assert sorted({line.split()[1] for line in toy.tries(1)}) == ["0", "1", "2"]
    with pytest.raises(QuarantinedError, match=name(1)):
        list(executor.run(units(1)))
    executor.close()
    assert toy.quarantine.release() == [name(1)]
    mended = on_ray(replace(toy, tricks={}))
    assert [r.name for r in mended.run(units(1))] == [name(1)]
    mended.close()


@session
def test_a_stuck_unit_is_taken_back_and_the_one_behind_it_is_not_blamed(tmp_path: Path) -> None:
    """Being stuck is a death; that another waited behind it for the whole limit is nothing against that one."""
    toy = Toy(tmp_path, {3: "hang 1"})
    executor = on_ray(toy, limit_s=5.0)
    assert len(list(executor.run(units(*range(5))))) == 5
    executor.close()
    assert [len(toy.tries(n)) for n in range(5)] == [1, 1, 1, 2, 1]
    assert [toy.quarantine.deaths(name(n)) for n in range(5)] == [0, 0, 0, 1, 0]
    assert toy.quarantine.why(name(3)) == "no result in 5 s"
    assert is_gone(int(toy.tries(3)[0].split()[0]))


@session
def test_a_worker_that_always_dies_at_start_ends_the_run_in_one_line(tmp_path: Path) -> None:
    """Three failed starts in a row end the run, whether units were asked for or device kinds; no unit is blamed."""
    toy = Toy(tmp_path, start="kill")
    executor = on_ray(toy)
    with pytest.raises(WorkerStartError, match=r"^a worker died while it started \(.*run the command again$") as caught:
        executor.device_kinds()
    with pytest.raises(WorkerStartError):
        list(executor.run(units(0)))
    executor.close()
    assert "\n" not in str(caught.value)
    assert toy.store.list("quarantine/") == []


@session
def test_a_worker_that_died_idling_is_replaced_and_blames_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two rounds a worker is killed from outside: the next unit is done elsewhere without a death."""
    monkeypatch.setattr("pipeline.execute.workers.IDLE_S", 0.2)
    toy = Toy(tmp_path)
    executor = on_ray(toy)
    list(executor.run(units(0)))
    pid = int(toy.tries(0)[0].split()[0])
    os.kill(pid, signal.SIGKILL)
    assert is_gone(pid)
    time.sleep(0.3)
    assert [r.name for r in executor.run(units(1))] == [name(1)]
    executor.close()
    assert toy.store.list("quarantine/") == []


def refused(executor: RayExecutor) -> str:
    """Return the line that a run ends with for which no worker is to be had."""
    with pytest.raises(WorkerStartError) as caught:
        list(executor.run(units(1)))
    executor.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@session
def test_memory_and_labels_are_booked_and_what_no_node_has_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker whose node has both works, and holds its memory; one that no node could hold is not waited for."""
    import ray

    toy = Toy(tmp_path)
    node = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    before_bytes = ray.available_resources()["memory"]
    executor = on_ray(toy, demand=Demand(0.5, memory_gib=0.25, labels=node))
    assert [r.name for r in executor.run(units(0))] == [name(0)]
    deadline_s = time.monotonic() + 60.0
    while ray.available_resources()["memory"] > before_bytes - GIB / 4:
        assert time.monotonic() < deadline_s, "its memory is not booked"
        time.sleep(0.1)
    executor.close()

    monkeypatch.setattr("pipeline.execute.workers.ROOM_S", 1.0)
    monkeypatch.setattr("pipeline.execute.workers.LACK_S", 0.2)
    much = "16000 GiB of memory for a worker (compute.memory_gib); the most is "
    for demand, lack in (
        (Demand(labels={"pool": "elsewhere"}), "no node has the label pool=elsewhere (compute.node_labels)"),
        (Demand(memory_gib=16_000), f"no node has {much}"),
    ):
        caplog.clear()
        told = refused(on_ray(toy, demand=demand))
        assert told.startswith("no worker found room on the cluster for 1 s: 1 are wanted, each with 1 CPU and ")
        assert f" have room for 0 ({lack}" in told
        (warning,) = caplog.messages
        assert warning.startswith(lack)
        assert warning.endswith("; waiting up to 1 s for one that has to join")
    # the one label by which Ray itself sees that waiting is vain
    told = refused(on_ray(toy, demand=Demand(memory_gib=16_000, labels=node)))
    assert told.startswith(f"no node with these labels has {much}")
    assert toy.tries(1) == []


class Shifty(Toy):
    """Builds workers of another device kind once unit 0 was tried."""

    def __call__(self) -> ToyWorker:
        """Build a worker."""
        return ToyWorker(replace(self, kind="other") if self.tries(0) else self)


@session
def test_a_newcomer_of_another_device_kind_is_turned_away(tmp_path: Path) -> None:
    """After the caller was told the device kinds, a replacement of another kind gets no unit."""
    executor = on_ray(Shifty(tmp_path, {0: "kill"}))
    assert executor.device_kinds() == {"toy"}
    with pytest.raises(WorkerStartError, match="of device kind other, the others are of toy"):
        list(executor.run(units(0)))
    executor.close()
    assert len(Shifty(tmp_path).tries(0)) == 1


@session
def test_after_the_grace_a_unit_that_does_not_end_is_left_and_its_worker_killed(tmp_path: Path) -> None:
    """SIGTERM, half a second of grace, and the run is over with the worker's process gone, whatever it was doing."""
    toy, stop = Toy(tmp_path, {0: "hang"}), Stop()
    executor = on_ray(toy, stop=stop)
    executor.device_kinds()
    begun_s = time.monotonic()
    with (
        on_signals(stop, grace_s=0.5),
        sigterm_once(lambda: bool(toy.tries(0))),
        pytest.raises(InterruptedRunError, match="SIGTERM"),
    ):
        list(executor.run(units(0, 1)))
    executor.close()
    # the unit would go on for ten minutes, and the limit would take it back after one
    assert time.monotonic() - begun_s < 50.0
    assert is_gone(int(toy.tries(0)[0].split()[0]))
    assert toy.tries(1) == []


def drive(mode: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a scene of `ray_driver.py` with a Ray of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.execute.ray_driver", mode, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.slow
def test_sigterm_drains_a_run_on_a_ray_of_its_own(tmp_path: Path) -> None:
    """Ray's own SIGTERM handler does not end the run before the units in hand are done; the exit status says 143."""
    ended = drive("stop", tmp_path)
    assert ended.returncode == 143, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    toy = Toy(tmp_path)
    begun = [n for n in range(40) if toy.tries(n)]
    assert told["error"].startswith("stopped by SIGTERM")
    assert 1 <= len(told["done"]) < 20
    left = {name(n) for n in begun if toy.store.size(receipt_path(name(n)))}
    assert set(told["done"]) <= left
    # each worker may have begun the unit that waited behind the one in hand
    assert len(left) <= len(told["done"]) + len(told["pids"])


@pytest.mark.slow
def test_a_death_that_ray_tells_late_is_a_death_all_the_same(tmp_path: Path) -> None:
    """Where the machine is so busy that four seconds pass before Ray tells of it, a killed worker is no lost node."""
    ended = drive("late", tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(told["done"]) == [name(n) for n in range(6)]
    assert told["deaths"] == [f"quarantine/{name(0)}-1.json"], told["lost"]


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["node", "raylet", "all", "drained"])
def test_a_lost_node_costs_no_unit_a_death(tmp_path: Path, mode: str) -> None:
    """Killed at one blow, silent, stopped in order, or all at once and a new one coming: all is done, none blamed."""
    ended = drive(mode, tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(told["done"]) == [name(n) for n in range(40)]
    assert told["deaths"] == []
    assert len(told["pids"]) >= 2


@pytest.mark.soak
def test_a_node_that_joins_is_put_to_work(tmp_path: Path) -> None:
    """Without a number of workers, the pool grows with the cluster."""
    ended = drive("grow", tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(told["done"]) == [name(n) for n in range(40)]
    assert len(told["pids"]) == 2
