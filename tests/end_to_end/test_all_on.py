"""One dataset with everything on: packed identities, cones, a gallery, siblings, twins, two labellers, two exports.

A dataset is taken through its life (minted, grown, measured anew, judged anew and filled up), and must come out of it
with the same bytes however each step is run: in another order, with other batches in flight, killed, damaged.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from jobs.wiring.galleries import with_gallery_digests
from pipeline.adapters.banks import bank_bytes
from pipeline.adapters.machine import device_kind
from pipeline.adapters.segments import Segments
from pipeline.adapters.sketch import SketchBank, SketchBankOptions, SketchRecogniser, SketchRecogniserOptions
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.fingerprint import Prints
from pipeline.domain.ports import Store
from pipeline.domain.rng import Key, Stream
from pipeline.execute.run import generate
from pipeline.flow.versions import read_manifest
from tests.end_to_end.all_on import (
    LOOKAHEAD,
    SMALL,
    STEPS,
    Life,
    minted,
    promised,
    require_equal,
    session_for,
)
from tests.end_to_end.commands import command, run, written
from tests.flow.test_run import DyingStore, Killed
from tests.recipes import MADE_UP, all_on_recipe
from tests.worlds import copy_of, filled, sketches


@pytest.fixture(scope="module")
def life() -> Life:
    """Return the life of the dataset."""
    return Life()


def test_everything_has_something_to_do(life: Life) -> None:
    """No part of the recipe is there in name only: each refuses, makes or decides something in this dataset."""
    first = read_manifest(life.after("minted"), "v000001")
    enrol, make = first.counts["enrol"], first.counts["make"]
    assert first.counts["images"] == first.counts["images_expected"] == 24
    assert set(make["reasons_any"]) >= {
        "disagrees_with_own_cell", "leaks_gallery_identity", "luminance_std_too_low", "near_duplicate_of_sibling",
        "off_target_yaw_deg", "siblings_too_unlike", "too_close_to_other_identity",
    }  # fmt: skip
    assert enrol["reasons"]["leaks_gallery_identity"] > 0
    assert len({t["twin"] for t in first.figures["twins"]}) == 4
    assert first.counts["identities_failed"]
    assert len(life.after("minted").list("receipts/enrol-")) > 6, "steered in several rounds"
    rows = [r for n in range(3) for r in Segments().read_rows(life.after("minted"), f"make-g0-00000{n}")]
    observed = [v for r in rows for v in r["verdicts"] if v["filter"] == "dynamic-range"]
    assert all(v["passed"] for v in observed)
    assert {bool(v["reason"]) for v in observed} == {True, False}
    assert life.after("minted").list("exports/v000001/webdataset/")
    assert life.after("minted").list("exports/v000001/recordio/")
    assert life.after("added").list("measures/")
    grown, tight, full = (read_manifest(life.after("filled"), f"v00000{n}") for n in (2, 3, 4))
    assert grown.counts["images"] == 40
    assert tight.counts["images"] < 40
    assert full.counts["images"] > tight.counts["images"]


@pytest.mark.parametrize(("in_flight", "seed"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.soak), (LOOKAHEAD, 3)])
def test_neither_order_nor_batches_in_flight_change_a_byte(life: Life, in_flight: int, seed: int) -> None:
    """Units shuffled, so many batches in flight: the same files, galleries and pairs under `private/` too."""
    store = MemoryStore()
    STEPS["minted"](store, seed, {"in_flight": in_flight})
    require_equal(store, promised(life.after("minted")))


@pytest.mark.slow
@pytest.mark.soak
def test_a_whole_life_in_another_order_ends_in_the_same_bytes(life: Life) -> None:
    """Every step shuffled, one batch at a time: segments, versions, exports, side-cars are those of the plain life."""
    store = MemoryStore()
    for step in STEPS.values():
        step(store, 4, {"in_flight": 1})
    require_equal(store, promised(life.after("filled")))


def from_files(folder: Path) -> dict[str, Any]:
    """Return a recipe of a rare cell whose bank and gallery are files: a gallery of embeddings, and no control."""
    gaussians = SketchBank(SketchBankOptions(use="sketch", rare=0.1)).gaussians
    judge = SketchRecogniser(SketchRecogniserOptions(use="sketch-judge"))
    facts = {"name": "rare", "licence": "Apache-2.0", "source": "made up", "commercial_use": True}
    space = SketchBank().space.to_dict()
    (folder / "rare.safetensors").write_bytes(bank_bytes(gaussians, {**facts, "space": space}))
    rows = Key(5, Stream.PREVIEW).generator().standard_normal((30, judge.space.dimensions)).astype(np.float32)
    emb = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.array([f"p{n // 3}" for n in range(len(emb))])
    np.savez(folder / "people.npz", vectors=emb, labels=labels)
    (folder / "people.npz.json").write_text(json.dumps({"space": judge.space.to_dict()}))
    raw = all_on_recipe(6, 2, measures=SMALL["measures"][:3])
    raw["identities"] |= {
        "bank": {"use": "file", "path": str(folder / "rare.safetensors")},
        "sampler": {"use": "pca", "components": 12},
    }
    raw["balance"] = {"by": ["shape", "shade"], "shares": {"square/dark": 0.5, "round/light": 0.5}, "tolerance": 0.1}
    gallery = {"name": "people", "source": str(folder / "people.npz"), **MADE_UP}
    raw["leakage"] = {"galleries": [gallery], "cos": 0.5, "mode": "refuse"}
    return raw


def test_banks_and_galleries_from_files_are_screened_against(tmp_path: Path) -> None:
    """A rare cell is reached from a bank file, people near to those of an embeddings file are refused, in any order."""
    raw, store, shuffled = from_files(tmp_path), MemoryStore(), MemoryStore()
    minted(raw, store, None, {})
    manifest = read_manifest(store, "v000001")
    assert {row["cell"]: row["reached"] for row in manifest.figures["balance"]["cells"]}["square/dark"] == 3
    assert manifest.counts["enrol"]["reasons"]["leaks_gallery_identity"] > 0
    minted(raw, shuffled, 6, {"in_flight": 1})
    require_equal(shuffled, promised(store))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_command_whose_sets_are_hashed_otherwise_leaves_the_same_bytes(tmp_path: Path, hash_seed: str) -> None:
    """No order of a set or of a dictionary of strings reaches a file."""
    raw, store, out = from_files(tmp_path), MemoryStore(), tmp_path / "out"
    minted(raw, store, None, {})
    status, errors = run(command(written(tmp_path, raw), out), PYTHONHASHSEED=hash_seed)
    assert status == 0, errors
    require_equal(LocalStore(out), promised(store))


@pytest.mark.parametrize("library", ["torch", "numpy", "scipy", "pillow", "simplejpeg", "pyarrow"])
def test_a_device_kind_names_every_library_that_makes_bytes(library: str) -> None:
    """A worker with another version of one would make other twins or write other tables, and is refused."""
    assert f"{library} {importlib.metadata.version(library)}" in device_kind()


def changed(path: Sequence[str | int], value: Any) -> dict[str, Any]:
    """Return the recipe with another value at a path."""
    raw = copy.deepcopy(SMALL)
    node: Any = raw
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return raw


def printed(raw: Mapping[str, Any]) -> str:
    """Return the fingerprint of a recipe, galleries read."""
    prints: Prints = wiring.prints_of(with_gallery_digests(sketches(**raw)))
    return prints.fingerprint


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("identities", "sampler", "size"), 32),
        (("identities", "sampler", "steps"), 7),
        (("measures", 1, "labeller"), "third"),
        (("twins", 0, "share"), 0.25),
        (("twins", 2, "px"), 9),
        (("leakage", "galleries", 0, "source"), "sketch://faces?identities=21&images=3&seed=11"),
        (("leakage", "control"), "sketch://faces?identities=121&images=3&seed=12"),
        (("leakage", "screening"), None),
        (("leakage", "copies", "bits"), 3),
        (("leakage", "quantile"), 0.9),
        (("leakage", "mode"), "observe"),
        (("filters", 6, "mean_cos"), 0.7),
        (("filters", 8, "mode"), "refuse"),
        (("conditions", "vector_cos", "low"), 0.95),
        (("enrol", "probes"), 2),
    ],
)
def test_what_changes_bytes_is_fingerprinted(path: Sequence[str | int], value: Any) -> None:
    """Options of packing, labellers, twins and cones, and what galleries and control hold, make another dataset."""
    assert printed(changed(path, value)) != printed(SMALL)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("filters", 0, "stop_above"), 0.5),
        (("enrol", "budget"), 700),
        (("leakage", "keep_pairs"), 7),
        (("leakage", "galleries", 0, "licence"), "another"),
        (("leakage", "galleries", 0, "lawful_basis"), "another"),
        (("exports", 0, "twins"), False),
        (("balance", "agreement"), "none"),
        (("rounds",), 3),
    ],
)
def test_what_changes_no_byte_is_not_fingerprinted(path: Sequence[str | int], value: Any) -> None:
    """When a run stops, what is kept for review and what is said of a gallery may change in a dataset."""
    assert printed(changed(path, value)) == printed(SMALL)


def test_vectors_are_fingerprinted_and_what_is_said_of_them_is_not(tmp_path: Path) -> None:
    """Other vectors in a file make another dataset; another place, licence or lawful basis does not."""
    rows = Key(5, Stream.PREVIEW).generator().standard_normal((40, SketchBank().space.dimensions)).astype(np.float32)
    for name, vectors in (("one", rows), ("copy", rows), ("other", rows[::-1])):
        np.save(tmp_path / f"{name}.npy", vectors)
        (tmp_path / f"{name}.npy.json").write_text(json.dumps({"space": SketchBank().space.to_dict()}))

    def drawn(name: str, **said: Any) -> str:
        sampler = {"use": "files", "path": str(tmp_path / f"{name}.npy"), "licence": "made up", "real_people": False}
        return printed(changed(("identities", "sampler"), sampler | said))

    assert drawn("one") == drawn("copy", licence="CC0-1.0")
    assert drawn("one") == drawn("one", real_people=True, lawful_basis="consent, form 7")
    assert drawn("one") != drawn("other")


def killed_at(life: Life, name: str, dies_at: int, *, after: bool) -> bool:
    """Kill a step at a write and run it again; return whether it had so many writes."""
    store, step = filled(DyingStore(dies_at, after=after), life.before(name)), STEPS[name]
    try:
        step(store, None, {})
    except Killed:
        step(store, None, {})
        require_equal(store, promised(life.after(name)))
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_killed_at_a_write_ends_in_the_same_bytes(life: Life, name: str) -> None:
    """A seeded write of each step, before or after the bytes are in place; the others are killed in the soak run."""
    writes = len(life.after(name).list("")) - len(life.before(name).list(""))
    rng = np.random.default_rng(len(name))
    assert killed_at(life, name, int(rng.integers(1, writes)), after=bool(rng.integers(2)))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_killed_at_any_write_ends_in_the_same_bytes(life: Life, name: str, after: bool) -> None:
    """Every write of each step."""
    dies_at = 1
    while killed_at(life, name, dies_at, after=after):
        dies_at += 1
    assert dies_at > 10


def test_an_unfinished_life_has_its_losses_made_good(life: Life) -> None:
    """Galleries are prepared again when they are next needed, and what they decide stays the same."""
    store = copy_of(life.before("grown"))
    for path in store.list("private/galleries/"):
        # those thresholds belong to the version that stands, and are needed by nothing else
        if "limits-" not in path:
            store.delete(path)
    STEPS["grown"](store, None, {})
    require_equal(store, promised(life.after("grown")))


LOST = (
    "segments/make-g1-000000.tar",
    *(
        pytest.param(path, marks=pytest.mark.soak)
        for path in (
            "segments/make-g0-000000.parquet", "segments/enrol-g0-000000.parquet", "enrolled/g0.parquet",
            "versions/v000002/index-*.parquet", "versions/v000002/README.md",
            "exports/v000002/recordio/train.rec", "receipts/make-g1-000000.json",
        )
    ),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("lost", LOST)
def test_a_lost_file_is_made_again_as_it_was(life: Life, lost: str) -> None:
    """A published dataset loses a file: the run that is repeated brings it back, and alters nothing."""
    store = copy_of(life.after("grown"))
    gone = [path for path in store.list("") if fnmatch(path, lost)]
    assert len(gone) == 1
    store.delete(gone[0])
    STEPS["grown"](store, None, {})
    require_equal(store, promised(life.after("grown")))


class Doubting:
    """A labeller that contradicts the other one of a fifth of all faces."""

    def __init__(self, inner: Any) -> None:
        """Wrap `inner`."""
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute."""
        return getattr(self._inner, name)

    def measure(self, faces_NHWC: Any) -> Mapping[str, Any]:
        """Return the inner one's numbers, the probabilities of some rows exchanged."""
        found = dict(self._inner.measure(faces_NHWC))
        doubted_N = faces_NHWC.sum(axis=(1, 2, 3), dtype=np.int64) % 5 == 0
        light, dark = found["shade@second=light"], found["shade@second=dark"]
        found["shade@second=light"] = np.where(doubted_N, dark, light)
        found["shade@second=dark"] = np.where(doubted_N, light, dark)
        return found


def doubted(recipe: Mapping[str, Any], store: Store) -> None:
    """Mint with a second labeller that has a mind of its own."""
    session = session_for(recipe, store, None, {})
    measurers = tuple(Doubting(m) if "shade@second=dark" in m.names else m for m in session.parts.measurers)
    parts = replace(session.parts, measurers=measurers)
    generate(replace(session, parts=parts, executor=wiring.inline_executor(parts, session.stop)))


def test_who_was_enrolled_under_another_agreement_is_written_again_as_he_was() -> None:
    """Growth may ask for less agreement; a lost list of an earlier generation still follows from its own recipe."""
    filters = [f for f in SMALL["filters"] if f["use"] in ("own-template", "condition")]
    one, probes = {**SMALL["enrol"], "probes": 1}, {"filters": filters, "twins": [], "exports": []}
    small, large = (all_on_recipe(n, 1, enrol=one, **probes) for n in (4, 6))
    large["balance"] = {**large["balance"], "agreement": "none"}
    store = MemoryStore()
    doubted(small, store)
    assert read_manifest(store, "v000001").counts["candidates_refused_at_enrolment"]["labellers_disagree"] > 0
    doubted(large, store)
    wanted = promised(store)
    store.delete("enrolled/g0.parquet")
    doubted(large, store)
    require_equal(store, wanted)


def test_a_unit_of_earlier_filters_is_mended_with_the_thresholds_of_its_time(life: Life) -> None:
    """A segment of the first generation and what the galleries' thresholds were are lost: both come back."""
    wanted = promised(life.after("judged"))
    store = copy_of(life.after("judged"))
    lost = [
        p for p in store.list("private/galleries/") if "/limits-" in p or p.rpartition("/")[2].startswith("limits-")
    ]
    for path in [*lost, "segments/make-g0-000000.tar"]:
        store.delete(path)
    STEPS["judged"](store, None, {})

    assert len(lost) > 1
    require_equal(store, wanted)
