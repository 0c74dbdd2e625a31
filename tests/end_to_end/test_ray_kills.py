"""Kill everywhere, on Ray: the driver, a worker, a node; resumed where needed, the dataset is that of inline."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.examine import verify
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from tests.end_to_end.commands import (
    command,
    end,
    freeze,
    receipts_in,
    require_undisturbed,
    run,
    start,
    wait_for,
    written,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ON_RAY = ("--executor", "ray", "--workers", "2")
POINTS = {"enrol-": 2, "enrolled-": 1, "make-": 6, "audit-": 2, "": 40}
"""Stage of receipts -> how many there are when the kill comes; the last are receipts of any stage."""
EACH_POINT = [pytest.param(stage, id=f"{stage}{n}") for stage, n in POINTS.items()]


def children_of() -> dict[int, list[int]]:
    """Return process -> its children, of every process of this machine that can be seen."""
    found: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # the name in brackets may hold anything, spaces and brackets too
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(stat.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes below one, itself left out."""
    children, found = children_of(), [pid]
    for known in found:
        found += children.get(known, [])
    return found[1:]


def ray_workers(pid: int) -> list[int]:
    """Return the processes below a driver that hold an actor of ours, lowest number first."""
    out = []
    for child in descendants(pid):
        with suppress(OSError):
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::_RayWorker"):
                out.append(child)
    return sorted(out)


def lives(pid: int) -> bool:
    """Return whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def orphans() -> Iterator[list[int]]:
    """Collect processes that a killed driver may leave; what is left of them a moment later is killed."""
    pids: list[int] = []
    yield pids
    deadline_s = time.monotonic() + 3
    while any(map(lives, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for pid in filter(lives, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def require_sound(out: Path) -> None:
    """Fail unless a dataset is the undisturbed one and verifies."""
    require_undisturbed(LocalStore(out))
    assert not verify(LocalStore(out), Segments(), JpegCodec(), deep=True)["problems"]


def test_a_killed_worker_and_then_a_killed_driver_change_nothing(tmp_path: Path, orphans: list[int]) -> None:
    """SIGKILL for a worker, then for the driver, in one run, and the same command again: the bytes of inline."""
    recipe, out = written(tmp_path), tmp_path / "out"
    driver = start(command(recipe, out, *ON_RAY))
    wait_for(lambda: receipts_in(out, "make-") >= 2, driver)
    # a process that is writing its title has none for a moment
    wait_for(lambda: len(ray_workers(driver.pid)) == 2, driver)
    os.kill(ray_workers(driver.pid)[1], signal.SIGKILL)
    wait_for(lambda: receipts_in(out, "make-") >= 6, driver)
    # before it is asked what it started, which takes its time on a busy machine
    freeze(driver)
    orphans += descendants(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert end(driver)[0] == -signal.SIGKILL
    assert not list(out.glob("versions/*/manifest.json"))
    status, errors = run(command(recipe, out, *ON_RAY))
    assert status == 0, errors
    require_sound(out)


@pytest.mark.soak
@pytest.mark.parametrize("stage", EACH_POINT)
def test_a_killed_driver_is_resumed_to_the_bytes_of_inline(tmp_path: Path, orphans: list[int], stage: str) -> None:
    """SIGKILL for the process that runs the command, and the same command again: no committed unit is worked twice."""
    recipe, out = written(tmp_path), tmp_path / "out"
    driver = start(command(recipe, out, *ON_RAY))
    wait_for(lambda: receipts_in(out, stage) >= POINTS[stage], driver)
    orphans += descendants(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert end(driver)[0] == -signal.SIGKILL
    assert not list(out.glob("versions/*/manifest.json"))
    committed = {path: path.stat().st_mtime_ns for path in out.glob("receipts/*.json")}
    assert orphans, "the driver had a Ray of its own"
    status, errors = run(command(recipe, out, *ON_RAY))
    assert status == 0, errors
    assert {path: path.stat().st_mtime_ns for path in committed} == committed
    require_sound(out)


@pytest.mark.soak
@pytest.mark.parametrize("stage", EACH_POINT)
def test_a_killed_worker_costs_nothing(tmp_path: Path, stage: str) -> None:
    """SIGKILL for one of two workers: the run goes on by itself, and one death at most is written down."""
    recipe, out = written(tmp_path), tmp_path / "out"
    driver = start(command(recipe, out, *ON_RAY))
    wait_for(lambda: receipts_in(out, stage) >= POINTS[stage], driver)
    workers = ray_workers(driver.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    status, errors = end(driver)
    assert status == 0, errors
    assert "Traceback" not in errors
    deaths = [json.loads(path.read_bytes()) for path in out.glob("quarantine/*.json")]
    assert [death["worker"]["pid"] for death in deaths] in ([], workers[:1])
    require_sound(out)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("units", "how"), [(2, "removed"), (10, "silent"), (14, "removed"), (20, "silent"), (30, "removed")]
)
def test_a_lost_node_costs_nothing(tmp_path: Path, units: int, how: str) -> None:
    """One of two nodes is lost, announced or in silence: the run ends by itself on the other, and nobody is blamed."""
    recipe, out = written(tmp_path), tmp_path / "out"
    driver = start([sys.executable, "-m", "tests.end_to_end.ray_nodes", str(recipe), str(out), str(units), how])
    status, errors = end(driver)
    assert status == 0, errors
    hosts = {json.loads(path.read_bytes())["run"]["pid"] for path in out.glob("receipts/*-g0-*.json")}
    assert len(hosts) >= 2, "both nodes had worked"
    assert list(out.glob("quarantine/*.json")) == []
    require_sound(out)
