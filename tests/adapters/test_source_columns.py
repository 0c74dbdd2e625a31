"""What comes with images passes through, as the recipe says; and no source is opened without a ground to use it on."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from jobs.components import COMPONENTS
from jobs.wiring import load
from pipeline.adapters.sources.files import StoreFiles
from pipeline.adapters.sources.folders import FolderOptions, FolderSource
from pipeline.adapters.sources.lmdb import LmdbSource, LmdbSourceOptions
from pipeline.adapters.sources.recordio import RecordIOSource, RecordIOSourceOptions
from pipeline.adapters.sources.tables import TableOptions, TableSource
from pipeline.adapters.sources.tars import TarOptions, TarSource
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.intake import Fault, Input, SourceNode

RIGHTS = {"licence": "CC0-1.0", "lawful_basis": "made up for a test"}
JPEG = b"\xff\xd8\xff\xe0 an image"


def stored(**files: bytes) -> StoreFiles:
    store = MemoryStore()
    for name, data in files.items():
        store.put(name.replace("__", "/"), data)
    return StoreFiles(store)


def tar_of(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def table_of(features: dict[str, Any] | None = None, **columns: Any) -> bytes:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def tar_listing(files: StoreFiles, **options: Any) -> dict[str, Input]:
    source = TarSource(TarOptions(path=".", **RIGHTS, **options), files)
    return {f"{i.path}:{i.member}": i for i in source.listing()}


@pytest.mark.parametrize("use", COMPONENTS["sources"])
@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, "licence and no lawful_basis"),
        ({"licence": "CC0-1.0"}, "lawful_basis"),
        ({"licence": " ", "lawful_basis": "consent"}, "licence"),
    ],
)
def test_a_source_without_a_ground_is_refused(use: str, given: dict[str, str], lacking: str) -> None:
    """Every kind of source needs a licence and a lawful basis; the message names the source and what is missing."""
    options = load(COMPONENTS["sources"][use][0])
    with pytest.raises(ValidationError, match=rf"source '/crawl/2024' has no {lacking}; state under which licence"):
        options(path="/crawl/2024", **given)
    found = options(path="/crawl/2024", **RIGHTS)
    assert found.use == use
    assert isinstance(found, SourceNode)
    assert TypeAdapter(options).validate_python(found.model_dump()) == found


def test_the_recipe_says_which_columns_pass() -> None:
    """Left out, every column passes; named, those alone; the label is taken from a column that does not pass, too."""
    facts = json.dumps({"cls": "p1", "date": 1999, "licence": "CC0"}).encode()
    tar = stored(**{"0.tar": tar_of(("a.jpg", JPEG), ("a.json", facts), ("a.txt", b"a face"))})
    folder = stored(**{"p1/a.jpg": JPEG, "p1/a.json": facts, "p1/a.txt": b"a face"})
    table = stored(**{"t.parquet": table_of(image=[JPEG], label=["p1"], date=[1999], licence=["CC0"])})
    for wanted, expected in (
        (None, {"date": "1999", "licence": "CC0"}),
        (("date", "nothing"), {"date": "1999"}),
        ((), {}),
    ):
        options = {**RIGHTS, "columns": wanted}
        for source in (
            TarSource(TarOptions(path=".", **options), tar),
            FolderSource(FolderOptions(path=".", **options), folder),
            TableSource(TableOptions(path=".", **options), table),
        ):
            (found,) = source.listing()
            assert found.label == "p1"
            # a table has no caption here, and its label is no column
            extra = {} if wanted is not None or isinstance(source, TableSource) else {"caption": "a face", "cls": "p1"}
            assert found.columns == expected | extra


def test_a_record_file_has_labels_alone() -> None:
    """RecordIO holds labels: nothing else comes with an image."""
    record = struct.pack("<IfQQ", 0, 5.0, 0, 0) + JPEG
    framed = struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
    source = RecordIOSource(RecordIOSourceOptions(path=".", **RIGHTS), stored(**{"t.rec": framed}))
    assert [(i.label, i.columns) for i in source.listing()] == [("5", {})]


def test_img2datasets_table_beside_a_tar_comes_with_its_images() -> None:
    """Columns of the row with an image's key come along; what the sample itself says counts first."""
    files = stored(**{
        "00000.tar": tar_of(
            ("000000001.jpg", JPEG), ("000000001.json", b'{"caption": "own"}'), ("000000002.jpg", JPEG),
            ("000000009.jpg", JPEG),
        ),
        "00000.parquet": table_of(
            key=["000000001", "000000002", "000000003"], caption=["other", "two", "gone"], url=["u1", None, "u3"],
            status=["success", "success", "failed_to_download"], person=["p1", "p2", "p3"], exif=["{}", "{}", "{}"],
        ),
        "00000_stats.json": b"{}",
        "00001.tar": tar_of(("000010001.jpg", JPEG)),
    })  # fmt: skip
    found = tar_listing(files, label="person")
    assert set(found) == {
        "00000.tar:000000001.jpg", "00000.tar:000000002.jpg", "00000.tar:000000009.jpg", "00001.tar:000010001.jpg"
    }  # fmt: skip
    assert found["00000.tar:000000001.jpg"].columns["caption"] == "own"
    # where an image lay, and what its camera wrote, comes along only where it is named
    assert not {"url", "exif"} & set(found["00000.tar:000000001.jpg"].columns)
    assert found["00000.tar:000000001.jpg"].label == "p1"
    assert found["00000.tar:000000002.jpg"].columns["caption"] == "two"
    assert "url" not in found["00000.tar:000000002.jpg"].columns
    assert found["00000.tar:000000009.jpg"].columns == {}
    assert found["00000.tar:000000009.jpg"].label is None
    assert tar_listing(files, columns=["url"])["00000.tar:000000001.jpg"].columns == {"url": "u1"}


@pytest.mark.parametrize("table", [b"", b"PAR1 but not really PAR1", table_of(url=["u"])])
def test_a_table_beside_a_tar_that_cannot_be_read_is_seen(table: bytes) -> None:
    """Its captions are lost, which is an input with a fault; the images of the tar are listed all the same."""
    found = tar_listing(stored(**{"0.tar": tar_of(("a.jpg", JPEG)), "0.parquet": table}))
    fault = found["0.parquet:"].fault
    assert fault is not None
    assert fault.reason is Fault.BAD_ARCHIVE
    assert found["0.tar:a.jpg"].fault is None


RACES = ["East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"]


def test_numbers_of_classes_come_as_their_words() -> None:
    """A class of a Hugging Face data set is its word, whatever its number; -1 is none; other numbers stay numbers."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["Ann", "Bo"], "_type": "ClassLabel"},
        "race": {"names": RACES, "_type": "ClassLabel"},
        "year": {"dtype": "int64", "_type": "Value"},
    }
    images = [{"bytes": JPEG, "path": f"{n}.jpg"} for n in range(4)]
    data = table_of(features, image=images, label=[1, 0, -1, 7], race=[0, 3, 6, -1], year=[3, 2, 1, 0])
    source = TableSource(TableOptions(path=".", **RIGHTS), stored(**{"t.parquet": data}))
    found = list(source.listing())
    assert [i.label for i in found] == ["Bo", "Ann", None, "7"]
    assert [i.columns.get("race") for i in found] == ["East Asian", "White", "Southeast Asian", None]
    assert [i.columns["year"] for i in found] == ["3", "2", "1", "0"]
    assert list(source.read(found)) == [JPEG] * 4


@pytest.mark.parametrize("told", [b"{", b"[]", b'{"info": {"features": {"label": 3}}}', b'{"info": {"features": []}}'])
def test_metadata_that_say_nothing_leave_numbers_as_they_are(told: bytes) -> None:
    """Damaged metadata are no reason to stop: the number is the label."""
    table = pa.table({"image": [JPEG], "label": [4]}).replace_schema_metadata({"huggingface": told})
    out = io.BytesIO()
    pq.write_table(table, out)
    source = TableSource(TableOptions(path=".", **RIGHTS), stored(**{"t.parquet": out.getvalue()}))
    assert [i.label for i in source.listing()] == ["4"]


def test_growth_of_one_file_leaves_the_stamps_of_the_others(tmp_path: Path) -> None:
    """A stamp is of its file alone: another file that is added or changed does not make an input a changed one."""
    store = MemoryStore()
    settings = {"subdir": False, "map_size": 1 << 20, "lock": False}
    with lmdb.open(str(tmp_path / "x.lmdb"), **settings) as env, env.begin(write=True) as txn:
        txn.put(b"0", msgpack.packb((JPEG, 1)))
    store.put("a.lmdb", (tmp_path / "x.lmdb").read_bytes())
    options = LmdbSourceOptions(path=".", **RIGHTS)
    before = list(LmdbSource(options, StoreFiles(store)).listing())
    store.put("b.lmdb", (tmp_path / "x.lmdb").read_bytes())
    source = LmdbSource(options, StoreFiles(store))
    assert list(source.listing())[: len(before)] == before
    assert list(source.read(before)) == [JPEG]
