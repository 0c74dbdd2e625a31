"""Vectors from a full-covariance Gaussian."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.samplers.population import gaussian_of, handed_over
from pipeline.domain.ports import Bank
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32


class GaussianSamplerOptions(Node):
    """Vectors from a Gaussian fitted to the bank, per cell when balance steers."""

    use: Literal["gaussian"]
    scale: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Multiplies the fitted standard deviations; below 1 people grow more typical and more alike."""


class GaussianSampler:
    """Implements `ports.IdentitySampler` over a bank."""

    epoch = 1
    """Raised by hand when vectors change under equal keys and bank."""

    draws_from_population = True

    def __init__(self, options: GaussianSamplerOptions, bank: Bank, run_seed: int) -> None:
        """Keep the bank; its arrays load at the first draw. What it draws follows from the key handed in alone."""
        self._scale, self._bank = options.scale, bank
        self.space, self.card = bank.space, bank.card
        self.candidates: int | None = None

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one vector, shape (D,), float32, drawn towards `cell`, or from everyone where it is unknown.

        Summation runs in index order in float64, so a vector never depends on how many are drawn together.
        """
        mean, factor = gaussian_of(self._bank, cell)
        z = rng.standard_normal(len(mean))
        return handed_over(mean + self._scale * np.cumsum(factor * z, axis=1)[:, -1], self.space)
