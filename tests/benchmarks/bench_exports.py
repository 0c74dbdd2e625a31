"""How fast exports are written, held against copying the same bytes with SHA-256. Prints a table; fails on no clock.

Usage: `PYTHONPATH=. python tests/benchmarks/bench_exports.py [DIRECTORY ON A DISK] [MB]`. Segments with random images
are made first; every measurement is a process of its own, the median of three, on that disk, scratch included; each
ends flushed. `copy` reads, hashes and writes the segments' files. Aim: recordio and webdataset at 60 % of the copy's
rate and more; memory flat: the last columns say how much a process grew, at the full size and at a quarter of it.
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
REPEATS = 3
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
    if kind == "hf":
        import pyarrow.parquet  # noqa: F401 - its size is not the export's
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
    """Return the medians of a kind over a few processes; scratch lies in `place` too."""
    found = []
    for _ in range(REPEATS):
        out = place / "out"
        shutil.rmtree(out, ignore_errors=True)
        os.sync()
        command = [sys.executable, __file__, "--one", kind, str(root), str(out)]
        done = subprocess.run(
            command, env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    shutil.rmtree(out, ignore_errors=True)
    return {name: statistics.median(f[name] for f in found) for name in found[0]}


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    disk = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    total_bytes = int(sys.argv[2] if len(sys.argv) > 2 else 600) * 10**6
    print(
        f"{'export':<20} {'images':>8} {'wall s':>7} {'CPU s':>7} {'MB/s':>6} {'of copy':>8} {'grew MB':>8} {'1/4':>6}"
    )
    for image_bytes in SIZES:
        with tempfile.TemporaryDirectory(dir=disk) as name:
            place, count, base = Path(name), total_bytes // image_bytes, 0.0
            make_dataset(place / "full", image_bytes, total_bytes)
            make_dataset(place / "quarter", image_bytes, total_bytes // 4)
            for kind in KINDS:
                full, quarter = (measured(kind, place / part, place) for part in ("full", "quarter"))
                rate = count * image_bytes / 1e6 / full["wall_s"]
                base = base or rate
                label = f"{kind}, {image_bytes // 1000} kB"
                print(
                    f"{label:<20} {count:>8} {full['wall_s']:>7.2f} {full['busy_s']:>7.2f} {rate:>6.0f} "
                    f"{rate / base:>8.0%} {full['grown_MB']:>8.0f} {quarter['grown_MB']:>6.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
