"""Puts the faces of a source, as they stream by, into a file that is then mapped into memory.

A trainer asks for its pictures in another order in every epoch. Decoded once and mapped, half a million crops of 112
pixels take 19 GB of disk and as much memory as is free, and cost no decoding any more.

Legend: N pictures, H W C image axes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import OutputError, UserError
from pipeline.domain.face_tables import FaceTable
from pipeline.domain.ports import LabelledFaces
from pipeline.domain.records import UInt8

Tell = Callable[[int], object]
"""Is told how many faces have come; may raise to end it."""


def spool_faces(source: LabelledFaces, folder: Path, tell: Tell = lambda _: None) -> FaceTable:
    """Return the faces of a labelled source; their pixels go into a file of `folder`.

    Raises:
        UserError: the source is empty, holds vectors and no pictures, or pictures of several sizes.
        OutputError: the file cannot be written.
    """
    with _Spool(source.name, folder) as spool:
        for count, face in enumerate(source, start=1):
            if face.face_HWC is None:
                raise UserError(f"{source.name}: holds embeddings, and no pictures to train or test with")
            spool.add(face.label, face.name, face.face_HWC)
            tell(count)
        return spool.table()


def spool_pairs(
    name: str, pairs: Iterable[tuple[UInt8, UInt8, bool]], folder: Path, tell: Tell = lambda _: None
) -> tuple[FaceTable, npt.NDArray[np.bool_]]:
    """Return the pictures of a verification set, 2p and 2p + 1 being pair p, and each pair's truth.

    Nobody says who is on them: labels are digests of pixels, so that a picture of several pairs is known to be one.
    Errors are those of `spool_faces`.
    """
    truths: list[bool] = []
    with _Spool(name, folder) as spool:
        for first, second, same in pairs:
            for part, face in enumerate((first, second)):
                label = hashlib.sha256(np.ascontiguousarray(face).tobytes()).hexdigest()
                spool.add(label, f"{len(truths)}-{part}-{'same' if same else 'other'}", face)
            truths.append(same)
            tell(2 * len(truths))
        return spool.table(), np.array(truths, bool)


class _Spool:
    """A nameless file that pictures of one size are appended to: it is gone however this process ends."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._sha256 = hashlib.sha256()
        self._shape: tuple[int, ...] | None = None
        self._owners: list[int] = []
        self._numbers: dict[str, int] = {}

    def __enter__(self) -> _Spool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=1 << 20)
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def __exit__(self, _kind: Any, _value: Any, _trace: Any) -> None:
        # what is mapped stays; an exception may be that of a full disk, which closing would raise again
        with suppress(OSError):
            self._file.close()

    def add(self, label: str, name: str, face_HWC: UInt8) -> None:
        """Append one picture."""
        if self._shape is None:
            self._shape = face_HWC.shape
        if face_HWC.shape != self._shape:
            raise UserError(
                f"{self._name}: {name} is {face_HWC.shape[1]} x {face_HWC.shape[0]} pixels where the first face is "
                f"{self._shape[1]} x {self._shape[0]}; give aligned crops of one size"
            )
        data = np.ascontiguousarray(face_HWC).tobytes()
        for part in (label.encode(errors="surrogateescape"), name.encode(errors="surrogateescape"), data):
            # each with its length before it, so that no two sources read alike
            self._sha256.update(len(part).to_bytes(8, "big"))
            self._sha256.update(part)
        self._owners.append(self._numbers.setdefault(label, len(self._numbers)))
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from None

    def table(self) -> FaceTable:
        """Return what came, its pixels mapped."""
        if self._shape is None:
            raise UserError(f"{self._name}: no face here; give a source with at least two people")
        try:
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None
        faces = np.memmap(self._file, np.uint8, "r", shape=(len(self._owners), *self._shape))
        return FaceTable(
            self._name, self._sha256.hexdigest(), faces, np.array(self._owners, np.int64), tuple(self._numbers)
        )

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"{self._folder}: cannot be written ({error.strerror}); name a folder with room (--work)")
