"""The WebDataset export: trainers read it, its bytes repeat, and it is whole or not there."""

from __future__ import annotations

import gc
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.exporters import images
from pipeline.adapters.exporters.webdataset import WebDatasetExporter, WebDatasetOptions
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore, PrefixedStore
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import IndexRow, canonical_json, sha256_hex
from pipeline.domain.ports import Exporter, Store
from pipeline.domain.records import Candidate, Sample, minted_key
from pipeline.domain.storage import Range
from tests.contracts.exporter_contract import Recording
from tests.worlds import filled

SMALL = WebDatasetOptions(shard_bytes=20_000)
ABOUT = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}
IDENTITIES, IMAGES = 6, 5


def _candidate(identity: int, slot: int) -> Candidate:
    face = np.full((32, 32, 3), 40 * identity, np.uint8)
    face[:, : 4 + 4 * slot] //= 2
    sample = Sample(minted_key(identity, slot, 0), identity, slot, 0, {}, {}, np.eye(4, dtype=np.float32)[0])
    return Candidate(sample, 0, (), True, False, JpegCodec().encode(face))


@pytest.fixture(scope="module")
def source() -> Store:
    """Return a dataset of two segments."""
    store = MemoryStore()
    for unit in range(2):
        rows = [_candidate(i, s) for i in range(unit * 3, unit * 3 + 3) for s in range(IMAGES)]
        Segments().write_images(store, f"make-g0-{unit:06d}", rows)
    return store


@pytest.fixture(scope="module")
def index(source: Store) -> list[IndexRow]:
    """Return an index whose labels are not the identities' ordinals."""
    rows = []
    for unit in ("make-g0-000000", "make-g0-000001"):
        for key, (offset, length) in Segments().locate(source, unit).items():
            identity = int(key[1:9])
            rows.append(IndexRow(IDENTITIES - 1 - identity, key, identity, "light/older", unit, offset, length))
    return sorted(rows)


def _bytes(store: Store) -> dict[str, bytes]:
    return {path: store.get(path) for path in store.list("")}


def _samples(target: Store) -> list[tuple[str, str, bytes, dict[str, Any]]]:
    """Return (key, label, image, side-car) of every sample, in the order of the shards."""
    found = []
    for path in target.list("train-"):
        archive = _archive(target.get(path))
        parts = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]  # type: ignore[union-attr]
        for cls, jpg, car in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            assert [n.split(".")[1] for n, _ in (cls, jpg, car)] == ["cls", "jpg", "json"]
            found.append((cls[0].split(".")[0], cls[1].decode(), jpg[1], json.loads(car[1])))
    return found


def test_every_image_once_with_its_label_and_its_bytes(source: Store, index: list[IndexRow]) -> None:
    """Each index row becomes one sample whose image is the published one, byte for byte."""
    target = MemoryStore()
    exporter: Exporter = WebDatasetExporter(SMALL)
    exporter.export(source, index, target, ABOUT)
    samples = _samples(target)
    assert sorted(s[0] for s in samples) == sorted(r.key for r in index)
    rows = {r.key: r for r in index}
    for key, label, image, car in samples:
        row = rows[key]
        assert label == str(row.label)
        assert image == source.get_range(f"segments/{row.segment}.tar", row.offset, row.length)
        assert car == {"key": key, "label": row.label, "identity": row.identity, "cell": "light/older"}


def test_order_is_shuffled_across_identities(source: Store, index: list[IndexRow]) -> None:
    """The first samples are of several identities, and another seed gives another order."""
    orders = []
    for seed in (7, 8):
        target = MemoryStore()
        WebDatasetExporter().export(source, index, target, ABOUT | {"seed": seed})
        orders.append([s[0] for s in _samples(target)])
    assert orders[0] != orders[1]
    assert len({key[:9] for key in orders[0][:8]}) >= 4
    assert orders[0] != sorted(orders[0])


def test_bytes_repeat(source: Store, index: list[IndexRow], tmp_path: Path) -> None:
    """Another store, and an index handed in backwards, change no byte."""
    first, second = MemoryStore(), LocalStore(tmp_path)
    WebDatasetExporter(SMALL).export(source, index, first, ABOUT)
    WebDatasetExporter(SMALL).export(source, index[::-1], second, ABOUT)
    assert _bytes(first) == _bytes(second)


def test_shards_keep_to_their_size(source: Store, index: list[IndexRow]) -> None:
    """No shard holds more than asked for, but for the end mark; names are numbered without a gap."""
    target = MemoryStore()
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    shards = target.list("train-")
    assert shards == [f"train-{n:06d}.tar" for n in range(len(shards))]
    assert len(shards) > 2
    for shard in shards:
        ends = [m.offset_data + -(-m.size // 512) * 512 for m in _archive(target.get(shard))]
        assert max(ends) <= 20_000


def test_shards_are_those_that_tarfile_writes(source: Store, index: list[IndexRow]) -> None:
    """The archive's bytes are those of Python's own writer with mode 0444, and time, owners and names left empty."""
    odd = [IndexRow(r.label, r.key, r.identity, 'ä "quoted" \\ cell', r.segment, r.offset, r.length) for r in index]
    target = MemoryStore()
    WebDatasetExporter(SMALL).export(source, odd, target, ABOUT)
    for path in target.list("train-"):
        out = io.BytesIO()
        ustar = tarfile.USTAR_FORMAT
        with _archive(target.get(path)) as archive, tarfile.open(fileobj=out, mode="w", format=ustar) as again:
            for found in archive:
                member = tarfile.TarInfo(found.name)
                member.size, member.mode = found.size, 0o444
                again.addfile(member, archive.extractfile(found))
        assert out.getvalue() == target.get(path)
    assert {key: car["cell"] for key, _, _, car in _samples(target)} == {r.key: r.cell for r in odd}


def test_side_cars_are_canonical_json(source: Store, index: list[IndexRow]) -> None:
    """Side-cars are in the one form of JSON that the project digests: sorted keys, no spaces."""
    target = MemoryStore()
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    archive = _archive(target.get("train-000000.tar"))
    cars = [archive.extractfile(m).read() for m in archive if m.name.endswith(".json")]  # type: ignore[union-attr]
    assert cars
    assert all(car == canonical_json(json.loads(car)) for car in cars)


def test_manifest_describes_the_files(source: Store, index: list[IndexRow]) -> None:
    """Counts, digests and sizes are those of what lies there; the summary returned is the manifest."""
    target = MemoryStore()
    summary = WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    assert summary == json.loads(target.get("manifest.json"))
    assert (summary["kind"], summary["num_classes"], summary["num_images"]) == ("webdataset", IDENTITIES, 30)
    assert summary["source"] == ABOUT
    listed = {f["path"]: (f["sha256"], f["bytes"]) for f in summary["files"]}
    there = {p: (sha256_hex(d), len(d)) for p, d in _bytes(target).items() if p != "manifest.json"}
    assert listed == there


def test_finished_export_is_not_made_again(source: Store, index: list[IndexRow]) -> None:
    """A second run writes nothing and gives the same summary."""
    target = Recording()
    first = WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    target.writes.clear()
    assert WebDatasetExporter(SMALL).export(source, index, target, ABOUT) == first
    assert target.writes == []


def _lose_shard(target: Store) -> None:
    target.delete("train-000001.tar")


def _cut_shard(target: Store) -> None:
    target.put("train-000000.tar", target.get("train-000000.tar")[:-512])


def _lose_manifest(target: Store) -> None:
    target.delete("manifest.json")


def _foreign_manifest(target: Store) -> None:
    target.put("manifest.json", b"[]")


def _stale_shard(target: Store) -> None:
    target.delete("manifest.json")
    target.put("train-000099.tar", b"of an earlier export with smaller shards")


@pytest.mark.parametrize("harm", [_lose_shard, _cut_shard, _lose_manifest, _foreign_manifest, _stale_shard])
def test_unfinished_export_is_made_again(source: Store, index: list[IndexRow], harm: Callable[[Store], None]) -> None:
    """Whatever is missing, cut or left over, the next run ends in the same bytes and no others."""
    target = MemoryStore()
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    whole = _bytes(target)
    harm(target)
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    assert _bytes(target) == whole


def test_manifest_is_gone_while_files_are_replaced(source: Store, index: list[IndexRow]) -> None:
    """An export of a newer version into the same place removes the manifest first and writes it last."""
    target = Recording()
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    target.writes.clear()
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT | {"version": "v000002"})
    assert target.writes[0] == "delete manifest.json"
    assert target.writes[-1] == "put manifest.json"
    assert [w for w in target.writes if "manifest" in w] == ["delete manifest.json", "put manifest.json"]


class _Counting(MemoryStore):
    """A store that writes down how many bytes, and of how many images, are asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Note and get."""
        self.asked.append([length for _, _, length in ranges])
        return super().get_ranges(ranges)


@pytest.mark.parametrize("window_bytes", [1, 3000, 1 << 26])
def test_windows_change_requests_and_nothing_else(
    source: Store, index: list[IndexRow], monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    """However many images are fetched at once, all come in the order asked for; a window holds no more than it may."""
    monkeypatch.setattr(images, "WINDOW_bytes", window_bytes)
    store = filled(_Counting(), source)
    rows = list(images.shuffled(index, 7))
    found = list(images.with_images(store, rows))
    assert [row for row, _ in found] == rows
    assert all(data == source.get_range(f"segments/{r.segment}.tar", r.offset, r.length) for r, data in found)
    assert [length for window in store.asked for length in window] == [r.length for r in rows]
    assert all(sum(window[:-1]) < window_bytes for window in store.asked)
    assert len(store.asked) == (len(rows) if window_bytes == 1 else 1 if window_bytes > 3000 else len(store.asked))


@pytest.mark.parametrize("shift", [1, -1, 512, 10**9])
def test_wrong_place_in_a_segment_is_an_error(source: Store, index: list[IndexRow], shift: int) -> None:
    """An index that does not fit its segment stops the export, naming segment and key; no manifest is written."""
    row = index[0]
    moved = [IndexRow(row.label, row.key, row.identity, row.cell, row.segment, row.offset + shift, row.length)]
    target = MemoryStore()
    with pytest.raises(StoreError, match=f"segments/{row.segment}.tar"):
        WebDatasetExporter().export(source, moved, target, ABOUT)
    assert target.size("manifest.json") is None


def test_missing_segment_is_an_error(index: list[IndexRow]) -> None:
    """A segment that is gone is named."""
    with pytest.raises(StoreError, match=r"segments/make-g0-00000\d.tar: .* is absent"):
        WebDatasetExporter().export(MemoryStore(), index, MemoryStore(), ABOUT)


def test_export_must_be_told_its_version(source: Store, index: list[IndexRow]) -> None:
    """A forgotten seed is an error, not a default order."""
    with pytest.raises(ValueError, match="nothing of digest, seed"):
        WebDatasetExporter().export(source, index, MemoryStore(), {"name": "x", "version": "v000001"})


def test_export_into_the_dataset_itself(source: Store, index: list[IndexRow], tmp_path: Path) -> None:
    """Below a prefix of the dataset's own store the export touches nothing else."""
    dataset = filled(LocalStore(tmp_path), source)
    before = _bytes(dataset)
    WebDatasetExporter().export(dataset, index, PrefixedStore(dataset, "exports/v000001/webdataset"), ABOUT)
    after = _bytes(dataset)
    assert {p: after[p] for p in before} == before
    assert "exports/v000001/webdataset/train-000000.tar" in after


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_it(source: Store, index: list[IndexRow], tmp_path: Path) -> None:
    """The library whose format this is decodes every sample to pixels and an integer label."""
    import webdataset as wds

    WebDatasetExporter(SMALL).export(source, index, LocalStore(tmp_path), ABOUT)
    shards = sorted(str(p) for p in tmp_path.glob("train-*.tar"))
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("__key__", "jpg", "cls", "json"))
    assert len(samples) == len(index)
    labels = {r.key: r.label for r in index}
    gc.collect()  # webdataset 1.0 leaves its shards to the collector, which warns of each; here it may
    for key, pixels, label, car in samples:
        assert pixels.shape == (32, 32, 3)
        assert label == labels[key] == car["label"]


@pytest.mark.parametrize("by_folder", [False, True])
def test_datasets_reads_it(source: Store, index: list[IndexRow], tmp_path: Path, *, by_folder: bool) -> None:
    """Hugging Face datasets infers image, label and side-car, from the files and from the folder with its card."""
    import datasets

    WebDatasetExporter(SMALL).export(source, index, LocalStore(tmp_path / "export"), ABOUT)
    asked: dict[str, Any] = (
        {"path": str(tmp_path / "export")}
        if by_folder
        else {"path": "webdataset", "data_files": str(tmp_path / "export" / "train-*.tar")}
    )
    found = datasets.load_dataset(**asked, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == len(index)
    assert isinstance(found.features["jpg"], datasets.Image)
    assert {r["__key__"]: r["cls"] for r in found.remove_columns("jpg")} == {r.key: r.label for r in index}
    assert found[0]["jpg"].size == (32, 32)
    assert set(found.features["json"]) == {"cell", "identity", "key", "label"}


def test_card_states_counts_and_shards_that_exist(source: Store, index: list[IndexRow]) -> None:
    """The card's numbers are those of the export, and the brace notation names its shards."""
    import webdataset as wds

    target = MemoryStore()
    WebDatasetExporter(SMALL).export(source, index, target, ABOUT)
    card = target.get("README.md").decode()
    assert "30 images of 6 synthetic identities" in card
    assert "model's estimates of appearance" in card
    urls = re.search(r'wds.WebDataset\("(.*?)"', card)
    assert urls is not None
    assert wds.shardlists.expand_urls(urls.group(1)) == target.list("train-")


def _archive(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data))
