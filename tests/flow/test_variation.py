"""The variation plan in a run: what is asked follows from the plan alone, and what came out is said bin by bin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from jobs.components import COMPONENTS
from pipeline.adapters.segments import Segments
from pipeline.adapters.sketch import SketchMeasures, SketchMeasuresOptions
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.conditions import slot_conditions
from pipeline.domain.errors import RecipeError
from pipeline.domain.rng import Stream
from pipeline.domain.variation import shortfalls
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import Published, generate
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.variation import readings
from pipeline.flow.versions import published_rows
from pipeline.flow.worker import UnitWorker
from tests.recipes import sketch_recipe
from tests.worlds import Silent, mint, sketches

EDGES, SHARES = [-90, -60, -30, 30, 60, 90], [0.125, 0.125, 0.5, 0.125, 0.125]
PROFILE = {"yaw_deg": {"use": "histogram", "edges": EDGES, "shares": SHARES}}
AGREES = {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 12}


def run(store: MemoryStore, *, count: int = 8, images: int = 8, **changes: Any) -> Published:
    """Mint sketches by a pose plan up to profile."""
    identities = {**sketch_recipe()["identities"], "count": count, "images_per_identity": images}
    return mint(sketches(identities=identities, conditions=PROFILE, attempts=12, exports=[], **changes), store)


def published_images(store: MemoryStore, published: Published) -> list[dict[str, Any]]:
    """Return the rows of the images in the index."""
    segments = Segments()
    mine = {r.key for r in published_rows(segments, store, published.manifest)}
    names = [p.split("/")[1].removesuffix(".parquet") for p in store.list("segments/make") if p.endswith(".parquet")]
    return [row for name in names for row in segments.read_rows(store, name) if row["key"] in mine]


# refusals: none, about one in eight, over half
@pytest.mark.parametrize(("noise", "fmr", "least"), [(0.2, 0.05, 0.0), (2.0, 1e-2, 0.05), (3.0, 1e-2, 0.2)])
def test_retries_do_not_shift_the_plan(noise: float, fmr: float, least: float) -> None:
    """However many images are refused, each slot's image was asked for what the plan says, and every bin is met."""
    store = MemoryStore()
    own = {"use": "own-template", "fmr": fmr}
    done = run(store, generator={"use": "sketch", "noise": noise}, filters=[own, AGREES])
    make = done.manifest.counts["make"]
    assert make["refused"] / make["candidates"] >= least
    rows = published_images(store, done)
    assert len(rows) == 64
    assert max(r["attempt"] for r in rows) >= (least > 0)
    target = sketches(conditions=PROFILE).conditions
    for row in rows:
        plan = slot_conditions(target, 7, Stream.SAMPLE_CONDITION, row["identity"], row["slot"])
        assert dict(row["conditions"]) == plan
    (facts,) = done.manifest.figures["variation"]
    assert [b["asked"] for b in facts["bins"]] == pytest.approx(SHARES), "eight slots hold the plan exactly"
    assert facts["largest_deficit_points"] <= 5
    assert not list(shortfalls([facts]))


def test_the_figures_are_those_of_the_published_images() -> None:
    """Shares, distances and cells equal what is counted from the rows by another way."""
    store = MemoryStore()
    done = run(store, generator={"use": "sketch", "noise": 2.0})
    (facts,) = done.manifest.figures["variation"]
    rows = published_images(store, done)
    asked = np.array([dict(r["conditions"])["yaw_deg"] for r in rows])
    read = np.array([dict(r["measures"])["yaw_deg"] for r in rows])
    wide = [-np.inf, *EDGES[1:-1], np.inf]
    np.testing.assert_allclose([b["delivered"] for b in facts["bins"]], np.histogram(read, wide)[0] / len(rows))
    np.testing.assert_allclose([b["asked"] for b in facts["bins"]], np.histogram(asked, wide)[0] / len(rows))
    assert facts["mean_absolute_error"] == pytest.approx(np.abs(read - asked).mean())
    assert facts["correlation"] == pytest.approx(np.corrcoef(asked, read)[0, 1])
    assert facts["off_target"] == sum(r["off_target"] for r in rows) == done.manifest.counts["make"]["off_target"]
    assert sum(c["images"] for c in facts["cells"]) == facts["images"] == 64
    assert [c["cell"] for c in facts["cells"]] == sorted({c["cell"] for c in done.manifest.figures["balance"]["cells"]})
    assert facts["identities"]["identities"] == 8


def test_what_a_generator_cannot_do_is_a_deficit_named_per_cell() -> None:
    """Faces that never turn beyond a reader's reach are short in the outer bins, of every cell, and marked."""

    class Shy(SketchMeasures):
        """Reads no turn beyond 50 degrees: what a generator that cannot turn further looks like."""

        def measure(self, faces_NHWC: Any) -> Any:
            read = dict(super().measure(faces_NHWC))
            return {**read, "yaw_deg": np.clip(read["yaw_deg"], -50, 50)}

    store = MemoryStore()
    identities = {**sketch_recipe()["identities"], "count": 8, "images_per_identity": 8}
    recipe = sketches(identities=identities, conditions=PROFILE, attempts=2, filters=[AGREES], exports=[])
    session = wiring.session_on(recipe, store, Silent())
    parts = replace(session.parts, measurers=(Shy(SketchMeasuresOptions(use="sketch")),))
    executor = InlineExecutor(lambda: UnitWorker(parts), stop=session.stop, quarantine=Quarantine(store, parts.clock))
    manifest = generate(replace(session, parts=parts, executor=executor)).manifest
    assert manifest.counts["images"] == 64, "a hard pose never deletes a person"
    (facts,) = manifest.figures["variation"]
    assert [b["delivered"] for b in facts["bins"]] == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=0.04)
    assert [b["deficit_points"] for b in facts["bins"]] == pytest.approx([12.5, -12.5, 0, -12.5, 12.5], abs=4)
    assert facts["off_target"] == facts["bins"][0]["off_target"] + facts["bins"][4]["off_target"] > 0
    named = {(s.cell, s.bin) for s in shortfalls([facts])}
    cells = ["all cells", *(c["cell"] for c in facts["cells"])]
    assert named == {(cell, bin_) for cell in cells for bin_ in ("-90 to -60", "60 to 90")}


def test_a_condition_is_read_by_the_measure_that_its_filter_names_or_that_has_its_name() -> None:
    """A filter's word goes first; a condition that nothing reads has no figures."""
    recipe = sketches()
    measurers = [SketchMeasures()]
    assert readings(recipe, measurers) == {"yaw_deg": "yaw_deg"}
    assert readings(sketches(filters=[{**AGREES, "measure": "shape=round"}]), measurers) == {"yaw_deg": "shape=round"}
    assert readings(sketches(filters=[]), measurers) == {"yaw_deg": "yaw_deg"}
    assert readings(sketches(filters=[]), []) == {}


def test_a_generator_is_not_asked_for_what_it_was_never_made_for() -> None:
    """The whole target must lie within the generator's range; the line says both."""
    with pytest.raises(RecipeError, match=r"conditions\.yaw_deg: asks for -120 to 10; the sketch generator was made"):
        sketches(conditions={"yaw_deg": {"use": "uniform", "low": -120, "high": 10}})


@pytest.mark.parametrize("options", [{"use": "sketch"}, {"use": "phantom"}], ids=str)
def test_a_generator_states_ranges_of_conditions_that_it_obeys(options: dict[str, str]) -> None:
    """Each range belongs to a condition and has a width; the phantom's are those that its training drew from."""
    node = wiring.load(COMPONENTS["generator"][options["use"]][0]).model_validate(options)
    generator = wiring.build("generator", node)
    assert set(generator.condition_ranges) == set(generator.condition_names)
    assert all(low < high for low, high in generator.condition_ranges.values())
    if options["use"] == "phantom":
        assert generator.condition_ranges["yaw_deg"] == (-45.0, 45.0)
        assert generator.condition_ranges["smile"] == (0.0, 1.0)
