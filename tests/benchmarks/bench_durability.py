"""What durability costs: the demo's run on disk, every write flushed, against the same run keeping its bytes in memory.

The two take turns in one process, so that a noisy machine is noisy for both. Prints a table; fails on nothing.

    PYTHONPATH=. python tests/benchmarks/bench_durability.py [--turns 2] [--count 100] [--out DIR]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.ports import Store
from pipeline.execute.run import generate
from pipeline.flow.commit import receipts
from tests.worlds import Silent

VERBS = ("put_if_absent", "put", "put_file", "get", "get_range", "get_many", "size", "list", "entries", "delete")


class Timed:
    """A store that adds up the seconds spent in its verbs."""

    def __init__(self, inner: Store) -> None:
        """Wrap `inner`."""
        self._inner, self.seconds = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute, a verb with a stopwatch."""
        value = getattr(self._inner, name)
        if name not in VERBS:
            return value

        @functools.wraps(value)
        def timed(*args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return value(*args, **more)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def run(store: Store, count: int) -> tuple[float, float, int]:
    """Mint the demo on a store; return wall seconds, seconds inside the store, and candidate images."""
    recipe = wiring.load_recipe("demo", ["compute.executor=inline", f"identities.count={count}"])
    timed: Any = Timed(store)
    started = time.perf_counter()
    counts = generate(wiring.session_on(recipe, timed, Silent())).manifest.counts
    images = counts["make"]["candidates"] + counts["enrol"]["candidates"] * recipe.enrol.probes
    return time.perf_counter() - started, timed.seconds, images


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, default=None, help="a folder on the disk to be measured")
    asked = parser.parse_args()
    walls: dict[str, list[float]] = {"disk": [], "memory": []}
    inside: dict[str, list[float]] = {"disk": [], "memory": []}
    images, fill = 0, 0.0
    for turn in range(asked.turns):
        with tempfile.TemporaryDirectory(dir=asked.out) as folder:
            stores = {"disk": LocalStore(Path(folder) / "set"), "memory": MemoryStore()}
            for place in ("disk", "memory") if turn % 2 == 0 else ("memory", "disk"):
                wall, seconds, images = run(stores[place], asked.count)
                walls[place].append(wall)
                inside[place].append(seconds)
            made = [r for n, r in receipts(stores["disk"]).items() if n.startswith("make-")]
            fill = sum(r.counts.candidates for r in made) / sum(r.run["batch_rows"] for r in made)
    print(f"{'':8} {'wall s':>8} {'in store s':>11} {'share':>7}   ({images:,} candidate images, {asked.turns} turns)")
    for place, taken in walls.items():
        wall, seconds = statistics.median(taken), statistics.median(inside[place])
        print(f"{place:8} {wall:>8.1f} {seconds:>11.2f} {100 * seconds / wall:>6.1f}%")
    ratio = statistics.median(d / m for d, m in zip(walls["disk"], walls["memory"], strict=True))
    print(f"disk / memory {ratio:.3f}; batch fill over making {100 * fill:.1f} %")


if __name__ == "__main__":
    main()
