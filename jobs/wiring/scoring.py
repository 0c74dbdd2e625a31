"""Goals of attribute optimisation: the networks that a generator's pictures are to please, handed in as functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.wiring import models
from pipeline.domain.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.domain.ports import Recogniser
    from pipeline.domain.recipe import Node
    from pipeline.domain.weights import Weights


def handed(make: Any, node: Node) -> dict[str, Any]:
    """Return what a part's constructor is handed by name: what brings weights, and scorers where its node has goals."""
    if not models.wants_weights(make):
        return {}
    weights = models.weights()
    goals = getattr(node, "optimise", None)
    return {"weights": weights} if goals is None else {"weights": weights, "scorers": scorers_of(goals, weights)}


def scorers_of(goals: Any, weights: Weights) -> tuple[Any, ...]:
    """Return the scorers that a generator's `optimise` names; their weights load when they first score.

    Raises:
        ModelError: a scorer's weights state no digest and are not here.
    """
    from pipeline.adapters.generators.vec2face.scorers import identity_scorer, quality_scorer, yaw_scorer
    from pipeline.adapters.head_pose.estimator import HeadPoseEstimator, HeadPoseOptions
    from pipeline.adapters.recognisers.iresnet import FaceNetwork, NetworkOptions

    def read(goal: Any) -> tuple[Any, str]:
        network = FaceNetwork(NetworkOptions(weights=goal.recogniser, depth=goal.depth), weights)
        return network.features, weights.sha256(goal.recogniser)

    out = []
    if (goal := goals.identity) is not None:
        out.append(identity_scorer(*read(goal), gate=goal.gate, weight=goal.weight))
    if (goal := goals.quality) is not None:
        out.append(quality_scorer(*read(goal), target=goal.target, gate=goal.gate, weight=goal.weight))
    if (goal := goals.yaw) is not None:
        options = HeadPoseOptions(weights=goal.estimator, size=goal.size, positive=goal.positive)
        reads = HeadPoseEstimator(options, weights).yaw_deg
        out.append(yaw_scorer(reads, weights.sha256(goal.estimator), gate=goal.gate, weight=goal.weight))
    return tuple(out)


def require_apart(generator: Any, readers: Mapping[str, Recogniser], where: str) -> None:
    """Refuse a generator that is to please a network that judges the outcome; raises RecipeError."""
    from pipeline.adapters.generators.vec2face import scorers

    scorers.require_apart(getattr(generator, "scorers", ()), readers, where)


def require_asked(node: Node, conditions: Mapping[str, Any], where: str) -> None:
    """Refuse a goal of yaw where no yaw is asked for: every picture would meet it; raises RecipeError."""
    goals = getattr(node, "optimise", None)
    if goals is not None and goals.yaw is not None and "yaw_deg" not in conditions:
        raise RecipeError(
            f"{where}: generator.optimise.yaw: turns heads as conditions.yaw_deg asks, and the recipe has no such "
            "condition; give one, or leave the goal out"
        )
