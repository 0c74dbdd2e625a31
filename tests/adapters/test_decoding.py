"""Bytes to pixels: what a crawl brings ends as upright 8-bit sRGB or as one reason, and nothing else happens."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.decoding import GuardedDecoder, decode, sniff
from pipeline.adapters.decoding.marks import marks_of
from pipeline.domain.intake import Decoded, DecodeLimits, Reason, Refusal

LIMITS = DecodeLimits(most_bytes=3_000_000)
H, W = 60, 40


def picture(height: int = H, width: int = W) -> np.ndarray:
    """Return a smooth picture whose corners differ: red at the top left, green at the top right, blue below."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * (1 - y / height) * (1 - x / width)
    green = 255 * (1 - y / height) * (x / width)
    return np.stack([red, green, 255 * y / height], axis=-1).astype(np.uint8)


FACE = picture()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as Pillow writes it."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(**options: Any) -> bytes:
    return saved(Image.fromarray(FACE), "JPEG", quality=95, **options)


def png(image: Image.Image | None = None, **options: Any) -> bytes:
    return saved(image or Image.fromarray(FACE), "PNG", **options)


def noise(side: int = 200) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def zeroed(data: bytes, share: float = 0.5, count: int = 60) -> bytes:
    at = int(len(data) * share)
    return data[:at] + b"\0" * count + data[at + count :]


def png_claiming(width: int, height: int) -> bytes:
    """Return a small PNG whose header asks for other dimensions, with a right checksum."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(jpeg())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(np.roll(FACE, n * 5, axis=1)) for n in range(3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def bad_crc() -> bytes:
    data = bytearray(png(noise()))
    at = data.find(b"IDAT") + 30
    data[at] ^= 0xFF
    return bytes(data)


def tagged(orientation: int, kind: str = "JPEG", **options: Any) -> bytes:
    """Return a file that is stored as its EXIF orientation says: undone it is the picture again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90, 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }[orientation](FACE)  # fmt: skip
    return saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)


def bad_exif() -> bytes:
    body = b"Exif\0\0" + b"\xff\x00garbage" * 3
    return jpeg()[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg()[2:]


def profiled(profile: bytes) -> bytes:
    return jpeg(icc_profile=profile)


def wide_gamut() -> bytes:
    """Return the sRGB profile with its description taken away and its red and green primaries swapped."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at, there = data.find(b"rXYZ"), data.find(b"gXYZ")
    data[at : at + 4], data[there : there + 4] = b"gXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))


def grey_profile() -> bytes:
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[16:20] = b"GRAY"
    return bytes(data)


def sixteen(mode: str = "I;16") -> bytes:
    ramp = np.linspace(0, 65_535, H * W).reshape(H, W).astype(np.uint16)
    return png(Image.fromarray(ramp)) if mode == "I;16" else saved(Image.fromarray(ramp.astype(np.int32)), "TIFF")


def see_through(alpha: int) -> bytes:
    rgba = np.dstack([FACE, np.full((H, W), alpha, np.uint8)])
    return png(Image.fromarray(rgba))


def marked_png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "http://cv.iptc.org/newscodes/digitalsourcetype/compositeSynthetic")
    return png(pnginfo=info)


def credentialled_jpeg() -> bytes:
    box = b"\0\0\0\x40jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0"
    body = b"JP\0\1\0\0\0\1" + box
    return jpeg()[:2] + b"\xff\xeb" + struct.pack(">H", len(body) + 2) + body + jpeg()[2:]


GOOD: dict[str, tuple[Callable[[], bytes], str, tuple[str, ...]]] = {
    "jpeg": (jpeg, "jpeg", ()),
    "jpeg, progressive": (lambda: jpeg(progressive=True), "jpeg", ()),
    "jpeg, 4:2:0": (lambda: jpeg(subsampling=2), "jpeg", ()),
    "jpeg, trailing junk": (lambda: jpeg() + b"junk after the end", "jpeg", ("trailing_bytes",)),
    "jpeg, cmyk": (lambda: saved(Image.fromarray(FACE).convert("CMYK"), "JPEG", quality=95), "jpeg", ("cmyk",)),
    "jpeg, damaged exif": (bad_exif, "jpeg", ()),
    "jpeg, garbage icc": (lambda: profiled(b"this is no profile" * 9), "jpeg", ("icc_ignored",)),
    "jpeg, icc of another colour space": (lambda: profiled(grey_profile()), "jpeg", ("icc_ignored",)),
    "jpeg, srgb icc": (
        lambda: profiled(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()), "jpeg", (),
    ),
    "png": (png, "png", ()),
    "png, palette": (lambda: png(Image.fromarray(FACE).quantize(255)), "png", ("palette",)),
    "png, opaque alpha": (lambda: see_through(255), "png", ()),
    "webp": (lambda: saved(Image.fromarray(FACE), "WEBP", lossless=True), "webp", ()),
    "bmp": (lambda: saved(Image.fromarray(FACE), "BMP"), "bmp", ()),
    "tiff": (lambda: saved(Image.fromarray(FACE), "TIFF"), "tiff", ()),
    "tiff, deflated": (lambda: saved(Image.fromarray(FACE), "TIFF", compression="tiff_deflate"), "tiff", ()),
}  # fmt: skip
"""What is the same picture again, within a few levels, and with which notes."""

BAD: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "nothing": (lambda: b"", Reason.EMPTY),
    "too many bytes": (lambda: b"\xff\xd8\xff" + b"\0" * 3_000_000, Reason.TOO_MANY_BYTES),
    "html": (lambda: b"<!DOCTYPE html><html><body>404</body></html>", Reason.NOT_AN_IMAGE),
    "html after blanks and a BOM": (lambda: b"\xef\xbb\xbf \r\n<html>", Reason.NOT_AN_IMAGE),
    "json": (lambda: b'{"error": "gone"}', Reason.NOT_AN_IMAGE),
    "noise": (lambda: bytes(range(7, 250)) * 9, Reason.NOT_AN_IMAGE),
    "zip": (lambda: b"PK\x03\x04" + b"\0" * 90, Reason.NOT_AN_IMAGE),
    "program": (lambda: b"\x7fELF" + b"\0" * 90, Reason.NOT_AN_IMAGE),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Reason.FORMAT_NOT_ALLOWED),
    "pdf": (lambda: b"%PDF-1.7\n" + b"\0" * 90, Reason.FORMAT_NOT_ALLOWED),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + b"\0" * 90, Reason.FORMAT_NOT_ALLOWED),
    "avif": (lambda: b"\0\0\0\x18ftypavif" + b"\0" * 90, Reason.FORMAT_NOT_ALLOWED),
    "video": (lambda: b"\0\0\0\x18ftypisom" + b"\0" * 90, Reason.FORMAT_NOT_ALLOWED),
    "photoshop": (lambda: b"8BPS" + b"\0" * 90, Reason.FORMAT_NOT_ALLOWED),
    "jpeg, half": (lambda: saved(noise(), "JPEG", quality=95)[:9000], Reason.TRUNCATED),
    "jpeg, without its last two bytes": (lambda: jpeg()[:-2], Reason.TRUNCATED),
    "jpeg, progressive, cut": (
        lambda: saved(noise(), "JPEG", quality=95, progressive=True)[:9000], Reason.TRUNCATED,
    ),
    "jpeg, cut in its header": (lambda: jpeg()[:30], Reason.TRUNCATED),
    "jpeg, start marker alone": (lambda: b"\xff\xd8\xff\xe0", Reason.BAD_HEADER),
    "jpeg, zeroed in mid-stream": (lambda: zeroed(saved(noise(), "JPEG", quality=95)), Reason.CORRUPT),
    "jpeg, header asks for more than there is": (lambda: jpeg_claiming(2000, 2000), Reason.TRUNCATED),
    "jpeg, bomb": (lambda: jpeg_claiming(16_000, 16_000), Reason.TOO_MANY_PIXELS),
    "jpeg, a side too long": (lambda: jpeg_claiming(20_000, 3_000), Reason.SIDE_TOO_LONG),
    "jpeg, 12 bits": (lambda: jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), Reason.BAD_HEADER),
    "png, half": (lambda: png(noise())[:9000], Reason.TRUNCATED),
    "png, wrong checksum": (bad_crc, Reason.CORRUPT),
    "png, cut in its header": (lambda: png()[:20], Reason.TRUNCATED),
    "png, bomb": (lambda: png_claiming(12_000, 12_000), Reason.TOO_MANY_PIXELS),
    "png, 2 gigapixels": (lambda: png_claiming(2**31 - 1, 1), Reason.TOO_SMALL),
    "png, elongated": (lambda: png_claiming(1000, 100), Reason.TOO_ELONGATED),
    "png, fully transparent": (lambda: see_through(0), Reason.TRANSPARENT),
    "webp, half": (lambda: saved(noise(), "WEBP", lossless=True)[:20_000], Reason.TRUNCATED),
    "one pixel": (lambda: png(Image.new("RGB", (1, 1))), Reason.TOO_SMALL),
    "gif, animated": (lambda: animation("GIF"), Reason.ANIMATED),
    "png, animated": (lambda: animation("PNG"), Reason.ANIMATED),
    "webp, animated": (lambda: animation("WEBP"), Reason.ANIMATED),
    "tiff, several pages": (lambda: animation("TIFF"), Reason.ANIMATED),
    "tiff, floating point": (
        lambda: saved(Image.fromarray(np.ones((H, W), np.float32)), "TIFF"), Reason.UNSUPPORTED_PIXELS,
    ),
    "tiff, 32 bits": (
        lambda: saved(Image.fromarray(np.full((H, W), 70_000, np.int32)), "TIFF"), Reason.UNSUPPORTED_PIXELS,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedDecoder]:
    """One child for all: none of the cases may end it."""
    with GuardedDecoder(LIMITS) as decoder:
        yield decoder


def decoded(data: bytes, **options: Any) -> Decoded:
    found = decode(data, LIMITS, **options)
    assert isinstance(found, Decoded), found
    return found


@pytest.mark.parametrize("name", GOOD)
def test_the_same_picture_comes_out_of_every_form(name: str, guarded: GuardedDecoder) -> None:
    """Whatever form a picture is stored in, its pixels come out within a few levels, in this process and guarded."""
    make, kind, notes = GOOD[name]
    found = decoded(make())
    assert found.image_HWC.shape == (H, W, 3)
    assert np.abs(found.image_HWC.astype(int) - FACE).mean() < 4
    assert (found.kind, found.notes, found.orientation) == (kind, notes, 1)
    there = guarded.decode(make())
    assert isinstance(there, Decoded)
    np.testing.assert_array_equal(there.image_HWC, found.image_HWC)
    assert (there.kind, there.notes, there.marks) == (found.kind, found.notes, found.marks)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_has_one_reason(name: str, guarded: GuardedDecoder) -> None:
    """Every bad file is refused with the reason of the table, guarded and not, and the decoder goes on."""
    make, reason = BAD[name]
    found = decode(make(), LIMITS)
    assert isinstance(found, Refusal), name
    assert found.reason is reason, found
    assert found.found
    assert guarded.decode(make()) == found
    assert isinstance(guarded.decode(jpeg()), Decoded)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
     ("TIFF", {"compression": "tiff_lzw"})],
)  # fmt: skip
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone(orientation: int, kind: str, options: dict[str, Any]) -> None:
    """All eight EXIF orientations give the picture as its photographer held it, once and not twice, in every format."""
    found = decoded(tagged(orientation, kind, **options))
    assert found.orientation == orientation
    assert found.image_HWC.shape == (H, W, 3)
    assert np.abs(found.image_HWC.astype(int) - FACE).mean() < 4


def test_an_unknown_orientation_is_none() -> None:
    """An orientation that EXIF does not know changes nothing."""
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decoded(jpeg(exif=exif)).orientation == 1


def test_a_preview_behind_a_jpeg_is_no_animation() -> None:
    """What cameras put behind a picture (MPF: previews, gain maps) does not make it an animation."""
    found = decoded(saved(Image.fromarray(FACE), "MPO", save_all=True, append_images=[Image.fromarray(FACE[::2, ::2])]))
    assert found.kind == "jpeg"
    assert np.abs(found.image_HWC.astype(int) - FACE).mean() < 8


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_a_damaged_header_of_a_later_frame_is_a_reason(kind: str) -> None:
    """Counting frames reads every frame's header: damage there is a refusal, never an error of ours."""
    data = animation(kind)
    for at in range(len(data) // 3, len(data)):
        found = decode(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :], LIMITS)
        assert isinstance(found, Decoded | Refusal)


def test_16_bits_are_scaled_and_not_clipped() -> None:
    """A ramp over 16 bits keeps its mean, in a PNG and in a TIFF."""
    for mode in ("I;16", "I"):
        found = decoded(sixteen(mode))
        assert found.notes == ("grey", "16_bit")
        assert abs(found.image_HWC.mean() - 127.5) < 1
        assert found.image_HWC.min() == 0
        assert found.image_HWC.max() == 255


def test_grey_is_three_equal_channels() -> None:
    """Grey JPEG and PNG become RGB with three equal channels."""
    grey = Image.fromarray(FACE).convert("L")
    for data in (saved(grey, "JPEG"), png(grey), png(grey.convert("1"))):
        found = decoded(data)
        assert "grey" in found.notes
        assert np.ptp(found.image_HWC.astype(int), axis=2).max() == 0


def test_alpha_lies_over_mid_grey() -> None:
    """Half transparent pixels are half grey: what an alpha hides is not shown."""
    found = decoded(see_through(128))
    assert found.notes == ("alpha_over_grey",)
    wanted = FACE * (128 / 255) + 128 * (127 / 255)
    assert np.abs(found.image_HWC - wanted).max() <= 1.5


def test_a_profile_of_another_gamut_is_converted() -> None:
    """With the primaries of red and green swapped in its profile, a red picture comes out green."""
    red = np.zeros((H, W, 3), np.uint8)
    red[..., 0] = 220
    found = decoded(saved(Image.fromarray(red), "JPEG", quality=95, icc_profile=wide_gamut()))
    assert found.notes == ("icc_converted",)
    mean = found.image_HWC.reshape(-1, 3).mean(axis=0)
    assert mean[1] > 150 > 60 > mean[0]


def test_first_frames_are_taken_where_asked() -> None:
    """With `first_frame` an animation is its first picture, and says so."""
    for kind in ("GIF", "PNG", "WEBP"):
        found = decoded(animation(kind), first_frame=True)
        assert "first_frame" in found.notes
        assert np.abs(found.image_HWC.astype(int) - FACE).mean() < 20


@pytest.mark.parametrize(
    ("make", "marks"),
    [
        (jpeg, ()),
        (marked_png, ("iptc:compositeSynthetic",)),
        (lambda: JpegCodec().encode(FACE), ("iptc:trainedAlgorithmicMedia",)),
        (credentialled_jpeg, ("c2pa",)),
    ],
)
def test_marks_of_origin_are_read(make: Callable[[], bytes], marks: tuple[str, ...]) -> None:
    """A digital source type and an embedded content credential are found, ours among them."""
    assert decoded(make()).marks == marks


@pytest.mark.parametrize(("kind", "name"), [("png", b"caBX"), ("webp", b"C2PA")])
def test_a_credential_is_a_chunk_and_not_four_bytes(kind: str, name: bytes) -> None:
    """A chunk of that name is a credential; the same four bytes within another chunk are none."""

    def chunk(title: bytes, body: bytes) -> bytes:
        if kind == "png":
            return struct.pack(">I", len(body)) + title + body + struct.pack(">I", zlib.crc32(title + body))
        return title + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    head = b"\x89PNG\r\n\x1a\n" if kind == "png" else b"RIFF\0\0\0\0WEBP"
    assert marks_of(head + chunk(b"odd ", b"123") + chunk(name, b"x"), kind) == ("c2pa",)
    assert marks_of(head + chunk(b"odd ", b"12" + name + b"3") + chunk(b"more", name), kind) == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_content_is_sniffed(kind: str) -> None:
    """What bytes are follows from the bytes."""
    assert sniff(saved(Image.fromarray(FACE), kind)) == kind.lower()


def test_silent_corruption_that_pillow_paints_over_is_refused() -> None:
    """Zeroed bytes in mid-stream, which Pillow decodes without a word, are refused here."""
    data = zeroed(saved(noise(), "JPEG", quality=95))
    Image.open(io.BytesIO(data)).load()
    found = decode(data, LIMITS)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CORRUPT


def test_a_killed_child_costs_nothing_where_the_image_is_good() -> None:
    """A child that is killed is replaced, and the image that it had in hand is decoded after all."""
    with GuardedDecoder(LIMITS) as decoder:
        assert isinstance(decoder.decode(jpeg()), Decoded)
        assert decoder._child is not None
        os.kill(decoder._child.pid, signal.SIGKILL)
        assert isinstance(decoder.decode(jpeg()), Decoded)


def test_a_decode_that_needs_too_much_memory_is_refused() -> None:
    """With little memory a large picture is refused, and the next small one is decoded."""
    large = saved(Image.new("RGB", (7000, 7000)), "PNG")
    with GuardedDecoder(memory_bytes=300_000_000) as decoder:
        small = decoder.decode(jpeg())
        first = decoder._child
        found = decoder.decode(large)
        assert decoder._child is not first, "a child that ran out of memory is not handed another image"
        assert isinstance(small, Decoded), small
        assert isinstance(found, Refusal)
        assert found.reason is Reason.DECODER_OUT_OF_MEMORY
        assert isinstance(decoder.decode(jpeg()), Decoded)


def test_a_stopped_child_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that stands still, even one that does not read what it is handed, is replaced and nothing hangs."""
    monkeypatch.setattr("pipeline.adapters.decoding.guarded._STILL_s", 1.0)
    large = png(noise(400))
    assert len(large) > 1 << 18, "more than a pipe holds"
    with GuardedDecoder() as decoder:
        assert isinstance(decoder.decode(jpeg()), Decoded)
        assert decoder._child is not None
        os.kill(decoder._child.pid, signal.SIGSTOP)
        assert isinstance(decoder.decode(large), Decoded)


@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="the system shows no process's environment")
def test_the_child_sees_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment the child has what Python starts with: foreign bytes are decoded beside nobody's secrets."""
    secrets = {"AWS_SECRET_ACCESS_KEY": "secret-1", "HF_TOKEN": "secret-2", "SOMEBODYS_OWN": "secret-3"}
    for name, value in {**secrets, "LANG": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    with GuardedDecoder() as decoder:
        assert isinstance(decoder.decode(jpeg()), Decoded)
        assert decoder._child is not None
        seen = Path(f"/proc/{decoder._child.pid}/environ").read_bytes()
    assert b"LANG=C.UTF-8\0" in seen
    assert b"PYTHONPATH=" in seen
    assert b"secret" not in seen
    assert not any(name.encode() in seen for name in secrets)


def test_too_many_bytes_are_not_even_handed_over() -> None:
    """A file above the limit is refused without a child being started for it."""
    with GuardedDecoder(DecodeLimits(most_bytes=1000)) as decoder:
        found = decoder.decode(b"x" * 1001)
        assert decoder._child is None
    assert isinstance(found, Refusal)
    assert (found.reason, found.value, found.threshold) == (Reason.TOO_MANY_BYTES, 1001, 1000)


def test_hard_limits_that_somebody_set_are_kept() -> None:
    """Under a hard limit of processor time, which nobody may raise, images are decoded all the same."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (300, 300));"
        "from pipeline.adapters.decoding import GuardedDecoder;"
        "d = GuardedDecoder(); print(type(d.decode(sys.stdin.buffer.read())).__name__); d.close()"
    )
    ran = subprocess.run([sys.executable, "-c", script], input=jpeg(), capture_output=True, check=False)
    assert ran.stdout.strip() == b"Decoded", ran.stderr


CRASHING = """
import os, signal, sys
from pipeline.adapters.decoding import child
kind = {kind!r}
def decode(data, limits, first_frame):
    if data == b"poison":
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        while True:
            pass
    return real(data, limits, first_frame=first_frame)
real, child.decode = child.decode, decode
sys.exit(child.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"), [("crash", Reason.DECODER_CRASHED), ("hang", Reason.DECODER_TOO_SLOW)]
)  # fmt: skip
def test_a_crash_and_a_runaway_cost_one_image(
    kind: str, reason: Reason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A native crash, and a decode that never ends, refuse their image after a second try; the next one is decoded."""
    script = tmp_path / "poisoned.py"
    script.write_text(CRASHING.format(kind=kind))
    real = subprocess.Popen

    def started(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-P", str(script), command[-1]], **options)

    monkeypatch.setattr(subprocess, "Popen", started)
    with GuardedDecoder(LIMITS, cpu_s=1) as decoder:
        found = decoder.decode(b"poison")
        assert isinstance(found, Refusal)
        assert found.reason is reason, found
        assert isinstance(decoder.decode(jpeg()), Decoded)


VALID = [make() for make, _, _ in GOOD.values()]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, len(VALID) - 1),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=12)), min_size=1, max_size=4),
)
def test_mutated_images_never_end_the_decoder(
    which: int, cuts: list[tuple[float, int, bytes]], guarded: GuardedDecoder
) -> None:
    """Valid images with bytes replaced, inserted, removed or cut off end as pixels or as a reason."""
    data = VALID[which]
    for place, what, junk in cuts:
        at = int(place * len(data))
        head, tail = data[:at], data[at:]
        data = (head + junk + tail[len(junk) :], head + junk + tail, head + tail[9:], head)[what]
    found = guarded.decode(data)
    assert isinstance(found, Decoded | Refusal)
    if isinstance(found, Refusal):
        assert found.reason not in (Reason.DECODER_CRASHED, Reason.DECODER_TOO_SLOW)
    else:
        assert found.image_HWC.ndim == 3


def test_strict_decoding_agrees_with_the_codec_of_minted_images() -> None:
    """What facemint stored itself decodes to the same pixels as the codec gives."""
    data = JpegCodec().encode(FACE)
    np.testing.assert_array_equal(decoded(data).image_HWC, JpegCodec().decode(data))
    assert simplejpeg.is_jpeg(data)
