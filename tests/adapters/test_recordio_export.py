"""The RecordIO export: framing by dmlc's description, both of InsightFace's layouts, and what its trainers rely on."""

from __future__ import annotations

import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.exporters.recordio import RecordIOExporter, RecordIOOptions, framed, header_of
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import OutputError
from pipeline.domain.manifest import IndexRow
from pipeline.domain.records import UInt8
from pipeline.flow.versions import published_rows, read_manifest
from tests.contracts.test_exporter_contract import places_of, read_record, unpack
from tests.worlds import mint, sketches

MAGIC = struct.pack("<I", 0xCED7230A)
ABOUT = {"name": "tiny", "version": "v000001", "digest": "d" * 64, "seed": 7}


@pytest.fixture(scope="module")
def source() -> MemoryStore:
    """Return a published dataset of 10 identities with 3 images each."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    return store


def exported(source: MemoryStore, *, legacy: bool) -> MemoryStore:
    """Return its export."""
    target = MemoryStore()
    wiring.export_on(source, RecordIOExporter(RecordIOOptions(legacy=legacy)), target)
    return target


def records(target: MemoryStore) -> dict[int, bytes]:
    """Return number -> record, read from the start of the file to its end without the idx file."""
    rec, place, found = target.get("train.rec"), 0, {}
    numbers = {place: number for number, place in places_of(target).items()}
    while place < len(rec):
        start = place
        record, place = read_record(rec, place)
        found[numbers[start]] = record
    assert place == len(rec)
    return found


@given(
    st.lists(st.one_of(st.binary(max_size=9), st.just(MAGIC), st.just(MAGIC[:2])), max_size=12).map(b"".join),
    st.binary(max_size=40),
)
def test_any_payload_survives_between_others(payload: bytes, neighbour: bytes) -> None:
    """Records with magic words at every place are read back as they were, and the next begins where it should."""
    rec = framed(payload) + framed(neighbour) + framed(payload)
    place, found = 0, []
    while place < len(rec):
        record, place = read_record(rec, place)
        found.append(record)
    assert found == [payload, neighbour, payload]


@pytest.mark.parametrize("before", range(9))
@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_magic_word_at_every_alignment(before: int, after: int, times: int) -> None:
    """Split where it stands at a multiple of four and nowhere else, so that no part has one where readers look."""
    payload = bytes(range(1, before + 1)) + MAGIC * times + b"z" * after
    frame = framed(payload)
    assert read_record(frame, 0) == (payload, len(frame))
    aligned = [at for at in range(0, len(frame), 4) if frame[at : at + 4] == MAGIC]
    assert len(aligned) == (times + 1 if before % 4 == 0 else 1)


def test_known_frames() -> None:
    """Frames written out by hand: whole, split once, split at the very start and end, empty."""
    word = struct.Struct("<I").pack
    assert framed(b"abcde") == MAGIC + word(5) + b"abcde\0\0\0"
    split = MAGIC + word(1 << 29 | 4) + b"abcd" + MAGIC + word(3 << 29 | 2) + b"ef\0\0"
    assert framed(b"abcd" + MAGIC + b"ef") == split
    ends = MAGIC + word(1 << 29) + MAGIC + word(2 << 29 | 4) + b"abcd" + MAGIC + word(3 << 29)
    assert framed(MAGIC + b"abcd" + MAGIC) == ends
    assert framed(b"") == MAGIC + word(0)
    assert header_of(5, 3) == struct.pack("<IfQQ", 0, 3.0, 5, 0)


def test_images_that_hold_the_magic_word_survive_an_export() -> None:
    """Published JPEGs with the word at all alignments come out of the file with every byte."""
    plain = JpegCodec().encode(grey_face())
    store, rows, wanted, tar = MemoryStore(), [], {}, b""
    for n in range(8):
        image = plain[:-2] + b"\xff\xfe\x00\x20" + bytes(n) + MAGIC * 2 + bytes(24 - n) + b"\xff\xd9"
        rows.append(IndexRow(n, f"i{n:08d}", n, "all", "make-g0-000000", len(tar), len(image)))
        wanted[n], tar = image, tar + image
    store.put("segments/make-g0-000000.tar", tar)
    target = MemoryStore()
    RecordIOExporter().export(store, rows, target, ABOUT)
    found = {int(label[0]): body for _, label, _, body in map(unpack, records(target).values())}
    assert found == wanted


def grey_face() -> UInt8:
    """Return a small grey face."""
    return np.full((16, 24, 3), 90, np.uint8)


def test_flat_layout(source: MemoryStore) -> None:
    """Numbers run from 0, every record is an image of flag 0 with its number as id, and identities are mixed."""
    found = records(exported(source, legacy=False))
    assert list(found) == list(range(30))
    labels = []
    for number, record in found.items():
        flag, (label,), id_, body = unpack(record)
        assert (flag, id_, body[:2]) == (0, number, b"\xff\xd8")
        labels.append(int(label))
    assert Counter(labels) == dict.fromkeys(range(10), 3)
    assert len(set(labels[:8])) >= 4


def test_legacy_layout(source: MemoryStore) -> None:
    """Record 0, the last written, gives the range of the identities' headers, and each of them that of its images."""
    found = records(exported(source, legacy=True))
    assert list(found) == [*range(1, 41), 0]
    flag, (first, end), id_, body = unpack(found[0])
    assert (flag, first, end, id_, body) == (2, 31, 41, 0, b"")
    assert struct.unpack_from("<Q", found[0], 16) == (1,)
    covered = []
    for label, number in enumerate(range(31, 41)):
        flag, (start, stop), id_, body = unpack(found[number])
        assert (flag, id_, body) == (2, number, b"")
        for image in range(int(start), int(stop)):
            assert unpack(found[image])[:3] == (0, (float(label),), image)
            covered.append(image)
    assert covered == list(range(1, 31))


@pytest.mark.parametrize("legacy", [False, True])
def test_the_rule_of_the_torch_dataset_class_finds_every_image(source: MemoryStore, *, legacy: bool) -> None:
    """`arcface_torch` asks record 0 for its flag: above 0 images are 1 to label[0] - 1, otherwise all numbers."""
    found = records(exported(source, legacy=legacy))
    flag, label, _, _ = unpack(found[0])
    numbers = range(1, int(label[0])) if flag > 0 else list(found)
    images = [unpack(found[n]) for n in numbers]
    assert len(images) == 30
    assert Counter(int(label[0]) for _, label, _, _ in images) == dict.fromkeys(range(10), 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_lst_and_property(source: MemoryStore, *, legacy: bool) -> None:
    """The list says which image each record is, and the property file classes, height and width in one line."""
    target = exported(source, legacy=legacy)
    found = records(target)
    lines = [line.split("\t") for line in target.get("train.lst").decode().splitlines()]
    assert [int(n) for n, _, _ in lines] == sorted(int(n) for n, _, _ in lines)
    assert len({name for _, _, name in lines}) == 30
    for number, label, _ in lines:
        assert unpack(found[int(number)])[1] == (float(label),)
    assert target.get("property") == b"10,32,32\n"


def test_height_stands_before_width() -> None:
    """`property` follows InsightFace: classes, height, width."""
    image = JpegCodec().encode(grey_face())
    store, target = MemoryStore(), MemoryStore()
    store.put("segments/make-g0-000000.tar", image)
    RecordIOExporter().export(store, [IndexRow(0, "a", 0, "all", "make-g0-000000", 0, len(image))], target, ABOUT)
    assert target.get("property") == b"1,16,24\n"


def test_another_seed_gives_another_order_in_the_flat_layout_alone(source: MemoryStore) -> None:
    """The legacy layout is sorted by label and key, whatever the seed."""
    for legacy in (False, True):
        lists = []
        for seed in (7, 8):
            target = MemoryStore()
            rows = published_rows(Segments(), source, read_manifest(source, "v000001"))
            RecordIOExporter(RecordIOOptions(legacy=legacy)).export(source, rows, target, ABOUT | {"seed": seed})
            lists.append(target.get("train.lst"))
        assert (lists[0] == lists[1]) is legacy


class _Many(list[IndexRow]):
    """An index that claims more rows than it has."""

    def __len__(self) -> int:
        return 2**24


def test_numbers_that_a_float_does_not_hold_are_refused(source: MemoryStore) -> None:
    """Ranges beyond 2**24 would be rounded; the legacy layout refuses them and names the flat one."""
    row = IndexRow(0, "a", 0, "all", "make-g0-000000", 0, 10)
    target = MemoryStore()
    with pytest.raises(OutputError, match=r"exact only to 16,777,216; use the flat layout"):
        RecordIOExporter(RecordIOOptions(legacy=True)).export(source, _Many([row]), target, ABOUT)
    assert target.list("") == []


def test_an_empty_version_is_refused(source: MemoryStore) -> None:
    """Readers open record 0, so an export without one would not be readable."""
    with pytest.raises(OutputError, match="no image to export"):
        RecordIOExporter().export(source, [], MemoryStore(), ABOUT)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_snippet_of_the_card_runs(
    source: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, legacy: bool
) -> None:
    """The reader that the card shows reads the first image, and the two numbers are right."""
    store = LocalStore(tmp_path)
    wiring.export_on(source, RecordIOExporter(RecordIOOptions(legacy=legacy)), store)
    card = store.get("README.md").decode()
    numbers, reader = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert numbers.splitlines() == ["config.num_classes = 10", "config.num_image = 30"]
    monkeypatch.chdir(tmp_path)
    reader = reader.replace('open("train.rec", "rb")', "rec").replace('open("train.idx")', "idx")
    with Path("train.rec").open("rb") as rec, Path("train.idx").open() as idx:
        names = {"rec": rec, "idx": idx}
        exec(reader, names)  # noqa: S102 - the card's own code
    first = store.get("train.lst").decode().split("\n")[0].split("\t")
    assert names["label"] == int(first[1])
    assert JpegCodec().decode(names["jpeg"]).shape == (32, 32, 3)  # type: ignore[arg-type]
