"""Images of another size: what is copied, what is encoded again, and what stays of a JPEG's own words."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.exporters.resizing import RESIZED, resized
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.recipe import ExportNode
from pipeline.domain.records import UInt8

ABOUT: dict[str, object] = {}
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>trainedAlgorithmicMedia</x:xmpmeta>"


def picture(side_px: int, seed: int = 0) -> UInt8:
    """Return a smooth square picture."""
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    return np.stack([200 * x, 200 * y, 120 + 100 * np.sin(6 * x + seed)], axis=-1).astype(np.uint8)


def with_xmp(jpeg: bytes) -> bytes:
    """Return a JPEG with an XMP segment behind its first two bytes."""
    return jpeg[:2] + b"\xff\xe1" + (len(XMP) + 2).to_bytes(2, "big") + XMP + jpeg[2:]


def dataset(images: list[bytes]) -> tuple[MemoryStore, list[IndexRow]]:
    """Return a store with one segment of these images, and its index."""
    store, rows, tar = MemoryStore(), [], b""
    for n, image in enumerate(images):
        rows.append(IndexRow(n, f"k{n}", n, "all", "make-g0-000000", len(tar), len(image)))
        tar += image
    store.put("segments/make-g0-000000.tar", tar)
    return store, rows


def read(images: list[bytes], **options: int) -> list[tuple[IndexRow, bytes]]:
    """Return every row with its bytes, as an export would copy them."""
    store, rows = dataset(images)
    with resized(store, rows, ExportNode(use="x", **options), ABOUT) as (source, sized):
        return [(r, source.get_range(f"segments/{r.segment}.tar", r.offset, r.length)) for r in sized]


def test_without_a_size_nothing_is_touched() -> None:
    """The store and the rows are those handed in."""
    store, rows = dataset([JpegCodec().encode(picture(24))])
    with resized(store, rows, ExportNode(use="x"), ABOUT) as found:
        assert found == (store, rows)


def test_only_other_sizes_are_encoded_again() -> None:
    """An image that has the size is read from its segment; the others keep key, label and identity."""
    images = [JpegCodec().encode(picture(side)) for side in (24, 48, 24, 16)]
    found = read(images, image_px=24)
    assert [row.segment == RESIZED for row, _ in found] == [False, True, False, True]
    assert [image for _, image in found][::2] == images[::2]
    assert [(row.label, row.key, row.identity) for row, _ in found] == [(n, f"k{n}", n) for n in range(4)]
    assert {JpegCodec().decode(image).shape for _, image in found} == {(24, 24, 3)}


def test_pixels_are_filtered_when_shrinking() -> None:
    """A fine checkerboard becomes grey: without a filter as wide as the step it would alias into stripes."""
    board = np.kron(np.indices((120, 120)).sum(0) % 2, np.ones((1, 1)))[..., None].repeat(3, -1)
    image = JpegCodec().encode((255 * board).astype(np.uint8))
    ((_, small),) = read([image], image_px=40)
    inner = JpegCodec().decode(small)[4:-4, 4:-4].astype(float)
    assert abs(inner.mean() - 127.5) < 8
    assert inner.std() < 12


def test_a_resized_picture_is_the_same_picture() -> None:
    """Against an area average of the original, a shrunk picture differs little."""
    ((_, small),) = read([JpegCodec().encode(picture(96))], image_px=48, image_quality=95)
    wanted = picture(96).reshape(48, 2, 48, 2, 3).mean((1, 3))
    assert np.abs(JpegCodec().decode(small) - wanted).mean() < 2


def test_quality_is_what_was_asked_for() -> None:
    """Lower quality gives fewer bytes, and the same call the same bytes."""
    image = JpegCodec().encode(picture(96))
    sizes = [len(read([image], image_px=80, image_quality=quality)[0][1]) for quality in (60, 80, 95)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    assert read([image], image_px=80) == read([image], image_px=80)


def words(jpeg: bytes) -> bytes | None:
    """Return the XMP of a JPEG, as Pillow finds it."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        opened.load()
        return opened.info.get("xmp")


def test_words_about_its_origin_are_carried_over() -> None:
    """XMP of the original, which says that an image was generated, stands once in the new one, which still decodes."""
    bare = simplejpeg.encode_jpeg(picture(48), 95, "RGB", "444")
    ((_, small),) = read([with_xmp(bare)], image_px=32)
    assert words(small) == XMP.partition(b"\0")[2]
    assert small.count(XMP) == 1
    assert JpegCodec().decode(small).shape == (32, 32, 3)
    ((_, plain),) = read([bare], image_px=32)
    assert words(plain) is None
    assert small.replace(b"\xff\xe1" + (len(XMP) + 2).to_bytes(2, "big") + XMP, b"") == plain


def test_what_the_codec_writes_is_carried_over() -> None:
    """An image as this project publishes it says the same of itself after it was resized."""
    image = JpegCodec().encode(picture(48))
    ((_, small),) = read([image], image_px=32)
    assert words(small) == words(image)


def test_other_shapes_are_refused() -> None:
    """A picture that is not square would be distorted; its key is named."""
    with pytest.raises(OutputError, match=r"k0: 48 x 24 px; image_px resizes square images only"):
        read([JpegCodec().encode(picture(48)[:24])], image_px=32)


def test_a_damaged_image_is_named() -> None:
    """Bytes between the marks of a JPEG that are none end in one line."""
    with pytest.raises(StoreError, match=r"segments/make-g0-000000.tar: image k0 does not decode"):
        read([b"\xff\xd8" + b"nothing of a JPEG" + b"\xff\xd9"], image_px=32)


def test_nothing_is_left_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was encoded again is gone afterwards, also where the work fails."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    store, rows = dataset([JpegCodec().encode(picture(24))])
    with resized(store, rows, ExportNode(use="x", image_px=16), ABOUT):
        assert list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), resized(store, rows, ExportNode(use="x", image_px=16), ABOUT):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
