"""Siblings: numbers about an identity's other images, the same whenever and however often they are worked out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.observing import Observing
from filters.sibling_duplicate import SiblingDuplicate
from filters.sibling_spread import SiblingSpread
from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.ports import Measurer, Store
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Float32, Sample, UInt8, unit_rows
from pipeline.domain.unit import Unit
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import generate
from pipeline.flow.commit import enrolled_path, receipts
from pipeline.flow.judge import UNREADABLE, Bench, own_cell
from pipeline.flow.past import published_siblings
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.siblings import COUNT, MEAN, MEAN_BEFORE, NEAREST, SIBLING_MEASURES, Siblings
from pipeline.flow.window import Outcome
from pipeline.flow.worker import UnitWorker
from tests.flow.test_make import Cramped, CrampedGenerator, CrampedJudge, remade
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

OWN: dict[str, Any] = {"use": "own-template", "fmr": 1e-2}
YAW = {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 4}
COPY = {"use": "sibling-duplicate", "max_cos": 0.8}
SPREAD = {"use": "sibling-spread", "mean_cos": 0.7, "tolerance": 0.02}
CELL = {"use": "cell-agreement", "min": 0.5}
PEOPLE = {**sketch_recipe()["identities"], "count": 10, "images_per_identity": 4}


def noisy(*filters: dict[str, Any], **changes: Any) -> Recipe:
    """Return a recipe with strong noise, so that an identity's images differ, and retries are the rule."""
    recipe = {
        "identities": PEOPLE,
        "filters": [OWN, YAW, *filters],
        "generator": {"use": "sketch", "noise": 2.0, "batch": 4},
        "attempts": 6,
        "rounds": 10,
        "enrol": {**sketch_recipe()["enrol"], "separation": {"cos": 0.95}, "reserve": 1.0},
        "exports": [],
    }
    return sketches(**{**recipe, **changes})


def rows_of(recipe: Recipe, store: Store, unit: str = "make") -> list[dict[str, Any]]:
    """Return the rows of make units, in the order of making within each."""
    parts = wiring.build_parts(recipe, store, None, "test")
    out: list[dict[str, Any]] = []
    for name in sorted(receipts(store, unit)):
        rows = parts.segments.read_rows(store, name)
        out += sorted(({**r, "measures": dict(r["measures"]), "unit": name} for r in rows), key=lambda r: r["order"])
    return out


def by_identity(rows: list[dict[str, Any]]) -> dict[int, list[Float32]]:
    """Return the embeddings of the accepted images of each identity."""
    out: dict[int, list[Float32]] = defaultdict(list)
    for row in rows:
        if row["accepted"]:
            out[row["identity"]].append(np.asarray(row["embedding"], np.float32))
    return out


def mean_cos(emb: list[Float32]) -> float:
    """Return the mean cosine over all pairs."""
    return float(np.mean([a.astype(float) @ b.astype(float) for a, b in combinations(emb, 2)]))


# ------------------------------------------------------------------------------------------ the numbers


def sample(slot: int, emb: Float32, identity: int = 0, measures: Mapping[str, float] | None = None) -> Sample:
    """Return a sample."""
    return Sample(f"s{slot}", identity, slot, 0, {}, measures or {}, emb)


def vectors(seed: int, count: int) -> Float32:
    """Return unit vectors that are somewhat alike."""
    rng = np.random.Generator(np.random.Philox(seed))
    return unit_rows(rng.standard_normal((count, 8)) + 1.0, "test")


@given(
    st.integers(0, 10**6),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(Outcome)), max_size=12),
)
def test_numbers_are_those_of_a_plain_count(seed: int, published: int, course: list[tuple[int, Outcome]]) -> None:
    """For any course of outcomes: the siblings are the published and what fills the other slots, worked out plainly."""
    emb = vectors(seed, published + len(course) + 1)
    siblings = Siblings({0: emb[:published]} if published else {})
    accepted: dict[int, Float32] = {}
    fallback: dict[int, Float32] = {}
    for n, (slot, outcome) in enumerate(course):
        one = sample(slot, emb[published + n])
        others = [*emb[:published], *(e for k, e in sorted({**fallback, **accepted}.items()) if k != slot)]
        got = siblings.numbers(one)
        assert tuple(got) == SIBLING_MEASURES
        assert got[COUNT] == len(others)
        cos = [float(one.embedding_E.astype(float) @ o.astype(float)) for o in others]
        assert got[NEAREST] == pytest.approx(max(cos, default=-1.0), abs=1e-12)
        assert got[MEAN] == pytest.approx(mean_cos([*others, one.embedding_E]) if others else -1.0, abs=1e-6)
        assert got[MEAN_BEFORE] == pytest.approx(mean_cos(others) if len(others) > 1 else -1.0, abs=1e-6)
        siblings.settle(one, outcome)
        if outcome is Outcome.ACCEPTED:
            accepted.setdefault(slot, one.embedding_E)
        elif outcome is Outcome.MISSED_CONDITION:
            fallback.setdefault(slot, one.embedding_E)


def test_nobody_is_a_sibling_of_another_identity_or_after_being_forgotten() -> None:
    """Identities know nothing of each other, and one that is closed leaves nothing behind."""
    emb = vectors(1, 3)
    siblings = Siblings({})
    siblings.settle(sample(0, emb[0], identity=1), Outcome.ACCEPTED)
    assert siblings.numbers(sample(1, emb[1], identity=2))[COUNT] == 0
    assert siblings.numbers(sample(1, emb[1], identity=1))[COUNT] == 1
    siblings.forget(1)
    assert siblings.numbers(sample(1, emb[1], identity=1)) == {COUNT: 0.0, NEAREST: -1.0, MEAN: -1.0, MEAN_BEFORE: -1.0}


def test_a_fallback_is_a_sibling_until_its_slot_is_filled() -> None:
    """What may be kept yet counts; once a later attempt is accepted, that one counts in its place."""
    emb = vectors(2, 4)
    siblings = Siblings({})
    siblings.settle(sample(0, emb[0]), Outcome.MISSED_CONDITION)
    siblings.settle(sample(0, emb[1]), Outcome.MISSED_CONDITION)
    first, second, other = (float(emb[3].astype(float) @ e.astype(float)) for e in emb[:3])
    assert siblings.numbers(sample(1, emb[3]))[NEAREST] == pytest.approx(first)
    assert first != pytest.approx(second)
    siblings.settle(sample(0, emb[2]), Outcome.ACCEPTED)
    assert siblings.numbers(sample(1, emb[3]))[NEAREST] == pytest.approx(other)


def test_copies_are_refused_in_the_order_of_making() -> None:
    """Of two copies the later goes; one that is refused is no sibling, and another slot's copy of nobody passes."""
    emb = vectors(3, 2)
    bench = Bench([SiblingDuplicate(max_cos=0.999)])

    def settle(slot: int, n: int) -> tuple[Outcome, list[str]]:
        one = sample(slot, emb[n])
        _, verdicts, outcome = bench.settle(one, bench.alone(one))
        return outcome, [v.reason for v in verdicts]

    assert settle(0, 0) == (Outcome.ACCEPTED, [""])
    assert settle(1, 0) == (Outcome.REFUSED, ["near_duplicate_of_sibling"])
    assert settle(1, 1) == (Outcome.ACCEPTED, [""])
    assert settle(2, 1) == (Outcome.REFUSED, ["near_duplicate_of_sibling"])


def test_a_missed_spread_is_a_missed_condition_unless_it_is_strict() -> None:
    """What leaves the band may fill its slot in the end; under `strict` it is refused."""
    emb = vectors(4, 1)[0]
    for strict, outcome in ((False, Outcome.MISSED_CONDITION), (True, Outcome.REFUSED)):
        spread = SiblingSpread(mean_cos=0.0, tolerance=0.1, least=1, judges_condition=not strict)
        bench = Bench([spread])
        bench.settle(sample(0, emb), {})
        numbers, verdicts, got = bench.settle(sample(1, emb), {})
        assert (got, verdicts[0].reason) == (outcome, "siblings_too_alike")
        assert numbers.measures[MEAN] == pytest.approx(1.0, abs=1e-6)


def test_a_bench_without_such_filters_adds_no_number() -> None:
    """Numbers that no filter asks for are neither worked out nor stored, so other recipes keep their bytes."""
    cells = {0: Cell(("dark",))}
    one = sample(0, vectors(5, 1)[0], measures={"shade=dark": 0.9})
    assert Bench([], {0: vectors(6, 2)}, fields=["shade"], cells=cells).settle(one, {})[0] is one
    watching = Bench([Observing(SiblingDuplicate(max_cos=0.5))], fields=["shade"], cells=cells)
    assert set(watching.settle(one, {})[0].measures) == {"shade=dark", *SIBLING_MEASURES}


def test_the_own_cell_is_the_least_of_its_fields() -> None:
    """One probability per field, and the least of them; NaN in one is NaN in all."""
    measures = {"shape=round": 0.7, "shape=square": 0.3, "shade=light": 0.4, "shade=dark": 0.6}
    cell = Cell(("round", "light"))
    assert own_cell(measures, ["shape", "shade"], cell) == {
        "own_cell_probability": 0.4,
        "own_cell_probability:shape": 0.7,
        "own_cell_probability:shade": 0.4,
    }
    assert np.isnan(own_cell({**measures, "shade=light": np.nan}, ["shape", "shade"], cell)["own_cell_probability"])


# ------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("in_flight", "filters"), [(1, [COPY]), (1, [COPY, SPREAD, CELL]), (2, [COPY, SPREAD, CELL]), (None, [SPREAD])]
)
def test_how_many_batches_are_in_flight_changes_no_verdict(
    in_flight: int | None, filters: list[dict[str, Any]]
) -> None:
    """Verdicts on siblings rest on the order of making, so units are the same with 1, 2 or 3 batches in flight."""
    unit = {"identities": 10, "window": 6, "lookahead": 3}
    changes = {"unit": unit, "filters": [OWN, YAW, *filters], "attempts": 6, "identities": PEOPLE}
    receipt, _ = remade({**changes, "compute": {"executor": "inline", "in_flight": in_flight}})
    # `remade` holds it against the undisturbed run; here: that siblings had a say at all
    assert any("sibling" in reason for reason in receipt.counts.reasons_any)


def test_a_device_without_room_changes_no_verdict_on_siblings() -> None:
    """A batch that is judged a second time, alone, meets the same siblings."""
    device = Cramped()
    receipt, _ = remade(
        {"filters": [OWN, YAW, COPY, SPREAD], "identities": {**PEOPLE, "count": 6}},
        generator=lambda g: CrampedGenerator(g, device),
        judge=lambda j: CrampedJudge(j, device),
    )
    assert device.refused >= 1
    assert "near_duplicate_of_sibling" in receipt.counts.reasons_any


GROWTH = [{**PEOPLE, "images_per_identity": 2}, PEOPLE, {**PEOPLE, "count": 12, "images_per_identity": 6}]


def grown(in_flight: int | None = None, **changes: Any) -> tuple[Recipe, MemoryStore]:
    """Return a dataset that grew twice under sibling filters."""
    store = MemoryStore()
    compute = {"executor": "inline", "in_flight": in_flight}
    for people in GROWTH:
        recipe = noisy(
            COPY, SPREAD, identities=people, compute=compute, unit={"identities": 4, "lookahead": 3}, **changes
        )
        mint(recipe, store, allow_short=True)
    return recipe, store


@pytest.fixture(scope="module")
def growth() -> tuple[Recipe, MemoryStore]:
    """Return the undisturbed growth."""
    return grown()


def test_growth_under_sibling_filters_has_the_same_bytes(growth: tuple[Recipe, MemoryStore]) -> None:
    """New images are judged against the published ones too, whether one batch is in flight or three."""
    assert bytes_of(grown(1)[1]) == bytes_of(growth[1])


def test_stored_rows_judged_again_say_what_making_said(growth: tuple[Recipe, MemoryStore]) -> None:
    """Replayed in the order of making, every number, verdict and outcome is the stored one, growth units included."""
    recipe, store = growth
    parts = wiring.build_parts(recipe, store, None, "test")
    filters = parts.filters(10)
    seen, growing = 0, 0
    for name, receipt in receipts(store, "make").items():
        unit = Unit.from_dict(receipt.unit)
        published = published_siblings(parts, unit) if unit.siblings_of else None
        growing += published is not None
        bench = Bench(filters, published)
        for row in rows_of(recipe, store, name):
            plain = {k: v for k, v in row["measures"].items() if k not in SIBLING_MEASURES}
            one = Sample(
                row["key"], row["identity"], row["slot"], row["attempt"], dict(row["conditions"]), plain,
                np.asarray(row["embedding"], np.float32),
            )  # fmt: skip
            again, verdicts, outcome = bench.settle(one, bench.alone(one))
            assert again.measures == row["measures"]
            # thresholds of 1:N filters follow from who was enrolled by then; there is none here
            stored = [(v["filter"], v["passed"], v["reason"], v["value"], v["threshold"]) for v in row["verdicts"]]
            assert [(v.filter, v.passed, v.reason, v.value, v.threshold) for v in verdicts] == stored
            assert (outcome is Outcome.ACCEPTED) == (row["accepted"] and not row["off_target"])
            seen += 1
    assert seen > 100
    assert growing >= 2


def test_no_two_images_of_an_identity_are_copies(growth: tuple[Recipe, MemoryStore]) -> None:
    """Over all generations, off-target images included, no pair reaches the bound; without the filter some do."""
    worst = {}
    plain = MemoryStore()
    recipe = noisy(identities={**PEOPLE, "images_per_identity": 6})
    mint(recipe, plain, allow_short=True)
    for name, (asked, store) in {"filtered": growth, "plain": (recipe, plain)}.items():
        pairs = [p for mine in by_identity(rows_of(asked, store)).values() for p in combinations(mine, 2)]
        worst[name] = max(float(a.astype(float) @ b.astype(float)) for a, b in pairs)
    assert worst["filtered"] < COPY["max_cos"] <= worst["plain"]


@pytest.mark.parametrize("target", [0.5, 0.75])
def test_a_spread_is_reached_from_either_side(target: float) -> None:
    """Identities come nearer to the target than without it, whether it lies below or above what comes by itself."""
    off = {}
    for name, filters in {"plain": (), "asked": ({**SPREAD, "mean_cos": target, "tolerance": 0.03},)}.items():
        recipe, store = noisy(*filters, attempts=20, identities={**PEOPLE, "images_per_identity": 6}), MemoryStore()
        mint(recipe, store, allow_short=True)
        off[name] = np.mean([abs(mean_cos(mine) - target) for mine in by_identity(rows_of(recipe, store)).values()])
    assert off["asked"] < 0.7 * off["plain"]


def test_a_spread_out_of_reach_deletes_nobody_and_strictly_everybody() -> None:
    """Attempts that run out leave off-target images, which say why; `strict` gives the identities up."""
    never = {**SPREAD, "mean_cos": -0.5, "tolerance": 0.01, "least": 1}
    recipe, store = noisy(never, attempts=2), MemoryStore()
    counts = mint(recipe, store, allow_short=True).manifest.counts
    assert counts["images"] == counts["identities"] * PEOPLE["images_per_identity"] > 0
    off = [row for row in rows_of(recipe, store) if row["off_target"]]
    assert sum(any(v["reason"] == "siblings_too_alike" for v in row["verdicts"]) for row in off) > 5
    strict, there = noisy({**never, "strict": True}, attempts=2), MemoryStore()
    with pytest.raises(TargetNotReachedError, match="no identity could be filled; most refusals: siblings_too_alike"):
        mint(strict, there, allow_short=True)


# ------------------------------------------------------------------------------------------ observe, cell, NaN


@pytest.fixture(scope="module")
def plain() -> MemoryStore:
    """Return the dataset that no further filter judges."""
    store = MemoryStore()
    mint(noisy(), store)
    return store


@pytest.mark.parametrize("node", [COPY, SPREAD, CELL, {"use": "range", "measure": "yaw_deg", "max": 25}])
def test_an_observing_filter_changes_no_image_and_writes_down_what_it_would_refuse(
    node: dict[str, Any], plain: MemoryStore
) -> None:
    """The accepted set is that of a run without it; its reasons stand beside `passed`, and can be counted."""
    observed, refusing = MemoryStore(), MemoryStore()
    mint(noisy({**node, "mode": "observe"}), observed)
    mint(noisy(node), refusing, allow_short=True)
    images = [{p: store.get(p) for p in store.list("segments/") if p.endswith(".tar")} for store in (plain, observed)]
    recipe = noisy({**node, "mode": "observe"})
    rows = rows_of(recipe, observed)
    kept = [[(r["key"], r["accepted"], r["off_target"]) for r in rows_of(recipe, s)] for s in (plain, observed)]
    assert kept[0] == kept[1]
    assert images[0].keys() == images[1].keys()
    last = [row["verdicts"][-1] for row in rows]
    assert all(v["passed"] for v in last)
    reasons = {v["reason"] for v in last} - {""}
    assert reasons
    refused = receipts(refusing, "make")["make-g0-000000"].counts.reasons_any
    assert reasons & set(refused)
    assert not reasons & {reason for r in receipts(observed, "make").values() for reason in r.counts.reasons_any}


def test_accepted_images_look_like_the_cell_that_their_identity_is_counted_in() -> None:
    """The probability judged is that of the enrolled values on this very image, and every accepted one reaches it."""
    recipe, store = noisy(CELL), MemoryStore()
    mint(recipe, store)
    people, _ = wiring.build_parts(recipe, store, None, "test").segments.read_identities(store, enrolled_path(0))
    cells = {p.ordinal: p.cell.values for p in people}
    rows = rows_of(recipe, store)
    for row in rows:
        shape, shade = cells[row["identity"]]
        each = (row["measures"][f"shape={shape}"], row["measures"][f"shade={shade}"])
        assert row["measures"]["own_cell_probability"] == min(each)
        assert row["measures"]["own_cell_probability:shade"] == each[1]
        assert not row["accepted"] or min(each) >= CELL["min"]
    assert any("disagrees_with_own_cell" in row["reasons"] for row in rows)
    one = noisy({**CELL, "field": "shade", "min": 0.6})
    mint(one, there := MemoryStore())
    assert all(r["measures"]["own_cell_probability:shade"] >= 0.6 for r in rows_of(one, there) if r["accepted"])
    wiring.plan_run(noisy(CELL), None, 1)


class Blank:
    """A measurer that now and then gives NaN for one of its numbers."""

    def __init__(self, inner: Measurer, name: str) -> None:
        """Wrap `inner`."""
        self._inner, self._name = inner, name

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute."""
        return getattr(self._inner, name)

    def measure(self, faces_NHWC: UInt8) -> dict[str, Any]:
        """Measure, with NaN for faces that their pixels choose."""
        out = {k: np.array(v) for k, v in self._inner.measure(faces_NHWC).items()}
        out[self._name][faces_NHWC.reshape(len(faces_NHWC), -1).sum(axis=1, dtype=np.int64) % 9 == 0] = np.nan
        return out


@pytest.mark.parametrize("name", ["yaw_deg", "shape=round", "shape=square", "shade=light", "shade=dark"])
def test_nan_in_any_measure_refuses_the_image_before_any_filter(name: str) -> None:
    """Whichever number is no number: the one verdict is that, no filter is asked, and no sibling is made of it."""
    recipe, store = noisy(COPY, CELL, identities={**PEOPLE, "count": 6}), MemoryStore()
    session = wiring.session_on(recipe, store, Silent())
    (measurer,) = session.parts.measurers
    blank: Any = Blank(measurer, name)
    parts = replace(session.parts, measurers=(blank,))
    executor = InlineExecutor(lambda: UnitWorker(parts), stop=session.stop, quarantine=Quarantine(store, parts.clock))
    generate(replace(session, parts=parts, executor=executor, allow_short=True))
    rows = rows_of(recipe, store)
    blanks = [row for row in rows if name not in row["measures"]]
    assert blanks
    for row in blanks:
        assert (row["accepted"], row["reasons"]) == (False, [UNREADABLE])
        assert [v["filter"] for v in row["verdicts"]] == ["numbers"]
    assert all(np.isfinite(list(row["measures"].values())).all() for row in rows)
    assert not any(UNREADABLE in row["reasons"] for row in rows if row not in blanks)
