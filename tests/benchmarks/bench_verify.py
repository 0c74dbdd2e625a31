"""How fast a dataset is verified deep, held against SHA-256 over the same files. Prints a table; fails on no clock.

Usage: `PYTHONPATH=. python tests/benchmarks/bench_verify.py [DIRECTORY ON A DISK] [MB]`. A published version with
receipts, audits and an index is made first: images are a JPEG's head, random bytes, its end; rows have 512 numbers of
embedding. `sha256` reads and hashes every named file on one thread. Both take turns, each in a process of its own;
figures are medians, and `of sha256` is the median of what each turn's verification was to that turn's hashing. Aim:
70 % of the rate of SHA-256 and more, memory flat: the last columns say how much a process grew, at the full size and at
a quarter of it. `decode` is the same at a quarter of the size with every image decoded again (`--decode`).
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import Counts, FileEntry, IndexRow, Manifest, Receipt
from pipeline.domain.records import Audited, Candidate, Sample, Verdict, minted_key, unit_rows
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.verify import verify

IMAGES_PER_SEGMENT = 2000
IMAGES_PER_IDENTITY = 50
SIZES = (8_000, 30_000)
"""Bytes of an image: about what JPEGs of 112 px and of 256 px have."""
REPEATS = 5
BLOCK_bytes = 1 << 20
JPEG = JpegCodec().encode((np.mgrid[:112, :112].sum(0)[..., None] % 200 + np.arange(3)).astype(np.uint8))
PRINT = "f" * 64


def make_dataset(root: Path, image_bytes: int, total_bytes: int) -> None:
    """Publish a version below `root`."""
    store, rng, rows, files = LocalStore(root), np.random.default_rng(0), list[IndexRow](), list[FileEntry]()
    store.put("recipes/g0.yaml", b"name: bench\n")
    _commit(store, {"stage": "enrol", "generation": 0}, "enrolled-g0", Counts(0, 0, 0, {}), ())
    total = Counts(0, 0, 0, {})
    for number, start in enumerate(range(0, total_bytes // image_bytes, IMAGES_PER_SEGMENT)):
        count = min(IMAGES_PER_SEGMENT, total_bytes // image_bytes - start)
        unit = Unit(Stage.MAKE, 0, number, 0)
        made, found = _segment(store, rng, unit.name, range(start, start + count), image_bytes)
        files += made
        counts = Counts(count, count, 0, {})
        total = Counts.total((total, counts))
        _commit(store, unit.to_dict(), unit.name, counts, made)
        audit = Unit(Stage.AUDIT, 0, number, 0, of=unit.name, reader="r")
        _commit(store, audit.to_dict(), audit.name, counts, (Segments().write_audit(store, unit.name, found),))
        spans = zip(found.keys, found.offset_N.tolist(), found.length_N.tolist(), strict=True)
        for n, (key, offset, length) in enumerate(spans, start=start):
            identity = n // IMAGES_PER_IDENTITY
            rows.append(IndexRow(identity, key, identity, "light/older", unit.name, offset, length))
    files.append(Segments().write_index(store, "v000001", rows))
    told = {"enrol": Counts(0, 0, 0, {}).to_dict(), "make": total.to_dict()}
    told |= {"images": len(rows), "twins": 0, "identities": rows[-1].label + 1}
    manifest = Manifest(
        "v000001", None, None, 0, "bench", PRINT, PRINT, tuple(sorted(files)), (), told, {}, {}, {}
    )  # fmt: skip
    store.put(manifest.path, manifest.to_json())


def _commit(store: LocalStore, unit: object, name: str, counts: Counts, files: tuple[FileEntry, ...]) -> None:
    receipt = Receipt(unit, name, PRINT, PRINT, counts, files)  # type: ignore[arg-type]
    store.put(receipt.path, receipt.to_json())


def _segment(
    store: LocalStore, rng: np.random.Generator, name: str, numbers: range, image_bytes: int
) -> tuple[tuple[FileEntry, ...], Audited]:
    emb = unit_rows(rng.standard_normal((len(numbers), 512)), "rows")
    made = []
    for row, n in enumerate(numbers):
        identity, slot = divmod(n, IMAGES_PER_IDENTITY)
        measures = dict(zip((f"measure_{m}" for m in range(20)), rng.random(20).tolist(), strict=True))
        sample = Sample(minted_key(identity, slot, 0), identity, slot, 0, {"yaw_deg": 1.0}, measures, emb[row])
        # what stands behind the end of a JPEG is not decoded
        image = JPEG + rng.bytes(image_bytes - len(JPEG) - 2) + b"\xff\xd9"
        made.append(Candidate(sample, row, (Verdict("pose", True, "", 0.5, 0.5),), True, False, image))
    files = Segments().write_images(store, name, made)
    places = Segments().locate(store, name)
    keys = tuple(places)
    spans_NK = np.array([places[k] for k in keys], np.int64)
    return files, Audited(keys, spans_NK[:, 0], spans_NK[:, 1], emb)


def one(way: str, root: Path) -> None:
    """Measure one way in this process and print what it took."""
    store = LocalStore(root, writable=False)
    import pyarrow.parquet  # noqa: F401 - neither its size nor the time that it takes to load is the verification's

    before_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    if way == "sha256":
        read = 0
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".tar", ".parquet")):
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK_bytes):
                    digest.update(block)
                    read += len(block)
    else:
        found = verify(store, Segments(), JpegCodec(), deep=True, decode=way == "decode")
        assert not found.problems, found.problems[0]
        read = found.bytes
    wall_s, busy_s = time.perf_counter() - start, time.process_time() - busy
    grown_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kB
    print(json.dumps({"wall_s": wall_s, "busy_s": busy_s, "grown_MB": grown_kB / 1024, "MB": read / 1e6}))


def measured(way: str, root: Path) -> dict[str, float]:
    """Measure a way once in a fresh process."""
    command = [sys.executable, __file__, "--one", way, str(root)]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(place: Path, image_bytes: int) -> None:
    """Measure both ways in turns and print a line for each."""
    turns = [{way: measured(way, place / "full") for way in ("sha256", "verify")} for _ in range(REPEATS)]
    quarter = {way: measured(way, place / "quarter")["grown_MB"] for way in ("sha256", "verify")}
    decoding = measured("decode", place / "quarter")
    for way in ("sha256", "verify"):
        mid = {name: statistics.median(turn[way][name] for turn in turns) for name in turns[0][way]}
        ratios = sorted(turn["sha256"]["wall_s"] / turn[way]["wall_s"] for turn in turns)
        print(
            f"{f'{way}, {image_bytes // 1000} kB':<16} {mid['MB']:>6.0f} {mid['wall_s']:>7.2f} {mid['busy_s']:>7.2f} "
            f"{mid['MB'] / mid['wall_s']:>6.0f} {statistics.median(ratios):>10.0%} "
            f"{f'{ratios[0]:.0%}-{ratios[-1]:.0%}':>10} {mid['grown_MB']:>8.0f} {quarter[way]:>6.0f}",
            flush=True,
        )
    rate = decoding["MB"] / decoding["wall_s"]
    print(f"{f'decode, {image_bytes // 1000} kB':<16} {decoding['MB']:>6.0f} {decoding['wall_s']:>7.2f} "
          f"{decoding['busy_s']:>7.2f} {rate:>6.0f}", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]))
        return
    disk = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    total_bytes = int(sys.argv[2] if len(sys.argv) > 2 else 600) * 10**6
    print(f"{'way':<16} {'MB':>6} {'wall s':>7} {'CPU s':>7} {'MB/s':>6} {'of sha256':>10} {'range':>10} "
          f"{'grew MB':>8} {'1/4':>6}")  # fmt: skip
    for image_bytes in SIZES:
        with tempfile.TemporaryDirectory(dir=disk) as name:
            make_dataset(Path(name, "full"), image_bytes, total_bytes)
            make_dataset(Path(name, "quarter"), image_bytes, total_bytes // 4)
            table(Path(name), image_bytes)


if __name__ == "__main__":
    main()
