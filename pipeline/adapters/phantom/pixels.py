"""Working on some pixels of every picture of a batch: equally long index lists, padded by repetition.

Padding repeats the row's first picked pixel (or pixel 0 of a row without any), so computing it twice and writing
it back twice changes nothing.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def pick(mask_NP: Tensor) -> Tensor:
    """Index (N, K) int64 of the true pixels of each row, K the most in any row; K may be 0."""
    row, column = torch.nonzero(mask_NP, as_tuple=True)
    counts = mask_NP.sum(dim=1)
    starts = counts.cumsum(0) - counts
    longest = int(counts.max())
    first = mask_NP.to(torch.uint8).argmax(dim=1)
    index = first.unsqueeze(1).repeat(1, longest)
    index[row, torch.arange(len(row), device=row.device) - starts[row]] = column
    return index


def take(values: Tensor, index_NK: Tensor) -> Tensor:
    """Values (N, P) or (N, P, C) at the picked pixels; a single row (1, P) serves all."""
    if values.shape[0] != index_NK.shape[0]:
        values = values.expand(index_NK.shape[0], *values.shape[1:])
    if values.dim() == 2:
        return values.gather(1, index_NK)
    return values.gather(1, index_NK.unsqueeze(-1).expand(-1, -1, values.shape[2]))


def put(values: Tensor, index_NK: Tensor, parts: Tensor) -> None:
    """Write picked pixels back into values (N, P) or (N, P, C), in place."""
    if values.dim() == 2:
        values.scatter_(1, index_NK, parts)
    else:
        values.scatter_(1, index_NK.unsqueeze(-1).expand(-1, -1, values.shape[2]), parts)
