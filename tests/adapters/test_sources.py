"""Sources of images that exist: every input is listed once, read as it was or has a fault, and nothing stops them."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.sources.files import Files, LocalFiles, StoreFiles
from pipeline.adapters.sources.folders import FolderOptions, FolderSource
from pipeline.adapters.sources.lmdb import LmdbSource, LmdbSourceOptions
from pipeline.adapters.sources.recordio import RecordIOSource, RecordIOSourceOptions
from pipeline.adapters.sources.tables import TableOptions, TableSource
from pipeline.adapters.sources.tar_walk import walk_tar
from pipeline.adapters.sources.tars import TarOptions, TarSource
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import UserError
from pipeline.domain.intake import Fault, Input, Source, Unreadable

IMAGES = [bytes([n]) * (40 + n) for n in range(9)]
RIGHTS = {"licence": "CC0-1.0", "lawful_basis": "made up for a test"}
MAGIC = struct.pack("<I", 0xCED7230A)


def tar_of(*members: tuple[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def rec_of(*contents: bytes) -> bytes:
    """Frame contents as dmlc-core describes: split at every aligned magic word."""
    out = b""
    for content in contents:
        cuts = [at for at in range(0, len(content) - 3, 4) if content[at : at + 4] == MAGIC]
        bounds = [0, *(at + 4 for at in cuts)]
        parts = [content[a:b] for a, b in zip(bounds, [*cuts, len(content)], strict=True)]
        for n, part in enumerate(parts):
            flag = 0 if len(parts) == 1 else 1 if n == 0 else 3 if n == len(parts) - 1 else 2
            out += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return out


def record(label: float, image: bytes, flag: int = 0, more: tuple[float, ...] = ()) -> bytes:
    return struct.pack("<IfQQ", flag, label, 0, 0) + struct.pack(f"<{len(more)}f", *more) + image


def table_of(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    return out.getvalue()


def lmdb_of(**items: bytes) -> bytes:
    """Return an LMDB file with these values, put in in this order."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.lmdb"
        with lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False) as env, env.begin(write=True) as txn:
            for key, value in items.items():
                txn.put(key.encode(), value)
        return path.read_bytes()


def laid(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def folder_source(files: Files, **options: Any) -> Source:
    return FolderSource(FolderOptions(path=".", **RIGHTS, **options), files)


def tar_source(files: Files, **options: Any) -> Source:
    return TarSource(TarOptions(path=".", **RIGHTS, **options), files)


def rec_source(files: Files, **_: Any) -> Source:
    return RecordIOSource(RecordIOSourceOptions(path=".", **RIGHTS), files)


def table_source(files: Files, **options: Any) -> Source:
    return TableSource(TableOptions(path=".", **RIGHTS, **options), files)


def lmdb_source(files: Files, **options: Any) -> Source:
    return LmdbSource(LmdbSourceOptions(path=".", **RIGHTS, **options), files)


KINDS: dict[str, tuple[Callable[..., Source], dict[str, bytes]]] = {
    "folder": (folder_source, {f"p{n % 3}/{n}.jpg": IMAGES[n] for n in range(9)}),
    "tar": (
        tar_source,
        {
            f"{shard:05d}.tar": tar_of(
                *(m for n in range(shard * 3, shard * 3 + 3)
                  for m in ((f"{n:09d}.jpg", IMAGES[n]), (f"{n:09d}.cls", b"p%d" % (n % 3))))
            )
            for shard in range(3)
        },
    ),
    "recordio": (rec_source, {"train.rec": rec_of(*(record(n % 3, IMAGES[n]) for n in range(9)))}),
    "parquet": (
        table_source,
        {"data.parquet": table_of(image=[{"bytes": i, "path": None} for i in IMAGES], label=[n % 3 for n in range(9)])},
    ),
    "lmdb": (
        lmdb_source,
        {"train.lmdb": lmdb_of(**{str(n): msgpack.packb((IMAGES[n], n % 3)) for n in range(9)}, __len__=b"\x09")},
    ),
}  # fmt: skip


def files_of(where: str, tmp_path: Path, stored: dict[str, bytes]) -> Files:
    if where == "local":
        return LocalFiles(laid(tmp_path, **{k.replace("/", "__"): v for k, v in stored.items()}))
    store = MemoryStore()
    for path, data in stored.items():
        store.put(path, data)
    return StoreFiles(store)


@pytest.mark.parametrize("where", ["local", "store"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_listed_once_and_read_as_it_was(kind: str, where: str, tmp_path: Path) -> None:
    """Listing twice gives the same inputs; their bytes are those that were put in; labels come with them."""
    make, stored = KINDS[kind]
    source = make(files_of(where, tmp_path, stored))
    listed = list(source.listing())
    assert listed == list(source.listing())
    assert len(listed) == 9
    assert len({(i.path, i.member) for i in listed}) == 9
    assert all(i.fault is None and i.stamp for i in listed)
    assert sorted(source.read(listed)) == sorted(IMAGES)
    for one, data in zip(listed, source.read(listed), strict=True):
        assert (one.label or "").removeprefix("p") == str(IMAGES.index(data) % 3)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(chosen=st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_any_choice_in_any_order_is_read(kind: str, chosen: list[int]) -> None:
    """Inputs may be asked for in any order, and again."""
    make, stored = KINDS[kind]
    store = MemoryStore()
    for path, data in stored.items():
        store.put(path, data)
    source = make(StoreFiles(store))
    listed = list(source.listing())
    each = [next(iter(source.read([one]))) for one in listed]
    assert list(source.read([listed[n] for n in chosen])) == [each[n] for n in chosen]


@pytest.mark.parametrize("kind", KINDS)
def test_what_changed_since_planning_is_not_read(kind: str, tmp_path: Path) -> None:
    """A file that was changed, and one that went, since it was listed are faults of their inputs alone."""
    make, stored = KINDS[kind]
    source = make(files_of("local", tmp_path, stored))
    listed = list(source.listing())
    paths = sorted({i.path for i in listed})
    (tmp_path / paths[0]).write_bytes((tmp_path / paths[0]).read_bytes() + b"\0")
    if len(paths) > 1:
        (tmp_path / paths[1]).unlink()
    for one, data in zip(listed, source.read(listed), strict=True):
        if one.path in paths[:2]:
            assert isinstance(data, Unreadable)
            assert data.reason is (Fault.CHANGED if one.path == paths[0] else Fault.GONE)
        else:
            assert isinstance(data, bytes)


def faults(source: Source) -> dict[str, Fault]:
    return {i.path: i.fault.reason for i in source.listing() if i.fault}


def test_what_a_crawls_folder_holds_stops_nothing(tmp_path: Path) -> None:
    """Pipes, broken links, circles, links that lead out, odd names: each is one input, and the good ones are read."""
    laid(tmp_path, a__good=IMAGES[0], b__good=IMAGES[1])
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "a" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "out.jpg").symlink_to(outside / "secret.jpg")
    (tmp_path / "a" / "inside.jpg").symlink_to(tmp_path / "b" / "good")
    (tmp_path / "empty").mkdir()
    odd = os.fsencode(tmp_path) + b"/b/\xff\xfe name.jpg"
    Path(os.fsdecode(odd)).write_bytes(IMAGES[2])
    (tmp_path / "b" / ("n" * 250 + ".jpg")).write_bytes(IMAGES[3])
    source = folder_source(LocalFiles(tmp_path))
    assert faults(source) == {
        "a/pipe.jpg": Fault.NOT_A_FILE,
        "a/broken.jpg": Fault.LINK_BROKEN,
        "a/self.jpg": Fault.LINK_LOOP,
        "a/out.jpg": Fault.LINK_LEADS_OUT,
        "a/up": Fault.LINK_LOOP,
    }
    listed = list(source.listing())
    read = [d for d in source.read(listed) if isinstance(d, bytes)]
    assert sorted(read) == sorted([IMAGES[0], IMAGES[1], IMAGES[1], IMAGES[2], IMAGES[3]])
    out = folder_source(LocalFiles(tmp_path, links_out=True))
    assert b"secret" in list(out.read(list(out.listing())))


def test_a_file_that_became_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """Between listing and reading a file may be replaced by a pipe: reading says so at once."""
    laid(tmp_path, a__x=IMAGES[0])
    source = folder_source(LocalFiles(tmp_path))
    listed = list(source.listing())
    (tmp_path / "a" / "x").unlink()
    os.mkfifo(tmp_path / "a" / "x")
    (found,) = source.read(listed)
    assert isinstance(found, Unreadable)
    assert found.reason is Fault.NOT_A_FILE


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_a_fault(tmp_path: Path) -> None:
    """A file and a folder without permission are faults."""
    laid(tmp_path, a__x=IMAGES[0], b__y=IMAGES[1])
    (tmp_path / "a" / "x").chmod(0)
    (tmp_path / "b").chmod(0)
    source = folder_source(LocalFiles(tmp_path))
    listed = list(source.listing())
    (tmp_path / "b").chmod(0o700)
    assert {d.reason for d in source.read(listed) if isinstance(d, Unreadable)} == {Fault.NOT_ALLOWED}


def test_captions_and_facts_beside_an_image_come_with_it(tmp_path: Path) -> None:
    """`x.txt` and `x.json` are columns of `x.jpg`; alone they are inputs, because nothing vanishes."""
    facts = json.dumps({"date": 1999, "licence": "CC0", "none": None}).encode()
    names = {
        "p/x.jpg": IMAGES[0],
        "p/x.txt": b" a face \n",
        "p/x.json": facts,
        "p/alone.txt": b"?",
        "top.jpg": IMAGES[1],
    }
    source = folder_source(LocalFiles(laid(tmp_path, **{k.replace("/", "__"): v for k, v in names.items()})))
    by = {i.path: i for i in source.listing()}
    assert set(by) == {"p/x.jpg", "p/alone.txt", "top.jpg"}
    assert by["p/x.jpg"].columns == {"caption": "a face", "date": "1999", "licence": "CC0"}
    assert by["p/x.jpg"].label == "p"
    assert by["top.jpg"].label is None
    assert all(i.label is None for i in folder_source(LocalFiles(tmp_path), label="none").listing())


def test_one_name_in_two_normal_forms_is_one_label(tmp_path: Path) -> None:
    """A folder written composed and one written decomposed are one person."""
    laid(tmp_path, **{"Jos\u00e9__1.jpg": IMAGES[0], "Jose\u0301__2.jpg": IMAGES[1]})
    assert {i.label for i in folder_source(LocalFiles(tmp_path)).listing()} == {"Jos\u00e9"}


def test_a_source_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    """A root that is missing, or a file, is the user's mistake."""
    laid(tmp_path, x=b"1")
    for name in ("x", "nothing"):
        with pytest.raises(UserError, match="a source of images is a folder"):
            LocalFiles(tmp_path / name)


def listed_tar(data: bytes, **options: Any) -> list[Input]:
    store = MemoryStore()
    store.put("s.tar", data)
    return list(tar_source(StoreFiles(store), **options).listing())


def test_samples_of_a_tar_are_images_with_what_belongs_to_them() -> None:
    """Captions, JSON and labels of a key come with its image; keys split at the first dot of the last part."""
    data = tar_of(
        ("a.b/img.v1.jpg", IMAGES[0]), ("a.b/img.txt", b"caption"), ("a.b/img.json", b'{"cls": 7, "date": "x"}'),
        ("only.txt", b"?"), ("bare", IMAGES[1]), (".hidden.jpg", IMAGES[2]), ("../evil.PNG", IMAGES[3]),
        ("__MACOSX/._a.jpg", b"junk"),
    )  # fmt: skip
    by = {i.member: i for i in listed_tar(data)}
    assert set(by) == {"a.b/img.v1.jpg", "only.txt", "bare", ".hidden.jpg", "../evil.PNG", "__MACOSX/._a.jpg"}
    assert by["a.b/img.v1.jpg"].columns == {"caption": "caption", "cls": "7", "date": "x"}
    assert by["a.b/img.v1.jpg"].label == "7"
    fault = by["only.txt"].fault
    assert fault is not None
    assert fault.reason is Fault.NO_IMAGE
    assert all(i.fault is None for name, i in by.items() if name != "only.txt")


def test_a_key_that_comes_again_is_a_fault() -> None:
    """Two members of one name side by side, and a key that comes back later: the first one counts."""
    data = tar_of(("a.jpg", b"1"), ("a.jpg", b"2"), ("b.jpg", b"3"), ("a.jpg", b"4"), ("a.cls", b"9"))
    found = [(i.member, i.fault.reason if i.fault else None) for i in listed_tar(data)]
    assert found == [
        ("a.jpg", None), ("a.jpg", Fault.DUPLICATE_KEY), ("b.jpg", None), ("a.jpg", Fault.DUPLICATE_KEY)
    ]  # fmt: skip


def test_members_that_are_no_files_are_faults() -> None:
    """Links, pipes and devices in a tar are never followed: each is an input with a fault."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for n, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
        ):
            info = tarfile.TarInfo(f"{n}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("good.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    found = {i.member: i.fault.reason if i.fault else None for i in listed_tar(out.getvalue())}
    assert found == {**{f"{n}.jpg": Fault.NOT_A_FILE for n in range(4)}, "good.jpg": None}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_tar_dialect_are_read(form: int) -> None:
    """Long names, and names beyond ASCII, are read as the standard library reads them."""
    names = ["short.jpg", "d" * 90 + "/" + "n" * 90 + ".jpg"]
    if form != tarfile.USTAR_FORMAT:
        names += ["x" * 300 + ".jpg", "f\u00fcr/\u9762.jpg"]
    data = tar_of(*((name, name.encode()) for name in names), format=form)
    found = listed_tar(data)
    assert [i.member for i in found] == names
    assert [data[i.offset : i.offset + i.length] for i in found] == [name.encode() for name in names]


def test_an_extended_header_that_asks_for_gigabytes_is_refused() -> None:
    """A pax header of 4 GiB is a fault before anything of it is read."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 4 << 30
    (found,) = walk_tar(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024), 6 << 30)
    assert found.fault is not None
    assert found.fault.reason is Fault.BAD_ARCHIVE


WHOLE = tar_of(*((f"{n}.{end}", IMAGES[n]) for n in range(4) for end in ("cls", "jpg")))


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, len(WHOLE)))
def test_a_tar_cut_anywhere_gives_its_whole_images_and_one_fault(cut: int) -> None:
    """What is left of a cut tar is read; where it was cut stands as one input with a fault."""
    whole = {i.member: i for i in listed_tar(WHOLE)}
    found = listed_tar(WHOLE[:cut])
    good = [i for i in found if i.fault is None]
    assert all((i.offset, i.length) == (whole[i.member].offset, whole[i.member].length) for i in good)
    assert len(good) == sum(i.offset + i.length <= cut for i in whole.values())
    broken = [i.fault.reason for i in found if i.fault]
    content = max(i.offset + i.length for i in whole.values())
    if cut < content:
        assert Fault.TRUNCATED_ARCHIVE in broken


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_mutated_tar_is_listed_to_its_end(changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are altered, listing ends, every input lies inside the archive, and reading raises nothing."""
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    store = MemoryStore()
    store.put("s.tar", bytes(data))
    source = tar_source(StoreFiles(store))
    listed = list(source.listing())
    assert listed
    for one, got in zip(listed, source.read(listed), strict=True):
        assert isinstance(got, Unreadable) if one.fault else len(got) == one.length


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), junk=st.binary(min_size=1, max_size=8))
def test_a_mutated_record_file_is_listed_to_its_end(at: int, junk: bytes) -> None:
    """Whatever bytes of a `.rec` are altered, listing ends and reading raises nothing."""
    data = rec_of(*(record(n % 3, IMAGES[n]) for n in range(6)))
    data = data[:at] + junk + data[at + len(junk) :]
    store = MemoryStore()
    store.put("t.rec", data)
    source = rec_source(StoreFiles(store))
    listed = list(source.listing())
    assert all(isinstance(got, bytes | Unreadable) for got in source.read(listed))


@settings(max_examples=60, deadline=None)
@given(body=st.lists(st.one_of(st.just(MAGIC), st.binary(min_size=1, max_size=5)), min_size=1, max_size=9))
def test_records_that_hold_the_magic_word_are_read_back(body: list[bytes]) -> None:
    """An image with the magic word at any place comes back as it was."""
    image = b"".join(body)
    store = MemoryStore()
    store.put("t.rec", rec_of(record(5, image), record(2, b"next")))
    source = rec_source(StoreFiles(store))
    listed = list(source.listing())
    assert list(source.read(listed)) == [image, b"next"]
    assert [i.label for i in listed] == ["5", "2"]


def test_headers_of_the_legacy_layout_are_no_images() -> None:
    """Ranges of identities, and record 0, hold no image and are no inputs."""
    ranges = record(0, b"", 2, (3.0, 4.0))
    store = MemoryStore()
    store.put("t.rec", rec_of(ranges, record(0, IMAGES[0]), record(1, IMAGES[1]), ranges, ranges))
    source = rec_source(StoreFiles(store))
    listed = list(source.listing())
    assert list(source.read(listed)) == IMAGES[:2]
    assert [i.label for i in listed] == ["0", "1"]


def test_a_cut_record_file_gives_its_whole_images_and_one_fault() -> None:
    """The last record of a cut `.rec` is a fault; those before it are read."""
    data = rec_of(*(record(n, IMAGES[n]) for n in range(3)))
    store = MemoryStore()
    store.put("t.rec", data[:-8])
    listed = list(rec_source(StoreFiles(store)).listing())
    assert [i.fault.reason if i.fault else None for i in listed] == [None, None, Fault.TRUNCATED_ARCHIVE]


def listed_table(data: bytes, **options: Any) -> tuple[Source, list[Input]]:
    store = MemoryStore()
    store.put("t.parquet", data)
    source = table_source(StoreFiles(store), **options)
    return source, list(source.listing())


def test_tables_of_plain_bytes_and_other_columns() -> None:
    """Images may be plain bytes under any usual name; other columns come as text; missing bytes are a fault."""
    source, listed = listed_table(
        table_of(jpg=[b"1", None, b"3"], label=["x", None, "y"], date=[1999, 2000, None], deep=[[1], [2], [3]])
    )
    assert [i.label for i in listed] == ["x", None, "y"]
    assert [i.columns for i in listed] == [{"date": "1999"}, {"date": "2000"}, {}]
    read = list(source.read(listed))
    assert read[0] == b"1"
    assert read[2] == b"3"
    assert isinstance(read[1], Unreadable)
    assert read[1].reason is Fault.NO_IMAGE


def test_tables_without_images_say_which_columns_there_are() -> None:
    """A table without a column of images is one input with a fault; the recipe may name the column."""
    _, listed = listed_table(table_of(a=[1, 2]))
    assert listed[0].fault == Unreadable(Fault.NO_IMAGE, "no column of images; columns here: a")
    _, named = listed_table(table_of(strange=[b"1", b"2"], other=[b"3", b"4"]), image="strange")
    assert len(named) == 2
    assert len(listed_table(table_of(only=[b"1", b"2"]))[1]) == 2


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1), junk=st.binary(min_size=1, max_size=16))
def test_a_mutated_table_raises_nothing(at: float, junk: bytes) -> None:
    """Whatever bytes of a parquet file are altered, listing and reading end as inputs and faults."""
    data = KINDS["parquet"][1]["data.parquet"]
    place = int(at * len(data))
    source, listed = listed_table(data[:place] + junk + data[place + len(junk) :])
    assert len(list(source.read(listed))) == len(listed)


def test_files_beside_tars_are_companions_or_faults(tmp_path: Path) -> None:
    """What img2dataset leaves beside a tar is no input; a compressed tar, or anything else, is one with a fault."""
    laid(tmp_path, **{
        "00000.tar": tar_of(("a.jpg", b"1")), "00000.parquet": table_of(key=["a"]), "00000_stats.json": b"{}",
        "b.tar.gz": b"\x1f\x8b", "readme": b"?", "c.tar": b"", "d.tar": b"not a tar at all" * 90,
    })  # fmt: skip
    found = {i.path: i.fault.reason if i.fault else None for i in tar_source(LocalFiles(tmp_path)).listing()}
    assert found == {
        "00000.tar": None, "b.tar.gz": Fault.BAD_ARCHIVE, "readme": Fault.BAD_ARCHIVE,
        "c.tar": Fault.TRUNCATED_ARCHIVE, "d.tar": Fault.BAD_ARCHIVE,
    }  # fmt: skip
