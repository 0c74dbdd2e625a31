"""WebDataset export: tar shards shuffled across identities, with labels, as training loaders stream them.

Images are copied byte by byte out of the segments, never encoded again. Names, times, owners, modes, order
and JSON are fixed, so exporting a version twice gives the same bytes, and an interrupted export keeps the shards
that are whole and makes the others. The manifest comes last: an export without one is not finished.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from pipeline.adapters.exporters.files import HashedFile
from pipeline.adapters.exporters.images import shuffled, with_images
from pipeline.adapters.exporters.notes import (
    LABELS_LINE,
    bytes_line,
    choice_lines,
    labels_part,
    people,
    whose_labels,
)
from pipeline.adapters.exporters.resizing import resized
from pipeline.adapters.exporters.sourced import Sourced, sourced_lines, sourced_of
from pipeline.adapters.exporters.tars import TarWriter
from pipeline.adapters.exporters.writing import MANIFEST, Stream, Writing, head_of
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode
from pipeline.domain.ustar import member_bytes

SHARD = re.compile(r"train-\d{6}\.tar")


class WebDatasetOptions(ExportNode):
    """How the shards are cut."""

    use: Literal["webdataset"] = "webdataset"
    shard_bytes: Annotated[int, Field(ge=10_000, le=100_000_000_000)] = 200_000_000
    """A shard is closed before it would grow beyond this; a single larger image still makes one."""
    whole_pictures: bool = True
    """Whether the pictures that images were cut from come along, where the dataset keeps them."""


class WebDatasetExporter:
    """Writes `train-000000.tar` and so on, `labels.parquet`, `README.md`, and last `manifest.json`.

    A sample is `<key>.cls` (label in decimal), `<key>.jpg` and `<key>.json` (key, label, identity, cell; of photographs
    sourced); where the dataset keeps the picture that an image was cut from, `<key>.whole.jpg` stands between these.
    Shards grow where they will stand. Source: the WebDataset format (webdataset.github.io/webdataset).
    """

    kind = "webdataset"

    def __init__(self, options: WebDatasetOptions | None = None) -> None:
        self.options = options or WebDatasetOptions()
        self._shard_bytes = self.options.shard_bytes

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        Where a manifest of the same version, order and shard size exists and all its files have their sizes,
        nothing is written. `about` holds name, version, digest (of the dataset) and seed (of the run), and of a dataset
        that keeps whole pictures `whole_pictures`; `facts` then says where they lie.

        Raises:
            ValueError: `about` lacks one of these, or `facts` are lacking.
            OutputError: `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        wholes = _wholes(index, about, facts) if self.options.whole_pictures else {}
        carried = {"whole_pictures": len(wholes)} if about.get("whole_pictures") else {}
        sourced = sourced_of(index, about, facts)
        head = head_of(self.kind, index, about, shard_bytes=self._shard_bytes, **carried, **sourced.head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished
        writing.add(labels_part(index, about))
        with resized(source, index, self.options, about) as (images, rows):
            shards = [
                writing.stream(_part(images, number, of_shard, self._shard_bytes))[0]
                for number, of_shard in enumerate(self._shards(shuffled(rows, about["seed"]), wholes, sourced))
            ]
        return writing.finish(_card(head, shards), "train-", SHARD)

    def _shards(
        self, rows: Iterable[IndexRow], wholes: Mapping[str, IndexRow], sourced: Sourced
    ) -> Iterator[list[_Sample]]:
        """Yield what each shard holds: cut where the next would overflow."""
        shard: list[_Sample] = []
        size = 0
        for row in rows:
            sample = _Sample(row, *_labels(row, sourced), wholes.get(row.key))
            added = sum(member_bytes(part.length) for part in sample.pictures)
            added += member_bytes(len(sample.cls)) + member_bytes(len(sample.car))
            if shard and size + added > self._shard_bytes:
                yield shard
                shard, size = [], 0
            shard.append(sample)
            size += added
        if shard:
            yield shard


class _Sample(NamedTuple):
    row: IndexRow
    cls: bytes
    car: bytes
    whole: IndexRow | None

    @property
    def pictures(self) -> tuple[IndexRow, ...]:
        """Return where its image lies, and its whole picture, if any."""
        return (self.row,) if self.whole is None else (self.row, self.whole)


def _part(source: Store, number: int, samples: Sequence[_Sample], about_bytes: int) -> Stream:
    def write(files: Sequence[HashedFile]) -> None:
        (out,) = files
        archive = TarWriter(out)
        images = with_images(source, (row for sample in samples for row in sample.pictures))
        for sample in samples:
            pictures = [
                (suffix, next(images)[1]) for suffix, _ in zip((".jpg", ".whole.jpg"), sample.pictures, strict=False)
            ]
            archive.add(sample.row.key, (".cls", sample.cls), *pictures, (".json", sample.car))
        archive.end()

    return Stream((f"train-{number:06d}.tar",), write, about_bytes)


def _wholes(index: Sequence[IndexRow], about: Mapping[str, Any], facts: ImageFacts | None) -> dict[str, IndexRow]:
    """Return key -> the row of an image with the place of its whole picture; those that have none are left out."""
    if not about.get("whole_pictures"):
        return {}
    if facts is None:
        raise ValueError("export is told that the dataset keeps whole pictures, and nothing of where they lie")
    by_segment: dict[str, list[IndexRow]] = defaultdict(list)
    for row in index:
        by_segment[row.segment].append(row)
    out: dict[str, IndexRow] = {}
    for segment, rows in sorted(by_segment.items()):
        there = facts.wholes(segment)
        found = ((row, there[row.key]) for row in rows if row.key in there)
        out |= {row.key: replace(row, offset=whole.offset, length=whole.length) for row, whole in found}
    return out


def _labels(row: IndexRow, sourced: Sourced) -> tuple[bytes, bytes]:
    """Return what stands beside an image: the label, and canonical JSON of key, label, identity, cell and words."""
    key, cell = encode_basestring(row.key), encode_basestring(row.cell)
    facts = f'{{"cell":{cell},"identity":{row.identity},"key":{key},"label":{row.label}{sourced.json(row.key)}}}\n'
    return b"%d" % row.label, facts.encode()


_WHOLE_LINE = "| `<key>.whole.jpg` | the picture that the face was cut from, RGB, bytes as stored |\n"
_UNLIKE = """
`datasets` wants samples with the same members; a twin, for one, has no whole picture: export without twins, or without
whole pictures (`whole_pictures: false`), where you read it so.
"""


def _card(head: Mapping[str, Any], shards: Sequence[FileEntry]) -> str:
    source = head["source"]
    last = len(shards) - 1
    whole = _WHOLE_LINE if head.get("whole_pictures") else ""
    words = ", sourced" if head.get("sourced") else ""
    urls = f"train-{{000000..{last:06d}}}.tar" if last > 0 else "train-000000.tar"
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.tar
---

# {source["name"]} {source["version"]} as WebDataset

{head["num_images"]:,} images of {head["num_classes"]:,} {people(head)} in {len(shards):,} shards,
shuffled across identities. Dataset digest `{source["digest"]}`; the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
| member | content |
|---|---|
| `<key>.cls` | label, 0 to {max(head["num_classes"] - 1, 0)} |
| `<key>.jpg` | face, RGB, {bytes_line(head)} |
{whole}| `<key>.json` | key, label, identity (its number at enrolment), cell (perceived attributes){words} |

{LABELS_LINE}
{sourced_lines(head, "`sourced` in `<key>.json`")}
```python
import webdataset as wds

samples = wds.WebDataset("{urls}", shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
```

```python
from datasets import load_dataset

samples = load_dataset("webdataset", data_files="train-*.tar", split="train")
```
{_UNLIKE if 0 < head.get("whole_pictures", 0) < head["num_images"] else ""}
Labels {whose_labels(head)}. Cells are a model's estimates of appearance,
pooled over an identity's probe images; they are not facts about a person.
"""
