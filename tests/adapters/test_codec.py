"""The JPEG codec: what is stored decodes to what is judged, and nothing else decodes at all."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.adapters.codec import SOURCE_TYPE, JpegCodec, JpegOptions, PhotographCodec, source_type
from pipeline.adapters.decoding.marks import marks_of
from pipeline.domain.ports import Codec
from pipeline.domain.records import UInt8


@pytest.fixture
def face() -> UInt8:
    """Return a smooth picture whose three channels differ, of a size that is no multiple of a JPEG block."""
    y, x = np.mgrid[0:75, 0:61]
    return np.stack([3 * x, 200 - y, 40 + 2 * y], axis=-1).astype(np.uint8)


def test_round_trip_stays_near(face: UInt8) -> None:
    """Decoding gives the picture back: size, type, channel order, and nearly every value."""
    codec: Codec = JpegCodec()
    back = codec.decode(codec.encode(face))
    assert back.shape == face.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - face).mean() < 1.0


def test_other_decoders_see_the_same_colours(face: UInt8) -> None:
    """The channels are red, green, blue for pillow too."""
    seen = np.asarray(Image.open(io.BytesIO(JpegCodec().encode(face))).convert("RGB"))
    assert np.abs(seen.astype(int) - face).mean() < 1.0


def test_encoding_repeats(face: UInt8) -> None:
    """Equal pixels give equal bytes, whatever the memory layout they come in."""
    codec = JpegCodec()
    assert codec.encode(face) == codec.encode(np.asfortranarray(face)) == JpegCodec().encode(face.copy())


def test_options_reach_the_encoder(face: UInt8) -> None:
    """Lower quality is smaller, and the subsampling asked for is in the header."""
    import simplejpeg

    assert len(JpegCodec(JpegOptions(quality=40)).encode(face)) < len(JpegCodec(JpegOptions(quality=95)).encode(face))
    for subsampling in ("444", "422", "420"):
        assert (
            simplejpeg.decode_jpeg_header(JpegCodec(JpegOptions(subsampling=subsampling)).encode(face))[3]
            == subsampling
        )


def _damaged(data: bytes) -> dict[str, bytes]:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    return {
        "empty": b"",
        "png": png.getvalue(),
        "text": b"not a picture",
        "half": data[: len(data) // 2],
        "half with end mark": data[: len(data) // 2] + b"\xff\xd9",
        "without end mark": data[:-2],
        "byte after the end": data + b"\0",
        "late start": data[1:],
        "marks alone": b"\xff\xd8\xff\xd9",
        "no header": b"\xff\xd8" + data[300:],
    }


@pytest.mark.parametrize("kind", list(_damaged(b"")))
def test_what_is_not_a_whole_jpeg_is_refused(face: UInt8, kind: str) -> None:
    """Every kind of damage is a ValueError of one line, never a grey lower half."""
    codec = JpegCodec()
    with pytest.raises(ValueError, match="bytes that") as caught:
        codec.decode(_damaged(codec.encode(face))[kind])
    assert "\n" not in str(caught.value)


def test_flipped_bytes_never_crash(face: UInt8) -> None:
    """A damaged body either decodes to a picture of the same size or is a ValueError."""
    codec = JpegCodec()
    data = codec.encode(face)
    for place in range(2, len(data) - 2, 7):
        spoilt = bytearray(data)
        spoilt[place] ^= 0xFF
        assert _shape_or_message(codec, bytes(spoilt)) in (face.shape, "one line")


def _shape_or_message(codec: JpegCodec, data: bytes) -> object:
    try:
        return codec.decode(data).shape
    except ValueError as error:
        return str(error) if "\n" in str(error) else "one line"


def test_header_that_claims_a_huge_picture(face: UInt8) -> None:
    """Altered header bytes do not make the decoder ask for gigabytes."""
    data = bytearray(JpegCodec().encode(face))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\x7f\xff\x7f\xff"
    with pytest.raises(ValueError, match="32767 x 32767 pixels"):
        JpegCodec().decode(bytes(data))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
)
def test_what_is_not_a_picture_is_not_encoded(wrong: Any) -> None:
    """Floats, grey, alpha, batches and nothing are refused with what is allowed."""
    with pytest.raises(ValueError, match=r"uint8 RGB of shape \(H, W, 3\)"):
        JpegCodec().encode(wrong)


def test_options_take_yaml_forms() -> None:
    """An unquoted 444 of YAML is the word; the defaults are the documented ones."""
    assert JpegOptions.model_validate({"use": "jpeg", "subsampling": 420}).subsampling == "420"
    assert JpegOptions() == JpegOptions(use="jpeg", quality=95, subsampling="444")


@pytest.mark.parametrize(
    "wrong",
    [{"quality": 0}, {"quality": 101}, {"quality": 90.5}, {"quality": True}, {"subsampling": "411"}, {"speed": 1}],
)
def test_options_that_are_refused(wrong: dict[str, Any]) -> None:
    """Impossible numbers, other subsamplings and unknown keys are refused."""
    with pytest.raises(ValidationError):
        JpegOptions.model_validate({"use": "jpeg", **wrong})


def _segments(data: bytes) -> list[tuple[int, bytes]]:
    """Return marker and payload of everything before the scan, read as ITU-T T.81 annex B says."""
    out, place = [], 2
    while data[place + 1] != 0xDA:
        assert data[place] == 0xFF
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        out.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    return out


@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_every_jpeg_says_that_a_model_made_it(face: UInt8, subsampling: Any) -> None:
    """One small XMP segment, right after the JFIF segment, holds the IPTC digital source type."""
    data = JpegCodec(JpegOptions(subsampling=subsampling)).encode(face)
    segments = _segments(data)
    assert [marker for marker, _ in segments[:2]] == [0xE0, 0xE1]
    assert [marker for marker, _ in segments].count(0xE1) == 1
    name, _, packet = segments[1][1].partition(b"\0")
    assert name == b"http://ns.adobe.com/xap/1.0/"
    assert len(segments[1][1]) + 4 < 400
    # the test made these bytes itself
    root = ElementTree.fromstring(packet)  # noqa: S314
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )


def test_pillow_finds_the_mark(face: UInt8) -> None:
    """A decoder that knows nothing of us hands the packet out, and the picture is whole."""
    picture = Image.open(io.BytesIO(JpegCodec().encode(face)))
    picture.load()
    assert SOURCE_TYPE.encode() in picture.info["xmp"]
    assert picture.info["jfif"] == 257


def test_the_mark_changes_no_pixel(face: UInt8) -> None:
    """Without the mark the same bytes are left that libjpeg-turbo wrote, so the picture is the same."""
    import simplejpeg

    plain = simplejpeg.encode_jpeg(face, quality=95, colorspace="RGB", colorsubsampling="444", fastdct=False)
    codec = JpegCodec()
    marked = codec.encode(face)
    start = marked.index(b"\xff\xe1")
    assert marked[:start] + marked[start + len(marked) - len(plain) :] == plain
    assert np.array_equal(codec.decode(marked), codec.decode(plain))


TERM = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.mark.parametrize(
    ("marks", "stated"),
    [
        ((), None),
        (("c2pa",), None),
        (("iptc:digitalCapture",), "digitalCapture"),
        (("c2pa", "iptc:trainedAlgorithmicMedia"), "trainedAlgorithmicMedia"),
        (("iptc:digitalCapture", "iptc:compositeWithTrainedAlgorithmicMedia"), "compositeWithTrainedAlgorithmicMedia"),
        (('iptc:x"/><evil', "iptc:"), None),
    ],
)
def test_photographs_say_of_themselves_what_their_source_said(
    face: UInt8, marks: tuple[str, ...], stated: str | None
) -> None:
    """A photograph is not called generated; a mark that it came with is kept; a credential that is void is not."""
    data = PhotographCodec(JpegOptions(quality=90)).encode(face, marks)
    assert source_type(data) == (stated and TERM + stated)
    assert marks_of(data, "jpeg") == ((f"iptc:{stated}",) if stated else ())
    assert b"Iptc4xmpExt" in data or not stated


def test_photographs_have_the_pixels_that_the_judge_sees(face: UInt8) -> None:
    """Marked or not, and whichever codec wrote it, a picture decodes to the same pixels."""
    minted, photographed = JpegCodec(), PhotographCodec()
    seen = [minted.encode(face), photographed.encode(face), photographed.encode(face, ["iptc:digitalCapture"])]
    assert len(set(seen)) == 3
    for data in seen[1:]:
        np.testing.assert_array_equal(photographed.decode(data), minted.decode(seen[0]))
