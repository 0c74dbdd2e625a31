"""Vectors drawn evenly on the sphere: for comparison, and for generators that were trained on such vectors.

In high dimensions they are nearly at right angles to each other, and nearly all of them lie off the manifold of
identities: most generators make nobody of them, and templates of what they make lie nearer together than the vectors.
A Gaussian, or packing along one, keeps to where people are.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.samplers.population import handed_over
from pipeline.domain.errors import RecipeError
from pipeline.domain.ports import Bank
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32


class SphereSamplerOptions(Node):
    """Vectors drawn evenly on the sphere, whoever lives where."""

    use: Literal["sphere"]
    length: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Length of the vectors; needed where the space keeps lengths (norm: raw), and meaningless elsewhere."""


class SphereSampler:
    """Implements `ports.IdentitySampler` over a space."""

    epoch = 1
    """Raised by hand when vectors change under equal keys and space."""

    def __init__(self, options: SphereSamplerOptions, bank: Bank, run_seed: int) -> None:
        """Keep the bank's space; its population is not looked at."""
        self.space, self.card = bank.space, bank.card
        self.candidates: int | None = None
        if (options.length is None) == (bank.space.norm == "raw"):
            is_ = "keeps lengths: give the length its vectors have" if options.length is None else "has unit vectors"
            raise RecipeError(f"identities.sampler.length: got {options.length}; the space {bank.space.name!r} {is_}")
        self._length = options.length or 1.0

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one vector, shape (D,), float32; `cell` is not steered towards."""
        z = rng.standard_normal(self.space.dimensions)
        return handed_over(self._length * z / float(np.sqrt(np.cumsum(z * z)[-1])), self.space)
