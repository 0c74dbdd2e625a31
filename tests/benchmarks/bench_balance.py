"""How long a balanced selection takes: 1,000,000 candidates over 7 x 2 x 9 cells, on one thread.

    python -m tests.benchmarks.bench_balance [--candidates N]

The tallies, the integer programme for the largest set, its dual prices and the choice inside each cell are timed
together; the target is under 2 s. Populations differ in how uneven their cells are.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from pipeline.adapters.machine import single_thread
from pipeline.domain.balance import Targets, targets_of
from pipeline.domain.selection import largest_balanced, rank_in_cell, stable_order

KNOWN = {
    "perceived_race_fairface7": tuple("abcdefg"),
    "perceived_gender_presentation": ("feminine", "masculine"),
    "apparent_age_group": tuple("123456789"),
}
EVEN = {f: {v: 1 / len(values) for v in values} for f, values in KNOWN.items()}


def bench(name: str, targets: Targets, unevenness: float, candidates: int) -> None:
    """Print how long one selection took and how many it chose."""
    rng = np.random.default_rng(7)
    shares = rng.dirichlet(np.full(len(targets.cells), 1 / unevenness))
    cells = rng.choice(len(shares), candidates, p=shares)
    quality = rng.random(candidates)
    numbers = np.arange(candidates, dtype=np.uint64)
    started_s = time.perf_counter()
    tally = np.bincount(cells, minlength=len(shares)).tolist()
    largest = largest_balanced(targets, dict(zip(targets.cells, tally, strict=True)), rounded=True)
    wanted = np.array([largest.counts[cell] for cell in targets.cells])
    chosen = np.flatnonzero(rank_in_cell(cells, quality, stable_order(1, numbers)) < wanted[cells])
    took_s = time.perf_counter() - started_s
    print(f"{name:34s} {took_s:6.2f} s   {len(chosen):9,} chosen of {candidates:,} over {len(shares)} cells")


def main() -> None:
    """Time every kind of target on even and uneven populations."""
    single_thread()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    candidates = parser.parse_args().candidates
    by = list(KNOWN)
    kinds = {
        "joint": targets_of(by, KNOWN, None, None),
        "marginal": targets_of(by, KNOWN, None, EVEN),
        "marginal within 2 points": targets_of(by, KNOWN, None, EVEN, tolerance=0.02),
    }
    for name, targets in kinds.items():
        for population, unevenness in (("even", 0.05), ("uneven", 3.0)):
            bench(f"{name}, {population} population", targets, unevenness, candidates)


if __name__ == "__main__":
    main()
