"""What the measures without weights cost per face, on one core, at 112 pixels: each alone, and all together.

Run as `make bench`. What is counted is processor time, which is that of one core however busy the machine is; rounds
alternate between the measures and the table shows medians. The aim is 1,000 faces a second for all together.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from jobs import wiring
from jobs.components import COMPONENTS
from pipeline.domain.rng import Key, Stream
from pipeline.flow.parts import measure_fixed

MEASURES = ("copy-hash", "lighting", "natural-colour", "sharpness", "skin-tone")
FACES, ROUNDS = 256, 15
AIM_PER_S = 1000


def main() -> None:
    """Time the measures in batches of 8 and 32 and print the table."""
    faces = Key(1, Stream.PREVIEW).generator().integers(0, 256, (FACES, 112, 112, 3), dtype=np.uint8)
    parts = {n: wiring.build("measures", wiring.load(COMPONENTS["measures"][n][0])(use=n)) for n in MEASURES}
    print(f"{'measure':<18}{'batch':>6}{'us/face':>10}{'faces/s':>10}")
    for batch in (8, 32):
        spent: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(ROUNDS + 1):
            for name, part in parts.items():
                start = time.process_time()
                measure_fixed((part,), faces, batch)
                spent[name].append((time.process_time() - start) / FACES)
        # the first round fills the tables
        median = {name: statistics.median(times[1:]) for name, times in spent.items()}
        together = sum(median.values())
        for name, seconds in [*median.items(), ("all together", together)]:
            print(f"{name:<18}{batch:>6}{1e6 * seconds:>10.1f}{1 / seconds:>10.0f}")
        print(f"{'':<18}{'':>6}aim: {AIM_PER_S} faces/s, {'reached' if 1 / together >= AIM_PER_S else 'MISSED'}")


if __name__ == "__main__":
    main()
