"""Steering: what is short in each cell, and what proposals have come to -> how many to propose towards each cell next.

A candidate that is drawn towards a cell may be refused, or be read as another cell: the generator strays and the reader
errs. What was asked and what it came to are counted, and a small linear programme covers the shortfalls by expected
landings, wherever they come from.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linprog

from pipeline.domain.balance_figures import wilson_interval
from pipeline.domain.records import Cell

LEAST_YIELD = 0.05
"""What a cell is taken to yield where nothing that was tried leads there: it is tried further, up to the cap."""

NOT_WORTH = 1000.0
"""Proposals per identity from which on a way to a cell counts as none."""

Landings = Mapping[Cell, Mapping[Cell, int]]
"""Cell asked -> cell read -> candidates enrolled there."""


def least_yields(landed: Landings, tried: Mapping[Cell, int], cells: list[Cell], expected: float) -> np.ndarray:
    """Return the share of proposals towards each cell (row) that comes to each cell (column), at least, shape (C, C).

    The lower end of Wilson's 95 % interval of what was measured; before anything was tried towards a cell, `expected`
    of it comes to the cell itself.
    """
    out = np.zeros((len(cells), len(cells)))
    for i, asked in enumerate(cells):
        number = tried.get(asked, 0)
        if not number:
            out[i, i] = expected
            continue
        for j, read in enumerate(cells):
            out[i, j] = wilson_interval(landed.get(asked, {}).get(read, 0), number)[0]
    return out


def cap_of(tried: int, least_cap: int) -> int:
    """Return the most proposals towards a cell in a round: as many as were tried before, or `least_cap`."""
    return max(least_cap, tried)


def steer(
    short: Mapping[Cell, int], landed: Landings, tried: Mapping[Cell, int], *, expected: float, least_cap: int
) -> dict[Cell, int]:
    """Return how many candidates to propose towards each cell.

    The fewest proposals whose expected landings, at the least yields, cover every shortfall. Where the cap or a yield
    of nothing leaves a shortfall, its cell is proposed further, as if LEAST_YIELD of it came out. A round at most
    doubles what was tried towards a cell, so that a yield guessed from few costs little, and a rare cell few rounds.

    Args:
        short: cell -> identities that it lacks; every cell that may be asked for is a key.
        landed: what earlier proposals came to.
        tried: cell -> earlier proposals towards it.
        expected: the yield that is assumed before any was measured, in (0, 1].
        least_cap: proposals per cell that are always allowed; beyond it a round at most doubles what was tried.
    """
    cells = sorted(short)
    n = len(cells)
    lacks = np.array([max(0, short[c]) for c in cells], np.float64)
    if not lacks.any():
        return dict.fromkeys(cells, 0)
    yields = least_yields(landed, tried, cells, expected)
    # variables: proposals p, then what stays short s; costs rise a little with the cell, so that equals do not tie
    rising = 1 + 1e-4 * np.arange(n) / n
    cost = np.concatenate([rising, np.full(n, NOT_WORTH)])
    covers = np.hstack([-yields.T, -np.eye(n)])
    caps = [cap_of(tried.get(c, 0), least_cap) for c in cells]
    bounds = [(0.0, float(cap)) for cap in caps] + [(0.0, None)] * n
    solved = linprog(cost, A_ub=covers, b_ub=-lacks, bounds=bounds, method="highs")
    proposed, left = solved.x[:n], solved.x[n:]
    out = {}
    for i, cell in enumerate(cells):
        further = left[i] / LEAST_YIELD if left[i] > 1e-6 else 0.0
        # 1e-6 is the solver's tolerance: a whole number is not rounded to the next
        out[cell] = min(caps[i], int(np.ceil(max(float(proposed[i]), further) - 1e-6)))
    return out
