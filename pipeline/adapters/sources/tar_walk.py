"""Walks the members of a tar that nobody vouches for: headers alone, in bounded memory, stopping at nothing.

The standard library's reader fetches extended headers whole, however many gigabytes they claim to be, and raises at the
first damage. Here every header is held against limits, and damage ends the walk with a fault that says where.
Sources: POSIX.1-2017 pax interchange format and ustar, GNU tar manual section "Basic Tar Format" (long names).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.domain.intake import Fault, Unreadable

BLOCK = 512
LONGEST_NAME_bytes = 4096
LARGEST_EXTENSION_bytes = 1 << 20
_TAIL_bytes = 1 << 16
"""So far behind the end it is looked whether anything follows; tars are filled up with 10 kB at most."""
_REGULAR = (b"0", b"\0", b"7")
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder",
          b"6": "a named pipe", b"S": "a sparse file"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member: its name as stored (never a path to open), where its bytes lie, and why it cannot be read."""

    name: str
    offset: int
    length: int
    fault: Unreadable | None = None


def walk_tar(stream: BinaryIO, size: int) -> Iterator[TarMember]:
    """Yield every member of a tar of `size` bytes but folders.

    What ends the walk too early is the last member, with a fault and the name of the last one that was read.
    """
    at, name, last = 0, "", ""
    long_name: str | None = None
    long_size: int | None = None
    while True:
        # a header may claim any size: what lies behind the end is the end
        at = min(at, size)
        stream.seek(at)
        head = stream.read(BLOCK)
        if not head.strip(b"\0"):
            if len(head) < BLOCK or size - at < 2 * BLOCK:
                # a tar ends in two empty blocks: one that was cut between two members has none
                yield TarMember(last, at, 0, Unreadable(Fault.TRUNCATED_ARCHIVE, f"ends at byte {at:,} without an end"))
            elif stream.read(_TAIL_bytes).strip(b"\0"):
                # tars written one after the other into one file: readers of tars stop at the first end
                yield TarMember(last, at, 0, Unreadable(Fault.BAD_ARCHIVE, f"more follows its end at byte {at:,}"))
            return
        if len(head) < BLOCK:
            found = f"ends at byte {at + len(head):,} inside a header"
            yield TarMember(last, at, 0, Unreadable(Fault.TRUNCATED_ARCHIVE, found))
            return
        length = _number(head[124:136])
        if not _checks(head) or length is None:
            yield TarMember(last, at, 0, Unreadable(Fault.BAD_ARCHIVE, f"no header at byte {at:,}"))
            return
        kind, body = head[156:157], at + BLOCK
        if kind in b"xgLK" and kind:
            if length > LARGEST_EXTENSION_bytes:
                found = f"an extended header of {length:,} bytes at byte {at:,}"
                yield TarMember(last, at, 0, Unreadable(Fault.BAD_ARCHIVE, found))
                return
            told = stream.read(length)
            if kind == b"L":
                long_name = _text(told.rstrip(b"\0"))
            elif kind == b"x":
                records = _pax(told)
                long_name = records.get("path", long_name)
                long_size = _decimal(records.get("size", "").encode("utf-8", "replace"))
            at = body + _padded(length)
            continue
        name = long_name if long_name is not None else _name(head)
        length = long_size if long_size is not None else length
        long_name = long_size = None
        last = name
        if kind != b"5":
            yield _member(name, body, length, kind, size)
        # links, devices and folders have no content, whatever their header says
        at = body + (_padded(length) if kind in _REGULAR or kind not in _KINDS or kind == b"S" else 0)


def _member(name: str, body: int, length: int, kind: bytes, size: int) -> TarMember:
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME_bytes:
        return TarMember(name[:64], body, length, Unreadable(Fault.BAD_ARCHIVE, f"a name of {len(name):,} characters"))
    if kind not in _REGULAR:
        what = _KINDS.get(kind, f"a member of type {kind!r}")
        return TarMember(name, body, 0, Unreadable(Fault.NOT_A_FILE, what))
    if body + length > size:
        found = f"{max(0, size - body):,} of {length:,} bytes"
        return TarMember(name, body, length, Unreadable(Fault.TRUNCATED_ARCHIVE, found))
    return TarMember(name, body, length)


def _checks(head: bytes) -> bool:
    """Return whether the header's checksum is right, summed as unsigned or, as old tars did, signed bytes."""
    stated = _number(head[148:156])
    blank = head[:148] + b" " * 8 + head[156:]
    return stated in (sum(blank), sum(b - 256 if b > 127 else b for b in blank))


def _number(field: bytes) -> int | None:
    if field[0] & 0x80:
        # base 256, for sizes beyond 8 GiB; a negative one is nonsense here
        return None if field[0] & 0x40 else int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.strip(b"\0 ")
    # `int` would take a sign, and a negative size would walk backwards, for ever
    return None if text.strip(b"01234567") else int(text or b"0", 8)


def _decimal(text: bytes) -> int | None:
    """Return a whole number of at most 20 digits, as many as a size has; None where it is none."""
    return int(text) if text.isdigit() and len(text) <= 20 else None


def _name(head: bytes) -> str:
    name = _text(head[:100].split(b"\0", 1)[0])
    prefix = (
        _text(head[345:500].split(b"\0", 1)[0]) if head[257:262] == b"ustar" and head[257:265] != b"ustar  \0" else ""
    )
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _pax(told: bytes) -> dict[str, str]:
    r"""Return the records of a pax header: `<length> <keyword>=<value>\n`, one after the other; damage ends them."""
    records: dict[str, str] = {}
    while told:
        number, _, _ = told.partition(b" ")
        length = _decimal(number)
        if length is None or not len(number) + 2 < length <= len(told):
            break
        line, told = told[len(number) + 1 : length - 1], told[length:]
        keyword, _, value = line.partition(b"=")
        records[_text(keyword)] = _text(value)
    return records


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
