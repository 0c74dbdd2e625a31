"""Vectors from the principal axes of a Gaussian: what few people have in common is left out."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.adapters.samplers.population import gaussian_of, handed_over, name_of
from pipeline.domain.banking import axes_for, principal_axes
from pipeline.domain.ports import Bank
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32

_DEFAULT_VARIANCE = 0.95


class PcaSamplerOptions(Node):
    """Vectors from the leading principal axes of the bank's Gaussians; give `variance` or `components`."""

    use: Literal["pca"]
    variance: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the variance that the kept axes hold; 0.95 where neither is given."""
    components: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Axes that are kept, at most as many as there are dimensions."""
    scale: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Multiplies the fitted standard deviations; below 1 people grow more typical and more alike."""

    @model_validator(mode="after")
    def _one_of_them(self) -> PcaSamplerOptions:
        if self.variance is not None and self.components is not None:
            raise ValueError("give `variance` or `components`, not both")
        return self


class PcaSampler:
    """Implements `ports.IdentitySampler` over a bank."""

    epoch = 1
    """Raised by hand when vectors change under equal keys and bank."""

    draws_from_population = True

    def __init__(self, options: PcaSamplerOptions, bank: Bank, run_seed: int) -> None:
        """Keep the bank; axes are found at the first draw from each of its Gaussians."""
        self._options, self._bank = options, bank
        self.space, self.card = bank.space, bank.card
        self.candidates: int | None = None
        self._kept: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one vector, shape (D,), float32, drawn towards `cell`, or from everyone where it is unknown."""
        mean, axes = self._axes(cell)
        z = rng.standard_normal(axes.shape[1])
        return handed_over(mean + self._options.scale * np.cumsum(axes * z, axis=1)[:, -1], self.space)

    def _axes(self, cell: Cell) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the mean and the kept axes, each as long as its standard deviation, (D, K)."""
        mean, factor = gaussian_of(self._bank, cell)
        name = name_of(self._bank, cell)
        if name not in self._kept:
            axes, std = principal_axes(factor)
            wanted = self._options.components
            keep = axes_for(std, self._options.variance or _DEFAULT_VARIANCE) if wanted is None else wanted
            self._kept[name] = mean, (axes * std)[:, :keep]
        return self._kept[name]
