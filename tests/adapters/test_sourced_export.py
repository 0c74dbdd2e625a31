"""What came with photographs, in every form of export: each image's own words, and nothing of where it lay."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import wiring
from jobs.components import COMPONENTS
from pipeline.adapters.exporters.sourced import MOST_LICENCES, MOST_WORDS, sourced_lines, sourced_of
from pipeline.adapters.segments import Segments
from pipeline.adapters.sketch import SketchGenerator, SketchGeneratorOptions
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import Store
from pipeline.flow.versions import published_rows, read_manifest
from tests.crawls import GROUND, crawled, gather, png

SECRET = "jane-doe-of-main-street"
ODD = 'a "b"\n| `c` \N{CJK UNIFIED IDEOGRAPH-674E}'
"""A caption that would break a table, a line and an encoding, if anything did."""
KINDS = sorted(COMPONENTS["exports"])
OPTIONS = {"pairs": ["folds=2"]}
Words = dict[str, str | None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    """Return a dataset of four people with four images each, curated of files beside which stands what is said."""
    root = tmp_path_factory.mktemp("crawl") / SECRET
    generator = SketchGenerator(SketchGeneratorOptions(use="sketch", noise=0.1))
    for person in range(4):
        rng = np.random.default_rng([5, person])
        vector = rng.standard_normal((1, 16)).astype(np.float32)
        vector *= 2 / np.linalg.norm(vector)
        folder = root / f"p{person:02d}"
        folder.mkdir(parents=True)
        for image, yaw_deg in enumerate((-40.0, 0.0, 40.0, 20.0)):
            noise = rng.standard_normal((1, *SketchGenerator.noise_shape)).astype(np.float32)
            face = generator.generate(vector, [{"yaw_deg": yaw_deg}], noise)[0]
            (folder / f"{image}.png").write_bytes(png(np.asarray(face)))
            said = {"url": f"https://{SECRET}/{image}"} | ({} if image == 3 else {"caption": f"{person} {image} {ODD}"})
            said |= {"licence": f"licence {person}"} if image else {}
            said |= {"_type": "odd", "a.b": "dotted"} if image == 2 else {}
            (folder / f"{image}.json").write_text(json.dumps(said))
    store = MemoryStore()
    gather(crawled(root, sources=[{"use": "folder", "path": str(root), "name": SECRET, **GROUND}]), store)
    return store


@pytest.fixture(scope="module")
def said(dataset: MemoryStore) -> dict[str, dict[str, str]]:
    """Return key -> the words that the segments hold of each published image."""
    out: dict[str, dict[str, str]] = {}
    rows = published_rows(Segments(), dataset, read_manifest(dataset, "v000001"))
    assert len(rows) == 16
    for segment in {row.segment for row in rows}:
        held = Segments().read_columns(dataset, segment, ["key", "sourced"])
        out |= dict(zip(held["key"], held["sourced"], strict=True))
    return {row.key: out[row.key] for row in rows}


def exported(dataset: Store, kind: str, target: Store) -> dict[str, Any]:
    """Export the dataset in a form; return the manifest."""
    (manifest,) = wiring.export_on(dataset, wiring.build_exporter(kind, OPTIONS.get(kind, [])), target)
    return manifest


def rows_at(store: Store, *paths: str) -> dict[str, Words]:
    """Return key -> words, of tables that have both."""
    tables = [pq.read_table(io.BytesIO(store.get(path)), columns=["key", "sourced"]) for path in paths]
    return {row["key"]: row["sourced"] for table in tables for row in table.to_pylist()}


def in_tars(store: Store) -> dict[str, Words]:
    """Return key -> words, of the JSON in shards."""
    out: dict[str, Words] = {}
    for path in store.list("train-"):
        with tarfile.open(fileobj=io.BytesIO(store.get(path))) as tar:
            for member in (m for m in tar if m.name.endswith(".json")):
                told = json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
                # every sample has the same words, so that readers infer one schema: empty is none
                out[told["key"]] = {name: word or None for name, word in told["sourced"].items()}
    return out


READERS: dict[str, Callable[[Store], dict[str, Words]]] = {
    "webdataset": in_tars,
    "hf": lambda store: rows_at(store, *store.list("data/")),
    "imagefolder": lambda store: rows_at(store, "metadata.parquet"),
    "recordio": lambda store: rows_at(store, "sourced.parquet"),
    "lmdb": lambda store: rows_at(store, "sourced.parquet"),
    "pairs": lambda store: rows_at(store, "images.parquet"),
    "cross-pairs": lambda store: rows_at(store, *store.list("data/")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_brings_its_own_words(kind: str, dataset: MemoryStore, said: dict[str, dict[str, str]]) -> None:
    """Licence, caption and what else its source gave stand with each image; a word that it lacks is none."""
    target = MemoryStore()
    manifest = exported(dataset, kind, target)
    found = READERS[kind](target)
    assert len(found) == manifest["num_images"] > 8
    assert {key: {n: w for n, w in words.items() if w is not None} for key, words in found.items()} == {
        key: said[key] for key in found
    }
    assert {tuple(sorted(words)) for words in found.values()} == {("_type", "a.b", "caption", "licence")}
    assert manifest["sourced"] == ["_type", "a.b", "caption", "licence"]
    assert sum(one["images"] for one in manifest["licences"]) == manifest["num_images"]
    card = target.get("README.md").decode()
    assert "`_type`, `a.b`, `caption`, `licence`." in card
    assert f"`CC0-1.0` ({sum(words['licence'] == 'CC0-1.0' for words in found.values())})" in card


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_says_where_an_image_lay(kind: str, dataset: MemoryStore) -> None:
    """Neither paths nor the source's name nor addresses are in any byte of an export."""
    assert any(SECRET.encode() in dataset.get(path) for path in dataset.list("private/"))
    target = MemoryStore()
    exported(dataset, kind, target)
    assert [path for path in target.list("") if SECRET.encode() in target.get(path)] == []


@pytest.mark.parametrize("kind", ["hf", "imagefolder", "webdataset", "cross-pairs"])
def test_libraries_read_the_words(kind: str, dataset: MemoryStore, said: Any, tmp_path: Path) -> None:
    """`datasets` gives every image with its words, whatever these are called."""
    import datasets

    datasets.disable_progress_bars()
    exported(dataset, kind, LocalStore(tmp_path / "out"))
    place, options = str(tmp_path / "out"), {"split": "train", "cache_dir": str(tmp_path / "cache")}
    if kind == "webdataset":
        read = datasets.load_dataset("webdataset", data_files=f"{place}/train-*.tar", **options)
        found = {row["__key__"]: row["json"]["sourced"] for row in read}
    elif kind == "cross-pairs":
        found = {row["key"]: row["sourced"] for row in datasets.load_dataset(place, "images", **options)}
    else:
        found = {row["key"]: row["sourced"] for row in datasets.load_dataset(place, **options)}
    assert {key: words["caption"] or None for key, words in found.items()} == {
        key: said[key].get("caption") for key in found
    }
    assert len(found) == 16


def test_pairs_bring_the_captions_of_their_images(dataset: MemoryStore, said: dict[str, dict[str, str]]) -> None:
    """Each pair tells, beside the captions made of measures, what its source said of either image, if it did."""
    target = MemoryStore()
    exported(dataset, "cross-pairs", target)
    rows = pq.read_table(io.BytesIO(target.get("pairs.parquet"))).to_pylist()
    assert len({row["input_key"] for row in rows}) > 8
    for row in rows:
        for side in ("input", "target"):
            assert row[f"{side}_sourced_caption"] == said[row[f"{side}_key"]].get("caption")
            assert row[f"{side}_caption"].startswith("A face")
    assert [json.loads(line) for line in target.get("pairs.jsonl").splitlines()] == [
        row | {name: row[name] or "" for name in row if name.endswith("_sourced_caption")} for row in rows
    ]
    assert any(row["input_sourced_caption"] is None for row in rows)
    card = target.get("README.md").decode()
    assert "differs, input_sourced_caption, target_sourced_caption |" in card
    assert "which may tell who somebody is." in card


class Said:
    """Facts of images of which only their words are known."""

    def __init__(self, words: dict[str, dict[str, str]]) -> None:
        """Keep them by key."""
        self._words = words

    def sourced(self, segment: str) -> dict[str, dict[str, str]]:
        """Return them."""
        del segment
        return self._words


def of(words: list[dict[str, str]], **about: Any) -> Any:
    """Return what an export of images with these words tells of them."""
    index = [IndexRow(0, f"k{n}", 0, "all", "s", 0, 1) for n in range(len(words))]
    facts: Any = Said({f"k{n}": one for n, one in enumerate(words)})
    return sourced_of(index, {"real_people": True, **about}, facts)


def test_of_too_many_words_the_commonest_are_told() -> None:
    """A crawl of which every image has words of its own makes no table of a thousand columns, and that is said."""
    found = of([{"caption": "x", f"w{n:04d}": "y"} for n in range(MOST_WORDS + 9)])
    assert len(found.names) == MOST_WORDS
    assert "caption" in found.names
    assert found.head["sourced_left_out"] == 10
    assert "10 rarer words are in the dataset's segments alone" in sourced_lines(found.head, "Here")


def test_of_many_licences_the_commonest_are_counted() -> None:
    """The manifest names so many licences and counts the others."""
    found = of([{"licence": f"l{n % 30:02d}"} for n in range(31)])
    assert found.head["licences"][0] == {"licence": "l00", "images": 2}
    assert len(found.head["licences"]) == MOST_LICENCES
    assert found.head["other_licences"] == 30 - MOST_LICENCES


def test_words_of_others_stay_words_on_a_card() -> None:
    """A name that would turn a line around or end a code span stands on the card as plain letters."""
    head = {"sourced": ["a`b"], "licences": [{"licence": "x\u202e\n# y\x1b[31m", "images": 1}]}
    said = sourced_lines(head, "Here")
    assert "image, what came with it from its source: `a'b`." in said
    assert "`x # y [31m` (1)" in said
    assert said.count("\n") == 2


def test_made_images_bring_no_words() -> None:
    """Of images that were made nothing is asked, and nothing stands anywhere."""
    found = of([{"caption": "x"}], real_people=False)
    assert (found.names, found.head, found.kinds, found.json("k0"), found.part([])) == ((), {}, {}, "", [])
    assert sourced_lines({}, "Here") == ""


def test_photographs_without_facts_are_not_exported() -> None:
    """An exporter that is told of photographs and not what came with them does not leave it out in silence."""
    with pytest.raises(ValueError, match="nothing of what came with them"):
        sourced_of([], {"real_people": True}, None)
