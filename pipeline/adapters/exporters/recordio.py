"""RecordIO export: `train.rec`, `train.idx`, `train.lst` and `property`, as InsightFace's trainers read them.

Two layouts are in use. *Flat* (the default): records 0 to N-1 are images in an order shuffled over all identities, and
nothing else; torch-era loaders take record 0's flag 0 to mean just that, and NVIDIA DALI reads no other. *Legacy*:
records 1 to N are images grouped by identity, then one header per identity with the range of its images, and record 0,
written last, has the range of those headers. Sources: dmlc-core `src/recordio.cc` (framing), MXNet `recordio.py`
(headers, idx), InsightFace `recognition/arcface_torch/dataset.py` and `arcface_mxnet` (layouts).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.adapters.exporters.files import HashedFile
from pipeline.adapters.exporters.images import by_label, shuffled, with_images
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
from pipeline.adapters.exporters.writing import MANIFEST, Stream, Writing, head_of
from pipeline.domain.errors import OutputError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode

MAGIC = 0xCED7230A
FLOAT_LIMIT = 2**24
"""Labels and ranges are float32 in the file: integers above this are not all told apart."""
RECORD_LIMIT_bytes = 2**29
"""Lengths have 29 bits."""
FRAME_bytes = 35
"""What a record is longer than its image, at most, where nothing is escaped."""
TOGETHER_bytes = 1 << 20
"""Records written in one piece."""
FILES = ("train.rec", "train.idx", "train.lst", "property")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_FRAMED = struct.Struct("<IIIfQQ")
"""Magic word, flag 0 (whole) with the length, and `header_of` an image."""
_FILLS = tuple(bytes(n) for n in range(4))


class RecordIOOptions(ExportNode):
    """How the records are laid out."""

    use: Literal["recordio"] = "recordio"
    legacy: bool = False
    """Identity ranges, as `arcface_mxnet` wrote and reads them; NVIDIA DALI cannot read these."""


class RecordIOExporter:
    """Writes `train.rec`, `train.idx`, `train.lst`, `property`, `labels.parquet`, a card, and last `manifest.json`.

    Of photographs `sourced.parquet` has what came with each, by its key.

    `property` holds `num_classes,height,width`. `train.lst` holds number, label and `<key>.jpg` by tabs: it says which
    published image a record is. Files grow where they will stand: no room is needed beside it.
    """

    kind = "recordio"

    def __init__(self, options: RecordIOOptions | None = None) -> None:
        self.options = options or RecordIOOptions()
        self._legacy = self.options.legacy

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        Where a manifest of the same version, order and layout exists and all its files have their sizes, nothing is
        written. `about` holds name, version, digest (of the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these.
            OutputError: there are more labels than a float32 tells apart, no image at all, or `target` holds an export
                of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        sourced = sourced_of(index, about, facts)
        head = head_of(self.kind, index, about, layout="legacy" if self._legacy else "flat", **sourced.head)
        self._check(head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished

        def write(files: Sequence[HashedFile]) -> None:
            with resized(source, index, self.options, about) as (images, sized):
                rows = by_label(sized) if self._legacy else shuffled(sized, about["seed"])
                _write(files, with_images(images, rows), head["num_classes"], legacy=self._legacy)

        for part in (labels_part(index, about), *sourced.part(index)):
            writing.add(part)
        writing.stream(Stream(FILES, write, sum(row.length + FRAME_bytes for row in index)))
        return writing.finish(_card(head), "train.", re.compile(r"train\.(rec|idx|lst)"))

    def _check(self, head: Mapping[str, Any]) -> None:
        # record 0's second number is the first free one behind the headers of the legacy layout
        largest = head["num_images"] + head["num_classes"] + 1 if self._legacy else head["num_classes"] - 1
        if largest > FLOAT_LIMIT:
            raise OutputError(
                f"{head['num_images']:,} images of {head['num_classes']:,} identities: RecordIO's "
                f"{head['layout']} layout needs float32 numbers up to {largest:,}, exact only to {FLOAT_LIMIT:,}; "
                + ("use the flat layout" if self._legacy else "export to webdataset or hf")
            )


class RecordWriter:
    """Appends records to a `.rec` file and notes where each begins in its `.idx` file."""

    def __init__(self, rec: HashedFile, idx: HashedFile) -> None:
        self._rec, self._idx = rec, idx

    def add(self, number: int, header: bytes, body: bytes) -> None:
        """Append one record under its number."""
        self._idx.write(b"%d\t%d\n" % (number, self._rec.tell()))
        payload = header + body
        if len(payload) >= RECORD_LIMIT_bytes:
            raise OutputError(f"record {number} has {len(payload):,} bytes; RecordIO takes less than 2**29: use hf")
        self._rec.write(framed(payload))

    def add_images(self, first: int, labels: Sequence[int], images: Sequence[bytes]) -> None:
        """Append records of images, numbered from `first` on: the bytes that `add` writes, in one piece."""
        place, parts, lines = self._rec.tell(), list[bytes](), list[bytes]()
        for number, (label, image) in enumerate(zip(labels, images, strict=True), start=first):
            size = len(image) + 24
            parts += (_FRAMED.pack(MAGIC, size, 0, label, number, 0), image, _FILLS[-size % 4])
            lines.append(b"%d\t%d\n" % (number, place))
            place += size + 8 + -size % 4
        block = b"".join(parts)
        # records lie at multiples of four: one magic word more than there are records is one to be escaped
        whole = np.count_nonzero(np.frombuffer(block, "<u4") == MAGIC) == len(images)
        if whole and max(map(len, images)) + 24 < RECORD_LIMIT_bytes:
            self._idx.extend(lines, sum(map(len, lines)))
            self._rec.write(block)
            return
        for number, (label, image) in enumerate(zip(labels, images, strict=True), start=first):
            self.add(number, header_of(number, label), image)


def framed(payload: bytes) -> bytes:
    """Return a record as dmlc frames it: magic word, flag and length, bytes, zeros up to four.

    A magic word at a multiple of four within the payload is left out and the record split there, into parts flagged
    first, middle and last, so that a reader that looks for the magic word never finds one inside; readers put it back.
    """
    words = np.frombuffer(payload, "<u4", len(payload) // 4) == MAGIC
    if not words.any():
        return _part(_WHOLE, payload)
    parts, start = [], 0
    for cut in (4 * np.flatnonzero(words)).tolist():
        parts.append(payload[start:cut])
        start = cut + 4
    parts.append(payload[start:])
    flags = [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST]
    return b"".join(_part(flag, part) for flag, part in zip(flags, parts, strict=True))


def _part(flag: int, data: bytes) -> bytes:
    return b"".join((struct.pack("<II", MAGIC, flag << 29 | len(data)), data, bytes(-len(data) % 4)))


def header_of(number: int, label: int, flag: int = 0, id2: int = 0) -> bytes:
    """Return MXNet's IRHeader: flag, label as float32, two ids; where the flag counts labels, they follow instead."""
    return struct.pack("<IfQQ", flag, label, number, id2)


def _range_header(number: int, start: int, stop: int, id2: int = 0) -> bytes:
    return header_of(number, 0, flag=2, id2=id2) + struct.pack("<ff", start, stop)


def _write(
    files: Sequence[HashedFile], images: Iterable[tuple[IndexRow, bytes]], classes: int, *, legacy: bool
) -> None:
    rec, idx, lst, prop = files
    out = RecordWriter(rec, idx)
    size_px: tuple[int, int] | None = None
    number = 1 if legacy else 0
    ranges: list[_Range] = []
    for rows, bodies in _together(images):
        size_px = size_px or _size_px(bodies[0])
        out.add_images(number, [row.label for row in rows], bodies)
        for place, row in enumerate(rows, start=number):
            if legacy and (not ranges or ranges[-1].label != row.label):
                ranges.append(_Range(row.label, place))
        lines = [f"{place}\t{row.label}\t{row.key}.jpg\n" for place, row in enumerate(rows, start=number)]
        lst.write("".join(lines).encode())
        number += len(rows)
    if legacy:
        _write_ranges(out, ranges, number)
    height_px, width_px = size_px or (0, 0)
    prop.write(f"{classes},{height_px},{width_px}\n".encode())


def _together(images: Iterable[tuple[IndexRow, bytes]]) -> Iterator[tuple[list[IndexRow], list[bytes]]]:
    """Yield rows and images in pieces of about `TOGETHER_bytes`."""
    rows: list[IndexRow] = []
    bodies: list[bytes] = []
    size = 0
    for row, image in images:
        rows.append(row)
        bodies.append(image)
        size += len(image)
        if size >= TOGETHER_bytes:
            yield rows, bodies
            rows, bodies, size = [], [], 0
    if rows:
        yield rows, bodies


class _Range(NamedTuple):
    label: int
    start: int


def _write_ranges(out: RecordWriter, ranges: Sequence[_Range], end: int) -> None:
    """Write a header per identity from number `end` on, and record 0 that says where they are."""
    stops = [r.start for r in ranges[1:]] + [end]
    for number, (found, stop) in enumerate(zip(ranges, stops, strict=True), start=end):
        out.add(number, _range_header(number, found.start, stop), b"")
    out.add(0, _range_header(0, end, end + len(ranges), id2=1), b"")


def _size_px(image: bytes) -> tuple[int, int]:
    import simplejpeg

    height_px, width_px, *_ = simplejpeg.decode_jpeg_header(image)
    return height_px, width_px


_LAYOUTS = {
    "flat": "records 0 to {last} are images, shuffled across identities",
    "legacy": "records 1 to {images} are images by identity, {first} to {end} the identities' ranges, 0 says where",
}


def _card(head: Mapping[str, Any]) -> str:
    source, images, classes = head["source"], head["num_images"], head["num_classes"]
    layout = _LAYOUTS[head["layout"]].format(last=images - 1, images=images, first=images + 1, end=images + classes)
    return f"""# {source["name"]} {source["version"]} as RecordIO

{images:,} images of {classes:,} {people(head)}. Layout: {head["layout"]}: {layout}.
Dataset digest `{source["digest"]}`; the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
| file | content |
|---|---|
| `train.rec` | records: header (flag, label, id, id2) and JPEG; {bytes_line(head)} |
| `train.idx` | number and place of each record |
| `train.lst` | number, label and key of each image |
| `property` | classes, height, width |

{LABELS_LINE}
{sourced_lines(head, f"`{TABLE}`")}
Trainers want two numbers:

```python
config.num_classes = {classes}
config.num_image = {images}
```

InsightFace's `get_dataloader(root_dir=...)` and MXNet's `MXIndexedRecordIO` read this folder as it is. Without either:

```python
import struct


def read_record(rec, place):
    rec.seek(place)
    parts = []
    while True:
        magic, word = struct.unpack("<II", rec.read(8))
        length = word & 0x1FFFFFFF
        parts.append(rec.read(length + -length % 4)[:length])
        if word >> 29 in (0, 3):
            payload = struct.pack("<I", magic).join(parts)
            flag, label, number, _ = struct.unpack("<IfQQ", payload[:24])
            return int(label), payload[24:]


places = dict(map(int, line.split()) for line in open("train.idx"))
label, jpeg = read_record(open("train.rec", "rb"), places[{int(head["layout"] == "legacy")}])
```

Labels, 0 to {max(classes - 1, 0)}, {whose_labels(head)}.
"""
