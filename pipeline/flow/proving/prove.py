"""Proof of an image: its whole lineage from the versions that hold it down to the recipe, each step checked.

A record that cannot be read, a file that is missing and a digest that differs break the link that they belong to, and
the others are told all the same. Refused candidates are provable too: their row is there although their pixels are not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from pipeline.domain.errors import FacemintError, StoreError, UserError
from pipeline.domain.manifest import Counts, IndexRow, Manifest, Receipt, segment_path, sha256_hex
from pipeline.domain.merged_recipe import merged_of
from pipeline.domain.previews import preview_path
from pipeline.domain.records import identity_of, slot_of
from pipeline.domain.revisions import parsed
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.twins import is_twin
from pipeline.domain.unit import Stage
from pipeline.flow.erase.journal import FINISH, unfinished
from pipeline.flow.ledger import unit_of
from pipeline.flow.merging.proof import source_link
from pipeline.flow.proving.inputs import input_link
from pipeline.flow.proving.links import (
    added_link,
    audit_link,
    candidate_link,
    find_identity,
    identity_link,
    keys_link,
    models_link,
    recipe_link,
    twins_link,
    unit_link,
)
from pipeline.flow.proving.proof import Check, Link, Proof, Witness, equal
from pipeline.flow.versions import published_rows

KEY = re.compile(r"i(\d{8})-s(\d{4})-a(\d{2})(-t\d{2})?")
GENERATED = "trainedAlgorithmicMedia"
_MANIFEST = re.compile(r"versions/[^/]+/manifest\.json")
_UNIT = re.compile(r"make-g(\d+)-\d+(?:\.r\d+)?")
_UNREADABLE = (StoreError, FileNotFoundError, ValueError, KeyError, TypeError)


def prove(witness: Witness, key: str) -> Proof:
    """Return the lineage of an image, published, stored or refused.

    Raises:
        UserError: no image of this dataset has, or ever had, this key; or it was erased.
    """
    _require_form(key)
    _require_kept(witness, key)
    if witness.real and witness.ledger.bare:
        raise UserError(
            f"{witness.store.uri}: this copy has no private/, where a photograph's numbers and its input stand; prove "
            "it with the dataset that it was copied from"
        )
    indexed, troubles = _indexed(witness, key)
    receipt, row, keys = _made(witness, key, {r.segment for _, r in indexed})
    if receipt is None:
        raise UserError(_unknown(witness, key))
    links = [_version_link(witness, manifest, mine, receipt) for manifest, mine in indexed]
    links += [link for manifest, _ in indexed if (link := witness.signature(manifest)) is not None]
    links += [Link(f"version {m.version}", {}, (Check(m.path, False, why),)) for m, why in troubles]
    links += _damaged_versions(witness)
    place, sha256 = None, None
    if row is None or row["accepted"]:
        link, place = _image_link(witness, key, receipt, [r for _, r in indexed])
        links.append(link)
        sha256 = link.facts.get("sha256")
    generation = int(receipt.unit["generation"])
    asked, trouble = None, ""
    try:
        asked = witness.asked(generation)
    except FacemintError as error:
        trouble = " ".join(str(error).split())
    # a merged dataset's images were drawn by the keys of their source, and probed there
    merged = merged_of(asked.recipe) if asked is not None else None
    source = merged.sources[generation] if merged is not None and generation < len(merged.sources) else None
    who, path, space = find_identity(witness, identity_of(key), generation)
    table = segment_path(receipt.name, "parquet")
    if row is None:
        links.append(Link(f"candidate in {table}", {}, (Check(table, False, "its rows cannot be read, or lack it"),)))
    else:
        judged = who if source is None or not source.judge else None
        links.append(candidate_link(row, asked if source is None else None, judged, table))
        links += [_preview_link(witness, receipt, key)] if not row["accepted"] else []
        if asked is not None and source is None and not witness.real:
            links.append(keys_link(row, asked, who.candidate if who else None))
    links.append(
        identity_link(witness, who, path, space, probed=source is None and not witness.real)
        if who
        else Link("identity", {}, (Check("row", False, path),))
    )
    if witness.real and witness.tables is not None:
        links.append(input_link(witness, witness.tables, generation, key))
    if source is not None and witness.tables is not None:
        links.append(source_link(witness, witness.tables, generation, source, key, sha256))
    published = [manifest for manifest, _ in indexed]
    manifest = next((m for m in [*published, *witness.manifests] if m.generation >= generation), None)
    links += [models_link(manifest, asked)] if manifest is not None else []
    links.append(recipe_link(asked, trouble, receipt, generation, witness.manifests))
    links.append(unit_link(witness, receipt))
    if manifest is not None:
        links.append(audit_link(witness, receipt.name, key, place, manifest.models.get("auditor", {})))
    links += [link for link in (added_link(witness, receipt.name, key), twins_link(key, keys)) if link is not None]
    return Proof(key, *_state(key, row, published), tuple(links))


def key_of(witness: Witness, data: bytes, name: str) -> str:
    """Return the key of the image whose stored bytes these are: looked for among published images of equal length.

    Raises:
        UserError: no version holds these bytes.
    """
    sha256 = sha256_hex(data)
    seen: set[tuple[str, int]] = set()
    for manifest in reversed(witness.manifests):
        for row in published_rows(witness.segments, witness.store, manifest):
            place = (row.segment, row.offset)
            if row.length != len(data) or place in seen:
                continue
            seen.add(place)
            try:
                stored = witness.store.get_range(segment_path(row.segment, "tar"), row.offset, row.length)
            except (StoreError, FileNotFoundError):
                continue
            if stored == data:
                return row.key
    raise UserError(
        f"{name}: {len(data):,} bytes with SHA-256 {sha256[:16]} are no published image of {witness.store.uri}; only "
        "bytes that were copied as they are can be proved: an image that was resized or encoded again is another one"
    )


def _state(key: str, row: dict[str, Any] | None, published: list[Manifest]) -> tuple[str, str]:
    if published:
        versions = ", ".join(m.version for m in published)
        return "published", f"{key} is published in {versions}"
    if row is None or row["accepted"]:
        return "stored", f"{key} was accepted and is stored, and no version holds it"
    said = next(v for v in row["verdicts"] if not v["passed"])
    why = f"{said['reason']} ({said['filter']}: {said['value']:.6g}, threshold {said['threshold']:.6g})"
    more = f", and {len(row['reasons']) - 1} more" if len(row["reasons"]) > 1 else ""
    return "refused", f"{key} was refused: {why}{more}"


def _require_form(key: str) -> None:
    if KEY.fullmatch(key):
        return
    numbers = re.findall(r"\d+", key)
    hint = ""
    if len(numbers) in (3, 4) and all(len(n) <= w for n, w in zip(numbers, (8, 4, 2, 2), strict=False)):
        hint = f"; did you mean i{int(numbers[0]):08d}-s{int(numbers[1]):04d}-a{int(numbers[2]):02d}"
        hint += f"-t{int(numbers[3]):02d}?" if len(numbers) == 4 else "?"
    raise UserError(
        f"{key}: not the key of an image; a key is i00000012-s0007-a02 (identity, slot, attempt), with -t01 behind it "
        f"for a twin{hint}"
    )


def _require_kept(witness: Witness, key: str) -> None:
    """Refuse, in one line, what was erased: nothing of it is there to be proved."""
    match = KEY.fullmatch(key)
    place = tuple(int(n) for n in match.groups()[:3]) if match else ()

    def among(stones: Tombstones) -> bool:
        return identity_of(key) in stones.identities or place in stones.images

    for manifest in witness.ledger.manifests.values():
        if among(manifest.tombstones):
            raise UserError(f"{key}: was erased before {manifest.version} was published; nothing of it is kept")
    begun = unfinished(witness.store)
    if begun is not None and among(begun.tombstones):
        raise UserError(f"{key}: is being erased, which is begun and not finished ({begun.path}); {FINISH}")


def _unknown(witness: Witness, key: str) -> str:
    identity, slot = identity_of(key), slot_of(key)
    mine = [r for r in _make_receipts(witness) if identity in r.unit["ordinals"]]
    every = [k for r in mine for k in _keys_of(witness, r) or () if identity_of(k) == identity]
    here = [k for k in every if slot_of(k) == slot]
    if not every:
        worked = sorted({o for r in _make_receipts(witness) for o in r.unit["ordinals"]})
        known = f"images were made of {len(worked)} identities, {worked[0]} to {worked[-1]}" if worked else "none yet"
        return f"{key}: no image of identity {identity} was ever made here; {known}"
    near = difflib.get_close_matches(key, here or every, n=1, cutoff=0.0)
    return f"{key}: no such candidate of identity {identity}; the nearest that was made is {near[0]}"


def _make_receipts(witness: Witness) -> Iterator[Receipt]:
    return (r for _, r in sorted(witness.ledger.receipts.items()) if r.unit["stage"] == Stage.MAKE.value)


def _damaged_versions(witness: Witness) -> list[Link]:
    """Return a broken link for every manifest that is there and is none: it may have held the image."""
    readable = {m.path for m in witness.ledger.manifests.values()}
    paths = {p.path for p in witness.ledger.problems if _MANIFEST.fullmatch(p.path)} - readable
    return [Link(f"version {path.split('/')[1]}", {}, tuple(witness.of_record(path))) for path in sorted(paths)]


def _stand_ins(witness: Witness) -> list[Receipt]:
    """Return, for units whose receipt is missing or damaged, one that names nothing: every check against it fails."""
    units = {u for m in witness.manifests for f in m.files if (u := unit_of(f.path))}
    units |= {p.path.removeprefix("receipts/").removesuffix(".json") for p in witness.ledger.problems}
    found = (_UNIT.fullmatch(unit) for unit in sorted(units - witness.ledger.receipts.keys()))
    return [
        Receipt({"stage": Stage.MAKE.value, "generation": int(m[1])}, m[0], "", "", Counts(0, 0, 0, {}), ())
        for m in found
        if m is not None
    ]


def _keys_of(witness: Witness, receipt: Receipt) -> list[str] | None:
    try:
        return list(witness.segments.read_columns(witness.store, receipt.name, ["key"])["key"])
    except _UNREADABLE:
        return None


def _indexed(witness: Witness, key: str) -> tuple[list[tuple[Manifest, IndexRow]], list[tuple[Manifest, str]]]:
    """Return the versions that hold the image with its row, and those whose index cannot be read, with the reason."""
    found, troubles = [], []
    for manifest in witness.manifests:
        try:
            rows = published_rows(witness.segments, witness.store, manifest)
        except _UNREADABLE as error:
            troubles.append((manifest, " ".join(str(error).split())))
            continue
        found += [(manifest, row) for row in rows if row.key == key]
    return found, troubles


def _made(witness: Witness, key: str, segments: set[str]) -> tuple[Receipt | None, dict[str, Any] | None, list[str]]:
    """Return the receipt of the unit that made a candidate, its row, and the unit's keys.

    Where two units made one key, the one that a version names, else the later; where rows cannot be read, no row.
    """
    mine = [r for r in _make_receipts(witness) if identity_of(key) in r.unit["ordinals"] or r.name in segments]
    mine += _stand_ins(witness)
    mine.sort(key=lambda r: (r.name in segments, int(r.unit["generation"]), parsed(r.name)[1]), reverse=True)
    unreadable = None
    for receipt in mine:
        keys = _keys_of(witness, receipt)
        if keys is None:
            unreadable = unreadable or receipt
        elif key in keys:
            try:
                rows = witness.segments.read_rows(witness.store, receipt.name)
            except _UNREADABLE:
                return receipt, None, keys
            return receipt, next((row for row in rows if row["key"] == key), None), keys
        elif receipt.name in segments:
            return receipt, None, keys
    return unreadable, None, []


def _version_link(witness: Witness, manifest: Manifest, row: IndexRow, receipt: Receipt) -> Link:
    index = next(f for f in manifest.files if f.path.startswith(f"versions/{manifest.version}/index-"))
    facts = {
        "label": row.label,
        "identity": row.identity,
        "cell": row.cell,
        "segment": row.segment,
        "offset": row.offset,
        "length": row.length,
        "digest": manifest.digest,
        "parent": manifest.parent,
        "use": dict(manifest.use),
    }
    checks = [*witness.of_record(manifest.path)] or [
        Check("manifest", True, f"digest {manifest.digest}, which follows from its files")
    ]
    checks.append(witness.held(index, index.path, manifest.path))
    by_path = {f.path: f for f in manifest.files}
    for suffix in ("tar", "parquet"):
        path = segment_path(row.segment, suffix)
        checks.append(witness.held(by_path.get(path), path, manifest.path))
    checks.append(equal("identity", row.identity, identity_of(row.key), "in the key"))
    checks.append(equal("segment", row.segment, receipt.name, "that of the receipt"))
    return Link(f"version {manifest.version}", facts, tuple(checks))


def _image_link(
    witness: Witness, key: str, receipt: Receipt, rows: list[IndexRow]
) -> tuple[Link, tuple[int, int] | None]:
    """Return the image's bytes: where they lie, their digest, and what they say of themselves."""
    path = segment_path(receipt.name, "tar")
    try:
        place = witness.segments.locate(witness.store, receipt.name).get(key)
        if place is None:
            return Link(f"image in {path}", {}, (Check(path, False, f"holds no {key}.jpg"),)), None
        data = witness.store.get_range(path, *place)
    except _UNREADABLE as error:
        return Link(f"image in {path}", {}, (Check(path, False, " ".join(str(error).split())),)), None
    stated = witness.source_type(data)
    facts = {"offset": place[0], "bytes": place[1], "sha256": sha256_hex(data), "digital_source_type": stated}
    checks = [equal("place", (r.offset, r.length), place, "in the tar's headers") for r in rows[-1:]]
    whole = data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"
    checks.append(Check("JPEG", whole, "begins and ends as one" if whole else "does not begin and end as one"))
    if witness.real:
        return Link(f"image in {path}", facts, tuple(checks)), place
    marked = stated is not None and stated.rpartition("/")[2] == GENERATED
    said = f"its XMP says {GENERATED}" if marked else f"its XMP says {stated}" if stated else "no XMP says what made it"
    checks.append(Check("marked as generated", marked, said))
    return Link(f"image in {path}", facts, tuple(checks)), place


def _preview_link(witness: Witness, receipt: Receipt, key: str) -> Link:
    """Return that a refused image's pixels are kept as a preview, or that they are not."""
    path = preview_path(receipt.name)
    named = any(f.path == path for f in receipt.files)
    if is_twin(key) or not named:
        return Link("preview", {"kept": False})
    checks = [witness.named(receipt, path)]
    try:
        kept = [p for p in witness.segments.read_previews(witness.store, receipt.name) if p.key == key]
    except _UNREADABLE as error:
        return Link(f"preview in {path}", {}, (*checks, Check(path, False, " ".join(str(error).split()))))
    facts: dict[str, Any] = {"kept": bool(kept)}
    for preview in kept:
        facts |= {"bytes": len(preview.jpeg), "sha256": sha256_hex(preview.jpeg), "reason": preview.reason}
    return Link(f"preview in {path}", facts, tuple(checks))
