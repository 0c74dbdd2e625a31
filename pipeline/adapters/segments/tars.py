"""The tar of a segment: accepted images with their side-cars, and where the images lie in it."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.adapters.segments.files import HashedFile, StoredFile, altered
from pipeline.domain.manifest import canonical_json
from pipeline.domain.ports import Store

KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""No dots, at which WebDataset splits a name; short enough for a ustar header."""
READ_AHEAD_bytes = 1 << 18
_BLOCK_bytes = tarfile.BLOCKSIZE


@contextmanager
def tar_writer(out: HashedFile) -> Iterator[tarfile.TarFile]:
    """Open a ustar archive onto `out`; its end is written on leaving."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        yield archive


def add_image(archive: tarfile.TarFile, jpeg: bytes, row: Mapping[str, Any]) -> None:
    """Add `<key>.jpg` and `<key>.json` of one parquet row."""
    _add(archive, f"{row['key']}.jpg", jpeg)
    _add(archive, f"{row['key']}.json", _side_car(row))


def locate(store: Store, path: str) -> dict[str, tuple[int, int]]:
    """Return key -> (offset, length) of every `<key>.jpg`, read from the headers alone.

    Raises:
        FileNotFoundError: `path` is absent.
        StoreError: the tar is truncated or damaged.
    """
    found = {}
    for name, offset, length in _members(store, path):
        key, _, suffix = name.partition(".")
        if suffix == "jpg":
            found[key] = (offset, length)
    return found


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # a fresh TarInfo has time 0, owner 0 and no names
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    archive.addfile(member, io.BytesIO(data))


def _side_car(row: Mapping[str, Any]) -> bytes:
    """Return the JSON beside an image: one schema for all, as loaders infer theirs from the first few."""
    plain = {name: row[name] for name in ("key", "identity", "slot", "attempt", "order", "off_target")}
    return canonical_json(plain | {name: dict(row[name]) for name in ("conditions", "measures")})


def _members(store: Store, path: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and length of every member, up to the archive's end mark.

    Not `tarfile`: it takes a file that was cut between two members for a shorter archive.
    """
    remote = StoredFile(store, path)
    size = remote.seek(0, io.SEEK_END)
    remote.seek(0)
    file, place = io.BufferedReader(remote, READ_AHEAD_bytes), 0
    while (header := file.read(_BLOCK_bytes)) != bytes(_BLOCK_bytes):
        try:
            member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise altered(path, f"no tar header at byte {place} of {size} ({error})") from error
        start = place + _BLOCK_bytes
        place = start + -(-member.size // _BLOCK_bytes) * _BLOCK_bytes
        # a negative size, which a forged header can hold, would lead in a circle
        if not start <= place <= size:
            raise altered(path, f"{member.name} ends at byte {place} of {size}")
        yield member.name, start, member.size
        file.seek(place)
