"""Segments of real people: what is published of them, what stays under `private/`, and that reading finds both."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.records import Audited, Candidate, Sample, Verdict

UNIT = "make-g0-000003"
TABLE, TAR = f"segments/{UNIT}.parquet", f"segments/{UNIT}.tar"
E = 5
PERSONAL = {"shade=dark": 0.25, "shade@second=dark": 0.5, "apparent_age_years": 34.0, "est_skin_tone_mst": 6.0}
PLAIN = {"sharpness": 0.75, "own_template_cos": 0.5}
VERDICTS = (
    Verdict("sharpness", True, "", 0.75, 0.5),
    Verdict("apparent-minor", True, "", 34.0, 21.0),
    Verdict("range:apparent_age_years", True, "", 34.0, 18.0),
    Verdict("cell-agreement:shade", True, "", 0.75, 0.5),
)


def candidate(number: int, *, sourced: dict[str, str] | None = None) -> Candidate:
    """Return a face of somebody; every fifth is refused."""
    emb = np.random.default_rng(number).standard_normal(E).astype(np.float32)
    accepted = number % 5 != 4
    verdicts = VERDICTS if accepted else (replace(VERDICTS[0], passed=False, reason="too_blurred"), *VERDICTS[1:])
    measures = {name: value + number for name, value in {**PLAIN, **PERSONAL}.items()}
    key = f"i{number // 4:08d}-s{number % 4:04d}-a00"
    sample = Sample(key, number // 4, number % 4, 0, {}, measures, emb)
    return Candidate(sample, number, verdicts, accepted, False, b"jpeg" if accepted else None, sourced or {})


def written(rows: Sequence[Candidate], **options: Any) -> MemoryStore:
    """Return a store with one segment of real people."""
    store = MemoryStore()
    Segments(E, private=True, **options).write_images(store, UNIT, rows)
    return store


def side_cars(store: MemoryStore) -> list[dict[str, Any]]:
    """Return the JSON beside every image."""
    with tarfile.open(fileobj=io.BytesIO(store.get(TAR))) as archive:
        names = [n for n in archive.getnames() if n.endswith(".json")]
        return [json.load(archive.extractfile(n)) for n in names]  # type: ignore[arg-type]


def test_nothing_of_what_a_person_looks_like_is_published() -> None:
    """Table, side-cars and verdicts that are published hold no embedding, no attribute and no value of one."""
    store = written([candidate(n) for n in range(12)])
    published = pq.read_table(io.BytesIO(store.get(TABLE)))
    assert "embedding" not in published.column_names
    for row in published.to_pylist():
        assert {name for name, _ in row["measures"]} == set(PLAIN)
        assert [v["filter"] for v in row["verdicts"]] == ["sharpness"]
    for car in side_cars(store):
        assert set(car["measures"]) == set(PLAIN)
    assert not any(name.encode() in store.get(TAR) for name in PERSONAL)


def test_receipts_name_the_private_part() -> None:
    """Writing returns tar, public table and private table, with the digests of what was stored."""
    store = MemoryStore()
    entries = Segments(E, private=True).write_images(store, UNIT, [candidate(0)])
    assert [e.path for e in entries] == [TAR, TABLE, f"private/{TABLE}"]
    assert [e.bytes for e in entries] == [len(store.get(e.path)) for e in entries]


@pytest.mark.parametrize("count", [0, 1, 5000])
@pytest.mark.parametrize("attributes", [False, True])
def test_reading_finds_what_lies_apart_without_being_told(count: int, attributes: bool) -> None:
    """Whoever reads rows or columns gets the numbers that were written, wherever they lie, in every row group."""
    rows = [candidate(n, sourced={"caption": f"photo {n}"} if n % 2 else {}) for n in range(count)]
    store = written(rows, attributes=attributes)
    found = Segments().read_rows(store, UNIT)
    assert len(found) == count
    for row, made in zip(found, rows, strict=True):
        assert row["key"] == made.sample.key
        assert row["measures"] == dict(made.sample.measures)
        assert row["embedding"].tolist() == made.sample.embedding_E.tolist()
        assert [Verdict(**v) for v in row["verdicts"]] == list(made.verdicts)
        assert row["sourced"] == dict(made.sourced)
        assert row["reasons"] == list(made.reasons)
    if count:
        columns = Segments().read_columns(store, UNIT, ["measures", "slot", "embedding"])
        assert list(columns) == ["measures", "slot", "embedding"]
        assert columns["embedding"].tolist() == [r.sample.embedding_E.tolist() for r in rows]
        assert list(columns["measures"]) == [r.sample.measures for r in rows]
        some = Segments().read_rows(store, UNIT, ["embedding", "key"])
        assert [list(row) for row in some] == [["embedding", "key"]] * count


def test_attributes_are_published_only_where_that_is_said() -> None:
    """With `attributes` the public table and the side-cars hold every measure, and still no embedding."""
    store = written([candidate(0)], attributes=True)
    published = Segments().read_published(store, UNIT, ["measures", "verdicts"])
    assert set(published["measures"][0]) == {*PLAIN, *PERSONAL}
    assert len(published["verdicts"][0]) == len(VERDICTS)
    assert set(side_cars(store)[0]["measures"]) == {*PLAIN, *PERSONAL}
    with pytest.raises(ValueError, match="no column embedding"):
        Segments().read_published(store, UNIT, ["embedding"])


def test_what_is_published_is_read_without_private_files() -> None:
    """A copy without `private/` gives every published column, and says in one line why it has no embeddings."""
    store = written([candidate(n) for n in range(6)])
    store.delete(f"private/{TABLE}")
    assert Segments().read_columns(store, UNIT, ["key", "accepted"])["accepted"].tolist() == [True] * 4 + [False, True]
    assert set(Segments().read_published(store, UNIT, ["measures"])["measures"][0]) == set(PLAIN)
    for ask in (Segments().read_rows, Segments().read_columns):
        with pytest.raises(UserError, match="this copy has no private/") as told:
            ask(store, UNIT, ["embedding"])
        assert "\n" not in str(told.value)


def test_a_single_missing_private_file_is_damage() -> None:
    """Where other private files are there, one that is missing is the store's failure and not a publication."""
    store = written([candidate(0)])
    store.delete(f"private/{TABLE}")
    store.put("private/audits/other.parquet", b"x")
    with pytest.raises(StoreError, match=f"private/{TABLE}: missing"):
        Segments().read_rows(store, UNIT)


def test_private_rows_have_to_be_those_of_the_public_ones() -> None:
    """A private table of other candidates is refused, as its numbers would go to the wrong faces."""
    store, other = written([candidate(0), candidate(1)]), written([candidate(1), candidate(0)])
    store.put(f"private/{TABLE}", other.get(f"private/{TABLE}"))
    for ask in (Segments().read_rows, Segments().read_columns):
        with pytest.raises(StoreError, match="its rows are not those"):
            ask(store, UNIT, ["embedding"])


def test_words_of_a_source_stand_in_table_and_side_car() -> None:
    """What came with a picture is published as it was given, sorted by name; a side-car without any has no such key."""
    store = written([candidate(0, sourced={"licence": "CC BY", "caption": 'a "smile" — é'}), candidate(1)])
    first, second = side_cars(store)
    assert first["sourced"] == {"caption": 'a "smile" — é', "licence": "CC BY"}
    assert list(first["sourced"]) == ["caption", "licence"]
    assert "sourced" not in second
    assert Segments().read_published(store, UNIT, ["sourced"])["sourced"] == [first["sourced"], {}]


def test_minted_segments_take_no_words_of_a_source() -> None:
    """A segment that has no place for them refuses words of a source, where they would be lost without a word."""
    with pytest.raises(ValueError, match="has words of its source"):
        Segments(E).write_images(MemoryStore(), UNIT, [candidate(0, sourced={"caption": "x"})])


def test_same_candidates_give_same_bytes() -> None:
    """Both tables and the tar follow from the candidates, whatever they are handed over in."""
    rows = [candidate(n, sourced={"b": "2", "a": "1"}) for n in range(9)]
    one, other = written(rows), MemoryStore()
    turned = (replace(r, sourced=dict(reversed(list(r.sourced.items())))) for r in rows)
    Segments(E, private=True).write_images(other, UNIT, turned)
    assert {p: one.get(p) for p in one.list("")} == {p: other.get(p) for p in other.list("")}


def test_audits_of_real_people_lie_under_private_and_are_found() -> None:
    """The auditor's embeddings of real people are private, and readers find them as they find those of minted sets."""
    found = Audited(("a", "b"), np.array([512, 2048]), np.array([10, 20]), np.eye(2, E, dtype=np.float32))
    hidden, plain = MemoryStore(), MemoryStore()
    assert Segments(private=True).write_audit(hidden, UNIT, found).path == f"private/audits/{UNIT}.parquet"
    assert Segments().write_audit(plain, UNIT, found).path == f"audits/{UNIT}.parquet"
    for store in (hidden, plain):
        assert Segments().read_places(store, UNIT) == {"a": (512, 10), "b": (2048, 20)}
        assert Segments().read_audit(store, UNIT).auditor_NE.tolist() == found.auditor_NE.tolist()
    with pytest.raises(FileNotFoundError):
        Segments().read_audit(MemoryStore(), UNIT)
