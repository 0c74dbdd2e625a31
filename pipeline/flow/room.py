"""Room: whether as many vectors as are wanted can be kept apart, told before anything is drawn in earnest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.domain.feasibility import Feasibility
from pipeline.domain.records import unit_rows
from pipeline.domain.unit import Proposal
from pipeline.flow.enrol import draw_vector
from pipeline.flow.parts import Parts

SAMPLE, LEAST = 2000, 50
"""Candidates that a forecast rests on at most, and at least: fewer say next to nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many candidates it takes until enough of their vectors lie apart.

    Attributes:
        threshold_cos: `enrol.vector_separation_cos`.
        wanted: vectors of new identities.
        before: vectors that are there already.
        sample: candidates that this rests on.
        sample_kept: how many of these lie apart.
        candidates: how many it is expected to take; None where so many do not fit.
        candidates_low, candidates_high: the 90 % interval; None where there is no such number.
    """

    threshold_cos: float
    wanted: int
    before: int
    sample: int
    sample_kept: int
    candidates: int | None
    candidates_low: int | None
    candidates_high: int | None


def room_for(parts: Parts, candidates: range, cells: Sequence[str], wanted: int, before: int) -> Room | None:
    """Return whether `wanted` vectors fit beside `before`, by the vectors of a round's candidates.

    Args:
        parts: the ports.
        candidates: the numbers that the round gives out.
        cells: towards which its candidates are drawn; they are taken in turn.
        wanted: vectors of new identities.
        before: vectors of candidates that were probed already.

    Returns:
        None where a round is so small that it tells nothing.
    """
    if len(candidates) < LEAST or not cells or not wanted:
        return None
    asked = [Proposal(number, cells[n % len(cells)]) for n, number in enumerate(candidates[:SAMPLE])]
    drawn = [draw_vector(parts, proposal) for proposal in asked]
    threshold = parts.recipe.enrol.vector_separation_cos
    told = Feasibility.of(unit_rows(np.stack(drawn), "candidate vectors"), threshold, parts.product())
    need = told.candidates(wanted, before)
    number, low, high = (
        math.ceil(n) if math.isfinite(n) else None for n in (need.number, need.low, need.high)
    )  # fmt: skip
    return Room(threshold, wanted, before, told.sample, told.sample_kept, number, low, high)
