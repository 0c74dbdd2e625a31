"""The driver at scale: planning and resuming up to 300,000 identities x 50 images, from simulated receipts.

Receipts are real files; segments are sparse files of the right size, as a resume looks at sizes alone. Each size runs
in a process of its own, so that its peak memory is its own. Prints a table; fails on nothing.

    PYTHONPATH=. python tests/benchmarks/bench_driver.py [IDENTITIES ...]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jobs import wiring
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import Counts, FileEntry, Receipt, segment_path
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Cell, Identity
from pipeline.domain.unit import Proposal, Stage, Unit
from pipeline.execute.generations import begin, find_step
from pipeline.flow import rounds
from pipeline.flow.commit import Books, enrolled_path, enrolled_receipt_name
from pipeline.flow.past import members_before
from tests.recipes import sketch_recipe
from tests.worlds import sketches

IMAGES, SHARE_DONE = 50, 0.9


def recipe_of(identities: int) -> Recipe:
    """Return a recipe of so many identities; its thresholds are cosines, as no calibration reaches so far."""
    return sketches(
        identities={**sketch_recipe()["identities"], "count": identities, "images_per_identity": IMAGES},
        enrol={"probes": 3, "separation": {"cos": 0.99}, "consistency": {"cos": 0.1}, "unit_candidates": 24},
        filters=[{"use": "own-template", "cos": 0.5}],
        unit={"identities": 10, "window": 4},
        exports=[],
    )


def simulate(root: Path, identities: int) -> None:
    """Write what a run of so many identities has left when nine tenths of its make units are committed."""
    store, recipe = LocalStore(root), recipe_of(identities)
    parts = wiring.build_parts(recipe, store, None, "bench")
    begin(parts, find_step(parts))
    rng = np.random.default_rng(0)
    cells = parts.targets.cells
    vectors = rng.standard_normal((identities, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people = [
        Identity(n, n, cells[n % len(cells)], n // len(cells), vectors[n], vectors[n], 3, 1.0)
        for n in range(identities)
    ]
    entry = parts.segments.write_identities(store, enrolled_path(0), people, parts.sampler.space)
    for folder in ("receipts", "segments"):
        (root / folder).mkdir(exist_ok=True)

    def put(unit: dict[str, object], name: str, files: tuple[FileEntry, ...], count: int) -> None:
        counts = Counts(count, count, 0, {})
        run = {**parts.run_facts, "start_s": 0.0, "end_s": 60.0, "batches": 8, "batch_rows": 64}
        receipt = Receipt(unit, name, parts.prints.fingerprint, parts.prints.plan_digest, counts, files, run)
        (root / receipt.path).write_bytes(receipt.to_json())

    closed = {"stage": "enrolled", "generation": 0, "index": 0, "round": 0, "candidates": identities}
    put(closed, enrolled_receipt_name(0), (entry,), identities)
    for index, start in enumerate(range(0, identities, 24)):
        stop = min(identities, start + 24)
        probed = tuple(Proposal(n, str(cells[n % len(cells)])) for n in range(start, stop))
        unit = Unit(Stage.ENROL, 0, index, 0, proposals=probed)
        put(unit.to_dict(), unit.name, (sparse(root, unit.name, "parquet", 20_000),), stop - start)
    made = rounds.plan_make_round(recipe, 0, 0, 0, range(identities), (0, IMAGES))
    for unit in made[: int(SHARE_DONE * len(made))]:
        files = (sparse(root, unit.name, "parquet", 300_000), sparse(root, unit.name, "tar", 5_000_000))
        put(unit.to_dict(), unit.name, files, IMAGES * len(unit.ordinals))


def sparse(root: Path, name: str, suffix: str, size: int) -> FileEntry:
    """Create a file of a size that takes no room; return its entry."""
    path = segment_path(name, suffix)
    with (root / path).open("wb") as file:
        file.truncate(size)
    return FileEntry(path, "0" * 64, size)


def resume(root: Path, identities: int) -> dict[str, float]:
    """Do what a driver does before it issues the first unit; return seconds and peak memory."""
    store = LocalStore(root)
    started = time.perf_counter()
    parts = wiring.build_parts(recipe_of(identities), store, None, "bench")
    step = find_step(parts)
    books = Books(store, parts.prints.fingerprint).open()
    opened = time.perf_counter()
    books.lost()
    members = members_before(parts, 1)
    places = {Cell.parse(str(c)): identities for c in parts.targets.cells}
    planned = rounds.plan_make_round(
        parts.recipe, step.number, 0, 0, rounds.next_in_line(members, set(), places), (0, IMAGES)
    )
    left = books.remaining(planned)
    return {
        "receipts": len(books.known),
        "units_left": len(left),
        "open_s": opened - started,
        "all_s": time.perf_counter() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Print one row per size."""
    if len(sys.argv) == 4 and sys.argv[1] in ("simulate", "resume"):
        root, identities = Path(sys.argv[2]), int(sys.argv[3])
        print(json.dumps(resume(root, identities) if sys.argv[1] == "resume" else simulate(root, identities)))
        return
    sizes = [int(a) for a in sys.argv[1:]] or [30_000, 100_000, 300_000]
    heads = ("identities", "receipts", "units left", "books s", "resume s", "peak MB", "us/receipt")
    print(" ".join(f"{head:>10}" for head in heads))
    memory = Path("/dev/shm")  # noqa: S108 - a folder in memory, where there is one
    base = memory if os.access(memory, os.W_OK) else None
    for identities in sizes:
        with tempfile.TemporaryDirectory(dir=base) as root:
            for what in ("simulate", "resume"):
                command = [sys.executable, __file__, what, root, str(identities)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(said)
        each = row["all_s"] / row["receipts"] * 1e6
        print(
            f"{identities:>10,} {row['receipts']:>10,} {row['units_left']:>10,} {row['open_s']:>10.2f} "
            f"{row['all_s']:>10.2f} {row['peak_mb']:>10.0f} {each:>10.0f}"
        )


if __name__ == "__main__":
    main()
