"""The facts of a report, each figure computed anew from the parquet files with plain numpy and pyarrow."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import wiring
from jobs.wiring.measuring import measure_on
from jobs.wiring.reporting import published_facts, report_on
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import Receipt
from pipeline.domain.report import Gallery, ReportFacts
from pipeline.execute.reporting import gather
from pipeline.flow.reporting import survey
from pipeline.flow.reporting.similarity import Known
from pipeline.flow.versions import image_rows, read_manifest
from tests.recipes import MADE_UP, sketch_recipe
from tests.worlds import Silent, copy_of, mint, sketches

OWN, OTHER, YAW = sketch_recipe()["filters"]
NOISY: dict[str, Any] = {
    "identities": {**sketch_recipe()["identities"], "count": 12, "images_per_identity": 6},
    "enrol": {**sketch_recipe()["enrol"], "separation": {"cos": 0.97}},
    "generator": {"use": "sketch", "noise": 2.0},
    "filters": [OWN, OTHER, {**YAW, "tolerance": 0.6}],
    "measures": [{"use": "sketch"}, {"use": "lighting", "alignment": "sketch-32"}, {"use": "copy-hash"}],
    "attempts": 5,
    "rounds": 6,
    "twins": [{"use": "darkness", "share": 0.5}],
}

TIGHTER = sketches(**{**NOISY, "filters": [{"use": "own-template", "cos": 0.6}, *NOISY["filters"][1:]]})


def table(store: MemoryStore, path: str) -> list[dict[str, Any]]:
    """Return the rows of a parquet, read by nothing of ours."""
    return pq.read_table(io.BytesIO(store.get(path))).to_pylist()


@dataclass(frozen=True)
class Truth:
    """What the files of a version say, row by row."""

    candidates: list[dict[str, Any]]
    index: list[dict[str, Any]]
    judge: dict[str, np.ndarray]
    auditor: dict[str, np.ndarray]
    cells: dict[int, str]

    @property
    def published(self) -> set[str]:
        """Return the keys of the published images, twins apart."""
        return {row["key"] for row in self.index}


def truth(store: MemoryStore, version: str) -> Truth:
    """Read the files of a version."""
    manifest = json.loads(store.get(f"versions/{version}/manifest.json"))
    paths = [f["path"] for f in manifest["files"]]
    tables = [p for p in paths if p.startswith("segments/make-") and p.endswith(".parquet")]
    every = [row for p in tables for row in table(store, p)]
    candidates = [row for row in every if "-t" not in row["key"]]
    (index,) = (p for p in paths if "/index-" in p)
    enrolled = [row for p in store.list("enrolled/") for row in table(store, p)]
    audits = [row for p in tables for row in table(store, p.replace("segments/", "audits/"))]
    return Truth(
        candidates=candidates,
        index=[row for row in table(store, index) if "-t" not in row["key"]],
        judge={r["key"]: np.array(r["embedding"], np.float64) for r in candidates},
        auditor={r["key"]: np.array(r["embedding"], np.float64) for r in audits},
        cells={r["ordinal"]: r["cell"] for r in enrolled},
    )


@pytest.fixture(scope="module")
def dataset() -> MemoryStore:
    """Return a dataset of three versions: minted, judged again by tighter filters, and filled up."""
    store = MemoryStore()
    mint(sketches(**NOISY), store)
    wiring.refilter_on(store, TIGHTER, Silent(), None, make_missing=True, allow_short=True)
    return store


@pytest.fixture(scope="module", params=["v000001", "v000002", "v000003"])
def seen(request: pytest.FixtureRequest, dataset: MemoryStore) -> tuple[ReportFacts, Truth, MemoryStore]:
    """Return the facts of each version with what its files say."""
    return report_on(dataset, request.param), truth(dataset, request.param), dataset


Seen = tuple[ReportFacts, Truth, MemoryStore]


def test_the_funnel_counts_every_candidate(seen: Seen) -> None:
    """Candidates, reasons, cells and publication are those of the rows, and add up."""
    facts, files, _ = seen
    funnel, rows = facts.funnel, files.candidates
    refused = [r for r in rows if not r["accepted"]]
    assert refused, "the noise must refuse somebody"
    assert (funnel.candidates, funnel.refused) == (len(rows), len(refused))
    assert funnel.candidates == funnel.accepted + funnel.refused
    assert funnel.off_target == sum(r["off_target"] for r in rows if r["accepted"])
    assert funnel.published == len(files.published)
    assert funnel.accepted == funnel.published + funnel.left_out
    first, every = Counter(r["reasons"][0] for r in refused), Counter(x for r in refused for x in r["reasons"])
    assert {r: (a, b) for r, a, b in funnel.reasons} == {r: (first[r], every[r]) for r in every}
    assert [a for _, a, _ in funnel.reasons] == sorted((a for _, a, _ in funnel.reasons), reverse=True)
    for cell, counts in funnel.by_cell.items():
        mine = [r for r in rows if files.cells[r["identity"]] == cell]
        assert counts["candidates"] == len(mine)
        assert counts["accepted"] == sum(r["accepted"] for r in mine)
        assert counts["published"] == sum(r["key"] in files.published for r in mine)
        assert counts["reasons"] == Counter(r["reasons"][0] for r in mine if not r["accepted"])
    assert sum(c["candidates"] for c in funnel.by_cell.values()) == funnel.candidates


def test_exhaustive_counts_are_those_of_the_manifest(dataset: MemoryStore) -> None:
    """What the rows count is what manifest and receipts say, enrolment too."""
    facts, manifest = report_on(dataset, "v000001"), json.loads(dataset.get("versions/v000001/manifest.json"))
    made = manifest["counts"]["make"]
    assert (facts.funnel.candidates, facts.funnel.accepted) == (made["candidates"], made["accepted"])
    assert {r: n for r, n, _ in facts.funnel.reasons if n} == made["reasons"]
    assert facts.funnel.twins == manifest["counts"]["twins"] > 0
    closed = Receipt.from_json(dataset.get("receipts/enrolled-g0.json")).counts
    assert facts.funnel.enrolment == {
        "candidates": closed.candidates,
        "accepted": closed.accepted,
        "refused": closed.refused,
        "reasons": dict(closed.reasons),
        "probed": manifest["counts"]["enrol"]["candidates"],
    }
    judged = {cell: {**c, "reasons": dict(c["reasons"])} for cell, c in facts.funnel.by_cell.items()}
    assert judged == manifest["figures"]["funnel"]


def test_a_version_judged_again_says_what_it_leaves_out(dataset: MemoryStore) -> None:
    """Candidates are told as they were made, what is published by the index, and what the new filters said beside."""
    first, second = report_on(dataset, "v000001"), report_on(dataset, "v000002")
    assert (second.funnel.candidates, second.funnel.accepted) == (first.funnel.candidates, first.funnel.accepted)
    assert second.funnel.published < first.funnel.published
    assert second.funnel.left_out > first.funnel.left_out
    again = second.funnel.judged_again
    assert again["accepted"] + again["refused"] == again["candidates"] == second.funnel.candidates
    assert again["images_left_out"] == sum(again["left_out_by_reason"].values()) > 0
    assert not first.funnel.judged_again
    third = report_on(dataset, "v000003")
    assert third.funnel.candidates > second.funnel.candidates
    assert third.funnel.published > second.funnel.published


def test_histograms_count_every_measure(seen: Seen) -> None:
    """Each bin of each measure holds the rows whose number lies in it, by what became of them."""
    facts, files, _ = seen
    names = {name for r in files.candidates for name, _ in r["measures"]}
    assert {m.name for m in facts.measures} == names - {"nearest_other_identity", "phash_hi", "phash_lo"}
    for measure in facts.measures:
        # a key may come twice: refused when it was made first, and made again for what is missing
        values = [dict(r["measures"]).get(measure.name) for r in files.candidates]
        accepted = np.array([r["accepted"] for r in files.candidates])
        published = accepted & np.array([r["key"] in files.published for r in files.candidates])
        inner = np.array(measure.edges[1:-1])
        for name, mine in (("accepted", accepted), ("refused", ~accepted), ("published", published)):
            numbers = [v for v, there in zip(values, mine, strict=True) if there and v is not None]
            naive = np.bincount(np.searchsorted(inner, numbers, "right"), minlength=len(measure.edges) - 1)
            assert list(getattr(measure, name)) == naive.tolist(), (measure.name, name)
        assert measure.missing == sum(v is None for v in values)
        _check_cells(measure, {r["key"]: v for r, v in zip(files.candidates, values, strict=True)}, files)


def _check_cells(measure: Any, values: dict[str, float | None], files: Truth) -> None:
    every = [v for v in values.values() if v is not None]
    for cell, (number, *quantiles) in measure.by_cell.items():
        mine = sorted(values[r["key"]] for r in files.index if r["cell"] == cell)
        assert number == len(mine)
        for share, found in zip((0.05, 0.5, 0.95), quantiles, strict=True):
            ranked = mine[max(1, int(np.ceil(share * number))) - 1]
            assert abs(found - ranked) <= max((max(every) - min(every)) / 1000, 1e-6)
    assert {r["cell"] for r in files.index} == measure.by_cell.keys()


@pytest.mark.parametrize("role", ["judge", "auditor"])
def test_curves_are_those_of_all_pairs(seen: Seen, role: str) -> None:
    """Counts, moments, EER, AUC and FDR are those of a loop over all pairs of published images."""
    facts, files, _ = seen
    (curves,) = (c for c in facts.curves if c.role == role)
    emb, owner = getattr(files, role), {r["key"]: r["identity"] for r in files.index}
    genuine, impostor = [], []
    for a, b in combinations(sorted(files.published), 2):
        (genuine if owner[a] == owner[b] else impostor).append(float(emb[a] @ emb[b]))
    g, i = np.array(genuine), np.array(impostor)
    assert (curves.n_genuine, curves.n_impostor, curves.images) == (len(g), len(i), len(files.published))
    assert (curves.identities, curves.images_each) == (len(set(owner.values())), 0)
    for counts, cos in ((curves.genuine, g), (curves.impostor, i)):
        assert list(counts) == np.histogram(np.clip(cos, -1, 1 - 1e-12), curves.edges_cos)[0].tolist()
    assert curves.genuine_mean_cos == pytest.approx(g.mean(), rel=1e-5)
    assert curves.genuine_std_cos == pytest.approx(g.std(), rel=1e-5)
    assert curves.impostor_mean_cos == pytest.approx(i.mean(), rel=1e-4, abs=1e-6)
    assert curves.impostor_std_cos == pytest.approx(i.std(), rel=1e-5)
    steps = np.unique(np.concatenate([g, i, [1.1]]))
    fmr, fnmr = np.array([(i >= t).mean() for t in steps]), np.array([(g < t).mean() for t in steps])
    best = int(np.argmin(np.abs(fmr - fnmr)))
    assert curves.eer == pytest.approx((fmr[best] + fnmr[best]) / 2, abs=1e-5)
    for level, found in ((1e-2, curves.fmr100), (1e-3, curves.fmr1000)):
        naive = fnmr[fmr <= level].min() if level * len(i) >= 30 else None
        assert found == (None if naive is None else pytest.approx(naive, abs=1e-5))
    assert curves.auc == pytest.approx((g[:, None] > i[None, :]).mean(), abs=1e-3)
    assert curves.fdr == pytest.approx((g.mean() - i.mean()) ** 2 / (g.var() + i.var()), rel=1e-4)
    for x, y in curves.roc:
        near = np.abs(fmr - x).argmin()
        assert abs(fmr[near] - x) < 1e-9 or x == 0
        assert fnmr[fmr <= x + 1e-12].min() <= y + 1e-9


@pytest.mark.parametrize("role", ["judge", "auditor"])
def test_spread_is_that_of_templates_and_images(seen: Seen, role: str) -> None:
    """Uniqueness, consistency, diversity and Vendi score are those of their definitions."""
    facts, files, _ = seen
    (spread,) = (s for s in facts.spread if s.role == role)
    emb: dict[int, list[np.ndarray]] = {}
    for row in files.index:
        emb.setdefault(row["identity"], []).append(getattr(files, role)[row["key"]])
    templates = {o: np.sum(rows, axis=0) / np.linalg.norm(np.sum(rows, axis=0)) for o, rows in emb.items()}
    consistency = np.mean([np.mean([x @ templates[o] for x in rows]) for o, rows in emb.items()])
    assert spread.consistency == pytest.approx(consistency, abs=1e-5)
    pairs = [np.mean([a @ b for a, b in combinations(rows, 2)]) for rows in emb.values() if len(rows) > 1]
    assert spread.diversity_cos == pytest.approx(1 - np.mean(pairs), abs=1e-5)
    stacked = np.stack([templates[o] for o in sorted(templates)])
    kernel = stacked @ stacked.T
    values = np.linalg.eigvalsh(kernel / len(kernel))
    assert spread.vendi == pytest.approx(np.exp(-sum(v * np.log(v) for v in values if v > 1e-12)), rel=1e-4)
    np.fill_diagonal(kernel, -1)
    nearest = kernel.max(axis=1)
    assert spread.identities == len(templates)
    assert spread.threshold is not None
    assert spread.uniqueness == pytest.approx((nearest < spread.threshold.cos).mean())
    assert spread.nearest_other_cos[-1] == pytest.approx(nearest.max(), abs=1e-5)
    if role == "judge":
        assert spread.threshold.cos == facts.manifest["figures"]["separation_cos"]["made"]


def gallery(facts: ReportFacts, name: str) -> Gallery:
    """Return a gallery by its name."""
    (found,) = (g for g in facts.galleries if g.name == name)
    return found


def test_pictures_are_stored_bytes(seen: Seen) -> None:
    """Every picture of published images is the bytes that its segment holds, described in words."""
    facts, files, store = seen
    stored = {
        store.get(f"segments/{r['segment']}.tar")[r["offset"] : r["offset"] + r["length"]]: r for r in files.index
    }
    for name in ("random", "worst-accepted", "most-similar"):
        shown = gallery(facts, name)
        assert shown.pictures
        assert shown.chosen
        for picture in shown.pictures:
            row = stored[picture.jpeg]
            assert picture.tags["cell"] == row["cell"]
            assert f"identity {row['identity']}" in picture.alt
            assert row["cell"] in picture.alt
    random = gallery(facts, "random").pictures
    assert len({p.jpeg for p in random}) == len(random) <= 48
    per_cell = Counter(p.tags["cell"] for p in random)
    assert per_cell.keys() == {r["cell"] for r in files.index}


def test_the_worst_are_the_worst(seen: Seen) -> None:
    """The images with the least own-template similarity are shown, the least first."""
    facts, files, store = seen
    own = {r["key"]: dict(r["measures"])["own_template_cos"] for r in files.candidates}
    ranked = sorted((own[r["key"]], r["key"], r) for r in files.index)
    shown = [p for p in gallery(facts, "worst-accepted").pictures if p.tags["lowest in"] == "own_template_cos"]
    expected = [store.get(f"segments/{r['segment']}.tar")[r["offset"] :][: r["length"]] for _, _, r in ranked[:24]]
    assert [p.jpeg for p in shown] == expected


def test_the_most_similar_are_the_nearest_templates(seen: Seen) -> None:
    """The first pair is that of the two templates that are most alike, shown by the two most alike pictures."""
    facts, files, store = seen
    emb: dict[int, list[dict[str, Any]]] = {}
    for row in files.index:
        emb.setdefault(row["identity"], []).append(row)
    templates = {o: np.sum([files.judge[r["key"]] for r in rows], axis=0) for o, rows in emb.items()}
    unit = {o: t / np.linalg.norm(t) for o, t in templates.items()}
    cos, a, b = max((unit[a] @ unit[b], a, b) for a, b in combinations(sorted(unit), 2))
    pictures = [p for p in gallery(facts, "most-similar").pictures if p.group == "pair 1"]
    assert f"cosine {cos:.3f} to identity {b}" in pictures[0].caption
    assert f"cosine {cos:.3f} to identity {a}" in pictures[1].caption
    _, one, two = max(
        ((files.judge[x["key"]] @ files.judge[y["key"]], x, y) for x in emb[a] for y in emb[b]), key=lambda t: t[0]
    )
    expected = [store.get(f"segments/{r['segment']}.tar")[r["offset"] :][: r["length"]] for r in (one, two)]
    assert [p.jpeg for p in pictures[:2]] == expected


def test_refused_pictures_are_the_previews(seen: Seen) -> None:
    """Refused pictures are those that units keep, by reason; every reason that has some is there."""
    facts, files, store = seen
    kept = [row for p in store.list("previews/") for row in table(store, p)]
    units = {p["segment"] for p in files.index}
    shown = gallery(facts, "refused").pictures
    assert {p.jpeg for p in shown} <= {row["jpeg"] for row in kept}
    assert units
    reasons = {row["reason"] for row in kept if row["key"] in {r["key"] for r in files.candidates}}
    assert {p.tags["reason"] for p in shown} == reasons


def test_bounds_are_those_of_the_filters_that_judged(dataset: MemoryStore) -> None:
    """A measure names the filters that read it, with the threshold of the version's own filters."""
    for version, cos in (("v000001", None), ("v000002", 0.6)):
        facts = report_on(dataset, version)
        bounds = {m.name: dict(m.bounds) for m in facts.measures if m.bounds}
        thresholds = facts.manifest["figures"]["thresholds"]
        assert bounds.keys() == {"own_template_cos", "nearest_other_cos"}
        assert bounds["own_template_cos"]["own-template"] == thresholds["own-template"]["threshold_cos"]
        assert cos is None or bounds["own_template_cos"]["own-template"] == cos


def test_a_filter_that_only_observed_says_so() -> None:
    """The thresholds of a filter that refused nobody stand in manifest and report, with its mode; no other has one."""
    store = MemoryStore()
    mint(sketches(filters=[OWN, {**OTHER, "mode": "observe"}, YAW]), store)
    facts = report_on(store)
    told = facts.manifest["figures"]["thresholds"]
    assert told["nearest-other"]["mode"] == "observe"
    assert told["nearest-other"]["threshold_cos"] > told["own-template"]["threshold_cos"]
    assert [name for name, fields in told.items() if "mode" in fields] == ["nearest-other"]
    assert "nearest-other (observed)" in {t.name for t in facts.curves[0].thresholds}
    bounds = {name for m in facts.measures for name, _ in m.bounds}
    assert bounds == {"own-template", "nearest-other (observed)"}


def test_thresholds_are_those_that_decided(dataset: MemoryStore) -> None:
    """The judge's curves carry the manifest's cosines with their rates, the auditor's none of them."""
    facts = report_on(dataset, "v000001")
    judge, auditor = facts.curves
    named = {t.name: t for t in judge.thresholds}
    said = facts.manifest["figures"]["thresholds"]
    assert named["own-template"].cos == said["own-template"]["threshold_cos"]
    assert named["own-template"].fmr == pytest.approx(1e-2, rel=1e-3)
    assert (named["nearest-other"].cos, named["nearest-other"].fmr) == (said["nearest-other"]["threshold_cos"], 0.05)
    assert "FPIR" in named["nearest-other"].said
    assert named["EER of this set"].fmr == judge.eer
    assert named["separation, made"].cos == 0.97
    assert all("of this set" in t.name for t in auditor.thresholds)
    assert [row[0] for row in judge.calibration] == sorted((row[0] for row in judge.calibration), reverse=True)


def test_the_published_report_knows_nothing_of_the_run(dataset: MemoryStore) -> None:
    """Without the live part, facts say nothing of time, host or place, and are the same for another run's receipts."""
    parts = wiring.build_parts(sketches(**NOISY), dataset, None, "test")
    manifest = read_manifest(dataset, "v000001")
    rows = image_rows(Segments(), dataset, manifest)
    facts = published_facts(parts, manifest, rows)
    assert facts.throughput == {}
    other = MemoryStore()
    for path in dataset.list(""):
        data = dataset.get(path)
        if path.startswith("receipts/"):
            raw = json.loads(data)
            raw["run"] = {"host": "elsewhere", "device_kind": "another", "start_s": 1.0, "end_s": 2.0}
            data = json.dumps(raw).encode()
        if not path.startswith(("exports/", "runs/")):
            other.put(path, data)
    moved = published_facts(wiring.build_parts(sketches(**NOISY), other, None, "another"), manifest, rows)
    assert moved == facts
    # before the manifest is written it says the same: documents are made first
    other.delete("versions/v000001/manifest.json")
    bare = replace(manifest, documents=())
    assert published_facts(wiring.build_parts(sketches(**NOISY), other, None, "third"), bare, rows) == facts


def test_a_published_report_can_be_drawn_again(dataset: MemoryStore) -> None:
    """What a version was published with is what is drawn of it when others followed, and what mending puts back."""
    manifest = read_manifest(dataset, "v000001")
    facts = published_facts(
        wiring.build_parts(sketches(**NOISY), dataset, None, "test"),
        manifest,
        image_rows(Segments(), dataset, manifest),
    )
    assert wiring.draw_report(facts) == dataset.get("versions/v000001/report.html")
    other = copy_of(dataset)
    other.delete("versions/v000003/report.html")
    wiring.refilter_on(other, TIGHTER, Silent(), None, make_missing=True, allow_short=True)
    assert other.get("versions/v000003/report.html") == dataset.get("versions/v000003/report.html")


def test_throughput_is_that_of_the_receipts(dataset: MemoryStore) -> None:
    """Seconds add up over the make units of the version, and nothing else."""
    facts = report_on(dataset, "v000001")
    made = [json.loads(dataset.get(p)) for p in dataset.list("receipts/make-g0-")]
    seconds = sum(m["run"]["end_s"] - m["run"]["start_s"] for m in made)
    assert facts.throughput["units"] == len(made)
    assert facts.throughput["seconds"] == pytest.approx(seconds, abs=1e-3)
    assert facts.throughput["candidates"] == facts.funnel.candidates
    assert facts.throughput["candidates_per_s"] == pytest.approx(facts.funnel.candidates / seconds)


def test_added_measures_are_told_by_the_verb_alone(dataset: MemoryStore) -> None:
    """A measure added beside the segments counts stored images, misses refused ones, and is not published."""
    other = copy_of(dataset)
    before = report_on(other, "v000001")
    measure_on(other, "sharpness", [], Silent())
    facts = report_on(other, "v000001")
    (added,) = (m for m in facts.measures if m.name == "sharpness")
    assert added.name not in {m.name for m in before.measures}
    cars = [row for p in other.list("measures/") if p.endswith(".parquet") for row in table(other, p)]
    values = {row["key"]: dict(row["measures"])[added.name] for row in cars}
    files = truth(other, "v000001")
    assert sum(added.published) == len(files.published)
    assert sum(added.refused) == 0
    assert added.missing == facts.funnel.refused
    shown = [p for p in gallery(facts, "worst-accepted").pictures if p.tags["lowest in"] == added.name]
    assert f"{min(values[k] for k in files.published):.3f}" in shown[0].caption
    assert f"{added.name} of refused candidates" in dict(facts.not_measured)
    parts = wiring.build_parts(sketches(**NOISY), other, None, "test")
    manifest = read_manifest(other, "v000001")
    rows = image_rows(Segments(), other, manifest)
    assert [m.name for m in published_facts(parts, manifest, rows).measures] == [m.name for m in before.measures]


def test_what_is_not_known_is_said(dataset: MemoryStore) -> None:
    """Without calibrations nothing is made up: uniqueness under the auditor is missing, and the report says so."""
    manifest = read_manifest(dataset, "v000001")
    rows = image_rows(Segments(), dataset, manifest)
    facts = gather(dataset, Segments(), manifest, rows, Known(), live=False)
    assert [s.role for s in facts.spread] == ["judge"]
    assert "uniqueness under the auditor" in dict(facts.not_measured)
    assert all(c.calibration == () for c in facts.curves)
    assert {t.name: t.fmr for t in facts.curves[0].thresholds}["own-template"] is None
    assert dict(facts.not_measured)["leakage of real people"].startswith("not screened")


def test_a_report_needs_none_of_the_models(dataset: MemoryStore) -> None:
    """Where a component of the recipe is not installed, what is stored is told all the same, and nothing written."""
    other = copy_of(dataset)
    other.put("recipes/g0.yaml", other.get("recipes/g0.yaml").replace(b"use: sketch-judge", b"use: of-another-house"))
    before = {path: other.get(path) for path in other.list("")}
    facts, whole = report_on(other, "v000001"), report_on(dataset, "v000001")
    assert {path: other.get(path) for path in other.list("")} == before
    assert facts.funnel == whole.funnel
    assert facts.galleries == whole.galleries
    assert [(c.eer, c.genuine) for c in facts.curves] == [(c.eer, c.genuine) for c in whole.curves]
    assert facts.models["judge"]["calibrated_on"] is None
    assert whole.models["judge"]["calibrated_on"]


def test_a_copy_without_private_files_is_reported() -> None:
    """Thresholds of galleries lie under private/, which nobody hands on; calibrations and counts are told without."""
    store, other = MemoryStore(), MemoryStore()
    screened = {
        "galleries": [{"name": "people", "source": "sketch://faces?identities=20&images=3&seed=11", **MADE_UP}],
        "control": "sketch://faces?identities=120&images=3&seed=12",
    }
    mint(sketches(leakage=screened, filters=[OWN, {"use": "leakage"}]), store)
    for path in store.list(""):
        if not path.startswith("private/"):
            other.put(path, store.get(path))
    facts, whole = report_on(other), report_on(store)
    assert facts.curves == whole.curves
    assert facts.funnel == whole.funnel
    assert "own_template_cos" in {m.name for m in whole.measures if m.bounds}
    assert not any(m.bounds for m in facts.measures)
    assert "leakage of real people" not in dict(facts.not_measured)


def test_large_versions_are_sampled_evenly(dataset: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bounds evenly chosen identities are compared, and the report says how many."""
    monkeypatch.setattr(survey, "MOST_IMAGES", 16)
    monkeypatch.setattr(survey, "MOST_EACH", 4)
    monkeypatch.setattr("pipeline.execute.reporting.MOST_IMAGES", 16)
    monkeypatch.setattr("pipeline.flow.reporting.similarity.MOST_EACH", 4)
    facts = report_on(dataset, "v000001")
    judge = facts.curves[0]
    assert (judge.identities, judge.images, judge.images_each) == (4, 16, 4)
    assert judge.n_genuine == 4 * 6
    assert dict(facts.not_measured)["pairs of all images"].startswith("16 of ")


def test_heavy_pictures_are_fewer_of_every_kind(dataset: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pictures are too heavy fewer are shown, still of every cell, measure and reason, and pairs are whole."""
    whole = report_on(dataset, "v000001")
    longest = max(len(p.jpeg) for g in whole.galleries for p in g.pictures)
    monkeypatch.setattr("pipeline.flow.reporting.picks.MOST_bytes", 7 * longest)
    facts = report_on(dataset, "v000001")
    for name, tag in (("random", "cell"), ("worst-accepted", "lowest in"), ("refused", "reason")):
        many, few = gallery(whole, name).pictures, gallery(facts, name).pictures
        assert sum(len(p.jpeg) for p in few) <= 7 * longest
        assert len(few) < len(many) or sum(len(p.jpeg) for p in many) <= 7 * longest
        assert {p.jpeg for p in few} <= {p.jpeg for p in many}
        assert {p.tags[tag] for p in few} == {p.tags[tag] for p in many}
    pairs = Counter(p.group for p in gallery(facts, "most-similar").pictures)
    assert set(pairs.values()) == {4}
    assert list(pairs) == [f"pair {n}" for n in range(1, len(pairs) + 1)]


def test_altered_rows_are_not_reported(dataset: MemoryStore) -> None:
    """A receipt that counts otherwise than its rows, or one that is gone, ends the report with its name."""
    other = copy_of(dataset)
    raw = json.loads(other.get("receipts/make-g0-000001.json"))
    raw["content"]["counts"]["candidates"] += 1
    raw["content"]["counts"]["accepted"] += 1
    other.put("receipts/make-g0-000001.json", json.dumps(raw).encode())
    with pytest.raises(StoreError, match="receipts"):
        report_on(other, "v000001")
    other.delete("receipts/make-g0-000001.json")
    with pytest.raises(StoreError, match=r"receipts/make-g0-000001\.json"):
        report_on(other, "v000001")


def test_a_version_that_is_not_there_is_named(dataset: MemoryStore) -> None:
    """An unknown version, and a place without a dataset, are mistakes of one line."""
    with pytest.raises(OutputError, match="v000009"):
        report_on(dataset, "v000009")
    with pytest.raises(OutputError, match="no dataset"):
        report_on(MemoryStore())
    assert report_on(dataset).version == "v000003"


def test_one_identity_has_no_impostors() -> None:
    """A version of one person has counts and pictures, and says what cannot be compared."""
    store = MemoryStore()
    people = {**sketch_recipe()["identities"], "count": 1, "images_per_identity": 3}
    mint(sketches(identities=people, balance={"by": []}), store)
    facts = report_on(store)
    assert facts.curves == ()
    assert "error rates under the judge" in dict(facts.not_measured)
    assert "the most similar identities" in dict(facts.not_measured)
    assert facts.funnel.published == 3
    assert [s.uniqueness for s in facts.spread] == [1.0, 1.0]
    assert all(s.nearest_other_cos == () for s in facts.spread)
    assert {g.name for g in facts.galleries} >= {"random", "worst-accepted"}


def test_nobody_refused_has_an_empty_funnel_of_reasons() -> None:
    """Where everything passes there are no reasons, no refused pictures, and nothing is said to be missing of them."""
    store = MemoryStore()
    mint(sketches(filters=[{"use": "own-template", "cos": -0.9}], generator={"use": "sketch", "noise": 0.1}), store)
    facts = report_on(store)
    assert (facts.funnel.refused, facts.funnel.reasons) == (0, ())
    assert all(sum(m.refused) == 0 for m in facts.measures)
    assert "refused" not in {g.name for g in facts.galleries}
    assert "pictures of refused candidates" not in dict(facts.not_measured)
