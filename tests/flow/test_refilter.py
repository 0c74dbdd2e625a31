"""Judging again: stored candidates under other filters, equal to a fresh judgement; what is missing is made."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.condition import Condition
from filters.own_template import OwnTemplate
from jobs import wiring
from jobs.wiring.measuring import measure_on
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import PlanMismatchError, RecipeError, TargetNotReachedError, UserError
from pipeline.domain.manifest import Counts
from pipeline.domain.ports import Filter
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Sample, identity_of, minted_key, slot_of
from pipeline.execute.run import Published, generate
from pipeline.flow.judge import UNREADABLE, Bench
from pipeline.flow.refilter import NOT_STORED, Rejudged, Rejudgement
from pipeline.flow.versions import published_rows, read_manifest, versions
from pipeline.flow.window import Outcome
from tests.flow.test_run import DyingStore, Killed
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, filled, mint, problems, sketches

OWN, OTHER, YAW = sketch_recipe()["filters"]


def judged_by(*filters: dict[str, Any], **changes: Any) -> Recipe:
    """Return the sketch recipe with these filters."""
    enrol = {**sketch_recipe()["enrol"], "separation": {"cos": 0.97}}
    return sketches(
        **{"filters": list(filters), "generator": {"use": "sketch", "noise": 1.5}, "enrol": enrol, **changes}
    )


FIRST = judged_by(OWN, OTHER, YAW)
TIGHT = judged_by({"use": "own-template", "cos": 0.75}, OTHER, {**YAW, "tolerance": 0.35})


def again(store: MemoryStore, recipe: Recipe, *, make_missing: bool = False) -> list[Published]:
    """Judge a dataset again."""
    return wiring.refilter_on(store, recipe, Silent(), None, make_missing, allow_short=True)


def keys_of(store: MemoryStore, version: str) -> list[str]:
    """Return the keys that a version publishes, sorted."""
    return sorted(r.key for r in published_rows(Segments(), store, read_manifest(store, version)))


@pytest.fixture(scope="module")
def minted() -> MemoryStore:
    """Return a published dataset."""
    store = MemoryStore()
    mint(FIRST, store)
    return store


def rows_of(store: MemoryStore) -> list[dict[str, Any]]:
    """Return every candidate image of a dataset, unit by unit in the order of making."""
    names = sorted(p.split("/")[1].removesuffix(".tar") for p in store.list("segments/make-") if p.endswith(".tar"))
    return [row for name in names for row in sorted(Segments().read_rows(store, name), key=lambda r: r["order"])]


def test_tighter_filters_keep_what_passes_and_name_why_the_rest_goes(minted: MemoryStore) -> None:
    """A new version holds the stored images that pass; older versions, segments and receipts stay byte for byte."""
    store = copy_of(minted)
    (published,) = again(store, TIGHT)
    old = keys_of(store, "v000001")
    rows = {r["key"]: r for r in rows_of(store)}
    own, yaw = OwnTemplate(threshold_cos=0.75), 0.35

    def passes(key: str) -> bool:
        row = rows[key]
        measures, asked = dict(row["measures"]), dict(row["conditions"])
        on_target = abs(measures["yaw_deg"] - asked["yaw_deg"]) <= yaw
        used_up = sum(slot_of(k) == slot_of(key) and identity_of(k) == identity_of(key) for k in rows) == FIRST.attempts
        return measures["own_template_cos"] >= own.threshold_cos and (on_target or used_up)

    expected = [k for k in old if passes(k)]

    assert 0 < len(expected) < len(old)
    assert keys_of(store, "v000002") == expected
    assert {p: d for p, d in bytes_of(store).items() if p in bytes_of(minted)} == bytes_of(minted)
    counts = published.manifest.counts["refilter"]
    assert counts["images_left_out"] == sum(counts["left_out_by_reason"].values()) == len(old) - len(expected)
    assert counts["candidates"] == counts["accepted"] + counts["refused"] == len(rows)
    assert set(counts["left_out_by_reason"]) <= {"own_template_too_far", "off_target_yaw_deg", "slot_has_another_image"}
    assert published.manifest.parent == "v000001"
    assert problems(store) == []


def test_a_dry_run_writes_nothing_and_says_what_will_be(minted: MemoryStore) -> None:
    """The counts shown first are those that the version has afterwards."""
    store = copy_of(minted)
    before = {p: store.get(p) for p in store.list("")}
    facts = wiring.refilter_plan(store, TIGHT)

    assert {p: store.get(p) for p in store.list("")} == before
    (published,) = again(store, TIGHT)
    said = published.manifest.counts["refilter"]
    assert {k: facts[k] for k in said} == said
    assert facts["images_before"] == len(keys_of(store, "v000001"))


def test_what_loosening_admits_is_listed_and_made_only_when_asked(minted: MemoryStore) -> None:
    """A tightened dataset is loosened again: what is stored comes back, and nothing is made."""
    store = copy_of(minted)
    again(store, TIGHT)
    made = store.list("segments/")
    (published,) = again(store, FIRST)

    assert keys_of(store, "v000003") == keys_of(store, "v000001")
    assert published.manifest.counts["refilter"]["slots_open"] == 0
    assert store.list("segments/") == made
    assert problems(store) == []


def test_what_is_missing_is_made_from_its_keys(minted: MemoryStore) -> None:
    """Slots that tightening emptied are tried again under the new filters, and every image then passes them."""
    store = copy_of(minted)
    tight = judged_by({"use": "own-template", "cos": 0.78}, OTHER, {**YAW, "tolerance": 30})
    short, filled = again(store, tight, make_missing=True)

    assert short.manifest.counts["refilter"]["slots_open"] > 0
    assert filled.manifest.version == "v000003"
    assert filled.manifest.counts["images"] > short.manifest.counts["images"]
    assert set(keys_of(store, "v000002")) <= set(keys_of(store, "v000003"))
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(store):
        rows[row["key"]].append(row)
    for key in keys_of(store, "v000003"):
        assert any(r["accepted"] and dict(r["measures"])["own_template_cos"] >= 0.78 for r in rows[key]), key
    slots = [(identity_of(k), slot_of(k)) for k in keys_of(store, "v000003")]
    assert len(set(slots)) == len(slots)
    assert problems(store) == []


def test_completing_twice_makes_nothing_more(minted: MemoryStore) -> None:
    """What is missing after completing has used its attempts up, so the same command adds no version."""
    store = copy_of(minted)
    again(store, TIGHT, make_missing=True)
    there = versions(store)
    again(store, TIGHT, make_missing=True)

    assert versions(store) == there


def test_the_same_filters_make_no_version(minted: MemoryStore) -> None:
    """Judging again by the filters that stand already changes nothing."""
    store = copy_of(minted)
    (published,) = again(store, FIRST)

    assert published.resumed
    assert versions(store) == ["v000001"]


def test_growth_follows_the_newest_filters(minted: MemoryStore) -> None:
    """After judging again the old filters are refused by name, and a larger recipe with the new ones grows."""
    store = copy_of(minted)
    again(store, TIGHT)
    larger = {**sketch_recipe()["identities"], "count": 12}
    with pytest.raises(PlanMismatchError, match=r"filters\.0"):
        mint(judged_by(OWN, OTHER, YAW, identities=larger), store)
    grown = mint(replace_identities(TIGHT, count=12), store, allow_short=True)

    assert grown.manifest.version == "v000003"
    assert set(keys_of(store, "v000002")) <= set(keys_of(store, "v000003"))
    assert problems(store) == []


def replace_identities(recipe: Recipe, **changes: Any) -> Recipe:
    """Return a recipe with other identities."""
    raw = recipe.model_dump(mode="json")
    return sketches(**{**raw, "identities": {**raw["identities"], **changes}})


@pytest.mark.parametrize("every", [11, pytest.param(3, marks=pytest.mark.soak)])
def test_killed_at_any_write_it_ends_with_the_same_bytes(minted: MemoryStore, every: int) -> None:
    """Judging again and completing, killed before or after any write, come to the same once taken up."""
    whole = copy_of(minted)
    again(whole, TIGHT, make_missing=True)
    wanted, killed = bytes_of(whole), 0
    for after in (False, True):
        for dies_at in range(1, 80, every):
            store = filled(DyingStore(dies_at, after=after), minted)
            try:
                again(store, TIGHT, make_missing=True)
            except Killed:
                killed += 1
                again(store, TIGHT, make_missing=True)
            assert bytes_of(store) == wanted, (dies_at, after)
    assert killed > 30 // every


def test_a_killed_step_is_finished_by_generate_with_its_recipe(minted: MemoryStore) -> None:
    """The step's own recipe, handed to generate, judges again and makes nothing."""
    store = filled(DyingStore(3, after=True), minted)
    with pytest.raises(Killed):
        again(store, TIGHT)
    generate(wiring.session_on(TIGHT, store, Silent()))
    whole = copy_of(minted)
    again(whole, TIGHT)

    assert bytes_of(store) == bytes_of(whole)


def test_a_unit_made_under_earlier_filters_is_mended_under_them(minted: MemoryStore) -> None:
    """A lost segment of the first generation comes back byte for byte, although the filters have changed since."""
    whole = copy_of(minted)
    again(whole, TIGHT)
    for lost in ("segments/make-g0-000001.tar", "segments/make-g0-000000.parquet", "enrolled/g0.parquet"):
        store = copy_of(whole)
        store.delete(lost)
        again(store, TIGHT)

        assert bytes_of(store) == bytes_of(whole)
        assert problems(store) == []


def test_people_who_collide_after_judging_again_give_way(minted: MemoryStore) -> None:
    """Templates of the images that stay are compared anew: of two that collide the later leaves the version."""
    enrol = {**sketch_recipe()["enrol"], "separation": {"fmr": 1e-2}}
    store = MemoryStore()
    mint(judged_by(OWN, OTHER, YAW, enrol=enrol), store)
    (published,) = again(store, judged_by({"use": "own-template", "cos": 0.75}, OTHER, YAW, enrol=enrol))
    rows = published_rows(Segments(), store, published.manifest)

    assert published.manifest.counts["refilter"]["identities_gone"] == {"made_template_collides": 1}
    assert sorted({r.label for r in rows}) == list(range(len({r.identity for r in rows})))
    (back,) = again(store, judged_by(OWN, OTHER, YAW, enrol=enrol))
    assert keys_of(store, back.manifest.version) == keys_of(store, "v000001")


def test_more_than_the_filters_is_refused(minted: MemoryStore) -> None:
    """Another plan, another generator or an unpublished dataset cannot be judged again."""
    with pytest.raises(PlanMismatchError, match=r"identities\.count"):
        again(copy_of(minted), replace_identities(TIGHT, count=12))
    with pytest.raises(PlanMismatchError, match=r"generator\.noise"):
        again(copy_of(minted), sketches())
    with pytest.raises(PlanMismatchError, match="no version is published"):
        again(MemoryStore(), TIGHT)


def test_nobody_left_is_an_error_and_no_version(minted: MemoryStore) -> None:
    """Filters that no image passes end with the knob to turn."""
    store = copy_of(minted)
    with pytest.raises(TargetNotReachedError, match="no stored image passes"):
        again(store, judged_by({"use": "own-template", "cos": 1.0}, OTHER, YAW))
    assert versions(store) == ["v000001"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("filters.own-templat.fmr=1e-3", "no filter has that name"),
        ("identities.count=20", "changes filters alone"),
        ("filters.own-template.fmrr=1e-3", "unknown key"),
        ("filters.own-template.fmr=7", "less than 1"),
    ],
)
def test_overrides_name_filters(minted: MemoryStore, text: str, says: str) -> None:
    """An override that changes something else, or names no filter, is one line that says what is allowed."""
    with pytest.raises(RecipeError, match=says):
        wiring.changed_recipe(minted, [text], None)


def test_overrides_by_name_reach_their_filter(minted: MemoryStore) -> None:
    """A filter is named by `use`, or by `use:` and what it reads."""
    changed = wiring.changed_recipe(
        minted, ["filters.own-template.fmr=1e-3", "filters.condition:yaw_deg.tolerance=4"], None
    )

    assert changed.filters[0].fmr == 1e-3  # type: ignore[attr-defined]
    assert changed.filters[2].tolerance == 4  # type: ignore[attr-defined]


def test_measures_that_were_added_since_can_be_judged(minted: MemoryStore) -> None:
    """A filter may read what `facemint measure` added; an image that has no such number is judged by nobody."""
    store = copy_of(minted)
    measure_on(store, "lighting", [], Silent())
    raw = {"use": "range", "measure": "luminance_mean", "min": 0.0}
    recipe = wiring.changed_recipe(store, [f"filters={[OWN, OTHER, YAW, raw]}"], None)
    (published,) = again(store, recipe)

    assert keys_of(store, "v000002") == keys_of(store, "v000001")
    assert published.manifest.counts["refilter"]["refused"] > 0 or len(rows_of(store)) == len(keys_of(store, "v000001"))


# ------------------------------------------------------------------------------------------------ the rule, as a law


ATTEMPTS = 3


def made(numbers: list[list[list[tuple[float, float]]]], filters: tuple[Filter, ...]) -> dict[str, Any]:
    """Return the columns of a unit that tried each slot until one passed; numbers are (own, missed by) per attempt."""
    bench, rows, order = Bench(filters), [], 0
    for identity, slots in enumerate(numbers):
        for slot, tries in enumerate(slots):
            fallback = None
            for attempt, (own, off) in enumerate(tries):
                sample = sample_of(identity, slot, attempt, own, off)
                sound = np.isfinite(own)
                _, verdicts, outcome = bench.settle(sample, bench.alone(sample) if sound else {}, sound=bool(sound))
                reasons = [v.reason for v in verdicts if not v.passed]
                rows.append([sample, order, outcome is Outcome.ACCEPTED, False, reasons])
                order += 1
                if outcome is Outcome.MISSED_CONDITION and fallback is None:
                    fallback = rows[-1]
                if outcome is Outcome.ACCEPTED:
                    break
            else:
                if fallback is not None:
                    fallback[2:] = [True, True, []]
    return {
        "key": [s.key for s, *_ in rows],
        "order": np.array([r[1] for r in rows]),
        "identity": np.array([s.identity for s, *_ in rows]),
        "slot": np.array([s.slot for s, *_ in rows]),
        "attempt": np.array([s.attempt for s, *_ in rows]),
        "conditions": [dict(s.conditions) for s, *_ in rows],
        "measures": [{k: v for k, v in s.measures.items() if np.isfinite(v)} for s, *_ in rows],
        "embedding": np.stack([s.embedding_E for s, *_ in rows]),
        "accepted": np.array([r[2] for r in rows]),
        "off_target": np.array([r[3] for r in rows]),
        "reasons": [r[4] for r in rows],
    }


def sample_of(identity: int, slot: int, attempt: int, own: float, off: float) -> Sample:
    """Return a sample with these numbers."""
    measures = {"own_template_cos": own, "yaw_deg": off}
    return Sample(
        minted_key(identity, slot, attempt),
        identity,
        slot,
        attempt,
        {"yaw_deg": 0.0},
        measures,
        np.eye(4, dtype="f4")[0],
    )


def fresh(columns: dict[str, Any], filters: tuple[Filter, ...]) -> set[str]:
    """Return what a fresh judgement of the same candidates, in the order of making, would keep."""
    kept: dict[tuple[int, int], str] = {}
    fallback: dict[tuple[int, int], str] = {}
    tries: dict[tuple[int, int], int] = defaultdict(int)
    for n, key in enumerate(columns["key"]):
        slot = (int(columns["identity"][n]), int(columns["slot"][n]))
        tries[slot] += 1
        measures = columns["measures"][n]
        if UNREADABLE in columns["reasons"][n] or slot in kept:
            continue
        sample = replace(sample_of(*slot, int(columns["attempt"][n]), 0, 0), measures=measures)
        failed = [f for f in filters if not f.judge(sample).passed]
        if not failed:
            kept[slot] = key
        elif all(f.judges_condition for f in failed):
            fallback.setdefault(slot, key)
    for slot, key in fallback.items():
        if slot not in kept and tries[slot] >= ATTEMPTS:
            kept[slot] = key
    return set(kept.values())


NUMBER = st.one_of(st.floats(-1, 1), st.sampled_from([0.3, 0.5, float("nan")]))
TRY = st.tuples(NUMBER, st.floats(-30, 30))
UNIT = st.lists(
    st.lists(st.lists(TRY, min_size=ATTEMPTS, max_size=ATTEMPTS), min_size=1, max_size=3),
    min_size=1, max_size=3,
)  # fmt: skip


@given(UNIT, st.floats(-1, 0.9), st.floats(1, 30), st.floats(0, 0.5), st.floats(0, 1))
@settings(max_examples=300)
def test_tightening_equals_a_fresh_judgement(
    numbers: list[Any], own: float, tolerance: float, tighter: float, narrower: float
) -> None:
    """Tighter thresholds keep what a fresh judgement of the same candidates keeps, and counts add up."""
    before = (OwnTemplate(threshold_cos=own), Condition(condition="yaw_deg", measure="yaw_deg", tolerance=tolerance))
    columns = made(numbers, before)
    after = (
        OwnTemplate(threshold_cos=own + tighter),
        Condition(condition="yaw_deg", measure="yaw_deg", tolerance=max(1e-6, tolerance * narrower)),
    )
    standing = {k for k, a in zip(columns["key"], columns["accepted"], strict=True) if a}
    rejudgement = Rejudgement(standing, ATTEMPTS)
    (unit,) = rejudgement.finish([rejudgement.unit("make-g0-000000", columns, after)])
    assert set(unit.kept) == fresh(columns, after) & standing
    check_counts(unit, columns)


@given(UNIT, st.floats(-1, 0.9), st.floats(1, 30), st.floats(-1, 0.9), st.floats(1, 60))
@settings(max_examples=200)
def test_any_filters_conserve_counts_and_keep_stored_images_only(
    numbers: list[Any], own: float, tolerance: float, other: float, wider: float
) -> None:
    """Tighter, looser or both: counts add up, a slot keeps one stored image, and what is admitted has no bytes."""
    columns = made(
        numbers,
        (OwnTemplate(threshold_cos=own), Condition(condition="yaw_deg", measure="yaw_deg", tolerance=tolerance)),
    )
    after = (OwnTemplate(threshold_cos=other), Condition(condition="yaw_deg", measure="yaw_deg", tolerance=wider))
    stored = {k for k, a in zip(columns["key"], columns["accepted"], strict=True) if a}
    rejudgement = Rejudgement(stored, ATTEMPTS)
    (unit,) = rejudgement.finish([rejudgement.unit("make-g0-000000", columns, after)])

    assert set(unit.kept) <= stored
    assert not set(unit.admitted) & stored
    assert len({(identity_of(k), slot_of(k)) for k in unit.kept}) == len(unit.kept)
    assert set(unit.refused) == stored - set(unit.kept)
    check_counts(unit, columns)


def check_counts(unit: Rejudged, columns: dict[str, Any]) -> None:
    """Check that every candidate is counted once."""
    counts: Counts = unit.counts
    assert counts.candidates == len(columns["key"]) == counts.accepted + counts.refused
    assert counts.accepted == len(unit.kept)
    assert sum(counts.reasons.values()) == counts.refused


def test_a_measure_that_stored_images_lack_is_named(minted: MemoryStore) -> None:
    """A filter on a number that nobody measured ends with the measure's name."""
    columns = made([[[(0.9, 0.0)] * ATTEMPTS]], ())
    from filters.range import Range

    with pytest.raises(UserError, match="brightness"):
        Rejudgement(set(), 3).unit("u", columns, (Range(measure="brightness", low=0.5, high=None),))
    assert NOT_STORED
