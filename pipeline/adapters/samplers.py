"""Identity samplers: where candidate vectors come from.

The means of a recogniser's identities fill a small part of their sphere; vectors drawn evenly on the sphere lie off it
and come out as nobody. A full-covariance Gaussian fitted to the means, per cell where a cell is asked for, stays on it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.domain.ports import Bank
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32, unit_rows


class GaussianSamplerOptions(Node):
    """Vectors from a Gaussian fitted to the bank, per cell when balance steers."""

    use: Literal["gaussian"]
    scale: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Multiplies the fitted standard deviations; below 1 people grow more typical and more alike."""


class GaussianSampler:
    """Implements `ports.IdentitySampler` over a bank."""

    epoch = 1
    """Raised by hand when vectors change under equal keys and bank."""

    def __init__(self, options: GaussianSamplerOptions, bank: Bank) -> None:
        """Keep the bank; its arrays load at the first draw."""
        self._scale, self._bank = options.scale, bank
        self.space, self.card = bank.space, bank.card
        self.candidates: int | None = None

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one unit vector, shape (D,), float32, drawn towards `cell`, or from everyone where it is unknown.

        Summation runs in index order in float64, so a vector never depends on how many are drawn together.
        """
        mean, factor = self._bank.gaussians.get(str(cell), self._bank.gaussians["all"])
        z = rng.standard_normal(len(mean))
        raw = mean + self._scale * np.cumsum(factor * z, axis=1)[:, -1]
        vector: Float32 = unit_rows(raw[None, :], "sampled identity vector")[0]
        return vector
