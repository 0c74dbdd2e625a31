"""How long the report of a large dataset takes, and how much memory and page it needs. Prints a table.

Usage: `PYTHONPATH=. python tests/benchmarks/bench_report.py [DIRECTORY ON A DISK] [CANDIDATES]`. A version of simulated
candidates (1,000,000 where nothing else is said, 70 % of them accepted, embeddings of 128 dimensions, 20 measures) is
written first with the real writers, some minutes long; everything but the numbers in it is that of a small sketch
dataset. Gathering and drawing then run in a process of their own. Aim: under 60 s, 1.5 GB and 8 MB for a million.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import Counts, FileEntry, IndexRow, Manifest, Receipt
from pipeline.domain.records import Audited, Candidate, Cell, Identity, Sample, Verdict, minted_key, unit_rows
from pipeline.flow.commit import read_receipt, receipts
from pipeline.flow.versions import read_manifest
from tests.worlds import mint, sketches

PER_UNIT = 10_000
PER_IDENTITY = 50
DIMENSIONS = 128
MEASURES = (
    "apparent_age_years", "blur_px", "est_skin_tone_mst", "glasses_p", "light_azimuth_deg", "light_elevation_deg",
    "luma_contrast", "luma_mean", "mouth_open", "nearest_other_cos", "own_template_cos", "pitch_deg", "quality",
    "roll_deg", "shade=dark", "shade=light", "shape=round", "shape=square", "sharpness", "yaw_deg",
)  # fmt: skip
REASONS = ("own_template_too_far", "too_close_to_other_identity", "not_sharp", "condition_missed")
CELLS = ("round/light", "round/dark", "square/light", "square/dark")
PIXELS = 48
_MEASURING = """
import json, resource, sys, time
from jobs.wiring.reporting import gather_report
start = time.perf_counter()
facts = gather_report(sys.argv[1])
gathered = time.perf_counter() - start
try:
    from pipeline.adapters.report import render
except ImportError:
    page = b""
else:
    page = render(facts)
drawn = time.perf_counter() - start - gathered
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"candidates": facts.funnel.candidates, "published": facts.funnel.published, "gather_s": gathered,
    "draw_s": drawn, "busy_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024,
    "page_bytes": len(page)}))
"""


def make_dataset(root: Path, count: int) -> None:
    """Write a published dataset of `count` candidates below `root`."""
    store, segments = LocalStore(root), Segments(DIMENSIONS)
    mint(sketches(), store)
    small = read_manifest(store, "v000001")
    pattern = read_receipt(store, "receipts/make-g0-000000.json")
    for name in receipts(store, "make-"):
        for path in (f"receipts/{name}.json", f"segments/{name}.tar", f"segments/{name}.parquet"):
            store.delete(path)
    people = count // PER_IDENTITY
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((people, DIMENSIONS)).astype(np.float32)
    cells = [Cell.parse(CELLS[n % len(CELLS)]) for n in range(people)]
    everybody = _people(centres, cells)
    _, space = segments.read_identities(store, "enrolled/g0.parquet")
    segments.write_identities(
        store, "enrolled/g0.parquet", everybody, dataclasses.replace(space, dimensions=DIMENSIONS)
    )
    faces = [JpegCodec().encode(rng.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)) for _ in range(64)]
    rows: list[IndexRow] = []
    files: list[FileEntry] = [f for f in small.files if f.path.startswith("segments/enrol-")]
    totals: list[Counts] = []
    for number in range(count // PER_UNIT):
        unit = f"make-g0-{number:06d}"
        receipt = _write_unit(store, segments, pattern, unit, number, centres, faces, rng)
        files += receipt.files
        totals.append(receipt.counts)
        found = segments.read_audit(store, unit)
        for key, offset, length in zip(found.keys, found.offset_N.tolist(), found.length_N.tolist(), strict=True):
            who = int(key[1:9])
            rows.append(IndexRow(who, key, who, str(cells[who]), unit, offset, length))
    for path in store.list("versions/v000001/"):
        store.delete(path)
    index = segments.write_index(store, "v000001", rows)
    _publish(store, small, [*files, index], Counts.total(totals), people, len(rows))


def _people(centres: np.ndarray, cells: list[Cell]) -> list[Identity]:
    unit = unit_rows(centres, "people")
    return [Identity(n, n, cells[n], n, unit[n], unit[n], 3, 0.8) for n in range(len(unit))]


def _write_unit(
    store: LocalStore,
    segments: Segments,
    pattern: Receipt,
    unit: str,
    number: int,
    centres: np.ndarray,
    faces: list[bytes],
    rng: np.random.Generator,
) -> Receipt:
    """Write a unit's segment, audit and receipt."""
    kept: list[bool] = []
    outcomes: list[tuple[bool, bool, tuple[str, ...]]] = []
    first = number * PER_UNIT
    owner = (first + np.arange(PER_UNIT)) // PER_IDENTITY
    emb = unit_rows(centres[owner] + rng.standard_normal((PER_UNIT, DIMENSIONS)), "images")
    drawn = rng.random((PER_UNIT, len(MEASURES))).tolist()

    def candidates() -> Iterator[Candidate]:
        for n, values in enumerate(drawn):
            accepted = values[0] < 0.7
            reason = "" if accepted else REASONS[int(values[1] * len(REASONS))]
            verdicts = (Verdict("simulated", accepted, reason, values[0], 0.7),)
            slot = (first + n) % PER_IDENTITY
            key = minted_key(int(owner[n]), slot, 0)
            sample = Sample(
                key, int(owner[n]), slot, 0, {"yaw_deg": 0.0}, dict(zip(MEASURES, values, strict=True)), emb[n]
            )
            kept.append(accepted)
            outcomes.append((accepted, False, () if accepted else (reason,)))
            yield Candidate(sample, n, verdicts, accepted, False, faces[n % len(faces)] if accepted else None)

    written = segments.write_images(store, unit, candidates())
    places = segments.locate(store, unit)
    keys = tuple(minted_key(int(owner[n]), (first + n) % PER_IDENTITY, 0) for n in range(PER_UNIT) if kept[n])
    at = np.array([places[key] for key in keys], np.int64)
    noisy = emb + 0.05 * rng.standard_normal(emb.shape)
    segments.write_audit(store, unit, Audited(keys, at[:, 0], at[:, 1], unit_rows(noisy[kept], "audit")))
    receipt = dataclasses.replace(
        pattern,
        unit={**pattern.unit, "index": number, "ordinals": sorted({int(o) for o in owner})},
        name=unit,
        counts=Counts.of(outcomes),
        files=tuple(sorted(written)),
    )
    store.put(receipt.path, receipt.to_json())
    return receipt


def _publish(
    store: LocalStore, small: Manifest, files: list[FileEntry], counts: Counts, people: int, images: int
) -> None:
    said = {**small.counts, "identities": people, "images": images, "make": counts.to_dict()}
    store.put(
        small.path,
        dataclasses.replace(small, files=tuple(sorted(files)), documents=(), counts=said).to_json(),
    )


def main() -> None:
    """Make, measure and print."""
    place = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with tempfile.TemporaryDirectory(dir=place, prefix="facemint-report-") as name:
        started = time.perf_counter()
        make_dataset(Path(name, "set"), count)
        print(f"{count:,} candidates written in {time.perf_counter() - started:.0f} s", flush=True)
        done = subprocess.run(
            [sys.executable, "-c", _MEASURING, str(Path(name, "set"))],
            capture_output=True,
            text=True,
            check=False,
            # one thread, as the command itself sets it
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout)
    print(
        f"{'candidates':>12} {'published':>12} {'gather s':>9} {'draw s':>7} {'CPU s':>7} {'peak MB':>8} {'page MB':>8}"
    )
    print(
        f"{found['candidates']:>12,} {found['published']:>12,} {found['gather_s']:>9.1f} {found['draw_s']:>7.1f} "
        f"{found['busy_s']:>7.1f} {found['peak_bytes'] / 1e6:>8.0f} {found['page_bytes'] / 1e6:>8.1f}"
    )


if __name__ == "__main__":
    main()
