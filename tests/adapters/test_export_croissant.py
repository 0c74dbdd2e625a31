"""Croissant of exports: mlcroissant validates each, and iterates labels, and pictures where it can look into files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.exporters import croissant, notes
from pipeline.adapters.exporters.croissant import MOST_FILES, croissant_of
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import FileEntry, segment_path
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
LOOKED_INTO = ("hf", "imagefolder", "webdataset")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with twins and exports, and a stated licence; the WebDataset in several shards."""
    out = tmp_path_factory.mktemp("exports") / "set"
    exports: list[dict[str, Any]] = [{"use": name} for name in ("hf", "imagefolder", "recordio")]
    exports.append({"use": "webdataset", "shard_bytes": 40_000})
    twins = [{"use": "face-mask", "share": 0.5}]
    mint(sketches(exports=exports, twins=twins, use={"licence": "CC-BY-NC-4.0"}), LocalStore(out))
    return out


def place(root: Path, kind: str) -> Path:
    """Return where an export lies."""
    return root / "exports" / "v000001" / kind


def records(mlc: Any, folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the records of a set, field by bare name, text as text."""
    dataset = mlc.Dataset(jsonld=folder / "croissant.json")
    return [
        {key.partition("/")[2]: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
        for row in dataset.records(name)
    ]


@pytest.mark.parametrize("kind", [*LOOKED_INTO, "recordio"])
def test_mlcroissant_validates_it(mlc: Any, root: Path, kind: str) -> None:
    """No errors, no warnings but for what is left out on purpose; digests, version and licence are told."""
    metadata = mlc.Dataset(jsonld=place(root, kind) / "croissant.json").metadata
    assert not metadata.ctx.issues.errors
    assert all(any(name in str(warning) for name in KNOWN_WARNINGS) for warning in metadata.ctx.issues.warnings)
    assert metadata.license == ["https://spdx.org/licenses/CC-BY-NC-4.0.html"]
    manifest = json.loads((place(root, kind) / "manifest.json").read_text())
    digests = {f["path"]: f["sha256"] for f in manifest["files"]}
    assert {o.uuid: o.sha256 for o in metadata.file_objects}.items() <= digests.items()
    assert "croissant.json" in digests
    assert "labels.parquet" in {o.uuid for o in metadata.file_objects}


@pytest.mark.parametrize("kind", LOOKED_INTO)
def test_mlcroissant_iterates_the_pictures(mlc: Any, root: Path, kind: str) -> None:
    """Every image comes once, with its label and the very pixels that are stored; twins too."""
    store = LocalStore(root)
    rows = published_rows(Segments(), store, read_manifest(store, "v000001"))
    found = {row["key"]: row for row in records(mlc, place(root, kind), "images")}
    assert len(found) == len(rows)
    for row in rows:
        stored = store.get_range(segment_path(row.segment, "tar"), row.offset, row.length)
        assert found[row.key]["label"] == row.label
        assert np.array_equal(found[row.key]["image"].convert("RGB"), JpegCodec().decode(stored))


@pytest.mark.parametrize("kind", [*LOOKED_INTO, "recordio"])
def test_mlcroissant_iterates_the_labels(mlc: Any, root: Path, kind: str) -> None:
    """A row for each label, with whose it is."""
    store = LocalStore(root)
    rows = published_rows(Segments(), store, read_manifest(store, "v000001"))
    whose = {row.label: (row.identity, row.cell, sum(r.label == row.label for r in rows)) for row in rows}
    found = records(mlc, place(root, kind), "labels")
    assert {r["label"]: (r["identity"], r["cell"], r["images"]) for r in found} == whose


def test_two_exports_whose_tars_have_one_name_are_not_mixed_up(mlc: Any, root: Path, tmp_path: Path) -> None:
    """mlcroissant unpacks into one place for all; each still gets its own pictures, and sha256sum reads the list."""
    mint(sketches(seed=8), LocalStore(tmp_path / "other"))
    for base in (root, tmp_path / "other"):
        store = LocalStore(base)
        rows = {r.key: r for r in published_rows(Segments(), store, read_manifest(store, "v000001"))}
        for record in records(mlc, place(base, "webdataset"), "images"):
            row = rows[record["key"]]
            stored = store.get_range(segment_path(row.segment, "tar"), row.offset, row.length)
            assert np.array_equal(record["image"].convert("RGB"), JpegCodec().decode(stored))
    (sums,) = place(root, "webdataset").glob("*/files.sha256")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", str(sums)],
        cwd=place(root, "webdataset"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_large_export_is_told_by_patterns() -> None:
    """Beyond the limit no file has an object of its own, and tars are not to be unpacked."""
    head = {"kind": "webdataset", "source": {"name": "a", "version": "v000002", "digest": "d"}, "num_images": 9}
    many = [FileEntry(f"train-{n:06d}.tar", "ab" * 32, 9) for n in range(MOST_FILES)]
    out = croissant_of({**head, "num_classes": 3}, [*many, FileEntry("labels.parquet", "cd" * 32, 7)])
    assert list(out) == ["croissant.json"]
    told = json.loads(out["croissant.json"])
    assert [d["@id"] for d in told["distribution"]] == ["labels.parquet"]
    assert [r["name"] for r in told["recordSet"]] == ["labels"]
    assert told["license"] == "not stated by its maker"
    assert told["version"] == "2.0.0"


def test_the_dataset_is_exported_under_its_licence(root: Path, tmp_path: Path) -> None:
    """By the verb too, and the card of an export says it to the hub unless the export states another."""
    wiring.export_dataset(str(root), "hf", str(tmp_path / "hf"))
    for folder in (tmp_path / "hf", place(root, "hf"), place(root, "imagefolder")):
        assert "license: cc-by-nc-4.0\n" in (folder / "README.md").read_text()
        assert json.loads((folder / "manifest.json").read_text())["licence"] == "CC-BY-NC-4.0"
    assert notes.LABELS == croissant.LABELS
