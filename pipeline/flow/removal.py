"""Removing many files, one look at the lease after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.flow.parts import Parts

LOOK_S = 0.25
"""For so long a look at the lease counts. One that was paused while it removed, and was replaced, then finds out before
it takes the next file: those of whoever replaced it may have the same names."""


def remove(parts: Parts, paths: Iterable[str]) -> None:
    """Remove files in the order given.

    Raises:
        LeaseHeldError: another run took the dataset over; the file in hand may be gone, no further one is.
        StoreError: a file could not be removed.
    """
    looked_s = -math.inf
    for path in paths:
        if abs(parts.clock.now_s() - looked_s) >= LOOK_S:
            parts.guard()
            looked_s = parts.clock.now_s()
        parts.store.delete(path)
    parts.guard()
