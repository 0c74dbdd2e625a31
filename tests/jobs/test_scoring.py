"""Goals of attribute optimisation, as recipes name them: which networks a generator is handed, and which it is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jobs import recipe_file, wiring
from jobs.wiring import scoring
from jobs.wiring.parts import build
from jobs.wiring.rehearsing import rehearsed
from pipeline.adapters.generators.vec2face.generator import _trial
from pipeline.adapters.generators.vec2face.options import Vec2FaceOptions
from pipeline.adapters.generators.vec2face.scorers import Wanted
from pipeline.domain.errors import RecipeError
from pipeline.domain.fingerprint import prints_of
from pipeline.domain.recipe import parse_recipe
from pipeline.domain.rng import Key, Stream
from tests.recipes import sketch_recipe

GOALS = {
    "identity": {"recogniser": {"uri": "formula:identity"}, "depth": 18, "gate": 0.25},
    "quality": {"recogniser": {"uri": "formula:quality"}, "depth": 18, "target": 45.0},
}
YAW = {"yaw": {"estimator": {"uri": "formula:yaw"}, "size": "reduced"}, "iterations": 6, "rows": 1, "rate": 0.5}


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


def test_a_goal_of_yaw_turns_heads() -> None:
    """Rows that ask for a yaw are moved towards it, one that asks for none is made as without the goal."""
    generator = build("generator", options(optimise=YAW))
    assert "yaw_deg" in generator.condition_names
    assert generator.condition_ranges["yaw_deg"] == (-90.0, 90.0)
    plain = build("generator", options(optimise=None))
    assert "yaw_deg" not in plain.condition_names
    vectors, _, noise = _trial(3, ())
    asked: list[dict[str, float]] = [{"yaw_deg": 80.0}, {"yaw_deg": -80.0}, {}]
    before, pictures = plain.generate(vectors, [{}] * 3, noise), generator.generate(vectors, asked, noise)
    (yaw,) = generator.scorers

    def off(faces: Any) -> list[float]:
        shown = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1
        wanted = Wanted(torch.from_numpy(vectors), asked)
        with torch.inference_mode():
            return list(yaw.losses(shown, wanted).tolist())

    was, now = off(before), off(pictures)
    assert now[0] < was[0] - 0.1
    assert now[1] < was[1] - 0.1
    # made in a block of another size, whose sums differ in the last bit
    assert np.abs(before[2].astype(int) - pictures[2].astype(int)).max() <= 1


def test_a_goal_of_yaw_is_one_of_its_generator_s_networks() -> None:
    """Its weights are part of the generator's digest; a recipe without the goal keeps its fingerprint."""
    other = {**YAW, "yaw": {**YAW["yaw"], "estimator": {"uri": "formula:another"}}}  # type: ignore[dict-item]
    cards = [build("generator", options(optimise=o)).card.sha256 for o in (YAW, other, GOALS)]
    assert len(set(cards)) == 3
    raw = sketch_recipe(generator={"use": "vec2face", "weights": {"uri": "formula:g"}, "optimise": GOALS})
    fields = prints_of(parse_recipe(wiring.full_model(), raw, "test"), {}).fields
    assert "generator.optimise.identity.gate" in fields
    assert not [name for name in fields if "yaw" in name and name.startswith("generator")]


def test_a_goal_of_yaw_needs_a_yaw_that_is_asked() -> None:
    """A goal that every picture meets is a mistake, named with what is missing."""
    node = options(optimise=YAW)
    with pytest.raises(RecipeError, match=r"generator\.optimise\.yaw: turns heads as conditions\.yaw_deg asks"):
        scoring.require_asked(node, {"vector_sigma": 1}, "r.yaml")
    scoring.require_asked(node, {"yaw_deg": 1}, "r.yaml")
    scoring.require_asked(options(), {}, "r.yaml")
    scoring.require_asked(options(optimise=None), {}, "r.yaml")


def test_a_goal_of_yaw_rehearses() -> None:
    """A rehearsal turns heads by a small network with made-up weights, in the recipe's own place and direction."""
    estimator = {"uri": "hf://BooBooWu/Vec2Face@COMMIT/weights/6DRepNet_300W_LP_AFLW2000.pth"}
    raw = recipe_file.read_recipe(recipe_file.find("vec2face_10k"))
    raw["generator"] |= {"precision": "float32", "optimise": {"yaw": {"estimator": estimator, "positive": "right"}}}
    raw["conditions"] = {"yaw_deg": {"use": "uniform", "low": -60, "high": 60}}
    goals: Any = rehearsed(raw, "test").generator
    goals = goals.optimise
    assert (goals.yaw.size, goals.yaw.positive) == ("reduced", "right")
    assert goals.yaw.estimator.uri == "formula:generator.optimise.yaw.estimator"
    assert (goals.identity, goals.iterations, goals.rows) == (None, 2, 1)


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
