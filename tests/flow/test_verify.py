"""Verification names exactly what is damaged, and nothing where all is well; removal takes orphans alone."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import LeaseHeldError, StoreError
from pipeline.domain.manifest import Manifest, Receipt, canonical_json, sha256_hex
from pipeline.domain.ports import Codec, Store
from pipeline.domain.seal import sealed
from pipeline.flow.lease import Lease, acquire
from pipeline.flow.ledger import on_purpose
from pipeline.flow.orphans import find_orphans, remove_orphans
from pipeline.flow.verify import Verified, verify
from pipeline.flow.versions import published_rows, read_manifest
from tests.worlds import Silent, edit, filled, sketches, two_generations

DAY_S = 24 * 3600.0
TAR, TABLE = "segments/make-g0-000001.tar", "segments/make-g0-000001.parquet"
RECEIPT, OTHER_RECEIPT = "receipts/make-g0-000001.json", "receipts/make-g0-000002.json"
FIRST, SECOND = "versions/v000001/manifest.json", "versions/v000002/manifest.json"
SHARD, EXPORT = "exports/v000001/webdataset/train-000000.tar", "exports/v000001/webdataset/manifest.json"


class Later:
    """A clock that is some time ahead of the store's, so that what was just written is old."""

    def __init__(self, ahead_s: float = 2 * DAY_S) -> None:
        """Keep how far it is ahead."""
        self._ahead_s = ahead_s

    def now_s(self) -> float:
        """Return the time, ahead."""
        return time.time() + self._ahead_s


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Return what decodes the images of the sketch world."""
    made: Codec = wiring.build("encoding", sketches().encoding)
    return made


@pytest.fixture(scope="module")
def grown() -> dict[str, bytes]:
    """Return the files of a dataset of two generations and two versions."""
    store = two_generations()
    return {path: store.get(path) for path in store.list("")}


@pytest.fixture
def dataset(grown: dict[str, bytes]) -> MemoryStore:
    """Return a dataset of its own for a test to damage."""
    return filled(MemoryStore(), grown)


def check(store: Store, codec: Codec, *, deep: bool, decode: bool = False) -> Verified:
    """Verify a dataset of the sketch world."""
    return verify(store, Segments(), codec, deep=deep, decode=decode)


def damaged(found: Verified) -> set[str]:
    """Return the files that problems name, each in one line that says what to do."""
    for problem in found.problems:
        assert len(str(problem).splitlines()) == 1
        assert str(problem).startswith(f"{problem.path}: ")
        assert any(w in problem.remedy for w in ("restore it", "run the same generate", "run verify --deep"))
    return {problem.path for problem in found.problems}


def digest(store: Store) -> str:
    """Return the digest of the newest version."""
    return read_manifest(store, "v000002").digest


def flip(store: MemoryStore, path: str) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(store.get(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))


@pytest.mark.parametrize("deep", [False, True])
def test_an_undamaged_dataset_has_no_problem(dataset: MemoryStore, codec: Codec, deep: bool) -> None:
    """Two generations with growth, audits and exports verify, and nothing is written by it."""
    before = {e.path: e for e in dataset.entries("")}
    found = check(dataset, codec, deep=deep)
    assert found.problems == ()
    assert found.versions == ("v000001", "v000002")
    assert found.images == (36 if deep else 0)
    assert found.decoded == 0
    assert found.files > 30
    assert {e.path: e for e in dataset.entries("")} == before


NAMED = [TAR, TABLE, "segments/enrol-g0-000000.parquet", "audits/make-g0-000001.parquet", "enrolled/g0.parquet",
         "versions/v000001/README.md", "versions/v000001/contact_sheet.png", "index", SHARD]  # fmt: skip


@pytest.mark.parametrize("path", NAMED)
@pytest.mark.parametrize("how", ["missing", "cut", "altered"])
def test_what_is_missing_cut_or_altered_is_named_alone(dataset: MemoryStore, codec: Codec, path: str, how: str) -> None:
    """Every kind of file: sizes tell of the first two, digests of the third."""
    path = dataset.list("versions/v000002/index-")[0] if path == "index" else path
    if how == "missing":
        dataset.delete(path)
    elif how == "cut":
        dataset.put(path, dataset.get(path)[:-7])
    else:
        flip(dataset, path)
    if how != "altered" or path.startswith("versions/v000002/index-"):
        assert damaged(check(dataset, codec, deep=False)) == {path}
    else:
        assert damaged(check(dataset, codec, deep=False)) == set()
    assert damaged(check(dataset, codec, deep=True)) == {path}


def test_the_remedy_names_the_command_that_helps(dataset: MemoryStore, codec: Codec) -> None:
    """A missing segment or document is made again by the next run, an altered segment with --deep."""
    dataset.delete(TAR)
    flip(dataset, "segments/make-g0-000002.tar")
    dataset.delete("versions/v000001/README.md")
    said = {p.path: p.remedy for p in check(dataset, codec, deep=True).problems}
    assert said[TAR] == "run the same generate command again: its unit alone is made again"
    assert "again with --deep: its unit alone" in said["segments/make-g0-000002.tar"]
    assert "what the newest version lacks is written again" in said["versions/v000001/README.md"]


def test_swapped_receipts_are_both_named(dataset: MemoryStore, codec: Codec) -> None:
    """Each is whole, and about another unit than its name says."""
    one, other = dataset.get(RECEIPT), dataset.get(OTHER_RECEIPT)
    dataset.put(RECEIPT, other)
    dataset.put(OTHER_RECEIPT, one)
    assert damaged(check(dataset, codec, deep=True)) == {RECEIPT, OTHER_RECEIPT}


def test_a_receipt_copied_over_another_is_named(dataset: MemoryStore, codec: Codec) -> None:
    """The unit that lost its receipt is not reported a second time."""
    dataset.put(RECEIPT, dataset.get(OTHER_RECEIPT))
    assert damaged(check(dataset, codec, deep=True)) == {RECEIPT}


@pytest.mark.parametrize("path", [RECEIPT, "receipts/enrolled-g0.json", "receipts/enrol-g1-000000.json"])
@pytest.mark.parametrize("body", [None, b"", b"{", b"[]", b'{"content":{}}', b"\xff\xfe"])
def test_a_receipt_that_is_missing_or_torn_is_named(
    dataset: MemoryStore, codec: Codec, path: str, body: bytes | None
) -> None:
    """No traceback, and nothing that only follows from it."""
    if body is None:
        dataset.delete(path)
    else:
        dataset.put(path, body)
    assert damaged(check(dataset, codec, deep=True)) == {path}


def test_a_receipt_with_other_counts_shows_in_the_sum_and_is_named_by_its_rows(
    dataset: MemoryStore, codec: Codec
) -> None:
    """The sum belies the manifest; deep, the rows of the segment tell which receipt is wrong."""

    def change(raw: Any) -> None:
        raw["content"]["counts"]["candidates"] += 1
        raw["content"]["counts"]["accepted"] += 1

    edit(dataset, RECEIPT, change)
    assert damaged(check(dataset, codec, deep=False)) == {FIRST, SECOND}
    assert RECEIPT in damaged(check(dataset, codec, deep=True))


def test_a_receipt_that_names_another_digest_is_named(dataset: MemoryStore, codec: Codec) -> None:
    """Records differ: without reading it is one of them, with reading it is the receipt."""

    def change(raw: Any) -> None:
        raw["content"]["files"][0]["sha256"] = "0" * 64

    edit(dataset, RECEIPT, change)
    assert len(damaged(check(dataset, codec, deep=False))) == 1
    assert damaged(check(dataset, codec, deep=True)) == {RECEIPT}


def test_a_receipt_that_names_another_size_is_named(dataset: MemoryStore, codec: Codec) -> None:
    """The manifest and the file agree against it."""
    edit(dataset, RECEIPT, lambda raw: raw["content"]["files"][0].update(bytes=5))
    assert damaged(check(dataset, codec, deep=False)) == {RECEIPT}


def test_a_receipt_of_another_fingerprint_is_named(dataset: MemoryStore, codec: Codec) -> None:
    """Audits and enrolment too: a dataset has one."""
    for path in ("receipts/audit-make-g0-000001.json", "receipts/enrolled-g1.json"):
        edit(dataset, path, lambda raw: raw["content"].update(fingerprint="0" * 64))
    assert damaged(check(dataset, codec, deep=False)) == {
        "receipts/audit-make-g0-000001.json",
        "receipts/enrolled-g1.json",
    }


@pytest.mark.parametrize(
    ("path", "helps"),
    [
        ("receipts/make-g1-000000.json", True),  # the newest generation is planned again
        ("receipts/make-g0-000001.json", False),  # an older one is not
        ("receipts/enrol-g1-000000.json", False),
        ("receipts/enrolled-g1.json", False),
        ("receipts/make-g2-000000.json", True),  # not published yet
        ("receipts/audit-make-g0-000001.json", True),
    ],
)
def test_running_again_is_advised_where_it_helps(dataset: MemoryStore, codec: Codec, path: str, helps: bool) -> None:
    """What is published follows from its receipts; most of them only a copy brings back."""
    dataset.put(path, b"{")
    (problem,) = check(dataset, codec, deep=False).problems
    assert problem.path == path
    assert ("run the same generate command again" in problem.remedy) is helps


@pytest.mark.parametrize("path", [FIRST, SECOND, EXPORT])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_torn_manifest_is_named_alone(dataset: MemoryStore, codec: Codec, path: str, body: bytes) -> None:
    """What it named is not called wrong, and nothing is removed until it is back."""
    dataset.put(path, body)
    for deep in (False, True):
        assert damaged(check(dataset, codec, deep=deep)) == {path}
    listed = find_orphans(dataset, Later())
    assert [p.path for p in listed.problems] == [path]
    with pytest.raises(StoreError, match="nothing is removed while records are damaged"):
        remove_orphans(dataset, Later(), lease_of(dataset), listed)


def test_a_manifest_whose_digest_does_not_follow_is_named(dataset: MemoryStore, codec: Codec) -> None:
    """One edited digest of a file changes what follows from all of them."""
    edit(dataset, SECOND, lambda raw: raw.update(digest="0" * 64))
    assert damaged(check(dataset, codec, deep=False)) == {SECOND}


def test_a_gap_and_a_wrong_parent_break_the_chain(dataset: MemoryStore, codec: Codec) -> None:
    """Every version names the one before it, so no parent has two children and no version is missing."""
    third = dataset.get(SECOND)
    edit(dataset, SECOND, lambda raw: raw.update(parent=None))
    assert damaged(check(dataset, codec, deep=False)) == {SECOND}
    edit(dataset, SECOND, lambda raw: raw.update(parent="v000001", parent_digest="0" * 64))
    assert damaged(check(dataset, codec, deep=False)) == {SECOND}
    dataset.put(SECOND, third)
    twin = replace(Manifest.from_json(third), version="v000003", files=(), documents=())
    dataset.put("versions/v000003/manifest.json", twin.to_json())
    found = {str(p) for p in check(dataset, codec, deep=False).problems}
    assert any(p.startswith("versions/v000003/manifest.json: its parent is v000001; expected v000002") for p in found)
    dataset.delete("versions/v000003/manifest.json")
    dataset.delete(FIRST)
    assert damaged(check(dataset, codec, deep=False)) == {FIRST}


def rewrite_index(store: MemoryStore, change: Callable[[list[Any]], list[Any]]) -> str:
    """Publish version 2 with a changed index whose digest is right everywhere; return the index's path."""
    segments, manifest = Segments(), read_manifest(store, "v000002")
    old = next(f for f in manifest.files if "/index-" in f.path)
    new = segments.write_index(store, "v000002", change(published_rows(segments, store, manifest)))
    if new.path != old.path:
        store.delete(old.path)
    files = tuple(sorted([new, *(f for f in manifest.files if f != old)]))
    store.put(SECOND, replace(manifest, files=files).to_json())
    for name in store.list("exports/v000002/"):
        store.delete(name)
    return new.path


def swapped(rows: list[Any], one: int, other: int) -> list[Any]:
    """Return an index in which two identities stand for each other."""
    return [replace(r, identity={one: other, other: one}.get(r.identity, r.identity)) for r in rows]


INDEXES: list[tuple[str, Callable[[list[Any]], list[Any]], bool]] = [
    ("a row less", lambda rows: rows[:-1], False),
    ("a label left out", lambda rows: [replace(r, label=r.label + (r.label > 3)) for r in rows], False),
    ("two identities under one label", lambda rows: [replace(r, label=r.label - (r.label == 11)) for r in rows], False),
    ("an unknown segment", lambda rows: [replace(rows[0], segment="make-g0-000077"), *rows[1:]], False),
    ("too many of a segment", lambda rows: [replace(r, segment="make-g0-000003") for r in rows], False),
    ("another place", lambda rows: [replace(rows[0], offset=rows[0].offset + 512), *rows[1:]], True),
    ("another length", lambda rows: [replace(rows[0], length=rows[0].length - 1), *rows[1:]], True),
    ("an unknown key", lambda rows: [replace(rows[0], key="i99999999-s0000-a00"), *rows[1:]], True),
    ("places swapped", lambda rows: [replace(rows[0], offset=rows[1].offset, length=rows[1].length),
                                     replace(rows[1], offset=rows[0].offset, length=rows[0].length), *rows[2:]], True),
    ("identities swapped", lambda rows: swapped(rows, rows[0].identity, rows[-1].identity), True),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "only_deep"), INDEXES, ids=[what for what, _, _ in INDEXES])
def test_a_wrong_index_is_named(
    dataset: MemoryStore, codec: Codec, what: str, change: Callable[[list[Any]], list[Any]], only_deep: bool
) -> None:
    """An index that was published wrong is found although every digest is right."""
    path = rewrite_index(dataset, change)
    assert damaged(check(dataset, codec, deep=True)) == {path}
    assert damaged(check(dataset, codec, deep=False)) == (set() if only_deep else {path})


def recommit(store: MemoryStore, path: str, data: bytes) -> None:
    """Replace a segment's file and everything that states its digest: what a faulty writer would have left."""
    old, new = sha256_hex(store.get(path)), sha256_hex(data)
    store.put(path, data)
    for record in [*store.list("receipts/"), FIRST, SECOND]:
        text = store.get(record).decode()
        if old in text:
            store.put(record, canonical_json(sealed(json.loads(text.replace(old, new)))))
    for record in (FIRST, SECOND):
        manifest = Manifest.from_json(store.get(record))
        before = read_manifest(store, "v000001").digest if record == SECOND else None
        store.put(record, replace(manifest, parent_digest=before).to_json())


def test_images_are_decoded_where_no_audit_read_these_very_bytes(dataset: MemoryStore, codec: Codec) -> None:
    """An audit's word is taken for the bytes that a version names; without it, or if asked for, images are decoded."""
    units = dataset.list("receipts/make-")
    each = {Receipt.from_json(dataset.get(p)).name: Receipt.from_json(dataset.get(p)).counts.accepted for p in units}
    assert sum(each.values()) == 36
    found = check(dataset, codec, deep=True, decode=True)
    assert (found.images, found.decoded, found.problems) == (36, 36, ())
    dataset.delete("receipts/audit-make-g0-000001.json")
    found = check(dataset, codec, deep=True)
    assert (found.images, found.decoded, found.problems) == (36, each["make-g0-000001"], ())
    flip(dataset, "audits/make-g0-000002.parquet")
    found = check(dataset, codec, deep=True)
    assert (found.images, found.decoded) == (36, each["make-g0-000001"] + each["make-g0-000002"])
    assert damaged(found) == {"audits/make-g0-000002.parquet"}


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize(("suffix", "word"), [("jpg", "do not decode"), ("json", "side-cars")])
def test_an_image_or_side_car_that_was_written_broken_is_found(
    dataset: MemoryStore, codec: Codec, suffix: str, word: str, audited: bool
) -> None:
    """Digests are right, the content is not: images are decoded and side-cars parsed, audited ones if asked for."""
    data = bytearray(dataset.get(TAR))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = next(m for m in archive if m.name.endswith(suffix))
    data[member.offset_data : member.offset_data + 24] = b"\0" * 24
    recommit(dataset, TAR, bytes(data))
    for name in dataset.list("exports/"):
        dataset.delete(name)
    if not audited:
        dataset.delete("receipts/audit-make-g0-000001.json")
    found = check(dataset, codec, deep=True, decode=audited)
    assert damaged(found) == {TAR}
    assert word in str(found.problems[0])


def test_a_key_in_two_segments_is_found(dataset: MemoryStore, codec: Codec) -> None:
    """Keys are unique over the dataset, not only within a unit."""
    copy = "make-g0-000009"
    raw = Receipt.from_json(dataset.get(RECEIPT))
    segments = Segments()
    keys = [row["key"] for row in segments.read_rows(dataset, "make-g0-000001", ["key"])]
    files = _copied(dataset, raw, copy)
    dataset.put(f"receipts/{copy}.json", replace(raw, name=copy, files=files).to_json())
    found = check(dataset, codec, deep=True)
    assert any("keys that segments/make-g0-000001.parquet has too" in str(p) for p in found.problems)
    assert any(min(keys) in str(p) for p in found.problems)
    assert all(copy in p.path for p in found.problems)


def _copied(store: MemoryStore, receipt: Receipt, name: str) -> tuple[Any, ...]:
    """Write the rows of a unit under another unit's name."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(store.get(f"segments/{receipt.name}.parquet")))
    marks = {**(table.schema.metadata or {}), b"facemint_unit": name.encode()}
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(marks), out)
    entries = []
    for suffix, data in (("parquet", out.getvalue()), ("tar", store.get(f"segments/{receipt.name}.tar"))):
        path = f"segments/{name}.{suffix}"
        store.put(path, data)
        entries.append(type(receipt.files[0])(path, sha256_hex(data), len(data)))
    return tuple(entries)


def test_what_was_superseded_or_erased_is_no_problem(dataset: MemoryStore, codec: Codec) -> None:
    """A revision in a file's place, or an erased version, says that it is so on purpose."""
    dataset.delete(TAR)
    dataset.put("segments/make-g0-000001.r1.tar", b"x")
    assert damaged(check(dataset, codec, deep=False)) == set()
    assert on_purpose(TAR, {"segments/make-g0-000001.r1.tar"}, ())
    assert not on_purpose(TAR, {TAR}, ("v000001",))
    assert on_purpose("versions/v000001/README.md", (), ("v000001",))
    assert not on_purpose("versions/v000002/README.md", (), ("v000001",))
    for path in dataset.list("versions/v000001/"):
        if path != FIRST:
            dataset.delete(path)
    edit(dataset, SECOND, lambda raw: raw.update(tombstones=[3]))
    assert damaged(check(dataset, codec, deep=False)) == set()


def test_deep_verification_shows_how_far_it_is(dataset: MemoryStore, codec: Codec) -> None:
    """A person who waits for terabytes sees a step per file."""
    watcher = Silent()
    found = verify(dataset, Segments(), codec, deep=True, observer=watcher)
    kinds = [kind for kind, _ in watcher.seen]
    assert kinds == ["stage"] + ["step"] * found.files


@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.8, 0.999])
def test_a_recipe_that_was_cut_off_is_named_though_its_seal_went_too(
    grown: dict[str, bytes], codec: Codec, part: float
) -> None:
    """Its seal is its last line, and recipes of before there were seals are whole without one."""
    store = filled(MemoryStore(), grown)
    whole = store.get("recipes/g1.yaml")
    store.put("recipes/g1.yaml", whole[: int(part * len(whole))])
    assert damaged(check(store, codec, deep=False)) == {"recipes/g1.yaml"}
    store.put("recipes/g1.yaml", whole[: whole.index(b"# seal: ")])
    assert damaged(check(store, codec, deep=False)) == set()


def lease_of(store: Store) -> Lease:
    """Take the lease as a removal does."""
    return acquire(store, Later(), {"run": "removal", "host": "here", "pid": 1}, lambda who: False)


ORPHANS = ["segments/make-g7-000000.tar", "segments/make-g7-000000.parquet", "audits/make-g7-000000.parquet",
           "enrolled/g7.parquet", "versions/v000003/README.md", "versions/v000001/index-0000000000000000.parquet",
           "previews/make-g7-000000.parquet",
           "exports/v000003/webdataset/train-000000.tar", "exports/v000001/webdataset/train-000077.tar",
           "quarantine/make-g0-000001-1.json", "runs/lease-000001.json", "runs/0123456789ab.json",
           "splits/halves.parquet"]  # fmt: skip
KEPT = ["runs/ffffffffffff.json", "runs/lease-000002.json", "recipes/g7.yaml", "receipts/note.txt", "README.md",
        "private/gallery.parquet", "quarantine/make-g7-000000-1.json", "private/suppressed/000001.parquet"]  # fmt: skip


@pytest.fixture
def littered(grown: dict[str, bytes]) -> MemoryStore:
    """Return a dataset with files that nothing names, and with some that are nobody's orphans."""
    store = MemoryStore()
    for path in (*ORPHANS, *KEPT):
        store.put(path, b"litter")
    return filled(store, {p: d for p, d in grown.items() if not p.startswith("runs/")})


def test_orphans_are_listed_once_they_are_old_and_nothing_else_is(littered: MemoryStore, codec: Codec) -> None:
    """Every kind, with its size and the reason; what is young may be a running unit's."""
    listed = find_orphans(littered, Later())
    assert {o.stored.path for o in listed.files} == set(ORPHANS)
    assert listed.bytes == 6 * len(ORPHANS)
    assert all(o.why for o in listed.files)
    assert find_orphans(littered, Later(0)).files == ()
    assert len(find_orphans(littered, Later(3600), grace_s=1800).files) == len(ORPHANS)
    assert damaged(check(littered, codec, deep=True)) == set()


def test_removal_takes_orphans_alone(littered: MemoryStore, codec: Codec) -> None:
    """Afterwards the dataset verifies deep, with the same digest, and a second look finds nothing."""
    before, stood = digest(littered), set(littered.list(""))
    listed = find_orphans(littered, Later())
    removed = remove_orphans(littered, Later(), lease_of(littered), listed)
    assert {o.stored.path for o in removed.files} == set(ORPHANS)
    assert removed.kept == ()
    assert stood - set(littered.list("")) == set(ORPHANS)
    assert check(littered, codec, deep=True).problems == ()
    assert digest(littered) == before
    # the lease before the removal's own is an old one now, and its turn comes when it is old enough
    assert {o.stored.path for o in find_orphans(littered, Later()).files} == {"runs/lease-000002.json"}


def test_what_turned_up_or_was_named_since_the_listing_is_kept(littered: MemoryStore) -> None:
    """A worker of a dead run may commit late: its files are looked at again right before they go."""
    listed = find_orphans(littered, Later())
    raw = Receipt.from_json(littered.get(RECEIPT))
    unit = {**raw.unit, "generation": 7, "index": 0}
    entry = replace(raw.files[0], path="segments/make-g7-000000.tar")
    late = replace(raw, unit=unit, name="make-g7-000000", files=(entry,))
    littered.put("receipts/make-g7-000000.json", late.to_json())
    enrolled = json.loads(littered.get("receipts/enrolled-g0.json").replace(b"g0", b"g7"))
    littered.put("receipts/enrolled-g7.json", canonical_json(sealed(enrolled)))
    littered.put("audits/make-g7-000000.parquet", b"another content")
    removed = remove_orphans(littered, Later(), lease_of(littered), listed)
    kept = {"segments/make-g7-000000.tar", "audits/make-g7-000000.parquet", "enrolled/g7.parquet"}
    assert set(removed.kept) == kept
    assert kept <= set(littered.list(""))


def test_removal_stops_where_another_run_takes_over(littered: MemoryStore) -> None:
    """Nothing goes without the lease."""
    lease = lease_of(littered)
    littered.put("runs/lease-000009.json", b"{}")
    with pytest.raises(LeaseHeldError):
        remove_orphans(littered, Later(), lease, find_orphans(littered, Later()))
    assert set(ORPHANS) <= set(littered.list(""))


def test_leftovers_of_killed_writers_are_listed_and_removed(tmp_path: Path, grown: dict[str, bytes]) -> None:
    """A temporary file is no file of the dataset; it goes once it is older than the grace age."""
    store = filled(LocalStore(tmp_path), {p: d for p, d in grown.items() if not p.startswith("runs/")})
    trial = tmp_path / "segments/.tmp-0123"
    trial.write_bytes(b"half")
    assert find_orphans(store, Later(0)).leftovers == ()
    listed = find_orphans(store, Later())
    assert len(listed.leftovers) == 1
    assert listed.files == ()
    assert remove_orphans(store, Later(), lease_of(store), listed).leftovers == 1
    assert not trial.exists()
