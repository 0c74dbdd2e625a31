"""What attribute optimisation minimises: differentiable networks behind losses, one number per row.

Networks are handed in by whoever assembles a run, as functions from pictures to what they say of them. They are never
the judge or the auditor: a picture made to please its judge proves nothing.

Legend: N rows, D dimensions of an identity vector; pictures_NCHW are float32 RGB, nominally in -1..1, not clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.domain.errors import RecipeError
from pipeline.domain.ports import Recogniser
from pipeline.domain.records import Conditions

Reads = Callable[[Tensor], Tensor]
"""pictures_NCHW -> what a network says of each row; it can be differentiated."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What rows were asked to be.

    Attributes:
        vectors_ND: the vectors handed in: the identities' own, not what noise and optimisation make of them.
        conditions: of each row.
    """

    vectors_ND: Tensor
    conditions: Sequence[Conditions]

    def rows(self, rows: Sequence[int]) -> Wanted:
        """Return what some rows were asked to be."""
        return Wanted(self.vectors_ND[list(rows)], [self.conditions[n] for n in rows])


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """One goal: a loss per row, the gate that a row passes, and the weight of the loss in what is minimised.

    Attributes:
        name: of the goal, for messages and counts.
        weights_sha256: digest of the network behind it.
        gate: a row passes at this loss or less; NaN passes nothing.
        weight: of the loss in the sum.
        losses: pictures and what was wanted -> losses_N.
    """

    name: str
    weights_sha256: str
    gate: float
    weight: float
    losses: Callable[[Tensor, Wanted], Tensor]


def identity_scorer(features: Reads, weights_sha256: str, *, gate: float = 0.3, weight: float = 100.0) -> Scorer:
    """Return the goal of being who was asked for: 1 - cosine to the vector; `features` give (N, D)."""

    def losses(pictures_NCHW: Tensor, wanted: Wanted) -> Tensor:
        return 1.0 - F.cosine_similarity(features(pictures_NCHW), wanted.vectors_ND, dim=1)

    return Scorer("identity", weights_sha256, gate, weight, losses)


def quality_scorer(
    features: Reads, weights_sha256: str, *, target: float = 27.0, gate: float = 1.0, weight: float = 1.0
) -> Scorer:
    """Return the goal of quality as MagFace has it: max(0, target - length of the feature)."""

    def losses(pictures_NCHW: Tensor, _: Wanted) -> Tensor:
        return F.relu(target - torch.linalg.vector_norm(features(pictures_NCHW), dim=1))

    return Scorer("quality", weights_sha256, gate, weight, losses)


def yaw_scorer(yaw_deg: Reads, weights_sha256: str, *, gate: float = 5.0, weight: float = 1.0) -> Scorer:
    """Return the goal of the yaw asked for: the distance in degrees; 0 where `yaw_deg` is not asked.

    `yaw_deg` reads degrees of shape (N,). Signs count: upstream compares sizes alone, and turns heads either way.
    """

    def losses(pictures_NCHW: Tensor, wanted: Wanted) -> Tensor:
        read = yaw_deg(pictures_NCHW)
        asked = read.new_tensor([c.get("yaw_deg", 0.0) for c in wanted.conditions])
        given = read.new_tensor([float("yaw_deg" in c) for c in wanted.conditions])
        return given * (read - asked).abs()

    return Scorer("yaw", weights_sha256, gate, weight, losses)


def require_apart(scorers: Iterable[Scorer], readers: Mapping[str, Recogniser], where: str) -> None:
    """Refuse scorers that are one of the readers that judge the outcome, by the digest of their weights.

    Args:
        scorers: what a generator is to please.
        readers: judge, auditor and screening recogniser, by role.
        where: how messages name the recipe.

    Raises:
        RecipeError: a reader would judge what was made to please it.
    """
    for scorer in scorers:
        for role, reader in readers.items():
            if scorer.weights_sha256 in (reader.card.sha256, reader.space.weights_sha256):
                raise RecipeError(
                    f"{where}: generator.optimise.{scorer.name}: {reader.space.name!r} is the {role}, which would "
                    "judge pictures that were made to please it; optimise with another network"
                )


__all__ = ["Reads", "Scorer", "Wanted", "identity_scorer", "quality_scorer", "require_apart", "yaw_scorer"]
