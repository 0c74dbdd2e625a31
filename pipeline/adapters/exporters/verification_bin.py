"""Writes InsightFace verification sets: a pickle of (encoded images, two per pair; list of bool).

The pickle is written opcode by opcode and holds lists, bytes and truth values alone (protocol 3, as Python's
`pickletools` describes it), so that nothing is ever pickled here and images pass through one at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from pipeline.adapters.exporters.files import HashedFile
from pipeline.domain.errors import OutputError

_PROTO, _STOP = b"\x80\x03", b"."
_MARK, _EMPTY_LIST, _APPENDS, _TUPLE2 = b"(", b"]", b"e", b"\x86"
_TRUE, _FALSE = b"\x88", b"\x89"
_TOGETHER = 1000
"""Items between two APPENDS: readers hold so many on their stack, as with what `pickle` writes."""


def write_bin(out: HashedFile, images: Iterable[bytes], same: Sequence[bool]) -> None:
    """Write a verification set: two images per truth value, as a pickle of ([bytes, ...], [bool, ...]).

    Raises:
        OutputError: an image has 4 GiB or more.
    """
    out.write(_PROTO)
    _write_list(out.write, (_bytes_of(image) for image in images))
    _write_list(out.write, (_TRUE if one else _FALSE for one in same))
    out.write(_TUPLE2 + _STOP)


def _write_list(write: Callable[[bytes], int], items: Iterable[bytes]) -> None:
    remaining = iter(items)
    write(_EMPTY_LIST)
    while first := next(remaining, b""):
        write(_MARK + first)
        for item in islice(remaining, _TOGETHER - 1):
            write(item)
        write(_APPENDS)


def _bytes_of(image: bytes) -> bytes:
    if len(image) < 256:
        return b"C" + struct.pack("<B", len(image)) + image
    if len(image) >= 2**32:
        raise OutputError(f"an image of {len(image):,} bytes; verification sets take less than 2**32")
    return b"B" + struct.pack("<I", len(image)) + image
