"""Sources that somebody made in order to hang, swell or end a run: each ends as inputs with faults."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.sources.facts import columns_of
from pipeline.adapters.sources.files import Files, LocalFiles, StoreFiles
from pipeline.adapters.sources.folders import FolderOptions, FolderSource
from pipeline.adapters.sources.recordio import RecordIOSource, RecordIOSourceOptions
from pipeline.adapters.sources.tables import TableOptions, TableSource, _of_group
from pipeline.adapters.sources.tar_walk import walk_tar
from pipeline.adapters.sources.tars import TarOptions, TarSource
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.intake import Fault, Input, Source, Unreadable

MAGIC = struct.pack("<I", 0xCED7230A)
RIGHTS = {"licence": "CC0-1.0", "lawful_basis": "made up for a test"}


def head(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a tar header with any size field and a right checksum."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    raw[124:136], raw[156:157] = size.ljust(12, b"\0"), kind
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def members(data: bytes) -> list[tuple[str, Fault | None]]:
    return [(m.name, m.fault.reason if m.fault else None) for m in walk_tar(io.BytesIO(data), len(data))]


def pax(body: bytes) -> bytes:
    return head("pax", b"%011o" % len(body), b"x") + body + b"\0" * (-len(body) % 512)


END = b"\0" * 1024
GOOD = head("good.jpg", b"00000000003") + b"abc".ljust(512, b"\0")


def test_a_negative_size_does_not_walk_backwards() -> None:
    """A size with a sign, which would lead back to where the walk has been, is no header."""
    found = members(GOOD + head("back.jpg", b"-0000003000") + END)
    assert found == [("good.jpg", None), ("good.jpg", Fault.BAD_ARCHIVE)]


@pytest.mark.parametrize("size", [b"\x80" + b"\x7f" * 11, b"77777777777"])
def test_a_member_that_claims_more_than_there_is_ends_the_walk(size: bytes) -> None:
    """Sizes beyond the archive, and beyond what a file may be, are faults of their member and no error of ours."""
    found = members(GOOD + head("huge.jpg", size) + END)
    assert found[:2] == [("good.jpg", None), ("huge.jpg", Fault.TRUNCATED_ARCHIVE)]


@pytest.mark.parametrize(
    "record",
    [
        b"9" * 5000 + b" path=x\n",
        "13 size=\u00b2\u00b2\n".encode(),
        b"%d size=" % (9 + 4000) + b"9" * 4000 + b"\n",
    ],
)
def test_numbers_that_are_none_in_an_extended_header_are_left_out(record: bytes) -> None:
    """A pax header with a length of thousands of digits, or with digits of another kind, says nothing."""
    assert members(pax(record) + GOOD + END) == [("good.jpg", None)]


def test_a_name_with_a_null_is_a_name() -> None:
    """A pax path with a NUL in it, which no file may have, is still one member."""
    assert members(pax(b"14 path=a\0b.j\n") + GOOD + END) == [("a\0b.j", None)]


def test_tars_written_one_after_the_other_are_told() -> None:
    """What follows the end of an archive is not read, and does not vanish: one fault stands for it."""
    assert members(GOOD + END + GOOD + END) == [("good.jpg", None), ("good.jpg", Fault.BAD_ARCHIVE)]
    assert members(GOOD + END + b"\0" * 9216) == [("good.jpg", None)]


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": ' * 100_000, '{"a": 1' + "0" * 6000 + "}"])
def test_facts_that_nest_without_end_are_none(text: str) -> None:
    """JSON that is made to exhaust its reader holds no facts."""
    assert columns_of(text) == {}


def test_half_a_character_becomes_text_that_can_be_written(tmp_path: Path) -> None:
    """A lone surrogate in a fact, as label too, comes out as text that UTF-8 can say."""
    note = rb'{"cls": "\ud800x", "k\udfff": ["\ud800"]}'
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("a.jpg", b"1"), ("a.json", note)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "s.tar").write_bytes(out.getvalue())
    (one,) = TarSource(TarOptions(path=".", **RIGHTS), LocalFiles(tmp_path)).listing()
    assert one.label == "?x"
    assert set(one.columns) == {"cls", "k?"}
    assert all((k + v).encode() for k, v in one.columns.items())


def folder(root: Path) -> FolderSource:
    return FolderSource(FolderOptions(path=".", **RIGHTS), LocalFiles(root))


def test_links_that_fork_at_every_level_do_not_double_the_listing(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next, would be a thousand million ways; the listing stays short."""
    for n in range(30):
        (tmp_path / f"{n:02d}").mkdir()
        (tmp_path / f"{n:02d}" / "x.jpg").write_bytes(b"1")
        for name in ("a", "b"):
            (tmp_path / f"{n:02d}" / name).symlink_to(f"../{n + 1:02d}")
    (tmp_path / "30").mkdir()
    listed = list(folder(tmp_path).listing())
    assert len(listed) < 31 * 40
    assert {f"{n:02d}/x.jpg" for n in range(30)} <= {i.path for i in listed if i.fault is None}


def test_folders_that_nest_too_deep_are_one_fault(tmp_path: Path) -> None:
    """Seventy folders within folders end as one input that says so, and not as a loop."""
    deep = tmp_path.joinpath(*"d" * 70)
    deep.mkdir(parents=True)
    (deep / "x.jpg").write_bytes(b"1")
    assert [i.fault.reason for i in folder(tmp_path).listing() if i.fault] == [Fault.TOO_DEEP]


def test_a_file_that_changes_while_it_is_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the old and half of the new bytes are never handed out as an image."""
    (tmp_path / "x.jpg").write_bytes(b"old" * 100)
    source = folder(tmp_path)
    listed = list(source.listing())
    real = os.pread

    def meanwhile(handle: int, length: int, offset: int) -> bytes:
        (tmp_path / "x.jpg").write_bytes(b"new" * 100)
        os.utime(tmp_path / "x.jpg", ns=(1, 1))
        return real(handle, length, offset)

    monkeypatch.setattr(os, "pread", meanwhile)
    (found,) = source.read(listed)
    assert isinstance(found, Unreadable)
    assert found.reason is Fault.CHANGED


def test_a_file_that_does_not_fit_into_memory_is_not_read(tmp_path: Path) -> None:
    """A file of a terabyte, of which the disk holds nothing, is a fault by its size alone."""
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(1 << 40)
    source = folder(tmp_path)
    (found,) = source.read(list(source.listing()))
    assert isinstance(found, Unreadable)
    assert found.reason is Fault.TOO_LARGE


class Failing(io.BytesIO):
    """A disk with a bad sector behind the first kilobytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 2048:
            raise OSError(5, "Input/output error")
        return super().read(size)


class FailingFiles(StoreFiles):
    """Files on a disk with a bad sector."""

    def open(self, path: str, stamp: str) -> BinaryIO | Unreadable:
        return cast("BinaryIO", Failing(self._store.get(path)))


def of(kind: str, files: Files) -> Source:
    if kind == "s.tar":
        return TarSource(TarOptions(path=".", **RIGHTS), files)
    return RecordIOSource(RecordIOSourceOptions(path=".", **RIGHTS), files)


@pytest.mark.parametrize("kind", ["s.tar", "t.rec"])
def test_a_bad_sector_in_an_archive_is_one_fault(kind: str) -> None:
    """What stands before it is listed; the listing goes on with the next file."""
    store = MemoryStore()
    record = MAGIC + struct.pack("<I", 1000) + struct.pack("<IfQQ", 0, 1.0, 0, 0) + b"i" * 976
    tar = b"".join(head(f"{n}.jpg", b"3") + b"abc".ljust(512, b"\0") for n in range(6))
    store.put(kind, tar + END if kind == "s.tar" else record * 6)
    found = [i.fault.reason if i.fault else None for i in of(kind, FailingFiles(store)).listing()]
    assert found[0] is None
    assert found[-1] is Fault.READ_FAILED


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", Fault.BAD_RECORD),
        (b"short", Fault.BAD_RECORD),
        (struct.pack("<IfQQ", 1 << 31, 0.0, 0, 0) + b"image", Fault.BAD_RECORD),
        (struct.pack("<IfQQ", 0, 0.0, 0, 0), "no input"),
        (struct.pack("<IfQQ", 0, 2.0, 0, 0) + b"image", None),
    ],
)
def test_records_without_room_for_their_header_are_faults(content: bytes, fault: Fault | str | None) -> None:
    """A record of no bytes, or with more labels than bytes, does not vanish; one of a header alone is no input."""
    store = MemoryStore()
    store.put("t.rec", MAGIC + struct.pack("<I", len(content)) + content + b"\0" * (-len(content) % 4))
    listed = list(of("t.rec", StoreFiles(store)).listing())
    assert [i.fault.reason if i.fault else None for i in listed] == ([] if fault == "no input" else [fault])


@pytest.mark.parametrize(("value", "label"), [(2.0, "2"), (2.5, "2.5"), (float("inf"), None), (float("nan"), None)])
def test_labels_that_are_no_whole_numbers_stay_apart(value: float, label: str | None) -> None:
    """Labels 2 and 2.5 are two people; what is no number is no label."""
    store = MemoryStore()
    store.put("t.rec", MAGIC + struct.pack("<I", 28) + struct.pack("<IfQQ", 0, value, 0, 0) + b"face")
    assert [i.label for i in of("t.rec", StoreFiles(store)).listing()] == [label]


def table(**columns: Any) -> tuple[TableSource, list[Input], bytes]:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2, compression="none", use_dictionary=False)
    store = MemoryStore()
    store.put("t.parquet", out.getvalue())
    source = TableSource(TableOptions(path=".", **RIGHTS), StoreFiles(store))
    return source, list(source.listing()), out.getvalue()


def test_a_fault_of_one_row_is_not_its_neighbours() -> None:
    """Rows asked for together with one that cannot be read, first or last, are read."""
    source, listed, _ = table(image=[b"1", b"2", b"3"], n=[1, 2, 3])
    bad = Input("t.parquet", "", stamp=listed[0].stamp, fault=Unreadable(Fault.BAD_ARCHIVE, "x"))
    assert list(source.read([bad, *listed, bad])) == [bad.fault, b"1", b"2", b"3", bad.fault]


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    """Which rows are asked for together changes no answer, where a row group in between is damaged."""
    _, _, data = table(image=[bytes([65 + n]) * 300 for n in range(6)], n=list(range(6)))
    file = pq.ParquetFile(io.BytesIO(data))
    page = file.metadata.row_group(1).column(0).data_page_offset
    (tmp_path / "t.parquet").write_bytes(data[:page] + b"\xff" * 24 + data[page + 24 :])
    source = TableSource(TableOptions(path=".", **RIGHTS), LocalFiles(tmp_path))
    listed = list(source.listing())
    together = list(source.read(listed))
    assert together == [next(iter(source.read([one]))) for one in listed]
    assert [isinstance(d, bytes) for d in together] == [True, True, False, False, True, True]


class Short:
    """A table that claims three rows and holds one."""

    def iter_batches(self, **_: Any) -> list[pa.RecordBatch]:
        return [pa.record_batch({"image": [b"1"]})]


def test_a_row_group_with_fewer_rows_than_it_claims_ends() -> None:
    """Rows that a table claims and does not hold are faults; reading does not go round for ever."""
    found = list(_of_group(Short(), "image", 0, [0, 3], [0, 1, 2]))
    assert found[0] == b"1"
    assert [d.reason for d in found[1:] if isinstance(d, Unreadable)] == [Fault.BAD_RECORD] * 2
