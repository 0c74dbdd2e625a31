"""Every exporter under the suite of the port, read back by readers that are not the product's."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import pyarrow.parquet as pq
import pytest

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import IndexRow, sha256_hex
from pipeline.domain.ports import Exporter, Store
from pipeline.domain.twins import is_twin, parent_of
from pipeline.flow.exporting import about_export
from pipeline.flow.versions import published_rows, read_manifest
from tests.contracts.exporter_contract import ExporterContract, Found, files_of
from tests.worlds import mint, sketches


@pytest.fixture(scope="module")
def source() -> MemoryStore:
    """Return a published dataset without exports."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    return store


@pytest.fixture(scope="module")
def index(source: MemoryStore) -> list[IndexRow]:
    """Return its index."""
    return published_rows(Segments(), source, read_manifest(source, "v000001"))


@pytest.fixture(scope="module")
def with_twins() -> MemoryStore:
    """Return a published dataset where every other image has a twin."""
    store = MemoryStore()
    mint(sketches(exports=[], twins=[{"use": "darkness", "share": 0.5}]), store)
    return store


@pytest.fixture(scope="module")
def about(source: MemoryStore) -> dict[str, Any]:
    """Return what an export is told of its version."""
    return about_export(read_manifest(source, "v000001"), 7)


class TestWebDataset(ExporterContract):
    """WebDataset, read with Python's tarfile."""

    kind = "webdataset"
    options = {"shard_bytes": 20_000}

    def read(self, target: Store) -> list[Found]:
        """Return the samples of every shard."""
        found = []
        for path in target.list("train-"):
            with tarfile.open(fileobj=io.BytesIO(target.get(path))) as archive:
                members = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
            keys = [name.split(".")[0] for name in members if name.endswith(".jpg")]
            found += [(key, int(members[f"{key}.cls"]), members[f"{key}.jpg"]) for key in keys]
        return found


class TestRecordIO(ExporterContract):
    """RecordIO in the flat layout, read by `read_record`."""

    kind = "recordio"

    def read(self, target: Store) -> list[Found]:
        """Return the images in the order of their numbers; train.lst says their keys."""
        keys = {}
        for line in target.get("train.lst").decode().splitlines():
            number, _, name = line.split("\t")
            keys[int(number)] = name.removesuffix(".jpg")
        rec, found = target.get("train.rec"), []
        for number, place in sorted(places_of(target).items()):
            flag, label, _, body = unpack(read_record(rec, place)[0])
            if flag == 0 and body:
                found.append((keys[number], int(label[0]), body))
        return found


class TestLegacyRecordIO(TestRecordIO):
    """RecordIO with identity ranges."""

    options = {"legacy": True}


class TestHf(ExporterContract):
    """Parquet, read with pyarrow."""

    kind = "hf"
    options = {"shard_bytes": 10_000}

    def read(self, target: Store) -> list[Found]:
        """Return the rows of every shard."""
        tables = [pq.read_table(io.BytesIO(target.get(p))) for p in target.list("data/train-")]
        assert len(tables) > 1
        rows = [row for table in tables for row in table.to_pylist()]
        assert all(r["image"]["path"] == f"{r['key']}.jpg" for r in rows)
        return [(r["key"], r["label"], r["image"]["bytes"]) for r in rows]


class TestImageFolder(ExporterContract):
    """An image folder, read by its metadata; folders say the labels too."""

    kind = "imagefolder"

    def read(self, target: Store) -> list[Found]:
        """Return what the metadata lists."""
        rows = pq.read_table(io.BytesIO(target.get("metadata.parquet"))).to_pylist()
        assert all(int(r["file_name"].split("/")[0]) == r["label"] for r in rows)
        return [(r["key"], r["label"], target.get(r["file_name"])) for r in rows]


class TestLmdb(ExporterContract):
    """LMDB, read with the libraries that its trainers read it with."""

    kind = "lmdb"

    def read(self, target: Store) -> list[Found]:
        """Return the records in the order of their numbers; images say whose they are."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.lmdb"
            path.write_bytes(target.get("train.lmdb"))
            with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as txn:
                keys = msgpack.loads(txn.get(b"__keys__"))
                assert msgpack.loads(txn.get(b"__len__")) == len(keys) == txn.stat()["entries"] - 3
                assert keys == [b"%d" % number for number in range(len(keys))]
                found = [msgpack.loads(txn.get(key)) for key in keys]
                assert msgpack.loads(txn.get(b"__classnum__")) == len({label for *_, label in found})
        lines = [line.split("\t") for line in target.get("train.lst").decode().splitlines()]
        assert [(int(n), int(label)) for n, label, _ in lines] == [(n, label) for n, (_, label) in enumerate(found)]
        return [
            (name.removesuffix(".jpg"), label, image) for (*_, name), (image, label) in zip(lines, found, strict=True)
        ]


class TestCrossPairs(ExporterContract):
    """Cross-pairs, whose images are read with pyarrow."""

    kind = "cross-pairs"
    options = {"shard_bytes": 10_000}

    def build(self, **options: Any) -> Exporter:
        """Return an exporter that takes twins, as the others do, where nothing else is asked."""
        return super().build(**{"twins": True, **options})

    def read(self, target: Store) -> list[Found]:
        """Return the rows of every shard; every pair names two of them, of one label."""
        tables = [pq.read_table(io.BytesIO(target.get(p))) for p in target.list("data/images-")]
        rows = {row["key"]: row for table in tables for row in table.to_pylist()}
        assert len(rows) == sum(table.num_rows for table in tables)
        for pair in pq.read_table(io.BytesIO(target.get("pairs.parquet"))).to_pylist():
            assert rows[pair["input_key"]]["label"] == rows[pair["target_key"]]["label"] == pair["label"]
            assert pair["differs"]
        return [(key, row["label"], row["image"]["bytes"]) for key, row in rows.items()]

    @pytest.mark.parametrize("most", [2, 5])
    def test_max_per_identity(self, source: Store, index: list[IndexRow], about: dict[str, Any], most: int) -> None:
        """A pair takes two images, so that no identity may be left with one."""
        super().test_max_per_identity(source, index, about, most)
        with pytest.raises(UserError, match="no two images of anybody differ"):
            self.write(self.build(max_per_identity=1), source, index, MemoryStore(), about)


class TestPairs(ExporterContract):
    """Verification pairs; only images in a list are there, and identities stand in place of labels."""

    kind = "pairs"
    options = {"folds": 2}

    def read(self, target: Store) -> list[Found]:
        """Return the images as LFW's list and folders name them."""
        rows = pq.read_table(io.BytesIO(target.get("images.parquet"))).to_pylist()
        assert {r["file"] for r in rows} == set(target.list("images/"))
        return [(r["key"], r["identity"], target.get(r["file"])) for r in rows]

    def test_every_image_once_with_its_label_and_its_bytes(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Every image of a list is there once, with its identity and its bytes unchanged."""
        target = MemoryStore()
        summary = exporter.export(source, index, target, about)
        published = {
            r.key: (r.identity, source.get_range(f"segments/{r.segment}.tar", r.offset, r.length)) for r in index
        }
        found = self.read(target)
        assert len({key for key, *_ in found}) == len(found) == summary["num_images"]
        assert {key: (identity, image) for key, identity, image in found}.items() <= published.items()

    def test_manifest_describes_the_files(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """The summary is the manifest, and it lists every other file that lies there with its digest and size."""
        target = MemoryStore()
        summary = exporter.export(source, index, target, about)
        assert summary == json.loads(target.get("manifest.json"))
        listed = {f["path"]: (f["sha256"], f["bytes"]) for f in summary["files"]}
        assert listed == {p: (sha256_hex(d), len(d)) for p, d in files_of(target).items() if p != "manifest.json"}

    def test_labels_with_gaps_become_dense(self, source: Store, index: list[IndexRow], about: dict[str, Any]) -> None:
        """Lists name identities, which no erasure renumbers: who is left is named as before."""
        left = [row for row in index if row.label not in (0, 4)]
        target = MemoryStore()
        self.write(self.build(), source, left, target, about)
        assert {(key, identity) for key, identity, _ in self.read(target)} <= {(r.key, r.identity) for r in left}

    @pytest.mark.parametrize("most", [2, 5])
    def test_max_per_identity(self, source: Store, index: list[IndexRow], about: dict[str, Any], most: int) -> None:
        """No identity has more images than asked for; one of each is too few for a mated pair, and that is said."""
        target = MemoryStore()
        self.write(self.build(max_per_identity=most), source, index, target, about)
        assert max(Counter(identity for _, identity, _ in self.read(target)).values()) == min(most, 3)
        with pytest.raises(UserError, match="nobody there has two images"):
            self.write(self.build(max_per_identity=1), source, index, MemoryStore(), about)

    @pytest.mark.parametrize("twins", [True, False])
    def test_twins(self, with_twins: MemoryStore, *, twins: bool) -> None:
        """Twins are drawn where that is asked for, and never against their own image."""
        target = MemoryStore()
        wiring.export_on(with_twins, self.build(twins=twins), target)
        assert any(is_twin(key) for key, *_ in self.read(target)) is twins
        for pair in pq.read_table(io.BytesIO(target.get("pairs.parquet"))).to_pylist():
            origins = {parent_of(pair[f"key_{side}"]) or pair[f"key_{side}"] for side in "ab"}
            assert len(origins) == 2


def read_record(rec: bytes, place: int) -> tuple[bytes, int]:
    """Return the record at `place` and where the next begins, by dmlc's description of the format.

    A record is parts of: magic word, a word of 3 bits flag and 29 bits length, that many bytes, zeros up to a multiple
    of four. Flag 0: the part is the record; 1, 2, 3: first, middle, last part, between which a magic word was left out.
    """
    magic = 0xCED7230A
    record, wanted = b"", (0, 1)
    while True:
        word, flagged = struct.unpack_from("<II", rec, place)
        flag, length = flagged >> 29, flagged & (1 << 29) - 1
        assert word == magic
        assert flag in wanted
        if flag in (2, 3):
            record += struct.pack("<I", magic)
        record += rec[place + 8 : place + 8 + length]
        place += 8 + length
        while place % 4:
            assert rec[place] == 0
            place += 1
        if flag in (0, 3):
            return record, place
        wanted = (2, 3)


def unpack(record: bytes) -> tuple[int, tuple[float, ...], int, bytes]:
    """Return flag, labels, id and body of a record, by MXNet's description of its header."""
    flag, label, number, _ = struct.unpack_from("<IfQQ", record)
    if flag == 0:
        return flag, (label,), number, record[24:]
    assert label == 0
    return flag, struct.unpack_from(f"<{flag}f", record, 24), number, record[24 + 4 * flag :]


def places_of(target: Store) -> dict[int, int]:
    """Return record number -> place in train.rec."""
    lines = target.get("train.idx").decode().splitlines()
    return {int(number): int(place) for number, place in (line.split("\t") for line in lines)}
