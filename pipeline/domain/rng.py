"""The one place where randomness is born: a key becomes a numpy generator, and nothing else does.

A draw depends on what is drawn (run seed, stream, identity, slot, attempt) and never on a worker, a batch, a
clock or a global generator. Keys go through `numpy.random.SeedSequence` with a spawn key, so that neighbouring
keys give independent streams (adding an index to a seed does not: seed 42 index 7 would equal seed 43 index 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

KEY_LIMIT = 2**32
"""Every part of a key lies in [0, 2**32): numpy hashes larger spawn keys into several words."""


class Stream(IntEnum):
    """What a draw is for. Numbers are part of every dataset ever made: append, never renumber."""

    CANDIDATE_VECTOR = 1
    PROBE_NOISE = 2
    PROBE_CONDITION = 3
    SAMPLE_NOISE = 4
    SAMPLE_CONDITION = 5
    EXPORT_ORDER = 6
    PREVIEW = 7
    CONE = 8
    TWIN = 9
    PACKING = 10
    CALIBRATION = 11
    EVALUATION = 12
    PAIRS = 13
    SPLIT = 14
    SPACE_MAP = 15
    EXPRESSION = 16


@dataclass(frozen=True, slots=True)
class Key:
    """Names one draw; equal keys give equal numbers on every machine with the same numpy."""

    run_seed: int
    stream: Stream
    identity: int = 0
    slot: int = 0
    attempt: int = 0

    def __post_init__(self) -> None:
        """Refuse parts outside [0, 2**32)."""
        for part in (self.run_seed, self.identity, self.slot, self.attempt):
            if not 0 <= part < KEY_LIMIT:
                raise ValueError(f"key part {part} is outside [0, 2**32): {self}")

    def generator(self) -> np.random.Generator:
        """Return a fresh Philox generator for this key."""
        sequence = np.random.SeedSequence(
            self.run_seed, spawn_key=(int(self.stream), self.identity, self.slot, self.attempt)
        )
        return np.random.Generator(np.random.Philox(sequence))
