"""The cross-pairs export: two images of one person, captions that follow from stored numbers, images stored once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import wiring
from pipeline.adapters.exporters.cross_pairs import CrossPairsExporter, CrossPairsOptions
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.captions import caption, describe, differing
from pipeline.domain.errors import UserError
from pipeline.domain.records import Conditions, Measures
from pipeline.domain.twins import is_twin, parent_of
from pipeline.flow.exporting import StoredFacts
from pipeline.flow.versions import published_rows, read_manifest
from tests.worlds import mint, sketches

TWINS = [{"use": "darkness", "share": 0.5}]
ABOUT = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}


@pytest.fixture(scope="module")
def source() -> MemoryStore:
    """Return a published dataset of 10 identities, 3 images each, some with a twin."""
    store = MemoryStore()
    mint(sketches(exports=[], twins=TWINS), store)
    return store


@pytest.fixture(scope="module")
def folder(source: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of its export, with twins."""
    path = tmp_path_factory.mktemp("cross")
    wiring.export_on(source, CrossPairsExporter(CrossPairsOptions(twins=True, shard_bytes=10_000)), LocalStore(path))
    return path


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return a table's rows."""
    return pq.read_table(folder / name).to_pylist()


def numbers(source: MemoryStore) -> dict[str, tuple[Conditions, Measures]]:
    """Return key -> conditions and measures, as the dataset's segments hold them."""
    index = published_rows(Segments(), source, read_manifest(source, "v000001"))
    facts = StoredFacts(source, Segments())
    return {k: v for segment in {row.segment for row in index} for k, v in facts.numbers(segment).items()}


def test_every_caption_is_derived_anew_from_stored_numbers(folder: Path, source: MemoryStore) -> None:
    """Each image's caption is what its conditions and measures say, in its own row and in those of its pairs."""
    known = numbers(source)
    images = [row for path in sorted(folder.glob("data/*.parquet")) for row in rows(folder, f"data/{path.name}")]
    assert len(images) == len({row["key"] for row in images}) > 30, "each image once, twins among them"
    said = {row["key"]: row["caption"] for row in images}
    assert said == {key: caption(describe(*known[key])) for key in said}
    assert any("turned to the left" in text for text in said.values())
    assert any("in the dark" in text for text in said.values())
    for pair in rows(folder, "pairs.parquet"):
        assert pair["input_caption"] == said[pair["input_key"]]
        assert pair["target_caption"] == said[pair["target_key"]]


def test_pairs_are_of_one_person_and_differ(folder: Path, source: MemoryStore) -> None:
    """Input and target are of one identity and two origins, and `differs` names what is said differently of them."""
    known = {key: describe(*found) for key, found in numbers(source).items()}
    pairs = rows(folder, "pairs.parquet")
    assert len({(p["input_key"], p["target_key"]) for p in pairs}) == len(pairs)
    for pair in pairs:
        one, two = pair["input_key"], pair["target_key"]
        assert int(one[1:9]) == int(two[1:9]) == pair["identity"]
        assert (parent_of(one) or one) != (parent_of(two) or two)
        assert pair["differs"] == ", ".join(differing(known[one], known[two])) != ""
    assert any(is_twin(p["input_key"]) for p in pairs)


def test_lines_say_what_the_table_says(folder: Path) -> None:
    """`pairs.jsonl` has a line for each row, equal to it."""
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows(folder, "pairs.parquet")


def test_no_more_than_asked_for(source: MemoryStore) -> None:
    """Every identity has at most so many pairs, and the manifest and its report of captions count what is there."""
    target = MemoryStore()
    (summary,) = wiring.export_on(source, CrossPairsExporter(CrossPairsOptions(pairs_per_identity=2)), target)
    lines = [json.loads(line) for line in target.get("pairs.jsonl").decode().splitlines()]
    assert len(lines) == summary["pairs"]
    assert max(Counter(line["identity"] for line in lines).values()) == 2
    words = [len(line["target_caption"].split()) for line in lines]
    assert summary["caption_words"]["shortest"] <= min(words)
    assert max(words) <= summary["caption_words"]["longest"]
    assert summary["captions"] == 1


def test_each_identity_draws_for_itself(source: MemoryStore) -> None:
    """Without somebody else in the index, an identity's pairs are the same: an erasure changes nobody else's."""
    index = published_rows(Segments(), source, read_manifest(source, "v000001"))
    found = []
    for kept in (index, [row for row in index if row.label != 0]):
        target = MemoryStore()
        CrossPairsExporter(CrossPairsOptions(pairs_per_identity=2)).export(
            source, kept, target, ABOUT, StoredFacts(source, Segments())
        )
        lines = [json.loads(line) for line in target.get("pairs.jsonl").decode().splitlines()]
        found.append([(line["input_key"], line["target_key"]) for line in lines if line["label"] != 0])
    assert found[0] == found[1]


def test_nothing_measured_is_said(source: MemoryStore) -> None:
    """Where nobody's images differ in anything stated, one line names the measure verb; nothing is written."""
    index = published_rows(Segments(), source, read_manifest(source, "v000001"))

    class Blind(StoredFacts):
        def numbers(self, segment: str) -> dict[str, tuple[Conditions, Measures]]:
            return {key: ({}, {}) for key in super().numbers(segment)}

    target = MemoryStore()
    with pytest.raises(UserError, match=r"no two images of anybody differ .* `facemint measure`"):
        CrossPairsExporter().export(source, index, target, ABOUT, Blind(source, Segments()))
    with pytest.raises(ValueError, match="no facts"):
        CrossPairsExporter().export(source, index, target, ABOUT)
    assert target.list("") == []
