"""Where a stage computes: on the processor, or on a GPU.

A stage runs inside `torch.device(...)`, so whatever torch makes lies there; what comes from numpy is put there by
`tensor_of`. Random numbers and initial weights are always drawn on the processor, so that a device changes what a
training rounds, and not what it was given. A GPU may add in any order: a training that was stopped there ends alike,
and not with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def tensor_of(array: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor on the device of the stage; on the processor it shares its memory, where that may be
    written to.
    """
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(torch.get_default_device())
