"""Deep verification names the one file in which a byte was altered, whichever file of a published version it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.ports import Store
from pipeline.domain.splits import folds
from pipeline.flow.splits import Asked
from pipeline.flow.verify import verify
from tests.worlds import Silent, mint, sketches

EXPORTS = [{"use": kind} for kind in ("webdataset", "recordio", "hf", "imagefolder")]
SEGMENTS, CODEC = Segments(), JpegCodec()
NOT_OF_A_VERSION = "runs/"
"""Leases and heartbeats: what a run says of itself while it is at work."""


@pytest.fixture(scope="module")
def grown() -> Store:
    """Return a dataset of two generations, versions and their exports, with side-cars and a split."""
    store, recipe = MemoryStore(), sketches(exports=EXPORTS)
    mint(recipe, store)
    wiring.measure_on(store, "lighting", (), Silent())
    wiring.split_on(store, Asked("five", folds(5)))
    mint(sketches(exports=EXPORTS, identities={**recipe.identities.model_dump(), "count": 12}), store)
    assert damaged(store) == set()
    return store


def damaged(store: Store) -> set[str]:
    """Return the files that deep verification names."""
    return {p.path for p in verify(store, SEGMENTS, CODEC, deep=True).problems}


def files_of(store: Store) -> list[str]:
    """Return every file of the dataset's versions."""
    return [path for path in store.list("") if not path.startswith(NOT_OF_A_VERSION)]


def kinds_of(store: Store) -> Mapping[str, list[str]]:
    """Return the files by kind: what differs in numbers and digests alone is of one."""
    kinds: dict[str, list[str]] = {}
    for path in files_of(store):
        kinds.setdefault(re.sub(r"[0-9a-f]{16}|\d+", "N", path), []).append(path)
    return kinds


def names_it_alone(store: Store, path: str, place: float, flips: int) -> None:
    """Alter the byte at a place, 0 to 1, of a file, see it named, and put it back."""
    data = store.get(path)
    offset = min(int(place * len(data)), len(data) - 1)
    store.put(path, data[:offset] + bytes([data[offset] ^ flips]) + data[offset + 1 :])
    try:
        assert damaged(store) == {path}, f"byte {offset} of {path}, altered by {flips:#x}"
    finally:
        store.put(path, data)


PLACES = st.floats(0, 1, exclude_max=True)
FLIPS = st.integers(1, 255)
CHECKED = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def test_there_are_files_of_every_kind(grown: Store) -> None:
    """What is flipped below is everything that a version stands on, and its exports."""
    tops = {path.partition("/")[0] for path in files_of(grown)}
    assert tops >= {
        "audits",
        "enrolled",
        "exports",
        "measures",
        "receipts",
        "recipes",
        "segments",
        "splits",
        "versions",
    }
    assert len(kinds_of(grown)) > 40
    assert {path.split("/")[2] for path in files_of(grown) if path.startswith("exports/")} >= {
        str(export["use"]) for export in EXPORTS
    }


@given(data=st.data())
@settings(CHECKED, max_examples=80)
def test_an_altered_byte_is_named(grown: Store, data: st.DataObject) -> None:
    """In a file of any kind, at any place, by any flip: that file is named, and no other."""
    kinds = kinds_of(grown)
    path = data.draw(st.sampled_from(kinds[data.draw(st.sampled_from(sorted(kinds)))]))
    names_it_alone(grown, path, data.draw(PLACES), data.draw(FLIPS))


@pytest.mark.slow
@given(places=st.lists(st.tuples(PLACES, FLIPS), min_size=1, max_size=2))
@settings(CHECKED, max_examples=3)
def test_an_altered_byte_is_named_in_every_single_file(grown: Store, places: list[tuple[float, int]]) -> None:
    """One file after another, none left out."""
    for path in files_of(grown):
        for place, flips in places:
            names_it_alone(grown, path, place, flips)


@pytest.mark.parametrize("at", ["first", "last"])
def test_the_first_and_the_last_byte_are_no_exception(grown: Store, at: str) -> None:
    """One file of every kind, at its ends."""
    for paths in kinds_of(grown).values():
        names_it_alone(grown, paths[0], 0.0 if at == "first" else 1.0, 0x20)
