"""Parquet export for Hugging Face `datasets`: shards with an `Image` column, labels and a card.

`datasets.load_dataset(FOLDER)` gives the columns with their features. Images are the published JPEG bytes. Rows are
shuffled across identities, so a stream of them is fit for training. Bytes repeat under one version of pyarrow, which
writes its name into every file. Formats: Apache Parquet; hub documentation ("Image dataset", "Dataset cards").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.adapters.exporters.files import HashedFile
from pipeline.adapters.exporters.hub import PARQUET, Kind, Licence, features_yaml, front_matter, licence_line, schema_of
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
from pipeline.adapters.exporters.writing import MANIFEST, Stream, Writing, head_of
from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode

SHARD = re.compile(r"data/train-\d{6}\.parquet")
ROW_GROUP = 100
"""Rows per row group, as `datasets` has it for images: viewers fetch one at a time. Another gives other bytes."""


class HfOptions(ExportNode):
    """How the shards are cut and what the card states."""

    use: Literal["hf"] = "hf"
    shard_bytes: Annotated[int, Field(ge=10_000, le=10_000_000_000)] = 500_000_000
    """A shard is closed before its images would be more than this; a single larger one still makes one."""
    class_names: Annotated[int, Field(ge=0, le=100_000)] = 1_000
    """With up to so many identities labels are a ClassLabel with names; with more, plain int64 (names stand in every
    shard and in the card)."""
    license: Licence = "unknown"
    """The hub's name of the licence under which you hand the images on."""


class HfExporter:
    """Writes `data/train-000000.parquet` and so on, `labels.parquet`, `README.md`, and last `manifest.json`.

    Columns: image (struct of bytes and path), label, identity (its number at enrolment), cell, key; of photographs
    sourced (struct of what came with each). Memory holds one row group and a window of images.
    """

    kind = "hf"

    def __init__(self, options: HfOptions | None = None) -> None:
        self.options = options or HfOptions()

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        Where a manifest of the same version, order and options exists and all its files have their sizes, nothing is
        written. `about` holds name, version, digest (of the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these.
            OutputError: `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        own = {name: getattr(self.options, name) for name in ("shard_bytes", "class_names", "license")}
        sourced = sourced_of(index, about, facts)
        head = head_of(self.kind, index, about, **own, **sourced.head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished
        names = _names(index, self.options.class_names)
        kinds: dict[str, Kind] = {"image": "Image", "label": "ClassLabel" if names else "int64"}
        kinds |= {"identity": "int64", "cell": "string", "key": "string", **sourced.kinds}
        schema = schema_of(kinds, names)
        writing.add(labels_part(index, about))
        with resized(source, index, self.options, about) as (images, sized):
            shards = [
                writing.stream(_part(images, number, rows, schema, sourced))[0]
                for number, rows in enumerate(self._shards(shuffled(sized, about["seed"])))
            ]
        sizes = sum(row.length for row in sized), sum(s.bytes for s in shards)
        features = features_yaml(kinds, names)
        front = front_matter(head, self.options.license, "data/train-*.parquet", features, sizes)
        return writing.finish(front + _card(head, len(shards), named=bool(names)), "data/train-", SHARD)

    def _shards(self, rows: Iterable[IndexRow]) -> Iterator[list[IndexRow]]:
        shard: list[IndexRow] = []
        size = 0
        for row in rows:
            if shard and size + row.length > self.options.shard_bytes:
                yield shard
                shard, size = [], 0
            shard.append(row)
            size += row.length
        # readers take the features from a shard, so an empty version has one too
        yield shard


def _names(index: Sequence[IndexRow], limit: int) -> list[str]:
    """Return the labels' names, `i` and the identity's number, in order; none where they are too many."""
    known = {row.label: row.identity for row in index}
    if len(known) > limit or sorted(known) != list(range(len(known))):
        return []
    return [f"i{known[label]:08d}" for label in range(len(known))]


def _part(source: Store, number: int, rows: Sequence[IndexRow], schema: Any, sourced: Sourced) -> Stream:
    def write(files: Sequence[HashedFile]) -> None:
        import pyarrow.parquet as pq

        # JPEG does not shrink, and nobody looks for an image by its bytes
        codecs = dict.fromkeys(("label", "identity", "cell", "key", *_paths(sourced)), "zstd")
        settings = {**PARQUET, "compression": codecs, "write_statistics": list(codecs)}
        with pq.ParquetWriter(files[0], schema, **settings) as writer:
            for group in _groups(with_images(source, rows)):
                writer.write_table(_table(group, schema, sourced), row_group_size=ROW_GROUP)

    return Stream((f"data/train-{number:06d}.parquet",), write, sum(row.length for row in rows))


def _groups(images: Iterable[tuple[IndexRow, bytes]]) -> Iterator[list[tuple[IndexRow, bytes]]]:
    group: list[tuple[IndexRow, bytes]] = []
    for pair in images:
        group.append(pair)
        if len(group) == ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


def _paths(sourced: Sourced) -> list[str]:
    """Return the words' columns as Parquet names them."""
    return [f"{column}.{name}" for column, names in sourced.kinds.items() for name in names]


def _table(group: Sequence[tuple[IndexRow, bytes]], schema: Any, sourced: Sourced) -> Any:
    import pyarrow as pa

    rows = [row for row, _ in group]
    parts = [pa.array([image for _, image in group], pa.binary()), pa.array([f"{r.key}.jpg" for r in rows])]
    columns = [
        pa.StructArray.from_arrays(parts, fields=list(schema.field("image").type)),
        pa.array([r.label for r in rows], pa.int64()),
        pa.array([r.identity for r in rows], pa.int64()),
        pa.array([r.cell for r in rows], pa.string()),
        pa.array([r.key for r in rows], pa.string()),
        *(pa.array(words, schema.field(name).type) for name, words in sourced.columns(rows).items()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _card(head: Mapping[str, Any], shards: int, *, named: bool) -> str:
    source, last = head["source"], max(head["num_classes"] - 1, 0)
    label = "class with the identity's number as its name" if named else "integer"
    return f"""
# {source["name"]} {source["version"]}

{head["num_images"]:,} face images of {head["num_classes"]:,} {people(head)} in {shards:,} Parquet shards,
shuffled across identities. Dataset digest `{source["digest"]}`;
the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
| column | content |
|---|---|
| `image` | face, RGB; {bytes_line(head)} |
| `label` | 0 to {last}: {label} |
| `identity` | the identity's number at enrolment |
| `cell` | perceived attributes of the identity |
| `key` | name of the image within the dataset |

{LABELS_LINE}
{sourced_lines(head, "The column `sourced`")}
```python
from datasets import load_dataset

faces = load_dataset("path/to/this/folder", split="train")
```

Labels {whose_labels(head)}. Cells are a model's estimates of appearance,
pooled over an identity's probe images; they are not facts about a person.
{licence_line(head)}
"""
