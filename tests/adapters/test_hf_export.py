"""The exports for Hugging Face datasets: features, labels and cards as its own libraries read them, offline."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from jobs import wiring
from pipeline.adapters.exporters.hf import HfExporter, HfOptions
from pipeline.adapters.exporters.hub import front_matter, schema_of
from pipeline.adapters.exporters.imagefolder import ImageFolderExporter, ImageFolderOptions
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import OutputError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import Exporter, Store
from pipeline.flow.versions import published_rows, read_manifest
from tests.worlds import mint, sketches

ABOUT = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}
SMALL = HfOptions(shard_bytes=10_000, license="cc-by-4.0")


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


def export(source: Store, exporter: Exporter, folder: Path) -> LocalStore:
    """Export into a folder."""
    target = LocalStore(folder)
    wiring.export_on(source, exporter, target)
    return target


def load(path: str, **options: Any) -> Any:
    """Return what `datasets` makes of it, without progress bars."""
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(path, split="train", **options)


def check(found: Any, source: Store, index: list[IndexRow]) -> None:
    """Hold every row of a loaded dataset against the index: all columns, and the image byte for byte."""
    import datasets

    rows = {r.key: r for r in index}
    assert len(found) == len(index)
    assert isinstance(found.features["image"], datasets.Image)
    assert found[0]["image"].size == (32, 32)
    for sample in found.cast_column("image", datasets.Image(decode=False)):
        row = rows.pop(sample["key"])
        facts = (sample["label"], sample["identity"], sample["cell"])
        assert facts == (row.label, row.identity, row.cell)
        image = sample["image"]["bytes"] or Path(sample["image"]["path"]).read_bytes()
        assert image == source.get_range(f"segments/{row.segment}.tar", row.offset, row.length)
    assert rows == {}


def test_datasets_loads_the_folder(source: MemoryStore, index: list[IndexRow], tmp_path: Path) -> None:
    """`load_dataset(folder)` gives images, named labels and every column, over several shards."""
    import datasets

    target = export(source, HfExporter(SMALL), tmp_path / "export")
    assert len(target.list("data/")) > 2
    found = load(str(tmp_path / "export"), cache_dir=str(tmp_path / "cache"))
    check(found, source, index)
    assert isinstance(found.features["label"], datasets.ClassLabel)
    assert found.features["label"].names == [f"i{n:08d}" for _, n in sorted({(r.label, r.identity) for r in index})]
    assert {f: found.features[f].dtype for f in ("identity", "cell", "key")} == {
        "identity": "int64", "cell": "string", "key": "string",
    }  # fmt: skip


def test_a_shard_alone_has_its_features(source: MemoryStore, index: list[IndexRow], tmp_path: Path) -> None:
    """Without the card, from a bare parquet file, images are images still: the schema says so."""
    import datasets

    export(source, HfExporter(), tmp_path / "export")
    file = str(tmp_path / "export/data/train-000000.parquet")
    check(load("parquet", data_files=file, cache_dir=str(tmp_path / "cache")), source, index)
    schema = datasets.Features.from_arrow_schema(pq.read_schema(file))
    assert schema["label"].num_classes == 10


def test_a_stream_is_shuffled_across_identities(source: MemoryStore, tmp_path: Path) -> None:
    """The first samples of a stream, which nobody shuffles, are of several identities."""
    export(source, HfExporter(SMALL), tmp_path / "export")
    stream = load(str(tmp_path / "export"), streaming=True, cache_dir=str(tmp_path / "cache"))
    assert len({sample["label"] for sample in stream.take(8)}) >= 4


def test_many_classes_have_plain_numbers(source: MemoryStore, index: list[IndexRow], tmp_path: Path) -> None:
    """Beyond `class_names` identities the label is an int64, in the shards and in the card alike."""
    import datasets

    target = export(source, HfExporter(HfOptions(class_names=9)), tmp_path / "export")
    found = load(str(tmp_path / "export"), cache_dir=str(tmp_path / "cache"))
    check(found, source, index)
    assert found.features["label"] == datasets.Value("int64")
    assert b"i00000003" not in target.get("README.md").split(b"---")[1]


def test_labels_with_gaps_have_no_names(source: MemoryStore, index: list[IndexRow]) -> None:
    """Names are counted from label 0, so where a label is missing there are none rather than wrong ones."""
    target = MemoryStore()
    HfExporter().export(source, [r for r in index if r.label != 3], target, ABOUT)
    table = pq.read_table(io.BytesIO(target.get("data/train-000000.parquet")))
    assert b"ClassLabel" not in table.schema.metadata[b"huggingface"]
    assert set(table["label"].to_pylist()) == set(range(10)) - {3}


def test_shards_keep_to_their_size(source: MemoryStore, index: list[IndexRow]) -> None:
    """No shard has more bytes of images than asked for; small row groups keep readers and writer small."""
    target = MemoryStore()
    HfExporter(SMALL).export(source, index, target, ABOUT)
    shards = target.list("data/train-")
    assert shards == [f"data/train-{n:06d}.parquet" for n in range(len(shards))]
    for shard in shards:
        table = pq.read_table(io.BytesIO(target.get(shard)))
        assert sum(len(i["bytes"]) for i in table["image"].to_pylist()) <= 10_000


@pytest.mark.parametrize("by_name", [True, False])
def test_datasets_loads_the_image_folder(
    source: MemoryStore, index: list[IndexRow], tmp_path: Path, *, by_name: bool
) -> None:
    """`load_dataset("imagefolder", ...)`, and the folder by its path, give images with the columns of the metadata."""
    export(source, ImageFolderExporter(), tmp_path / "export")
    asked = ("imagefolder", {"data_dir": str(tmp_path / "export")}) if by_name else (str(tmp_path / "export"), {})
    found = load(asked[0], **asked[1], cache_dir=str(tmp_path / "cache"))
    check(found, source, index)
    assert found.features["label"].dtype == "int64"


def test_folders_sort_as_their_labels(source: MemoryStore, index: list[IndexRow]) -> None:
    """Loaders that number class folders in the order of their names give every image its own label, ten and more."""
    many = [IndexRow(n, f"k{n}", n, r.cell, r.segment, r.offset, r.length) for n, r in enumerate(index)]
    target = MemoryStore()
    ImageFolderExporter().export(source, many, target, ABOUT)
    folders = sorted({p.split("/")[0] for p in target.list("") if p.endswith(".jpg")})
    assert [target.list(f"{folder}/") for folder in folders] == [[f"{n:02d}/k{n}.jpg"] for n in range(30)]


def test_too_many_single_files_are_refused(source: MemoryStore, index: list[IndexRow]) -> None:
    """One object per image has its price: above the limit the message names the other exports."""
    target = MemoryStore()
    with pytest.raises(OutputError, match=r"30 images, .* up to 29: export to hf or webdataset, or raise"):
        ImageFolderExporter(ImageFolderOptions(max_images=29)).export(source, index, target, ABOUT)
    assert target.list("") == []


@pytest.mark.parametrize("exporter", [HfExporter(SMALL), ImageFolderExporter(ImageFolderOptions(license="cc-by-4.0"))])
def test_cards_are_valid(source: MemoryStore, index: list[IndexRow], exporter: Exporter, tmp_path: Path) -> None:
    """The hub's own reader takes the front matter; features, splits and sizes are those that a load finds."""
    import datasets
    from huggingface_hub import DatasetCard

    target = export(source, exporter, tmp_path / "export")
    card = DatasetCard(target.get("README.md").decode())
    data = card.data.to_dict()
    assert (data["license"], data["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert data["configs"][0]["config_name"] == "default"
    info = datasets.DatasetInfo._from_yaml_dict(data["dataset_info"])
    found = load(str(tmp_path / "export"), cache_dir=str(tmp_path / "cache"))
    assert info.features == found.features
    assert info.splits["train"].num_examples == len(index)
    assert info.splits["train"].num_bytes == sum(r.length for r in index)
    beside = ("README.md", "manifest.json", "labels.parquet", "croissant.json")
    listed = [e.bytes for e in target.entries("") if e.path not in beside]
    assert info.download_size == sum(listed)
    assert "model's estimates" in card.text.replace("\n", " ")


@pytest.mark.parametrize("exporter", [HfExporter(), ImageFolderExporter()])
def test_snippets_of_the_cards_run(
    source: MemoryStore, exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a card tells people to type works in its folder, and without a licence the card says so."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    card = export(source, exporter, tmp_path / "export").get("README.md").decode()
    assert "No licence was stated" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path / "export")
    names: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "export")), names)  # noqa: S102 - the card's own code
    assert len(names["faces"]) == 30


@pytest.mark.parametrize(("images", "said"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")])
def test_size_categories(images: int, said: str) -> None:
    """The hub's names for numbers of examples."""
    head = {"source": ABOUT, "num_images": images}
    text = front_matter(head, "mit", "data/*.parquet", [], (1, 1))
    assert yaml.safe_load(text.split("---")[1])["size_categories"] == [said]


def test_a_schema_holds_what_datasets_writes() -> None:
    """The metadata are those that `datasets` itself would store for the same features."""
    import datasets

    schema = schema_of({"image": "Image", "label": "ClassLabel", "key": "string"}, ["a", "b"])
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "key": datasets.Value("string")}
    )
    assert schema.equals(features.arrow_schema, check_metadata=False)
    assert datasets.Features.from_arrow_schema(schema) == features
    assert schema.metadata == {b"huggingface": features.arrow_schema.metadata[b"huggingface"].replace(b" ", b"")}
