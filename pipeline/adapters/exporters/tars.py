"""Tar archives for WebDataset: a sample's members are written in one piece."""

from __future__ import annotations

from pipeline.adapters.exporters.files import HashedFile
from pipeline.domain import ustar


class TarWriter:
    """Appends members to a ustar archive: mode 0444, time and owner 0."""

    def __init__(self, out: HashedFile) -> None:
        self._out = out

    def add(self, *members: tuple[str, bytes]) -> None:
        """Append members by name and content; raises ValueError where a name does not fit a header."""
        parts = [p for name, data in members for p in (ustar.header(name, len(data)), data, ustar.filling(len(data)))]
        self._out.write(b"".join(parts))

    def end(self) -> None:
        """Write the end of the archive."""
        self._out.write(ustar.ending(self._out.tell()))
