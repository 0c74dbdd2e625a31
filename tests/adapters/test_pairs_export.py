"""The pairs export: LFW's list, InsightFace's verification set, and that all of its files say the same."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import wiring
from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.pairs import PairsExporter, PairsOptions
from pipeline.adapters.exporters.verification_bin import write_bin
from pipeline.adapters.labelled.pickled import plain_data
from pipeline.adapters.labelled.verification import VerificationPairs
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import UserError
from tests.worlds import mint, sketches


@pytest.fixture(scope="module")
def source() -> MemoryStore:
    """Return a published dataset of 12 identities with 4 images each, in four cells."""
    store = MemoryStore()
    whole = sketches().identities.model_dump(mode="json") | {"count": 12, "images_per_identity": 4}
    mint(sketches(exports=[], identities=whole), store)
    return store


@pytest.fixture(scope="module")
def folder(source: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of its export in three folds."""
    path = tmp_path_factory.mktemp("pairs")
    wiring.export_on(source, PairsExporter(PairsOptions(folds=3, per_fold=8)), LocalStore(path))
    return path


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return a table's rows."""
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_the_list_of_lfw(folder: Path) -> None:
    """Folds and pairs per fold come first; then each fold's mated lines of three fields and others of four."""
    first, *lines = (folder / "pairs.txt").read_text().splitlines()
    assert first == "3\t8"
    assert len(lines) == 3 * 16
    for line, pair in zip(lines, rows(folder, "pairs"), strict=True):
        fields = line.split("\t")
        assert len(fields) == (3 if pair["mated"] else 4)
        name, number, *other = fields
        second = (name, other[0]) if pair["mated"] else (other[0], other[1])
        for (who, which), file in (((name, number), pair["file_a"]), (second, pair["file_b"])):
            assert file == f"images/{who}/{who}_{int(which):04d}.jpg"
    assert [len(line.split("\t")) for line in lines[:16]] == [3] * 8 + [4] * 8


def test_the_verification_set_holds_the_same_pairs(folder: Path) -> None:
    """Our restricted reader finds both images of every pair, in order, and whether they show one person."""
    found = VerificationPairs(folder / "pairs.bin", side_px=32)
    pairs = rows(folder, "pairs")
    assert [same for _, _, same in found] == [pair["mated"] for pair in pairs]
    images, same = pickle.loads((folder / "pairs.bin").read_bytes())
    assert same == [pair["mated"] for pair in pairs]
    assert images == [(folder / pair[f"file_{side}"]).read_bytes() for pair in pairs for side in "ab"]
    assert (folder / "pairs.bin").read_bytes()[:2] == b"\x80\x03"


def test_triplets_are_of_two_people(folder: Path) -> None:
    """Anchor and positive are of one identity, the negative of another; the text names the same files."""
    lines = (folder / "triplets.txt").read_text().splitlines()
    triplets = rows(folder, "triplets")
    assert len(triplets) == 24
    for line, triplet in zip(lines, triplets, strict=True):
        assert line.split("\t") == [triplet[f"{side}_file"] for side in ("anchor", "positive", "negative")]
        assert triplet["anchor_identity"] == triplet["positive_identity"] != triplet["negative_identity"]
        assert triplet["anchor_key"] != triplet["positive_key"]


def test_the_table_of_images(folder: Path) -> None:
    """Every file has its row; numbers run from 1 for each person; nobody is in two folds, and pairs are of its fold."""
    images = {row["file"]: row for row in rows(folder, "images")}
    assert set(images) == {str(p.relative_to(folder)) for p in folder.glob("images/*/*.jpg")}
    by_name: dict[str, list[int]] = {}
    for row in images.values():
        by_name.setdefault(row["name"], []).append(row["number"])
        assert row["name"] == f"i{row['identity']:08d}"
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in by_name.values())
    assert len({(row["identity"], row["fold"]) for row in images.values()}) == len(by_name)
    for pair in rows(folder, "pairs"):
        for side in "ab":
            image = images[pair[f"file_{side}"]]
            assert (image["key"], image["fold"]) == (pair[f"key_{side}"], pair["fold"])
            assert image["cell"] == pair["cell"]


def test_manifest_and_card_count_what_is_there(folder: Path, source: MemoryStore) -> None:
    """The counts are those of the tables, and the card's table of cells adds up."""
    (summary,) = wiring.export_on(source, PairsExporter(PairsOptions(folds=3, per_fold=8)), LocalStore(folder))
    assert (summary["folds"], summary["mated_per_fold"], summary["pairs"], summary["triplets"]) == (3, 8, 48, 24)
    card = (folder / "README.md").read_text()
    assert "No identity is in two folds." in card
    cells = re.findall(r"^\| (\S+/\S+) \| (\d+) \| (\d+) \|$", card, re.MULTILINE)
    assert {c: int(n) for c, n, _ in cells} == summary["mated_by_cell"]
    assert sum(int(n) for _, n, _ in cells) == sum(int(n) for *_, n in cells) == 24


def test_too_many_files_are_refused(source: MemoryStore) -> None:
    """One object per image has its price: above the limit the message names the options that help."""
    target = MemoryStore()
    exporter = PairsExporter(PairsOptions(folds=3, max_images=5))
    with pytest.raises(UserError, match=r"writes up to 5: draw fewer with per_fold, or raise .* max_images"):
        wiring.export_on(source, exporter, target)
    assert target.list("") == []


IMAGES = st.lists(st.binary(min_size=1, max_size=600), max_size=12).filter(lambda found: len(found) % 2 == 0)


@settings(max_examples=50, deadline=None)
@given(IMAGES)
def test_a_verification_set_is_a_pickle_of_plain_data(
    tmp_path_factory: pytest.TempPathFactory, made: list[bytes]
) -> None:
    """Both the standard reader and ours find what was written, short images and long ones."""
    path = tmp_path_factory.mktemp("bin") / "x.bin"
    same = [n % 3 == 0 for n in range(len(made) // 2)]
    with hashed(path) as out:
        write_bin(out, iter(made), same)
    wanted = (made, same)
    data = path.read_bytes()
    assert pickle.loads(data) == wanted
    assert plain_data(data) == wanted


def test_long_lists_are_written_in_runs(tmp_path: Path) -> None:
    """More items than a reader should hold on its stack are appended some at a time."""
    path = tmp_path / "x.bin"
    made = [b"%d" % n for n in range(5000)]
    with hashed(path) as out:
        write_bin(out, iter(made), [True] * 2500)
    assert pickle.loads(path.read_bytes()) == (made, [True] * 2500)
    assert pickle.load(io.BytesIO(path.read_bytes()), encoding="bytes")[0] == made
