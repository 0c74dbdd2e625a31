"""LMDB files as sources: the walk finds what the library finds, whatever is damaged; layouts of trainers are read."""

from __future__ import annotations

import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.exporters.lmdb_tree import LmdbExporter
from pipeline.adapters.segments import Segments
from pipeline.adapters.sources.files import LocalFiles, StoreFiles
from pipeline.adapters.sources.lmdb import LmdbSource, LmdbSourceOptions
from pipeline.adapters.sources.lmdb_pages import LmdbPages
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.intake import Fault, Input, Unreadable
from pipeline.flow.versions import published_rows, read_manifest
from tests.worlds import mint, sketches

RIGHTS = {"licence": "CC0-1.0", "lawful_basis": "made up for a test"}
JPEG = b"\xff\xd8\xff\xe0 an image"


def made(items: dict[bytes, bytes], dropped: tuple[bytes, ...] = (), **options: Any) -> bytes:
    """Return an LMDB file that the library wrote, in two transactions so that pages are freed and used again."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.lmdb"
        with lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False, max_dbs=2, **options) as env:
            with env.begin(write=True) as txn:
                for key, value in items.items():
                    txn.put(key, value)
            with env.begin(write=True) as txn:
                for key in dropped:
                    txn.delete(key)
        return path.read_bytes()


def listed(data: bytes, **options: Any) -> tuple[list[Input], list[bytes | Unreadable]]:
    store = MemoryStore()
    store.put("set/data.mdb", data)
    store.put("set/lock.mdb", b"\0" * 64)
    store.put("labels.txt", b"a/1.jpg\tsomebody\nx 7\n")
    source = LmdbSource(LmdbSourceOptions(path=".", **RIGHTS, **options), StoreFiles(store))
    found = list(source.listing())
    return found, list(source.read(found))


values = st.one_of(st.binary(max_size=40), st.integers(1900, 20_000).map(lambda n: bytes([n % 251]) * n))


@settings(max_examples=60, deadline=None)
@given(
    items=st.dictionaries(st.binary(min_size=1, max_size=200), values, max_size=120),
    dropped=st.sets(st.integers(0, 119), max_size=60),
)
def test_the_walk_finds_what_the_library_finds(items: dict[bytes, bytes], dropped: set[int]) -> None:
    """Keys come in the library's order, values are its own, long ones and those put in after others were freed too."""
    keys = list(items)
    gone = tuple(keys[n] for n in dropped if n < len(keys))
    data = made(items, gone)
    tree = LmdbPages(io.BytesIO(data), len(data))
    found = list(tree.walk())
    assert all(e.fault is None for e in found)
    assert [e.key for e in found] == sorted(k for k in items if k not in gone)
    assert {e.key: data[e.offset : e.offset + e.length] for e in found} == {
        k: v for k, v in items.items() if k not in gone
    }
    for key in keys:
        assert tree.find(key) == next((e for e in found if e.key == key), None)


WHOLE = made({b"%04d" % n: bytes([n % 256]) * (n * 7 % 3000) for n in range(400)})


@settings(max_examples=250, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 9), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8
    ),
    cut=st.one_of(st.none(), st.integers(0, len(WHOLE))),
)
def test_a_damaged_file_is_listed_to_its_end(changes: list[tuple[int, bytes]], cut: int | None) -> None:
    """Whatever bytes are altered or cut off, listing ends, and reading gives each input or says why not."""
    data = bytearray(WHOLE)
    for at, junk in changes:
        data[at : at + len(junk)] = junk
    data = data[:cut]
    found, read = listed(bytes(data))
    # nothing guards the two headers: an altered one may well name the empty tree that there was at first
    assert found or any(at < 8192 for at, _ in changes)
    for one, got in zip(found, read, strict=True):
        assert isinstance(got, Unreadable) if one.fault else isinstance(got, bytes) and len(got) == one.length


def test_one_damaged_page_costs_its_own_entries_alone() -> None:
    """A leaf page that is overwritten is one fault; the entries of the other pages are still there."""
    whole, _ = listed(WHOLE)
    page = whole[100].offset // 4096
    inline = [i for i in whole if i.offset // 4096 == page]
    assert len(inline) > 2
    data = bytearray(WHOLE)
    data[page * 4096 : (page + 1) * 4096] = b"\xaa" * 4096
    found, _ = listed(bytes(data))
    assert [i.fault.reason for i in found if i.fault] == [Fault.BAD_ARCHIVE]
    left = {i.member for i in whole} - {i.member for i in found if i.fault is None}
    assert left == {i.member for i in inline}


def test_a_damaged_header_is_told() -> None:
    """With one of its two headers gone an older state may be all that is read: that is one more input, with a fault."""
    for at in (16, 4096 + 16):
        data = bytearray(WHOLE)
        data[at : at + 4] = b"\0" * 4
        found, _ = listed(bytes(data))
        assert found[-1].fault is not None
        assert "header" in found[-1].fault.found


def test_pages_in_a_circle_end() -> None:
    """A branch page whose children are itself is walked so often as the file has pages, and no more."""
    data = bytearray(WHOLE)
    tree = LmdbPages(io.BytesIO(WHOLE), len(WHOLE))
    root = tree._root * 4096
    nodes = tree._offsets(WHOLE[root : root + 4096])
    assert len(nodes) > 3
    for at in nodes:
        data[root + at : root + at + 4] = tree._root.to_bytes(4, "little")
    found, _ = listed(bytes(data))
    assert found[-1].fault is not None
    assert len(found) < 60_000


def test_layouts_of_trainers_are_read() -> None:
    """Packed values, numbered keys with labels beside them, and keys in folders: images and labels as they were."""
    data = made({
        b"__len__": msgpack.packb(3), b"__keys__": msgpack.packb([b"0"]), b"num-samples": b"9",
        b"0": msgpack.packb((JPEG, 7)), b"1": msgpack.packb((JPEG * 500, b"\x93NUMPY" * 50, 70_000)),
        b"2": msgpack.packb((JPEG, "Jose\u0301")), b"3": msgpack.packb((JPEG, -3)),
        b"image-000000001": JPEG, b"label-000000001": b"somebody", b"image-000000002": JPEG,
        b"people/Jose/1.jpg": JPEG, b"bare": JPEG,
    })  # fmt: skip
    found, read = listed(data)
    assert {i.member: i.label for i in found} == {
        "0": "7", "1": "70000", "2": "Jos\u00e9", "3": "-3", "image-000000001": "somebody", "image-000000002": None,
        "people/Jose/1.jpg": "Jose", "bare": None,
    }  # fmt: skip
    assert {i.member: got for i, got in zip(found, read, strict=True)} == {
        i.member: JPEG * 500 if i.member == "1" else JPEG for i in found
    }
    assert all(i.label is None for i in listed(data, label="none")[0])


def test_labels_from_a_text_file_count_first() -> None:
    """A key's label in the file that the recipe names is taken; other keys keep what they say themselves."""
    found, _ = listed(made({b"a/1.jpg": JPEG, b"b/1.jpg": JPEG, b"x": JPEG}), labels="labels.txt")
    assert {i.member: i.label for i in found} == {"a/1.jpg": "somebody", "b/1.jpg": "b", "x": "7"}


def test_values_that_are_not_opened_are_faults() -> None:
    """Pickles, several values under a key and a database within the database are inputs with a fault."""
    found, read = listed(made({b"p": pickle.dumps((JPEG, 3)), b"q": JPEG}))
    assert [(i.member, i.fault.reason if i.fault else None) for i in found] == [("p", Fault.BAD_RECORD), ("q", None)]
    assert read[1] == JPEG
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.lmdb"
        with lmdb.open(str(path), subdir=False, map_size=1 << 20, lock=False, max_dbs=2) as env:
            inner = env.open_db(b"inner")
            with env.begin(write=True) as txn:
                txn.put(b"k", JPEG, db=inner)
                txn.put(b"top", JPEG)
        found, _ = listed(path.read_bytes())
    assert [(i.member, i.fault.reason if i.fault else None) for i in found] == [
        ("inner", Fault.BAD_RECORD),
        ("top", None),
    ]


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"SQLite format 3\0" * 999])
def test_what_is_no_lmdb_file_is_one_fault(data: bytes) -> None:
    """A file of another kind under that name is one input."""
    found, _ = listed(data)
    assert [i.fault.reason for i in found if i.fault] == [Fault.BAD_ARCHIVE]


def test_an_empty_file_has_no_input() -> None:
    """An LMDB file without a key lists nothing."""
    assert listed(made({}))[0] == []


def test_our_own_export_is_a_source(tmp_path: Path) -> None:
    """A dataset that was exported to LMDB comes back: every image once, with the label of its version."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    index = published_rows(Segments(), store, read_manifest(store, "v000001"))
    about = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}
    LmdbExporter().export(store, index, LocalStore(tmp_path), about)
    source = LmdbSource(LmdbSourceOptions(path=str(tmp_path), **RIGHTS), LocalFiles(tmp_path))
    found = list(source.listing())
    images = {(row.label, store.get_range(f"segments/{row.segment}.tar", row.offset, row.length)) for row in index}
    assert {(int(i.label or -1), got) for i, got in zip(found, source.read(found), strict=True)} == images
    assert len(found) == len(index)
