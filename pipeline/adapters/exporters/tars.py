"""Tar archives for WebDataset: the members of a sample share their name's beginning, and most of their headers."""

from __future__ import annotations

from functools import lru_cache

from pipeline.adapters.exporters.files import HashedFile
from pipeline.domain import ustar

_EMPTY = ustar.header("", 0)
_BEFORE_SIZE, _SIZE, _BEFORE_SUM, _SUM, _AFTER_SUM = (
    _EMPTY[start:end] for start, end in ((100, 124), (124, 135), (135, 148), (148, 154), (154, 512))
)
_EMPTY_sum = int(_SUM, 8) - sum(_SIZE)
"""What the checksum is without name and size."""
_FILLS = tuple(ustar.filling(size) for size in range(ustar.BLOCK_bytes))


class TarWriter:
    """Appends members to a ustar archive: mode 0444, time and owner 0. Headers are those of `ustar.header`."""

    def __init__(self, out: HashedFile) -> None:
        self._out = out

    def add(self, stem: str, *members: tuple[str, bytes]) -> None:
        """Append members by what follows `stem` in their name, and content; raises ValueError where none fits."""
        label, parts, grown = stem.encode("ascii"), list[bytes](), 0
        stem_sum = sum(label)
        for suffix, data in members:
            size = len(data)
            digits, digit_sum = _digits(size)
            between, between_sum = _between(suffix, len(label))
            checksum = b"%06o" % (stem_sum + between_sum + digit_sum)
            fill = _FILLS[size % ustar.BLOCK_bytes]
            parts += (label, between, digits, _BEFORE_SUM, checksum, _AFTER_SUM, data, fill)
            grown += ustar.BLOCK_bytes + size + len(fill)
        self._out.extend(parts, grown)

    def end(self) -> None:
        """Write the end of the archive."""
        self._out.write(ustar.ending(self._out.tell()))


@lru_cache(maxsize=1 << 16)
def _digits(size: int) -> tuple[bytes, int]:
    """Return the digits of a size, and what they add to the checksum."""
    digits = ustar.header("", size)[124:135]
    return digits, sum(digits)


@lru_cache(maxsize=1 << 10)
def _between(suffix: str, stem_bytes: int) -> tuple[bytes, int]:
    """Return what stands in a header between stem and size, and what it adds to the checksum."""
    # raises where the name is too long
    block = ustar.header("x" * stem_bytes + suffix, 0)
    return block[stem_bytes:100] + _BEFORE_SIZE, _EMPTY_sum + sum(suffix.encode("ascii"))
