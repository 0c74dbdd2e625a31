"""What nothing names, beside everything that a dataset can hold: splits, side-cars, previews, exports, erasures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest

from jobs import wiring
from jobs.wiring.exports import build_exporter, export_on
from jobs.wiring.measuring import measure_on
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.stores import MemoryStore, PrefixedStore
from pipeline.domain.errors import StoreError
from pipeline.domain.ports import Store
from pipeline.domain.splits import Part
from pipeline.flow.lease import acquire
from pipeline.flow.orphans import find_orphans, remove_orphans
from pipeline.flow.splits import Asked
from pipeline.flow.versions import read_manifest, versions
from tests.flow.erasing import DyingAtAnyChange, erase, final, rows_of
from tests.flow.test_growth import asked
from tests.flow.test_run import Killed
from tests.worlds import Silent, copy_of, filled, mint, problems

WITH: dict[str, Any] = {
    "exports": [{"use": "webdataset"}, {"use": "imagefolder"}],
    "filters": [
        {"use": "own-template", "fmr": 1e-2},
        {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 0.3},
    ],
    "attempts": 9,
}
SMALL, LARGE = asked(4, 2, **WITH), asked(5, 3, **WITH)
NO_GRACE_S = -3600.0
HALVES = Asked("halves", (Part("train", Fraction(1, 2)), Part("test", Fraction(1, 2))))


def exported(store: Store) -> None:
    """Export into the dataset's own folder, beside what the recipe named."""
    place = PrefixedStore(store, "exports/v000001/two")
    export_on(store, build_exporter("webdataset", ["max_per_identity=2"]), place)


def erased(store: Store) -> None:
    """Erase the first identity; asked again, the same one."""
    gone = read_manifest(store, versions(store)[-1]).tombstones.identities
    erase(store, *(gone or [rows_of(store)[0].identity]))


STEPS: dict[str, Callable[[MemoryStore], object]] = {
    "minted": functools.partial(mint, SMALL),
    "exported": exported,
    "measured": lambda store: measure_on(store, "lighting", ["alignment=sketch-32"], Silent()),
    "split": lambda store: wiring.split_on(store, HALVES),
    "grown": functools.partial(mint, LARGE),
    "split again": lambda store: wiring.split_on(store, HALVES),
    "erased": erased,
}


def cleaned(store: Store) -> list[str]:
    """Remove whatever nothing names, however young; return what it was, but for leases and heartbeats."""
    listed = find_orphans(store, SystemClock(), NO_GRACE_S)
    lease = acquire(store, SystemClock(), {"run": "removal", "host": "here", "pid": 1}, lambda who: True)
    with suppress(StoreError):
        # half an erasure is finished first
        remove_orphans(store, SystemClock(), lease, listed, NO_GRACE_S)
    lease.release()
    return [o.stored.path for o in listed.files if not o.stored.path.startswith("runs/")]


@pytest.fixture(scope="module")
def states() -> dict[str, MemoryStore]:
    """Return the dataset after each step, and before the first one under ""."""
    out = {"": MemoryStore()}
    for name, step in STEPS.items():
        out[name] = copy_of(list(out.values())[-1])
        step(out[name])
    assert out["minted"].list("previews/")
    return out


@pytest.mark.parametrize("name", STEPS)
def test_nothing_that_a_finished_step_left_is_an_orphan(states: dict[str, MemoryStore], name: str) -> None:
    """Neither listed nor removed, whatever the step wrote; and the dataset verifies as before."""
    store = copy_of(states[name])
    assert cleaned(store) == []
    assert final(store) == final(states[name])
    assert problems(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_what_a_killed_step_left_may_be_removed_before_it_is_run_again(
    states: dict[str, MemoryStore], name: str
) -> None:
    """Killed around a change, cleaned, and run again: the same dataset, in which nothing is left over."""
    before, wanted = list(states.values())[list(STEPS).index(name)], final(states[name])
    killed, left = 0, 0
    points = [(n, after) for n in (1, 2) for after in (False, True)]
    for dies_at, after in (*points, *((n, n % 4 == 0) for n in range(7, 400, 17))):
        store = DyingAtAnyChange(-1, after=after)
        filled(store, before)
        store.left = dies_at
        try:
            STEPS[name](store)
            break
        except Killed:
            killed += 1
            store.left = -1
        left += len(cleaned(store))
        STEPS[name](store)
        assert final(store) == wanted, dies_at
        assert cleaned(store) == [], dies_at
    assert killed >= 2
    assert problems(store) == []
    assert left or name not in ("minted", "measured", "split", "grown")
