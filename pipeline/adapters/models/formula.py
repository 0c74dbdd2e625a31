"""Made-up weights that follow from tensor names by formula: what rehearsals and golden tests run published networks on.

Nothing is trained and nothing is downloaded: a tensor is a function of its name and shape alone, so two machines, and
another program that follows the same rules, have equal networks. Images made with them mean nothing.

Rules, the first that applies (all arithmetic in float32; x is a standard normal draw from Philox, keyed by the CRC-32
of the name; `leaf` is what follows the last dot):

1. `position_ids` and `num_batches_tracked` are integers: 0, 1, 2... and 0
2. two or more axes, leaf `B` (an up-projection of LoRA): x / sqrt(fan_in) / 4, fan_in the product of all axes but one
3. two or more axes: x / sqrt(fan_in)
4. leaf `running_mean`: 0.02 x
5. leaf `running_var`: 1 + 0.1 |x|
6. name ends in `prelu.weight`: 0.25 + 0.05 x
7. leaf `weight`: 1 + 0.1 x
8. leaf `bias`: 0.02 x
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import ModelError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.records import Float32
from pipeline.domain.weights import WeightsRef

if TYPE_CHECKING:
    from torch import Tensor

SCHEME = "formula:"
EPOCH = 1
"""Raised by hand when the rules change: it is part of every digest."""


class FormulaWeights:
    """Implements `domain.weights.Weights` without any file: references are `formula:NAME`, the name says what for.

    References of one name are equal weights, and their digests are equal; the name enters no number, as the tensors'
    own names do.
    """

    def path(self, ref: WeightsRef) -> Path:
        """Raise ModelError: there is no file."""
        raise ModelError(f"{ref.uri}: weights by formula have no file; this part cannot be rehearsed with them")

    def sha256(self, ref: WeightsRef) -> str:
        """Return a digest of the rules and the reference's name, which no file has."""
        return sha256_hex(f"facemint formula {EPOCH}: {ref.uri.removeprefix(SCHEME)}".encode())

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Tensor]:
        """Return name -> CPU tensor, float32 or int64, of the names and shapes asked for.

        Raises:
            ModelError: no names are given, or no rule knows one of them.
        """
        import torch

        if names is None:
            raise ModelError(f"{ref.uri}: weights by formula follow from names and shapes; ask for them by name")
        return {name: torch.from_numpy(tensor_by_formula(name, tuple(shape))) for name, shape in names.items()}


def tensor_by_formula(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return one tensor, float32 or int64, as the rules above say; raises ModelError where none applies."""
    leaf = name.rpartition(".")[2]
    if leaf == "position_ids":
        return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    x = _normal(name, shape)
    if len(shape) >= 2:
        scaled = x * np.float32(1 / math.sqrt(math.prod(shape[1:])))
        return scaled * np.float32(0.25) if leaf == "B" else scaled
    if leaf == "running_var":
        return np.float32(1) + np.float32(0.1) * np.abs(x)
    offset, factor = _affine(name, leaf)
    return np.float32(offset) + np.float32(factor) * x if offset else np.float32(factor) * x


def _normal(name: str, shape: tuple[int, ...]) -> Float32:
    # the stream is that of the rules, which other programs follow too, and not one of a run: it draws no sample
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return stream.standard_normal(shape, dtype=np.float32)


def _affine(name: str, leaf: str) -> tuple[float, float]:
    if name.endswith("prelu.weight"):
        return 0.25, 0.05
    rules = {"running_mean": (0.0, 0.02), "weight": (1.0, 0.1), "bias": (0.0, 0.02)}
    if leaf not in rules:
        raise ModelError(f"{name}: no rule of the weight formula knows this tensor; it knows {', '.join(rules)}")
    return rules[leaf]


__all__ = ["EPOCH", "SCHEME", "FormulaWeights", "tensor_by_formula"]
