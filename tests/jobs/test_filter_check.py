"""Filters that ask for what a recipe does not give are named when it is read, before any work."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import wiring
from jobs.recipe_check import check_readings
from pipeline.adapters.generators.vec2face.generator import Vec2Face, Vec2FacePlus
from pipeline.adapters.sketch import SketchGenerator
from pipeline.domain.errors import UserError
from pipeline.domain.recipe import Recipe, parse_recipe
from tests.recipes import sketch_recipe
from tests.worlds import sketches


def recipe_of(**changes: Any) -> Recipe:
    """Return a recipe whose parts need not fit each other."""
    return parse_recipe(wiring.full_model(), sketch_recipe(**changes), "r")


CELL: dict[str, Any] = {"use": "cell-agreement", "min": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"filters": [CELL], "balance": {"by": []}},
            r"filters.0: an identity's cell is what balance.by names, .*empty",
        ),
        ({"filters": [{**CELL, "field": "age"}]}, r"filters.0.field: 'age' is not balanced; balance.by: shape, shade"),
        ({"filters": [CELL, CELL]}, r"filters: cell-agreement stands twice"),
        ({"filters": [{"use": "exposure", "min_mean": 0.1}]}, r"filters.0: .*'exposure' reads .*'luminance_mean'"),
        ({"filters": [{"use": "range", "measure": "nearest_sibling_cos", "max": 0.9}]}, r"filters.0: .*does not have"),
        (
            {"filters": [{"use": "apparent-minor", "age_group": "shade"}]},
            r"filters.0: .*shade=\w+: no age is read from .*list the values that count as minors in `minors`",
        ),
        (
            {"filters": [{"use": "sibling-spread", "mean_cos": 0.5, "tolerance": 0.1, "stop_above": 1.5}]},
            r"filters.0.stop_above: got 1.5; .*less than 1",
        ),
        (
            {"filters": [{"use": "sibling-duplicate", "max_cos": 0.9, "mode": "observe", "stop_above": 0.5}]},
            r"filters.0.stop_above: with mode: observe nothing is refused; leave one of the two out",
        ),
    ],
)
def test_what_a_filter_cannot_have_is_refused_when_the_recipe_is_read(changes: dict[str, Any], message: str) -> None:
    """Cells that nobody has, fields that are not balanced, sibling numbers read by others: one line with the key."""
    with pytest.raises(UserError, match=message) as caught:
        sketches(**changes)
    assert "\n" not in str(caught.value)


CONES = {"vector_cos": {"use": "uniform", "low": 0.98, "high": 1.0}}


@pytest.mark.parametrize("mode", ["refuse", "observe"])
@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("condition", {"use": "condition", "condition": "NAME", "measure": "yaw_deg", "tolerance": 5}),
        ("measure", {"use": "condition", "condition": "yaw_deg", "measure": "NAME", "tolerance": 5}),
        ("measure", {"use": "range", "measure": "NAME", "min": 0}),
    ],
)
@pytest.mark.parametrize("name", ["vector_cos", "age_offset_years"])
def test_nothing_is_held_against_what_no_picture_shows(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str, node: dict[str, Any], mode: str
) -> None:
    """A filter on a cosine of vectors, or on a difference from a person's own age, would refuse or mark everybody."""
    monkeypatch.setattr(SketchGenerator, "condition_names", ("yaw_deg", "age_offset_years"))
    monkeypatch.setattr(SketchGenerator, "unseen_conditions", ("age_offset_years",), raising=False)
    age = {"age_offset_years": {"use": "uniform", "low": -15, "high": 15}}
    conditions = {**sketch_recipe()["conditions"], **CONES, **age}
    filters = [{k: name if v == "NAME" else v for k, v in node.items()} | {"mode": mode}]
    assert sketches(conditions=conditions).conditions
    message = rf"filters.0.{key}: got '{name}', which no measure reads.*can be measured: yaw_deg;"
    with pytest.raises(UserError, match=message) as told:
        sketches(conditions=conditions, filters=filters)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("generator", "options"), [(Vec2Face, {"use": "vec2face"}), (Vec2FacePlus, {"use": "vec2face-plus"})]
)
def test_how_far_vec2face_moves_a_vector_is_held_against_no_measure(
    generator: type[Vec2Face], options: dict[str, Any]
) -> None:
    """No measure reads `vector_sigma`; poses, which are seen, may be filtered."""
    node = {"config": "reduced", "weights": {"uri": "formula:vec2face"}, **options}
    built = wiring.build("generator", recipe_of(generator=node).generator)
    assert isinstance(built, generator)
    conditions = {"vector_sigma": {"use": "constant", "value": 0.3}, "yaw_deg": {"use": "constant", "value": 9}}
    held = {"use": "condition", "condition": "vector_sigma", "measure": "yaw_deg", "tolerance": 5}
    with pytest.raises(UserError, match=r"filters.0.condition: got 'vector_sigma', .* can be measured: yaw_deg;"):
        check_readings(recipe_of(conditions=conditions, filters=[held]), "r", built)
    check_readings(recipe_of(conditions=conditions, filters=[{**held, "condition": "yaw_deg"}]), "r", built)


def test_filters_on_siblings_and_cells_need_no_measure_of_the_recipe() -> None:
    """What the flow gives to those that ask for it is known when the recipe is checked, whether they observe or not."""
    own = [CELL, {**CELL, "field": "shade"}, {"use": "sibling-duplicate", "max_cos": 0.99}]
    for mode in ("refuse", "observe"):
        filters = [*sketch_recipe()["filters"], *({**node, "mode": mode} for node in own)]
        assert len(sketches(filters=filters).filters) == 6
