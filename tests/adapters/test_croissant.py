"""Croissant: mlcroissant validates it and iterates pictures, `datasets` loads what the card names, bytes repeat."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.croissant import MOST_FILES, croissant
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import FileEntry, IndexRow, Manifest
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

FIRST, SECOND = "v000001", "v000002"
KNOWN_WARNINGS = ("citeAs", "datePublished")
"""Recommended and left out: there is nothing to cite, and a version holds no time."""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of two versions: ten identities of three images, then twelve."""
    root = tmp_path_factory.mktemp("grown")
    recipe = sketches()
    mint(recipe, LocalStore(root))
    more = recipe.identities.model_copy(update={"count": 12})
    mint(recipe.model_copy(update={"identities": more}), LocalStore(root))
    return root


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return a dataset whose files are named as those of `grown` and hold other people."""
    mint(sketches(seed=8), LocalStore(tmp_path / "other"))
    return tmp_path / "other"


def described(root: Path, version: str) -> dict[str, Any]:
    """Return a version's Croissant as JSON."""
    found: dict[str, Any] = json.loads((root / "versions" / version / "croissant.json").read_text())
    return found


def index_of(root: Path, version: str) -> tuple[Manifest, list[IndexRow]]:
    """Return a version's manifest and index."""
    manifest = read_manifest(LocalStore(root), version)
    return manifest, published_rows(Segments(), LocalStore(root), manifest)


def records(mlc: Any, root: Path, version: str, record_set: str) -> list[dict[str, Any]]:
    """Return a record set's records, the record set's name taken off their fields, text as text."""
    dataset = mlc.Dataset(jsonld=root / "versions" / version / "croissant.json")
    return [
        {name.partition("/")[2]: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}
        for row in dataset.records(record_set)
    ]


def stored(root: Path, row: IndexRow) -> bytes:
    """Return an image's bytes, read by place."""
    with (root / "segments" / f"{row.segment}.tar").open("rb") as tar:
        tar.seek(row.offset)
        return tar.read(row.length)


@pytest.mark.parametrize("version", [FIRST, SECOND])
def test_mlcroissant_validates_it(mlc: Any, grown: Path, version: str) -> None:
    """There are no errors, and no warnings but for what is left out on purpose; RAI and version 1.1 are understood."""
    metadata = mlc.Dataset(jsonld=grown / "versions" / version / "croissant.json").metadata
    issues = metadata.ctx.issues
    assert not issues.errors
    assert all(any(name in str(warning) for name in KNOWN_WARNINGS) for warning in issues.warnings)
    assert metadata.ctx.is_v1_1()
    assert metadata.version == f"{int(version[1:])}.0.0"
    assert [r.uuid for r in metadata.record_sets] == ["index", "images", "files"]
    for filled in (
        metadata.data_collection, metadata.data_biases, metadata.data_limitations, metadata.data_use_cases,
        metadata.personal_sensitive_information, metadata.machine_annotation_tools, metadata.license,
    ):  # fmt: skip
        assert filled


@pytest.mark.parametrize("version", [FIRST, SECOND])
def test_mlcroissant_iterates_the_pictures(mlc: Any, grown: Path, version: str) -> None:
    """Every published image comes once, with its label, identity, cell and the very pixels that are stored."""
    _, rows = index_of(grown, version)
    found = {r["key"]: r for r in records(mlc, grown, version, "images")}
    assert len(found) == len(rows)
    for row in rows:
        record = found[row.key]
        assert (record["label"], record["identity"], record["cell"]) == (row.label, row.identity, row.cell)
        assert record["image"].format == "JPEG"
        assert np.array_equal(record["image"].convert("RGB"), JpegCodec().decode(stored(grown, row)))


def test_mlcroissant_iterates_the_index(mlc: Any, grown: Path) -> None:
    """The index comes as it is, places included."""
    _, rows = index_of(grown, SECOND)
    found = [IndexRow(**{name: r[name] for name in IndexRow.__slots__}) for r in records(mlc, grown, SECOND, "index")]
    assert found == rows


def test_checkers_get_a_record_of_each_set(mlc: Any, grown: Path) -> None:
    """One `Dataset` object, asked for the first record of index and images in their order, has them."""
    dataset = mlc.Dataset(jsonld=grown / "versions" / FIRST / "croissant.json")
    first = [next(iter(dataset.records(name))) for name in ("index", "images")]
    assert first[0]["index/key"] == first[1]["images/key"]
    assert first[1]["images/image"].size == (32, 32)


def test_accepted_images_that_are_not_published_do_not_turn_up(mlc: Any, grown: Path, tmp_path: Path) -> None:
    """The tars hold them, the pictures of a version do not: the index decides."""
    root = tmp_path / "copy"
    shutil.copytree(grown, root)
    manifest, rows = index_of(root, FIRST)
    fewer = Segments().write_index(LocalStore(root), FIRST, [row for row in rows if row.label != 0])
    segments = [f for f in manifest.files if f.path.startswith("segments/")]
    for name, data in croissant(facts_of(root, FIRST), [*segments, fewer]).items():
        LocalStore(root).put(f"versions/{FIRST}/{name}", data)
    assert {r["label"] for r in records(mlc, root, FIRST, "images")} == set(range(1, 10))
    assert len(records(mlc, root, FIRST, "files")) == len(rows)


def test_datasets_with_equal_names_are_not_mixed_up(mlc: Any, grown: Path, other: Path) -> None:
    """mlcroissant unpacks into one place for all datasets; each still gets its own pictures."""
    for root in (grown, other):
        rows = {row.key: row for row in index_of(root, FIRST)[1]}
        for record in records(mlc, root, FIRST, "images"):
            assert np.array_equal(record["image"].convert("RGB"), JpegCodec().decode(stored(root, rows[record["key"]])))


def test_a_changed_tar_is_refused(mlc: Any, grown: Path, tmp_path: Path) -> None:
    """The digests that stand in it are checked by who reads it."""
    root = tmp_path / "copy"
    shutil.copytree(grown, root)
    tar = root / "segments" / "make-g0-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(Exception, match="sequential generation"):
        records(mlc, root, FIRST, "images")


@pytest.mark.parametrize("version", [FIRST, SECOND])
def test_every_file_of_the_manifest_stands_in_it(grown: Path, version: str) -> None:
    """Digest, size and place of each are those of the manifest, and each URL leads to the file."""
    manifest, _ = index_of(grown, version)
    here = (grown / "versions" / version).resolve()
    objects = [d for d in described(grown, version)["distribution"] if d["@type"] == "cr:FileObject"]
    found = {
        FileEntry(
            (here / d["contentUrl"]).resolve().relative_to(grown.resolve()).as_posix(),
            d["sha256"],
            int(d["contentSize"].removesuffix(" B")),
        )
        for d in objects
    }
    assert found == set(manifest.files)


def test_the_list_of_digests_is_one_that_sha256sum_reads(grown: Path) -> None:
    """From the dataset's root, the usual tool finds every file whole."""
    manifest, _ = index_of(grown, SECOND)
    sums = f"versions/{SECOND}/{manifest.digest[:16]}/files.sha256"
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", sums], cwd=grown, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Counter(line.rpartition(" ")[2] for line in done.stdout.splitlines()) == {"OK": len(manifest.files)}
    assert sums in {f.path for f in manifest.documents}


def facts_of(root: Path, version: str) -> dict[str, Any]:
    """Return what Croissant is told of a version."""
    manifest, _ = index_of(root, version)
    balance = manifest.figures["balance"]
    return {
        **{name: getattr(manifest, name) for name in Manifest.__slots__},
        "digest": manifest.digest,
        "figures": {**manifest.figures, "balance": balance["cells"], "balance_fields": balance["by"]},
        "licence": "not stated",
    }


def test_responsible_ai_holds_this_runs_figures(grown: Path) -> None:
    """Purpose, counts, refusals, shares of cells with their intervals, parent and digests of models are told."""
    manifest, _ = index_of(grown, SECOND)
    found = described(grown, SECOND)
    make = manifest.counts["make"]
    assert "As its maker states it: research." in found["rai:dataUseCases"]
    assert found["rai:dataPreprocessingProtocol"][0].startswith(f"{make['candidates']} candidate images")
    assert found["rai:dataPreprocessingProtocol"][1].startswith(f"Refused: {make['refused']} (")
    cells = manifest.figures["balance"]["cells"]
    for cell, told in zip(cells, found["rai:dataBiases"], strict=True):
        assert told.startswith(f"{cell['cell']}: {cell['reached']} identities of {cell['asked']} asked for")
        assert f"(95 % interval {100 * cell['share_95'][0]:.1f} % to {100 * cell['share_95'][1]:.1f} %;" in told
    assert "It follows v000001." in found["rai:dataReleaseMaintenancePlan"]
    assert "None of real people" in found["rai:personalSensitiveInformation"][0]
    assert any(manifest.models["judge"]["sha256"] in tool for tool in found["rai:machineAnnotationTools"])
    assert "not stated by its maker" in found["license"]


@pytest.mark.parametrize("stated", ["CC-BY-NC-4.0", "https://example.org/terms"])
def test_the_licence_of_the_dataset_is_an_address(grown: Path, tmp_path: Path, mlc: Any, stated: str) -> None:
    """The recipe's licence reaches manifest, card and Croissant, and mlcroissant reads it there."""
    mint(sketches(use={"licence": stated.lower() if stated.startswith("C") else stated}), LocalStore(tmp_path))
    manifest, _ = index_of(tmp_path, FIRST)
    assert manifest.use["licence"] == stated
    assert manifest.digest == index_of(grown, FIRST)[0].digest
    url = stated if stated.startswith("http") else f"https://spdx.org/licenses/{stated}.html"
    metadata = mlc.Dataset(jsonld=tmp_path / "versions" / FIRST / "croissant.json").metadata
    assert metadata.license == [url]
    card = (tmp_path / "versions" / FIRST / "README.md").read_text()
    assert f"Licence: {stated}; the models that it was made with: Apache-2.0." in card


def test_without_balance_biases_are_called_not_measured(grown: Path) -> None:
    """Nothing is made up where no attribute was read."""
    facts = facts_of(grown, FIRST)
    facts["figures"] = {"leakage": "not screened"}
    told = json.loads(croissant(facts, facts["files"])["croissant.json"])
    assert told["rai:dataBiases"] == ["Shares of perceived attributes: not asked for and not measured."]


def test_large_versions_stay_small(grown: Path, tmp_path: Path, mlc: Any) -> None:
    """Beyond the limit there are globs and the index alone, and mlcroissant still validates and reads the index."""
    root = tmp_path / "copy"
    shutil.copytree(grown, root)
    facts = facts_of(root, SECOND)
    many = [FileEntry(f"segments/make-g1-{n:06d}.tar", "ab" * 32, 9) for n in range(MOST_FILES)]
    out = croissant(facts, [*facts["files"], *many])
    assert list(out) == ["croissant.json"]
    assert len(out["croissant.json"]) < 20_000
    LocalStore(root).put(f"versions/{SECOND}/croissant.json", out["croissant.json"])
    assert len(records(mlc, root, SECOND, "index")) == facts["counts"]["images"]


def test_bytes_repeat(grown: Path, tmp_path: Path) -> None:
    """A second run of the recipe elsewhere writes the same documents; arguments decide every byte."""
    mint(sketches(), LocalStore(tmp_path))
    manifest, _ = index_of(grown, FIRST)
    for entry in manifest.documents:
        assert (tmp_path / entry.path).read_bytes() == (grown / entry.path).read_bytes()
    facts = facts_of(grown, FIRST)
    assert croissant(facts, facts["files"]) == croissant(facts, facts["files"][::-1])


@pytest.mark.parametrize("version", [FIRST, SECOND])
def test_the_cards_yaml_is_valid_to_the_hub(grown: Path, version: str) -> None:
    """huggingface_hub reads the metadata back unchanged, and `datasets` its configurations, features and splits."""
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    text = (grown / "versions" / version / "README.md").read_text()
    card = DatasetCard(text)
    assert isinstance(card.data, DatasetCardData)
    assert card.data.to_dict() == yaml.safe_load(text.split("---\n")[1])
    assert (card.data.license, card.data.size_categories) == ("unknown", ["n<1K"])
    manifest, rows = index_of(grown, version)
    (config,) = MetadataConfigs.from_dataset_card_data(card.data).values()
    assert config["data_files"][0]["path"] in {f.path.rpartition("/")[2] for f in manifest.files}
    info = DatasetInfosDict.from_dataset_card_data(card.data)["index"]
    assert info.splits is not None
    assert info.splits["train"].num_examples == len(rows)


def test_the_card_lets_datasets_load_the_index(grown: Path, tmp_path: Path) -> None:
    """The version's folder is a dataset of the hub's kind, with the features that the card names."""
    from datasets import load_dataset

    loaded = load_dataset(str(grown / "versions" / SECOND), split="train", cache_dir=str(tmp_path))
    _, rows = index_of(grown, SECOND)
    assert [IndexRow(**row) for row in loaded] == rows
    assert loaded.features["label"].dtype == "int64"


def test_stored_images_are_marked(grown: Path) -> None:
    """What a run publishes carries the mark that the codec writes."""
    from PIL import Image

    _, rows = index_of(grown, SECOND)
    for row in rows:
        assert b"trainedAlgorithmicMedia" in Image.open(io.BytesIO(stored(grown, row))).info["xmp"]
