"""WebDataset export: tar shards shuffled across identities, with labels, as training loaders stream them.

Images are copied byte by byte out of the segments, never encoded again. Names, times, owners, modes, order
and JSON are fixed, so exporting a version twice gives the same bytes, and an interrupted export is made again
from the start. The manifest comes last: an export without one is not finished.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    IndexRow,
    canonical_json,
    segment_path,
    sha256_hex,
)
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Node
from pipeline.domain.rng import Key, Stream

MANIFEST = "manifest.json"
README = "README.md"
SHARD = re.compile(r"train-\d{6}\.tar")
KEYS = ("name", "version", "digest", "seed")
"""What an export must be told about the version that it is of."""
_BLOCK_bytes = tarfile.BLOCKSIZE


class WebDatasetOptions(Node):
    """How the shards are cut."""

    use: Literal["webdataset"] = "webdataset"
    shard_bytes: Annotated[int, Field(ge=10_000, le=100_000_000_000)] = 200_000_000
    """A shard is closed before it would grow beyond this; a single larger image still makes one."""


class WebDatasetExporter:
    """Writes `train-000000.tar` and so on, `README.md`, and last `manifest.json`.

    A sample is `<key>.cls` (label in decimal), `<key>.jpg` and `<key>.json` (key, label, identity, cell). Local
    temporary files hold one shard at a time.
    """

    kind = "webdataset"

    def __init__(self, options: WebDatasetOptions | None = None) -> None:
        self._shard_bytes = (options or WebDatasetOptions()).shard_bytes

    def export(
        self, source: Store, index: Sequence[IndexRow], target: Store, about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        Where a manifest of the same version, order and shard size exists and all its files have their sizes,
        nothing is written. `about` holds name, version, digest (of the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these.
            StoreError: an image is not where the index says.
        """
        missing = [name for name in KEYS if name not in about]
        if missing:
            raise ValueError(f"export is told nothing of {', '.join(missing)}; it needs {', '.join(KEYS)}")
        head = self._head(index, about)
        done = _finished(target, head)
        if done is not None:
            return done
        # from here on the old manifest, if any, would describe files that are being replaced
        target.delete(MANIFEST)
        entries = [self._write_shard(source, target, n, rows) for n, rows in enumerate(self._shards(index, about))]
        for path in target.list("train-"):
            if SHARD.fullmatch(path) and path not in {e.path for e in entries}:
                target.delete(path)
        card = _card(head, entries).encode()
        target.put(README, card)
        entries.append(FileEntry(README, sha256_hex(card), len(card)))
        manifest = head | _files(entries)
        target.put(MANIFEST, canonical_json(manifest))
        return manifest

    def _head(self, index: Sequence[IndexRow], about: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of the manifest that is known beforehand: equal heads give equal bytes."""
        return {
            "schema": SCHEMA_VERSION,
            "kind": self.kind,
            "source": {name: about[name] for name in KEYS},
            "shard_bytes": self._shard_bytes,
            "num_classes": len({row.label for row in index}),
            "num_images": len(index),
        }

    def _shards(self, index: Sequence[IndexRow], about: Mapping[str, Any]) -> Iterator[list[IndexRow]]:
        """Yield each shard's rows: all rows in one drawn order, cut where the next would overflow."""
        ordered = sorted(index)
        order = Key(about["seed"], Stream.EXPORT_ORDER).generator().permutation(len(ordered))
        shard: list[IndexRow] = []
        size = 0
        for place in order:
            row = ordered[int(place)]
            added = sum(_member_bytes(len(data)) for data in _labels(row).values()) + _member_bytes(row.length)
            if shard and size + added > self._shard_bytes:
                yield shard
                shard, size = [], 0
            shard.append(row)
            size += added
        if shard:
            yield shard

    def _write_shard(self, source: Store, target: Store, number: int, rows: Iterable[IndexRow]) -> FileEntry:
        path = f"train-{number:06d}.tar"
        try:
            with tempfile.TemporaryDirectory(prefix="facemint-") as scratch:
                local = Path(scratch) / path
                with tarfile.open(local, "w", format=tarfile.USTAR_FORMAT) as archive:
                    for row in rows:
                        _add_sample(archive, row, _image(source, row))
                with local.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = local.stat().st_size
                target.put_file(path, local)
        except OSError as error:
            raise StoreError(
                f"cannot make {path} in {tempfile.gettempdir()} ({error.strerror or error}); "
                "make room there for one shard, or name another directory in the environment variable TMPDIR"
            ) from error
        return FileEntry(path, digest, size)


def _finished(target: Store, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of an export that is there already and complete, or None."""
    if target.size(MANIFEST) is None:
        return None
    try:
        manifest: dict[str, Any] = json.loads(target.get(MANIFEST))
        same = all(manifest.get(name) == value for name, value in head.items())
        whole = all(target.size(f["path"]) == f["bytes"] for f in manifest["files"])
    except (ValueError, KeyError, TypeError, AttributeError):
        # not a manifest of ours: the export is made again, which replaces it
        return None
    return manifest if same and whole else None


def _files(entries: Sequence[FileEntry]) -> dict[str, Any]:
    ordered = sorted(entries)
    lines = "".join(f"{e.path} {e.sha256}\n" for e in ordered)
    return {
        "files": [{"path": e.path, "sha256": e.sha256, "bytes": e.bytes} for e in ordered],
        "digest": sha256_hex(lines.encode()),
    }


def _image(source: Store, row: IndexRow) -> bytes:
    path = segment_path(row.segment, "tar")
    problem = "does not begin and end as a JPEG"
    try:
        data = source.get_range(path, row.offset, row.length)
    except FileNotFoundError:
        data, problem = b"", "is absent"
    if data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9":
        return data
    raise StoreError(
        f"{path}: {row.key} at byte {row.offset} {problem}; the segment is not as it was published: "
        "restore it from a copy"
    )


def _labels(row: IndexRow) -> dict[str, bytes]:
    """Return what stands beside an image, by extension."""
    facts = {"key": row.key, "label": row.label, "identity": row.identity, "cell": row.cell}
    return {"cls": str(row.label).encode(), "json": canonical_json(facts)}


def _add_sample(archive: tarfile.TarFile, row: IndexRow, image: bytes) -> None:
    for extension, data in sorted((_labels(row) | {"jpg": image}).items()):
        # a fresh TarInfo has time 0, owner 0 and no names
        member = tarfile.TarInfo(f"{row.key}.{extension}")
        member.size, member.mode = len(data), 0o444
        archive.addfile(member, io.BytesIO(data))


def _member_bytes(size: int) -> int:
    return _BLOCK_bytes + -(-size // _BLOCK_bytes) * _BLOCK_bytes


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
