"""WebDataset export: tar shards shuffled across identities, with labels, as training loaders stream them.

Images are copied byte by byte out of the segments, never encoded again. Names, times, owners, modes, order
and JSON are fixed, so exporting a version twice gives the same bytes, and an interrupted export keeps the shards
that are whole and makes the others. The manifest comes last: an export without one is not finished.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class WebDatasetExporter:
    """Writes `train-000000.tar` and so on, `labels.parquet`, `README.md`, and last `manifest.json`.

    A sample is `<key>.cls` (label in decimal), `<key>.jpg` and `<key>.json` (key, label, identity, cell). Local
    temporary files hold one shard at a time. Source: the WebDataset format (webdataset.github.io/webdataset).
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
        nothing is written. `about` holds name, version, digest (of the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these.
            OutputError: `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        head = head_of(self.kind, index, about, shard_bytes=self._shard_bytes)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished
        writing.add(labels_part(index, about))
        with resized(source, index, self.options) as (images, rows):
            shards = [
                writing.stream(_part(images, number, of_shard, self._shard_bytes))[0]
                for number, of_shard in enumerate(self._shards(shuffled(rows, about["seed"])))
            ]
        return writing.finish(_card(head, shards), "train-", SHARD)

    def _shards(self, rows: Iterable[IndexRow]) -> Iterator[list[_Sample]]:
        """Yield what each shard holds: cut where the next would overflow."""
        shard: list[_Sample] = []
        size = 0
        for row in rows:
            sample = _Sample(row, *_labels(row))
            added = member_bytes(len(sample.cls)) + member_bytes(row.length) + member_bytes(len(sample.car))
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


def _part(source: Store, number: int, samples: Sequence[_Sample], about_bytes: int) -> Stream:
    def write(files: Sequence[HashedFile]) -> None:
        (out,) = files
        archive = TarWriter(out)
        images = with_images(source, (sample.row for sample in samples))
        for (_, cls, car), (row, image) in zip(samples, images, strict=True):
            archive.add(row.key, (".cls", cls), (".jpg", image), (".json", car))
        archive.end()

    return Stream((f"train-{number:06d}.tar",), write, about_bytes)


def _labels(row: IndexRow) -> tuple[bytes, bytes]:
    """Return what stands beside an image: the label, and canonical JSON of key, label, identity and cell."""
    key, cell = encode_basestring(row.key), encode_basestring(row.cell)
    facts = f'{{"cell":{cell},"identity":{row.identity},"key":{key},"label":{row.label}}}\n'
    return b"%d" % row.label, facts.encode()


def _card(head: Mapping[str, Any], shards: Sequence[FileEntry]) -> str:
    source = head["source"]
    last = len(shards) - 1
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
| `<key>.json` | key, label, identity (its number at enrolment), cell (perceived attributes) |

{LABELS_LINE}

```python
import webdataset as wds

samples = wds.WebDataset("{urls}", shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
```

```python
from datasets import load_dataset

samples = load_dataset("webdataset", data_files="train-*.tar", split="train")
```

Labels {whose_labels(head)}. Cells are a model's estimates of appearance,
pooled over an identity's probe images; they are not facts about a person.
"""
