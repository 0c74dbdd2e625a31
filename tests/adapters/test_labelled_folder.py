"""Folders of aligned crops: what is read, in which order, and what is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.adapters.labelled.folder import FolderFaces
from pipeline.adapters.labelled.pictures import decode
from pipeline.domain.errors import UserError

NOISE = np.random.default_rng(3).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def picture(kind: str, pixels: np.ndarray = NOISE, **options: object) -> bytes:
    """Return pixels encoded as PNG, JPEG, WEBP or BMP."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> Path:
    """Return a folder that holds these files."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]
)
def test_four_formats_are_read_whatever_their_name(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    """The format is told by content: any of the four, under any suffix; those without loss come exactly."""
    root = folder(tmp_path, {"p/face.txt": picture(kind, **options)})

    (face,) = FolderFaces(root, side_px=32)

    assert (face.label, face.name) == ("p", "p/face.txt")
    assert face.face_HWC is not None
    if kind != "JPEG":
        np.testing.assert_array_equal(face.face_HWC, NOISE)
    assert face.face_HWC.shape == (32, 32, 3)


def test_order_is_by_label_then_name(tmp_path: Path) -> None:
    """Faces come sorted by code point, however the file system lists them; hidden files and links do not come."""
    data = picture("PNG")
    root = folder(tmp_path / "set", {f"{d}/{n}": data for d in ("b", "a", "B") for n in ("2.png", "10.png", "1.png")})
    folder(root, {"a/.hidden.png": data, ".cache/x.png": data, "notes.txt": b"read me"})
    outside = folder(tmp_path / "outside", {"c.png": data})
    (root / "a" / "link.png").symlink_to(outside / "c.png")
    (root / "linked").symlink_to(outside)

    names = [f.name for f in FolderFaces(root, side_px=32)]

    assert names == [f"{d}/{n}" for d in ("B", "a", "b") for n in ("1.png", "10.png", "2.png")]


def animation() -> bytes:
    """Return a WebP of two pictures."""
    data = io.BytesIO()
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return data.getvalue()


def holed(data: bytes) -> bytes:
    """Return a JPEG with 30 zeroed bytes in its middle."""
    middle = len(data) // 2
    return data[:middle] + bytes(30) + data[middle + 30 :]


BAD = {
    "text": (b"<html>not a picture</html>", "no JPEG, PNG, WebP or BMP"),
    "empty": (b"", "no JPEG, PNG, WebP or BMP"),
    "gif": (picture("GIF"), "no JPEG, PNG, WebP or BMP"),
    "cut jpeg": (picture("JPEG")[:-200], "JPEG"),
    "holed jpeg": (holed(picture("JPEG", quality=95)), "JPEG"),
    "cut png": (picture("PNG")[:-200], "damaged PNG"),
    "png header alone": (picture("PNG")[:20], "damaged PNG"),
    "cut bmp": (picture("BMP")[:-100], "damaged BMP"),
    "cut webp": (picture("WEBP", lossless=True)[:-100], "WEBP"),
    "animation": (animation(), "animation"),
    "transparent": (picture("PNG", np.dstack([NOISE, NOISE[..., 0]])), "mode RGBA"),
    "16 bit": (picture("PNG", NOISE[..., 0].astype(np.uint16) * 257), "mode I;16"),
    "large": (picture("PNG", np.zeros((64, 64, 3), np.uint8)), "64 x 64 pixels where"),
    "oblong": (picture("JPEG", np.zeros((32, 48, 3), np.uint8)), "48 x 32 pixels where"),
}


WHOLE = {kind: picture(kind) for kind in ("PNG", "BMP", "WEBP", "JPEG")}


@pytest.mark.parametrize("kind", BAD)
def test_an_unreadable_picture_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    """What cannot be read in full as one crop ends the pass with its path and the reason."""
    data, told = BAD[kind]
    root = folder(tmp_path, {"p/a.png": picture("PNG"), "p/bad.jpg": data})

    with pytest.raises(UserError, match=told) as caught:
        list(FolderFaces(root, side_px=32))

    assert str(root / "p" / "bad.jpg") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_skipping_counts_what_it_leaves_out(tmp_path: Path) -> None:
    """With skip_unreadable the others come, and every file left out is listed with its reason, once per pass."""
    root = folder(tmp_path, {f"p/{kind}": data for kind, (data, _) in BAD.items()} | {"q/good": picture("PNG")})
    source = FolderFaces(root, side_px=32, skip_unreadable=True)

    for _ in range(2):
        assert [f.name for f in source] == ["q/good"]
        assert len(source.skipped) == len(BAD)
    assert all(line.startswith("p/") and ": " in line for line in source.skipped)


@given(data=st.data(), kind=st.sampled_from(["PNG", "BMP", "WEBP", "JPEG"]))
@settings(max_examples=300, deadline=None)
def test_altered_pictures_are_read_or_refused(data: st.DataObject, kind: str) -> None:
    """Bytes changed or cut anywhere give a crop of the asked size or a ValueError of one line."""
    whole = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 120)))] = data.draw(st.integers(0, 255))
    part = bytes(whole[: data.draw(st.integers(20, len(whole)))])
    try:
        assert decode(part, 32).shape == (32, 32, 3)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded() -> None:
    """A PNG header of 60,000 x 60,000 pixels is refused for its size, not tried."""
    data = bytearray(picture("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2

    with pytest.raises(ValueError, match=r"60000 x 60000|PNG"):
        decode(bytes(data), 32)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no folder of an identity"),
        ({"loose.png": picture("PNG")}, "no folder of an identity"),
        ({"p/a.png": picture("PNG"), "loose.png": picture("PNG")}, "outside an identity's folder"),
        ({"p/a.png": picture("PNG"), "p/more/b.png": picture("PNG")}, "one level up"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    """Loose images and deeper folders are not silently left out."""
    with pytest.raises(UserError, match=told):
        list(FolderFaces(folder(tmp_path, files), side_px=32))


def test_a_crop_of_a_real_photograph_is_read() -> None:
    """A photograph that is no aligned crop is refused by its size."""
    root = Path(__file__).resolve().parents[3] / "shared" / "assets" / "lfw"
    if not root.is_dir():
        pytest.skip("the photographs of ../shared/assets/lfw are not here")
    with pytest.raises(UserError, match="aligned crops of 112 x 112"):
        next(iter(FolderFaces(root, side_px=112)))
