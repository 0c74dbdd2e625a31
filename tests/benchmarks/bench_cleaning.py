"""Cleaning at scale: simulated features of a million faces, cleaned within labels and between them, on two cores.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/bench_cleaning.py [faces] [people]

Features are written as ingest writes them, 5 % of them under wrong labels and 3 % copies; then come the very units and
the very decision of a run. Prints seconds and peak memory of each process.
"""

from __future__ import annotations

import functools
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from jobs.wiring.curating import completed
from jobs.wiring.parts import build_parts, full_model
from pipeline.adapters.segments.grouped import GroupedParquet
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import open_store
from pipeline.domain.recipe import parse_recipe
from pipeline.domain.unit import Unit
from pipeline.flow.curating.clean import clean_unit, limits_of, plan_clean
from pipeline.flow.curating.decide import decide
from pipeline.flow.curating.faces import Before, Case
from pipeline.flow.curating.ingest import plan_ingest
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.outcomes import OUTCOME_COLUMNS, outcome_path, outcomes_of
from pipeline.flow.curating.people import Standing, between, read_provisional
from pipeline.flow.curating.rows import FEATURE_COLUMNS, bucket_of, features_path, owner_of
from pipeline.flow.parts import Parts
from tests.crawls import crawl_recipe

DIMENSIONS = 512
UNIT = 4096
BUCKETS = 64
NOISE = 0.045
"""Per coordinate: two images of a person have a mean cosine of about 0.5."""


@functools.cache
def opened(place: str) -> tuple[Parts, Kit]:
    """Return parts and kit over a store, with as many dimensions as features have here."""
    raw = crawl_recipe(Path(place))
    asked = raw["curate"]
    clean = {**asked["clean"], "link": {"cos": 0.3}, "keep": {"cos": 0.35}, "merge": {"cos": 0.7}, "drop": {"cos": 0.6}}
    clean["duplicates"] = {"bits": 4, "cos": 0.97}
    raw["curate"] = {**asked, "clean": clean, "rows": UNIT, "buckets": BUCKETS}
    recipe = parse_recipe(full_model(), raw, "bench")
    whole = parse_recipe(full_model(), completed(recipe.model_dump(mode="json"), recipe), "bench")
    parts = build_parts(whole, open_store(place), None, "bench")
    nothing = functools.partial(lambda *_: None)
    kit = Kit({}, {}, None, None, nothing, None, ParquetTables(), GroupedParquet(DIMENSIONS))  # type: ignore[arg-type]
    return parts, kit


def write_features(place: str, unit: Unit, people: int) -> None:
    """Write one unit of simulated features: person n has the images n, n + people, ..."""
    parts, kit = opened(place)
    first, stop = unit.rows
    rng = np.random.default_rng(first)
    rows = np.arange(first, stop)
    person = (rows // 50) % people
    centres = np.stack([np.random.default_rng([9, int(p)]).standard_normal(DIMENSIONS) for p in np.unique(person)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    emb = centres[np.searchsorted(np.unique(person), person)] + NOISE * rng.standard_normal((len(rows), DIMENSIONS))
    copies = np.flatnonzero(rng.random(len(rows)) < 0.03)
    copies = copies[copies % 50 > 0]
    emb[copies] = emb[copies - 1]
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    label = np.where(rng.random(len(rows)) < 0.05, rng.integers(0, people, len(rows)), person)
    hashes = rng.integers(-(2**63), 2**63 - 1, len(rows))
    hashes[copies] = hashes[copies - 1]
    groups: dict[int, list[dict[str, object]]] = {}
    for n, row in enumerate(rows.tolist()):
        owner = owner_of("made up", f"{label[n]}", shared=False)
        groups.setdefault(bucket_of(owner, row, BUCKETS), []).append(
            {
                "row": row,
                "face": 0,
                "owner": owner,
                "stage": "",
                "reason": "",
                "found": "",
                "value": None,
                "threshold": None,
                "sha256": f"{row:064x}",
                "hash": int(hashes[n]),
                "mirrored": ~int(hashes[n]),
                "points": emb[n, :10],
                "embedding": emb[n],
                "measures": {"inter_eye_px": 40.0 + n % 7},
                "notes": [],
                "marks": [],
            }
        )
    kit.grouped.write(parts.store, features_path(unit), FEATURE_COLUMNS, groups)


def cleaned(place: str, unit: Unit, units: list[Unit]) -> float:
    """Clean one bucket; return this process's peak memory in MiB."""
    parts, kit = opened(place)
    clean_unit(unit, parts, kit, units)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write, clean, decide, print."""
    faces = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    people = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(2) as pool:
        units = plan_ingest(0, (0, faces), UNIT)
        begun_s = time.perf_counter()
        list(pool.map(write_features, [place] * len(units), units, [people] * len(units)))
        size = sum(f.stat().st_size for f in Path(place).rglob("*.parquet")) / 2**30
        took_s = time.perf_counter() - begun_s
        print(f"{faces:,} faces of {people:,} people, {DIMENSIONS} dimensions, {size:.1f} GiB of features", flush=True)
        print(f"(simulated in {took_s:.0f} s; load {os.getloadavg()[0]:.1f})", flush=True)
        buckets = plan_clean(0, BUCKETS)
        begun_s = time.perf_counter()
        peaks = list(pool.map(cleaned, [place] * len(buckets), buckets, [units] * len(buckets)))
        within_s = time.perf_counter() - begun_s
        print(f"within labels    {within_s:7.1f} s on two processes, peak {max(peaks):,.0f} MiB each", flush=True)
        begun_s = time.perf_counter()
        parts, kit = opened(place)
        asked = curation(parts)
        limits = limits_of(parts.judge, asked.clean)
        names = [u.name for u in buckets]
        provisional = read_provisional(kit, parts, names)
        found = between(provisional, Standing(), limits)
        between_s = time.perf_counter() - begun_s
        print(f"between labels   {between_s:7.1f} s ({len(provisional.owners):,} provisional identities)", flush=True)
        begun_s = time.perf_counter()
        decided = decide(Case(parts, kit, asked.clean, limits, provisional, found, Before(), names), {})
        kit.tables.write(
            parts.store, outcome_path(0), OUTCOME_COLUMNS, outcomes_of(decided.faces, decided.ordinal, Before())
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        decide_s = time.perf_counter() - begun_s
        print(f"deciding         {decide_s:7.1f} s, peak {peak:,.0f} MiB")
        print(f"in all           {within_s + between_s + decide_s:7.1f} s")
        print(f"{len(decided.identities):,} identities, {decided.strays:,} images moved")


if __name__ == "__main__":
    main()
