"""Erasing from a damaged dataset: what cannot be ended is not begun, and what was lost is mended first."""

from __future__ import annotations

import pytest

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
from pipeline.flow.commit import receipts
from pipeline.flow.versions import versions
from tests.flow.erasing import erase, found, rows_of, traces
from tests.flow.test_growth import asked
from tests.worlds import copy_of, mint, problems

RECIPE = asked(6, 3)


@pytest.fixture(scope="module")
def whole() -> MemoryStore:
    """Return a small dataset."""
    store = MemoryStore()
    mint(RECIPE, store)
    return store


@pytest.fixture(scope="module")
def who(whole: MemoryStore) -> int:
    """Return the identity that is to be erased."""
    return min(rows_of(whole)).identity


def unit_of(store: MemoryStore, who: int, *, other: bool) -> str:
    """Return the make unit that holds an identity, or another one."""
    made = [r for r in receipts(store).values() if r.unit["stage"] == "make"]
    return next(r.name for r in made if (who in r.unit["ordinals"]) != other)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("place", ["segments/{}.parquet", "segments/{}.tar", "audits/{}.parquet", "receipts/{}.json"])
def test_what_is_lost_stops_an_erasure_before_it_begins(whole: MemoryStore, who: int, place: str, other: bool) -> None:
    """Lost of whoever goes or of somebody else, it is named in one line; made again, the erasure is done."""
    store = copy_of(whole)
    path = place.format(unit_of(store, who, other=other))
    store.delete(path)
    with pytest.raises(StoreError, match=rf"nothing is erased from a damaged dataset: {path}: missing") as refusal:
        erase(store, who)
    assert "\n" not in str(refusal.value)
    assert (store.list("erasures/"), versions(store)) == ([], ["v000001"])
    sought = traces(whole, [who])
    mint(RECIPE, store)
    assert erase(store, who).published.manifest.version == "v000002"
    assert (found(store, sought), problems(store)) == ([], [])


@pytest.mark.parametrize(
    "path", ["enrolled/g0.parquet", "segments/enrol-g0-000000.parquet", "receipts/enrolled-g0.json"]
)
def test_an_enrolment_that_is_lost_is_named(whole: MemoryStore, who: int, path: str) -> None:
    """Nobody is said not to be enrolled because the file that says so is gone."""
    store = copy_of(whole)
    store.delete(path)
    with pytest.raises(StoreError, match=rf"nothing is erased from a damaged dataset: {path}: missing"):
        erase(store, who)
    assert store.list("erasures/") == []


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_an_altered_byte_of_anybody_stops_an_erasure_before_it_begins(
    whole: MemoryStore, who: int, suffix: str
) -> None:
    """A version could not be published over it, and while an erasure is open nothing else may mend it."""
    store = copy_of(whole)
    path = f"segments/{unit_of(store, who, other=True)}.{suffix}"
    data = bytearray(store.get(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))
    with pytest.raises(StoreError, match=f"{path}: its bytes are not those of its receipt"):
        erase(store, who)
    assert store.list("erasures/") == []
    mint(RECIPE, store, deep=True)
    assert erase(store, who).published.manifest.version == "v000002"
    assert problems(store) == []
