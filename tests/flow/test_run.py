"""A whole run in the sketch world: same bytes whatever happens on the way, every candidate accounted for."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.wiring import build_parts
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import OutputError, PlanMismatchError, StoreError, TargetNotReachedError
from pipeline.domain.manifest import Receipt
from pipeline.flow.admission import Before, Probed, plan_enrol_round
from pipeline.flow.commit import Commit, commit
from pipeline.flow.enrol import draw_vector
from pipeline.flow.versions import read_manifest
from tests.worlds import Silent, bytes_of, copy_of, mint, sketches

NOISY = {"generator": {"use": "sketch", "noise": 2.0}, "attempts": 3}
SMALL = {
    **NOISY,
    "identities": {"count": 4, "images_per_identity": 2, "sampler": {"use": "gaussian"}, "bank": {"use": "sketch"}},
}


class Killed(BaseException):
    """Stands for a process that is gone: nothing catches it on the way."""


class DyingStore(MemoryStore):
    """A store whose process dies at the n-th write, before or after the bytes are in place."""

    def __init__(self, dies_at: int, *, after: bool) -> None:
        """Count down from `dies_at`."""
        super().__init__()
        self.left, self.after = dies_at, after

    def _dies(self, path: str) -> bool:
        """Count a change: die before it, or return whether to die after it."""
        if path.startswith("runs/"):
            return False
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        return self.left == 0

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create, or die."""
        dies = self._dies(path)
        created = super().put_if_absent(path, data)
        if dies:
            raise Killed
        return created

    def put(self, path: str, data: bytes) -> None:
        """Write, or die."""
        dies = self._dies(path)
        super().put(path, data)
        if dies:
            raise Killed

    def put_file(self, path: str, source: Path) -> None:
        """Write a file, or die."""
        self.put(path, source.read_bytes())


@pytest.fixture(scope="module")
def finished() -> MemoryStore:
    """Return a store that holds a finished noisy run."""
    store = MemoryStore()
    mint(sketches(**NOISY), store)
    return store


def test_two_runs_give_the_same_bytes(finished: MemoryStore) -> None:
    """Every segment, index, document and export of a second run equals that of the first."""
    again = MemoryStore()
    mint(sketches(**NOISY), again)
    assert bytes_of(again) == bytes_of(finished)


def test_another_seed_gives_another_dataset(finished: MemoryStore) -> None:
    """The digest follows the seed: equality above is not emptiness."""
    other = mint(sketches(**NOISY, seed=8))
    assert other.manifest.digest != read_manifest(finished, "v000001").digest


@pytest.mark.parametrize("lookahead", [1, 3])
def test_overlap_does_not_lose_or_repeat_a_candidate(lookahead: int) -> None:
    """Whatever the lookahead, a unit's orders are 0..n-1 and every slot of a published identity is filled once."""
    store = MemoryStore()
    recipe = sketches(**NOISY, unit={"identities": 5, "window": 3, "lookahead": lookahead})
    published = mint(recipe, store)
    for name in sorted({r.split("/")[1] for r in store.list("receipts/make")}):
        rows = Segments().read_rows(store, name.removesuffix(".json"))
        assert sorted(r["order"] for r in rows) == list(range(len(rows)))
    assert published.manifest.counts["images"] == 30


def test_a_run_killed_at_any_write_ends_in_the_same_bytes() -> None:
    """Killed before and after every single write and run again, a dataset is byte for byte the undisturbed one."""
    recipe = sketches(**SMALL)
    undisturbed = MemoryStore()
    mint(recipe, undisturbed)
    wanted = bytes_of(undisturbed)
    writes = 0
    for after in (False, True):
        for dies_at in range(1, 100):
            store = DyingStore(dies_at, after=after)
            try:
                mint(recipe, store)
            except Killed:
                writes += 1
            else:
                break
            mint(recipe, store)
            assert bytes_of(store) == wanted, f"killed {'after' if after else 'before'} write {dies_at}"
    assert writes > 20, "the run writes more than that, so the loop did kill it"


def test_a_finished_dataset_is_not_made_again(finished: MemoryStore) -> None:
    """Running the command once more publishes nothing new and works no unit."""
    observer = Silent()
    before = bytes_of(finished)
    assert mint(sketches(**NOISY), finished, observer).resumed
    assert not [kind for kind, _ in observer.seen if kind == "unit"]
    assert bytes_of(finished) == before


def test_resume_repeats_no_committed_unit() -> None:
    """After a crash late in the run, only units without a receipt are worked."""
    recipe = sketches(**NOISY)
    store = DyingStore(23, after=True)
    with pytest.raises(Killed):
        mint(recipe, store)
    committed = set(store.list("receipts/"))
    observer = Silent()
    mint(recipe, store, observer)
    worked = {f["receipt"].path for kind, f in observer.seen if kind == "unit"}
    assert committed
    assert worked
    assert not committed & worked


def test_every_candidate_is_accounted_for_from_the_parquet_alone(finished: MemoryStore) -> None:
    """Accepted plus refused by first reason equals candidates, in every segment and against its receipt."""
    refused_somewhere = 0
    for path in finished.list("receipts/make"):
        receipt = Receipt.from_json(finished.get(path))
        table = pq.read_table(io.BytesIO(finished.get(f"segments/{receipt.name}.parquet"))).to_pylist()
        accepted = [r for r in table if r["accepted"]]
        reasons = Counter(r["reasons"][0] for r in table if not r["accepted"])
        assert len(accepted) + sum(reasons.values()) == len(table) == receipt.counts.candidates
        assert dict(reasons) == dict(receipt.counts.reasons)
        refused_somewhere += sum(reasons.values())
        for row in table:
            failed = [v["reason"] for v in row["verdicts"] if not v["passed"]]
            assert row["reasons"] == ([] if row["accepted"] else failed)
            assert len(row["verdicts"]) == 3, "every filter speaks on every sample"
    assert refused_somewhere, "a run that refuses nothing would prove nothing"


def test_every_indexed_image_decodes_and_belongs_to_its_label(finished: MemoryStore) -> None:
    """Offsets lead to whole JPEGs, and a label's images are those of its one identity, in slot order."""
    manifest = read_manifest(finished, "v000001")
    index = next(f.path for f in manifest.files if "/index-" in f.path)
    rows = Segments().read_index(finished, index)
    assert len(rows) == 30
    assert [r.label for r in rows] == sorted(r.label for r in rows)
    owner = {r.label: r.identity for r in rows}
    for row in rows:
        with tarfile.open(fileobj=io.BytesIO(finished.get(f"segments/{row.segment}.tar"))) as tar:
            stored = tar.extractfile(f"{row.key}.jpg")
            assert stored is not None
            member = stored.read()
        data = finished.get_range(f"segments/{row.segment}.tar", row.offset, row.length)
        assert member == data
        assert JpegCodec().decode(data).shape == (32, 32, 3)
        assert row.key.startswith(f"i{row.identity:08d}-")
        assert owner[row.label] == row.identity
    assert len(set(owner.values())) == 10


def test_balance_is_exact_over_the_published_identities(finished: MemoryStore) -> None:
    """Each cell holds exactly its quota, 3 + 3 + 2 + 2 of 10, and adjusted shares stand beside the raw ones."""
    balance = read_manifest(finished, "v000001").figures["balance"]
    assert [c["reached"] for c in balance["cells"]] == [3, 3, 2, 2]
    assert balance["exact"]
    assert sum(c["adjusted_share"] for c in balance["cells"]) == pytest.approx(1)


def test_a_lost_segment_is_made_again_and_only_that(finished: MemoryStore) -> None:
    """A receipt whose file is missing counts for nothing; the unit is made again with the same bytes."""
    store = DyingStore(26, after=True)
    with pytest.raises(Killed):
        mint(sketches(**NOISY), store)
    lost = next(p for p in store.list("segments/make"))
    store.delete(lost)
    observer = Silent()
    mint(sketches(**NOISY), store, observer)
    assert bytes_of(store) == bytes_of(finished)
    assert lost.split("/")[1].split(".")[0] in {f["receipt"].name for k, f in observer.seen if k == "unit"}


def test_another_recipe_is_refused_naming_the_fields(finished: MemoryStore) -> None:
    """A changed filter or a smaller count stops the run, says which field, and touches nothing."""
    before = bytes_of(finished)
    with pytest.raises(PlanMismatchError, match=r"attempts 9 instead of 3"):
        mint(sketches(**{**NOISY, "attempts": 9}), finished)
    identities = {"count": 9, "images_per_identity": 3, "sampler": {"use": "gaussian"}, "bank": {"use": "sketch"}}
    with pytest.raises(PlanMismatchError, match=r"a dataset only grows: identities.count 9 instead of 10"):
        mint(sketches(**NOISY, identities=identities), finished)
    assert bytes_of(finished) == before


def test_a_dataset_of_other_models_is_refused_by_their_name() -> None:
    """No recipe brings models back: that of the dataset is the same, so another way out is told."""
    store = MemoryStore()
    mint(sketches(**SMALL), store)
    step = store.get("recipes/g0.yaml").partition(b"# seal: ")[0]
    assert b"\n  model.judge.epoch: 1\n" in step
    store.put("recipes/g0.yaml", step.replace(b"\n  model.judge.epoch: 1\n", b"\n  model.judge.epoch: 0\n"))
    with pytest.raises(PlanMismatchError, match=r"other models \(model.judge.epoch 1 instead of 0\).* the release"):
        mint(sketches(**SMALL), store)


def test_a_receipt_with_other_content_stops_the_run(finished: MemoryStore) -> None:
    """Two machines that disagree about a unit's bytes are an error, never a silent choice; equal ones do no harm."""
    parts = build_parts(sketches(**NOISY), store := copy_of(finished), None, "test")
    receipt = Receipt.from_json(store.get("receipts/make-g0-000000.json"))
    assert commit(parts, replace(receipt, run={"host": "another"})) is Commit.ALREADY_COMMITTED
    altered = replace(receipt, files=tuple(replace(f, sha256="0" * 64) for f in receipt.files))
    with pytest.raises(StoreError, match="a receipt with other content exists"):
        commit(parts, altered)


def test_an_altered_segment_is_found_by_the_audit_and_made_again_by_a_deep_run(finished: MemoryStore) -> None:
    """A flipped bit changes no size: the audit, or --deep later on, finds it, and its unit alone is made again."""
    store = copy_of(finished)
    name = next(p for p in store.list("segments/make") if p.endswith(".tar"))
    store.put(name, store.get(name)[:-1] + b"x")
    assert mint(sketches(**NOISY), store).resumed, "sizes are all that a plain run looks at"
    observer = Silent()
    mint(sketches(**NOISY), store, observer, deep=True)
    assert bytes_of(store) == bytes_of(finished)
    worked = [f["receipt"].name for kind, f in observer.seen if kind == "unit"]
    assert worked == [name.split("/")[1].removesuffix(".tar")]
    for path in [*store.list("versions/"), *store.list("receipts/audit-make")]:
        store.delete(path)
    store.put(name, store.get(name)[:-1] + b"x")
    with pytest.raises(StoreError, match="its bytes are not those of its receipt; run again with --deep"):
        mint(sketches(**NOISY), store)


def test_an_unreachable_target_ends_with_the_yield_and_the_knob() -> None:
    """Impossible consistency ends enrolment after its rounds, naming cells, yields, reasons and what to change."""
    recipe = sketches(enrol={"probes": 3, "separation": {"fmr": 1e-2}, "consistency": {"cos": 0.9999}, "rounds": 2})
    with pytest.raises(
        TargetNotReachedError, match=r"after 2 enrolment rounds.*round/light: 0 of 3.*raise enrol.rounds"
    ):
        mint(recipe)


def test_short_datasets_are_published_only_on_request() -> None:
    """Filters that refuse nearly everything end in one line; with --allow-short the manifest says what is missing."""
    hard = {"attempts": 1, "rounds": 1, "generator": {"use": "sketch", "noise": 2.0}}
    with pytest.raises(TargetNotReachedError, match=r"these places are open: .*allow-short"):
        mint(sketches(**hard))
    counts = mint(sketches(**hard), allow_short=True).manifest.counts
    assert counts["identities"] < counts["identities_expected"] == 10
    assert sum(counts["missing_by_cell"].values()) == 10 - counts["identities"]


def test_nothing_is_published_where_nobody_could_be_filled() -> None:
    """Even with --allow-short an empty dataset is an error."""
    hopeless = {"attempts": 1, "rounds": 1, "filters": [{"use": "own-template", "cos": 0.9999}]}
    with pytest.raises(TargetNotReachedError, match="no identity could be filled"):
        mint(sketches(**hopeless), allow_short=True)


def test_a_worker_of_another_device_kind_is_refused_unless_the_recipe_allows_it() -> None:
    """Bytes are promised within one device kind: a receipt of another stops the run, or voids the promise."""
    store = DyingStore(12, after=True)
    with pytest.raises(Killed):
        mint(sketches(**NOISY), store)
    path = store.list("receipts/")[0]
    receipt = Receipt.from_json(store.get(path))
    store.put(path, replace(receipt, run={**receipt.run, "device_kind": "abacus"}).to_json())
    with pytest.raises(PlanMismatchError, match=r"different device kinds: abacus; .*compute.mixed_devices"):
        mint(sketches(**NOISY), store)
    mixed = mint(sketches(**NOISY, compute={"executor": "inline", "mixed_devices": True}), store)
    assert mixed.manifest.figures["mixed_devices"]


def test_a_candidate_number_stands_for_one_vector() -> None:
    """Numbers of candidates that were not probed are not given again, and a round without probes is no dead end."""
    recipe = sketches(enrol={"probes": 3, "separation": {"fmr": 1e-2}, "vector_separation_cos": 0.1})
    parts = build_parts(recipe, MemoryStore(), None, "test")
    units, proposed = plan_enrol_round(parts, 0, 0, 0, 0, None, Before(), Probed())
    probed = [p for u in units for p in u.proposals]
    assert max(p.candidate for p in probed) + 1 < proposed, "the last candidate was too near to an earlier one"
    found = Probed(vectors=[np.stack([draw_vector(parts, p) for p in probed])])
    later, _ = plan_enrol_round(parts, 0, 1, len(units), proposed, None, Before(), found)
    assert all(p.candidate >= proposed for u in later for p in u.proposals)


BROKEN = [
    ("recipes/g0.yaml", b"fingerprint_fields: [", OutputError, "is not a recipe of ours"),
    ("recipes/g0.yaml", b"fingerprint_fields: 3\nplan_fields: x\n", OutputError, "is not a recipe of ours"),
    ("recipes/g0.yaml", b"", OutputError, "is not a recipe of ours"),
    ("receipts/make-g0-000000.json", b"{}", StoreError, "not a receipt"),
    ("receipts/make-g0-000000.json", b'{"content": {"counts": {"reasons": []}}}', StoreError, "not a receipt"),
    ("receipts/make-g0-000000.json", b"\xff\x00", StoreError, "not a receipt"),
    ("versions/v000001/manifest.json", b"[]", StoreError, "not a manifest"),
    ("versions/v000001/manifest.json", b"{", StoreError, "not a manifest"),
]


@pytest.mark.parametrize(("path", "data", "kind", "message"), BROKEN)
def test_a_damaged_file_ends_in_one_line_that_names_it(
    finished: MemoryStore, path: str, data: bytes, kind: type[Exception], message: str
) -> None:
    """Recipe, receipts and manifest that were cut or altered stop the run, each with its own name."""
    store = MemoryStore()
    for name in finished.list(""):
        if not (path.startswith("receipts/") and name.startswith("versions/")):
            store.put(name, finished.get(name))
    store.put(path, data)
    with pytest.raises(kind, match=message) as caught:
        mint(sketches(**NOISY), store)
    assert path in str(caught.value)


def test_a_lost_index_or_document_is_written_again(finished: MemoryStore) -> None:
    """Index, card and contact sheet follow from what stands: whichever is lost comes back byte for byte."""
    for lost in [p for p in finished.list("versions/") if not p.endswith("manifest.json")]:
        store = copy_of(finished)
        store.delete(lost)
        mint(sketches(**NOISY), store)
        assert bytes_of(store) == bytes_of(finished), lost
