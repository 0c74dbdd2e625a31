"""Parts that do not fit each other are named when the recipe is read, before any work."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jobs import wiring
from pipeline.adapters import sketch
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import OutputError, PlanMismatchError, SpaceMismatchError, UserError
from pipeline.domain.space import Space
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches

FILTERS = sketch_recipe()["filters"]
ENROL = sketch_recipe()["enrol"]
CONDITION = {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 3}

MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"filters": [{"use": "range", "measure": "beauty", "min": 1}]}, r"filters.0: .*'beauty'.*measures present: .*yaw"),
    ({"filters": [*FILTERS, {"use": "sharpness", "min": 0.1}]}, r"filters.3: .*reads the measure 'sharpness'"),
    ({"filters": [{**CONDITION, "condition": "yaw"}]}, r"filters.0.condition: 'yaw' is asked of no image.*: yaw_deg"),
    ({"filters": [CONDITION], "conditions": {}}, r"'yaw_deg' is asked of no image; conditions of this recipe: none"),
    ({"filters": [{"use": "own-template", "fmr": 1e-6}]}, r"filters.0: fmr 1e-06 is outside"),
    ({"filters": [{"use": "nearest-other", "fpir": 1e-5}]}, r"filters.0: fpir 1e-05 is outside"),
    ({"filters": [FILTERS[1]], "enrol": {**ENROL, "probes": 1}}, r"filters.0: .*no 1:N figures for sample/sample"),
    ({"filters": [CONDITION, CONDITION]}, r"filters: condition:yaw_deg stands twice"),
    ({"enrol": {**ENROL, "separation": {"fmr": 1e-6}}}, r"enrol.separation: fmr 1e-06 is outside"),
    ({"enrol": {**ENROL, "consistency": {"fmr": 1e-6}}}, r"enrol.consistency: fmr 1e-06 is outside"),
    ({"measures": [{"use": "sketch"}, {"use": "sketch"}]}, r"measures: yaw_deg, .*given by two"),
    ({"measures": []}, r"no measure estimates 'shape'"),
    ({"balance": {"by": ["shape", "shape"]}}, r"balance.by: 'shape' is named twice"),
    (
        {"conditions": {"yaw_deg": {"use": "constant", "value": math.nan}}},
        r"yaw_deg.*got nan; should be a finite number",
    ),
    ({"conditions": {"yaw_deg": 12}}, r"yaw_deg: got 12; a component as {use: NAME, .*known names: 'constant', 'uni"),
    ({"conditions": {"yaw_deg": {"low": 1}}}, r"yaw_deg: a component needs `use: NAME`; known names: 'constant', 'u"),
    ({"judge": "sketch-judge"}, r"judge: got 'sketch-judge'; a component as {use: NAME, .*known.*'sketch-judge'"),
    ({"unit": 8}, r"unit: got 8; keys are expected: identities, lookahead, window"),
]


@pytest.mark.parametrize(("changes", "message"), MISFITS)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(changes: dict[str, Any], message: str) -> None:
    """Unknown measures and conditions, uncalibrated rates and doubles end in one line that names the key."""
    with pytest.raises(UserError, match=message) as caught:
        sketches(**changes)
    assert "\n" not in str(caught.value)


def test_the_separation_of_made_templates_is_checked_at_their_own_size() -> None:
    """A rate that probes support but the larger templates of made images do not is found at once."""
    enrol = {**ENROL, "probes": 1, "separation": {"fmr": 1e-3}, "consistency": {"cos": 0.1}}
    one = {**sketch_recipe()["identities"], "images_per_identity": 1}
    sketches(enrol=enrol, filters=[], identities=one)
    with pytest.raises(UserError, match=r"enrol.separation: fmr 0.001 is outside.*template3/template3"):
        sketches(enrol=enrol, filters=[])


def test_vectors_of_another_space_never_reach_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank whose vectors another recogniser made is refused: the generator would make plausible garbage of them."""
    other = Space("other", "0" * 64, "sketch-32", "unit", sketch.DIMENSIONS)
    init = sketch.SketchBank.__init__

    def stranger(self: sketch.SketchBank, options: Any = None) -> None:
        init(self, options)
        self.space = other

    monkeypatch.setattr(sketch.SketchBank, "__init__", stranger)
    with pytest.raises(SpaceMismatchError, match=r"identities.bank: got vectors of space 'other'"):
        sketches()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": sketch.SketchBank().space.weights_sha256}, r"judge.use: .*conditions the generator"),
        ({"alignment": "arcface-112"}, r"judge.use: .*reads faces aligned to 'arcface-112'"),
    ],
)
def test_a_judge_is_another_model_that_reads_the_same_crops(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    """The recogniser that conditions the generator judges nothing, and a judge sees the crops it was trained on."""
    from dataclasses import replace

    space = sketch._space
    monkeypatch.setattr(sketch, "_space", lambda n: replace(space(n), **change) if n == "judge" else space(n))
    with pytest.raises(UserError, match=message):
        sketches()


def test_a_worker_with_other_models_than_the_driver_does_no_work(tmp_path: Any) -> None:
    """A node with other weights has another fingerprint and is refused before its first unit."""
    recipe = sketches()
    raw, mine = recipe.model_dump(mode="json"), wiring.prints_of(recipe).fingerprint
    store = LocalStore(tmp_path)
    wiring.build_worker(raw, store.uri, 1, "run", mine)
    with pytest.raises(PlanMismatchError, match="its models differ; install the same facemint"):
        wiring.build_worker(raw, store.uri, 1, "run", "0" * 64)


def test_a_store_in_memory_is_not_offered_to_other_processes() -> None:
    """Ray workers would each write into a memory of their own."""
    with pytest.raises(OutputError, match="workers in other processes cannot see it"):
        mint(sketches(compute={"executor": "ray"}), MemoryStore())
