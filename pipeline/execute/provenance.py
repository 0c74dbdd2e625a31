"""Where a version comes from, in lines, and how fast it was made: from recipes, receipts and what lies in the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.domain.manifest import Manifest, Receipt
from pipeline.domain.ports import Store
from pipeline.execute.generations import FLAGS

_WORDS = {
    "rejudges": "judged again under other filters",
    "completes": "made what the version before lacked",
    "erases": "left out what was erased",
}


def provenance_of(
    store: Store, manifest: Manifest, steps: Sequence[Mapping[str, Any]], made: Mapping[str, Receipt]
) -> list[tuple[str, str]]:
    """Return lines of (what, value).

    Args:
        store: the dataset.
        manifest: of the version.
        steps: the files of its generations, oldest first.
        made: receipts of the make units; empty where nothing of runs and places is to be said.
    """
    recipe = steps[-1]["recipe"]
    lines = [
        ("dataset digest", manifest.digest),
        ("fingerprint", manifest.fingerprint),
        ("plan digest", manifest.plan_digest),
        ("seed", str(recipe["seed"])),
        ("generator", str(recipe["generator"]["use"])),
        ("judge", str(recipe["judge"]["use"])),
        ("auditor", str(recipe["auditor"]["use"])),
        ("parent", f"{manifest.parent} ({manifest.parent_digest})" if manifest.parent else "none: the first version"),
    ]
    lines += [(f"generation {g}", _step(step)) for g, step in enumerate(steps)]
    lines += [("merged from", _source(source)) for source in manifest.counts.get("merged", ())]
    lines.append(("erased identities and images", str(len(manifest.tombstones))))
    if not made:
        return lines
    lines += [("made on", kind) for kind in sorted({str(r.run.get("device_kind", "unknown")) for r in made.values()})]
    exports = {"/".join(p.split("/")[1:3]) for p in store.list(f"exports/{manifest.version}/")}
    lines += [("export", name) for name in sorted(exports)]
    return lines


def throughput_of(made: Mapping[str, Receipt]) -> dict[str, Any]:
    """Return how fast the images of a version were made; empty where receipts do not say.

    `seconds` are those that units took, added up: of several workers at once each counts. `wall_s` is from the first
    start to the last end, with all that lay between.
    """
    timed = [r for r in made.values() if "start_s" in r.run and "end_s" in r.run]
    if not timed:
        return {}
    seconds = sum(float(r.run["end_s"]) - float(r.run["start_s"]) for r in timed)
    candidates = sum(r.counts.candidates for r in timed)
    first, last = min(float(r.run["start_s"]) for r in timed), max(float(r.run["end_s"]) for r in timed)
    return {
        "candidates": candidates,
        "seconds": round(seconds, 3),
        "candidates_per_s": candidates / seconds if seconds > 0 else None,
        "accepted_per_s": sum(r.counts.accepted for r in timed) / seconds if seconds > 0 else None,
        "wall_s": round(last - first, 3),
        "units": len(timed),
        "device_kinds": dict(sorted(Counter(str(r.run.get("device_kind", "unknown")) for r in timed).items())),
        "hosts": sorted({str(r.run.get("host", "unknown")) for r in timed}),
        "started": _time(first),
        "ended": _time(last),
    }


def _step(step: Mapping[str, Any]) -> str:
    asked = step["recipe"]["identities"]
    said = f"{asked['count']} identities of {asked['images_per_identity']} images"
    return "; ".join([said, *(_WORDS[flag] for flag in FLAGS if step.get(flag))])


def _source(source: Mapping[str, Any]) -> str:
    """Return which version a merged dataset took images from, how many, and which of its models' words hold for it."""
    said = f"{source['name']} {source['version']} ({source['digest']}): {source['images']:,} images of "
    return said + f"{source['identities']:,} identities"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
