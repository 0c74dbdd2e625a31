"""Exports of our own as labelled faces: WebDataset shards and RecordIO, read front to back from any store.

Image folders are read as folders. Layouts: WebDataset (webdataset.github.io/webdataset), RecordIO (dmlc-core's
`recordio.h`, MXNet's `IRHeader`); a record split at magic words is put together again.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.ports import Codec, LabelledFace, Store
from pipeline.domain.space import Space

MANIFEST = "manifest.json"
KINDS = ("webdataset", "recordio")
READ_bytes = 1 << 22
_MAGIC = struct.pack("<I", 0xCED7230A)
_WHOLE, _LAST = 0, 3
_HEADER = struct.Struct("<IfQQ")


class ExportedFaces:
    """Implements `ports.LabelledFaces` over a finished export; labels are the version's."""

    space: Space | None = None

    def __init__(self, store: Store, codec: Codec, *, side_px: int) -> None:
        """Read the export's manifest.

        Raises:
            UserError: no finished export of a known kind is there.
        """
        manifest = export_manifest(store)
        if manifest is None or manifest["kind"] not in KINDS:
            kind = manifest["kind"] if manifest else "nothing finished"
            raise UserError(f"{store.uri}: {kind} is no export that is read here; give one of {', '.join(KINDS)}")
        self.manifest = manifest
        about = manifest["source"]
        self.name = f"{store.uri} {about['version']} ({about['digest'][:16]}) as {manifest['kind']}"
        self._store, self._codec, self._side_px = store, codec, side_px

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield every image in the order of the files.

        Raises:
            UserError: an image is of another size.
            StoreError: a file is missing, cut short or damaged.
        """
        paths = sorted(f["path"] for f in self.manifest["files"])
        read, suffix = (self._shard, ".tar") if self.manifest["kind"] == "webdataset" else (self._records, ".rec")
        for path in paths:
            if path.endswith(suffix):
                for label, name, data in read(path):
                    yield self._face(label, name, data, path)

    def _face(self, label: str, name: str, data: bytes, path: str) -> LabelledFace:
        try:
            face = self._codec.decode(data)
        except ValueError as error:
            raise StoreError(f"{path}: image {name} does not decode ({error}); export again") from None
        if face.shape != (self._side_px, self._side_px, 3):
            raise UserError(
                f"{self.name}: images of {face.shape[1]} x {face.shape[0]} pixels where aligned crops of "
                f"{self._side_px} x {self._side_px} are expected; choose the recogniser this dataset was judged by"
            )
        return LabelledFace(label=label, name=name, face_HWC=face)

    def _shard(self, path: str) -> Iterator[tuple[str, str, bytes]]:
        held: dict[str, dict[str, bytes]] = {}
        try:
            with tarfile.open(fileobj=_opened(self._store, path), mode="r|") as archive:
                for member in archive:
                    key, _, kind = member.name.partition(".")
                    file = archive.extractfile(member)
                    if file is None or kind not in ("cls", "jpg"):
                        continue
                    parts = held.setdefault(key, {})
                    parts[kind] = file.read()
                    if len(parts) == 2:
                        del held[key]
                        yield str(int(parts["cls"])), key, parts["jpg"]
        except (tarfile.TarError, ValueError) as error:
            raise StoreError(f"{path}: damaged ({error}); export again") from None
        if held:
            raise StoreError(f"{path}: {next(iter(held))} lacks its image or its label; export again")

    def _records(self, path: str) -> Iterator[tuple[str, str, bytes]]:
        file = _opened(self._store, path)
        number = 0
        while (payload := _payload(file, path)) is not None:
            flag, label, _, _ = _HEADER.unpack(payload[: _HEADER.size])
            # a flag counts labels that follow: the headers of the legacy layout, which hold no image
            if not flag:
                yield str(int(label)), str(number), payload[_HEADER.size :]
            number += 1


def export_manifest(store: Store) -> dict[str, Any] | None:
    """Return the manifest of a finished export at a store, or None where there is none."""
    try:
        return manifest_in(store.get(MANIFEST))
    except FileNotFoundError:
        return None


def manifest_in(data: bytes) -> dict[str, Any] | None:
    """Return the manifest of a finished export that a file holds, or None where it holds none."""
    try:
        raw = json.loads(data)
    except ValueError:
        return None
    known = isinstance(raw, dict) and {"kind", "source", "files"} <= raw.keys()
    return raw if known else None


def _payload(file: io.BufferedReader, path: str) -> bytes | None:
    parts: list[bytes] = []
    while True:
        head = file.read(8)
        if not head and not parts:
            return None
        if len(head) < 8 or head[:4] != _MAGIC:
            raise StoreError(f"{path}: damaged before byte {file.tell():,}; export again")
        flag, length = divmod(struct.unpack("<I", head[4:])[0], 1 << 29)
        data = file.read(length + -length % 4)
        if len(data) < length:
            raise StoreError(f"{path}: cut short; export again")
        parts.append(data[:length])
        if flag in (_WHOLE, _LAST):
            return _MAGIC.join(parts)


def _opened(store: Store, path: str) -> io.BufferedReader:
    size = store.size(path)
    if size is None:
        raise StoreError(f"{path}: missing; export again")
    return io.BufferedReader(_Ranges(store, path, size), READ_bytes)


class _Ranges(io.RawIOBase):
    """A stored file as a stream: bytes are fetched in ranges."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        super().__init__()
        self._store, self._path, self._size, self._at = store, path, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._at)
        if count:
            buffer[:count] = self._store.get_range(self._path, self._at, count)
            self._at += count
        return count

    def tell(self) -> int:
        return self._at
