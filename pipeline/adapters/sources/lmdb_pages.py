"""Walks the pages of an LMDB file that nobody vouches for: bounds are checked, and damage costs what it damages.

The library maps the file into memory and believes every number in it: a damaged or hostile file ends the process. Here
pages are read as bytes, through any stream, and a value is a place in the file that can be read later, alone, be it
local or in a store.
Source: the data format, version 1, of LMDB 0.9 (`mdb.c`: MDB_meta, MDB_db, MDB_page, MDB_node), little-endian, 64 bits.

Layout: a file is pages of one size. Page 0 and 1 are headers of which the one with the higher transaction counts; a
page begins with number, flags and, but for overflow pages, the bounds of its free space, then the offsets of its nodes.
Nodes of branch pages name a page, those of leaf pages hold key and value, or the page where a long value begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.domain.intake import Fault, Unreadable

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ")
_TABLE = struct.Struct("<IHHQQQQQ")
_TAIL = struct.Struct("<QQ")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOW, _LEAF2 = 0x01, 0x02, 0x04, 0x20
_BIG, _SUB, _MANY = 0x01, 0x02, 0x04
_NO_PAGE = (1 << 64) - 1
_DEEPEST = 32
"""Pages above a leaf, as LMDB itself limits them."""
_SMALLEST_PAGE, _LARGEST_PAGE = 256, 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, and where its value lies in the file; or why it, or what stood in its place, cannot be read."""

    key: bytes
    offset: int = 0
    length: int = 0
    fault: Unreadable | None = None


class _DamageError(Exception):
    """One page or node is not what it should be; the rest may be."""


class _EndlessError(Exception):
    """Pages lead back to each other: nothing more can be trusted."""


class LmdbPages:
    """The tree of one LMDB file.

    Raises:
        ValueError: it is no LMDB file of this version; the message says what was got.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self._page_bytes = 0
        metas = [found for place in (0, 1) if (found := self._meta(place))]
        self._one_header = len(metas) < 2
        if not metas:
            raise ValueError(f"{size:,} bytes without the header of an LMDB file")
        _, self._root, self._entries = max(metas)
        self._visits = 0

    def walk(self) -> Iterator[Entry]:
        """Yield every entry in the order of the tree; a page that is damaged is one entry with a fault."""
        self._visits, found, sound = 0, 0, True
        try:
            for entry in self._below(self._root, 1, b"") if self._root != _NO_PAGE else ():
                found, sound = found + 1, sound and entry.fault is None
                yield entry
            if sound and found != self._entries:
                said = f"states {self._entries:,} entries and holds {found:,}"
                yield Entry(b"", fault=Unreadable(Fault.BAD_ARCHIVE, said))
        except _EndlessError:
            yield Entry(b"", fault=Unreadable(Fault.BAD_ARCHIVE, "pages lead back to each other"))
        if self._one_header:
            # the library would go on with the other one, which may be of the time before the last things were put in
            yield Entry(b"", fault=Unreadable(Fault.BAD_ARCHIVE, "one of its two headers is damaged or cut off"))

    def find(self, key: bytes) -> Entry | None:
        """Return the entry of a key; None where there is none, or damage stands in its way."""
        number = self._root
        try:
            for _ in range(_DEEPEST if number != _NO_PAGE else 0):
                page, flags = self._page(number)
                nodes = [self._node(page, at) for at in self._offsets(page)]
                if flags & _LEAF:
                    found = next((n for n in nodes if n[0] == key), None)
                    return self._entry(page, number, found) if found else None
                # the first key of a branch page is left empty: it stands for everything before the second
                number = max((n for n in enumerate(nodes) if n[0] == 0 or n[1][0] <= key), key=lambda n: n[0])[1][1]
        except (_DamageError, ValueError):
            return None
        return None

    def _meta(self, place: int) -> tuple[int, int, int] | None:
        """Return transaction, root and number of entries of one of the two headers."""
        need = _PAGE.size + _META.size + 2 * _TABLE.size + _TAIL.size
        for page_bytes in (self._page_bytes,) if place and self._page_bytes else (1 << n for n in range(8, 17)):
            raw = self._read(place * page_bytes, need)
            if len(raw) < need:
                continue
            magic, version, _, _ = _META.unpack_from(raw, _PAGE.size)
            stated = _TABLE.unpack_from(raw, _PAGE.size + _META.size)[0]
            if magic == _MAGIC and version == _VERSION and stated in _sizes() and (not place or stated == page_bytes):
                self._page_bytes = stated
                *_, entries, root = _TABLE.unpack_from(raw, _PAGE.size + _META.size + _TABLE.size)
                _, transaction = _TAIL.unpack_from(raw, need - _TAIL.size)
                # they are written in turn; at first both tell of transaction 0
                return (transaction, root, entries) if transaction in (0, 1) or transaction % 2 == place else None
        return None

    def _below(self, number: int, depth: int, after: bytes) -> Iterator[Entry]:
        try:
            page, flags = self._page(number)
            nodes = self._offsets(page)
            if depth > _DEEPEST:
                raise _DamageError(f"more than {_DEEPEST} pages above each other")
        except _DamageError as damage:
            yield Entry(after, fault=Unreadable(Fault.BAD_ARCHIVE, str(damage)))
            return
        for at in nodes:
            try:
                node = self._node(page, at)
                entry = self._entry(page, number, node) if flags & _LEAF else None
            except _DamageError as damage:
                entry = Entry(after, fault=Unreadable(Fault.BAD_ARCHIVE, f"page {number:,}: {damage}"))
            if entry is None:
                yield from self._below(node[1], depth + 1, node[0])
            else:
                after = entry.key or after
                yield entry

    def _page(self, number: int) -> tuple[bytes, int]:
        """Return a branch or leaf page and its flags."""
        self._visits += 1
        if self._visits > self._size // self._page_bytes + _DEEPEST:
            raise _EndlessError
        page = self._read(number * self._page_bytes, self._page_bytes)
        if len(page) < self._page_bytes:
            raise _DamageError(f"page {number:,} lies behind the end")
        told, _, flags, lower, upper = _PAGE.unpack_from(page)
        if told != number or bool(flags & _BRANCH) == bool(flags & _LEAF) or flags & (_OVERFLOW | _LEAF2):
            raise _DamageError(f"page {number:,} is none of a tree of keys")
        if not _PAGE.size <= lower <= upper <= self._page_bytes:
            raise _DamageError(f"page {number:,} has no sound bounds")
        return page, flags

    def _offsets(self, page: bytes) -> list[int]:
        lower = _PAGE.unpack_from(page)[3]
        found = [
            at for (at,) in struct.iter_unpack("<H", page[_PAGE.size : _PAGE.size + (lower - _PAGE.size) // 2 * 2])
        ]
        if len(set(found)) < len(found):
            raise _DamageError("two entries of a page share their place")
        return found

    def _node(self, page: bytes, at: int) -> tuple[bytes, int, int, int]:
        """Return a node's key, the page that it names (of a branch), its flags, and where its value begins."""
        if not _PAGE.size <= at <= len(page) - _NODE.size:
            raise _DamageError("an entry lies outside its page")
        low, high, flags, key_bytes = _NODE.unpack_from(page, at)
        start = at + _NODE.size
        if start + key_bytes > len(page):
            raise _DamageError("a key reaches beyond its page")
        return page[start : start + key_bytes], low | high << 16 | flags << 32, flags, start + key_bytes

    def _entry(self, page: bytes, number: int, node: tuple[bytes, int, int, int]) -> Entry:
        key, packed, flags, start = node
        length = packed & 0xFFFFFFFF
        if flags & (_SUB | _MANY):
            what = "several values" if flags & _MANY else "a database within the database"
            return Entry(key, fault=Unreadable(Fault.BAD_RECORD, f"{what} under one key"))
        if not flags & _BIG:
            if start + length > len(page):
                raise _DamageError("a value reaches beyond its page")
            return Entry(key, number * self._page_bytes + start, length)
        if start + _NUMBER.size > len(page):
            raise _DamageError("a value reaches beyond its page")
        first = _NUMBER.unpack_from(page, start)[0] * self._page_bytes
        offset = first + _PAGE.size
        if offset + length > self._size:
            found = f"{max(0, self._size - offset):,} of {length:,} bytes"
            return Entry(key, fault=Unreadable(Fault.TRUNCATED_ARCHIVE, found))
        return Entry(key, offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            return b""
        self._stream.seek(offset)
        return self._stream.read(length)


def _sizes() -> tuple[int, ...]:
    """Return the page sizes that LMDB knows: powers of two."""
    return tuple(1 << n for n in range(_SMALLEST_PAGE.bit_length() - 1, _LARGEST_PAGE.bit_length()))
