"""What Ray costs: two workers on Ray against two bare processes with the same compute. Run with `make bench`.

Each round times both, one right after the other, from the first unit handed out to the last receipt; the table shows
medians over the rounds, and the ratio of each round's pair. Starting Ray, the workers and the processes is left out.
Units that sleep instead of computing show the engine's own cost, also on a machine that others use at the same time.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing as mp
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    OMP_NUM_THREADS="1",
)
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.stop import Stop
from pipeline.flow.quarantine import Quarantine

WORKERS = 2
ROUNDS = 5
CASES = (("compute", 0.2, 40), ("compute", 1.0, 12), ("sleep", 0.2, 40), ("sleep", 1.0, 12))
"""(what a unit does, seconds per unit, units)."""
BLOCK = bytes(1 << 16)


class Burner:
    """A worker whose units hash so many blocks: a fixed amount of compute, whatever the clock says; or that sleeps."""

    def __init__(self, blocks: int, sleep_s: float = 0.0) -> None:
        """Keep how much."""
        self._blocks = blocks
        self._sleep_s = sleep_s

    def device_kind(self) -> str:
        """Name a device."""
        return "burner"

    def work(self, unit: Unit) -> Receipt:
        """Hash and return a receipt."""
        digest = hashlib.sha256()
        for _ in range(self._blocks):
            digest.update(BLOCK)
        time.sleep(self._sleep_s)
        return Receipt(unit.to_dict(), unit.name, digest.hexdigest(), "", Counts(0, 0, 0, {}), ())


def bare(todo: Any, done: Any, make: Callable[[], Burner]) -> None:
    """Take units from a queue until there is none; all that a bare process does."""
    worker = make()
    done.put(worker.device_kind())
    while (unit := todo.get()) is not None:
        done.put(worker.work(unit))


def blocks_per_second() -> int:
    """Return how much a process hashes in a second on this machine."""
    begun_s = time.perf_counter()
    Burner(2000).work(Unit(Stage.MAKE, 0, 0, 0))
    return int(2000 / (time.perf_counter() - begun_s))


def processes_s(todo: Any, done: Any, units: list[Unit]) -> float:
    """Return the seconds in which bare processes work the units."""
    begun_s = time.perf_counter()
    for unit in units:
        todo.put(unit)
    for _ in units:
        done.get()
    return time.perf_counter() - begun_s


def ray_s(executor: RayExecutor, units: list[Unit]) -> float:
    """Return the seconds in which Ray's workers work the units."""
    begun_s = time.perf_counter()
    assert len(list(executor.run(units))) == len(units)
    return time.perf_counter() - begun_s


def measure(what: str, seconds: float, number: int) -> list[tuple[float, float]]:
    """Return (bare, Ray) seconds per round."""
    compute = what == "compute"
    blocks, sleep_s = (int(blocks_per_second() * seconds), 0.0) if compute else (0, seconds)
    make = functools.partial(Burner, blocks, sleep_s)
    units = [Unit(Stage.MAKE, 0, n, 0) for n in range(number)]
    quarantine = Quarantine(MemoryStore(), SystemClock())
    executor = RayExecutor(
        make,
        workers=WORKERS,
        address=None,
        unit_limit_s=600.0,
        quarantine=quarantine,
        stop=Stop(),
    )
    context = mp.get_context("spawn")
    todo, done = context.SimpleQueue(), context.SimpleQueue()
    helpers = [context.Process(target=bare, args=(todo, done, make), daemon=True) for _ in range(WORKERS)]
    try:
        executor.device_kinds()
        for helper in helpers:
            helper.start()
            done.get()
        return [(processes_s(todo, done, units), ray_s(executor, units)) for _ in range(ROUNDS)]
    finally:
        for _ in helpers:
            todo.put(None)
        executor.close()


def main() -> None:
    """Measure and print the table."""
    print(f"{'case':<32} {'bare s':>8} {'Ray s':>8} {'ratio':>7} {'lowest':>7} {'highest':>8}")
    for what, seconds, number in CASES:
        rounds = measure(what, seconds, number)
        ratios = sorted(on_ray / alone for alone, on_ray in rounds)
        alone, on_ray = (statistics.median(column) for column in zip(*rounds, strict=True))
        case = f"{number} x {seconds:g} s {what}, {WORKERS} workers"
        print(
            f"{case:<32} {alone:>8.2f} {on_ray:>8.2f} {statistics.median(ratios):>7.3f} {ratios[0]:>7.3f} "
            f"{ratios[-1]:>8.3f}"
        )


if __name__ == "__main__":
    main()
