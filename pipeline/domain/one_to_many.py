"""One against many: the nearest of many references.

Blocked float32 products find the references that lie within the products' rounding error of the best; the exact cosine
of `pipeline.domain.cosines` decides between those. So a result never depends on which probes or references share a
product.

Legend: N probes, M references, E dimensions, B references of one block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import Float64, Int64, NumpyProduct, exact_cosines, rounding_margin
from pipeline.domain.errors import BadVectorError
from pipeline.domain.records import Float32, require_unit_rows

PROBES = 512
"""Probes that share a product."""
PRODUCTS = 1 << 18
"""Float32 products computed at once: 1 MiB stays in the cache until it is looked at."""
MOST_REFERENCES = 1 << 14


class References:
    """Unit rows that many probes are compared with, checked once. Shape (M, E)."""

    def __init__(self, rows_ME: Float32, what: str = "references") -> None:
        """Check and keep the rows.

        Raises:
            BadVectorError: a row is NaN, infinite or not of unit length.
        """
        self.rows_ME = require_unit_rows(rows_ME, what)

    def __len__(self) -> int:
        return len(self.rows_ME)


def nearest(
    probes_NE: Float32, references: References, own_N: npt.NDArray[np.int64] | None = None
) -> tuple[Float64, Int64]:
    """Return, for each probe, the cosine of the nearest reference and its row, the lowest of equally near ones.

    Args:
        probes_NE: float32 unit rows.
        references: what they are compared with.
        own_N: int64, per probe the reference that it is not compared with, or -1.

    Returns:
        float64 cosines and int64 rows, each of shape (N,); -1 and -1 where there is nothing to compare with.

    Raises:
        BadVectorError: a probe is NaN, infinite or not of unit length, or of another dimension.
    """
    probes = _probes(probes_NE, references)
    margin = rounding_margin(probes.shape[1])
    best_N, row_N = np.full(len(probes), -np.inf), np.full(len(probes), -1, np.int64)
    for at, first, product in _blocks(probes, references.rows_ME, own_N):
        best = best_N[at : at + len(product)]
        largest = product.max(axis=1).astype(np.float64)
        # a reference whose product lies two errors below the largest cannot be the nearest
        floor = np.maximum(best, largest - margin) - margin
        mine = np.flatnonzero((largest >= floor) & (largest > -np.inf))
        if not mine.size:
            continue
        here, columns = np.nonzero(product[mine] >= floor[mine, None])
        who, refs = mine[here], first + columns
        cos = exact_cosines(probes, at + who, references.rows_ME, refs)
        order = np.lexsort((refs, -cos, who))
        winner = order[np.flatnonzero(np.diff(who[order], prepend=-1))]
        winner = winner[cos[winner] > best[who[winner]]]
        best_N[at + who[winner]], row_N[at + who[winner]] = cos[winner], refs[winner]
    best_N[row_N < 0] = -1.0
    return best_N, row_N


def max_cos_to_others(
    probes_NE: Float32, templates_ME: Float32 | References, own_N: npt.NDArray[np.int64]
) -> tuple[Float32, Int64]:
    """Return, for each probe, the largest cosine to a template that is not its own, and that template's row.

    `own_N` holds each probe's own template row, or -1 where it has none among the templates. With no other template the
    cosine is -1 and the row -1. The value is the exact cosine of the winner, rounded once to float32. Templates that
    are compared more than once are best handed in as `References`.
    """
    references = templates_ME if isinstance(templates_ME, References) else References(templates_ME, "nearest other")
    cos_N, row_N = nearest(probes_NE, references, own_N)
    return cos_N.astype(np.float32), row_N


def _probes(probes_NE: Float32, references: References) -> Float32:
    probes = require_unit_rows(probes_NE, "probes")
    dims = references.rows_ME.shape[1]
    if len(references) and len(probes) and probes.shape[1] != dims:
        raise BadVectorError(
            f"probes: {probes.shape[1]} dimensions where the references have {dims}; compare vectors of one space"
        )
    return probes


def _blocks(
    probes: Float32, rows_ME: Float32, own_N: npt.NDArray[np.int64] | None
) -> Iterator[tuple[int, int, Float32]]:
    """Yield first probe, first reference and the products of a block, an own reference's being -inf."""
    multiplier = NumpyProduct()
    for at in range(0, len(probes), PROBES):
        block = probes[at : at + PROBES]
        own = np.full(len(block), -1) if own_N is None else own_N[at : at + PROBES]
        step = min(MOST_REFERENCES, PRODUCTS // len(block))
        for first in range(0, len(rows_ME), step):
            product = multiplier.product(block, rows_ME[first : first + step])
            mine = np.flatnonzero((own >= first) & (own < first + step))
            product[mine, own[mine] - first] = -np.inf
            yield at, first, product
