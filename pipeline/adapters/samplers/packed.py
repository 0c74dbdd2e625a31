"""Vectors packed on the hypersphere, block by block: identities lie further apart than draws do.

Candidates are packed in blocks of `size`, each against all blocks before it, so a candidate's vector follows from the
seed, the bank and these options alone. Each cell has a packing of its own: towards which cells candidates are drawn
depends on what enrolment found. Between cells the vector separation of enrolment decides, as it does for all samplers.

A process works a block out when it first needs it, with those before it: n candidates cost n^2 / 2 products a step.
Fit for tens of thousands of candidates per cell.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.samplers.population import gaussian_of, name_of
from pipeline.domain.packing import Packing, pack
from pipeline.domain.ports import Bank
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32
from pipeline.domain.rng import Key, Stream


class PackedSamplerOptions(Node):
    """Draws from the bank's Gaussians, pushed apart by gradient and held near where people are."""

    use: Literal["packed"]
    size: Annotated[int, Field(ge=2, le=8192)] = 1024
    """Candidates of a block, which move together; later blocks move away from them."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 30
    """Gradient steps; more drive points further apart, and further from typical faces."""
    sharpness: Annotated[float, Field(gt=0, le=80)] = 20.0
    """How much the nearest points count beside the others."""
    manifold: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Weight of staying as near to the mean as a typical draw; 0 lets points go where they like."""


class PackedSampler:
    """Implements `ports.IdentitySampler` over a bank, for spaces of unit vectors and raw ones alike."""

    epoch = 1
    """Raised by hand when vectors change under equal seed, bank and options."""

    draws_from_population = True

    def __init__(self, options: PackedSamplerOptions, bank: Bank, run_seed: int) -> None:
        """Keep the bank and the seed from which blocks start."""
        self._options, self._bank, self._run_seed = options, bank, run_seed
        self._how = Packing(options.steps, options.sharpness, options.manifold)
        self.space, self.card = bank.space, bank.card
        self.candidates: int | None = None
        self._blocks: dict[str, list[Float32]] = {}

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one vector, shape (D,), float32, packed within `cell`, or among everyone where it is unknown.

        The key handed in is not drawn from: a packed vector has one for each point of its block.
        """
        block, place = divmod(candidate, self._options.size)
        mean, factor = gaussian_of(self._bank, cell)
        done = self._blocks.setdefault(name_of(self._bank, cell), [])
        while len(done) <= block:
            first = len(done) * self._options.size
            start = np.stack([self._start(n, len(mean)) for n in range(first, first + self._options.size)])
            earlier = np.concatenate(done) if done else np.empty((0, len(mean)), np.float32)
            done.append(pack(start, mean, factor, earlier, self._how))
        vector: Float32 = done[block][place].copy()
        if self.space.norm == "unit":
            return vector
        # a raw space has lengths of its own: that of a typical draw
        length = np.sqrt(float(mean @ mean) + float(np.einsum("ij,ij->", factor, factor)))
        raw: Float32 = (vector * length).astype(np.float32)
        return raw

    def _start(self, candidate: int, dimensions: int) -> np.ndarray:
        return Key(self._run_seed, Stream.PACKING, candidate).generator().standard_normal(dimensions)
