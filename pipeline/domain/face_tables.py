"""Faces in a table: pixels, and who is on each; what a trainer learns from and a verification is asked about.

Legend: N pictures, H W C image axes, I identities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import UInt8

AT_ONCE = 256
"""Pictures in memory at a time, where many are read."""


@dataclass(frozen=True, slots=True, eq=False)
class FaceTable:
    """Faces of one source, all of one size.

    Attributes:
        name: what the source is, for the record and for messages.
        digest: SHA-256 over label, name and pixels of every face, in the source's order.
        faces_NHWC: uint8 RGB; may be mapped from a file, so that rows are asked for in blocks.
        labels_N: int64, place of each face's label in `label_names`.
        label_names: labels in the order in which they first came.
    """

    name: str
    digest: str
    faces_NHWC: UInt8
    labels_N: npt.NDArray[np.int64]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels_N)

    def first_rows(self, most: int) -> list[list[int]]:
        """Return, per identity, the rows of its first pictures, at most so many."""
        rows: list[list[int]] = [[] for _ in self.label_names]
        for row, owner in enumerate(self.labels_N.tolist()):
            if len(rows[owner]) < most:
                rows[owner].append(row)
        return rows

    def faces_of(self, rows: Sequence[int]) -> Iterator[UInt8]:
        """Yield the faces of these rows, in order, in blocks that fit into memory."""
        for at in range(0, len(rows), AT_ONCE):
            yield np.asarray(self.faces_NHWC[list(rows[at : at + AT_ONCE])])

    def labels_without(self, removed: AbstractSet[int]) -> npt.NDArray[np.int64]:
        """Return labels dense over the identities that are left, int64 of shape (N,); -1 for those removed."""
        dense = np.full(len(self.label_names), -1, np.int64)
        kept = [owner for owner in range(len(self.label_names)) if owner not in removed]
        dense[kept] = np.arange(len(kept))
        labels: npt.NDArray[np.int64] = dense[self.labels_N]
        return labels
