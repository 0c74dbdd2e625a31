"""A folder per identity: `root/<label>/<image>`, aligned crops of any of four formats.

The order is that of labels, then names, both by code point. Hidden files and folders (a leading dot) and symbolic
links are left alone: a link may lead anywhere, or twice to the same face.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.adapters.labelled.pictures import decode, sniff
from pipeline.domain.errors import UserError
from pipeline.domain.ports import LabelledFace
from pipeline.domain.records import UInt8
from pipeline.domain.space import Space

LARGEST_bytes = 64 << 20
"""A file larger than this is no face crop and is not read."""


class FolderFaces:
    """Implements `ports.LabelledFaces` over a folder per identity."""

    space: Space | None = None

    def __init__(self, root: Path, *, side_px: int, skip_unreadable: bool | None = None) -> None:
        """Take the folder.

        Args:
            root: holds one folder per identity; its name is the label.
            side_px: side of the recogniser's crops; images of another size are refused.
            skip_unreadable: leave out what cannot be read, and list it in `skipped`, instead of stopping at it; None
                where nobody could ask for it.

        Raises:
            UserError: `root` is no folder, or holds no folder of an identity.
        """
        self.name = str(root)
        self.skipped: list[str] = []
        """Files that the last pass left out, as `label/file: why`."""
        self._root, self._side_px, self._skip = root, side_px, bool(skip_unreadable)
        # only some verbs can leave files out; advice to pass an option that is not there helps nobody
        self._way_out = "" if skip_unreadable is None else ", or pass --skip-unreadable"
        if not root.is_dir():
            raise UserError(f"{root}: is no folder; name one that holds a folder of images per identity")
        if not _entries(root, folders=True):
            raise UserError(f"{root}: holds no folder of an identity; lay images out as {root}/<identity>/<image>")

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield every face.

        Raises:
            UserError: a file cannot be read as an aligned crop, or lies outside an identity's folder.
        """
        self.skipped = []
        for stray in _entries(self._root, folders=False):
            if sniff(_head(stray)) is not None:
                raise UserError(f"{stray}: an image outside an identity's folder; put it into the folder of its person")
        for folder in _entries(self._root, folders=True):
            inner = _entries(folder, folders=True)
            if inner:
                raise UserError(f"{inner[0]}: a folder inside an identity's folder; put its images one level up")
            for path in _entries(folder, folders=False):
                name = f"{folder.name}/{path.name}"
                face = self._read(path, name)
                if face is not None:
                    yield LabelledFace(label=folder.name, name=name, face_HWC=face)

    def _read(self, path: Path, name: str) -> UInt8 | None:
        try:
            size = path.stat().st_size
            if size > LARGEST_bytes:
                raise ValueError(f"{size:,} bytes, at most {LARGEST_bytes:,} are read")
            return decode(path.read_bytes(), self._side_px)
        except (ValueError, OSError) as error:
            why = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
            if not self._skip:
                raise UserError(f"{path}: {why}; remove the file{self._way_out}") from None
            self.skipped.append(f"{name}: {why}")
            return None


def _entries(folder: Path, *, folders: bool) -> list[Path]:
    """Return the plain folders, or the plain files, of a folder in order of name."""
    try:
        with os.scandir(folder) as found:
            names = [
                e.name
                for e in found
                if not e.name.startswith(".")
                and (e.is_dir(follow_symlinks=False) if folders else e.is_file(follow_symlinks=False))
            ]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    return [folder / name for name in sorted(names)]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""
