"""The bytes of a segment, against the plainest writer that could be: `tarfile`, and pyarrow fed with lists of dicts."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.files import hashed, scratch
from pipeline.adapters.segments.tars import tar_writer
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import BadVectorError
from pipeline.domain.manifest import FileEntry
from pipeline.domain.records import Candidate, Sample, Verdict

UNIT = "make-g0-000003"
E = 5
VERDICT = pa.struct(
    [
        ("filter", pa.string()), ("passed", pa.bool_()), ("reason", pa.string()), ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)  # fmt: skip
TYPES = {
    "key": pa.string(), "order": pa.int32(), "identity": pa.int64(), "slot": pa.int32(), "attempt": pa.int32(),
    "conditions": pa.map_(pa.string(), pa.float64()), "measures": pa.map_(pa.string(), pa.float64()),
    "embedding": pa.list_(pa.float32(), E), "verdicts": pa.list_(VERDICT), "accepted": pa.bool_(),
    "off_target": pa.bool_(), "reasons": pa.list_(pa.string()),
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "version": "2.6", "compression": "zstd", "compression_level": 3, "use_dictionary": False,
    "data_page_version": "1.0", "data_page_size": 1 << 20, "write_batch_size": 1024, "write_statistics": True,
    "write_page_checksum": True, "store_schema": True,
}  # fmt: skip


def _row(candidate: Candidate) -> dict[str, Any]:
    sample = candidate.sample
    return {
        "key": sample.key, "order": candidate.order, "identity": sample.identity, "slot": sample.slot,
        "attempt": sample.attempt, "conditions": sorted((n, float(v)) for n, v in sample.conditions.items()),
        "measures": sorted((n, float(v)) for n, v in sample.measures.items()),
        "embedding": sample.embedding_E.tolist(),
        "verdicts": [
            {"filter": v.filter, "passed": v.passed, "reason": v.reason, "value": v.value, "threshold": v.threshold}
            for v in candidate.verdicts
        ],
        "accepted": candidate.accepted, "off_target": candidate.off_target, "reasons": list(candidate.reasons),
    }  # fmt: skip


def _reference(candidates: Sequence[Candidate]) -> tuple[bytes, bytes]:
    """Return the tar and the parquet as written one object at a time."""
    rows = [_row(c) for c in candidates]
    tar, table = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for candidate, row in zip(candidates, rows, strict=True):
            if not candidate.accepted:
                continue
            names = ("key", "identity", "slot", "attempt", "order", "off_target")
            car = {n: row[n] for n in names} | {n: dict(row[n]) for n in ("conditions", "measures")}
            text = json.dumps(car, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            for suffix, data in (("jpg", candidate.jpeg or b""), ("json", text.encode() + b"\n")):
                member = tarfile.TarInfo(f"{row['key']}.{suffix}")
                member.size, member.mode = len(data), 0o444
                archive.addfile(member, io.BytesIO(data))
    schema = pa.schema(
        [pa.field(name, type_, nullable=False) for name, type_ in TYPES.items()],
        metadata={"facemint_schema": "1", "facemint_unit": UNIT},
    )
    with pq.ParquetWriter(table, schema, **SETTINGS) as writer:
        for start in range(0, len(rows), 4096):
            group = rows[start : start + 4096]
            columns = [pa.array([r[name] for r in group], type=type_) for name, type_ in TYPES.items()]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=4096)
    return tar.getvalue(), table.getvalue()


def _written(candidates: Sequence[Candidate]) -> tuple[bytes, bytes]:
    store = MemoryStore()
    entries = Segments(dimensions=E).write_images(store, UNIT, iter(candidates))
    tar, table = (store.get(e.path) for e in entries)
    assert [e.sha256 for e in entries] == [hashlib.sha256(d).hexdigest() for d in (tar, table)]
    assert [e.bytes for e in entries] == [len(tar), len(table)]
    return tar, table


def _candidate(number: int, image_bytes: int = 700) -> Candidate:
    rng = np.random.default_rng(number)
    accepted = number % 5 != 4
    verdicts = tuple(
        Verdict(f"f{n}", accepted, "" if accepted else f"r{n}", rng.standard_normal(), 0.5) for n in range(number % 4)
    ) or (Verdict("f", accepted, "" if accepted else "r", 1.0, 2.0),)
    sample = Sample(
        key=f"i{number:08d}-s0000-a00", identity=number // 4, slot=number % 4, attempt=0,
        conditions={"yaw_deg": rng.standard_normal(), "smile": 0.5},
        measures={f"m{n}": rng.standard_normal() for n in range(number % 7)},
        embedding_E=rng.standard_normal(E).astype(np.float32),
    )  # fmt: skip
    jpeg = rng.bytes(1 + number * 37 % image_bytes) if accepted else None
    return Candidate(sample, number, verdicts, accepted, accepted and number % 6 == 0, jpeg)


_numbers = st.floats(allow_nan=False, allow_infinity=False)
_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_maps = st.dictionaries(_names, _numbers | st.integers(-9, 9) | st.booleans() | _numbers.map(np.float64), max_size=4)
_counts = st.integers(0, 2**31 - 1)


@st.composite
def _candidates(draw: st.DrawFn) -> list[Candidate]:
    made = []
    for key in draw(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True), unique=True, max_size=4)):
        accepted = draw(st.booleans())
        verdicts = draw(st.lists(st.builds(Verdict, _names, st.just(accepted), _names, _numbers, _numbers), max_size=3))
        floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
        emb = np.array(draw(st.lists(floats, min_size=E, max_size=E)), np.float32)
        sample = Sample(key, draw(_counts), draw(_counts), draw(_counts), draw(_maps), draw(_maps), emb)
        jpeg = draw(st.binary(min_size=1, max_size=1100)) if accepted else None
        made.append(Candidate(sample, draw(_counts), tuple(verdicts), accepted, accepted and draw(st.booleans()), jpeg))
    return made


@given(_candidates())
@settings(max_examples=50)
def test_bytes_are_those_of_the_plain_writer(candidates: list[Candidate]) -> None:
    """Whatever the names, numbers and images are: odd characters, huge and tiny numbers, ints, truth values."""
    assert _written(candidates) == _reference(candidates)


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 8193])
def test_bytes_at_the_edges_of_row_groups(count: int) -> None:
    """One row more or less than a group, and the tar that goes with it."""
    candidates = [_candidate(n) for n in range(count)]
    assert _written(candidates) == _reference(candidates)


@given(names=st.lists(st.from_regex(r"[!-~]{1,100}", fullmatch=True), max_size=5), size=st.integers(0, 30_000))
@settings(max_examples=40)
def test_archives_are_those_of_tarfile(names: list[str], size: int) -> None:
    """Headers, padding and end are byte for byte what the standard library writes."""
    data, plain = bytes(size), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mode = size, 0o444
            archive.addfile(member, io.BytesIO(data))
    whole = plain.getvalue()
    with scratch() as here:
        with hashed(here / "images.tar") as out, tar_writer(out) as written:
            for name in names:
                written.add(name, data)
        assert (here / "images.tar").read_bytes() == whole
    assert out.entry("x") == FileEntry("x", hashlib.sha256(whole).hexdigest(), len(whole))


def test_images_are_not_kept_while_a_segment_is_made(tmp_path: Path) -> None:
    """Memory follows from a row group's numbers, not from its images: these are 60 MB, and a fifth is never held."""
    count, image = 2 * 4096, 8192

    def trickle() -> Iterator[Candidate]:
        made = _candidate(6)
        for number in range(count):
            yield replace(made, jpeg=bytes(image), sample=replace(made.sample, key=f"k{number}"))

    store = LocalStore(tmp_path)
    tracemalloc.start()
    tar, _ = Segments().write_images(store, UNIT, trickle())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tar.bytes > count * image
    assert peak_bytes < 0.2 * tar.bytes


@pytest.mark.parametrize("late", [4095, 4096, 4500])
def test_a_late_mistake_stores_nothing(late: int) -> None:
    """A number that is not one, in the first row group's last row or in the second group, leaves an empty store."""
    store = MemoryStore()
    rows = [_candidate(n) for n in range(late)]
    odd = _candidate(late)
    for bad, error in (
        (replace(odd, sample=replace(odd.sample, measures={"x": float("nan")})), ValueError),
        (replace(odd, sample=replace(odd.sample, embedding_E=np.full(E, np.inf, np.float32))), BadVectorError),
        (replace(odd, sample=replace(odd.sample, embedding_E=np.ones(E + 1, np.float32))), BadVectorError),
        (rows[0], ValueError),
    ):
        with pytest.raises(error):
            Segments().write_images(store, UNIT, [*rows, bad])
    assert store.list("") == []


@pytest.mark.parametrize("bad", [np.zeros(0, np.float32), np.full(E, 1e300)])
def test_embeddings_that_float32_cannot_hold(bad: Any) -> None:
    """A vector without numbers, which kills arrow, and one too large for float32 are refused."""
    made = _candidate(0)
    with pytest.raises(BadVectorError, match=r"^embedding"), np.errstate(over="ignore"):
        Segments().write_images(MemoryStore(), UNIT, [replace(made, sample=replace(made.sample, embedding_E=bad))])
