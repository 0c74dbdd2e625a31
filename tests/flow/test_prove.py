"""Proofs: every image of a sound dataset proves, and whatever is tampered with breaks the link that names it."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.tables import SETTINGS
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import Manifest, Receipt, canonical_json, segment_path, sha256_hex
from pipeline.domain.records import identity_of
from pipeline.domain.tombstones import Tombstones
from pipeline.flow.erase.journal import Journal
from pipeline.flow.versions import published_rows, read_manifest
from tests.command_line import facemint
from tests.worlds import Silent, edit, filled, mint, sketches

RECIPE: dict[str, Any] = {
    "generator": {"use": "sketch", "noise": 2.5},
    "attempts": 9,
    "rounds": 8,
    "filters": [
        {"use": "own-template", "fmr": 1e-2},
        {"use": "condition", "condition": "yaw_deg", "measure": "yaw_deg", "tolerance": 0.2},
    ],
    "conditions": {
        "yaw_deg": {"use": "uniform", "low": -30, "high": 30},
        "vector_cos": {"use": "uniform", "low": 0.98, "high": 1.0},
    },
    "twins": [{"use": "face-mask", "share": 0.5}],
}
UNIT = "make-g0-000000"
MANIFEST = "versions/v000001/manifest.json"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Return the files of a finished dataset with refused candidates, twins, cones and an added measure."""
    store = MemoryStore()
    mint(sketches(**RECIPE), store)
    wiring.measure_on(store, "copy-hash", [], Silent())
    return {path: store.get(path) for path in store.list("")}


@pytest.fixture
def dataset(files: dict[str, bytes]) -> MemoryStore:
    """Return a dataset of its own for a test to damage."""
    return filled(MemoryStore(), files)


def proof(store: MemoryStore, key: str) -> dict[str, Any]:
    """Return the proof of a key, which is JSON-ready."""
    found: dict[str, Any] = json.loads(json.dumps(wiring.prove_on(store, key)))
    return found


def links(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the links by the first word of their names."""
    return {link["name"].split()[0]: link for link in found["links"]}


def rows_of(store: MemoryStore) -> list[dict[str, Any]]:
    """Return every candidate of the first unit, in the order of the file."""
    return Segments().read_rows(store, UNIT)


def published(store: MemoryStore) -> str:
    """Return the key of a published image of the first unit that has a twin."""
    rows = published_rows(Segments(), store, read_manifest(store, "v000001"))
    return next(r.key.removesuffix("-t01") for r in rows if r.segment == UNIT and r.key.endswith("-t01"))


def broken(found: dict[str, Any]) -> list[str]:
    """Return the broken links with their failing checks, one line each."""
    return [f"{k['name']}: {c['what']}: {c['found']}" for k in found["links"] for c in k["checks"] if not c["ok"]]


def test_every_image_of_a_sound_dataset_proves(dataset: MemoryStore) -> None:
    """Published, twin and refused: no link is broken, and the state says what became of it."""
    rows = published_rows(Segments(), dataset, read_manifest(dataset, "v000001"))
    keys = {row.key for row in rows}
    candidates = {r["key"]: r["accepted"] for r in proof_rows(dataset, UNIT)}
    for key, accepted in candidates.items():
        found = proof(dataset, key)
        assert broken(found) == []
        assert found["ok"]
        state = "published" if key in keys else "stored" if accepted else "refused"
        assert found["state"] == state
    assert {False, True} == set(candidates.values())


def proof_rows(store: MemoryStore, unit: str) -> list[dict[str, Any]]:
    """Return the candidates of a unit."""
    return Segments().read_rows(store, unit, ["key", "accepted"])


def test_a_published_image_is_told_down_to_its_keys(dataset: MemoryStore) -> None:
    """Label, bytes, verdicts, keys, identity, models, unit, side-car and twins, as they stand in the files."""
    key = published(dataset)
    found = links(proof(dataset, key))
    row = next(r for r in published_rows(Segments(), dataset, read_manifest(dataset, "v000001")) if r.key == key)
    told = found["version"]["facts"]
    assert (told["label"], told["identity"], told["cell"]) == (row.label, row.identity, row.cell)
    data = dataset.get_range(segment_path(row.segment, "tar"), row.offset, row.length)
    assert found["image"]["facts"]["sha256"] == sha256_hex(data)
    assert found["image"]["facts"]["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    candidate = next(r for r in rows_of(dataset) if r["key"] == key)
    assert found["candidate"]["facts"]["verdicts"] == [dict(v) for v in candidate["verdicts"]]
    assert found["candidate"]["facts"]["measures"] == dict(candidate["measures"])
    drawn = found["random"]["facts"]
    place = {"run_seed": 7, "identity": row.identity, "slot": candidate["slot"], "attempt": candidate["attempt"]}
    assert drawn["noise"] == {**place, "stream": "SAMPLE_NOISE (4)"}
    assert drawn["direction on the cone"]["stream"] == "CONE (8)"
    assert drawn["identity vector"]["identity"] == found["identity"]["facts"]["candidate"]
    person = next(p for p in Segments().read_identities(dataset, "enrolled/g0.parquet")[0] if p.ordinal == row.identity)
    assert found["identity"]["facts"]["vector_sha256"] == sha256_hex(person.vector_D.tobytes())
    assert "vector" not in found["identity"]["facts"]
    models = read_manifest(dataset, "v000001").models
    assert {role: m["sha256"] for role, m in found["models"]["facts"].items()} == {
        role: m["sha256"] for role, m in models.items()
    }
    run = Receipt.from_json(dataset.get(f"receipts/{UNIT}.json")).run
    assert {k: found["unit"]["facts"][k] for k in ("host", "device_kind", "start_s", "end_s")} == {
        k: run[k] for k in ("host", "device_kind", "start_s", "end_s")
    }
    assert set(found["added"]["facts"]["copy-hash"]) == {"model", "phash_hi", "phash_lo"}
    assert found["twins"]["facts"]["keys"] == [f"{key}-t01"]
    assert links(proof(dataset, f"{key}-t01"))["twin"]["facts"] is not None


def test_a_refused_candidate_says_why_and_shows_its_preview(dataset: MemoryStore) -> None:
    """First reason, value and threshold; its pixels' digest where they are kept."""
    row = next(r for r in sorted(rows_of(dataset), key=lambda r: r["order"]) if not r["accepted"])
    found = proof(dataset, row["key"])
    said = next(v for v in row["verdicts"] if not v["passed"])
    assert f"was refused: {said['reason']} ({said['filter']}: {said['value']:.6g}" in found["said"]
    kept = next(p for p in Segments().read_previews(dataset, UNIT) if p.key == row["key"])
    assert links(found)["preview"]["facts"]["sha256"] == sha256_hex(kept.jpeg)
    assert "image" not in links(found)


def flip(data: bytes) -> bytes:
    """Return bytes with one bit in their middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


NAMED = [
    "versions/v000001/index-",
    f"segments/{UNIT}.tar",
    f"segments/{UNIT}.parquet",
    "enrolled/g0.parquet",
    "segments/enrol-g0-000000.parquet",
    f"audits/{UNIT}.parquet",
    f"measures/{UNIT}-copy-hash.parquet",
]


@pytest.mark.parametrize("start", NAMED)
@pytest.mark.parametrize("gone", [False, True])
def test_every_file_of_the_chain_is_held_against_its_digest(dataset: MemoryStore, start: str, gone: bool) -> None:
    """A bit that is changed, or a file that is gone, breaks a link that names the file; the rest is told."""
    (path,) = dataset.list(start)
    key = published(dataset)
    whole = proof(dataset, key)
    if gone:
        dataset.delete(path)
    else:
        dataset.put(path, flip(dataset.get(path)))
    found = proof(dataset, key)
    assert not found["ok"]
    assert any(path in line for line in broken(found)), broken(found)
    assert len(found["links"]) >= len(whole["links"]) - 2


def other_recipe(store: MemoryStore) -> None:
    """Change what the recipe says was asked, its prints unchanged."""
    raw = yaml.safe_load(store.get("recipes/g0.yaml"))
    raw["recipe"]["conditions"]["yaw_deg"]["high"] = 31.0
    store.put("recipes/g0.yaml", yaml.safe_dump(raw, sort_keys=False).encode())


def other_field(store: MemoryStore) -> None:
    """Change a field under the fingerprint."""
    raw = yaml.safe_load(store.get("recipes/g0.yaml"))
    raw["fingerprint_fields"]["attempts"] = 8
    store.put("recipes/g0.yaml", yaml.safe_dump(raw, sort_keys=False).encode())


def forged_measure(store: MemoryStore) -> None:
    """Raise everybody's similarity to the own template, and make every record agree with the forged file."""
    path = f"segments/{UNIT}.parquet"
    table = pq.read_table(io.BytesIO(store.get(path)))
    rows = [
        [(k, 0.99 if k == "own_template_cos" else v) for k, v in row] for row in table.column("measures").to_pylist()
    ]
    at = table.schema.get_field_index("measures")
    table = table.set_column(at, table.schema.field(at), pa.array(rows, type=table.schema.field(at).type))
    out = io.BytesIO()
    with pq.ParquetWriter(out, table.schema, **SETTINGS) as writer:
        writer.write_table(table)
    store.put(path, out.getvalue())
    entry = {"path": path, "sha256": sha256_hex(out.getvalue()), "bytes": len(out.getvalue())}

    def renamed(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry if f["path"] == path else f for f in files]

    edit(store, f"receipts/{UNIT}.json", lambda raw: raw["content"].update(files=renamed(raw["content"]["files"])))
    raw = json.loads(store.get(MANIFEST))
    store.put(MANIFEST, Manifest.from_json(canonical_json({**raw, "files": renamed(raw["files"])})).to_json())


def manifest(**changes: Any) -> Callable[[MemoryStore], None]:
    """Return what changes fields of the manifest."""
    return lambda store: edit(store, MANIFEST, lambda raw: raw.update(changes))


def model(role: str) -> Callable[[MemoryStore], None]:
    """Return what changes a model's digest in the manifest."""
    return lambda store: edit(store, MANIFEST, lambda raw: raw["models"][role].update(sha256="0" * 64))


def receipt(change: Callable[[Any], None]) -> Callable[[MemoryStore], None]:
    """Return what changes the content of the unit's receipt."""
    return lambda store: edit(store, f"receipts/{UNIT}.json", lambda raw: change(raw["content"]))


FORGED: list[tuple[Callable[[MemoryStore], None], str]] = [
    (manifest(digest="0" * 64), "version v000001: versions/v000001/manifest.json: states digest 000000"),
    (manifest(fingerprint="0" * 64), "fingerprint of versions/v000001"),
    (model("judge"), "models in .*: judge: 0000"),
    (model("auditor"), "audit in .*: reader"),
    (receipt(lambda content: content["files"].pop()), "unit in .*does not name it"),
    (receipt(lambda content: content.update(fingerprint="0")), "fingerprint of receipts"),
    (lambda store: store.delete(f"receipts/audit-{UNIT}.json"), "audit in .*no receipt of an audit"),
    (lambda store: store.delete("receipts/enrolled-g0.json"), "identity in .*no receipt names it"),
    (lambda store: store.put("recipes/g0.yaml", b"recipe: 3"), "recipe in .*not a recipe of ours"),
    (other_recipe, "candidate in .*: conditions: .*but drawn anew from their key"),
    (other_field, "recipe in .*: fingerprint: .*but over its fields"),
    (forged_measure, "candidate in .*: own_template_cos: 0.99, but recomputed"),
]


@pytest.mark.parametrize("path", [MANIFEST, f"receipts/{UNIT}.json", "receipts/enrolled-g0.json"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_record_that_is_damaged_or_gone_breaks_the_proof(dataset: MemoryStore, path: str, gone: bool) -> None:
    """Every kind of image is told all the same, as far as the other records go."""
    rows = rows_of(dataset)
    keys = [published(dataset), next(r["key"] for r in rows if not r["accepted"])]
    if gone and path == MANIFEST:
        dataset.put(path, b"")
    elif gone:
        dataset.delete(path)
    else:
        dataset.put(path, flip(dataset.get(path)))
    for key in keys:
        found = proof(dataset, key)
        assert any(path in line for line in broken(found)), broken(found)
        assert {"candidate", "random", "recipe", "unit"} <= links(found).keys()


@pytest.mark.parametrize(("forge", "expected"), FORGED)
def test_what_is_forged_in_a_record_is_found(
    dataset: MemoryStore, forge: Callable[[MemoryStore], None], expected: str
) -> None:
    """Also where every digest was made to agree: what can be recomputed is."""
    key = published(dataset)
    forge(dataset)
    found = proof(dataset, key)
    assert not found["ok"]
    assert any(re.search(expected, line) for line in broken(found)), broken(found)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("i12-s7-a2", r"not the key of an image; .*did you mean i00000012-s0007-a02\?$"),
        ("i1-s7-a2-t1", r"did you mean i00000001-s0007-a02-t01\?$"),
        ("face.jpg", r"a key is i00000012-s0007-a02 \(identity, slot, attempt\), with -t01 behind it for a twin$"),
        ("i00000000-s0000-a88", r"no such candidate of identity 0; the nearest that was made is i00000000-s0000-a\d\d"),
        ("i00009999-s0000-a00", r"no image of identity 9999 was ever made here; images were made of \d+ identities"),
    ],
)
def test_an_unknown_key_is_answered_in_one_line(dataset: MemoryStore, key: str, said: str) -> None:
    """With the nearest that there is."""
    with pytest.raises(UserError, match=said) as caught:
        wiring.prove_on(dataset, key)
    assert "\n" not in str(caught.value)


def test_what_was_erased_is_said_to_be(dataset: MemoryStore) -> None:
    """A tombstone of the identity, or of the very image, ends the matter."""
    key = published(dataset)
    identity, slot, attempt = (int(part[1:]) for part in key.split("-"))
    for stones in (Tombstones(identities=(identity,)), Tombstones(images=((identity, slot, attempt),))):
        manifest(tombstones=stones.to_list())(dataset)
        with pytest.raises(UserError, match="was erased before v000001 was published; nothing of it is kept"):
            wiring.prove_on(dataset, key)


def test_what_is_half_erased_is_not_shown_any_more(dataset: MemoryStore) -> None:
    """Once it is written down that it goes, it is said what ends that; the others are told as ever."""
    key = published(dataset)
    journal = Journal(1, "v000001", 1, Tombstones(identities=(identity_of(key),)), (), {}, {}, 0.0)
    dataset.put(journal.path, journal.to_json())
    with pytest.raises(UserError, match=r"is being erased, .* run `facemint erase URI --yes`"):
        wiring.prove_on(dataset, key)


def test_growth_and_judging_again_add_versions_to_a_proof(dataset: MemoryStore) -> None:
    """An image is told with its label in every version that holds it."""
    key = published(dataset)
    store = dataset
    base = sketches(**RECIPE)
    mint(sketches(**RECIPE, identities={**base.identities.model_dump(), "count": 12}), store)
    found = proof(store, key)
    assert [k["name"] for k in found["links"]][:2] == ["version v000001", "version v000002"]
    assert found["said"].endswith("is published in v000001, v000002")
    assert broken(found) == []
    newest = published_rows(Segments(), store, read_manifest(store, "v000002"))
    fresh = next(r.key for r in newest if r.segment.startswith("make-g1"))
    assert broken(proof(store, fresh)) == []


def test_an_exported_file_is_found_by_its_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    """The verb's whole way: exit 0 with the key, 7 where a link broke, 2 in one line for other bytes and odd calls."""
    store = filled(LocalStore(tmp_path / "set"), files)
    row = published_rows(Segments(), store, read_manifest(store, "v000001"))[4]
    picture = tmp_path / "face.jpg"
    picture.write_bytes(store.get_range(segment_path(row.segment, "tar"), row.offset, row.length))

    proves = functools.partial(facemint, "prove", tmp_path / "set")
    done = proves("--file", str(picture), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["key"] == row.key
    shown = proves(row.key)
    assert shown.exit_code == 0
    assert "none broken" in shown.stdout
    tar = store.get(segment_path(row.segment, "tar"))
    store.put(segment_path(row.segment, "tar"), flip(tar))
    hurt = proves(row.key)
    assert hurt.exit_code == 7
    assert "BROKEN" in hurt.stdout
    store.put(segment_path(row.segment, "tar"), tar)
    picture.write_bytes(flip(picture.read_bytes()))
    for arguments, said in (
        (("--file", str(picture)), "are no published image of"),
        (("--file", str(tmp_path)), "cannot be read (Is a directory); give an image file"),
        ((), "give either the KEY"),
        ((row.key, "--file", str(picture)), "give either the KEY"),
    ):
        wrong = proves(*arguments)
        assert isinstance(wrong.exception, UserError)
        assert said in str(wrong.exception)


def test_after_an_erasure_the_others_prove_and_the_erased_is_said_to_be(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    """What is rewritten without somebody is held against its own receipts, and a new version tells where it lies."""
    store = filled(LocalStore(tmp_path / "set"), files)
    rows = published_rows(Segments(), store, read_manifest(store, "v000001"))
    gone, other = (next(r for r in rows if (r.label == 0) is first and r.segment == UNIT) for first in (True, False))
    done = facemint("erase", tmp_path / "set", "--identity", gone.identity, "--yes")
    assert done.exit_code == 0, done.output
    found = wiring.prove_on(store, other.key)
    assert broken(found) == []
    assert found["said"].endswith("is published in v000002")
    assert links(found)["version"]["facts"]["segment"] == f"{UNIT}.r1"
    with pytest.raises(UserError, match="was erased before v000002 was published; nothing of it is kept"):
        wiring.prove_on(store, gone.key)
