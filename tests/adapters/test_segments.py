"""Segments: bytes repeat, rows come back as they went in, images are found, and damage is named."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import BadVectorError, StoreError
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.ports import SegmentWriter, Store
from pipeline.domain.records import Candidate, Cell, Identity, Sample, Verdict, minted_key
from pipeline.domain.space import Space

UNIT = "make-g0-000003"
TAR, PARQUET = f"segments/{UNIT}.tar", f"segments/{UNIT}.parquet"
E = 8
SPACE = Space("test-space", "ab" * 32, "phantom-112", "unit", 6)


def _candidate(number: int, *, accepted: bool = True) -> Candidate:
    rng = np.random.default_rng(number)
    vector = rng.standard_normal(E)
    key = minted_key(number // 4, number % 4, 0)
    verdict = Verdict("sharpness", accepted, "" if accepted else "blur_too_high", 0.25 + number, 0.3)
    sample = Sample(
        key=key, identity=number // 4, slot=number % 4, attempt=0,
        conditions={"yaw_deg": float(number), "smile": 0.5}, measures={"sharpness": 0.25, "luma_mean": 0.1},
        embedding_E=(vector / np.linalg.norm(vector)).astype(np.float32),
    )  # fmt: skip
    jpeg = b"\xff\xd8" + rng.bytes(300 + number % 700) + b"\xff\xd9" if accepted else None
    return Candidate(sample, number, (verdict,), accepted, False, jpeg)


@pytest.fixture
def rows() -> list[Candidate]:
    """Return twelve candidates of three identities, every fifth refused."""
    return [_candidate(n, accepted=n % 5 != 4) for n in range(12)]


@pytest.fixture
def store() -> Store:
    """Return an empty store."""
    return MemoryStore()


def _bytes(store: Store) -> dict[str, bytes]:
    return {path: store.get(path) for path in store.list("")}


def test_segments_keep_the_port() -> None:
    """The class has every method of the port, with its parameters."""
    port: SegmentWriter = Segments()
    assert port is not None


def test_entries_describe_what_was_stored(store: Store, rows: list[Candidate]) -> None:
    """Digest and size, taken while writing, are those of the stored bytes."""
    entries = Segments().write_images(store, UNIT, rows)
    assert [e.path for e in entries] == [TAR, PARQUET]
    for entry in entries:
        data = store.get(entry.path)
        assert entry == FileEntry(entry.path, hashlib.sha256(data).hexdigest(), len(data))


def test_tar_members_are_fixed_in_every_field(store: Store, rows: list[Candidate]) -> None:
    """Accepted images with their side-cars, in the order given; nothing says who wrote them, or when."""
    Segments().write_images(store, UNIT, rows)
    archive = _archive(store.get(TAR))
    accepted = [r for r in rows if r.accepted]
    assert archive.getnames() == [f"{r.sample.key}.{x}" for r in accepted for x in ("jpg", "json")]
    fixed = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in archive.getmembers()}
    assert fixed == {(0, 0, 0, "", "", 0o444, tarfile.REGTYPE)}
    assert store.get(TAR)[257:265] == b"ustar\x0000"


def test_side_car_schema_is_constant_and_label_free(store: Store, rows: list[Candidate]) -> None:
    """Every side-car has the same keys and types, because loaders infer their schema from the first few."""
    Segments().write_images(store, UNIT, rows)
    archive = _archive(store.get(TAR))
    cars = [json.loads(archive.extractfile(n).read()) for n in archive.getnames() if n.endswith(".json")]  # type: ignore[union-attr]
    assert {tuple(c) for c in cars} == {
        ("attempt", "conditions", "identity", "key", "measures", "off_target", "order", "slot")
    }
    assert {type(v) for c in cars for v in c["conditions"].values()} == {float}


def test_rows_come_back_as_they_went_in(store: Store, rows: list[Candidate]) -> None:
    """Every candidate, the refused too, in order and with every number; embeddings to the last bit."""
    Segments().write_images(store, UNIT, rows)
    found = Segments().read_rows(store, UNIT)
    assert [r["key"] for r in found] == [r.sample.key for r in rows]
    for got, put in zip(found, rows, strict=True):
        assert got["embedding"].dtype == np.float32
        assert got["embedding"].tobytes() == put.sample.embedding_E.tobytes()
        assert got["conditions"] == dict(put.sample.conditions)
        assert got["measures"] == dict(put.sample.measures)
        assert tuple(Verdict(**v) for v in got["verdicts"]) == put.verdicts
        assert (got["accepted"], got["off_target"], tuple(got["reasons"])) == (put.accepted, False, put.reasons)
        assert (got["order"], got["identity"], got["slot"], got["attempt"]) == (
            put.order, put.sample.identity, put.sample.slot, put.sample.attempt,
        )  # fmt: skip


def test_schema_is_the_one_that_the_layout_states(store: Store, rows: list[Candidate]) -> None:
    """Column names, types and metadata are part of the layout and change with its version only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    Segments().write_images(store, UNIT, rows)
    schema = pq.read_schema(pa.BufferReader(store.get(PARQUET)))
    assert {f.name: str(f.type) for f in schema} == {
        "key": "string", "order": "int32", "identity": "int64", "slot": "int32", "attempt": "int32",
        "conditions": "map<string, double ('conditions')>", "measures": "map<string, double ('measures')>",
        "embedding": f"fixed_size_list<element: float>[{E}]",
        "verdicts": "list<element: struct<filter: string, passed: bool, reason: string, value: double, "
        "threshold: double>>",
        "accepted": "bool", "off_target": "bool", "reasons": "list<element: string>",
    }  # fmt: skip
    assert schema.metadata == {b"facemint_schema": b"1", b"facemint_unit": UNIT.encode()}


def test_same_rows_give_the_same_bytes(rows: list[Candidate], tmp_path: Path) -> None:
    """Another store, another time, rows from a generator, and maps in another order change no byte."""
    first, second = MemoryStore(), LocalStore(tmp_path)
    Segments().write_images(first, UNIT, rows)
    turned = [
        replace(r, sample=replace(r.sample, conditions=dict(reversed(list(r.sample.conditions.items()))))) for r in rows
    ]
    Segments().write_images(second, UNIT, (r for r in turned))
    assert _bytes(first) == _bytes(second)


def test_row_groups_are_cut_at_4096_however_rows_arrive() -> None:
    """Groups follow from the number of rows: a list and a slow stream of 5,000 give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    one = [replace(_candidate(1, accepted=False), order=n) for n in range(5000)]
    many = [replace(c, sample=replace(c.sample, key=f"k{n:06d}")) for n, c in enumerate(one)]

    def trickle(parts: Sequence[Candidate]) -> Iterator[Candidate]:
        for start in range(0, len(parts), 700):
            yield from parts[start : start + 700]

    first, second = MemoryStore(), MemoryStore()
    Segments().write_images(first, UNIT, many)
    Segments().write_images(second, UNIT, trickle(many))
    assert _bytes(first) == _bytes(second)
    meta = pq.ParquetFile(pa.BufferReader(first.get(PARQUET))).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [4096, 904]
    assert [r["order"] for r in Segments().read_rows(first, UNIT, ["order"])] == list(range(5000))


def test_golden_bytes(store: Store, rows: list[Candidate]) -> None:
    """The tar's bytes are those of the first release; only a change of the layout may change this digest."""
    tar, _ = Segments().write_images(store, UNIT, rows)
    assert tar.sha256 == "a53fbb1f5de60c7ac770576e8bdaba5aa2ed618116aa052a92215f031a48c4e4"


def test_columns_that_are_not_asked_for_are_not_fetched(tmp_path: Path, rows: list[Candidate]) -> None:
    """Reading keys does not pull embeddings through the network."""
    big = [replace(r, sample=replace(r.sample, embedding_E=_unit(r.order, 4096))) for r in rows]
    store = _Counting(tmp_path)
    Segments().write_images(store, UNIT, big)
    found = Segments().read_rows(store, UNIT, ["accepted", "key"])
    assert [tuple(r) for r in found] == [("accepted", "key")] * len(rows)
    assert store.fetched_bytes < 0.5 * (store.size(PARQUET) or 0)


def test_unknown_column_names_the_known_ones(store: Store, rows: list[Candidate]) -> None:
    """A mistyped column is a ValueError that lists what there is."""
    Segments().write_images(store, UNIT, rows)
    with pytest.raises(ValueError, match="no column embeddings; it has key, order"):
        Segments().read_rows(store, UNIT, ["embeddings"])


def test_empty_segment(store: Store) -> None:
    """A unit that made nothing leaves a whole tar and a parquet that states its columns."""
    Segments(dimensions=E).write_images(store, UNIT, [])
    assert Segments().read_rows(store, UNIT) == []
    assert Segments().read_rows(store, UNIT, ["key", "embedding"]) == []
    assert Segments().locate(store, UNIT) == {}
    assert _archive(store.get(TAR)).getnames() == []
    other = MemoryStore()
    Segments().write_images(other, UNIT, [])
    assert Segments().read_rows(other, UNIT) == []


def test_segment_of_refused_candidates(store: Store) -> None:
    """Where everything was refused the tar is empty and the rows are all there."""
    Segments().write_images(store, UNIT, [_candidate(n, accepted=False) for n in range(3)])
    assert Segments().locate(store, UNIT) == {}
    assert [r["reasons"] for r in Segments().read_rows(store, UNIT)] == [["blur_too_high"]] * 3


def test_locate_finds_the_image_bytes(store: Store, rows: list[Candidate]) -> None:
    """Offset and length give exactly the JPEG that was put in, for every accepted candidate."""
    Segments().write_images(store, UNIT, rows)
    places = Segments().locate(store, UNIT)
    assert places.keys() == {r.sample.key for r in rows if r.accepted}
    for row in rows:
        if row.accepted:
            assert store.get_range(TAR, *places[row.sample.key]) == row.jpeg


def test_locate_reads_headers_in_few_requests(tmp_path: Path) -> None:
    """Headers that lie close together come in one request, large images are skipped."""
    store = _Counting(tmp_path)
    Segments().write_images(store, UNIT, [_candidate(n) for n in range(200)])
    Segments().locate(store, UNIT)
    assert store.requests <= 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: replace(c, jpeg=None), "accepted without an image"),
        (lambda c: replace(c, jpeg=b""), "accepted without an image"),
        (lambda c: replace(c, sample=replace(c.sample, key="a.b")), "malformed or comes twice"),
        (lambda c: replace(c, sample=replace(c.sample, key=minted_key(0, 0, 0))), "malformed or comes twice"),
        (lambda c: replace(c, sample=replace(c.sample, key="../up")), "malformed or comes twice"),
        (lambda c: replace(c, sample=replace(c.sample, measures={"x": float("nan")})), "x is nan"),
        (lambda c: replace(c, sample=replace(c.sample, conditions={"x": float("inf")})), "x is inf"),
        (lambda c: replace(c, verdicts=(replace(c.verdicts[0], value=float("nan")),)), "value of sharpness is nan"),
    ],
)
def test_rows_that_must_not_be_stored(store: Store, spoil: Any, message: str) -> None:
    """A malformed key, a missing image and a number that is not one stop the segment; nothing is stored."""
    with pytest.raises(ValueError, match=message):
        Segments().write_images(store, UNIT, [_candidate(0), spoil(_candidate(1))])
    assert store.list("") == []


@pytest.mark.parametrize("embedding", [np.full(E, np.nan, np.float32), np.zeros(E - 1, np.float32)])
def test_embeddings_that_must_not_be_stored(store: Store, embedding: Any) -> None:
    """NaN and another length are refused before anything is stored."""
    bad = replace(_candidate(1), sample=replace(_candidate(1).sample, embedding_E=embedding))
    with pytest.raises(BadVectorError, match="embedding, row 1"):
        Segments().write_images(store, UNIT, [_candidate(0), bad])
    assert store.list("") == []


def test_full_temporary_directory(rows: list[Candidate], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary directory takes no more the message names it and the way out."""
    with pytest.raises(StoreError, match="TMPDIR"):
        _on_full_disk(monkeypatch, lambda: Segments().write_images(store, UNIT, rows))
    assert store.list("") == []


@pytest.mark.parametrize("cut", [0, 100, 512, 1500, 2048, 6001])
def test_truncated_tar_is_named(store: Store, rows: list[Candidate], cut: int) -> None:
    """A tar cut anywhere before its end mark is damaged, never merely shorter."""
    Segments().write_images(store, UNIT, rows)
    store.put(TAR, store.get(TAR)[:cut])
    with pytest.raises(StoreError, match=f"^{TAR}: ") as caught:
        Segments().locate(store, UNIT)
    assert "\n" not in str(caught.value)


def test_tar_cut_between_two_members(store: Store, rows: list[Candidate]) -> None:
    """A cut at a member's edge, which plain tar readers take for the end, is found too."""
    Segments().write_images(store, UNIT, rows)
    whole = store.get(TAR)
    edges = [m.offset for m in _archive(whole).getmembers()]
    for edge in edges[1:]:
        store.put(TAR, whole[:edge])
        with pytest.raises(StoreError, match="no tar header"):
            Segments().locate(store, UNIT)


def test_damaged_tar_header(store: Store, rows: list[Candidate]) -> None:
    """A flipped byte in a header breaks its checksum."""
    Segments().write_images(store, UNIT, rows)
    data = bytearray(store.get(TAR))
    data[3] ^= 1
    store.put(TAR, bytes(data))
    with pytest.raises(StoreError, match="no tar header at byte 0"):
        Segments().locate(store, UNIT)


def test_forged_sizes_end(store: Store) -> None:
    """A header whose size points backwards or beyond the end is an error, not an endless walk."""
    for size in (-512, -1024, 10**6):
        member = tarfile.TarInfo("k.jpg")
        member.size = size
        store.put(TAR, member.tobuf(tarfile.GNU_FORMAT) + bytes(10240 - 512))
        with pytest.raises(StoreError, match=r"k\.jpg ends at byte -?\d+ of 10240"):
            Segments().locate(store, UNIT)


@pytest.mark.parametrize("columns", [None, ["key"]])
@pytest.mark.parametrize("spoil", [lambda d: d[:-7], lambda d: d[: len(d) // 2], lambda d: d[:0], lambda d: d[:4] * 9])
def test_truncated_parquet_is_named(store: Store, rows: list[Candidate], spoil: Any, columns: Any) -> None:
    """A parquet without its whole footer gives one line that names the file, read whole or in part."""
    Segments().write_images(store, UNIT, rows)
    store.put(PARQUET, spoil(store.get(PARQUET)))
    with pytest.raises(StoreError, match=f"^{PARQUET}: not readable as parquet") as caught:
        Segments().read_rows(store, UNIT, columns)
    assert "\n" not in str(caught.value)


def test_flipped_bit_in_a_parquet_page(store: Store, rows: list[Candidate]) -> None:
    """Pages carry checksums, so one flipped bit in the numbers does not pass."""
    Segments().write_images(store, UNIT, rows)
    data = bytearray(store.get(PARQUET))
    needle = rows[6].sample.embedding_E.tobytes()[:8]
    at = data.find(needle)
    data[at if at >= 0 else 600] ^= 4
    store.put(PARQUET, bytes(data))
    with pytest.raises(StoreError, match=PARQUET):
        Segments().read_rows(store, UNIT)


def test_swapped_files_are_noticed(store: Store, rows: list[Candidate]) -> None:
    """A parquet that was written for another unit is not taken for this one's."""
    Segments().write_images(store, UNIT, rows)
    store.put("segments/make-g0-000004.parquet", store.get(PARQUET))
    with pytest.raises(StoreError, match=f"it says that it belongs to unit {UNIT}"):
        Segments().read_rows(store, "make-g0-000004")


def test_absent_segment(store: Store) -> None:
    """Absence stays absence: the flow tells it from damage."""
    for ask in (Segments().read_rows, Segments().locate):
        with pytest.raises(FileNotFoundError):
            ask(store, UNIT)
    with pytest.raises(FileNotFoundError):
        Segments().read_rows(store, UNIT, ["key"])


def _probe(candidate: int, **changes: Any) -> dict[str, Any]:
    row = {
        "candidate": candidate, "cell_asked": "light/older", "probes": 4, "measures": {"b": 0.5, "a": 0.25},
        "posterior": {"tone=light": 0.9, "tone=dark": 0.1}, "vector": _unit(candidate, 6),
        "template": _unit(candidate, E), "quality": 0.75, "probe_keys": [f"p{candidate}-0"],
        "accepted": True, "reasons": [],
    }  # fmt: skip
    return row | changes


def test_probe_rows_come_back(store: Store) -> None:
    """Vectors of two spaces with two lengths, maps and lists come back; without template, None does."""
    rows = [_probe(5), _probe(3, template=None, quality=None, accepted=False, reasons=["no_face"]), _probe(9)]
    (entry,) = Segments().write_probes(store, "enrol-g0-000000", rows)
    assert entry.path == "segments/enrol-g0-000000.parquet"
    found = Segments().read_rows(store, "enrol-g0-000000")
    assert [r["candidate"] for r in found] == [5, 3, 9]
    assert found[1]["template"] is None
    assert found[1]["quality"] is None
    for got, put in ((found[0], rows[0]), (found[2], rows[2])):
        assert np.array_equal(got["vector"], put["vector"])
        assert np.array_equal(got["template"], put["template"])
        assert {k: got[k] for k in put if k not in ("vector", "template")} == {
            k: v for k, v in put.items() if k not in ("vector", "template")
        }


def test_probe_bytes_repeat(store: Store) -> None:
    """Probe segments repeat as image segments do."""
    other = MemoryStore()
    Segments().write_probes(store, "enrol-g0-000000", [_probe(1), _probe(2)])
    Segments().write_probes(other, "enrol-g0-000000", [_probe(1, measures={"a": 0.25, "b": 0.5}), _probe(2)])
    assert _bytes(store) == _bytes(other)


@pytest.mark.parametrize("change", [{"template": ...}, {"surplus": 1}])
def test_probe_rows_with_other_keys(store: Store, change: dict[str, Any]) -> None:
    """A missing or unknown key is named instead of becoming a null column."""
    row = {k: v for k, v in _probe(1, **change).items() if v is not ...}
    with pytest.raises(ValueError, match=f"candidate 1: missing or unknown: {next(iter(change))}"):
        Segments().write_probes(store, "enrol-g0-000000", [row])


def _identity(ordinal: int) -> Identity:
    return Identity(
        ordinal, 100 - ordinal, Cell(("light", "older")), ordinal // 2, _unit(ordinal, 6), _unit(ordinal, E), 4, 0.8
    )


def test_identities_come_back_in_ordinal_order(store: Store) -> None:
    """Every field and the space of the vectors come back, sorted by ordinal."""
    put = [_identity(n) for n in (2, 0, 1)]
    entry = Segments().write_identities(store, "enrolled/g0.parquet", put, SPACE)
    found, space = Segments().read_identities(store, "enrolled/g0.parquet")
    assert entry.bytes == store.size("enrolled/g0.parquet")
    assert space == SPACE
    assert [i.ordinal for i in found] == [0, 1, 2]
    assert found[2].cell == Cell(("light", "older"))
    assert (found[2].candidate, found[2].rank, found[2].template_images, found[2].quality) == (98, 1, 4, 0.8)
    assert np.array_equal(found[2].vector_D, put[0].vector_D)
    assert np.array_equal(found[2].template_E, put[0].template_E)


def test_identities_of_another_space_are_refused(store: Store) -> None:
    """A vector of other dimensions than the stated space has, and a double ordinal, are refused."""
    with pytest.raises(BadVectorError, match="identity 1: vector of shape"):
        Segments().write_identities(store, "x", [replace(_identity(1), vector_D=_unit(1, 5))], SPACE)
    with pytest.raises(ValueError, match="ordinal 1 comes twice"):
        Segments().write_identities(store, "x", [_identity(1), _identity(1)], SPACE)


def test_file_without_space_is_no_list_of_identities(store: Store, rows: list[Candidate]) -> None:
    """A parquet of another kind is named, not misread."""
    Segments().write_images(store, UNIT, rows)
    with pytest.raises(StoreError, match="does not state the space"):
        Segments().read_identities(store, PARQUET)


def test_index_is_named_by_its_digest_and_sorted(store: Store) -> None:
    """The order of the rows handed in does not matter; the name is that of the content."""
    rows = [IndexRow(n // 3, f"k{n}", 40 - n, "all", UNIT, 512 * n, 100 + n) for n in range(9)]
    entry = Segments().write_index(store, "v000001", rows[::-1])
    digest = hashlib.sha256(store.get(entry.path)).hexdigest()
    assert entry.path == f"versions/v000001/index-{digest[:16]}.parquet"
    assert entry.sha256 == digest
    assert Segments().read_index(store, entry.path) == rows
    assert Segments().write_index(store, "v000001", rows) == entry


def test_index_refuses_double_keys(store: Store) -> None:
    """An image cannot have two labels."""
    twice = [IndexRow(n, "k", n, "all", UNIT, 0, 1) for n in range(2)]
    with pytest.raises(ValueError, match="key 'k' comes twice"):
        Segments().write_index(store, "v000001", twice)


def test_newer_schema_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a later layout is not misread but named with its version."""
    monkeypatch.setattr("pipeline.adapters.segments.tables.SCHEMA_VERSION", 2)
    Segments().write_probes(store, "enrol-g0-000000", [_probe(1)])
    monkeypatch.undo()
    with pytest.raises(StoreError, match="schema version 2 where 1 is read"):
        Segments().read_rows(store, "enrol-g0-000000")


def _unit(seed: int, size: int) -> Any:
    vector = np.random.default_rng(seed).standard_normal(size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class _Counting(LocalStore):
    """A local store that counts what is read from it."""

    requests = 0
    fetched_bytes = 0

    def get(self, path: str) -> bytes:
        """Count a whole file."""
        data = super().get(path)
        self.requests, self.fetched_bytes = self.requests + 1, self.fetched_bytes + len(data)
        return data

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Count a part."""
        self.requests, self.fetched_bytes = self.requests + 1, self.fetched_bytes + length
        return super().get_range(path, offset, length)


def _on_full_disk(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Run `act` with every new file opened on the device that is always full."""
    real = Path.open

    def on_full(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return real(Path("/dev/full"), "wb") if mode == "wb" else real(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", on_full)
    act()


def _archive(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data))
