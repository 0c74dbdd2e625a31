"""WebDataset export: tar shards shuffled across identities, with labels, as training loaders stream them.

Images are copied byte by byte out of the segments, never encoded again. Names, times, owners, modes, order
and JSON are fixed, so exporting a version twice gives the same bytes, and an interrupted export keeps the shards
that are whole and makes the others. The manifest comes last: an export without one is not finished.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.images import shuffled, with_images
from pipeline.adapters.exporters.tars import TarWriter
from pipeline.adapters.exporters.writing import MANIFEST, Part, Writing, head_of
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.ports import Store
from pipeline.domain.recipe import ExportNode
from pipeline.domain.ustar import member_bytes

SHARD = re.compile(r"train-\d{6}\.tar")


class WebDatasetOptions(ExportNode):
    """How the shards are cut."""

    use: Literal["webdataset"] = "webdataset"
    shard_bytes: Annotated[int, Field(ge=10_000, le=100_000_000_000)] = 200_000_000
    """A shard is closed before it would grow beyond this; a single larger image still makes one."""


class WebDatasetExporter:
    """Writes `train-000000.tar` and so on, `README.md`, and last `manifest.json`.

    A sample is `<key>.cls` (label in decimal), `<key>.jpg` and `<key>.json` (key, label, identity, cell). Local
    temporary files hold one shard at a time. Source: the WebDataset format (webdataset.github.io/webdataset).
    """

    kind = "webdataset"

    def __init__(self, options: WebDatasetOptions | None = None) -> None:
        chosen = options or WebDatasetOptions()
        self.twins, self._shard_bytes = chosen.twins, chosen.shard_bytes

    def export(
        self, source: Store, index: Sequence[IndexRow], target: Store, about: Mapping[str, Any]
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
        shards = [
            writing.add(_part(source, number, rows))[0]
            for number, rows in enumerate(self._shards(shuffled(index, about["seed"])))
        ]
        return writing.finish(_card(head, shards), "train-", SHARD)

    def _shards(self, rows: Iterable[IndexRow]) -> Iterator[list[IndexRow]]:
        """Yield each shard's rows: cut where the next would overflow."""
        shard: list[IndexRow] = []
        size = 0
        for row in rows:
            labels = _labels(row)
            added = sum(member_bytes(len(data)) for data in labels) + member_bytes(row.length)
            if shard and size + added > self._shard_bytes:
                yield shard
                shard, size = [], 0
            shard.append(row)
            size += added
        if shard:
            yield shard


def _part(source: Store, number: int, rows: Iterable[IndexRow]) -> Part:
    path = f"train-{number:06d}.tar"

    def write(here: Path) -> list[FileEntry]:
        with hashed(here / path) as out:
            archive = TarWriter(out)
            for row, image in with_images(source, rows):
                cls, car = _labels(row)
                archive.add((f"{row.key}.cls", cls), (f"{row.key}.jpg", image), (f"{row.key}.json", car))
            archive.end()
        return [out.entry(path)]

    return Part((path,), write)


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

{head["num_images"]:,} images of {head["num_classes"]:,} synthetic identities in {len(shards):,} shards,
shuffled across identities. Dataset digest `{source["digest"]}`; the digest of every file is in `{MANIFEST}`.

| member | content |
|---|---|
| `<key>.cls` | label, 0 to {max(head["num_classes"] - 1, 0)} |
| `<key>.jpg` | face, RGB, bytes as published |
| `<key>.json` | key, label, identity (its number at enrolment), cell (perceived attributes) |

```python
import webdataset as wds

samples = wds.WebDataset("{urls}", shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
```

```python
from datasets import load_dataset

samples = load_dataset("webdataset", data_files="train-*.tar", split="train")
```

Labels name synthetic identities, which were made and are nobody. Cells are a model's estimates of appearance,
pooled over an identity's probe images; they are not facts about a person.
"""
