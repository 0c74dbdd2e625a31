"""The mark of generated images: XMP in every JPEG of a run, twins and previews too, and still there in exports."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.adapters.codec import SOURCE_TYPE, JpegCodec, source_type
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.flow.commit import receipts
from tests.worlds import mint, sketches


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with twins, refused images and every export that holds JPEGs."""
    out = tmp_path_factory.mktemp("marks") / "set"
    recipe = sketches(
        generator={"use": "sketch", "noise": 2.5},
        attempts=9,
        rounds=8,
        filters=[{"use": "own-template", "fmr": 1e-2}],
        twins=[{"use": "face-mask", "share": 0.5}, {"use": "low-resolution", "share": 0.5, "px": 8}],
        exports=[{"use": name} for name in ("webdataset", "hf", "imagefolder", "recordio")],
    )
    mint(recipe, LocalStore(out))
    return out


def jpegs_in(data: bytes) -> Iterator[bytes]:
    """Yield the JPEGs in the bytes of a RecordIO file, found by their own markers."""
    place = data.find(b"\xff\xd8\xff")
    while place >= 0:
        end = data.find(b"\xff\xd9", place)
        while end >= 0:
            piece = data[place : end + 2]
            try:
                JpegCodec().decode(piece)
            except ValueError:
                end = data.find(b"\xff\xd9", end + 2)
                continue
            yield piece
            break
        place = data.find(b"\xff\xd8\xff", place + 3)


def stored(root: Path) -> dict[str, list[bytes]]:
    """Return every JPEG of the dataset by where it lies."""
    out: dict[str, list[bytes]] = {}
    for path in sorted(root.rglob("*")):
        where = path.relative_to(root).parts[:1] if "exports" not in path.parts else path.relative_to(root).parts[2:3]
        name = where[0] if where else ""
        if path.suffix == ".tar":
            with tarfile.open(path) as archive:
                found = [archive.extractfile(m).read() for m in archive if m.name.endswith(".jpg")]  # type: ignore[union-attr]
        elif path.suffix == ".jpg":
            found = [path.read_bytes()]
        elif path.suffix == ".rec":
            found = list(jpegs_in(path.read_bytes()))
        elif path.suffix == ".parquet" and path.parent.name == "data":
            found = [row["bytes"] for row in pq.read_table(path, columns=["image"])["image"].to_pylist()]
        else:
            continue
        out.setdefault(name, []).extend(found)
    store = LocalStore(root)
    out["previews"] = [
        preview.jpeg
        for name in receipts(store, "make-")
        if store.size(f"previews/{name}.parquet") is not None
        for preview in Segments().read_previews(store, name)
    ]
    return out


def test_every_jpeg_of_a_run_and_of_its_exports_is_marked(root: Path) -> None:
    """Segments with twins, previews, and each export: as many as there are, and none without the mark."""
    found = stored(root)
    assert set(found) == {"segments", "previews", "webdataset", "hf", "imagefolder", "recordio"}
    number = len(found["webdataset"])
    assert all(len(found[name]) == number for name in ("hf", "imagefolder", "recordio"))
    assert len(found["segments"]) >= number > len(found["previews"]) > 0
    for name, jpegs in found.items():
        assert {source_type(data) for data in jpegs} == {SOURCE_TYPE}, name
        assert name == "previews" or set(jpegs) <= set(found["segments"]), name
    keys = [
        k for unit in receipts(LocalStore(root), "make-") for k in Segments().read_audit(LocalStore(root), unit).keys
    ]
    assert sum(k[-4:-2] == "-t" for k in keys) > 5


def with_packet(packet: bytes) -> bytes:
    """Return a JPEG with an XMP packet of somebody else's in place of ours."""
    plain = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(plain, "JPEG")
    data = plain.getvalue()
    body = b"http://ns.adobe.com/xap/1.0/\0" + packet
    return data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def described(inside: str, attribute: str = "") -> bytes:
    """Return an XMP packet with this in its description."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        f'xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{attribute}>{inside}</rdf:Description></rdf:RDF>'
        '</x:xmpmeta><?xpacket end="w"?>'
    ).encode()


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (described("<e:DigitalSourceType>http://x/digitalCapture</e:DigitalSourceType>"), "http://x/digitalCapture"),
        (described("", ' e:DigitalSourceType="http://x/composite"'), "http://x/composite"),
        (described("<e:Event>a</e:Event>"), None),
        (described("<e:DigitalSourceType> </e:DigitalSourceType>"), None),
        (b"<no xml", None),
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + described("", ' e:DigitalSourceType="&b;"'), None),
    ],
)
def test_the_mark_of_others_is_read_in_either_form(packet: bytes, expected: str | None) -> None:
    """As attribute or as element; what is no XMP, or would make a parser expand entities, states nothing."""
    assert source_type(with_packet(packet)) == expected


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x01", b"\xff\xd8\xff\xe1\xff\xff" + b"http"])
def test_bytes_that_are_no_jpeg_state_nothing(data: bytes) -> None:
    """However they end."""
    assert source_type(data) is None
