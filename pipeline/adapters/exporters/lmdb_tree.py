"""LMDB export: `train.lmdb`, one file as the trainers around Vec2Face read it.

Keys are record numbers in decimal; a value is a msgpack array. For training recognisers it is (JPEG, label), as in the
published HSFace sets; for training the generator itself (JPEG, feature as the bytes of an .npy file, label). Under
`__len__`, `__keys__` and `__classnum__` stand the number of records, the list of their keys, and the number of classes.
Records are in a shuffled order. Sources: HaiyuWu/Vec2Face `scripts/prepare_training_set.py` and `dataloader/`,
HaiyuWu/SOTA-Face-Recognition-Train-and-Test `data_loader`; LMDB 0.9 (file), msgpack (values).

Bytes repeat on machines of one page size under one version of LMDB: records go in by rising key and in equal commits
into a map whose size follows from them, fresh pages are zeroed, and what is stored is a compact copy, which has neither
freed pages nor a history.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.exporters.files import hashed
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
from pipeline.adapters.exporters.sourced import TABLE, sourced_lines, sourced_of
from pipeline.adapters.exporters.writing import MANIFEST, Part, Writing, head_of
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode

FILE, LIST = "train.lmdb", "train.lst"
PAGE_bytes = 1 << 12
COMMIT_bytes = 1 << 26
"""Put between two commits: what is not committed is held in memory. Another number gives other bytes."""
_Record = tuple[bytes, bytes | None, int]
"""JPEG, feature, label."""


class LmdbOptions(ExportNode):
    """What a record holds."""

    use: Literal["lmdb"] = "lmdb"
    features: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Whose embedding stands in every record: `judge`, or a recogniser added by `facemint measure`; None for none."""


class LmdbExporter:
    """Writes `train.lmdb`, `train.lst`, `labels.parquet`, `README.md`, and last `manifest.json`.

    `train.lst` holds number, label and `<key>.jpg` by tabs: it says which published image a record is. Of photographs
    `sourced.parquet` has what came with each, by its key.
    A store takes whole files, so the temporary directory holds the tree and its compact copy, twice the images' bytes.
    """

    kind = "lmdb"

    def __init__(self, options: LmdbOptions | None = None) -> None:
        self.options = options or LmdbOptions()

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
        `about` holds name, version, digest (of the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these, or features are asked for and there are no facts.
            UserError: the package lmdb is not installed, an image has no embedding, or no such recogniser was added.
            OutputError: there is no image, or `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        _require_lmdb()
        features = self.options.features
        if features is not None and facts is None:
            raise ValueError("export is told no facts, and features were asked for")
        sourced = sourced_of(index, about, facts)
        head = head_of(self.kind, index, about, features=features, **sourced.head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished

        def write(here: Path) -> list[FileEntry]:
            order = list(shuffled(index, about["seed"]))
            known = _embeddings(here, index, features, facts) if features is not None and facts is not None else None
            with resized(source, order, self.options, about) as (images, rows):
                # the tree keeps its keys in the order of their bytes: 0, 1, 10, 11, 2
                numbered = sorted(enumerate(rows), key=lambda pair: b"%d" % pair[0])
                records = _records(with_images(images, [row for _, row in numbered]), known)
                keys = [b"%d" % number for number, _ in numbered]
                tree = _write(here, zip(keys, records, strict=True), rows, head["num_classes"])
            return [tree, _list(here, rows)]

        for part in (labels_part(index, about), *sourced.part(index), Part((FILE, LIST), write)):
            writing.add(part)
        return writing.finish(_card(head), "train.", re.compile(r"train\.(lmdb|lst)"))


def _require_lmdb() -> None:
    try:
        import lmdb  # noqa: F401 - asked for before anything is claimed
        import msgpack  # noqa: F401 - the same
    except ImportError as error:
        raise UserError(
            f"export to lmdb needs the package {error.name}; install it with: pip install 'facemint[lmdb]'"
        ) from None


def _records(found: Iterable[tuple[IndexRow, bytes]], embedding_of: Mapping[str, Any] | None) -> Iterator[_Record]:
    """Yield JPEG, feature as an .npy file or None, and label."""
    for row, image in found:
        yield image, None if embedding_of is None else _npy(embedding_of[row.key]), row.label


def _embeddings(here: Path, index: Sequence[IndexRow], recogniser: str, facts: ImageFacts) -> dict[str, Any]:
    """Return key -> embedding (E,), kept in a local file that is mapped, so that memory does not grow with the set."""
    place = {row.key: n for n, row in enumerate(index)}
    held_NE: Any = None
    seen: set[str] = set()
    for segment in sorted({row.segment for row in index}):
        for key, emb_E in facts.embeddings(segment, recogniser).items():
            # an embedding of NaN is that of a face that could not be read
            if key in place and np.isfinite(emb_E).all():
                if held_NE is None:
                    held_NE = np.memmap(here / "embeddings", "<f4", "w+", shape=(len(index), len(emb_E)))
                held_NE[place[key]] = emb_E
                seen.add(key)
    if lacking := sorted(place.keys() - seen):
        raise UserError(
            f"{len(lacking):,} images have no embedding by {recogniser} ({lacking[0]} is one); run `facemint measure "
            "... --add` again, or export without features"
        )
    return {key: held_NE[n] for key, n in place.items()}


def _npy(emb_E: Any) -> bytes:
    """Return the bytes of an .npy file of one float32 vector; a vector of NaN stands where a face was unreadable."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(emb_E, dtype="<f4"), allow_pickle=False)
    return out.getvalue()


def _write(here: Path, records: Iterable[tuple[bytes, _Record]], rows: Sequence[IndexRow], classes: int) -> FileEntry:
    import lmdb

    tree, copy = here / "tree", here / FILE
    try:
        with lmdb.open(
            str(tree), subdir=False, map_size=_map_bytes(rows), lock=False, sync=False, metasync=False, meminit=True
        ) as env:
            _fill(env, records)
            _tell(env, len(rows), classes)
            with copy.open("wb") as out:
                env.copyfd(out.fileno(), compact=True)
    except lmdb.Error as error:
        # a full disk, as every other file here tells of it
        raise OSError(errno.EIO, str(error)) from error
    tree.unlink()
    with copy.open("rb") as file:
        return FileEntry(FILE, hashlib.file_digest(file, "sha256").hexdigest(), copy.stat().st_size)


def _list(here: Path, rows: Sequence[IndexRow]) -> FileEntry:
    with hashed(here / LIST) as out:
        for number, row in enumerate(rows):
            out.write(b"%d\t%d\t%s.jpg\n" % (number, row.label, row.key.encode()))
    return out.entry(LIST)


def _map_bytes(rows: Sequence[IndexRow]) -> int:
    """Return the size of the map, which the file states: room for every record on pages of its own, and as much again.

    An embedding of up to 4,096 numbers has room, too.
    """
    pages = sum(-(-row.length // PAGE_bytes) + 6 for row in rows)
    return 2 * PAGE_bytes * (pages + 1024)


def _fill(env: Any, records: Iterable[tuple[bytes, _Record]]) -> None:
    """Put every record; keys rise, so that each goes behind the last."""
    import msgpack

    packer, held = msgpack.Packer(use_bin_type=True), 0
    txn = env.begin(write=True)
    try:
        for key, (image, feature, label) in records:
            value = packer.pack((image, label) if feature is None else (image, feature, label))
            txn.put(key, value, append=True)
            held += len(value)
            if held >= COMMIT_bytes:
                txn.commit()
                txn, held = env.begin(write=True), 0
        txn.commit()
    except BaseException:
        txn.abort()
        raise


def _tell(env: Any, count: int, classes: int) -> None:
    """Put what a reader asks first: how many records, under which keys, of how many classes."""
    import msgpack

    packer = msgpack.Packer(use_bin_type=True)
    keys = bytearray(packer.pack_array_header(count))
    for number in range(count):
        keys += packer.pack(b"%d" % number)
    with env.begin(write=True) as txn:
        txn.put(b"__keys__", bytes(keys))
        txn.put(b"__len__", packer.pack(count))
        txn.put(b"__classnum__", packer.pack(classes))


def _card(head: Mapping[str, Any]) -> str:
    source, features = head["source"], head["features"]
    held = "(JPEG, label)" if features is None else f"(JPEG, embedding by {features} as an .npy file, label)"
    return f"""# {source["name"]} {source["version"]} as LMDB

{head["num_images"]:,} face images of {head["num_classes"]:,} {people(head)}, shuffled across identities.
Dataset digest `{source["digest"]}`; the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
| key in `{FILE}` | value, packed by msgpack |
|---|---|
| `0` to `{head["num_images"] - 1}` | {held}; image: face, RGB, {bytes_line(head)} |
| `__len__`, `__classnum__` | number of records, number of classes |
| `__keys__` | list of the records' keys |

`{LIST}` says which image each record is. {LABELS_LINE}
{sourced_lines(head, f"`{TABLE}`")}
The trainers that read the published HSFace sets take this file as it is. Without them:

```python
import io

import lmdb
import msgpack
from PIL import Image

env = lmdb.open("{FILE}", subdir=False, readonly=True, lock=False)
with env.begin() as txn:
    count = msgpack.loads(txn.get(b"__len__"))
    jpeg, *_, label = msgpack.loads(txn.get(b"0"))
face = Image.open(io.BytesIO(jpeg))
env.close()
```

Labels, 0 to {head["num_classes"] - 1}, {whose_labels(head)}.
"""
