"""Attribute optimisation of Vec2Face: vectors moved by gradient until their pictures meet goals, row by row.

Every row has its own Adam, gates and count, and stops for itself: at the picture that passes, or after so many pictures
with the best of them. Rows that are done make room for the next at once, so no picture is made of a row that needs
none, and blocks keep one shape, so that a row's numbers do not depend on who is worked on beside it.

Upstream goes on until the mean over a batch passes, without an end: one bad row holds up all, and good ones are moved
on meanwhile.

Legend: N rows, R rows of a block, D dimensions of an identity vector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.adapters.generators.vec2face.scorers import Scorer, Wanted

DECAY, DECAY_SQUARE, TINY = 0.9, 0.999, 1e-8
"""Adam's, as D. P. Kingma and J. Ba, ICLR 2015, have them."""
Render = Callable[[Tensor, Sequence[int]], Tensor]
"""vectors_RD and which rows they are of -> pictures_NCHW that can be differentiated by the vectors."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimised:
    """What came out.

    Attributes:
        pictures_NCHW: of each row the picture that passed, or the best that was seen.
        vectors_ND: the vectors that these were made of.
        seen_N: how many pictures were made of each row.
        passed_N: which rows met all gates.
        made: pictures made in all, those that filled up a block included.
    """

    pictures_NCHW: Tensor
    vectors_ND: Tensor
    seen_N: tuple[int, ...]
    passed_N: tuple[bool, ...]
    made: int


@dataclass(slots=True)
class _Row:
    """One row on its way."""

    number: int
    vector_D: Tensor
    mean_D: Tensor
    square_D: Tensor
    seen: int = 0
    best: float = float("inf")
    best_picture: Tensor | None = None
    best_vector: Tensor | None = None
    passed: bool = False
    done: bool = False

    @classmethod
    def at(cls, number: int, vector_D: Tensor) -> _Row:
        zero = torch.zeros_like(vector_D)
        return cls(number, vector_D, zero, zero)

    def take_note(self, picture: Tensor, total: float, *, passed: bool, at_most: int) -> None:
        """Keep what is best so far; done where it passes, has had its pictures, or gave no number."""
        self.seen += 1
        if passed or self.best_picture is None or total < self.best:
            self.best_picture, self.best_vector = picture, self.vector_D
            self.best = total if total == total else self.best
        self.passed = passed
        self.done = passed or self.seen >= at_most or total != total

    def step(self, gradient_D: Tensor, rate: float) -> None:
        """Take one step of Adam; a gradient that is no number ends the row."""
        if not bool(torch.isfinite(gradient_D).all()):
            self.done = True
            return
        self.mean_D = DECAY * self.mean_D + (1 - DECAY) * gradient_D
        self.square_D = DECAY_SQUARE * self.square_D + (1 - DECAY_SQUARE) * gradient_D * gradient_D
        ahead = self.mean_D / (1 - DECAY**self.seen)
        spread = (self.square_D / (1 - DECAY_SQUARE**self.seen)).sqrt() + TINY
        self.vector_D = self.vector_D - rate * ahead / spread


def optimise(
    render: Render,
    scorers: Sequence[Scorer],
    start_ND: Tensor,
    wanted: Wanted,
    *,
    iterations: int,
    rate: float,
    rows: int,
) -> Optimised:
    """Return pictures that meet their goals, or come nearest to it.

    Args:
        render: makes pictures of vectors; what chance decides of a row is the same at every call.
        scorers: the goals, at least one.
        start_ND: float32 vectors to begin with.
        wanted: what the rows were asked to be.
        iterations: most pictures of one row.
        rate: step of Adam.
        rows: rows of a block; the last blocks are filled up by repeating a row.
    """
    every = [_Row.at(n, vector) for n, vector in enumerate(start_ND)]
    made = 0
    for block in _blocks(every, rows):
        filled = [*block, *[block[0]] * (rows - len(block))]
        made += rows
        _work(block, filled, render, scorers, wanted, iterations, rate)
    pictures = [row.best_picture for row in every if row.best_picture is not None]
    vectors = [row.best_vector for row in every if row.best_vector is not None]
    return Optimised(
        torch.stack(pictures),
        torch.stack(vectors),
        tuple(row.seen for row in every),
        tuple(row.passed for row in every),
        made,
    )


def _blocks(every: Sequence[_Row], rows: int) -> Iterator[list[_Row]]:
    """Yield up to `rows` rows that are not done, those under way first, until all are."""
    waiting, working = deque(every), list[_Row]()
    while waiting or working:
        while waiting and len(working) < rows:
            working.append(waiting.popleft())
        yield working
        working = [row for row in working if not row.done]


def _work(
    block: Sequence[_Row],
    filled: Sequence[_Row],
    render: Render,
    scorers: Sequence[Scorer],
    wanted: Wanted,
    iterations: int,
    rate: float,
) -> None:
    """Make and score one picture of each row, and move those that are not done."""
    numbers = [row.number for row in filled]
    with torch.enable_grad():
        vectors_RD = torch.stack([row.vector_D for row in filled]).requires_grad_()
        pictures = render(vectors_RD, numbers)
        losses_SR = torch.stack([scorer.losses(pictures, wanted.rows(numbers)) for scorer in scorers])
        weights_S = losses_SR.new_tensor([scorer.weight for scorer in scorers])
        total_R = (weights_S[:, None] * losses_SR).sum(dim=0)
    gates_S = losses_SR.new_tensor([scorer.gate for scorer in scorers])
    passes = (losses_SR.detach() <= gates_S[:, None]).all(dim=0).tolist()
    shown = pictures.detach()
    for n, (row, total) in enumerate(zip(block, total_R.tolist(), strict=False)):
        row.take_note(shown[n].clone(), total, passed=passes[n], at_most=iterations)
    if all(row.done for row in block):
        return
    (gradient_RD,) = torch.autograd.grad(total_R.sum(), vectors_RD)
    for row, gradient_D in zip(block, gradient_RD, strict=False):
        if not row.done:
            row.step(gradient_D, rate)


__all__ = ["Optimised", "Render", "optimise"]
