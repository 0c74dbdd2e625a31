"""The phantom bank: identity means of rendered people, fitted as one Gaussian over all and one per cell."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom.shipped import check_digest, model_card, phantom_space
from pipeline.domain.recipe import Node


class PhantomBankOptions(Node):
    """The bank of rendered identity means that ships with facemint."""

    use: Literal["phantom"]


class PhantomBank:
    """Fitted Gaussians: `all` and one per cell, each a mean (D,) and a Cholesky factor (D, D), float64."""

    def __init__(self, options: PhantomBankOptions | None = None) -> None:
        """Read the card; the arrays load when first asked for."""
        self.card = model_card("bank")
        self.space = phantom_space("conditioning")

    @cached_property
    def gaussians(self) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Return cell name -> (mean, lower Cholesky factor)."""
        from pipeline.adapters.phantom.loading import load_bank

        check_digest("bank")
        bank = load_bank()
        return {
            cell: (bank.mean_CD[n].astype(np.float64), bank.factor_CDD[n].astype(np.float64))
            for n, cell in enumerate(bank.cells)
        }
