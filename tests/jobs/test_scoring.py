"""Goals of attribute optimisation, as recipes name them: which networks a generator is handed, and which it is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jobs.wiring import scoring
from jobs.wiring.parts import build
from pipeline.adapters.generators.vec2face.options import Vec2FaceOptions
from pipeline.adapters.generators.vec2face.scorers import Wanted
from pipeline.domain.errors import RecipeError
from pipeline.domain.rng import Key, Stream

GOALS = {
    "identity": {"recogniser": {"uri": "formula:identity"}, "depth": 18, "gate": 0.25},
    "quality": {"recogniser": {"uri": "formula:quality"}, "depth": 18, "target": 45.0},
}


def options(**more: Any) -> Vec2FaceOptions:
    """Return options of a small Vec2Face that pleases two networks."""
    base = {"use": "vec2face", "config": "reduced", "weights": {"uri": "formula:generator"}, "optimise": GOALS}
    return Vec2FaceOptions.model_validate(base | more)


def test_goals_become_networks_that_are_differentiable() -> None:
    """Each goal is handed in with its gate, its digest, and a loss per row whose gradient reaches the picture."""
    generator = build("generator", options())
    identity, quality = generator.scorers
    assert (identity.name, identity.gate, quality.name) == ("identity", 0.25, "quality")
    assert identity.weights_sha256 != quality.weights_sha256
    drawn = Key(2, Stream.CALIBRATION).generator().standard_normal((2, 3, 112, 112), dtype=np.float32)
    pictures = torch.from_numpy(drawn).requires_grad_()
    wanted = Wanted(torch.ones(2, 512), [{}, {}])
    losses = torch.stack([scorer.losses(pictures, wanted) for scorer in generator.scorers])
    assert losses.shape == (2, 2)
    (gradient,) = torch.autograd.grad(losses.sum(), pictures)
    assert gradient.flatten(1).norm(dim=1).min() > 0


def test_without_goals_nothing_is_handed_in() -> None:
    """A generator that optimises nothing has no scorer and another card."""
    plain = build("generator", options(optimise=None))
    assert plain.scorers == ()
    assert plain.card.sha256 != build("generator", options()).card.sha256


@pytest.mark.parametrize("role", ["judge", "auditor"])
def test_the_judge_is_never_pleased(role: str) -> None:
    """A recipe that optimises with the network that judges, or audits, is refused by name."""
    raw: dict[str, Any] = {"use": "iresnet", "name": "reader", "depth": 18, "weights": {"uri": "formula:quality"}}
    reader = build("judge", _node("judge", raw))
    with pytest.raises(RecipeError, match=rf"generator\.optimise\.quality: 'reader' is the {role}"):
        scoring.require_apart(build("generator", options()), {role: reader}, "r.yaml")
    scoring.require_apart(build("generator", options(optimise=None)), {role: reader}, "r.yaml")
    scoring.require_apart(SimpleNamespace(), {role: reader}, "r.yaml")


def test_a_shipped_recipe_with_goals_is_checked() -> None:
    """The check is part of reading a recipe: its judge, optimised for, stops it."""
    from jobs.wiring.parts import load_recipe

    goal = "generator.optimise.quality.recogniser.uri=hf://BooBooWu/Vec2Face@COMMIT/weights/magface-r100-glint360k.pth"
    with pytest.raises(RecipeError, match="is the judge"):
        load_recipe("vec2face_10k", ["generator.precision=float32", goal], unfetched=True)


def _node(slot: str, raw: dict[str, Any]) -> Any:
    from jobs.components import COMPONENTS
    from jobs.wiring.parts import load

    return load(COMPONENTS[slot][raw["use"]][0]).model_validate(raw)
