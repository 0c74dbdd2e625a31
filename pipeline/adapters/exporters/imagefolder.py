"""Image folder export: `<label>/<key>.jpg` and `metadata.parquet`, which needs no library but a decoder to look at.

Every image is an object of its own: on a bucket each costs a request to write, to list and to read, and on a disk an
inode and a flush. That is fine for thousands of images and wasteful beyond; larger sets go to `hf` or `webdataset`.
Format: `datasets` ("Create an image dataset": ImageFolder with metadata); label folders as torchvision reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.hub import PARQUET, Kind, Licence, features_yaml, front_matter, licence_line, schema_of
from pipeline.adapters.exporters.images import by_label, with_images
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
from pipeline.adapters.exporters.writing import MANIFEST, Part, Writing, head_of
from pipeline.domain.errors import OutputError
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode

METADATA = "metadata.parquet"
IMAGE = re.compile(r"\d+/[^/]+\.jpg")
COLUMNS = {"file_name": "string", "label": "int64", "identity": "int64", "cell": "string", "key": "string"}
ROW_GROUP = 4096
"""Rows per row group of the metadata. Another number gives other bytes."""


class ImageFolderOptions(ExportNode):
    """How large a set may be written as single files, and what the card states."""

    use: Literal["imagefolder"] = "imagefolder"
    max_images: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """More are refused: one object per image is slow and dear on every store."""
    license: Licence = "unknown"
    """The hub's name of the licence under which you hand the images on."""


class ImageFolderExporter:
    """Writes `<label>/<key>.jpg` for every image, `metadata.parquet`, `labels.parquet`, card, last `manifest.json`.

    Labels are padded with zeros to one width, so that loaders that number folders in the order of their names give
    every folder its own label. `metadata.parquet` has file_name, label, identity, cell and key, by label and key; of
    photographs sourced, too, what came with each.
    """

    kind = "imagefolder"

    def __init__(self, options: ImageFolderOptions | None = None) -> None:
        self.options = options or ImageFolderOptions()

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        Where a manifest of the same version and options exists and all its files have their sizes, nothing is
        written. `about` holds name, version, digest (of the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these.
            OutputError: there are more images than allowed, or `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        if len(index) > self.options.max_images:
            raise OutputError(
                f"{len(index):,} images, each an object of its own; imagefolder writes up to "
                f"{self.options.max_images:,}: export to hf or webdataset, or raise the export's max_images"
            )
        sourced = sourced_of(index, about, facts)
        head = head_of(self.kind, index, about, license=self.options.license, **sourced.head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished
        writing.add(labels_part(index, about))
        with resized(source, index, self.options, about) as (images, sized):
            rows = by_label(sized)
            width = len(str(rows[-1].label))
            size = sum(writing.put(_name(row, width), image).bytes for row, image in with_images(images, rows))
        size += writing.add(_metadata(rows, width, sourced))[0].bytes
        kinds: dict[str, Kind] = {"image": "Image"}
        kinds |= {name: kind for name, kind in COLUMNS.items() if name != "file_name"}
        kinds |= sourced.kinds
        sizes = sum(row.length for row in rows), size
        front = front_matter(head, self.options.license, None, features_yaml(kinds), sizes)
        return writing.finish(front + _card(head), "", IMAGE)


def _name(row: IndexRow, width: int) -> str:
    return f"{row.label:0{width}d}/{row.key}.jpg"


def _metadata(rows: Sequence[IndexRow], width: int, sourced: Sourced) -> Part:
    def write(here: Path) -> list[FileEntry]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema, remaining = schema_of({**COLUMNS, **sourced.kinds}), iter(rows)
        with hashed(here / METADATA) as out, pq.ParquetWriter(out, schema, **PARQUET, compression="zstd") as writer:
            while group := list(islice(remaining, ROW_GROUP)):
                columns: dict[str, list[Any]] = {**sourced.columns(group)}
                columns |= {name: [getattr(row, name) for row in group] for name in COLUMNS if name != "file_name"}
                columns["file_name"] = [_name(row, width) for row in group]
                writer.write_table(pa.Table.from_pydict(columns, schema=schema), row_group_size=ROW_GROUP)
        return [out.entry(METADATA)]

    return Part((METADATA,), write)


def _card(head: Mapping[str, Any]) -> str:
    source, words = head["source"], ", sourced" if head.get("sourced") else ""
    return f"""
# {source["name"]} {source["version"]} as an image folder

{head["num_images"]:,} face images of {head["num_classes"]:,} {people(head)}.
Dataset digest `{source["digest"]}`; the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
| file | content |
|---|---|
| `<label>/<key>.jpg` | face, RGB, {bytes_line(head)} |
| `{METADATA}` | file_name, label, identity (its number at enrolment), cell (perceived attributes), key{words} |

{LABELS_LINE}
{sourced_lines(head, f"The column `sourced` of `{METADATA}`")}
```python
from datasets import load_dataset

faces = load_dataset("imagefolder", data_dir=".", split="train")
```

Labels, 0 to {max(head["num_classes"] - 1, 0)}, {whose_labels(head)}. Cells are a
model's estimates of appearance, pooled over an identity's probe images; they are not facts about a person.
{licence_line(head)}
"""
