"""Photographs in place of a generator: a curated dataset's identities are people found, and nothing is ever made.

The parts of a run name a generator, a bank and a sampler; where images exist already all three are this one, which
knows the space that identities live in, the judge's, and refuses to make anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.curation import PhotographsOptions
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import Cell, Conditions, Float32, UInt8
from pipeline.domain.space import Space

NOTHING_MADE = "the images of a curated dataset come from its sources, and none is made"


class Photographs:
    """Implements `ports.Generator`, `ports.IdentitySampler` and `ports.Bank` for datasets in which nothing is made."""

    epoch = 1
    noise_shape = (1, 1, 1)
    condition_names: tuple[str, ...] = ()
    condition_ranges: Mapping[str, tuple[float, float]] = {}
    candidates: int | None = None
    gaussians: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
    card = ModelCard("photographs", sha256_hex(b"photographs"), "that of each source", "sources", True, True, 1)

    def __init__(self, options: PhotographsOptions, *_: Any) -> None:
        """Take the judge's space.

        Raises:
            UserError: it is not known; the recipe's reader fills it in.
        """
        if options.space is None:
            raise UserError("generator: photographs is no generator; use a recipe of kind: curate")
        self.space: Space = options.space
        self.alignment: str | None = options.space.alignment
        self.image_px = int(options.space.alignment.rpartition("-")[2])

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Refuse: raises UserError."""
        raise UserError(NOTHING_MADE)

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Refuse: raises UserError."""
        raise UserError(NOTHING_MADE)
