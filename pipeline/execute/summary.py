"""The summary of a run: what it added to the dataset, what it cost, and how it ended; for people and machines.

It is told for runs that failed too: those are the ones that somebody has to hear of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.domain.manifest import Counts, Manifest, Receipt
from pipeline.domain.ports import Clock, Store
from pipeline.domain.spending import moment
from pipeline.execute.metering import unit_s
from pipeline.execute.spending import Spending
from pipeline.flow.versions import read_manifest

SCHEMA = 1
OUTCOMES = {
    0: "done",
    2: "refused",
    3: "quarantined",
    4: "target not reached",
    5: "busy",
    6: "stopped",
    7: "store failed",
    130: "interrupted",
    143: "interrupted",
}
"""Exit status -> outcome; any other one is `failed`."""


class Account:
    """Implements `ports.Observer`: adds up what a run did, from the receipts that it is told of."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.started_s = clock.now_s()
        self._receipts: Counter[str] = Counter()
        self._counts: dict[str, Counts] = {}
        self._seconds: Counter[str] = Counter()
        self._bytes = 0
        self._lost: Counter[str] = Counter()
        self._deaths = 0
        self._quarantined: list[str] = []

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of one event; kinds that it does not know mean nothing to it."""
        if kind == "unit":
            self._count(facts["receipt"])
        elif kind == "lost":
            self._lost[str(facts["by"])] += 1
        elif kind == "death":
            self._deaths += 1
        elif kind == "quarantined":
            self._quarantined = list(facts["units"])

    def _count(self, receipt: Receipt) -> None:
        stage = str(receipt.unit["stage"])
        self._receipts[stage] += 1
        self._counts[stage] = Counts.total([*([self._counts[stage]] if stage in self._counts else []), receipt.counts])
        self._seconds[stage] += unit_s(receipt)  # type: ignore[assignment]
        self._bytes += sum(f.bytes for f in receipt.files)

    def work(self) -> dict[str, Any]:
        """Return what units this run did, by stage, and what became of its workers."""
        stages = {
            stage: {
                "units": self._receipts[stage],
                "unit_s": round(float(self._seconds[stage]), 3),
                "candidates": counts.candidates,
                "accepted": counts.accepted,
                "refused": dict(counts.reasons),
            }
            for stage, counts in sorted(self._counts.items())
        }
        return {
            "stages": stages,
            "workers_lost": dict(sorted(self._lost.items())),
            "deaths": self._deaths,
            "quarantined_units": self._quarantined,
        }

    def cost(self, spending: Spending) -> dict[str, Any]:
        """Return what the run cost."""
        return {
            "wall_s": round(self._clock.now_s() - self.started_s, 3),
            "worker_s": round(spending.worker_s(), 3),
            "gpu_s": round(spending.gpu_s(), 3),
            "unit_s": round(float(sum(self._seconds.values())), 3),
            "images_made": spending.images,
            "bytes_written": self._bytes,
            "budget": {name: {"spent": round(s, 6), "of": most} for name, (s, most) in spending.spent().items()},
        }

    def times(self) -> dict[str, str]:
        """Return when the run began and when it ended, that is now."""
        return {"started": moment(self.started_s), "ended": moment(self._clock.now_s())}


def added(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Return what a version has that its parent had not."""
    before = read_manifest(store, manifest.parent) if manifest.parent else None
    there = {f.path for f in before.files} if before else set()
    fresh = [f for f in manifest.files if f.path not in there and f.path.startswith("segments/")]
    return {
        "identities": _grown("identities", manifest, before),
        "images": _grown("images", manifest, before),
        "segment_files": len(fresh),
        "bytes": sum(f.bytes for f in fresh),
    }


def _grown(what: str, manifest: Manifest, before: Manifest | None) -> int:
    return int(manifest.counts[what]) - (int(before.counts[what]) if before else 0)


def version_facts(store: Store, manifest: Manifest, *, fresh: bool) -> dict[str, Any]:
    """Return what a summary says of the version that a run ended with.

    Args:
        store: the dataset.
        manifest: the version.
        fresh: whether this run published it; one that stood before adds nothing.
    """
    none = {"identities": 0, "images": 0, "segment_files": 0, "bytes": 0}
    return {
        "version": manifest.version,
        "parent": manifest.parent,
        "digest": manifest.digest,
        "identities": manifest.counts["identities"],
        "images": manifest.counts["images"],
        "added": added(store, manifest) if fresh else none,
    }


def told(summary: Mapping[str, Any]) -> str:
    """Return a summary in one line."""
    cost = summary["cost"]
    line = f"{summary['dataset']}: {summary['outcome']}"
    if version := summary.get("published"):
        new = version["added"]
        line += f", {version['version']} with {new['identities']:,} new identities and {new['images']:,} new images"
    line += f"; {cost['worker_s'] / 3600:.2f} worker hours, {cost['gpu_s'] / 3600:.2f} GPU hours"
    line += f", {cost['images_made']:,} images made"
    return f"{line}; {summary['error']}" if summary.get("error") else line
