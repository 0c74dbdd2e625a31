"""Files of an export: they grow in place, what stands is not written again, and memory does not grow with them."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.exporters import files, images
from pipeline.adapters.exporters.files import HashedFile, growing, hashed
from pipeline.adapters.exporters.recordio import MAGIC, RecordIOExporter, RecordWriter, framed, header_of
from pipeline.adapters.exporters.tars import TarWriter
from pipeline.adapters.exporters.webdataset import WebDatasetExporter, WebDatasetOptions
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain import ustar
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import Exporter
from pipeline.domain.storage import Range

ABOUT = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.data = b""

    def write(self, data: bytes) -> None:
        """Append."""
        self.data += data


def through(write: object, **limits: int) -> tuple[bytes, HashedFile]:
    """Return what `write` makes of a hashed file, and that file."""
    kept = Kept()
    with ThreadPoolExecutor(1) as pool:
        out = HashedFile(kept, pool)
        write(out)  # type: ignore[operator]
        out.finish()
    return kept.data, out


class Noting(MemoryStore):
    """A store that notes what is written."""

    def __init__(self) -> None:
        """Start with nothing written."""
        super().__init__()
        self.written: list[str] = []

    def put(self, path: str, data: bytes) -> None:
        """Note and put; what is written piece by piece comes through here too."""
        self.written.append(path)
        super().put(path, data)


@given(pieces=st.lists(st.binary(max_size=50), max_size=12), gathered=st.integers(1, 60))
@settings(max_examples=50)
def test_a_hashed_file_is_its_pieces_however_they_are_gathered(pieces: list[bytes], gathered: int) -> None:
    """Bytes, digest, size and places do not depend on when the thread gets them."""
    before, files.GATHERED_bytes = files.GATHERED_bytes, gathered
    try:
        data, out = through(lambda f: [f.write(p) for p in pieces])
    finally:
        files.GATHERED_bytes = before
    entry = out.entry("x")
    assert data == b"".join(pieces)
    assert (entry.sha256, entry.bytes) == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.parametrize(
    ("there", "written"),
    [
        (None, True),
        (b"", True),
        (b"0123456789", False),
        (b"0123456789more", True),
        (b"01234", True),
        (b"x123456789", True),
        (b"0123x56789", True),
        (b"012345678x", True),
    ],
)
@pytest.mark.parametrize("gathered", [1, 3, 100])
def test_what_stands_is_written_again_only_if_it_differs(
    monkeypatch: pytest.MonkeyPatch, there: bytes | None, written: bool, gathered: int
) -> None:
    """Whatever stood there, longer, shorter or other at any place, the new bytes stand afterwards."""
    monkeypatch.setattr(files, "GATHERED_bytes", gathered)
    monkeypatch.setattr(files, "COMPARED_bytes", 4)
    store = Noting()
    if there is not None:
        store.put("x", there)
        store.written.clear()
    with growing(store, "x", 10) as out:
        for n in range(10):
            out.write(b"%d" % n)
    assert store.get("x") == b"0123456789"
    assert store.written == (["x"] if written else [])
    assert out.entry("x").sha256 == hashlib.sha256(b"0123456789").hexdigest()


@pytest.mark.parametrize("there", [None, b"0123", b"other"])
def test_a_failure_on_the_way_leaves_what_stood(tmp_path: Path, there: bytes | None) -> None:
    """Neither a half file nor a temporary one is left, and the error is the caller's own."""
    store = LocalStore(tmp_path)
    if there is not None:
        store.put("x", there)
    with pytest.raises(FileNotFoundError, match="of the source"), growing(store, "x", 10) as out:  # noqa: PT012
        out.write(b"0123456789")
        raise FileNotFoundError("of the source")
    assert [p.name for p in tmp_path.iterdir()] == (["x"] if there is not None else [])
    assert there is None or store.get("x") == there


def test_a_disk_that_refuses_is_the_stores_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the thread meets goes up from the next write or from the end, once, as the store says it."""
    store = LocalStore(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(files, "GATHERED_bytes", 1)
    with pytest.raises(StoreError, match="cannot write folder"), growing(store, "folder", 10) as out:
        out.write(b"x" * 100)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@given(
    st.lists(st.tuples(st.text("abcxyz0189-", min_size=1, max_size=90), st.integers(0, 3000)), min_size=1, max_size=5)
)
@settings(max_examples=60)
def test_headers_of_samples_are_those_of_ustar(samples: list[tuple[str, int]]) -> None:
    """What is shared between headers changes no byte of them."""

    def write(out: HashedFile) -> None:
        archive = TarWriter(out)
        for stem, size in samples:
            archive.add(stem, (".cls", b"7"), (".jpg", bytes(size)))
        archive.end()

    members = [
        (stem + suffix, data) for stem, size in samples for suffix, data in ((".cls", b"7"), (".jpg", bytes(size)))
    ]
    plain = b"".join(ustar.header(name, len(data)) + data + ustar.filling(len(data)) for name, data in members)
    assert through(write)[0] == plain + ustar.ending(len(plain))


def test_a_name_that_fits_no_header_is_refused() -> None:
    """In the words of the header's own maker."""
    with pytest.raises(ValueError, match="a name of at most 100 bytes"):
        through(lambda out: TarWriter(out).add("x" * 97, (".jpg", b"1")))


WORD = struct.pack("<I", MAGIC)
BODIES = st.lists(st.sampled_from([WORD, WORD[:2], WORD[2:], b"a", b"abcd", b"\xff\xd8", b"", WORD * 2]), max_size=8)


@given(st.lists(BODIES.map(b"".join), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=100)
def test_records_of_one_piece_are_those_written_one_by_one(bodies: list[bytes], first: int) -> None:
    """With magic words at any alignment, or none, the record file and its index are the same bytes."""
    labels = [n % 3 for n in range(len(bodies))]
    index, plain = [Kept(), Kept()], b""
    with ThreadPoolExecutor(1) as pool:
        made = []
        for way in range(2):
            rec, idx = Kept(), index[way]
            out, places = HashedFile(rec, pool), HashedFile(idx, pool)
            writer = RecordWriter(out, places)
            if way:
                writer.add_images(first, labels, bodies)
            else:
                for number, (label, body) in enumerate(zip(labels, bodies, strict=True), start=first):
                    writer.add(number, header_of(number, label), body)
                    plain += framed(header_of(number, label) + body)
            out.finish()
            places.finish()
            made.append(rec.data)
    assert made[0] == made[1] == plain
    assert index[0].data == index[1].data


class Endless(MemoryStore):
    """A store of one segment that is far larger than memory should ever hold: every range of it is an image."""

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Make images up."""
        return [b"\xff\xd8" + bytes(length - 4) + b"\xff\xd9" for _, _, length in ranges]


@pytest.mark.parametrize("exporter", [RecordIOExporter(), WebDatasetExporter(WebDatasetOptions(shard_bytes=10**9))])
def test_memory_does_not_grow_with_the_export(
    exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten windows of images take the memory of two, and of what waits to be hashed and written."""
    monkeypatch.setattr("pipeline.adapters.exporters.recordio._size_px", lambda image: (112, 112))
    rows = [IndexRow(n // 50, f"i{n:08d}-s0000-a00", n // 50, "x", "s", 0, 30_000) for n in range(6000)]
    tracemalloc.start()
    exporter.export(Endless(), rows, LocalStore(tmp_path), ABOUT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a piece is held twice while its parts become one
    bound = 2 * images.WINDOW_bytes + 2 * (files.BEGUN + 2) * files.GATHERED_bytes
    assert peak < bound < 6000 * 30_000 / 2


def test_a_local_file_is_hashed_as_it_grows(tmp_path: Path) -> None:
    """For what a library must write itself."""
    data = np.random.default_rng(0).bytes(3_000_000)
    with hashed(tmp_path / "x") as out:
        for start in range(0, len(data), 70_000):
            out.write(memoryview(data)[start : start + 70_000])
    assert (tmp_path / "x").read_bytes() == data
    assert out.entry("x").sha256 == hashlib.sha256(data).hexdigest()
