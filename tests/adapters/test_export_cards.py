"""The cards of all exports: what they tell people to type works, and the hub reads what is meant for it."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from jobs import wiring
from jobs.components import COMPONENTS
from pipeline.adapters.stores import LocalStore, MemoryStore
from tests.worlds import mint, sketches

KINDS = sorted(COMPONENTS["exports"])
OPTIONS = {"pairs": ["folds=2"]}
SNIPPETS = {"webdataset": 2, "recordio": 2, "cross-pairs": 2}
WITH_FRONT_MATTER = {"hf", "imagefolder", "webdataset", "pairs", "cross-pairs"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an export of every kind of 10 identities with 3 images each."""
    store, root = MemoryStore(), tmp_path_factory.mktemp("exports")
    mint(sketches(exports=[]), store)
    for kind in KINDS:
        wiring.export_on(store, wiring.build_exporter(kind, OPTIONS.get(kind, [])), LocalStore(root / kind))
    return root


def snippets(card: str) -> list[str]:
    """Return the python blocks of a card."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


# the cards' own code leaves files to the collector, as people's notebooks do
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_snippets_run(kind: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python block of a card, typed in the export's folder, does what it says."""
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(folders / kind)
    blocks = snippets(Path("README.md").read_text())
    assert len(blocks) == SNIPPETS.get(kind, 1)
    found: dict[str, Any] = {"config": SimpleNamespace()}
    for block in blocks:
        names: dict[str, Any] = {"config": found["config"]}
        exec(block.replace("path/to/this/folder", str(folders / kind)), names)  # noqa: S102 - the card's own code
        found |= names
    seen = {
        "webdataset": lambda: len(found["samples"]) == 30,
        "recordio": lambda: (
            (vars(found["config"]), found["jpeg"][:2]) == ({"num_classes": 10, "num_image": 30}, b"\xff\xd8")
        ),
        "hf": lambda: len(found["faces"]) == 30,
        "imagefolder": lambda: len(found["faces"]) == 30,
        "lmdb": lambda: (found["count"], found["face"].size) == (30, (32, 32)),
        "pairs": lambda: found["first"].size == found["second"].size == (32, 32),
        "cross-pairs": lambda: len(found["faces"]) == 30 and len(found["pairs"]) > 20,
    }
    assert seen[kind]()
    gc.collect()


@pytest.mark.parametrize("kind", KINDS)
def test_front_matter_is_what_the_hub_reads(kind: str, folders: Path) -> None:
    """Its YAML parses with the hub's own classes; every file pattern of a configuration finds files."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    text = (folders / kind / "README.md").read_text()
    assert text.startswith("---\n") is (kind in WITH_FRONT_MATTER)
    if kind not in WITH_FRONT_MATTER:
        return
    card = DatasetCard(text)
    assert yaml.safe_load(text.split("---\n")[1]) == card.data.to_dict()
    configs = MetadataConfigs.from_dataset_card_data(card.data)
    assert configs
    for config in configs.values():
        files = config.get("data_files") or []
        for one in [files] if isinstance(files, str) else files:
            pattern = one if isinstance(one, str) else one["path"]
            assert list((folders / kind).glob(pattern)), f"{kind}: {pattern} finds nothing"


def test_a_card_of_cross_pairs_loads_both_configurations(folders: Path, tmp_path: Path) -> None:
    """`load_dataset` gives pairs of text columns, and images with captions under the keys that the pairs name."""
    import datasets

    datasets.disable_progress_bars()
    path, cache = str(folders / "cross-pairs"), str(tmp_path / "cache")
    pairs = datasets.load_dataset(path, split="train", cache_dir=cache)
    images = datasets.load_dataset(path, "images", split="train", cache_dir=cache)
    assert set(pairs.features) == {
        "input_key", "target_key", "label", "identity", "input_caption", "target_caption", "differs",
    }  # fmt: skip
    assert isinstance(images.features["image"], datasets.Image)
    captions = dict(zip(images["key"], images["caption"], strict=True))
    assert {(r["input_key"], r["input_caption"]) for r in pairs} <= set(captions.items())
    assert {(r["target_key"], r["target_caption"]) for r in pairs} <= set(captions.items())


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_a_card_are_those_of_the_manifest(kind: str, folders: Path) -> None:
    """The card names the digest and the numbers of images and identities that the manifest states."""
    import json

    manifest = json.loads((folders / kind / "manifest.json").read_text())
    card = (folders / kind / "README.md").read_text().replace("\n", " ")
    assert manifest["source"]["digest"] in card
    assert re.search(
        rf"\b{manifest['num_images']} (face )?images of\s+{manifest['num_classes']} (synthetic )?identities", card
    )
