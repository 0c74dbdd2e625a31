"""LMDB files: images by key, as trainers of recognisers keep them.

Three layouts are read, told apart by what is there: values that msgpack has packed, (JPEG, label) or (JPEG, feature,
label), as in our own export and the HSFace sets; keys `image-000000001` with `label-000000001` beside them; and bare
images under a key whose folder, if it has one, is the label. What tells of the file itself (`__len__`, `num-samples`)
is no input; every other key is. Pickles are not opened: they may run anything.
Sources: HaiyuWu/Vec2Face `dataloader/` (msgpack), clovaai/deep-text-recognition-benchmark `create_lmdb_dataset.py`
(numbered keys), BasicSR `docs/DatasetPreparation.md` (bare images); the msgpack specification.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Literal

from pipeline.adapters.sources.facts import LARGEST_NOTE_bytes, label_of
from pipeline.adapters.sources.files import Files, Found, fault_of
from pipeline.adapters.sources.lmdb_pages import Entry, LmdbPages
from pipeline.domain.intake import Fault, Input, SourceNode, Unreadable

_NUMBERED = re.compile(rb"(image|img|label)-(\d+)")
_ABOUT = re.compile(rb"__\w+__|num-samples|length")
_LOCKS = ("lock.mdb", "-lock")
_HEAD_bytes = 16
_LONGEST_LABEL_bytes = 1024


class LmdbSourceOptions(SourceNode):
    """A folder with LMDB files: `*.lmdb`, or folders that hold a `data.mdb`."""

    use: Literal["lmdb"] = "lmdb"
    label: Literal["value", "none"] = "value"
    """`value`: what the file says, in the value, under the key's own `label-` key, or as the key's folder."""
    labels: str = ""
    """A text file in the folder, a key and its label a line, parted by a tab or a space: it counts before the rest."""


class LmdbSource:
    """Implements `Source` over LMDB files; `LmdbSource(options, files)`."""

    def __init__(self, options: LmdbSourceOptions, files: Files) -> None:
        self.name = files.name
        self._options, self._files = options, files

    def listing(self) -> Iterator[Input]:
        """Yield every key but those about the file itself, in the order of files and of their trees."""
        found = list(self._files.walk())
        told = self._told(found)
        for one in found:
            if one.fault is not None:
                yield Input(one.path, stamp=one.stamp, fault=one.fault)
            elif one.path.endswith((".lmdb", ".mdb")) and not one.path.endswith(_LOCKS):
                yield from self._tree(one, told)

    def read(self, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield each image's bytes; a file that has changed since is not read at all."""
        for one in inputs:
            yield one.fault or self._files.read(one.path, one.offset, one.length, one.stamp)

    def _told(self, found: Sequence[Found]) -> Mapping[str, str]:
        """Return key -> label as the text file says it; nothing where none is named or it cannot be read."""
        place = next((f for f in found if f.path == self._options.labels), None)
        data = self._files.read(place.path, 0, -1, place.stamp) if place is not None else b""
        lines = data.decode("utf-8", "replace").splitlines() if isinstance(data, bytes) else []
        parts = (re.split(r"[\t ]+", line.strip()) for line in lines)
        return {part[0]: label_of(part[1]) for part in parts if len(part) > 1}

    def _tree(self, file: Found, told: Mapping[str, str]) -> Iterator[Input]:
        stream = self._files.open(file.path, file.stamp, scattered=True)
        if isinstance(stream, Unreadable):
            yield Input(file.path, stamp=file.stamp, fault=stream)
            return
        with stream:
            try:
                tree = LmdbPages(stream, file.bytes)
                for entry in tree.walk():
                    if (found := self._input(file, tree, stream, entry, told)) is not None:
                        yield found
            except ValueError as error:
                yield Input(file.path, stamp=file.stamp, fault=Unreadable(Fault.BAD_ARCHIVE, str(error)))
            except OSError as error:
                yield Input(file.path, stamp=file.stamp, fault=fault_of(error))

    def _input(
        self, file: Found, tree: LmdbPages, stream: BinaryIO, entry: Entry, told: Mapping[str, str]
    ) -> Input | None:
        """Return an entry as an input; None where it tells of the file, or is another entry's label."""
        name = entry.key.decode("utf-8", "surrogateescape")
        if entry.fault is not None:
            return Input(file.path, name, stamp=file.stamp, fault=entry.fault)
        numbered = _NUMBERED.fullmatch(entry.key)
        if _ABOUT.fullmatch(entry.key) or (numbered and numbered[1] == b"label"):
            return None
        image, label, fault = _packed(stream, entry)
        if label is None and numbered:
            label = _text(stream, tree.find(b"label-" + numbered[2]))
        if label is None and "/" in name:
            label = label_of(name.split("/")[-2])
        label = None if self._options.label == "none" else told.get(name, label)
        if fault is not None:
            return Input(file.path, name, stamp=file.stamp, label=label, fault=fault)
        return Input(file.path, name, image.offset, image.length, file.stamp, label)


def _packed(stream: BinaryIO, entry: Entry) -> tuple[Entry, str | None, Unreadable | None]:
    """Return where the image of a value lies, and its label where msgpack has packed both; else the whole value."""
    stream.seek(entry.offset)
    head = stream.read(min(_HEAD_bytes, entry.length))
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return entry, None, Unreadable(Fault.BAD_RECORD, "a pickle, which may run anything and is not opened")
    if head[:1] not in (b"\x92", b"\x93"):
        return entry, None, None
    spans, at, end = [], entry.offset + 1, entry.offset + entry.length
    for _ in range(head[0] - 0x90 - 1):
        stream.seek(at)
        span = _string(stream.read(5))
        if span is None or at + sum(span) > end:
            return entry, None, None
        spans.append((at + span[0], span[1]))
        at += sum(span)
    stream.seek(at)
    label = _label(stream.read(min(end - at, _LONGEST_LABEL_bytes)))
    if label is None:
        return entry, None, None
    return Entry(entry.key, *spans[0]), label, None


def _string(raw: bytes) -> tuple[int, int] | None:
    """Return the lengths of a msgpack string's header and content; None where it is none."""
    if not raw:
        return None
    if 0xA0 <= raw[0] <= 0xBF:
        return 1, raw[0] & 0x1F
    wide = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}.get(raw[0])
    if wide is None or len(raw) < 1 + wide:
        return None
    return 1 + wide, int.from_bytes(raw[1 : 1 + wide], "big")


def _label(raw: bytes) -> str | None:
    """Return a msgpack whole number or string, which is all that is left of a value, as a label."""
    forms = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
    if len(raw) == 1 and (raw[0] < 0x80 or raw[0] >= 0xE0):
        return str(raw[0] if raw[0] < 0x80 else raw[0] - 256)
    if raw and raw[0] in forms and len(raw) == 1 + struct.calcsize(forms[raw[0]]):
        return str(struct.unpack(forms[raw[0]], raw[1:])[0])
    span = _string(raw[:5])
    if span is None or sum(span) != len(raw):
        return None
    return label_of(raw[span[0] :].decode("utf-8", "replace").strip()) or None


def _text(stream: BinaryIO, entry: Entry | None) -> str | None:
    if entry is None or entry.fault is not None or entry.length > LARGEST_NOTE_bytes:
        return None
    stream.seek(entry.offset)
    return label_of(stream.read(min(entry.length, _LONGEST_LABEL_bytes)).decode("utf-8", "replace").strip()) or None
