"""What one image costs in each part of the phantom world, on one thread: generate, encode, judge, measure.

Run as `make bench`. Rounds alternate between the parts, so that a busy machine slows all of them alike; the table shows
medians and each part's share of generation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from jobs import wiring
from pipeline.adapters.machine import single_thread
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.records import Cell
from pipeline.domain.rng import Key, Stream
from pipeline.flow.make import generate_fixed
from pipeline.flow.parts import embed_fixed, measure_fixed

ROUNDS = 7


def main() -> None:
    """Time the parts and print the table."""
    single_thread()
    parts = wiring.build_parts(wiring.load_recipe("demo"), MemoryStore(), None, "bench")
    batch = parts.generator_batch
    keys = [Key(1, Stream.SAMPLE_NOISE, i) for i in range(batch)]
    vectors = np.stack([parts.sampler.draw(0, Cell(()), k.generator()) for k in keys])
    conditions = [{"yaw_deg": 0.0}] * batch
    faces = generate_fixed(parts, vectors, conditions, keys)
    stored = [parts.codec.encode(f) for f in faces]
    work: dict[str, Callable[[], object]] = {
        "generate": lambda: generate_fixed(parts, vectors, conditions, keys),
        "encode + decode JPEG": lambda: [parts.codec.decode(parts.codec.encode(f)) for f in faces],
        "judge (embed)": lambda: embed_fixed(parts.judge, faces, parts.judge_batch),
        "measures": lambda: measure_fixed(parts.measurers, faces, parts.judge_batch),
    }
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            spent[name].append((time.perf_counter() - start) / batch)
    # the first round loads and warms up
    median = {name: statistics.median(times[1:]) for name, times in spent.items()}
    print(f"{'part':<24}{'ms/image':>10}{'images/s':>10}{'of generate':>14}")
    for name, seconds in [*median.items(), ("all together", sum(median.values()))]:
        print(f"{name:<24}{1000 * seconds:>10.2f}{1 / seconds:>10.1f}{seconds / median['generate']:>13.2f}x")
    print(f"mean size of a stored image: {statistics.mean(map(len, stored)):.0f} bytes")


if __name__ == "__main__":
    main()
