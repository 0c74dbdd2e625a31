"""Previews in whole runs: which files there are, what stands in them, and that nothing else depends on them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
from pipeline.domain.leakage import COPY_REASON
from pipeline.domain.leakage import REASON as LEAKS
from pipeline.domain.manifest import Manifest
from pipeline.domain.previews import Preview
from pipeline.flow.commit import receipts
from pipeline.flow.verify import verify
from tests.recipes import all_on_recipe
from tests.worlds import bytes_of, copy_of, mint, sketches

NOISY: dict[str, Any] = {
    "generator": {"use": "sketch", "noise": 2.5},
    "attempts": 9,
    "rounds": 8,
    "filters": [
        {"use": "own-template", "fmr": 1e-2},
        {"use": "nearest-other", "fpir": 0.05},
        {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 0.2},
    ],
}
SEGMENTS = Segments()


@pytest.fixture(scope="module")
def finished() -> tuple[MemoryStore, Manifest]:
    """Return a noisy dataset of several units."""
    store = MemoryStore()
    return store, mint(sketches(**NOISY), store).manifest


def problems(store: MemoryStore, *, deep: bool) -> list[str]:
    """Return the files that verification names."""
    return [p.path for p in verify(store, SEGMENTS, JpegCodec(), deep=deep).problems]


def test_a_unit_keeps_the_first_refused_of_each_reason(finished: tuple[MemoryStore, Manifest]) -> None:
    """Recomputed from the rows: the keys, their verdicts and cells, in the order of making; receipts name the files."""
    store, _ = finished
    cells = {m.ordinal: str(m.cell) for m in SEGMENTS.read_members(store, "enrolled/g0.parquet")}
    kept: list[str] = []
    for name, receipt in receipts(store, "make-").items():
        rows = sorted(SEGMENTS.read_rows(store, name), key=lambda r: r["order"])
        turn: dict[str, int] = {}
        expected = []
        for row in (r for r in rows if not r["accepted"]):
            reason = row["reasons"][0]
            turn[reason] = turn.get(reason, 0) + 1
            if turn[reason] <= 2:
                said = next(v for v in row["verdicts"] if not v["passed"])
                expected.append((row["key"], row["identity"], cells[row["identity"]], reason, said["value"]))
        path = f"previews/{name}.parquet"
        assert (path in {f.path for f in receipt.files}) == bool(expected)
        assert (store.size(path) is not None) == bool(expected)
        if expected:
            found = SEGMENTS.read_previews(store, name)
            assert [(p.key, p.identity, p.cell, p.reason, p.value) for p in found] == expected
            kept += [p.reason for p in found]
    # refused at once, and refused only when its identity closed
    assert {"own_template_too_far", "off_target_yaw_deg"} <= set(kept)


def test_a_preview_is_the_image_that_was_judged(finished: tuple[MemoryStore, Manifest]) -> None:
    """The judge sees in its bytes what stands in the candidate's row."""
    store, _ = finished
    judge = wiring.build("judge", sketches().judge)
    for name in receipts(store, "make-"):
        if store.size(f"previews/{name}.parquet") is None:
            continue
        rows = {r["key"]: r["embedding"] for r in SEGMENTS.read_rows(store, name, ["key", "embedding"])}
        for preview in SEGMENTS.read_previews(store, name):
            seen = judge.embed(JpegCodec().decode(preview.jpeg)[None])[0]
            assert np.array_equal(seen, rows[preview.key])


def test_a_version_does_not_stand_on_previews(finished: tuple[MemoryStore, Manifest]) -> None:
    """Its digest and files are the same however many are kept; with 0 there is no file of them.

    Only the report may show others, and the manifest names the report by digest.
    """
    store, manifest = finished
    assert not [f for f in (*manifest.files, *manifest.documents) if f.path.startswith("previews/")]
    assert store.list("previews/")
    may_differ = ("previews/", "versions/v000001/report.html", manifest.path)
    for number in (0, 7):
        other = MemoryStore()
        found = mint(sketches(**NOISY, previews={"per_reason": number}), other).manifest
        assert (found.digest, found.files) == (manifest.digest, manifest.files)
        assert bool(other.list("previews/")) == bool(number)
        assert {p: d for p, d in bytes_of(store).items() if not p.startswith(may_differ)} == {
            p: d for p, d in bytes_of(other).items() if not p.startswith(may_differ)
        }


def test_a_unit_that_refuses_nothing_writes_no_previews() -> None:
    """No empty file, and nothing in the receipts."""
    store = MemoryStore()
    mint(sketches(generator={"use": "sketch", "noise": 0.0}, filters=[], measures=[{"use": "sketch"}]), store)
    assert store.list("previews/") == []
    assert all(len(r.files) == 2 for r in receipts(store, "make-").values())


def test_later_units_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a unit keeps nothing."""
    monkeypatch.setattr("pipeline.domain.previews.UNITS", 1)
    store = MemoryStore()
    mint(sketches(**NOISY), store)
    assert store.list("previews/") == ["previews/make-g0-000000.parquet"]


def test_a_leak_is_never_shown() -> None:
    """In a run that refuses leaks, no preview is of one, whatever else was wrong with it; others are kept."""
    store = MemoryStore()
    mint(
        sketches(
            **all_on_recipe(filters=[{"use": "sibling-duplicate", "max_cos": 0.85}, {"use": "leakage", "cos": 0.6}])
        ),
        store,
    )
    leaks, shown = set(), set()
    for name in receipts(store, "make-"):
        rows = SEGMENTS.read_rows(store, name, ["key", "reasons"])
        leaks |= {r["key"] for r in rows if {LEAKS, COPY_REASON} & set(r["reasons"])}
        if store.size(f"previews/{name}.parquet") is not None:
            shown |= {p.key for p in SEGMENTS.read_previews(store, name)}
    assert leaks
    assert shown
    assert not leaks & shown


@pytest.mark.parametrize("altered", [False, True])
def test_lost_previews_are_named_and_made_again(finished: tuple[MemoryStore, Manifest], altered: bool) -> None:
    """Verification names the file alone, and the same command brings its bytes back."""
    store = copy_of(finished[0])
    path = store.list("previews/")[0]
    data = store.get(path)
    if altered:
        store.put(path, data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    else:
        store.delete(path)
    assert problems(store, deep=altered) == [path]
    mint(sketches(**NOISY), store, deep=altered)
    assert store.get(path) == data
    assert problems(store, deep=True) == []
    assert bytes_of(store) == bytes_of(finished[0])


def test_a_unit_is_mended_under_another_number_of_previews(finished: tuple[MemoryStore, Manifest]) -> None:
    """Its work is the same, so nobody says that it came out with other bytes."""
    store = copy_of(finished[0])
    store.delete("segments/make-g0-000000.tar")
    again = mint(sketches(**NOISY, previews={"per_reason": 1}), store)
    assert again.manifest.digest == finished[1].digest
    assert problems(store, deep=True) == []


def test_previews_come_back_as_they_were_written_and_others_are_refused() -> None:
    """Equal rows give equal bytes; a file of another unit, and rows that cannot be told apart, are errors."""
    store = MemoryStore()
    rows = [Preview(f"i{n:08d}-s0000-a00", n, "a/b", "too_blurred", 0.1 * n, 1.0, bytes([n + 1])) for n in range(3)]
    entry = SEGMENTS.write_previews(store, "make-g0-000001", rows)
    assert SEGMENTS.write_previews(MemoryStore(), "make-g0-000001", rows) == entry
    assert SEGMENTS.read_previews(store, "make-g0-000001") == rows
    marks = pq.read_schema(io.BytesIO(store.get(entry.path))).metadata
    assert (marks[b"facemint_schema"], marks[b"facemint_unit"]) == (b"1", b"make-g0-000001")
    store.put("previews/make-g0-000002.parquet", store.get(entry.path))
    with pytest.raises(StoreError, match="belongs to unit make-g0-000001"):
        SEGMENTS.read_previews(store, "make-g0-000002")
    for bad in (rows + rows[:1], [replace(rows[0], jpeg=b"")]):
        with pytest.raises(ValueError, match="comes twice or an image has no bytes"):
            SEGMENTS.write_previews(store, "make-g0-000003", bad)
    with pytest.raises(ValueError, match="finite"):
        SEGMENTS.write_previews(store, "make-g0-000003", [replace(rows[0], value=float("nan"))])
