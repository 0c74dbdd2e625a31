"""What every exporter promises, asked of a dataset of the sketch world by a suite that each exporter inherits."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs import examine, wiring
from jobs.components import COMPONENTS
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore, PrefixedStore
from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import IndexRow, sha256_hex
from pipeline.domain.ports import Exporter, Store
from pipeline.flow.versions import published_rows, read_manifest
from tests.flow.test_run import DyingStore, Killed
from tests.worlds import mint, sketches

Found = tuple[str, int, bytes]
"""Key, label and image bytes of one sample, as a reader of the format finds them."""


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
def about(source: MemoryStore) -> dict[str, Any]:
    """Return what an export is told of its version."""
    manifest = read_manifest(source, "v000001")
    return {"name": manifest.name, "version": manifest.version, "digest": manifest.digest, "seed": 7}


def files_of(store: Store) -> dict[str, bytes]:
    """Return every file of a store."""
    return {path: store.get(path) for path in store.list("")}


class Recording(MemoryStore):
    """A store that writes down its changes."""

    def __init__(self) -> None:
        """Start without any."""
        super().__init__()
        self.writes: list[str] = []

    def put(self, path: str, data: bytes) -> None:
        """Note and put; files come through here too."""
        self.writes.append(f"put {path}")
        super().put(path, data)

    def delete(self, path: str) -> None:
        """Note where there is something to delete."""
        if self.size(path) is not None:
            self.writes.append(f"delete {path}")
        super().delete(path)


class Dying(DyingStore):
    """A store whose process dies at the n-th change, deletions included."""

    def delete(self, path: str) -> None:
        """Delete, or die."""
        dies = self._count(path)
        if dies and not self.after:
            raise Killed
        super().delete(path)
        if dies:
            raise Killed


class ExporterContract:
    """The promises of the Exporter port."""

    kind: str
    options: dict[str, Any] = {}
    """Small shards, so that there are several."""

    @pytest.fixture
    def exporter(self) -> Exporter:
        """Return the exporter under test, as a recipe would build it."""
        options, part = (wiring.load(entry) for entry in COMPONENTS["exports"][self.kind])
        built: Exporter = part(options(use=self.kind, **self.options))
        return built

    def read(self, target: Store) -> list[Found]:
        """Return every sample in the order of the export, by a reader that is not the product's."""
        raise NotImplementedError

    def test_every_image_once_with_its_label_and_its_bytes(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Each index row becomes one sample: its label, and the segment's bytes unchanged; labels are dense."""
        target = MemoryStore()
        summary = exporter.export(source, index, target, about)
        wanted = {r.key: (r.label, source.get_range(f"segments/{r.segment}.tar", r.offset, r.length)) for r in index}
        found = self.read(target)
        assert len(found) == len(wanted) == 30
        assert {key: (label, image) for key, label, image in found} == wanted
        assert sorted({label for _, label, _ in found}) == list(range(summary["num_classes"]))
        assert (summary["kind"], summary["num_images"]) == (self.kind, 30)

    def test_bytes_repeat(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], tmp_path: Path
    ) -> None:
        """Another store, and an index handed in backwards, change no byte."""
        first, second = MemoryStore(), LocalStore(tmp_path)
        exporter.export(source, index, first, about)
        exporter.export(source, index[::-1], second, about)
        assert files_of(first) == files_of(second)

    def test_manifest_describes_the_files(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """The summary is the manifest, and it lists every other file that lies there with its digest and size."""
        target = MemoryStore()
        summary = exporter.export(source, index, target, about | {"balance": ["shape"]})
        assert summary == json.loads(target.get("manifest.json"))
        assert summary["source"] == about
        listed = {f["path"]: (f["sha256"], f["bytes"]) for f in summary["files"]}
        assert listed == {p: (sha256_hex(d), len(d)) for p, d in files_of(target).items() if p != "manifest.json"}
        assert "30" in target.get("README.md").decode()

    def test_a_rerun_writes_nothing(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """A finished export is recognised: the same summary and no change."""
        target = Recording()
        first = exporter.export(source, index, target, about)
        assert target.writes[-1] == "put manifest.json"
        target.writes.clear()
        assert exporter.export(source, index, target, about) == first
        assert target.writes == []

    @pytest.mark.parametrize("after", [False, True])
    def test_killed_at_any_change_it_ends_in_the_same_bytes(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], *, after: bool
    ) -> None:
        """Killed before or after every single change and run again, an export is the undisturbed one and no more."""
        undisturbed = MemoryStore()
        exporter.export(source, index, undisturbed, about)
        wanted = files_of(undisturbed)
        for dies_at in range(1, 200):
            store = Dying(dies_at, after=after)
            try:
                exporter.export(source, index, store, about)
            except Killed:
                exporter.export(source, index, store, about)
                assert files_of(store) == wanted, f"killed at change {dies_at}"
            else:
                break
        assert dies_at > len(wanted)

    def test_what_stands_is_not_written_again(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Where one file is lost or cut and the manifest with it, that file alone is written, besides the records."""
        target = Recording()
        exporter.export(source, index, target, about)
        whole = files_of(target)
        for path in sorted(set(whole) - {"manifest.json"}):
            for damage in (b"", whole[path][:-1], whole[path][:-1] + bytes([whole[path][-1] ^ 1])):
                MemoryStore.put(target, path, damage)
                MemoryStore.delete(target, "manifest.json")
                target.writes.clear()
                exporter.export(source, index, target, about)
                content = [w for w in target.writes if w.split()[1] not in ("manifest.json", "progress.json")]
                assert content == [f"put {path}"]
                assert files_of(target) == whole

    def test_leftovers_of_an_earlier_export_go(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """A torn manifest, and files that an export of the same dataset with other options left, are cleared away."""
        target = MemoryStore()
        exporter.export(source, index, target, about)
        whole = files_of(target)
        target.put("manifest.json", b'{"kind": ')
        for path in [p for p in whole if p.endswith((".tar", ".parquet", ".jpg"))][:1]:
            stale = path.replace("000000", "000099")
            target.put(stale, b"stale")
        exporter.export(source, index, target, about)
        assert files_of(target) == whole

    def test_an_export_of_another_dataset_is_not_written_over(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Another dataset digest, finished or not, is refused in one line that names both; nothing changes."""
        target, half = Recording(), Dying(4, after=True)
        exporter.export(source, index, target, about)
        with pytest.raises(Killed):
            exporter.export(source, index, half, about)
        for store in (target, half):
            before = files_of(store)
            with pytest.raises(
                OutputError, match=rf"{about['digest'][:12]}.*eeeeeeeeeeee.*name another place"
            ) as caught:
                exporter.export(source, index, store, about | {"digest": "e" * 64})
            assert "\n" not in str(caught.value)
            assert files_of(store) == before

    @pytest.mark.parametrize("found", [{"kind": "lmdb"}, {"kind": 5, "source": []}, {"version": "v000001"}])
    def test_a_manifest_of_something_else_is_not_written_over(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], found: dict[str, Any]
    ) -> None:
        """An export of another kind, or the manifest of a dataset's version, is refused."""
        target = MemoryStore()
        target.put("manifest.json", json.dumps(found).encode())
        with pytest.raises(OutputError, match=r"manifest\.json is of another export"):
            exporter.export(source, index, target, about)

    def test_a_newer_version_of_the_same_content_replaces_it(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """The old manifest goes first and the new one comes last, so that neither describes a mixture."""
        target = Recording()
        exporter.export(source, index, target, about)
        target.writes.clear()
        summary = exporter.export(source, index, target, about | {"version": "v000002"})
        assert summary["source"]["version"] == "v000002"
        assert (target.writes[0], target.writes[-1]) == ("delete manifest.json", "put manifest.json")

    def test_verify_sees_damage(
        self, exporter: Exporter, source: MemoryStore, index: list[IndexRow], about: dict[str, Any]
    ) -> None:
        """Deep verification of the dataset names the one file of its export in which a byte changed or that is gone."""
        dataset = MemoryStore()
        for path, data in files_of(source).items():
            dataset.put(path, data)
        root = f"exports/v000001/{self.kind}"
        exporter.export(dataset, index, PrefixedStore(dataset, root), about)
        sound = examine.verify(dataset, Segments(), JpegCodec(), deep=True)
        assert sound["damaged"] == []
        paths = [p for p in dataset.list(root) if not p.endswith("manifest.json")]
        for path in (paths[0], paths[-1]):
            data = dataset.get(path)
            dataset.put(path, data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
            assert examine.verify(dataset, Segments(), JpegCodec(), deep=True)["damaged"] == [path]
            dataset.delete(path)
            assert examine.verify(dataset, Segments(), JpegCodec(), deep=False)["damaged"] == [path]
            dataset.put(path, data)

    @pytest.mark.parametrize("shift", [1, -1, 10**9])
    def test_a_wrong_place_in_a_segment_is_an_error(
        self, exporter: Exporter, source: Store, index: list[IndexRow], about: dict[str, Any], shift: int
    ) -> None:
        """An index that does not fit its segment stops the export, naming the segment; no manifest is written."""
        moved = [replace(index[0], offset=index[0].offset + shift), *index[1:]]
        target = MemoryStore()
        with pytest.raises(StoreError, match=f"segments/{index[0].segment}.tar"):
            exporter.export(source, moved, target, about)
        assert target.size("manifest.json") is None

    def test_it_must_be_told_its_version(self, exporter: Exporter, source: Store, index: list[IndexRow]) -> None:
        """A forgotten seed is an error, not a default order."""
        with pytest.raises(ValueError, match="nothing of digest, seed"):
            exporter.export(source, index, MemoryStore(), {"name": "x", "version": "v000001"})

    def test_options_are_frozen_and_checked(self) -> None:
        """Unknown options are refused, and options cannot change once a recipe is read."""
        model = wiring.load(COMPONENTS["exports"][self.kind][0])
        with pytest.raises(ValidationError, match="extra_forbidden"):
            model(use=self.kind, shards=3)
        with pytest.raises(ValidationError, match="frozen"):
            model(use=self.kind).use = "other"


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
        assert len(tables) > 2
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
