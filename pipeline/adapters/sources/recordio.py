"""InsightFace RecordIO: `train.rec`, scanned record by record; an index that lies beside it is not believed.

Both layouts are read: flat, and the legacy one whose extra records hold ranges of identities and no image. Sources:
dmlc-core `src/recordio.cc` (framing), MXNet `recordio.py` (header), InsightFace `arcface_torch` (layouts).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

from pipeline.adapters.sources.files import Files, Found, fault_of
from pipeline.domain.intake import Fault, Input, SourceNode, Unreadable

MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_LENGTH = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class RecordIOSourceOptions(SourceNode):
    """A folder with `.rec` files."""

    use: Literal["recordio"] = "recordio"


class RecordIOSource:
    """Implements `Source` over `.rec` files; the label is the record's first, a whole number as text."""

    def __init__(self, options: RecordIOSourceOptions, files: Files) -> None:
        self.name = files.name
        self._files = files

    def listing(self) -> Iterator[Input]:
        """Yield every record that holds an image, in the order of files and bytes."""
        for one in self._files.walk():
            if one.fault is not None:
                yield Input(one.path, stamp=one.stamp, fault=one.fault)
            elif one.path.endswith(".rec"):
                yield from self._records(one)

    def read(self, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield each record's image."""
        for one in inputs:
            framed = one.fault or self._files.read(one.path, one.offset, one.length, one.stamp)
            yield framed if isinstance(framed, Unreadable) else _image(framed)

    def _records(self, rec: Found) -> Iterator[Input]:
        stream = self._files.open(rec.path, rec.stamp)
        if isinstance(stream, Unreadable):
            yield Input(rec.path, stamp=rec.stamp, fault=stream)
            return
        with stream:
            try:
                yield from self._walked(rec, stream)
            except OSError as error:
                yield Input(rec.path, stamp=rec.stamp, fault=fault_of(error))

    def _walked(self, rec: Found, stream: BinaryIO) -> Iterator[Input]:
        at, number = 0, 0
        while at < rec.bytes:
            length, head, fault = _framed(stream, at, rec.bytes)
            if fault is not None:
                # frames say how long they are, so nothing can be found behind a damaged one
                yield Input(rec.path, str(number), at, rec.bytes - at, rec.stamp, fault=fault)
                return
            span = _span(stream, at, rec.bytes)
            flag, label = _HEADER.unpack(head)[:2] if len(head) == _HEADER.size else (0, 0.0)
            size = _HEADER.size + 4 * flag
            if flag and len(head) == _HEADER.size:
                (label,) = _first_label(stream, at)
            if length < size:
                short = Unreadable(Fault.BAD_RECORD, f"a record of {length:,} bytes whose header alone is {size:,}")
                yield Input(rec.path, str(number), at, span, rec.stamp, fault=short)
            elif length > size:
                yield Input(rec.path, str(number), at, span, rec.stamp, _label(label))
            at += span
            number += 1


def _framed(stream: BinaryIO, at: int, end: int) -> tuple[int, bytes, Unreadable | None]:
    """Return a record's content length (of its first part), its header, and why it cannot be read."""
    stream.seek(at)
    head = stream.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return 0, b"", Unreadable(Fault.TRUNCATED_ARCHIVE, f"ends at byte {end:,} inside a frame")
    magic, told = _FRAME.unpack(head)
    flag, length = told >> 29, told & _LENGTH
    if magic != MAGIC or flag not in (_WHOLE, _FIRST):
        return 0, b"", Unreadable(Fault.BAD_ARCHIVE, f"no record at byte {at:,}")
    if _span(stream, at, end) < 0:
        return 0, b"", Unreadable(Fault.TRUNCATED_ARCHIVE, f"the record at byte {at:,} is not whole")
    stream.seek(at + _FRAME.size)
    return length if flag == _WHOLE else _LENGTH, stream.read(min(length, _HEADER.size)), None


def _span(stream: BinaryIO, at: int, end: int) -> int:
    """Return how many bytes a record takes with all its parts and padding; -1 where it is cut or damaged."""
    start = at
    while True:
        stream.seek(at)
        head = stream.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return -1
        magic, told = _FRAME.unpack(head)
        flag, length = told >> 29, told & _LENGTH
        if magic != MAGIC or (flag in (_WHOLE, _FIRST)) != (at == start) or at + _FRAME.size + length > end:
            return -1
        at += _FRAME.size + -(-length // 4) * 4
        if flag in (_WHOLE, _LAST):
            return min(at, end) - start


def _first_label(stream: BinaryIO, at: int) -> tuple[float]:
    stream.seek(at + _FRAME.size + _HEADER.size)
    raw = stream.read(4)
    return struct.unpack("<f", raw) if len(raw) == 4 else (0.0,)


def _label(value: float) -> str | None:
    if value != value or abs(value) == float("inf"):
        return None
    # two people must not become one because a label is no whole number
    return str(int(value)) if value == int(value) else str(value)


def _image(framed: bytes) -> bytes | Unreadable:
    """Return the image of a record: parts joined by the magic word that split them, header and labels taken off."""
    parts, at = [], 0
    while at < len(framed):
        _, told = _FRAME.unpack_from(framed, at)
        length = told & _LENGTH
        parts.append(framed[at + _FRAME.size : at + _FRAME.size + length])
        at += _FRAME.size + -(-length // 4) * 4
    content = MAGIC.join(parts)
    if len(content) < _HEADER.size:
        return Unreadable(Fault.BAD_RECORD, f"a record of {len(content)} bytes has no header")
    (flag,) = struct.unpack_from("<I", content)
    return content[_HEADER.size + 4 * flag :]
