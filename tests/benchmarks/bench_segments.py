"""How fast segments are written and read, on one core. Run with `make bench`; prints tables and fails on no clock.

Usage: `PYTHONPATH=. python tests/benchmarks/bench_segments.py [DIRECTORY ON A DISK]`. Rows are as large runs have
them: 512 numbers of embedding, 8 conditions, 30 measures, 5 verdicts, every candidate accepted. Aims: 5,000 samples/s
at 8 kB and 300 MB/s at 100 kB.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.candidates import IMAGES, RowGroup, numbers, side_car
from pipeline.adapters.segments.tables import ROW_GROUP, write_groups
from pipeline.adapters.segments.tars import TarWriter
from pipeline.adapters.stores import LocalStore
from pipeline.domain.records import Candidate, Sample, Verdict, minted_key, unit_rows

UNIT = "make-g0-000000"
SIZES = ((8_000, 8192), (100_000, 2048))
"""Bytes of an image, and how many are written in one segment."""
MEASURES = [f"attribute_{n}=value_{n % 5}" for n in range(20)] + [f"measure_name_{n}" for n in range(10)]
CONDITIONS = [f"condition_{n}_deg" for n in range(8)]
FILTERS = ("own_template", "nearest_other", "sharpness", "pose", "twins")
REPEATS = 3


def candidates(image_bytes: int, count: int) -> list[Candidate]:
    """Return candidates made beforehand, so that only writing is timed; 64 images take turns."""
    rng = np.random.default_rng(0)
    images = [rng.bytes(image_bytes) for _ in range(64)]
    emb = unit_rows(rng.standard_normal((count, 512)), "rows")
    drawn = rng.random((count, 48)).tolist()
    made = []
    for n, values in enumerate(drawn):
        verdicts = tuple(Verdict(f, True, "", v, 0.5) for f, v in zip(FILTERS, values[38:], strict=False))
        maps = dict(zip(CONDITIONS, values[:8], strict=True)), dict(zip(MEASURES, values[8:38], strict=True))
        sample = Sample(minted_key(n // 50, n % 50, 0), n // 50, n % 50, 0, *maps, emb[n])
        made.append(Candidate(sample, n, verdicts, True, False, images[n % 64]))
    return made


def measured(work: Callable[[Path], object], place: Path) -> tuple[float, float]:
    """Return the median wall time and processor time of a few runs, in seconds.

    Each runs in a fresh directory below `place`, where scratch lies too.
    """
    times, tempfile.tempdir = [], str(place)
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=place) as here:
            start, busy = time.perf_counter(), time.process_time()
            work(Path(here))
            times.append((time.perf_counter() - start, time.process_time() - busy))
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


class Plain:
    """A file that is written without being hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write."""
        return self._file.write(data)

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._file.tell()


def parts(rows: list[Candidate], place: Path) -> dict[str, tuple[float, float]]:
    """Return the wall time and the seconds of processor time that each part of writing a segment takes by itself."""
    maps = [(numbers(r.sample.conditions, ""), numbers(r.sample.measures, "")) for r in rows]
    cars = [side_car(row, *pair) for row, pair in zip(rows, maps, strict=True)]

    def tar(here: Path) -> None:
        with (here / "images.tar").open("wb", buffering=1 << 20) as file:
            archive = TarWriter(Plain(file))  # type: ignore[arg-type]
            for row, car in zip(rows, cars, strict=True):
                archive.add(f"{row.sample.key}.jpg", row.jpeg or b"")
                archive.add(f"{row.sample.key}.json", car)

    def groups() -> Iterator[Any]:
        for start in range(0, len(rows), ROW_GROUP):
            group = RowGroup()
            for row in rows[start : start + ROW_GROUP]:
                group.add(row)
            yield group.columns()

    with tempfile.TemporaryDirectory(dir=place) as name:
        store = LocalStore(name)
        stored = [Path(name, e.path) for e in Segments().write_images(store, UNIT, rows)]
        blocks = [b[at : at + (1 << 20)] for b in (p.read_bytes() for p in stored) for at in range(0, len(b), 1 << 20)]

        def hashing(here: Path) -> None:
            digest = hashlib.sha256()
            for block in blocks:
                digest.update(block)

        def storing(here: Path) -> None:
            for path in stored:
                LocalStore(here / "out").put_file(path.name, path)

        return {
            "hash": measured(hashing, place),
            "tar": measured(tar, place),
            "side-cars": measured(lambda here: [side_car(r, *p) for r, p in zip(rows, maps, strict=True)], place),
            "parquet": measured(lambda here: write_groups(here / "rows", "rows", IMAGES, groups(), {}, 0), place),
            "store": measured(storing, place),
        }


def written(rows: list[Candidate], here: Path) -> None:
    """Write a segment."""
    Segments().write_images(LocalStore(here / "out"), UNIT, rows)


def write_table(places: dict[str, Path]) -> None:
    """Measure writing and print a line per size and place; shares are those of parts timed alone."""
    print(
        f"{'write_images':<15} {'samples':>8} {'wall s':>7} {'CPU s':>7} {'samples/s':>10} {'MB/s':>6}   of the CPU s"
    )
    for image_bytes, count in SIZES:
        rows = candidates(image_bytes, count)
        for name, place in places.items():
            wall_s, busy_s = measured(partial(written, rows), place)
            shares = ", ".join(f"{part} {seconds[1] / busy_s:.0%}" for part, seconds in parts(rows, place).items())
            speed = f"{wall_s:>7.3f} {busy_s:>7.3f} {count / wall_s:>10.0f} {count * image_bytes / wall_s / 1e6:>6.0f}"
            print(f"{f'{image_bytes // 1000} kB, {name}':<15} {count:>8} {speed}   {shares}", flush=True)


def read_table(place: Path) -> None:
    """Measure reading and print a line per way of reading."""
    print(f"\n{'read from a disk':<38} {'rows':>8} {'wall s':>7} {'CPU s':>7} {'rows/s':>10}")
    _, count = SIZES[0]
    with tempfile.TemporaryDirectory(dir=place) as name:
        store, segments = LocalStore(name), Segments()
        segments.write_images(store, UNIT, candidates(100, count))
        ways: dict[str, Callable[[Path], object]] = {
            "read_rows, all": lambda here: segments.read_rows(store, UNIT),
            "read_columns, all": lambda here: segments.read_columns(store, UNIT, list(IMAGES)),
            "read_columns, embedding": lambda here: segments.read_columns(store, UNIT, ["embedding"]),
            "read_columns, five without vectors": lambda here: segments.read_columns(
                store, UNIT, ["key", "identity", "slot", "accepted", "reasons"]
            ),
            "locate": lambda here: segments.locate(store, UNIT),
        }
        for way, work in ways.items():
            wall_s, busy_s = measured(work, place)
            print(f"{way:<38} {count:>8} {wall_s:>7.3f} {busy_s:>7.3f} {count / wall_s:>10.0f}", flush=True)


def main() -> None:
    """Measure and print the tables."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    disk = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    places = {"tmpfs": Path("/dev/shm"), "disk": disk}  # noqa: S108 - the point is memory
    write_table({name: place for name, place in places.items() if place.is_dir()})
    read_table(disk)


if __name__ == "__main__":
    main()
