"""Exports of our own read back as labelled faces: every image once, with its label, and damage named."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.exporters.recordio import RecordIOExporter, RecordIOOptions
from pipeline.adapters.exporters.webdataset import WebDatasetExporter, WebDatasetOptions
from pipeline.adapters.labelled.exported import ExportedFaces, export_manifest
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.domain.ports import Exporter
from pipeline.domain.records import UInt8

ABOUT = {"name": "made up", "version": "v000001", "digest": "c" * 64, "seed": 5}
MAGIC = b"\x0a\x23\xd7\xce"


def dataset() -> tuple[MemoryStore, list[IndexRow], dict[str, bytes]]:
    """Return a store with one segment of twelve JPEGs, its index, and the bytes by key."""
    codec, rng = JpegCodec(), np.random.default_rng(0)
    images, rows, body = {}, [], b""
    for number in range(12):
        key = f"i{number // 3:08d}-s{number % 3:04d}-a00"
        data = codec.encode(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
        images[key] = data
        rows.append(IndexRow(number // 3, key, number // 3, "all", "make-g0-000000", len(body), len(data)))
        body += data
    store = MemoryStore("memory://made-up")
    store.put(segment_path("make-g0-000000", "tar"), body)
    return store, rows, images


EXPORTERS: list[Exporter] = [
    WebDatasetExporter(),
    WebDatasetExporter(WebDatasetOptions(shard_bytes=10_000)),
    RecordIOExporter(),
    RecordIOExporter(RecordIOOptions(legacy=True)),
]


@pytest.fixture(params=range(len(EXPORTERS)))
def exported(request: pytest.FixtureRequest) -> MemoryStore:
    """Return an export of the dataset, of each kind."""
    store, rows, _ = dataset()
    target = MemoryStore("memory://export")
    EXPORTERS[request.param].export(store, rows, target, ABOUT)
    return target


def test_an_export_gives_every_image_with_its_label(exported: MemoryStore) -> None:
    """Pixels and labels of WebDataset shards and of both RecordIO layouts are those of the index, each image once."""
    _, rows, images = dataset()
    codec = JpegCodec()
    wanted = sorted((str(row.label), codec.decode(images[row.key]).tobytes()) for row in rows)

    source = ExportedFaces(exported, codec, side_px=16)
    found = [(f.label, f.face_HWC.tobytes()) for f in source if f.face_HWC is not None]

    assert sorted(found) == wanted
    assert [(f.label, f.name) for f in source] == [(f.label, f.name) for f in source]
    assert "v000001 (cccccccccccccccc) as" in source.name


def test_another_size_is_refused(exported: MemoryStore) -> None:
    """Images that are not of the recogniser's size are a mistake, not a resize."""
    with pytest.raises(UserError, match="16 x 16 pixels where aligned crops of 112 x 112"):
        list(ExportedFaces(exported, JpegCodec(), side_px=112))


def test_a_file_cut_short_is_named(exported: MemoryStore) -> None:
    """Half a file ends in one line with its path, and never in fewer images."""
    path = next(p for p in exported.list("") if p.endswith((".tar", ".rec")))
    exported.put(path, exported.get(path)[: len(exported.get(path)) // 2 + 3])
    with pytest.raises(StoreError, match="train") as caught:
        list(ExportedFaces(exported, JpegCodec(), side_px=16))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(exported: MemoryStore) -> None:
    """A file that the manifest names and that is gone is said to be missing."""
    path = next(p for p in exported.list("") if p.endswith((".tar", ".rec")))
    exported.delete(path)
    with pytest.raises(StoreError, match="missing"):
        list(ExportedFaces(exported, JpegCodec(), side_px=16))


class Raw:
    """A codec whose pixels are the bytes themselves, so that any payload can be an image."""

    def encode(self, face_HWC: UInt8) -> bytes:
        """Return the pixels' bytes."""
        return face_HWC.tobytes()

    def decode(self, data: bytes) -> UInt8:
        """Return the bytes as pixels."""
        return np.frombuffer(data, np.uint8).reshape(4, 4, 3)


def record(payload: bytes) -> bytes:
    """Return a record as dmlc-core's recordio.h describes it: split where an aligned magic word stands, and padded."""
    cuts = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == MAGIC]
    parts = [payload[a:b] for a, b in zip([0, *[c + 4 for c in cuts]], [*cuts, len(payload)], strict=True)]
    flags = [0] if not cuts else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in zip(flags, parts, strict=True)
    )


@pytest.mark.parametrize("places", [(0,), (4, 8), (0, 4, 44), (2,), (0, 12, 24, 36)])
def test_records_split_at_magic_words_are_put_together(places: tuple[int, ...]) -> None:
    """An image that holds RecordIO's magic word comes back whole, wherever the word stands."""
    image = bytearray(range(48))
    for place in places:
        image[place : place + 4] = MAGIC
    store = MemoryStore("memory://magic")
    store.put("train.rec", record(struct.pack("<IfQQ", 0, 7.0, 0, 0) + image))
    files = [{"path": "train.rec", "sha256": "0" * 64, "bytes": 1}]
    store.put("manifest.json", json.dumps({"kind": "recordio", "source": ABOUT, "files": files}).encode())

    (face,) = list(ExportedFaces(store, Raw(), side_px=4))

    assert face.label == "7"
    assert face.face_HWC is not None
    assert face.face_HWC.tobytes() == bytes(image)


def test_what_is_no_export_is_refused() -> None:
    """Nothing, half an export and an export of another kind are told apart from one that is read here."""
    assert export_manifest(MemoryStore("memory://empty")) is None
    with pytest.raises(UserError, match="nothing finished"):
        ExportedFaces(MemoryStore("memory://empty"), JpegCodec(), side_px=16)
    other = MemoryStore("memory://hf")
    other.put("manifest.json", b'{"kind": "hf", "source": {}, "files": []}')
    with pytest.raises(UserError, match="hf is no export that is read here; give one of webdataset, recordio"):
        ExportedFaces(other, JpegCodec(), side_px=16)
