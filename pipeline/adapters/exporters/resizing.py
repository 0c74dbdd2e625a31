"""Images of another size: resized and encoded again into a file of their own, from which an export copies as always.

An image that has the wanted size already is copied from its segment, byte for byte. Pixels are filtered by Lanczos'
kernel, widened when shrinking, so that nothing aliases. What a JPEG says of its origin in XMP (the IPTC digital source
type) is carried over; a signature over the old bytes cannot be.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.adapters.exporters.files import scratch
from pipeline.adapters.exporters.images import with_images
from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.domain.ports import Store
from pipeline.domain.recipe import ExportNode
from pipeline.domain.storage import Range

RESIZED = "resized"
"""The name of the segment that holds them, as rows of the index say it; no unit has such a name."""
_PATH = segment_path(RESIZED, "tar")
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_APP1, _START_OF_SCAN = 0xE1, 0xDA


@contextmanager
def resized(
    source: Store, index: Sequence[IndexRow], options: ExportNode, about: Mapping[str, Any]
) -> Iterator[tuple[Store, Sequence[IndexRow]]]:
    """Give the store and the rows to copy images from; as they are where `image_px` is not asked for.

    `about` says by `crop_margin` what images show beyond the judge's crop, for options that ask for that crop alone.
    The temporary directory holds what was encoded again, memory a window of images.

    Raises:
        OutputError: an image is not square.
        StoreError: an image is not where its row says, or does not decode.
    """
    if options.image_px is None:
        yield source, index
        return
    margin = (about.get("crop_margin") or 0.0) if options.aligned else 0.0
    with scratch("images of another size") as here:
        rows: list[IndexRow] = []
        with (here / RESIZED).open("wb") as out:
            for row, image in with_images(source, index):
                again = _encoded(row, image, options.image_px, options.image_quality, margin)
                if again is None:
                    rows.append(row)
                    continue
                rows.append(replace(row, segment=RESIZED, offset=out.tell(), length=len(again)))
                out.write(again)
        yield _Routed(source, here / RESIZED), rows


class _Routed:
    """Reads ranges of the segments of a store, and of the local file of resized images as one segment more."""

    def __init__(self, source: Store, local: Path) -> None:
        self._source, self._local = source, local

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, as the store does."""
        return self.get_ranges([(path, offset, length)])[0]

    def get_ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        """Return the bytes of many ranges in the order asked for, as the store does."""
        theirs = iter(self._source.get_ranges([one for one in wanted if one[0] != _PATH]))
        with self._local.open("rb") as file:
            return [
                os.pread(file.fileno(), length, offset) if path == _PATH else next(theirs)
                for path, offset, length in wanted
            ]


def _encoded(row: IndexRow, image: bytes, side_px: int, quality: int, margin: float) -> bytes | None:
    """Return an image without its margin at the wanted size, encoded again; None where it is just that."""
    import simplejpeg
    from PIL import Image

    try:
        height_px, width_px, *_ = simplejpeg.decode_jpeg_header(image)
        if height_px == width_px == side_px and not margin:
            return None
        if height_px != width_px:
            raise OutputError(
                f"{row.key}: {width_px} x {height_px} px; image_px resizes square images only, as others would be "
                "distorted: export without it"
            )
        pixels = simplejpeg.decode_jpeg(image, "RGB", fastdct=False, fastupsample=False)
    except ValueError as error:
        what = " ".join(str(error).split())
        raise StoreError(f"{segment_path(row.segment, 'tar')}: image {row.key} does not decode: {what}") from None
    # of a side of 1 + 2 margins the crop begins behind the first
    first_px, last_px = (width_px * share / (1 + 2 * margin) for share in (margin, 1 + margin))
    box = (first_px, first_px, last_px, last_px)
    picture = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.LANCZOS, box=box)
    # without chroma subsampling, as what is small has no colour to spare
    again = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality, "RGB", "444", fastdct=False)
    return _with_xmp(bytes(again), image)


def _with_xmp(again: bytes, original: bytes) -> bytes:
    """Return a JPEG with the XMP segments of another one behind its first marker segment."""
    carried = b"".join(s for s in _segments(original) if s[1] == _APP1 and s[4:].startswith(_XMP))
    if not carried:
        return again
    first = next(_segments(again))
    return again[:2] + first + carried + again[2 + len(first) :]


def _segments(jpeg: bytes) -> Iterator[bytes]:
    """Yield a JPEG's marker segments before its first scan, each with marker and length."""
    file = io.BytesIO(jpeg)
    file.seek(2)
    while (head := file.read(4))[:1] == b"\xff" and len(head) == 4 and head[1] != _START_OF_SCAN:
        yield head + file.read(int.from_bytes(head[2:], "big") - 2)
