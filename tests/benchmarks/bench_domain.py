"""How fast the ground is: separation, nearest other, filters. Run with `make bench`; prints one row per case."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from filters.own_template import OwnTemplate
from filters.sharpness import Sharpness
from pipeline.domain.records import Float32, Sample, unit_rows
from pipeline.domain.separation import max_cos_to_others, separate


def best_of(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest wall time of a few runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def rows(count: int, dims: int) -> Float32:
    """Return random unit rows."""
    return unit_rows(np.random.default_rng(count).standard_normal((count, dims)), "rows")


def row(name: str, items: int, seconds: float) -> None:
    """Print one line of the table."""
    print(f"{name:<44} {items:>8} {seconds:>9.3f} {items / seconds:>12.0f}")


def main() -> None:
    """Measure and print the table."""
    print(f"{'case':<44} {'items':>8} {'seconds':>9} {'items/s':>12}")
    for count in (1000, 4000, 16_000):
        emb = rows(count, 512)
        row(f"separate {count} x 512 at 0.5", count, best_of(lambda emb=emb: separate(emb, 0.5), 1))
    templates, probes = rows(10_000, 128), rows(64, 128)
    own = np.arange(64)
    row("nearest of 10000 x 128", 64, best_of(lambda: max_cos_to_others(probes, templates, own)))
    filters = (OwnTemplate(threshold_cos=0.4), Sharpness(min_sharpness=0.3))
    one = Sample("i00000000-s0000-a00", 0, 0, 0, {}, {"own_template_cos": 0.5, "sharpness": 0.5}, probes[0])
    row("two filters on a sample", 20_000, best_of(lambda: [f.judge(one) for _ in range(20_000) for f in filters]))


if __name__ == "__main__":
    main()
