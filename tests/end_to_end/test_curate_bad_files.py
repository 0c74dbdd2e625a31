"""The bad-data matrix in one run: every file ends as its table says, the run goes on, and the numbers add up."""

from __future__ import annotations

import io
import os
import random
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.intake import Fault
from pipeline.execute.curating import curate
from tests.adapters.test_decoding import BAD, GOOD
from tests.adapters.test_hostile_sources import head
from tests.crawls import GROUND, crawl, crawled, gather, outcomes, picture, png
from tests.worlds import Silent

OTHER_LIMITS = ("too many bytes",)
"""Cases whose limits are smaller in their own test."""


def _hostile_tar(path: Path) -> None:
    """Write a tar with everything that a tar should not hold."""
    good = png(picture(80, 0))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (
            ("0001.png", good), ("../../evil.png", good), ("/etc/evil.png", good), ("0002.v1.2.png", good),
            ("0001.png", good), ("__MACOSX/._0003.png", b"\0\5\26\7"), ("0004.png", b"<html>"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("0005.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\0") + head("cut.png", b"00000777777") + b"\x89PNG")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a crawl with five sound people and everything bad, and path -> the reason that it ends with."""
    root = crawl(tmp_path_factory.mktemp("matrix") / "crawl", {f"p{n:02d}": range(3) for n in range(5)})
    wanted: dict[str, str] = {}

    def put(name: str, data: bytes, reason: str) -> None:
        (root / "bad").mkdir(exist_ok=True)
        (root / "bad" / name).write_bytes(data)
        wanted[f"bad/{name}"] = reason

    for n, (name, (make, reason)) in enumerate(BAD.items()):
        if name not in OTHER_LIMITS:
            put(f"bad-{n:02d}.jpg", make(), str(reason))
    for n, (make, _, _) in enumerate(GOOD.values()):
        # a picture that decodes and is no aligned crop
        put(f"good-{n:02d}.img", make(), "not_an_aligned_crop")
    sound = png(picture(90, 1))
    put("a" * 250 + ".png", png(picture(91, 0)), "too_few_images")
    put("dotted.name.v1.png", b"", "empty")
    # a name that is no UTF-8, and two that differ in case alone
    raw = os.fsencode(root / "bad") + b"/\xff\xfe.png"
    with open(raw, "wb") as file:  # noqa: PTH123 - a Path cannot hold these bytes on every system
        file.write(b"nothing")
    wanted[os.fsdecode(b"bad/\xff\xfe.png")] = "not_an_image"
    put("CASE.png", b"x", "not_an_image")
    put("case.png", b"x", "not_an_image")
    os.mkfifo(root / "bad" / "pipe.jpg")
    wanted["bad/pipe.jpg"] = str(Fault.NOT_A_FILE)
    (root / "bad" / "broken.jpg").symlink_to(root / "nowhere.jpg")
    wanted["bad/broken.jpg"] = str(Fault.LINK_BROKEN)
    (root / "bad" / "loop.jpg").symlink_to(root / "bad" / "loop.jpg")
    wanted["bad/loop.jpg"] = str(Fault.LINK_LOOP)
    secret = root.parent / "secret.png"
    secret.write_bytes(sound)
    (root / "bad" / "out.png").symlink_to(secret)
    wanted["bad/out.png"] = str(Fault.LINK_LEADS_OUT)
    sparse = root / "bad" / "sparse.jpg"
    with sparse.open("wb") as file:
        file.truncate(3 << 30)
    wanted["bad/sparse.jpg"] = str(Fault.TOO_LARGE)
    return root, wanted


def test_every_bad_file_ends_as_the_table_says(matrix: tuple[Path, dict[str, str]]) -> None:
    """Forty bad files and more in one run, decoded in the guarded child: each has its reason, sound ones are kept."""
    root, wanted = matrix
    store = MemoryStore()
    manifest = curate(
        *wiring.curation_on(crawled(root, curate={"minors": "keep", **_asked(root)}), store, Silent())
    ).manifest
    found = {path: why for path, (_, why) in outcomes(store).items() if path in wanted}
    assert found == wanted
    assert len([r for r in wanted.values() if r != "not_an_aligned_crop"]) >= 40
    account = manifest.counts["inputs"]
    assert account["kept"] == 15
    assert account["kept"] + account["refused"] + account["unreadable"] == account["listed"] == 15 + len(wanted)


def _asked(root: Path) -> dict[str, object]:
    from tests.crawls import crawl_recipe

    asked: dict[str, object] = dict(crawl_recipe(root)["curate"])
    return {**asked, "decoding": {"shortest_side_px": 16}, "rows": 40}


def test_a_hostile_archive_is_accounted_for(tmp_path: Path) -> None:
    """Members that lead out, come twice, are links, or end in the middle: each is one input with a reason."""
    people = crawl(tmp_path / "crawl", {f"p{n:02d}": range(3) for n in range(3)})
    (tmp_path / "tars").mkdir()
    _hostile_tar(tmp_path / "tars" / "a.tar")
    (tmp_path / "tars" / "b.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "tars" / "c.tar").write_bytes(b"")
    sources = [
        {"use": "folder", "path": str(people), **GROUND},
        {"use": "webdataset", "path": str(tmp_path / "tars"), **GROUND},
    ]
    store = MemoryStore()
    manifest = gather(crawled(people, sources=sources), store).manifest
    account = manifest.counts["inputs"]
    assert account["kept"] == 9
    assert account["kept"] + account["refused"] + account["unreadable"] == account["listed"]
    reasons = Counter(r for stage in account["reasons"].values() for r in stage)
    assert {"duplicate_key", "not_an_image", "truncated_archive", "bad_archive"} <= set(reasons), reasons
    assert not (tmp_path / "evil.png").exists()


def _fuzzed(root: Path, draw: random.Random, count: int) -> None:
    """Mutate valid pictures: flipped bytes, cut ends, doubled and swapped parts."""
    sources = [make() for make, _, _ in GOOD.values()] + [png(picture(n, 0)) for n in range(4)]
    for n in range(count):
        data = bytearray(draw.choice(sources))
        for _ in range(draw.randint(1, 12)):
            kind = draw.randrange(4)
            place = draw.randrange(max(1, len(data)))
            if kind == 0 and data:
                data[place] = draw.randrange(256)
            elif kind == 1:
                del data[place : place + draw.randint(1, 64)]
            elif kind == 2:
                data[place:place] = data[place : place + draw.randint(1, 64)]
            else:
                del data[draw.randrange(len(data) // 2, len(data) + 1) :]
        (root / "p00" / f"fuzz-{n:05d}.jpg").write_bytes(bytes(data))


def _run_fuzz(tmp_path: Path, *, turns: int, seconds: float = 0.0) -> int:
    """Curate mutated pictures and tars so often, and on until the time is over; return how many inputs there were."""
    draw, begun_s, seen, turn = random.Random(20261121), time.monotonic(), 0, 0
    while time.monotonic() - begun_s < seconds or turn < turns:
        root = crawl(tmp_path / f"turn-{turn}", {f"p{n:02d}": range(3) for n in range(3)})
        _fuzzed(root, draw, 120)
        tars = root.parent / f"tars-{turn}"
        tars.mkdir()
        _hostile_tar(tars / "a.tar")
        whole = bytearray((tars / "a.tar").read_bytes())
        for _ in range(40):
            whole[draw.randrange(len(whole))] = draw.randrange(256)
        (tars / "a.tar").write_bytes(bytes(whole[: draw.randrange(len(whole) // 2, len(whole))]))
        sources = [
            {"use": "folder", "path": str(root), **GROUND}, {"use": "webdataset", "path": str(tars), **GROUND},
        ]  # fmt: skip
        store = MemoryStore()
        recipe = crawled(root, sources=sources, curate={**_asked(root), "rows": 64})
        account = curate(*wiring.curation_on(recipe, store, Silent())).manifest.counts["inputs"]
        listed = ParquetTables().read(store, "private/sources/s000001.parquet", ["row"])
        assert account["kept"] + account["refused"] + account["unreadable"] == account["listed"] == len(listed["row"])
        assert account["kept"] >= 9
        seen, turn = seen + account["listed"], turn + 1
    return seen


def test_mutated_pictures_and_archives_never_end_a_run(tmp_path: Path) -> None:
    """Two turns of fuzzing, the same ones on every machine: no crash, and no input without an outcome."""
    assert _run_fuzz(tmp_path, turns=2) > 200


@pytest.mark.soak
def test_mutated_pictures_and_archives_never_end_a_long_run(tmp_path: Path) -> None:
    """The same for a minute."""
    assert _run_fuzz(tmp_path, turns=1, seconds=60) > 1000
