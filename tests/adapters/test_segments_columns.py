"""Reading a part: columns as arrays, audits, members without vectors; few requests and little memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import BadVectorError, StoreError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import Store
from pipeline.domain.records import Audited, Candidate, Cell, Identity, Member, Sample, Verdict
from pipeline.domain.space import Space

UNIT = "make-g0-000003"
PARQUET, AUDIT = f"segments/{UNIT}.parquet", f"audits/{UNIT}.parquet"
COLUMNS = (
    "key", "order", "identity", "slot", "attempt", "conditions", "measures", "embedding", "verdicts", "accepted",
    "off_target", "reasons",
)  # fmt: skip
SPACE = Space("test-space", "ab" * 32, "phantom-112", "unit", 6)


def _unit(seed: int, size: int) -> Any:
    vector = np.random.default_rng(seed).standard_normal(size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _candidate(number: int, size: int = 8) -> Candidate:
    accepted = number % 3 != 2
    verdicts = (
        Verdict("sharpness", accepted, "" if accepted else "blur_too_high", 0.25 + number, 0.3),
        Verdict("pose", number % 4 != 0, "pose_off" if number % 4 == 0 else "", 1.0, 2.0),
    )
    sample = Sample(
        key=f"k{number}", identity=number // 4, slot=number % 4, attempt=0,
        conditions={"yaw_deg": float(number)}, measures={f"m{n}": n / 7 for n in range(number % 5)},
        embedding_E=_unit(number, size),
    )  # fmt: skip
    return Candidate(sample, number, verdicts, accepted, False, b"jpeg" if accepted else None)


@pytest.fixture
def store() -> Store:
    """Return an empty store."""
    return MemoryStore()


@pytest.mark.parametrize("count", [1, 12, 4097])
def test_columns_say_what_rows_say(store: Store, count: int) -> None:
    """Every column, of one row group or two, holds the rows' values in the rows' order."""
    Segments().write_images(store, UNIT, (_candidate(n) for n in range(count)))
    rows = Segments().read_rows(store, UNIT)
    found = Segments().read_columns(store, UNIT, COLUMNS)
    assert tuple(found) == COLUMNS
    assert np.array_equal(found["embedding"], np.stack([r["embedding"] for r in rows]))
    for name in set(COLUMNS) - {"embedding"}:
        assert list(found[name]) == [r[name] for r in rows]


def test_columns_have_the_stored_types(store: Store) -> None:
    """Numbers and truth values are arrays, vectors one matrix, the rest lists of Python values."""
    Segments().write_images(store, UNIT, [_candidate(n) for n in range(5)])
    found = Segments().read_columns(store, UNIT, COLUMNS)
    arrays = {name: (v.dtype, v.shape) for name, v in found.items() if isinstance(v, np.ndarray)}
    assert arrays == {
        "order": (np.int32, (5,)), "identity": (np.int64, (5,)), "slot": (np.int32, (5,)),
        "attempt": (np.int32, (5,)), "embedding": (np.float32, (5, 8)), "accepted": (np.bool_, (5,)),
        "off_target": (np.bool_, (5,)),
    }  # fmt: skip
    assert {name: type(v[0]) for name, v in found.items() if isinstance(v, list)} == {
        "key": str, "conditions": dict, "measures": dict, "verdicts": list, "reasons": list,
    }  # fmt: skip


def test_columns_of_an_empty_segment(store: Store) -> None:
    """Without rows there are arrays of length 0 with the types and the width that the schema states."""
    Segments(dimensions=8).write_images(store, UNIT, [])
    found = Segments().read_columns(store, UNIT, COLUMNS)
    assert found["embedding"].shape == (0, 8)
    assert found["accepted"].dtype == np.bool_
    assert found["key"] == found["verdicts"] == []


def test_columns_with_gaps(store: Store) -> None:
    """Where a probed candidate has no template or quality there are NaN, in one row group or several."""
    for count in (3, 4100):
        rows = [
            {
                "candidate": n, "cell_asked": "all", "probes": 4, "measures": {"a": 0.5}, "posterior": {},
                "vector": _unit(n % 9, 6), "template": None if n % 3 == 1 else _unit(n % 9, 8),
                "quality": None if n % 3 == 1 else 0.5, "probe_keys": [f"p{n}"], "accepted": True, "reasons": [],
            }
            for n in range(count)
        ]  # fmt: skip
        Segments().write_probes(store, UNIT, rows)
        found = Segments().read_columns(store, UNIT, ["template", "quality", "probe_keys", "posterior"])
        gaps = np.arange(count) % 3 == 1
        assert np.array_equal(np.isnan(found["template"]).all(axis=1), gaps)
        assert np.array_equal(np.isnan(found["quality"]), gaps)
        assert np.array_equal(found["template"][2], _unit(2, 8))
        assert found["probe_keys"][-1] == [f"p{count - 1}"]
        assert found["posterior"] == [{}] * count


def test_columns_refuse_as_rows_do(store: Store) -> None:
    """Absence, an unknown column, a file of another unit and damage are the errors that `read_rows` raises."""
    with pytest.raises(FileNotFoundError):
        Segments().read_columns(store, UNIT, ["key"])
    Segments().write_images(store, UNIT, [_candidate(n) for n in range(3)])
    with pytest.raises(ValueError, match="no column embeddings; it has key, order"):
        Segments().read_columns(store, UNIT, ["key", "embeddings"])
    store.put("segments/other.parquet", store.get(PARQUET))
    with pytest.raises(StoreError, match=f"it says that it belongs to unit {UNIT}"):
        Segments().read_columns(store, "other", ["key"])
    for spoilt in (store.get(PARQUET)[:-7], b"", b"PAR1" * 9):
        store.put(PARQUET, spoilt)
        with pytest.raises(StoreError, match=f"^{PARQUET}: not readable as parquet") as caught:
            Segments().read_columns(store, UNIT, ["key"])
        assert "\n" not in str(caught.value)


def test_columns_of_a_later_schema(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a later layout is named with its version, whatever columns it has."""
    monkeypatch.setattr("pipeline.adapters.segments.tables.SCHEMA_VERSION", 2)
    Segments().write_images(store, UNIT, [_candidate(1)])
    monkeypatch.undo()
    with pytest.raises(StoreError, match="schema version 2 where 1 is read"):
        Segments().read_columns(store, UNIT, ["unheard_of"])


def test_columns_come_in_few_requests(tmp_path: Path) -> None:
    """Only what is asked for is fetched, neighbouring columns in one request per row group, small files in one."""
    store = _Counting(tmp_path)
    Segments().write_images(store, UNIT, [_candidate(n, 128) for n in range(4097)])
    Segments().read_columns(store, UNIT, ["key", "order", "identity", "slot", "attempt", "accepted"])
    assert store.requests <= 1 + 2 * 2
    assert store.fetched_bytes < 0.2 * (store.size(PARQUET) or 0)
    Segments().write_images(store, "small", [_candidate(n) for n in range(9)])
    store.requests = 0
    Segments().read_columns(store, "small", COLUMNS)
    assert store.requests == 1


def test_vectors_are_not_copied_row_by_row(tmp_path: Path) -> None:
    """A matrix of vectors costs its own size, not one object per row, and at most one row group on top."""
    store, count, size = LocalStore(tmp_path), 3 * 4096, 128
    Segments().write_images(store, UNIT, (_candidate(n, size) for n in range(count)))
    Segments().read_columns(store, UNIT, ["slot"])
    tracemalloc.start()
    found = Segments().read_columns(store, UNIT, ["embedding"])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["embedding"].shape == (count, size)
    assert peak_bytes < found["embedding"].nbytes * 1.5 + 1e6


@given(
    keys=st.lists(st.text("abc019-_", min_size=1, max_size=9), unique=True, max_size=9),
    size=st.integers(1, 9),
    first=st.integers(0, 2**60),
)
def test_audits_come_back(keys: list[str], size: int, first: int) -> None:
    """Keys, places and embeddings come back as they were written; of no rows the embeddings' shape is (0, 0)."""
    places = np.arange(len(keys), dtype=np.int64)
    emb = np.stack([_unit(n, size) for n in range(len(keys))]) if keys else np.zeros((0, size), np.float32)
    store = MemoryStore()
    entry = Segments().write_audit(store, UNIT, Audited(tuple(keys), places + first, places * 7, emb))
    found = Segments().read_audit(store, UNIT)
    assert (entry.path, entry.bytes) == (AUDIT, store.size(AUDIT))
    assert found.keys == tuple(keys)
    assert found.offset_N.dtype == found.length_N.dtype == np.int64
    assert np.array_equal(found.offset_N, places + first)
    assert np.array_equal(found.length_N, places * 7)
    assert found.auditor_NE.dtype == np.float32
    assert found.auditor_NE.tobytes() == emb.tobytes()
    assert found.auditor_NE.shape == ((len(keys), size) if keys else (0, 0))


def test_audit_of_several_row_groups(store: Store) -> None:
    """More than 4,096 images come back in order, and equal content gives equal bytes."""
    count = 5000
    keys, places = tuple(f"k{n}" for n in range(count)), np.arange(count, dtype=np.int64)
    emb = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    entry = Segments().write_audit(store, UNIT, Audited(keys, places, places, emb))
    found = Segments().read_audit(store, UNIT)
    assert found.keys == keys
    assert np.array_equal(found.auditor_NE, emb)
    assert Segments().write_audit(MemoryStore(), UNIT, Audited(keys, places, places, emb)) == entry


def test_audits_that_must_not_be_stored(store: Store) -> None:
    """Fields of different lengths, a double key, NaN and vectors without length are refused."""
    places, emb = np.arange(2, dtype=np.int64), np.ones((2, 3), np.float32)
    good = Audited(("a", "b"), places, places, emb)
    for bad, error, message in (
        (replace(good, keys=("a",)), ValueError, "1 keys with offsets"),
        (replace(good, auditor_NE=emb[:1]), ValueError, r"shapes \(2,\), \(2,\), \(1, 3\)"),
        (replace(good, keys=("a", "a")), ValueError, "key 'a' comes twice"),
        (replace(good, auditor_NE=emb * np.nan), BadVectorError, "embedding, row 0 of its group: not finite"),
        (replace(good, auditor_NE=emb[:, :0]), BadVectorError, "at least one dimension"),
    ):
        with pytest.raises(error, match=message):
            Segments().write_audit(store, UNIT, bad)
    assert store.list("") == []


def test_audits_of_other_units_are_noticed(store: Store) -> None:
    """An absent audit is absent, and one that was written for another unit is not taken for this one's."""
    with pytest.raises(FileNotFoundError):
        Segments().read_audit(store, UNIT)
    none = np.zeros(0, np.int64)
    Segments().write_audit(store, UNIT, Audited((), none, none, np.zeros((0, 0), np.float32)))
    store.put("audits/other.parquet", store.get(AUDIT))
    with pytest.raises(StoreError, match=f"it says that it belongs to unit {UNIT}"):
        Segments().read_audit(store, "other")


def test_members_are_identities_without_vectors(tmp_path: Path) -> None:
    """Ordinal, candidate, cell and rank come back in ordinal order, and the vectors are not fetched."""
    store, path, count = _Counting(tmp_path), "enrolled/g0.parquet", 2000
    cells = (Cell(("light", "older")), Cell(()))
    put = [Identity(n, 9 * n, cells[n % 2], n // 2, _unit(n, 6), _unit(n, 64), 4, 0.8) for n in range(count)]
    Segments().write_identities(store, path, put[::-1], SPACE)
    assert Segments().read_members(store, path) == [Member(n, 9 * n, cells[n % 2], n // 2) for n in range(count)]
    assert store.fetched_bytes < 0.3 * (store.size(path) or 0)


def test_members_of_something_else(store: Store) -> None:
    """A parquet that states no space is named, and an absent one is absent."""
    with pytest.raises(FileNotFoundError):
        Segments().read_members(store, "enrolled/g0.parquet")
    Segments().write_images(store, UNIT, [_candidate(1)])
    with pytest.raises(StoreError, match="does not state the space"):
        Segments().read_members(store, PARQUET)
    Segments().write_identities(store, "enrolled/g0.parquet", [], SPACE)
    assert Segments().read_members(store, "enrolled/g0.parquet") == []


class _Counting(LocalStore):
    """A local store that counts what is read from it in parts."""

    requests = 0
    fetched_bytes = 0

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Count a part."""
        self.requests, self.fetched_bytes = self.requests + 1, self.fetched_bytes + length
        return super().get_range(path, offset, length)


def test_numbers_are_read_without_pandas(tmp_path: Path) -> None:
    """Arrow's own way to numpy imports pandas where that is installed: a quarter of a second for every command."""
    store = LocalStore(tmp_path)
    Segments().write_index(store, "v000001", [IndexRow(0, "i00000000-s0000-a00", 0, "x", "s", 512, 10)])
    code = (
        "import sys; from pipeline.adapters.segments import Segments; from pipeline.adapters.stores import LocalStore; "
        f"store = LocalStore({str(tmp_path)!r}); rows = Segments().read_index(store, store.list('versions/')[0]); "
        "assert len(rows) == 1; assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
