"""The verbs that look at a dataset that stands: status, verify; and what verify removes where asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import yaml

from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import Counts, Manifest, Receipt, manifest_path
from pipeline.domain.ports import Clock, Codec, Observer, SegmentWriter, Store
from pipeline.execute.generations import recipe_path
from pipeline.flow.erase.journal import FINISH, require_none_unfinished, unfinished
from pipeline.flow.heartbeat import Standing, standing_lease, top_reasons
from pipeline.flow.lease import Lease
from pipeline.flow.orphans import Orphan, find_orphans, remove_orphans
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.verify import verify as flow_verify
from pipeline.flow.versions import read_manifest, read_newest, versions

STAGES = ("enrol", "enrolled", "make", "audit")
CURATING = ("listed", "ingest", "clean", "enrolled", "make", "audit")
"""The stages of a curated dataset, in which nobody is made."""
"""The stages whose units leave receipts, in the order in which they run; `enrolled` closes a generation's enrolment."""


RECIPE_PATH = recipe_path(0)


def require_dataset(store: Store) -> None:
    """Raise OutputError where the store holds no dataset of ours."""
    if store.size(RECIPE_PATH) is None:
        raise OutputError(f"{store.uri}: no dataset here ({RECIPE_PATH} is missing); give the --out of a facemint run")


def newest_manifest(store: Store) -> Manifest:
    """Return the newest published version.

    Raises:
        OutputError: nothing is published here.
        PlanMismatchError: an erasure was begun and not finished, so the newest may hold what is to be erased.
    """
    require_dataset(store)
    require_none_unfinished(store)
    newest = read_newest(store)
    if newest is None:
        raise OutputError(f"{store.uri}: no version is published yet; run `facemint generate` again to resume")
    return newest


def named_manifest(store: Store, version: str) -> Manifest:
    """Return a published version by its name; raises OutputError where it is not published here."""
    require_dataset(store)
    there = versions(store)
    if version not in there:
        raise OutputError(f"{store.uri}: no version {version}; versions here: {', '.join(there) or 'none'}")
    return read_manifest(store, version)


def asked_manifest(store: Store, version: str | None) -> Manifest:
    """Return the published version that is asked for, the newest where none is named.

    Raises:
        OutputError: nothing is published here, or not this version.
        PlanMismatchError: an erasure was begun and not finished: an older version, too, holds what is to be erased.
    """
    newest = newest_manifest(store)
    return newest if version in (None, newest.version) else named_manifest(store, version)


def status(store: Store, clock: Clock) -> dict[str, Any]:
    """Return how far a dataset is: from its receipts, its versions, the lease, and what its holder last said.

    Reads small files alone, in few requests, and changes nothing; another machine may be at work on the dataset.
    """
    now_s = clock.now_s()
    holder = standing_lease(store)
    if holder is None or not _is_held(holder, now_s):
        # a run that has just begun holds the dataset before it writes the recipe
        require_dataset(store)
    receipts, unreadable = _receipts(store)
    stages = _stages(receipts)
    published, torn = _versions(store)
    run = _run_facts(holder, now_s)
    return {
        "uri": store.uri,
        "state": _state(published, holder, run, now_s, "curate" if "listed" in stages else "generate")
        + _erasure(store),
        "stages": stages,
        "reasons": top_reasons(stages["make"]["reasons"]),
        "versions": published,
        "lease": None if holder is None or not _is_held(holder, now_s) else _lease_facts(holder),
        "run": run,
        "quarantined": _quarantined(store, clock),
        "unreadable": [*unreadable, *torn],
    }


def _quarantined(store: Store, clock: Clock) -> list[dict[str, Any]]:
    """Return the units that are set aside, with the cause of their last death."""
    quarantine = Quarantine(store, clock)
    return [{"unit": u, "deaths": quarantine.deaths(u), "why": quarantine.why(u)} for u in quarantine.quarantined()]


def _receipts(store: Store) -> tuple[list[Receipt], list[str]]:
    """Return every receipt, and the paths of those that cannot be read."""
    paths = [p for p in store.list("receipts/") if p.endswith(".json")]
    found, unreadable = [], []
    for path, data in store.get_many(paths).items():
        try:
            found.append(Receipt.from_json(data))
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(path)
    return found, sorted(unreadable)


def _stages(receipts: Iterable[Receipt]) -> dict[str, Any]:
    """Return units and counts by stage, and within it by generation; enrolment and making always come."""
    grouped: dict[str, dict[str, list[Counts]]] = {stage: {} for stage in STAGES}
    for receipt in receipts:
        by_generation = grouped.setdefault(str(receipt.unit["stage"]), {})
        by_generation.setdefault(f"g{receipt.unit['generation']}", []).append(receipt.counts)
    out: dict[str, Any] = {}
    for stage, by_generation in grouped.items():
        if by_generation or stage in ("enrol", "make"):
            each = {g: {"units": len(c), **Counts.total(c).to_dict()} for g, c in sorted(by_generation.items())}
            every = [c for counts in by_generation.values() for c in counts]
            out[stage] = {"units": len(every), **Counts.total(every).to_dict(), "generations": each}
    if "listed" not in out:
        return out
    return {stage: out[stage] for stage in (*CURATING, *(out.keys() - {*CURATING, "enrol"})) if stage in out}


def _versions(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what each version says of itself, oldest first, and the paths of manifests that cannot be read."""
    found: list[dict[str, Any]] = []
    torn: list[str] = []
    for version in versions(store):
        try:
            manifest = read_manifest(store, version)
        except StoreError:
            torn.append(manifest_path(version))
            continue
        counted = ("identities", "identities_expected", "images", "images_expected")
        about = {"version": version, "parent": manifest.parent, "generation": manifest.generation}
        about |= {k: manifest.counts.get(k) for k in counted} | {"digest": manifest.digest}
        about |= {"rehearsal": True} if manifest.figures.get("rehearsal") else {}
        found.append({**about, "tombstones": len(manifest.tombstones)})
    erased = max((v["tombstones"] for v in found), default=0)
    # of a version before an erasure the manifest alone is left
    return [{**v, "retired": v["tombstones"] < erased} for v in found], torn


def _is_held(holder: Standing, now_s: float) -> bool:
    return holder.expires_s > now_s


def _state(
    versions: list[dict[str, Any]], holder: Standing | None, run: dict[str, Any] | None, now_s: float, verb: str
) -> str:
    published = f"published {versions[-1]['version']}" if versions else ""
    if holder is not None and _is_held(holder, now_s):
        return f"running, {published}" if published else "running"
    if holder is not None and holder.expires_s > 0 and not (run or {}).get("ended"):
        silent = f"stale: its holder is silent for {now_s - holder.seen_s():.0f} s; run `facemint {verb}` to resume"
        return f"{published}, {silent}" if published else silent
    return published or f"not finished; run `facemint {verb}` to resume"


def _erasure(store: Store) -> str:
    try:
        begun = unfinished(store)
    except StoreError as error:
        return f"; {error}"
    return "" if begun is None else f"; an erasure is not finished ({begun.path}): {FINISH}"


def _lease_facts(holder: Standing) -> dict[str, Any]:
    who = {name: holder.holder.get(name) for name in ("run", "host", "pid")}
    return {**who, "number": holder.number, "expires_s": holder.expires_s}


def _run_facts(holder: Standing | None, now_s: float) -> dict[str, Any] | None:
    """Return the heartbeat of the last run, with how long ago it was seen; None where there is none to read."""
    if holder is None or not holder.beat:
        return None
    return {**holder.beat, "seen_ago_s": round(max(0.0, now_s - holder.seen_s()), 1)}


def verify(
    store: Store,
    segments: SegmentWriter,
    codec: Codec,
    *,
    deep: bool,
    decode: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Hold every file that receipts, manifests and exports name against what is stored; read all of them where deep."""
    require_dataset(store)
    found = flow_verify(store, segments, codec, deep=deep, decode=decode, observer=observer)
    return {
        "uri": store.uri,
        "deep": found.deep,
        "versions": list(found.versions),
        "files": found.files,
        "bytes": found.bytes,
        "images": found.images,
        "decoded": found.decoded,
        "private_absent": found.private,
        "problems": [str(p) for p in found.problems],
        "damaged": sorted({p.path for p in found.problems}),
    }


def collect(
    store: Store, clock: Clock, *, grace_h: float, take_lease: Callable[[], Lease] | None = None
) -> dict[str, Any]:
    """List what nothing names; with `take_lease`, remove it under the lease that this returns.

    Args:
        store: the dataset; writable where something shall be removed.
        clock: time.
        grace_h: hours since its last change for which a file that nothing names is left alone.
        take_lease: takes the lease as a run does; None to remove nothing.

    Raises:
        LeaseHeldError: a run is at work.
        StoreError: a record is damaged, so that nothing may be removed.
    """
    require_dataset(store)
    grace_s = grace_h * 3600
    listed = find_orphans(store, clock, grace_s)
    facts = {
        "uri": store.uri,
        "grace_h": grace_h,
        "orphans": [_orphan(o, clock) for o in listed.files],
        "bytes": listed.bytes,
        "leftovers": list(listed.leftovers),
        "blocked": [str(p) for p in listed.problems],
        "removed": None,
    }
    if take_lease is None or not (listed.files or listed.leftovers):
        return facts
    lease = take_lease()
    try:
        removed = remove_orphans(store, clock, lease, listed, grace_s)
    finally:
        # a store that fails now has failed the removal already, and its error is the one to show
        with suppress(StoreError, OutputError):
            lease.release()
    gone = {
        "files": [o.stored.path for o in removed.files],
        "bytes": sum(o.stored.bytes for o in removed.files),
        "leftovers": removed.leftovers,
        "kept": list(removed.kept),
    }
    return {**facts, "removed": gone}


def _orphan(orphan: Orphan, clock: Clock) -> dict[str, Any]:
    stored = orphan.stored
    age_h = round((clock.now_s() - stored.modified_s) / 3600, 1)
    return {"path": stored.path, "bytes": stored.bytes, "age_h": age_h, "why": orphan.why}


def run_seed(store: Store) -> int:
    """Return the seed of the dataset's recipe.

    Raises:
        OutputError: no dataset is here.
        StoreError: its recipe is not as it was written.
    """
    require_dataset(store)
    try:
        return int(yaml.safe_load(store.get(RECIPE_PATH))["recipe"]["seed"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise StoreError(f"{RECIPE_PATH}: not a recipe of ours; restore it from a copy") from None
