"""The LMDB export: what the trainers around Vec2Face read, embeddings included, in bytes that repeat."""

from __future__ import annotations

import builtins
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.exporters import lmdb_tree
from pipeline.adapters.exporters.lmdb_tree import LmdbExporter, LmdbOptions
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.manifest import IndexRow
from pipeline.flow.exporting import StoredFacts
from pipeline.flow.versions import published_rows, read_manifest
from tests.worlds import Silent, copy_of, mint, sketches

ABOUT = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}


@pytest.fixture(scope="module")
def source() -> MemoryStore:
    """Return a published dataset of 10 identities with 3 images each."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    return store


@pytest.fixture(scope="module")
def index(source: MemoryStore) -> list[IndexRow]:
    """Return its index."""
    return published_rows(Segments(), source, read_manifest(source, "v000001"))


def records(path: Path) -> list[Any]:
    """Return every record by its number, opened as the trainers open it."""
    settings = {"subdir": False, "readonly": True, "lock": False, "readahead": False, "meminit": False}
    with lmdb.open(str(path), **settings) as env, env.begin(write=False) as txn:
        return [msgpack.loads(txn.get(key)) for key in msgpack.loads(txn.get(b"__keys__"))]


def keys(path: Path) -> list[str]:
    """Return the images' keys by record number."""
    return [line.split("\t")[2].removesuffix(".jpg") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("recogniser", ["judge", "sketch-auditor"])
def test_embeddings_are_those_of_the_images(source: MemoryStore, tmp_path: Path, recogniser: str) -> None:
    """A record of three holds an .npy file of the image's own embedding, the judge's or an added recogniser's."""
    store = copy_of(source)
    if recogniser != "judge":
        wiring.measure_on(store, recogniser, [], Silent())
    wiring.export_on(store, LmdbExporter(LmdbOptions(features=recogniser)), LocalStore(tmp_path))
    facts = StoredFacts(store, Segments())
    units = {p.split("/")[1].removesuffix(".tar") for p in store.list("segments/make") if p.endswith(".tar")}
    wanted = {key: emb for unit in units for key, emb in facts.embeddings(unit, recogniser).items()}
    found = records(tmp_path / "train.lmdb")
    assert len(found) == 30
    for key, (image, feature, label) in zip(keys(tmp_path / "train.lst"), found, strict=True):
        emb = np.load(io.BytesIO(feature), allow_pickle=False)
        assert emb.dtype == np.float32
        assert np.array_equal(emb, wanted[key])
        assert image[:2] == b"\xff\xd8"
        assert isinstance(label, int)


def test_an_unknown_recogniser_is_refused(source: MemoryStore, tmp_path: Path) -> None:
    """Whose embeddings nobody added cannot stand in a record: the user's mistake; what there is, is named."""
    with pytest.raises(UserError, match=r"no embeddings named 'r100' were added .*name 'judge'; or run `facemint mea"):
        wiring.export_on(source, LmdbExporter(LmdbOptions(features="r100")), LocalStore(tmp_path))
    assert not (tmp_path / "train.lmdb").exists()


def test_embeddings_need_facts_and_all_images(source: MemoryStore, index: list[IndexRow]) -> None:
    """Without facts it is the caller's mistake; an image without an embedding is named."""
    exporter = LmdbExporter(LmdbOptions(features="judge"))
    with pytest.raises(ValueError, match="no facts"):
        exporter.export(source, index, MemoryStore(), ABOUT)

    class Lacking(StoredFacts):
        def embeddings(self, segment: str, recogniser: str) -> Any:
            nothing = {index[0].key: np.full(16, np.nan, np.float32)}
            return {k: v for k, v in super().embeddings(segment, recogniser).items() if k != index[1].key} | nothing

    with pytest.raises(UserError, match=r"2 images have no embedding by judge \(i\d{8}-s\d{4}-a\d\d is one\)"):
        exporter.export(source, index, MemoryStore(), ABOUT, Lacking(source, Segments()))


def test_order_is_shuffled_across_identities(source: MemoryStore, index: list[IndexRow], tmp_path: Path) -> None:
    """Records in the order of their numbers are of several identities, and another seed gives another order."""
    orders = []
    for seed in (7, 8):
        target = LocalStore(tmp_path / str(seed))
        LmdbExporter().export(source, index, target, ABOUT | {"seed": seed})
        orders.append(keys(tmp_path / str(seed) / "train.lst"))
    assert orders[0] != orders[1]
    assert len({key[:9] for key in orders[0][:8]}) >= 4


DIGEST = """
import hashlib
from pipeline.adapters.exporters import lmdb_tree
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.manifest import IndexRow
from pipeline.domain.rng import Key, Stream

lmdb_tree.COMMIT_bytes = 200_000
store, rows, tar = MemoryStore(), [], b""
for n in range(300):
    rng = Key(7, Stream.PAIRS, n).generator()
    image = bytes([255, 216]) + rng.bytes(int(rng.integers(100, 9000))) + bytes([255, 217])
    rows.append(IndexRow(n % 7, f"i{n:08d}-s0000-a00", n % 7, "all", "make-g0-000000", len(tar), len(image)))
    tar += image
store.put("segments/make-g0-000000.tar", tar)
target = MemoryStore()
lmdb_tree.LmdbExporter().export(store, rows, target, {"name": "x", "version": "v1", "digest": "d", "seed": 7})
print(hashlib.sha256(target.get("train.lmdb")).hexdigest())
"""


def test_bytes_do_not_depend_on_what_memory_held() -> None:
    """Where the C library fills fresh memory with other bytes, no byte of the tree is another: no page shows any."""
    digests = set()
    for filling in ("0", "200"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | {"MALLOC_PERTURB_": filling},
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        digests.add(done.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_the_map_has_room_for_long_records(source: MemoryStore) -> None:
    """Images of all sizes around a page, with embeddings of 4,096 numbers, fit into the map that is made for them."""
    store, rows, tar = MemoryStore(), [], b""
    for n in range(300):
        image = b"\xff\xd8" + bytes(n * 37 % 9000) + b"\xff\xd9"
        rows.append(IndexRow(n % 7, f"i{n:08d}-s0000-a00", n % 7, "all", "make-g0-000000", len(tar), len(image)))
        tar += image
    store.put("segments/make-g0-000000.tar", tar)

    class Wide(StoredFacts):
        def embeddings(self, segment: str, recogniser: str) -> Any:
            return {row.key: np.full(4096, 0.5, np.float32) for row in rows}

    target = MemoryStore()
    summary = LmdbExporter(LmdbOptions(features="judge")).export(store, rows, target, ABOUT, Wide(store, Segments()))
    assert summary["num_images"] == 300
    assert len(target.get("train.lmdb")) > 300 * 4096 * 4


@pytest.mark.parametrize("package", ["lmdb", "msgpack"])
def test_a_missing_package_is_one_line(
    source: MemoryStore, index: list[IndexRow], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """Without the extra the message names it, and nothing is written."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    target = MemoryStore()
    with pytest.raises(UserError, match=rf"needs the package {package}; .*pip install 'facemint\[lmdb\]'"):
        LmdbExporter().export(source, index, target, ABOUT)
    assert target.list("") == []


def test_a_full_disk_is_a_store_error(
    source: MemoryStore, index: list[IndexRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What LMDB says of a disk is told as for every other file, with the way out."""
    monkeypatch.setattr(lmdb_tree, "_map_bytes", lambda rows: 1 << 15)
    with pytest.raises(StoreError, match=r"cannot make train\.lmdb in .*MDB_MAP_FULL.*TMPDIR"):
        LmdbExporter().export(source, index, MemoryStore(), ABOUT)
