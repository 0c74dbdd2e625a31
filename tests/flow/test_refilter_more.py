"""Judging again where something stands in the way: galleries, begun steps, damage, siblings, numbers that are none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from filters.condition import Condition
from filters.own_template import OwnTemplate
from filters.range import Range
from jobs import wiring
from jobs.wiring.measuring import measure_on
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import PlanMismatchError, RecipeError, StoreError, TargetNotReachedError
from pipeline.domain.manifest import Receipt
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import identity_of, minted_key, slot_of
from pipeline.domain.sidecar import SideCar
from pipeline.flow.refilter import Rejudged, Rejudgement
from pipeline.flow.versions import published_rows, read_manifest, versions
from tests.flow.test_leakage import MADE_UP
from tests.flow.test_refilter import (
    ATTEMPTS,
    FIRST,
    OTHER,
    OWN,
    TIGHT,
    UNIT,
    YAW,
    again,
    judged_by,
    keys_of,
    made,
    replace_identities,
)
from tests.flow.test_run import DyingStore, Killed
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, filled, mint, problems


@pytest.fixture(scope="module")
def minted() -> MemoryStore:
    """Return a published dataset."""
    store = MemoryStore()
    mint(FIRST, store)
    return store


# ------------------------------------------------------------------------------------------------------- galleries


def screened(own_cos: float, images: int = 3, **changes: Any) -> Recipe:
    """Return a recipe without reserve, whose own-template threshold is given."""
    enrol = {**sketch_recipe()["enrol"], "separation": {"cos": 0.97}, "reserve": 0}
    identities = {**sketch_recipe()["identities"], "images_per_identity": images}
    own = {"use": "own-template", "cos": own_cos}
    return judged_by(own, OTHER, YAW, enrol=enrol, identities=identities, **changes)


def images_as_gallery(store: MemoryStore, root: Path) -> tuple[int, dict[str, Any]]:
    """Write one identity's images as a gallery of one person; return who that is, and the gallery."""
    rows = published_rows(Segments(), store, read_manifest(store, versions(store)[-1]))
    who = sorted({r.identity for r in rows})[4]
    (root / "somebody").mkdir()
    for row in (r for r in rows if r.identity == who):
        face = JpegCodec().decode(store.get_range(f"segments/{row.segment}.tar", row.offset, row.length))
        Image.fromarray(face).save(root / "somebody" / f"{row.key}.png")
    return who, {"name": "people", "source": str(root), **MADE_UP}


def owners_of(store: MemoryStore, version: str) -> Counter[int]:
    """Return how many images of each identity a version publishes."""
    return Counter(identity_of(k) for k in keys_of(store, version))


def test_who_was_refused_for_being_near_a_gallery_does_not_come_back(tmp_path: Path) -> None:
    """An identity whose images leaked is stored whole, and no loosened filter puts it into an open place."""
    plain = MemoryStore()
    mint(screened(0.5), plain)
    who, gallery = images_as_gallery(plain, tmp_path)
    leakage = {"galleries": [gallery], "cos": 0.9}
    store = MemoryStore()
    first = mint(screened(0.5, leakage=leakage), store, allow_short=True)
    assert first.manifest.counts["identities_failed"] == {"leaks_gallery_identity": 1}
    (published,) = again(store, screened(0.45, leakage=leakage))

    assert who not in owners_of(store, "v000002")
    assert published.manifest.counts["identities"] == 9
    assert problems(store) == []


def test_images_whose_growth_was_taken_back_stay_out_and_cost_nobody_his_place(tmp_path: Path) -> None:
    """New images that would have brought a published identity near a gallery are no part of a version judged again."""
    plain = MemoryStore()
    mint(screened(0.5), plain)
    mint(screened(0.5, images=6), plain)
    who, gallery = images_as_gallery(plain, tmp_path)
    # its first images are less like the gallery than all of them, which are the gallery
    leakage = {"galleries": [gallery], "cos": 0.995}
    store = MemoryStore()
    mint(screened(0.5, leakage=leakage), store)
    mint(screened(0.5, images=6, leakage=leakage), store, allow_short=True)
    assert owners_of(store, "v000002")[who] == 3
    again(store, screened(0.49, images=6, leakage=leakage))

    assert owners_of(store, "v000003") == owners_of(store, "v000002")
    assert problems(store) == []


# ------------------------------------------------------------------------------------------- begun, killed, damaged


def test_filters_that_leave_nobody_begin_no_step(minted: MemoryStore) -> None:
    """After a judgement that cannot be published others can be tried, and the dataset can grow as it is."""
    store = copy_of(minted)
    before = {p for p in store.list("") if not p.startswith("runs/")}
    with pytest.raises(TargetNotReachedError):
        again(store, judged_by({"use": "own-template", "cos": 1.0}, OTHER, YAW))
    assert {p for p in store.list("") if not p.startswith("runs/")} == before
    again(store, TIGHT)
    whole = copy_of(minted)
    again(whole, TIGHT)

    assert bytes_of(store) == bytes_of(whole)


def test_audits_that_are_gone_are_repeated_under_the_recipe_before(minted: MemoryStore) -> None:
    """Where judging again comes to nothing, its recipe has left no receipt that the older one would not know."""
    store = copy_of(minted)
    for path in store.list("receipts/audit-make-"):
        store.delete(path)
    with pytest.raises(TargetNotReachedError):
        again(store, judged_by({"use": "own-template", "cos": 1.0}, OTHER, YAW))
    assert len(store.list("receipts/audit-make-")) == len(store.list("receipts/make-"))
    assert mint(FIRST, store).resumed


def test_a_growth_that_is_begun_is_not_finished_by_judging_again(minted: MemoryStore) -> None:
    """Judging again makes nothing, so neither it nor its dry run goes on with a growth that was killed."""
    store = filled(DyingStore(9, after=True), minted)
    larger = replace_identities(FIRST, count=14)
    with pytest.raises(Killed):
        mint(larger, store)
    there = bytes_of(store)
    for filters in ([], ["filters.condition.tolerance=3"]):
        changed = wiring.changed_recipe(store, filters, None)
        with pytest.raises(PlanMismatchError, match=r"begun and not published.*recipes/g1\.yaml"):
            wiring.refilter_plan(store, changed)
        with pytest.raises(PlanMismatchError, match=r"begun and not published"):
            again(store, changed)
    assert bytes_of(store) == there
    mint(larger, store)
    again(store, replace_identities(TIGHT, count=14))
    assert versions(store) == ["v000001", "v000002", "v000003"]


def test_killed_while_completing_it_ends_as_allowed(minted: MemoryStore) -> None:
    """The same command takes up what was missing with the leave to publish short that it was given."""
    hard = judged_by({"use": "own-template", "cos": 0.9}, OTHER, {**YAW, "tolerance": 0.35}, rounds=1)
    start = MemoryStore()
    mint(judged_by(OWN, OTHER, YAW, rounds=1), start)
    whole = copy_of(start)
    again(whole, hard, make_missing=True)
    counts = read_manifest(whole, "v000003").counts
    assert counts["images"] < counts["images_expected"]
    store = filled(DyingStore(22, after=True), start)
    with pytest.raises(Killed):
        again(store, hard, make_missing=True)
    assert versions(store) == ["v000001", "v000002"]
    assert wiring.refilter_plan(store, hard)["version"] == "v000002"
    again(store, hard, make_missing=True)

    assert bytes_of(store) == bytes_of(whole)


def test_a_step_of_a_dataset_can_be_handed_to_generate_as_it_lies(minted: MemoryStore, tmp_path: Path) -> None:
    """A recipe that judging again wrote is in no other file, so errors that name it can be followed."""
    store = copy_of(minted)
    again(store, TIGHT)
    step = tmp_path / "g1.yaml"
    step.write_bytes(store.get("recipes/g1.yaml"))

    assert mint(wiring.load_recipe(str(step)), store).resumed
    grown = mint(wiring.load_recipe(str(step), ["identities.count=12"]), store, allow_short=True)
    assert grown.manifest.version == "v000003"


@pytest.mark.parametrize("lost", ["segments/make-g0-000001.parquet", "receipts/make-g0-000000.json"])
def test_a_dry_run_tells_no_figures_of_a_damaged_dataset(minted: MemoryStore, lost: str) -> None:
    """What is lost is named; figures that leave it out would be taken for those of the dataset."""
    store = copy_of(minted)
    store.delete(lost)
    with pytest.raises(StoreError, match=r"missing, altered or without a receipt"):
        wiring.refilter_plan(store, TIGHT)


# ------------------------------------------------------------------------------------------------ numbers that are none


def test_what_is_made_cannot_be_judged_by_added_measures(minted: MemoryStore) -> None:
    """Making what is missing is refused before anything is written where a filter reads what no new image will have."""
    store = copy_of(minted)
    measure_on(store, "lighting", [], Silent())
    reads = {"use": "range", "measure": "luminance_mean", "min": 0.0}
    recipe = wiring.changed_recipe(store, [f"filters={[OWN, OTHER, YAW, reads]}"], None)
    with pytest.raises(RecipeError, match=r"--make-missing.*luminance_mean"):
        again(store, recipe, make_missing=True)
    assert store.list("recipes/") == ["recipes/g0.yaml"]


def test_an_image_of_which_an_added_measure_is_none_is_refused(minted: MemoryStore) -> None:
    """A number that came out NaN passes nothing; that nobody looked for it is another matter."""
    store = copy_of(minted)
    measure_on(store, "lighting", [], Silent())
    unit = "make-g0-000000"
    car = Segments().read_side_car(store, f"measures/{unit}-lighting.parquet", unit)
    without = {k: v for k, v in car.measures[0].items() if k != "luminance_mean"}
    rewrite(store, unit, SideCar(unit, car.keys, (without, *car.measures[1:]), car.embedding_NE, car.about))
    reads = {"use": "range", "measure": "luminance_mean", "min": 0.0}
    (published,) = again(store, wiring.changed_recipe(store, [f"filters={[OWN, OTHER, YAW, reads]}"], None))

    assert set(keys_of(store, "v000001")) - set(keys_of(store, "v000002")) == {car.keys[0]}
    assert published.manifest.counts["refilter"]["left_out_by_reason"] == {"luminance_mean_too_low": 1}


def rewrite(store: MemoryStore, unit: str, car: SideCar) -> None:
    """Put a side-car with other numbers, and its record, in the place of one."""
    path, record = f"measures/{unit}-lighting.parquet", f"measures/{unit}-lighting.json"
    store.delete(path)
    entry = Segments().write_side_car(store, path, car)
    store.put(record, replace(Receipt.from_json(store.get(record)), files=(entry,)).to_json())


class CountingStore(MemoryStore):
    """A store that counts listings and reads by folder."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        super().__init__()
        self.listed: Counter[str] = Counter()
        self.read: Counter[str] = Counter()

    def list(self, prefix: str) -> list[str]:
        """Count, and list."""
        self.listed[prefix.partition("/")[0]] += 1
        return super().list(prefix)

    def get(self, path: str) -> bytes:
        """Count, and read."""
        self.read[path] += 1
        return super().get(path)


def test_side_cars_are_listed_once_whatever_the_number_of_units(minted: MemoryStore) -> None:
    """A listing per unit would make judging again grow with the square of the dataset."""
    store = filled(CountingStore(), minted)
    measure_on(store, "lighting", [], Silent())
    reads = {"use": "range", "measure": "luminance_mean", "min": 0.0}
    recipe = wiring.changed_recipe(store, [f"filters={[OWN, OTHER, YAW, reads]}"], None)
    store.listed.clear()
    wiring.refilter_plan(store, recipe)

    assert len(store.list("segments/make-")) // 2 > 3
    assert store.listed["measures"] == 1


def test_who_comes_back_is_read_once_per_unit(minted: MemoryStore) -> None:
    """Places of those who come back are looked up unit by unit, and not image by image."""
    store = copy_of(minted)
    again(store, judged_by({"use": "own-template", "cos": 0.82}, OTHER, {**YAW, "tolerance": 0.35}))
    counting = filled(CountingStore(), store)
    facts = wiring.refilter_plan(counting, FIRST)

    assert facts["identities"] > facts["identities_before"]
    assert max(n for path, n in counting.read.items() if path.startswith("audits/")) <= 2


# --------------------------------------------------------------------------------------------------------- the rules


@given(UNIT, st.floats(-1, 0.9), st.floats(1, 30), st.floats(0, 1), st.floats(0, 60))
# the first try, refused for two reasons, misses its condition alone now; the second fills the slot since it did so
@example([[[(0.4, 20.0), (0.6, 20.0), (0.0, 20.0)]]], 0.5, 10.0, 0.2, 0.0)
@settings(max_examples=300)
def test_loosening_empties_no_slot(
    numbers: list[Any], own: float, tolerance: float, looser: float, wider: float
) -> None:
    """Whatever filled a slot fills it under looser filters: also what missed its conditions and nothing else."""
    columns = made(
        numbers,
        (OwnTemplate(threshold_cos=own), Condition(condition="yaw_deg", measure="yaw_deg", tolerance=tolerance)),
    )
    after = (
        OwnTemplate(threshold_cos=own - looser),
        Condition(condition="yaw_deg", measure="yaw_deg", tolerance=tolerance + wider),
    )
    stored = {k for k, a in zip(columns["key"], columns["accepted"], strict=True) if a}
    rejudgement = Rejudgement(stored, ATTEMPTS)
    (unit,) = rejudgement.finish([rejudgement.unit("make-g0-000000", columns, after)])
    assert set(unit.kept) == stored


BOUNDS = st.tuples(st.floats(-1, 0.9), st.floats(1, 60))


@given(UNIT, st.lists(BOUNDS, min_size=2, max_size=5))
@settings(max_examples=200)
def test_any_sequence_of_filters_ends_where_the_last_ones_lead(
    numbers: list[Any], bounds: list[tuple[float, float]]
) -> None:
    """Without siblings nothing of the way stays; what is kept passes the last filters, or missed its conditions."""
    steps = [
        (OwnTemplate(threshold_cos=own), Condition(condition="yaw_deg", measure="yaw_deg", tolerance=tolerance))
        for own, tolerance in bounds
    ]
    columns = made(numbers, steps[0])
    stored = {k for k, a in zip(columns["key"], columns["accepted"], strict=True) if a}
    standing, unit = stored, None
    for filters in steps[1:]:
        rejudgement = Rejudgement(standing, ATTEMPTS)
        (unit,) = rejudgement.finish([rejudgement.unit("make-g0-000000", columns, filters)])
        standing = set(unit.kept)
    at_once = Rejudgement(stored, ATTEMPTS)
    (direct,) = at_once.finish([at_once.unit("make-g0-000000", columns, steps[-1])])

    assert unit == direct
    own_cos, tolerance = bounds[-1]
    for key in direct.kept:
        numbers_of = columns["measures"][columns["key"].index(key)]
        assert numbers_of["own_template_cos"] >= own_cos
        assert (abs(numbers_of["yaw_deg"]) > tolerance) == (key in direct.missed)


SPREAD = {"use": "sibling-spread", "mean_cos": 0.6, "tolerance": 0.02, "least": 1}
COPY = {"use": "sibling-duplicate", "max_cos": 0.85}


@pytest.mark.parametrize("strict", [True, False])
def test_sibling_filters_that_stay_keep_what_they_kept(strict: bool) -> None:
    """Another filter that refuses nothing changes nothing: siblings are replayed as they were when images were made."""

    def recipe(images: int, *more: dict[str, Any]) -> Recipe:
        identities = {**sketch_recipe()["identities"], "count": 6, "images_per_identity": images}
        narrow = {**YAW, "tolerance": 1.0}
        filters = (OWN, narrow, COPY, {**SPREAD, "strict": strict}, *more)
        return judged_by(*filters, identities=identities, attempts=6, rounds=2, enrol=loose)

    loose = {**sketch_recipe()["enrol"], "separation": {"cos": 0.97}, "reserve": 1.0}
    store = MemoryStore()
    mint(recipe(4), store, allow_short=True)
    mint(recipe(6), store, allow_short=True)
    again(store, recipe(6, {"use": "range", "measure": "yaw_deg", "min": -90}))

    assert keys_of(store, "v000003") == keys_of(store, "v000002")


def one_row(unit: int, attempt: int, measures: dict[str, float], *, stored: bool) -> dict[str, Any]:
    """Return the columns of a unit with one candidate of slot 0."""
    return {
        "key": [minted_key(unit, 0, attempt)],
        "order": np.array([0]),
        "identity": np.array([unit]),
        "slot": np.array([0]),
        "attempt": np.array([attempt]),
        "conditions": [{}],
        "measures": [measures],
        "embedding": np.eye(1, 4, dtype="f4"),
        "accepted": np.array([stored]),
        "off_target": np.array([False]),
        "reasons": [[] if stored else ["x_too_low"]],
    }


def judged(*units: tuple[dict[str, Any], Range], standing: set[str]) -> list[Rejudged]:
    """Judge units again, each by its filter."""
    rejudgement = Rejudgement(standing, ATTEMPTS)
    out = [rejudgement.unit(f"make-g{n}-000000", columns, (f,)) for n, (columns, f) in enumerate(units)]
    return rejudgement.finish(out)


def test_what_is_admitted_is_told_once_and_of_open_slots_alone() -> None:
    """A candidate that two units tried is one, and one whose slot a later unit filled is none."""
    loose = Range(measure="x", low=0.0, high=None)
    refused = one_row(0, 0, {"x": 1.0}, stored=False)
    twice = judged((refused, loose), (refused, loose), standing=set())
    assert [u.admitted for u in twice] == [(minted_key(0, 0, 0),), ()]
    filled = judged((refused, loose), (one_row(0, 1, {"x": 1.0}, stored=True), loose), standing=set())
    assert [u.admitted for u in filled] == [(), ()]
    assert filled[1].kept == (minted_key(0, 0, 1),)


def test_a_spare_image_is_judged_by_the_filters_of_its_own_generation() -> None:
    """A rate among people enrolled is another bound in each generation, and the last one's bound is not the first's."""
    spare, shown = one_row(0, 0, {"x": 0.5}, stored=True), one_row(0, 1, {"x": 0.6}, stored=True)
    first, last = Range(measure="x", low=0.4, high=None), Range(measure="x", low=0.7, high=None)
    units = judged((spare, first), (shown, last), standing={minted_key(0, 0, 1)})

    assert [u.kept for u in units] == [(minted_key(0, 0, 0),), ()]
    assert [slot_of(k) for k in units[1].refused] == [0]
