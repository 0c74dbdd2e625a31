"""What samplers share: the Gaussian that a candidate is drawn from, and the form in which its vector is handed over."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import BadVectorError, RecipeError
from pipeline.domain.ports import Bank
from pipeline.domain.records import Cell, Float32, unit_rows
from pipeline.domain.space import Space

Float64 = npt.NDArray[np.float64]


def gaussian_of(bank: Bank, cell: Cell) -> tuple[Float64, Float64]:
    """Return mean and factor of a cell, or of everyone where the bank does not know the cell.

    Raises:
        RecipeError: the bank knows no population at all.
    """
    gaussians = bank.gaussians
    found = gaussians.get(str(cell)) or gaussians.get("all")
    if found is None:
        raise RecipeError(
            f"identities.bank: {bank.card.name} knows no population, and this sampler draws from one; give a fitted "
            "bank (use: file, made by `facemint bank fit`), or use the sampler sphere or files"
        )
    return found


def name_of(bank: Bank, cell: Cell) -> str:
    """Return which of the bank's Gaussians a cell is drawn from."""
    return str(cell) if str(cell) in bank.gaussians else "all"


def handed_over(raw_D: Float64, space: Space) -> Float32:
    """Return a vector as its space has it: of unit length, or of the length it was drawn with.

    Raises:
        BadVectorError: it is not finite, or has no length.
    """
    if space.norm == "unit":
        vector: Float32 = unit_rows(raw_D[None, :], "sampled identity vector")[0]
        return vector
    if not (np.isfinite(raw_D).all() and np.any(raw_D)):
        raise BadVectorError("sampled identity vector: not finite, or without length")
    return raw_D.astype(np.float32)
