"""The stop rule: a filter that refuses more than it may ends the run at the same unit, whoever finished first."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import TargetNotReachedError, UserError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.recipe import Recipe
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import generate
from pipeline.flow.commit import receipts
from pipeline.flow.limits import LEAST_CANDIDATES, Limit, Watch, limits_of
from pipeline.flow.quarantine import DEATHS_ALLOWED, Quarantine
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, copy_of, mint, sketches

LIMIT = Limit("filters.0.stop_above", "own-template", ("own_template_too_far",), 0.5)
OFTEN = Limit("filters.1.stop_above", "exposure", ("too_dark", "too_bright"), 0.25)


def unit(index: int, generation: int = 0) -> Unit:
    """Return a make unit."""
    return Unit(Stage.MAKE, generation, index, 0, ordinals=(index,), slots=(0, 1))


def receipt(of: Unit, candidates: int, **reasons: int) -> Receipt:
    """Return the receipt of a unit with so many refusals by reason; one image has one reason."""
    refused = sum(reasons.values())
    counts = Counts(candidates, candidates - refused, refused, reasons, 0, reasons)
    return Receipt(of.to_dict(), of.name, "f", "p", counts, ())


def told(limits: Sequence[Limit], course: Sequence[Receipt], barrier: Sequence[Unit], over: bool = True) -> str | None:
    """Return what is raised when units are committed in this course; None where nothing is."""
    known: dict[str, Receipt] = {}
    watch = Watch(tuple(limits), barrier, known)
    try:
        for one in course:
            known[one.name] = one
            watch.look()
        watch.look(over=over)
    except TargetNotReachedError as error:
        return str(error)
    return None


def test_the_limit_itself_is_allowed_and_one_more_is_not() -> None:
    """A share that equals the limit passes; the message names filter, share, unit and knob, in one line."""
    one = unit(0)
    assert told([LIMIT], [receipt(one, 200, own_template_too_far=100)], [one]) is None
    message = told([LIMIT], [receipt(one, 200, own_template_too_far=101)], [one])
    assert message == (
        "filter 'own-template' refused 101 of the 200 images up to unit make-g0-000000, 50.5%; its limit is 50.0%; "
        "look at what it refuses, then raise filters.0.stop_above and run again (what is made is kept), "
        "or loosen the filter with another --out"
    )


def test_nothing_is_said_of_fewer_than_the_least_candidates() -> None:
    """A first unit that is small stops nobody, however bad; with the next one there are enough."""
    units = [unit(0), unit(1)]
    few = receipt(units[0], LEAST_CANDIDATES - 1, own_template_too_far=LEAST_CANDIDATES - 1)
    assert told([LIMIT], [few], units, over=False) is None
    assert "up to unit make-g0-000001" in str(told([LIMIT], [few, receipt(units[1], 1)], units))


def test_all_reasons_of_a_filter_count_and_those_of_others_do_not() -> None:
    """A filter with several reasons is judged by their sum."""
    one = unit(0)
    mixed = receipt(one, 400, too_dark=60, too_bright=41, own_template_too_far=199)
    assert "filter 'exposure' refused 101 of the 400" in str(told([LIMIT, OFTEN], [mixed], [one]))
    assert told([LIMIT, OFTEN], [receipt(one, 400, too_dark=60, own_template_too_far=199)], [one]) is None


def test_units_of_earlier_rounds_count_and_those_of_other_generations_do_not() -> None:
    """A later round goes on where the last one ended; what another generation refused is its own matter."""
    before, other, now = unit(0), unit(0, generation=1), unit(1)
    known = {r.name: r for r in (receipt(before, 300, own_template_too_far=300), receipt(other, 300))}
    with pytest.raises(TargetNotReachedError, match="refused 300 of the 300 images up to unit make-g0-000000"):
        Watch((LIMIT,), [now], known)
    Watch((LIMIT,), [unit(1, generation=1)], known).look(over=True)


COURSE = [
    receipt(unit(0), 150, own_template_too_far=100),
    receipt(unit(1), 150, own_template_too_far=40),
    receipt(unit(2), 100, own_template_too_far=95),
    receipt(unit(3), 500),
]


def test_every_order_of_finishing_stops_at_the_same_unit() -> None:
    """All 24 courses of four units end in the same words, although a later unit would have made up for it."""
    said = {told([LIMIT], course, [unit(n) for n in range(4)]) for course in itertools.permutations(COURSE)}
    assert len(said) == 1
    assert "refused 235 of the 400 images up to unit make-g0-000002" in str(said.pop())


@given(
    st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1)), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
    st.randoms(use_true_random=False),
)
def test_the_verdict_is_that_of_the_first_prefix_that_is_too_bad(
    units: list[tuple[int, float]], share: float, shuffled: random.Random
) -> None:
    """Whatever the course, a run stops exactly where some prefix of the plan holds enough and is over its limit."""
    made = [receipt(unit(n), c, own_template_too_far=int(c * p)) for n, (c, p) in enumerate(units)]
    course = list(made)
    shuffled.shuffle(course)
    said = told([replace(LIMIT, share=share)], course, [unit(n) for n in range(len(units))])
    first = None
    for n in range(len(made)):
        total = Counts.total(r.counts for r in made[: n + 1])
        over = total.reasons_any.get("own_template_too_far", 0) > share * total.candidates
        if first is None and total.candidates >= LEAST_CANDIDATES and over:
            first = n
    assert (said is None) == (first is None)
    assert first is None or f"up to unit {made[first].name}," in str(said)


def test_a_quarantined_unit_is_waited_for_until_its_barrier_is_over() -> None:
    """What follows a unit that is open is not looked at; once the barrier is over, the unit is left out."""
    units = [unit(0), unit(1)]
    bad = receipt(units[1], 300, own_template_too_far=300)
    assert told([LIMIT], [bad], units, over=False) is None
    assert "refused 300 of the 300 images up to unit make-g0-000001" in str(told([LIMIT], [bad], units))


def test_limits_are_those_of_the_recipe() -> None:
    """Each `stop_above` becomes a limit with the filter's reasons and the key to turn; nothing else does."""
    filters = [dict(f) for f in sketch_recipe()["filters"]]
    filters[2]["stop_above"] = 0.3
    recipe = sketches(filters=filters)
    parts = wiring.build_parts(recipe, MemoryStore(), None, "test")
    assert limits_of(recipe, parts.filters(10)) == (
        Limit("filters.2.stop_above", "condition:yaw_deg", ("off_target_yaw_deg",), 0.3),
    )


# ------------------------------------------------------------------------------------------ whole runs


def hard(stop_above: float | None, **changes: Any) -> Recipe:
    """Return a recipe whose own-template filter refuses a good share of what is made."""
    recipe = {
        "filters": [{"use": "own-template", "cos": 0.9, "stop_above": stop_above}],
        "balance": {"by": []},
        "identities": {**sketch_recipe()["identities"], "count": 26, "images_per_identity": 8},
        "unit": {"identities": 4, "window": 4},
        "attempts": 20,
        "rounds": 10,
        "enrol": {**sketch_recipe()["enrol"], "reserve": 1.0},
        "exports": [],
    }
    return sketches(**{**recipe, **changes})


class Shuffled(InlineExecutor):
    """An executor that finishes units in an order of its own."""

    seed = 0

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield receipts in the order of a shuffled plan."""
        mixed = list(units)
        random.Random(self.seed).shuffle(mixed)
        return super().run(mixed)


def stopped(recipe: Recipe, store: MemoryStore, seed: int | None = None) -> str:
    """Return in which words a run is stopped; with a seed its units finish in another order."""
    session = wiring.session_on(recipe, store, Silent())
    if seed is not None:
        inline: Any = session.executor
        inline.__class__ = type("Mixed", (Shuffled,), {"seed": seed})
    with pytest.raises(TargetNotReachedError) as caught:
        generate(session)
    assert caught.value.exit_status == 4
    return str(caught.value)


@pytest.fixture(scope="module")
def free() -> MemoryStore:
    """Return the dataset that nothing stopped."""
    store = MemoryStore()
    mint(hard(None), store)
    return store


def test_a_run_is_stopped_at_the_same_unit_in_whatever_order_units_finish(free: MemoryStore) -> None:
    """In the order of the plan and in two others the words are equal, and running again says them without working."""
    stores = {seed: MemoryStore() for seed in (None, 1, 2)}
    said = {stopped(hard(0.05), store, seed) for seed, store in stores.items()}
    assert len(said) == 1
    assert "filter 'own-template' refused" in said.copy().pop()
    made = {seed: len(receipts(store, "make")) for seed, store in stores.items()}
    assert made[None] < len(receipts(free, "make"))
    before = bytes_of(stores[None])
    assert stopped(hard(0.05), stores[None]) in said
    assert bytes_of(stores[None]) == before


def test_a_quarantined_unit_shields_nobody() -> None:
    """Where the first unit is set aside, those after it are judged once the barrier is over, without it."""
    store = MemoryStore()
    session = wiring.session_on(hard(0.05, rounds=1), store, Silent(), allow_short=True)
    quarantine = Quarantine(store, session.parts.clock)
    for _ in range(DEATHS_ALLOWED):
        quarantine.record("make-g0-000000", "killed by hand")
    with pytest.raises(TargetNotReachedError, match=r"refused \d+ of the \d+ images up to unit make-g0-00000[1-9],"):
        generate(session)
    assert "make-g0-000000" not in receipts(store, "make")


@pytest.mark.parametrize("knob", [0.95, None])
def test_a_stopped_run_goes_on_once_the_knob_is_turned(free: MemoryStore, knob: float | None) -> None:
    """The limit is in no fingerprint: the same place is resumed under a higher one, or none, to the same bytes."""
    store = MemoryStore()
    stopped(hard(0.05), store, 1)
    assert mint(hard(knob), store).manifest.version == "v000001"
    assert bytes_of(store) == bytes_of(free)


def test_what_is_published_is_stopped_by_nobody(free: MemoryStore) -> None:
    """A limit that is lowered after the fact does not unpublish; a lost segment is made again all the same."""
    store = copy_of(free)
    assert mint(hard(0.05), store).resumed
    store.delete("segments/make-g0-000001.tar")
    mint(hard(0.05), store)
    assert bytes_of(store) == bytes_of(free)


def test_a_limit_on_a_filter_that_observes_is_refused() -> None:
    """An observing filter refuses nothing, so its limit could never be met: said when the recipe is read."""
    with pytest.raises(UserError, match=r"filters.0.stop_above: with mode: observe nothing is refused"):
        sketches(filters=[{"use": "own-template", "cos": 0.5, "mode": "observe", "stop_above": 0.5}])
