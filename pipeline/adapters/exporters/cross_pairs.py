"""Cross-pairs export: two images of one person, each with a caption, for models that learn to keep somebody.

Input and target of a pair are different images that differ in something stated, so that a model cannot learn to copy.
Images are stored once, in Parquet shards that `datasets` reads; `pairs.parquet` and `pairs.jsonl` name them by key.
Captions are made of conditions and measures by `pipeline.domain.captions`. Captions that came with photographs stand
beside them, and take no part: they tell of whole pictures, and may tell who somebody is.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.hub import PARQUET, Kind, Licence, licence_line, schema_of
from pipeline.adapters.exporters.images import by_label, with_images
from pipeline.adapters.exporters.notes import (
    LABELS_LINE,
    bytes_line,
    choice_lines,
    labels_part,
    whose_labels,
)
from pipeline.adapters.exporters.resizing import resized
from pipeline.adapters.exporters.sourced import Sourced, sourced_lines, sourced_of
from pipeline.adapters.exporters.writing import MANIFEST, Part, Writing, head_of
from pipeline.domain.captions import CAPTIONS, Phrases, caption, cross_pairs, describe, differing
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import FileEntry, IndexRow, canonical_json
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode
from pipeline.domain.rng import KEY_LIMIT, Key, Stream
from pipeline.domain.twins import parent_of

SHARD = re.compile(r"data/images-\d{6}\.parquet")
TABLE, LINES = "pairs.parquet", "pairs.jsonl"
IMAGES = {
    "image": "Image", "key": "string", "label": "int64", "identity": "int64", "cell": "string", "caption": "string",
}  # fmt: skip
PAIRS = {
    "input_key": "string", "target_key": "string", "label": "int64", "identity": "int64",
    "input_caption": "string", "target_caption": "string", "differs": "string",
}  # fmt: skip
SOURCED_CAPTION = "caption"
SOURCED_PAIRS = {"input_sourced_caption": "string", "target_sourced_caption": "string"}
"""More columns of pairs, where photographs came with captions; null, or empty in lines, of those that did not."""
ROW_GROUP = 100
PAIR_GROUP = 4096
_SLOT = KEY_LIMIT - 1
"""No fold has so many cells: the draws are none of a verification list's."""
_Pair = tuple[IndexRow, IndexRow]


class CrossPairsOptions(ExportNode):
    """How many pairs each identity gets, and how the shards are cut."""

    use: Literal["cross-pairs"] = "cross-pairs"
    twins: bool = False
    """Whether hard-condition twins take part; an image and its own twin are never a pair."""
    pairs_per_identity: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Fewer where no more images of an identity differ."""
    shard_bytes: Annotated[int, Field(ge=10_000, le=10_000_000_000)] = 500_000_000
    """A shard is closed before its images would be more than this; a single larger one still makes one."""
    license: Licence = "unknown"
    """The hub's name of the licence under which you hand the images on."""


class CrossPairsExporter:
    """Writes `data/images-000000.parquet` and so on, `pairs.parquet`, `pairs.jsonl`, and last `manifest.json`.

    Memory holds the words of all images beside the index, and what is being fetched.
    """

    kind = "cross-pairs"

    def __init__(self, options: CrossPairsOptions | None = None) -> None:
        self.options = options or CrossPairsOptions()

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        Where a manifest of the same version and options exists and all its files have their sizes, nothing is written.
        `about` holds name, version, digest (of the dataset) and seed (of the run); `facts` is needed.

        Raises:
            ValueError: `about` lacks one of these, or there are no facts.
            UserError: no two images of anybody differ.
            OutputError: there is no image, or `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        own = {name: getattr(self.options, name) for name in ("pairs_per_identity", "shard_bytes", "license")}
        head_of(self.kind, index, about)
        if facts is None:
            raise ValueError("export is told no facts, and captions are made of them")
        said = _described(index, facts)
        pairs = _drawn(index, said, self.options.pairs_per_identity, about["seed"])
        if not pairs:
            raise UserError(
                "no two images of anybody differ in pose, expression, light or glasses as they are measured; add a "
                "measure with `facemint measure`, or export to hf"
            )
        counts = {"pairs": len(pairs), "captions": CAPTIONS, **_report(said)}
        sourced = sourced_of(index, about, facts)
        head = head_of(self.kind, index, about, **own, **counts, **sourced.head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished
        for part in (labels_part(index, about), _table(pairs, said, sourced), _lines(pairs, said, sourced)):
            writing.add(part)
        with resized(source, by_label(index), self.options, about) as (images, rows):
            for number, of_shard in enumerate(_shards(rows, self.options.shard_bytes)):
                writing.add(_shard(images, number, of_shard, said, sourced))
        return writing.finish(_card(head), "data/images-", SHARD)


def _described(index: Sequence[IndexRow], facts: ImageFacts) -> dict[str, Phrases]:
    """Return key -> what is said of the image; images of which the same is said share it."""
    wanted = {row.key for row in index}
    known: dict[tuple[tuple[str, str], ...], Phrases] = {}
    found: dict[str, Phrases] = {}
    for segment in sorted({row.segment for row in index}):
        for key, (conditions, measures) in facts.numbers(segment).items():
            if key in wanted:
                phrases = describe(conditions, measures)
                found[key] = known.setdefault(tuple(phrases.items()), phrases)
    return {key: found.get(key, {}) for key in wanted}


def _drawn(index: Sequence[IndexRow], said: Mapping[str, Phrases], wanted: int, seed: int) -> list[_Pair]:
    """Return (input, target) of every pair, by identity; each identity's draw is its own."""
    by_identity: dict[int, list[IndexRow]] = defaultdict(list)
    for row in by_label(index):
        by_identity[row.identity].append(row)
    pairs: list[_Pair] = []
    for identity, rows in by_identity.items():
        origins = [parent_of(row.key) or row.key for row in rows]
        rng = Key(seed, Stream.PAIRS, identity, _SLOT).generator()
        pairs += [(rows[a], rows[b]) for a, b in cross_pairs([said[r.key] for r in rows], origins, wanted, rng)]
    return pairs


def _report(said: Mapping[str, Phrases]) -> dict[str, Any]:
    """Return how many different captions there are, and the words of the shortest, the mean and the longest."""
    counts = Counter(caption(phrases) for phrases in said.values())
    words = {text: len(text.split()) for text in counts}
    mean = sum(words[text] * times for text, times in counts.items()) / len(said)
    lengths = {"shortest": min(words.values()), "mean": round(mean, 1), "longest": max(words.values())}
    return {"different_captions": len(counts), "caption_words": lengths}


def _row(pair: _Pair, said: Mapping[str, Phrases], sourced: Sourced) -> dict[str, Any]:
    given, wanted = pair
    theirs = [sourced.of(row.key)[SOURCED_CAPTION] for row in pair] if SOURCED_CAPTION in sourced.names else []
    return {
        "input_key": given.key,
        "target_key": wanted.key,
        "label": given.label,
        "identity": given.identity,
        "input_caption": caption(said[given.key]),
        "target_caption": caption(said[wanted.key]),
        "differs": ", ".join(differing(said[given.key], said[wanted.key])),
        **(dict(zip(SOURCED_PAIRS, theirs, strict=True)) if theirs else {}),
    }


def _table(pairs: Sequence[_Pair], said: Mapping[str, Phrases], sourced: Sourced) -> Part:
    def write(here: Path) -> list[FileEntry]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = schema_of(PAIRS | SOURCED_PAIRS if SOURCED_CAPTION in sourced.names else PAIRS)
        remaining = iter(pairs)
        with hashed(here / TABLE) as out, pq.ParquetWriter(out, schema, **PARQUET, compression="zstd") as writer:
            while group := [_row(pair, said, sourced) for pair in islice(remaining, PAIR_GROUP)]:
                writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=PAIR_GROUP)
        return [out.entry(TABLE)]

    return Part((TABLE,), write)


def _lines(pairs: Sequence[_Pair], said: Mapping[str, Phrases], sourced: Sourced) -> Part:
    def write(here: Path) -> list[FileEntry]:
        with hashed(here / LINES) as out:
            for pair in pairs:
                row = _row(pair, said, sourced)
                out.write(canonical_json(row | {name: row[name] or "" for name in SOURCED_PAIRS if name in row}))
        return [out.entry(LINES)]

    return Part((LINES,), write)


def _shards(rows: Iterable[IndexRow], most_bytes: int) -> Iterator[list[IndexRow]]:
    shard: list[IndexRow] = []
    size = 0
    for row in rows:
        if shard and size + row.length > most_bytes:
            yield shard
            shard, size = [], 0
        shard.append(row)
        size += row.length
    yield shard


def _shard(source: Store, number: int, rows: Sequence[IndexRow], said: Mapping[str, Phrases], sourced: Sourced) -> Part:
    path = f"data/images-{number:06d}.parquet"

    def write(here: Path) -> list[FileEntry]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds: dict[str, Kind] = {**IMAGES, **sourced.kinds}
        local, schema = here / Path(path).name, schema_of(kinds)
        codecs = dict.fromkeys((name for name in IMAGES if name != "image"), "zstd")
        codecs |= {f"{column}.{name}": "zstd" for column, names in sourced.kinds.items() for name in names}
        settings = {**PARQUET, "compression": codecs, "write_statistics": list(codecs)}
        with hashed(local) as out, pq.ParquetWriter(out, schema, **settings) as writer:
            found = with_images(source, rows)
            while group := [_image(row, image, said, sourced) for row, image in islice(found, ROW_GROUP)]:
                writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=ROW_GROUP)
        return [out.entry(path)]

    return Part((path,), write)


def _image(row: IndexRow, image: bytes, said: Mapping[str, Phrases], sourced: Sourced) -> dict[str, Any]:
    facts = {name: getattr(row, name) for name in ("key", "label", "identity", "cell")}
    facts |= {column: words[0] for column, words in sourced.columns([row]).items()}
    return {"image": {"bytes": image, "path": f"{row.key}.jpg"}, **facts, "caption": caption(said[row.key])}


def _card(head: Mapping[str, Any]) -> str:
    source, (least, most, mean) = head["source"], (head["caption_words"][n] for n in ("shortest", "longest", "mean"))
    words = ", sourced" if head.get("sourced") else ""
    theirs = f", {', '.join(SOURCED_PAIRS)}" if SOURCED_CAPTION in head.get("sourced", ()) else ""
    tag, one = ("", "person") if head.get("real_people") else ("- synthetic\n", "synthetic identity")
    return f"""---
license: {head["license"]}
tags:
{tag}- face
configs:
- config_name: pairs
  default: true
  data_files:
  - split: train
    path: {TABLE}
- config_name: images
  data_files:
  - split: train
    path: data/images-*.parquet
---

# {source["name"]} {source["version"]} as cross-pairs

{head["pairs"]:,} pairs of two images of one {one}, over {head["num_images"]:,} images of
{head["num_classes"]:,} identities. Dataset digest `{source["digest"]}`;
the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
| file | content |
|---|---|
| `{TABLE}`, `{LINES}` | input_key, target_key, label, identity, input_caption, target_caption, differs{theirs} |
| `data/images-*.parquet` | image, key, label, identity, cell, caption{words}; each image once |

Images: face, RGB, {bytes_line(head)}.
{LABELS_LINE}
{sourced_lines(head, "The column `sourced` of the images")}
Input and target differ in at least one factor (`differs`), and are never an image and its own hard-condition twin.
A caption is made of what was measured, or asked for where nothing was measured, by fixed words (version
{head["captions"]}): {head["different_captions"]:,} different ones, of {least} to {most} words,
{mean} on average. Left and right are those of the picture. It says nothing of who somebody is.
{_theirs_line(theirs)}
```python
import io

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

images = ds.dataset("data", format="parquet")
pair = pq.read_table("{TABLE}").slice(0, 1).to_pylist()[0]
wanted = [pair["input_key"], pair["target_key"]]
found = images.to_table(filter=ds.field("key").isin(wanted), columns=["key", "image"]).to_pylist()
faces = {{row["key"]: Image.open(io.BytesIO(row["image"]["bytes"])) for row in found}}
print(pair["target_caption"], faces[pair["target_key"]].size)
```

```python
from datasets import load_dataset

pairs = load_dataset("path/to/this/folder", "pairs", split="train")
faces = load_dataset("path/to/this/folder", "images", split="train")
```

Labels {whose_labels(head)}. Cells are a model's estimates of appearance.
{licence_line(head)}
"""


def _theirs_line(theirs: str) -> str:
    """Return what the card says of captions that came with photographs; nothing where none did."""
    if not theirs:
        return ""
    return (
        "What its source said of a picture stands beside it as sourced caption: of the whole picture, in the words of "
        "whoever wrote it, which may tell who somebody is.\n"
    )
