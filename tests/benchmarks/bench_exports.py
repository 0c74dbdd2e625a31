"""How fast exports are written, held against copying the same bytes with SHA-256. Prints a table; fails on no clock.

Usage: `PYTHONPATH=. python tests/benchmarks/bench_exports.py [DIRECTORY ON A DISK] [MB]`. Segments with random images
are made first; every measurement is a process of its own on that disk, scratch included, and ends flushed. `copy`
reads, hashes and writes the segments' files. Kinds take turns; rates and seconds are medians, and `of copy` is the
median of what each turn's export was to that turn's copy. Aim: recordio and webdataset at 60 % of the copy's rate and
more; memory flat: the last columns say how much a process grew, at the full size and at a quarter of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np

from jobs.wiring import build_exporter
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import IndexRow
from pipeline.domain.records import minted_key

IMAGES_PER_SEGMENT = 2000
IMAGES_PER_IDENTITY = 50
ABOUT = {"name": "bench", "version": "v000001", "digest": "d" * 64, "seed": 7}
SIZES = (8_000, 30_000)
"""Bytes of an image: about what JPEGs of 112 px and of 256 px have."""
KINDS = ("copy", "recordio", "webdataset", "hf")
REPEATS = 5
BLOCK_bytes = 1 << 20
HEAD = JpegCodec().encode(np.zeros((112, 112, 3), np.uint8))[:-2]


def make_dataset(root: Path, image_bytes: int, total_bytes: int) -> None:
    """Write segments below `root`, and their index beside them: images are a JPEG's head, random bytes, its end."""
    rng, rows = np.random.default_rng(0), []
    (root / "segments").mkdir(parents=True)
    count = total_bytes // image_bytes
    for start in range(0, count, IMAGES_PER_SEGMENT):
        unit = f"make-g0-{start // IMAGES_PER_SEGMENT:06d}"
        with tarfile.open(root / "segments" / f"{unit}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for n in range(start, min(start + IMAGES_PER_SEGMENT, count)):
                identity, slot = divmod(n, IMAGES_PER_IDENTITY)
                key = minted_key(identity, slot, 0)
                image = HEAD + rng.bytes(image_bytes - len(HEAD) - 2) + b"\xff\xd9"
                rows.append(IndexRow(identity, key, identity, "light/older", unit, archive.offset + 512, image_bytes))
                for name, data in ((f"{key}.jpg", image), (f"{key}.json", b" " * 500)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, BytesIO(data))
    (root / "index").write_bytes(pickle.dumps(rows))


def copy(root: Path, out: Path) -> None:
    """Copy the segments, hashing what is copied."""
    out.mkdir()
    for path in sorted((root / "segments").iterdir()):
        digest = hashlib.sha256()
        with path.open("rb") as source, (out / path.name).open("wb", buffering=0) as target:
            while block := source.read(BLOCK_bytes):
                digest.update(block)
                target.write(block)
            os.fsync(target.fileno())


def one(kind: str, root: Path, out: Path) -> None:
    """Measure one kind in this process and print what it took."""
    rows: list[IndexRow] = pickle.loads((root / "index").read_bytes())
    exporter = build_exporter(kind) if kind != "copy" else None
    # neither their size nor the second that they take to load is the export's
    import pyarrow.parquet  # noqa: F401
    import simplejpeg  # noqa: F401

    before_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    if exporter is None:
        copy(root, out)
    else:
        exporter.export(LocalStore(root), rows, LocalStore(out), ABOUT)
    wall_s, busy_s = time.perf_counter() - start, time.process_time() - busy
    grown_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kB
    print(json.dumps({"wall_s": wall_s, "busy_s": busy_s, "grown_MB": grown_kB / 1024}))


def measured(kind: str, root: Path, place: Path) -> dict[str, float]:
    """Measure a kind once in a fresh process; scratch lies in `place` too."""
    out = place / "out"
    os.sync()
    command = [sys.executable, __file__, "--one", kind, str(root), str(out)]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(place: Path, image_bytes: int, count: int) -> None:
    """Measure every kind in turns, so that a disk which others use too is as slow for one as for the next."""
    turns = [{kind: measured(kind, place / "full", place) for kind in KINDS} for _ in range(REPEATS)]
    quarter = {kind: measured(kind, place / "quarter", place)["grown_MB"] for kind in KINDS}
    for kind in KINDS:
        mid = {name: statistics.median(turn[kind][name] for turn in turns) for name in turns[0][kind]}
        ratios = sorted(turn["copy"]["wall_s"] / turn[kind]["wall_s"] for turn in turns)
        rate = count * image_bytes / 1e6 / mid["wall_s"]
        print(
            f"{f'{kind}, {image_bytes // 1000} kB':<20} {count:>8} {mid['wall_s']:>7.2f} {mid['busy_s']:>7.2f} "
            f"{rate:>6.0f} {statistics.median(ratios):>8.0%} {f'{ratios[0]:.0%}-{ratios[-1]:.0%}':>10} "
            f"{mid['grown_MB']:>8.0f} {quarter[kind]:>6.0f}",
            flush=True,
        )


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    disk = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    total_bytes = int(sys.argv[2] if len(sys.argv) > 2 else 600) * 10**6
    print(
        f"{'export':<20} {'images':>8} {'wall s':>7} {'CPU s':>7} {'MB/s':>6} {'of copy':>8} {'range':>10} "
        f"{'grew MB':>8} {'1/4':>6}"
    )
    for image_bytes in SIZES:
        with tempfile.TemporaryDirectory(dir=disk) as name:
            make_dataset(Path(name, "full"), image_bytes, total_bytes)
            make_dataset(Path(name, "quarter"), image_bytes, total_bytes // 4)
            table(Path(name), image_bytes, total_bytes // image_bytes)


if __name__ == "__main__":
    main()
