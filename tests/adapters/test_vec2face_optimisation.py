"""Attribute optimisation: rows stop for themselves, at their gate or their cap, whoever is worked on beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from torch import Tensor

from pipeline.adapters.generators.vec2face.generator import Vec2Face
from pipeline.adapters.generators.vec2face.optimisation import Optimised, optimise
from pipeline.adapters.generators.vec2face.options import Optimisation, Vec2FaceOptions
from pipeline.adapters.generators.vec2face.scorers import (
    Scorer,
    Wanted,
    identity_scorer,
    quality_scorer,
    require_apart,
    yaw_scorer,
)
from pipeline.adapters.models import FormulaWeights
from pipeline.domain.errors import ModelError, RecipeError
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space
from pipeline.domain.weights import WeightsRef
from tests.adapters.test_vec2face import rows_of

REF = WeightsRef(uri="formula:vec2face")
GOAL = Optimisation.model_validate({"identity": {"recogniser": {"uri": "formula:scorer"}}, "iterations": 3, "rows": 1})
TARGETS = torch.tensor([0.5, 3.0, 1.0, 8.0, 0.05, 2.0, 30.0, 1.5])
"""How far eight rows of a toy have to go."""


def toy(losses: Callable[[Tensor], Tensor], gate: float = 0.04) -> Scorer:
    """Return a goal over pictures that are the vectors themselves."""
    return Scorer("toy", "0" * 64, gate, 1.0, lambda pictures, _: losses(pictures))


def towards(pictures: Tensor) -> Tensor:
    """Return the squared distance of each row's first number to its second, which the toy never moves."""
    return (pictures[:, 0] - pictures[:, 1].detach()) ** 2


def run(start: Tensor, scorer: Scorer, **options: Any) -> Optimised:
    """Optimise a toy: pictures are the vectors, but a row's second number stays what it was."""

    def render(vectors: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.stack([vectors[:, 0], start[list(rows), 1]], dim=1)

    nobody = Wanted(start, [{}] * len(start))
    return optimise(render, [scorer], start, nobody, **{"iterations": 40, "rate": 0.1, "rows": 1} | options)


def starts(targets: Tensor = TARGETS) -> Tensor:
    """Return vectors at nought with their targets."""
    return torch.stack([torch.zeros_like(targets), targets], dim=1)


class TestRows:
    """Who stops when."""

    def test_each_row_stops_at_its_own_gate_or_at_the_cap(self) -> None:
        """Near targets take few pictures, far ones all that are allowed, and only those that got there passed."""
        done = run(starts(), toy(towards), iterations=24)
        assert done.passed_N == (True, False, True, False, True, True, False, True)
        assert [n for n, seen in enumerate(done.seen_N) if seen == 24] == [1, 3, 6]
        assert done.seen_N[4] == 1
        assert done.seen_N[0] < done.seen_N[2] < done.seen_N[7] < done.seen_N[5]
        assert done.made == sum(done.seen_N)

    @settings(max_examples=10)
    @given(st.permutations(range(8)), st.sampled_from([1, 2, 8, 16]))
    def test_neighbours_order_and_block_change_nothing(self, order: list[int], rows: int) -> None:
        """A row's picture, vector and count are those that it has alone, bit for bit."""
        start = starts()
        shuffled = run(start[order], toy(towards), rows=rows, iterations=24)
        for place, n in enumerate(order):
            alone = run(start[n : n + 1], toy(towards), iterations=24)
            assert torch.equal(shuffled.pictures_NCHW[place], alone.pictures_NCHW[0])
            assert torch.equal(shuffled.vectors_ND[place], alone.vectors_ND[0])
            assert shuffled.seen_N[place] == alone.seen_N[0]

    def test_a_row_that_never_passes_holds_up_nobody(self) -> None:
        """Seven rows end where they end without it; upstream's mean over the batch would keep them all to the end."""
        near = starts(torch.full((7,), 0.3))
        with_one = run(torch.cat([near, starts(torch.tensor([1e6]))]), toy(towards))
        assert with_one.seen_N[:7] == run(near, toy(towards)).seen_N
        assert with_one.seen_N[7] == 40
        mean_loss = float(towards(with_one.pictures_NCHW).mean())
        assert mean_loss > 1e9, "the gate of a mean is out of reach"

    def test_a_row_that_is_done_makes_room_at_once(self) -> None:
        """Blocks are full while anybody waits: what is made beyond the need is what fills the last blocks up."""
        targets = torch.cat([torch.full((24,), 0.05), torch.full((8,), 50.0)])
        done = run(starts(targets), toy(towards), rows=8, iterations=10)
        assert sum(done.seen_N) == 24 + 80
        # the eight far rows come last and fill their blocks by themselves
        assert done.made == sum(done.seen_N)

    def test_what_came_nearest_is_kept(self) -> None:
        """A row that ends at its cap gives the best of its pictures, not the last."""
        seen: list[float] = []

        def losses(pictures: Tensor) -> Tensor:
            lost = towards(pictures)
            seen.append(float(lost.detach()))
            return lost

        overshoots = run(torch.tensor([[0.0, 0.35]]), toy(losses, gate=-1.0), rate=0.3, iterations=6)
        assert not overshoots.passed_N[0]
        assert min(seen) < seen[-1] / 2
        assert float(towards(overshoots.pictures_NCHW)) == min(seen)
        assert torch.equal(overshoots.vectors_ND[0, :1], overshoots.pictures_NCHW[0, :1])

    def test_a_row_that_is_no_number_ends_alone(self) -> None:
        """NaN passes no gate, costs one picture and spoils no neighbour."""

        def losses(pictures: Tensor) -> Tensor:
            return towards(pictures) + torch.where(pictures[:, 1] == 3.0, math.nan, 0.0)

        done = run(starts(), toy(losses), rows=8, iterations=24)
        clean = run(starts(), toy(towards), rows=8, iterations=24)
        others = [0, 2, 3, 4, 5, 6, 7]
        assert (done.seen_N[1], done.passed_N[1]) == (1, False)
        assert torch.isfinite(done.pictures_NCHW).all()
        assert torch.equal(done.pictures_NCHW[others], clean.pictures_NCHW[others])

    def test_steps_are_adam_s(self) -> None:
        """A row moves as Adam moves it: nearly the rate at each step, while the slope hardly changes."""
        ours = run(torch.tensor([[0.2, 4.0]]), toy(towards, gate=-1.0), rate=0.1, iterations=15)
        at, mean, square = 0.2, 0.0, 0.0
        for step in range(1, 15):  # algorithm 1 of the paper, on (x - 4)^2
            slope = 2 * (at - 4.0)
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            at -= 0.1 * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
        assert float(ours.vectors_ND[0, 0]) == pytest.approx(at, abs=1e-5)
        assert 1.5 < at < 1.7


class TestGoals:
    """Identity, quality and yaw as losses."""

    def wanted(self) -> Wanted:
        """Return what two rows were asked to be."""
        return Wanted(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), [{"yaw_deg": -30.0}, {}])

    def test_each_loss_is_a_number_per_row(self) -> None:
        """One less the cosine, how much length is missing, and how many degrees."""
        read = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        pictures = torch.zeros(2, 3, 4, 4)
        identity = identity_scorer(lambda _: read, "a" * 64).losses(pictures, self.wanted())
        quality = quality_scorer(lambda _: read, "a" * 64, target=4.0).losses(pictures, self.wanted())
        yaw = yaw_scorer(lambda _: torch.tensor([30.0, 80.0]), "a" * 64).losses(pictures, self.wanted())
        assert identity.tolist() == pytest.approx([0.0, 0.2])
        assert quality.tolist() == pytest.approx([3.0, 0.0])
        # the sign counts, and who was asked for no yaw has none to miss
        assert yaw.tolist() == pytest.approx([60.0, 0.0])

    @pytest.mark.parametrize("role", ["judge", "auditor"])
    def test_a_reader_of_the_outcome_is_no_scorer(self, role: str) -> None:
        """A network that judges what was made to please it is refused, whichever of its digests is recognised."""
        scorer = identity_scorer(lambda pictures: pictures, "c" * 64)
        space = Space("judging-space", "c" * 64, "arcface-112", "unit", 512)
        other = Space("another", "d" * 64, "arcface-112", "unit", 512)
        reader: Any = SimpleNamespace(card=SimpleNamespace(sha256="e" * 64), space=space)
        by_card: Any = SimpleNamespace(card=SimpleNamespace(sha256="c" * 64), space=other)
        stranger: Any = SimpleNamespace(card=SimpleNamespace(sha256="e" * 64), space=other)
        for found in (reader, by_card):
            with pytest.raises(RecipeError, match=rf"r\.yaml: generator\.optimise\.identity: .* is the {role}"):
                require_apart([scorer], {role: found}, "r.yaml")
        require_apart([scorer], {role: stranger}, "r.yaml")


def projected(pictures_NCHW: Tensor) -> Tensor:
    """Return 512 numbers of each picture, as a recogniser would: a fixed projection of its pooled pixels."""
    pooled = torch.nn.functional.avg_pool2d(pictures_NCHW, 8).flatten(1)
    matrix = Key(1, Stream.CALIBRATION).generator().standard_normal((pooled.shape[1], 512), dtype=np.float32)
    return pooled @ torch.from_numpy(matrix)


def optimising(scorers: Sequence[Scorer], **options: Any) -> Vec2Face:
    """Return a small Vec2Face that optimises."""
    goal = GOAL.model_copy(update=options)
    given = Vec2FaceOptions(use="vec2face", config="reduced", weights=REF, optimise=goal, batch=8)
    return Vec2Face(given, weights=FormulaWeights(), scorers=scorers)


class TestGenerator:
    """Optimisation inside the generator."""

    scorers = (identity_scorer(projected, "b" * 64, gate=0.0),)

    def test_pictures_come_nearer_to_their_goal(self) -> None:
        """After a few steps every row's loss is below what it began with."""
        vectors, noise = rows_of(range(2))
        before = optimising(self.scorers, iterations=1)._pictures(vectors, [{}] * 2, noise)
        after = optimising(self.scorers, iterations=3)._pictures(vectors, [{}] * 2, noise)
        wanted = Wanted(torch.from_numpy(vectors), [{}] * 2)
        assert (self.scorers[0].losses(after, wanted) < self.scorers[0].losses(before, wanted) - 1e-4).all()
        assert not after.requires_grad

    @pytest.mark.parametrize(("rows", "order"), [(2, [2, 0, 1]), (8, [3, 0, 7, 7, 2, 1, 5, 3])])
    def test_an_image_is_the_same_in_any_company(self, rows: int, order: list[int]) -> None:
        """Order and neighbours of a batch change no byte of what optimisation makes, in blocks of one or of eight."""
        generator = optimising(self.scorers, rows=rows, iterations=2)
        generator._proven.add(len(order))  # what it proves for itself is proven here
        vectors, noise = rows_of(range(len(order)))
        asked: list[dict[str, float]] = [{}] * len(order)
        faces = generator.generate(vectors, asked, noise)
        assert_array_equal(generator.generate(vectors[order], asked, noise[order]), faces[order])

    def test_goals_without_a_scorer_are_an_error(self) -> None:
        """A recipe that asks for optimisation is never quietly made without."""
        vectors, noise = rows_of(range(1))
        with pytest.raises(ModelError, match="no scorer"):
            optimising(()).generate(vectors, [{}], noise)

    def test_what_is_optimised_with_is_part_of_the_card(self) -> None:
        """Other goals, or another scorer's weights, are another generator."""
        base = {"use": "vec2face", "weights": {"uri": "formula:x"}}
        goals: list[dict[str, Any]] = [
            {},
            {"optimise": {"identity": {"recogniser": {"uri": "a"}}}},
            {"optimise": {"identity": {"recogniser": {"uri": "b"}}}},
            {"optimise": {"quality": {"recogniser": {"uri": "b"}}}},
        ]
        assert len({Vec2FaceOptions.model_validate(base | goal).digest for goal in goals}) == len(goals)
