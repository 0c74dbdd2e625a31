"""The quarantine: deaths are files that outlive the driver; three set a unit aside, a receipt or a person ends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.manifest import Counts, Receipt, receipt_path
from pipeline.domain.ports import Store
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.quarantine import DEATHS_ALLOWED, PREFIX, Quarantine

ONE, TWO = "make-g0-000001", "enrol-g12-000002"


class Clock:
    """A clock that stands still."""

    def now_s(self) -> float:
        """Return the same second always."""
        return 1_000.0


@pytest.fixture(params=[lambda _: MemoryStore(), LocalStore], ids=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind."""
    make: Callable[[Path], Store] = request.param
    return make(tmp_path)


def test_a_death_is_in_the_store_when_record_returns(store: Store) -> None:
    """One file per death, telling the unit, its number, the cause, when, and what is known of the worker."""
    quarantine = Quarantine(store, Clock())
    assert quarantine.deaths(ONE) == 0
    assert quarantine.record(ONE, "signal 9", {"host": "a", "node": "n1"}) == 1
    assert quarantine.record(ONE, "signal 11") == 2
    assert quarantine.record(TWO, "no result in 5 s") == 1
    assert store.list(PREFIX) == [f"{PREFIX}{TWO}-1.json", f"{PREFIX}{ONE}-1.json", f"{PREFIX}{ONE}-2.json"]
    assert json.loads(store.get(f"{PREFIX}{ONE}-1.json")) == {
        "unit": ONE,
        "number": 1,
        "why": "signal 9",
        "worker": {"host": "a", "node": "n1"},
        "at_s": 1000.0,
    }
    assert quarantine.why(ONE) == "signal 11"


def test_the_next_driver_knows_what_the_last_one_wrote(store: Store) -> None:
    """Deaths of an earlier run count; a unit is set aside at the third, wherever the three happened."""
    Quarantine(store, Clock()).record(ONE, "signal 9")
    second = Quarantine(store, Clock())
    assert second.record(ONE, "signal 9") == 2
    assert not second.is_full(ONE)
    assert Quarantine(store, Clock()).record(ONE, "signal 9") == DEATHS_ALLOWED
    third = Quarantine(store, Clock())
    assert third.is_full(ONE)
    assert third.quarantined() == [ONE]


def test_what_another_driver_writes_meanwhile_counts_too(store: Store) -> None:
    """Two drivers that both believe to write the first death leave two files; reading again shows both."""
    first, second = Quarantine(store, Clock()), Quarantine(store, Clock())
    first.read()
    second.read()
    assert first.record(ONE, "signal 9") == 1
    assert second.record(ONE, "signal 9") == 2
    first.read()
    assert first.deaths(ONE) == 2


def test_a_receipt_wins_over_deaths(store: Store) -> None:
    """A unit that was done after all, by a worker thought dead, is not listed as quarantined."""
    quarantine = Quarantine(store, Clock())
    for _ in range(3):
        quarantine.record(ONE, "signal 9")
    store.put_if_absent(receipt_path(ONE), b"{}")
    assert quarantine.quarantined() == []


def test_a_receipt_that_a_lost_worker_left_is_found(store: Store) -> None:
    """Only a readable receipt of this very unit says that it was done after all."""
    quarantine, unit = Quarantine(store, Clock()), Unit(Stage.MAKE, 0, 1, 0)
    assert quarantine.done_after_all(unit) is None
    receipt = Receipt(unit.to_dict(), unit.name, "f", "p", Counts(0, 0, 0, {}), ())
    store.put(receipt.path, receipt.to_json())
    assert quarantine.done_after_all(unit) == receipt
    assert quarantine.done_after_all(replace(unit, round=1)) is None
    store.put(receipt.path, b"[]")
    assert quarantine.done_after_all(unit) is None


def test_release_forgets_the_quarantined_and_no_others(store: Store) -> None:
    """Releasing deletes the deaths of units that are set aside; one with two deaths keeps them."""
    quarantine = Quarantine(store, Clock())
    for _ in range(3):
        quarantine.record(ONE, "signal 9")
    for _ in range(2):
        quarantine.record(TWO, "signal 9")
    assert quarantine.release() == [ONE]
    assert (quarantine.deaths(ONE), quarantine.deaths(TWO)) == (0, 2)
    assert store.list(PREFIX) == [f"{PREFIX}{TWO}-1.json", f"{PREFIX}{TWO}-2.json"]
    assert quarantine.release() == []
    assert quarantine.record(ONE, "signal 9") == 1


@pytest.mark.parametrize("stray", ["note.txt", "make-g0-000001-x.json", "1.json", "-1.json"])
def test_what_is_no_death_of_ours_is_passed_over(store: Store, stray: str) -> None:
    """Other files below the folder are neither counted nor deleted."""
    store.put(PREFIX + stray, b"mine")
    quarantine = Quarantine(store, Clock())
    assert quarantine.quarantined() == []
    assert quarantine.release() == []
    assert store.list(PREFIX) == [PREFIX + stray]


@pytest.mark.parametrize("torn", [b"", b"[]", b"{}", b"\xff"])
def test_a_torn_record_still_counts(store: Store, torn: bytes) -> None:
    """That a death happened is told by its name; only its cause is lost with its bytes."""
    store.put(f"{PREFIX}{ONE}-1.json", torn)
    quarantine = Quarantine(store, Clock())
    assert quarantine.deaths(ONE) == 1
    assert quarantine.why(ONE) == ""
