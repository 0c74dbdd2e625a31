"""The links of a proof below its versions and image: candidate, keys, identity, models, recipe, audit.

What is checked is recomputed wherever it can be: the conditions from their key, the cosine to the template from the
stored embedding and the enrolled template, the fingerprint from its fields, the vector from the probes' row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.domain.conditions import slot_conditions
from pipeline.domain.cones import VECTOR_COS
from pipeline.domain.cosines import exact_cos
from pipeline.domain.errors import FacemintError, StoreError
from pipeline.domain.manifest import Manifest, Receipt, audit_path, canonical_json, segment_path, sha256_hex
from pipeline.domain.privacy import is_private, without_private
from pipeline.domain.records import Float32, Identity
from pipeline.domain.rng import Key, Stream
from pipeline.domain.twins import PREFIX as TWIN
from pipeline.domain.twins import is_twin, number_of, parent_of
from pipeline.domain.unit import Stage
from pipeline.flow.commit import enrolled_paths, is_enrolled
from pipeline.flow.judge import OWN
from pipeline.flow.proving.proof import Asked, Check, Link, Witness, equal
from pipeline.flow.sidecars import side_car_records

Row = Mapping[str, Any]


def vector_digest(vector_D: Float32) -> str:
    """Return the SHA-256 of a vector as little-endian float32: it tells vectors apart, and does not tell them."""
    return sha256_hex(np.ascontiguousarray(vector_D, dtype="<f4").tobytes())


def candidate_link(row: Row, asked: Asked | None, identity: Identity | None, path: str) -> Link:
    """Return what was asked of a candidate, what was measured, and every verdict."""
    twin = is_twin(row["key"])
    facts = {name: row[name] for name in ("order", "identity", "slot", "attempt", "accepted", "off_target", "reasons")}
    facts |= {name: dict(row[name]) for name in ("conditions", "measures")}
    facts |= {"verdicts": [dict(v) for v in row["verdicts"]], "embedding_sha256": vector_digest(row["embedding"])}
    checks = [_outcome(row)]
    if asked is not None:
        drawn = slot_conditions(
            asked.recipe.conditions, asked.recipe.seed, Stream.SAMPLE_CONDITION, row["identity"], row["slot"]
        )
        own = {k: v for k, v in dict(row["conditions"]).items() if not k.startswith(TWIN)}
        checks.append(equal("conditions", own, drawn, "drawn anew from their key"))
    if identity is not None and OWN in dict(row["measures"]):
        cos = exact_cos(row["embedding"], identity.template_E)
        checks.append(equal(OWN, dict(row["measures"])[OWN], cos, "recomputed from embedding and template"))
    return Link(f"{'twin' if twin else 'candidate'} in {path}", facts, tuple(checks))


def _outcome(row: Row) -> Check:
    """Return the check that a row's reasons are those of its verdicts, and that it has some where it was refused."""
    failed = [v["reason"] for v in row["verdicts"] if not v["passed"]]
    expected = [] if row["accepted"] else failed
    ok = list(row["reasons"]) == expected and bool(failed) == (not row["accepted"] or row["off_target"])
    said = "accepted" if row["accepted"] else "refused"
    off = " although it missed its conditions" if row["off_target"] else ""
    return Check(
        "verdicts", ok or (is_twin(row["key"]) and row["accepted"]), f"{said}{off}; failed: {failed or 'none'}"
    )


def keys_link(row: Row, asked: Asked, candidate: int | None) -> Link:
    """Return the keys that everything random about an image was drawn from."""
    seed, identity, slot, attempt = asked.recipe.seed, row["identity"], row["slot"], row["attempt"]
    drawn = [
        ("noise", Key(seed, Stream.SAMPLE_NOISE, identity, slot, attempt)),
        ("conditions", Key(seed, Stream.SAMPLE_CONDITION, identity)),
    ]
    if VECTOR_COS in dict(row["conditions"]):
        drawn.append(("direction on the cone", Key(seed, Stream.CONE, identity, slot)))
    if candidate is not None:
        drawn.append(("identity vector", Key(seed, Stream.CANDIDATE_VECTOR, candidate)))
        drawn.append(("probes' noise, one per slot from 0", Key(seed, Stream.PROBE_NOISE, candidate)))
    if is_twin(row["key"]):
        drawn.append(("twin", Key(seed, Stream.TWIN, identity, slot, number_of(row["key"]))))
    facts = {
        what: {
            "run_seed": key.run_seed,
            "stream": f"{key.stream.name} ({int(key.stream)})",
            "identity": key.identity,
            "slot": key.slot,
            "attempt": key.attempt,
        }
        for what, key in drawn
    }
    return Link("random keys", facts)


def find_identity(witness: Witness, ordinal: int, generation: int) -> tuple[Identity | None, str, str]:
    """Return an enrolled identity, the file that it stands in, and the name of its vector's space."""
    paths = enrolled_paths(witness.store, generation + 1)
    closed = (r for r in witness.ledger.receipts.values() if r.unit["stage"] == "enrolled")
    named = [f.path for r in closed for f in r.files if is_enrolled(f.path)]
    gone = [path for path in named if witness.store.size(path) is None]
    trouble = f"no identity {ordinal} in {', '.join(paths) or 'any file'}"
    trouble += f"; missing: {', '.join(gone)}" if gone else ""
    for path in reversed(paths):
        try:
            rows, space = witness.segments.read_identities(witness.store, path)
        except (StoreError, FileNotFoundError) as error:
            trouble = " ".join(str(error).split())
            continue
        found = next((row for row in rows if row.ordinal == ordinal), None)
        if found is not None:
            return found, path, space.name
    return None, trouble, ""


def identity_link(witness: Witness, identity: Identity, path: str, space: str, *, probed: bool = True) -> Link:
    """Return who an enrolled identity is, tied to the receipt of its enrolment and to the probes that admitted it.

    Not `probed` are those of a merged dataset, whose probes stayed with its source, and real people.
    """
    facts: dict[str, Any] = {
        "ordinal": identity.ordinal,
        "candidate": identity.candidate,
        "cell": str(identity.cell),
        "rank": identity.rank,
        "quality": identity.quality,
        "space": space,
        "vector_sha256": vector_digest(identity.vector_D),
        "template_sha256": vector_digest(identity.template_E),
        "template_images": identity.template_images,
    }
    by = next((r for r in witness.ledger.receipts.values() if any(f.path == path for f in r.files)), None)
    checks = [
        witness.named(by, path) if by else Check(path, False, f"no receipt names it; {_enrolled_receipt(path)} should")
    ]
    probes = [r for r in witness.ledger.receipts.values() if _proposed(r, identity.candidate)]
    for receipt in probes[-1:]:
        table = segment_path(receipt.name, "parquet")
        facts["probed_in"] = table
        checks.append(witness.named(receipt, table))
        checks += _probes(witness, receipt, identity, facts)
    if probed and not probes:
        checks.append(Check("probes", False, f"no receipt of enrolment proposed candidate {identity.candidate}"))
    return Link(f"identity in {path}", facts, tuple(checks))


def _enrolled_receipt(path: str) -> str:
    """Return the receipt of a file of enrolled identities: `receipts/enrolled-g0.json` of `enrolled/g0.parquet`."""
    return f"receipts/enrolled-{without_private(path).removeprefix('enrolled/').removesuffix('.parquet')}.json"


def _proposed(receipt: Receipt, candidate: int) -> bool:
    unit = receipt.unit
    return unit["stage"] == Stage.ENROL.value and any(int(p[0]) == candidate for p in unit.get("proposals", ()))


def _probes(witness: Witness, receipt: Receipt, identity: Identity, facts: dict[str, Any]) -> list[Check]:
    """Return the checks of an identity against its candidate's row; what it adds to the facts is put into them."""
    columns = ["candidate", "vector", "template", "accepted", "probe_keys"]
    try:
        rows = witness.segments.read_rows(witness.store, receipt.name, columns)
    except (StoreError, FileNotFoundError, ValueError) as error:
        return [Check("probes", False, " ".join(str(error).split()))]
    row = next((r for r in rows if r["candidate"] == identity.candidate), None)
    if row is None:
        return [Check("probes", False, f"candidate {identity.candidate} has no row in {receipt.name}")]
    facts["probe_keys"] = list(row["probe_keys"])
    by = f"that of candidate {identity.candidate}'s row"
    checks = [equal("vector", vector_digest(identity.vector_D), vector_digest(row["vector"]), by)]
    if row["template"] is not None:
        checks.append(equal("template", vector_digest(identity.template_E), vector_digest(row["template"]), by))
    return [
        *checks,
        Check("admitted", bool(row["accepted"]), "accepted at enrolment" if row["accepted"] else "refused"),
    ]


def models_link(manifest: Manifest, asked: Asked | None) -> Link:
    """Return every model that took part, tied to the fingerprint and to what the dataset may be used for."""
    wanted = ("name", "sha256", "licence", "commercial_use", "source", "epoch")
    facts = {role: {k: card.get(k) for k in wanted} for role, card in manifest.models.items()}
    checks = []
    for role, card in manifest.models.items():
        stated = (asked.fields if asked else {}).get(f"model.{role}.sha256")
        if stated is not None:
            checks.append(equal(role, card.get("sha256"), stated, "in the recipe's fingerprint"))
    if manifest.use.get("commercial"):
        not_allowed = sorted(role for role, card in manifest.models.items() if not card.get("commercial_use"))
        checks.append(Check("commercial use", not not_allowed, f"forbidden by: {', '.join(not_allowed) or 'no model'}"))
    return Link(f"models in {manifest.path}", facts, tuple(checks))


def recipe_link(
    asked: Asked | None, trouble: str, receipt: Receipt, generation: int, published: Sequence[Manifest]
) -> Link:
    """Return what the dataset was asked to be, tied to the unit's receipt and to the version of its generation."""
    name = f"recipe in recipes/g{generation}.yaml"
    if asked is None:
        return Link(name, {}, (Check("recipe", False, trouble),))
    facts = {"name": asked.recipe.name, "seed": asked.recipe.seed, "fingerprint": asked.fingerprint}
    checks = [
        equal("fingerprint", asked.fingerprint, sha256_hex(canonical_json(dict(asked.fields))), "over its fields"),
        equal(f"fingerprint of {receipt.path}", receipt.fingerprint, asked.fingerprint, "in the recipe"),
    ]
    checks += [
        equal(f"fingerprint of {m.path}", m.fingerprint, asked.fingerprint, "in the recipe")
        for m in published
        if m.generation == generation
    ]
    plan = sha256_hex(canonical_json({"fingerprint": asked.fingerprint, "plan": dict(asked.plan_fields)}))
    checks.append(equal("plan digest", asked.plan_digest, plan, "over its fields"))
    return Link(name, facts, tuple(checks))


def unit_link(witness: Witness, receipt: Receipt) -> Link:
    """Return where, when and by what a unit was made, tied to the bytes of its segment."""
    run = dict(receipt.run)
    facts: dict[str, Any] = {
        "unit": receipt.name,
        **{k: receipt.unit[k] for k in ("stage", "generation", "index", "round") if k in receipt.unit},
        "counts": receipt.counts.to_dict(),
        **{k: run[k] for k in ("host", "device_kind", "run", "start_s", "end_s") if k in run},
    }
    paths = [segment_path(receipt.name, suffix) for suffix in ("tar", "parquet")]
    paths += [f.path for f in receipt.files if is_private(f.path)]
    checks = [*witness.of_record(receipt.path), *(witness.named(receipt, path) for path in paths)]
    return Link(f"unit in {receipt.path}", facts, tuple(checks))


def audit_link(
    witness: Witness, unit: str, key: str, place: tuple[int, int] | None, auditor: Mapping[str, Any]
) -> Link:
    """Return that the unit was read again before it was published, by which auditor, and where it found the image."""
    receipt = witness.ledger.receipts.get(f"{Stage.AUDIT.value}-{unit}")
    # of real people it lies under `private/`
    path = next((f.path for f in receipt.files), audit_path(unit)) if receipt is not None else audit_path(unit)
    if receipt is None:
        return Link(f"audit in {path}", {}, (Check(path, False, "no receipt of an audit of this unit"),))
    run = dict(receipt.run)
    read_by = str(receipt.unit.get("reader", ""))
    facts: dict[str, Any] = {"reader": read_by, **{k: run[k] for k in ("host", "end_s") if k in run}}
    reader = f"{auditor.get('sha256')}-{auditor.get('epoch')}"
    checks = [witness.named(receipt, path), equal("reader", read_by, reader, "the manifest's auditor")]
    try:
        found = witness.segments.read_audit(witness.store, unit)
    except (FacemintError, FileNotFoundError) as error:
        return Link(f"audit in {path}", facts, (*checks, Check(path, False, " ".join(str(error).split()))))
    if place is not None:
        there = [
            (int(o), int(n)) for k, o, n in zip(found.keys, found.offset_N, found.length_N, strict=True) if k == key
        ]
        checks.append(equal("place", there[0] if there else "not seen", place, "in the tar"))
    return Link(f"audit in {path}", facts, tuple(checks))


def twins_link(key: str, keys: Sequence[str]) -> Link | None:
    """Return whose twin an image is, or which twins it has; None where there is neither."""
    parent = parent_of(key)
    if parent is not None:
        there = parent in keys
        found = "in the same segment" if there else "not in the segment of its twin"
        return Link("twin", {"parent": parent, "number": number_of(key)}, (Check(parent, there, found),))
    mine = [other for other in keys if parent_of(other) == key]
    return Link("twins", {"keys": mine}) if mine else None


def added_link(witness: Witness, unit: str, key: str) -> Link | None:
    """Return what was added about an image beside its segment; None where nothing was."""
    records = side_car_records(witness.store).get(unit, [])
    facts: dict[str, Any] = {}
    checks = []
    for record in records:
        entry = record.files[0]
        checks.append(witness.held(entry, entry.path, f"{entry.path.rpartition('.')[0]}.json"))
        try:
            car = witness.segments.read_side_car(witness.store, entry.path, unit)
        except (FacemintError, FileNotFoundError) as error:
            checks.append(Check(entry.path, False, " ".join(str(error).split())))
            continue
        if key in car.keys:
            facts[str(record.unit["side_car"])] = {"model": car.about.get("model"), **car.measures[car.keys.index(key)]}
    return Link("added later", facts, tuple(checks)) if records else None
