"""Block products on torch: bfloat16 on processors that multiply it natively, full float32 on a GPU.

Either only names the pairs that have to be decided in float64, so neither can change a result. Rounding a row x to
bfloat16 moves it by a dx that is measured when the row is held; by Cauchy-Schwarz a dot product then moves by no more
than |dx||y| + |x + dx||dy|, to which the float32 sums add Higham's bound (`pipeline.domain.cosines`). That the sums
are float32 is tried out before the product is used.

Legend: A B rows of a block, E dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.domain.cosines import BlockProduct, NumpyProduct, Pairs, float32_below, rounding_margin
from pipeline.domain.records import UNIT_TOLERANCE, Float32

LEAST_ROWS = (32, 256)
"""A bfloat16 product is filled up to this: torch multiplies very small ones by other code, which may sum otherwise."""
SUBNORMAL = 1e-30
"""More than all that processors lose by taking numbers below 2**-126 for zero."""
TRIED = (1, 21, 171, 1365)
"""Thirds of the dimensions with which sums in float32 are tried out."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A block on its device: rows (perhaps followed by rows of zeros), their number, and how far rounding moved one."""

    rows: torch.Tensor
    count: int
    moved: float


class TorchProduct:
    """Implements `BlockProduct` on a torch device: rows are carried there once, and only pairs come back."""

    def __init__(self, device: str, *, half: bool) -> None:
        """Choose the device; `half` multiplies in bfloat16 there, otherwise in full float32 whatever torch allows."""
        self._device, self._half = torch.device(device), half
        # a GPU wants large blocks; those of a processor stay near its cache
        self.block = (4096, 16_384) if self._device.type == "cuda" else (1024, 4096)

    def hold(self, rows_BE: Float32) -> Held:
        """Return the rows on the device."""
        source = rows_BE if rows_BE.flags.writeable else rows_BE.copy()
        rows = torch.from_numpy(np.ascontiguousarray(source)).to(self._device)
        if not self._half or not len(rows):
            return Held(rows, len(rows), 0.0)
        low = rows.to(torch.bfloat16)
        moved = float(torch.linalg.vector_norm(rows - low.to(torch.float32), dim=1).max())
        return Held(low, len(low), 1.001 * moved + SUBNORMAL)

    def contenders(self, held_AE: Held, held_BE: Held, floor_cos: float) -> Pairs:
        """Return the pairs whose product is not further below the floor than its error."""
        a, b = held_AE, held_BE
        if not a.count or not b.count:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        longest = 1.0 + UNIT_TOLERANCE
        error = a.moved * longest + (longest + a.moved) * b.moved + rounding_margin(a.rows.shape[1]) + SUBNORMAL
        if self._half:
            return _at_least(self._rounded(a, b), floor_cos - error)
        with full_float32(self._device.type):
            product_AB = a.rows @ b.rows.T
        pairs = torch.nonzero(product_AB >= float(float32_below(floor_cos - error))).cpu().numpy()
        return pairs[:, 0], pairs[:, 1]

    def _rounded(self, a: Held, b: Held) -> torch.Tensor:
        """Return the bfloat16 products, (A, B); rounding a sum to bfloat16 never takes it past a bfloat16 floor."""
        filled_a, filled_b = (
            torch.nn.functional.pad(h.rows, (0, 0, 0, max(0, least - h.count)))
            for h, least in zip((a, b), LEAST_ROWS, strict=True)
        )
        return (filled_a @ filled_b.T)[: a.count, : b.count]


def product_for(device: str) -> BlockProduct:
    """Return the fastest product on a torch device; where torch has no faster one, that of numpy."""
    if torch.device(device).type == "cuda":
        return TorchProduct(device, half=False)
    return TorchProduct(device, half=True) if sums_bfloat16_in_float32() else NumpyProduct()


def fastest_product() -> BlockProduct:
    """Return the fastest product of this machine."""
    return product_for("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def sums_bfloat16_in_float32() -> bool:
    """Return whether this processor multiplies bfloat16 natively, and torch sums the products in float32.

    Sums of 1, 2**-12 and -1 are tried out: in bfloat16, 1 + 2**-12 is 1.
    """
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    if not torch.backends.mkldnn.is_available() or not native():  # type: ignore[no-untyped-call]
        return False
    for shape in (LEAST_ROWS, (1024, 4096)):
        for times in TRIED:
            one = torch.tensor([1.0, 2.0**-12, -1.0] * times).to(torch.bfloat16)
            a, b = one.expand(shape[0], -1).contiguous(), torch.ones((shape[1], 3 * times), dtype=torch.bfloat16)
            if not bool(((a @ b.T) == torch.tensor(times * 2.0**-12).to(torch.bfloat16)).all()):
                return False
    return True


@contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Multiply float32 in float32, whatever the process has allowed: TF32 and bfloat16 are off."""
    backend = torch.backends.cuda.matmul if device == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    allowed = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = allowed


def _at_least(product_AB: torch.Tensor, floor: float) -> Pairs:
    """Return the pairs whose bfloat16 product is >= the bfloat16 number next to `floor`, which is not above it."""
    bits = int(np.asarray(float32_below(floor)).view(np.uint32))
    if floor <= 0:
        least = np.asarray((bits + 0xFFFF) & 0xFFFF0000, np.uint32).view(np.float32)
        return _found(product_AB.to(torch.float32).numpy() >= least)
    # patterns of positive numbers are ordered as the numbers are, and those of negative ones lie below
    bits_AB: npt.NDArray[np.int16] = product_AB.view(torch.int16).numpy()
    if bits_AB.max() < bits >> 16:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return _found(bits_AB >= bits >> 16)


def _found(hit_AB: npt.NDArray[np.bool_]) -> Pairs:
    rows, columns = np.nonzero(hit_AB)
    return rows, columns
