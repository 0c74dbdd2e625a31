"""Segments that keep whole pictures: what a unit is refused for, and that reading finds each picture where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.records import Candidate, Sample

UNIT = "make-g0-000000"


def candidate(number: int, *, accepted: bool = True, twin: bool = False, key: str = "") -> Candidate:
    """Return a candidate with made-up bytes; every number has other ones."""
    name = key or f"i00000000-s{number:04d}-a00{'-t01' if twin else ''}"
    sample = Sample(name, 0, number, 0, {}, {"sharpness": 0.5}, np.full(4, 0.5, np.float32))
    jpeg = b"crop %d" % number if accepted else None
    whole = b"picture %d" % number * 50 if accepted and not twin else None
    return Candidate(sample, number, (), accepted, False, jpeg, whole=whole)


@pytest.mark.parametrize("rows", [0, 1, 4097])
def test_every_picture_is_found(rows: int) -> None:
    """Of several row groups, or none, each accepted image but twins has its picture back; others have none."""
    store, made = MemoryStore(), [candidate(n, accepted=n % 3 < 2, twin=n % 3 == 1) for n in range(rows)]
    Segments(4).write_images(store, UNIT, made, wholes=True)
    found = Segments().read_wholes(store, UNIT)
    assert found is not None
    tar = store.get(f"segments/{UNIT}.tar")
    there = {key: tar[w.offset : w.offset + w.length] for key, w in found.items()}
    assert there == {c.sample.key: c.whole for c in made if c.whole}
    assert all(w.sha256 == sha256_hex(there[key]) for key, w in found.items())
    assert Segments().locate(store, UNIT).keys() == {c.sample.key for c in made if c.accepted}


def test_the_longest_key_fits() -> None:
    """A key of 90 characters has room for its picture's name in a header."""
    store = MemoryStore()
    Segments().write_images(store, UNIT, [candidate(0, key="k" * 90)], wholes=True)
    assert (Segments().read_wholes(store, UNIT) or {}).keys() == {"k" * 90}


def test_a_segment_that_keeps_none_says_so() -> None:
    """None is another answer than no picture; its file is the one that it always was."""
    first, second = MemoryStore(), MemoryStore()
    rows = [replace(candidate(n), whole=None) for n in range(3)]
    Segments().write_images(first, UNIT, rows)
    Segments().write_images(second, UNIT, rows, wholes=False)
    assert Segments().read_wholes(first, UNIT) is None
    assert {p: first.get(p) for p in first.list("")} == {p: second.get(p) for p in second.list("")}
    assert list(Segments().read_rows(first, UNIT)[0]) == [
        "key", "order", "identity", "slot", "attempt", "conditions", "measures", "embedding", "verdicts", "accepted",
        "off_target", "reasons",
    ]  # fmt: skip


def _lacking() -> Iterator[Candidate]:
    yield replace(candidate(0), whole=None)


def _unasked() -> Iterator[Candidate]:
    yield candidate(0)


def _twin() -> Iterator[Candidate]:
    yield replace(candidate(0, twin=True), whole=b"picture")


@pytest.mark.parametrize(
    ("rows", "wholes", "match"),
    [(_lacking, True, "lacks a whole picture"), (_unasked, False, "comes with a whole"), (_twin, True, "comes with a")],
)
def test_a_unit_keeps_all_or_none(rows: object, wholes: bool, match: str) -> None:
    """A picture that is lacking, or that nobody asked for, stops the writing before anything is stored."""
    store = MemoryStore()
    with pytest.raises(ValueError, match=match):
        Segments().write_images(store, UNIT, rows(), wholes=wholes)  # type: ignore[operator]
    assert store.list("") == []


def test_of_real_people_only_crops_are_stored() -> None:
    """What shows more of a person than the crop has no place in a segment of real people."""
    store = MemoryStore()
    with pytest.raises(ValueError, match="of real people are not stored"):
        Segments(private=True).write_images(store, UNIT, [candidate(0)], wholes=True)
    with pytest.raises(ValueError, match="comes with a whole picture"):
        Segments(private=True).write_images(store, UNIT, [candidate(0)])
    assert store.list("") == []


def test_another_unit_s_file_is_refused() -> None:
    """What says that it belongs to another unit is not read as this one's."""
    store = MemoryStore()
    Segments().write_images(store, UNIT, [candidate(0)], wholes=True)
    store.put("segments/other.parquet", store.get(f"segments/{UNIT}.parquet"))
    with pytest.raises(StoreError, match="belongs to unit make-g0-000000"):
        Segments().read_wholes(store, "other")
    with pytest.raises(FileNotFoundError):
        Segments().read_wholes(store, "nobody")
