"""Whole pictures read with the libraries that people have: mlcroissant, webdataset and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.flow.versions import published_rows, read_manifest
from tests.worlds import mint, sketches

pytestmark = [
    # every test that takes `mlc`: rdflib 7.6, under mlcroissant, warns of its own class when it reads JSON-LD
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    # every test that iterates: mlcroissant 1.1.1 reads parquet in a way that pandas 3.1 deprecates
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index:DeprecationWarning"),
    # every test that iterates pictures: mlcroissant 1.1.1 leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
KNOWN_WARNINGS = ("citeAs", "datePublished")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small dataset with whole pictures, and its WebDataset export."""
    out = tmp_path_factory.mktemp("wholes") / "set"
    align = {"detector": {"use": "sketch"}, "keep_whole": True}
    mint(sketches(generator={"use": "sketch-scene", "empty": 0.0}, align=align), LocalStore(out))
    return out


def pixels(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return key -> crop and whole picture of every published image, as they are stored."""
    store, segments, codec = LocalStore(root), Segments(), JpegCodec()
    rows: list[IndexRow] = published_rows(segments, store, read_manifest(store, "v000001"))
    wholes = {s: segments.read_wholes(store, s) or {} for s in {r.segment for r in rows}}
    out = {}
    for row in rows:
        tar, whole = store.get(segment_path(row.segment, "tar")), wholes[row.segment][row.key]
        places = ((row.offset, row.length), (whole.offset, whole.length))
        crop, picture = (codec.decode(tar[at : at + length]) for at, length in places)
        out[row.key] = (crop, picture)
    return out


@pytest.mark.parametrize("place", ["versions/v000001", "exports/v000001/webdataset"])
def test_mlcroissant_tells_crops_from_whole_pictures(mlc: Any, root: Path, place: str) -> None:
    """Both are record sets, without errors; each image comes once in each, with the pixels that are stored."""
    described, stored = root / place / "croissant.json", pixels(root)
    issues = mlc.Dataset(jsonld=described).metadata.ctx.issues
    assert not issues.errors
    assert all(any(name in str(warning) for name in KNOWN_WARNINGS) for warning in issues.warnings)
    for number, name in enumerate(("images", "whole_pictures")):
        found = list(mlc.Dataset(jsonld=described).records(name))
        shown = {row[f"{name}/key"].decode(): np.asarray(row[f"{name}/image"].convert("RGB")) for row in found}
        assert len(found) == len(shown)
        assert shown.keys() == stored.keys()
        assert all(np.array_equal(shown[key], both[number]) for key, both in stored.items())


def test_training_loaders_give_both(root: Path, tmp_path: Path) -> None:
    """webdataset and datasets read the shard as the card says; the whole picture is one field more of a sample."""
    import datasets
    import webdataset as wds

    shard, stored = str(root / "exports/v000001/webdataset/train-000000.tar"), pixels(root)
    samples = list(wds.WebDataset(shard, shardshuffle=False).decode("rgb8").to_tuple("__key__", "jpg", "whole.jpg"))
    table = datasets.load_dataset("webdataset", data_files=shard, split="train", cache_dir=str(tmp_path))
    assert {key for key, _, _ in samples} == stored.keys()
    assert len(samples) == len(table) == len(stored)
    for key, crop, picture in samples:
        assert np.array_equal(crop, stored[key][0])
        assert np.array_equal(picture, stored[key][1])
    for row in table:
        assert np.array_equal(np.asarray(row["whole.jpg"].convert("RGB")), stored[row["__key__"]][1])
