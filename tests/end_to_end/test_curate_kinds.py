"""One crawl in every form that sources have, here and in a bucket: whole runs end in the same people."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import lmdb
import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.flow.versions import image_rows
from tests.adapters.test_sources import rec_of, record
from tests.crawls import GROUND, crawl_recipe, crawled, gather, picture, png
from tests.s3 import server

NAMES = ("Zoë O'Brien", "李雷", "مريم 😀", "=cmd()|`x`")
"""Of the people on the pictures: what folders and tables of the world call people."""
PEOPLE = [(person, image, png(picture(person, image))) for person in range(4) for image in range(3)]
FORMS = ("folder", "webdataset", "parquet", "recordio", "lmdb")


def _tars() -> dict[str, bytes]:
    shards = {f"{n:05d}.tar": io.BytesIO() for n in range(2)}
    for shard, out in enumerate(shards.values()):
        with tarfile.open(fileobj=out, mode="w") as tar:
            for person, image, data in PEOPLE:
                if (person * 3 + image) % 2 == shard:
                    key = f"{person:04d}{image:05d}"
                    said = json.dumps({"caption": f"of {NAMES[person]}"}).encode()
                    for suffix, content in (("png", data), ("cls", NAMES[person].encode()), ("json", said)):
                        info = tarfile.TarInfo(f"{key}.{suffix}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return {name: out.getvalue() for name, out in shards.items()}


def _table() -> bytes:
    out = io.BytesIO()
    images = [{"bytes": data, "path": None} for *_, data in PEOPLE]
    labels = [NAMES[person] for person, *_ in PEOPLE]
    pq.write_table(pa.table({"image": images, "label": labels, "caption": [f"of {n}" for n in labels]}), out)
    return out.getvalue()


def _tree() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.lmdb"
        with lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
            for person, image, data in PEOPLE:
                txn.put(b"%d" % (3 * person + image), msgpack.packb((data, person)))
            txn.put(b"__len__", msgpack.packb(len(PEOPLE)))
        return path.read_bytes()


def files_of(form: str) -> dict[str, bytes]:
    """Return the files of the crawl in a form."""
    if form == "folder":
        files = {f"{NAMES[person]}/{image}.png": data for person, image, data in PEOPLE}
        return files | {f"{NAMES[person]}/{image}.txt": f"of {NAMES[person]}".encode() for person, image, _ in PEOPLE}
    if form == "webdataset":
        return _tars()
    if form == "parquet":
        return {"data.parquet": _table()}
    if form == "recordio":
        return {"train.rec": rec_of(*(record(person, data) for person, _, data in PEOPLE))}
    return {"train.lmdb": _tree()}


def curated(form: str, path: str) -> tuple[str, frozenset[frozenset[bytes]]]:
    """Curate the crawl where it lies; return the digest, and the published JPEGs by person."""
    store = MemoryStore()
    recipe = crawled(Path("nowhere"), sources=[{"use": form, "path": path, **GROUND}])
    manifest = gather(recipe, store).manifest
    assert {k: manifest.counts["inputs"][k] for k in ("listed", "kept")} == {"listed": 12, "kept": 12}
    people: dict[int, set[bytes]] = {}
    captions: dict[int, set[str]] = {}
    for row in image_rows(Segments(), store, manifest):
        jpeg = store.get_range(f"segments/{row.segment}.tar", row.offset, row.length)
        people.setdefault(row.label, set()).add(jpeg)
        held = Segments().read_columns(store, row.segment, ["key", "sourced"])
        words: Mapping[str, str] = dict(zip(held["key"], held["sourced"], strict=True))[row.key]
        captions.setdefault(row.label, set()).add(words.get("caption", ""))
    # the words of a source stand with the right person, and under `private/` its names as they were
    told = {caption for said in captions.values() for caption in said}
    assert all(len(said) == 1 for said in captions.values())
    listed = set(ParquetTables().read(store, "private/sources/s000001.parquet", ["label"])["label"])
    if form in ("recordio", "lmdb"):
        assert (told, listed) == ({""}, {"0", "1", "2", "3"})
    else:
        assert (told, listed) == ({f"of {name}" for name in NAMES}, set(NAMES))
    return manifest.digest, frozenset(frozenset(jpegs) for jpegs in people.values())


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> frozenset[frozenset[bytes]]:
    """Return the published JPEGs by person, of the crawl as folders."""
    root = tmp_path_factory.mktemp("folders")
    return curated("folder", str(_laid(root, files_of("folder"))))[1]


def _laid(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize("form", FORMS)
def test_every_form_ends_in_the_same_people_here_and_in_a_bucket(
    form: str, wanted: frozenset[frozenset[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of any script, and the same twelve pictures: the same four people, and from a bucket the same digest."""
    files = files_of(form)
    here = curated(form, str(_laid(tmp_path / "crawl", files)))
    assert here[1] == wanted
    server.use(monkeypatch, server.running().url)
    bucket = server.running().bucket()
    for name, data in files.items():
        server.running().plant(bucket, f"crawl/{name}", data)
    assert curated(form, f"s3://{bucket}/crawl") == here


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_cut_file_costs_what_it_held(form: str, tmp_path: Path) -> None:
    """Of an archive that ends in the middle, what is whole is curated, and all of it is accounted for."""
    whole = tmp_path / "whole"
    _laid(whole, files_of("folder"))
    cut = {name: data[: len(data) * 2 // 3] for name, data in files_of(form).items()}
    _laid(tmp_path / "cut", cut)
    store = MemoryStore()
    sources = [{"use": "folder", "path": str(whole), **GROUND}, {"use": form, "path": str(tmp_path / "cut"), **GROUND}]
    manifest = gather(crawled(whole, sources=sources), store).manifest
    account = manifest.counts["inputs"]
    assert account["kept"] + account["refused"] + account["unreadable"] == account["listed"] > 12
    assert account["unreadable"] >= 1
    assert manifest.counts["identities"] == 4
    assert {"bad_archive", "truncated_archive", "bad_record"} & set(account["reasons"]["read"])


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_source_beside_another_is_none(form: str, tmp_path: Path) -> None:
    """A folder of nothing, in whatever form it is to be read, neither ends a run nor brings anything."""
    (tmp_path / "empty").mkdir()
    crawl = _laid(tmp_path / "crawl", files_of("folder"))
    asked = crawl_recipe(crawl)["sources"][0]
    sources = [asked, {"use": form, "path": str(tmp_path / "empty"), **GROUND}]
    manifest = gather(crawled(crawl, sources=sources), MemoryStore()).manifest
    assert (manifest.counts["inputs"]["listed"], manifest.counts["identities"]) == (12, 4)
