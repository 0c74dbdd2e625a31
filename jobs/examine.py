"""The verbs that look at a dataset that stands: status, verify, export. They read, and change nothing of it."""

from __future__ import annotations

import json
import time
from typing import Any

import yaml

from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import Counts, FileEntry, Manifest, sha256_hex
from pipeline.domain.ports import Exporter, SegmentWriter, Store
from pipeline.domain.unit import Stage
from pipeline.execute.run import RECIPE_PATH
from pipeline.flow.commit import receipts
from pipeline.flow.lease import newest_lease
from pipeline.flow.publish import published_rows, read_manifest, versions


def require_dataset(store: Store) -> None:
    """Raise OutputError where the store holds no dataset of ours."""
    if store.size(RECIPE_PATH) is None:
        raise OutputError(f"{store.uri}: no dataset here ({RECIPE_PATH} is missing); give the --out of a facemint run")


def newest_manifest(store: Store) -> Manifest:
    """Return the newest published version.

    Raises:
        OutputError: nothing is published here.
    """
    require_dataset(store)
    published = versions(store)
    if not published:
        raise OutputError(f"{store.uri}: no version is published yet; run `facemint generate` again to resume")
    return read_manifest(store, published[-1])


def status(store: Store) -> dict[str, Any]:
    """Return units and candidates by stage, versions, and who holds the dataset."""
    require_dataset(store)
    known = receipts(store).values()
    stages = {}
    for stage in Stage:
        mine = [r for r in known if r.unit["stage"] == stage.value]
        total = Counts.total(r.counts for r in mine)
        stages[stage.value] = {"units": len(mine), **total.to_dict()}
    manifests = [read_manifest(store, v) for v in versions(store)]
    holder = newest_lease(store, time.time())
    state = "published" if manifests else "in progress" if holder else "not finished; run `facemint generate` to resume"
    return {
        "uri": store.uri,
        "state": state,
        "stages": stages,
        "versions": [{"version": m.version, "images": m.counts["images"], "digest": m.digest} for m in manifests],
        "lease": holder,
    }


def verify(store: Store, *, deep: bool) -> dict[str, Any]:
    """Hold every file that receipts, manifests and exports name against its recorded size, or digest where deep."""
    require_dataset(store)
    named: dict[str, FileEntry] = {}
    problems = []
    for receipt in receipts(store).values():
        named |= {f.path: f for f in receipt.files}
    for version in versions(store):
        manifest = read_manifest(store, version)
        named |= {f.path: f for f in (*manifest.files, *manifest.documents)}
        if manifest.digest != json.loads(store.get(manifest.path)).get("digest"):
            problems.append(f"{manifest.path}: its digest does not follow from its files")
        problems += _exports(store, version, named)
    for entry in sorted(named.values()):
        problem = _problem(store, entry, deep=deep)
        if problem:
            problems.append(problem)
    return {"uri": store.uri, "deep": deep, "files": len(named), "problems": problems}


def _exports(store: Store, version: str, named: dict[str, FileEntry]) -> list[str]:
    problems = []
    for path in store.list(f"exports/{version}/"):
        if not path.endswith("/manifest.json"):
            continue
        root = path.removesuffix("manifest.json")
        try:
            files = json.loads(store.get(path))["files"]
            named |= {root + f["path"]: FileEntry(root + f["path"], f["sha256"], f["bytes"]) for f in files}
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path}: not a manifest; delete it and run `facemint generate` again to export anew")
    return problems


def _problem(store: Store, entry: FileEntry, *, deep: bool) -> str | None:
    size = store.size(entry.path)
    if size is None:
        return f"{entry.path}: missing"
    if size != entry.bytes:
        return f"{entry.path}: {size} bytes instead of {entry.bytes}"
    if deep and sha256_hex(store.get(entry.path)) != entry.sha256:
        return f"{entry.path}: altered; its SHA-256 is not {entry.sha256[:12]}..."
    return None


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


def export(source: Store, segments: SegmentWriter, exporter: Exporter, target: Store, seed: int) -> dict[str, Any]:
    """Write the newest version of `source` to `target`."""
    manifest = newest_manifest(source)
    rows = published_rows(segments, source, manifest)
    about = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "seed": seed,
        "balance": manifest.figures["balance"]["by"],
    }
    return exporter.export(source, rows, target, about)
