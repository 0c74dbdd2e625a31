"""Laws of cleaning and deciding, over simulated features: nothing is lost, and no division of the work shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.wiring.curating import completed
from jobs.wiring.parts import build_parts, full_model
from pipeline.adapters.segments.grouped import GroupedParquet
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.recipe import parse_recipe
from pipeline.flow.curating.clean import clean_unit, limits_of, plan_clean
from pipeline.flow.curating.decide import decide
from pipeline.flow.curating.faces import Before, Case
from pipeline.flow.curating.ingest import plan_ingest
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.outcomes import in_order, outcomes_of, refused_before
from pipeline.flow.curating.people import Standing, between, read_provisional
from pipeline.flow.curating.rows import FEATURE_COLUMNS, NO_LABEL, bucket_of, features_path
from tests.crawls import crawl_recipe

DIMENSIONS = 6
PEOPLE = 4


@st.composite
def crawls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw faces: who is on them, under which label, how sharp a likeness, copies and inputs without a face."""
    count = draw(st.integers(1, 30))
    one = st.fixed_dictionaries(
        {
            "person": st.integers(0, PEOPLE - 1),
            "label": st.integers(-1, PEOPLE),
            "noise": st.sampled_from([0.02, 0.1, 0.4]),
            "copy": st.booleans(),
            "fault": st.sampled_from(["", "", "", "no_face"]),
        }
    )
    return [draw(one) for _ in range(count)]


def _features(faces: list[dict[str, Any]], buckets: int) -> dict[int, list[dict[str, Any]]]:
    """Return rows of features by bucket, as ingest writes them."""
    centres = np.linalg.qr(np.random.default_rng(5).standard_normal((DIMENSIONS, DIMENSIONS)))[0][:PEOPLE]
    groups: dict[int, list[dict[str, Any]]] = {}
    before: dict[str, Any] | None = None
    for row, told in enumerate(faces):
        owner = "" if told["label"] < 0 else f"label {told['label']}"
        noise = np.random.default_rng([9, row]).standard_normal(DIMENSIONS) * told["noise"]
        emb = centres[told["person"]] + noise
        mine: dict[str, Any] = {
            "row": row, "face": 0, "owner": owner, "stage": "", "reason": "", "found": "", "value": None,
            "threshold": None, "sha256": f"{row:064x}", "hash": row * 0x0F0F0F0F0F0F, "mirrored": -1 - row,
            "points": None, "embedding": (emb / np.linalg.norm(emb)).astype(np.float32), "measures": {}, "notes": [],
            "marks": [],
        }  # fmt: skip
        if told["copy"] and before is not None:
            mine |= {k: before[k] for k in ("sha256", "hash", "embedding")}
        if told["fault"]:
            mine |= {"face": -1, "stage": "detect", "reason": told["fault"], "embedding": None}
        else:
            before = mine
        groups.setdefault(NO_LABEL if told["fault"] else bucket_of(owner, row, buckets), []).append(mine)
    return groups


def _decided(faces: list[dict[str, Any]], buckets: int) -> list[dict[str, Any]]:
    """Return the outcome of every input."""
    raw = crawl_recipe(Path("nowhere"))
    clean = {**raw["curate"]["clean"], "duplicates": {"bits": 0, "cos": None}, "min_images": 2}
    raw["curate"] = {**raw["curate"], "buckets": buckets, "clean": clean}
    recipe = parse_recipe(full_model(), raw, "test")
    whole = parse_recipe(full_model(), completed(recipe.model_dump(mode="json"), recipe), "test")
    parts = build_parts(whole, MemoryStore(), None, "test")
    kit = Kit({}, {}, None, None, lambda *_: None, None, ParquetTables(), GroupedParquet(DIMENSIONS))  # type: ignore[arg-type]
    (unit,) = plan_ingest(0, (0, len(faces)), 1000)
    kit.grouped.write(parts.store, features_path(unit), FEATURE_COLUMNS, _features(faces, buckets))
    units = plan_clean(0, buckets)
    for one in units:
        clean_unit(one, parts, kit, [unit])
    asked = curation(parts)
    limits = limits_of(parts.judge, asked.clean)
    names = [u.name for u in units]
    people = read_provisional(kit, parts, names)
    case = Case(parts, kit, asked.clean, limits, people, between(people, Standing(), limits), Before(), names)
    found = decide(case, {})
    rows = outcomes_of(found.faces, found.ordinal, Before())
    return list(in_order(rows, refused_before(parts, kit, [unit]), (0, len(faces))))


@settings(max_examples=25)
@given(crawls())
def test_every_input_has_one_outcome_and_no_place_two_faces(faces: list[dict[str, Any]]) -> None:
    """Every row comes once; who is kept has a place of his own, numbered from 0; who is refused has a reason."""
    found = _decided(faces, 3)
    assert [r["row"] for r in found] == list(range(len(faces)))
    kept = [(r["identity"], r["slot"]) for r in found if r["identity"] >= 0]
    assert len(set(kept)) == len(kept)
    for identity in {i for i, _ in kept}:
        mine = sorted(slot for i, slot in kept if i == identity)
        assert mine == list(range(len(mine)))
        assert len(mine) >= 2
    assert all(bool(r["reason"]) == (r["identity"] < 0) for r in found)
    assert sorted({i for i, _ in kept}) == list(range(len({i for i, _ in kept})))


@settings(max_examples=15)
@given(crawls(), st.integers(1, 7))
def test_the_number_of_buckets_changes_no_outcome(faces: list[dict[str, Any]], buckets: int) -> None:
    """Labels cleaned together or apart end alike: same people, same places, same reasons."""
    told = ("row", "face", "reason", "identity", "slot", "moved")
    one, other = (
        [tuple(r[k] for k in told) for r in _decided(faces, n)] for n in (1, buckets)
    )  # fmt: skip
    assert one == other
