"""A published dataset of our own as labelled faces: the images of its newest version, by identity."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.domain.ports import Codec, LabelledFace, SegmentWriter, Store
from pipeline.domain.space import Space
from pipeline.flow.versions import image_rows, read_newest

READ_TOGETHER_bytes = 1 << 22
"""Neighbouring images of a segment are fetched in one request of at most about so many bytes."""


class DatasetFaces:
    """Implements `ports.LabelledFaces` over a published version; labels are identity ordinals."""

    space: Space | None = None

    def __init__(self, store: Store, segments: SegmentWriter, codec: Codec, *, side_px: int) -> None:
        """Read the newest version's manifest and index.

        Args:
            store: the dataset.
            segments: reads its index.
            codec: decodes its images.
            side_px: side of the recogniser's crops; images of another size are refused.

        Raises:
            UserError: nothing is published there.
            StoreError: manifest or index are missing or damaged.
        """
        manifest = read_newest(store)
        if manifest is None:
            raise UserError(f"{store.uri}: no version is published here; name a dataset that is, or finish this one")
        self.manifest = manifest
        """Of the version whose images these are."""
        self.name = f"{store.uri} {manifest.version} ({manifest.digest[:16]})"
        self._store, self._codec, self._side_px = store, codec, side_px
        # by segment and place, so that neighbours are fetched together; an order that never changes
        self._rows = sorted(image_rows(segments, store, manifest), key=lambda r: (r.segment, r.offset))

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield every image in the order in which segments hold them.

        Raises:
            UserError: an image is of another size than the recogniser's crops.
            StoreError: an image is missing or does not decode.
        """
        for run in _runs(self._rows):
            path, start = segment_path(run[0].segment, "tar"), run[0].offset
            try:
                data = self._store.get_range(path, start, run[-1].offset + run[-1].length - start)
            except FileNotFoundError:
                raise StoreError(f"{path}: missing; restore it from a copy") from None
            for row in run:
                yield self._face(row, data[row.offset - start : row.offset - start + row.length], path)

    def _face(self, row: IndexRow, data: bytes, path: str) -> LabelledFace:
        try:
            face = self._codec.decode(data)
        except ValueError as error:
            raise StoreError(f"{path}: image {row.key} does not decode ({error}); restore it from a copy") from None
        if face.shape != (self._side_px, self._side_px, 3):
            raise UserError(
                f"{self.name}: images of {face.shape[1]} x {face.shape[0]} pixels where the recogniser reads aligned "
                f"crops of {self._side_px} x {self._side_px}; choose the recogniser that this dataset was judged by"
            )
        return LabelledFace(label=str(row.identity), name=row.key, face_HWC=face)


def _runs(rows: list[IndexRow]) -> Iterator[list[IndexRow]]:
    """Yield rows of one segment whose images lie close together."""
    run: list[IndexRow] = []
    for row in rows:
        if run and (row.segment != run[0].segment or row.offset + row.length - run[0].offset > READ_TOGETHER_bytes):
            yield run
            run = []
        run.append(row)
    if run:
        yield run
