"""Orphans: files that nothing names any more, and what killed writers left; found by one listing, removed on demand.

A unit that was killed before its receipt, a version that was never finished, leases of runs long over: nothing reads
them, and they cost storage. What is younger than a grace age may be a running unit's, so it is left alone. Where a
record is damaged nobody knows what it names, so nothing is removed before that is repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.domain.errors import StoreError
from pipeline.domain.ports import Clock, Store, Stored
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import HELD, REVIEW
from pipeline.domain.revisions import parsed
from pipeline.domain.splits import FOLDER as SPLITS
from pipeline.domain.unit import Stage
from pipeline.flow.commit import enrolled_path
from pipeline.flow.heartbeat import beat_path, standing_lease
from pipeline.flow.lease import PREFIX as LEASES
from pipeline.flow.lease import Lease
from pipeline.flow.ledger import Ledger, Problem, read_ledger
from pipeline.flow.sidecars import FOLDERS as SIDE_CARS

GRACE_S = 24 * 3600.0
BATCH = 200
"""Between two batches the lease is renewed, and what was named in the meantime is read."""
_FOLDERS = (
    "segments/", "audits/", "enrolled/", PREVIEWS, "versions/", "exports/", "quarantine/", "runs/", *SIDE_CARS, SPLITS,
    *(folder for folder in HELD if folder != REVIEW),
)  # fmt: skip
"""Where orphans are looked for. Recipes, receipts, galleries, logs of erasures and review queues are never orphans."""


@dataclass(frozen=True, slots=True, order=True)
class Orphan:
    """A file that nothing names, as it was listed."""

    stored: Stored
    why: str


@dataclass(frozen=True, slots=True)
class Orphans:
    """What could be removed.

    Attributes:
        files: by path.
        leftovers: names of temporary files and unfinished uploads of killed writers.
        problems: damaged records; while there are any, nothing is removed.
    """

    files: tuple[Orphan, ...]
    leftovers: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def bytes(self) -> int:
        """Return how many bytes the files have."""
        return sum(orphan.stored.bytes for orphan in self.files)


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed.

    Attributes:
        files: the orphans that are gone.
        kept: paths of those that were written again, or named, since they were listed.
        leftovers: how many leftovers are gone.
    """

    files: tuple[Orphan, ...]
    kept: tuple[str, ...]
    leftovers: int


def find_orphans(store: Store, clock: Clock, grace_s: float = GRACE_S) -> Orphans:
    """List what nothing names and is older than the grace age; nothing is changed."""
    ledger = read_ledger(store)
    before_s = clock.now_s() - grace_s
    old = (s for p, s in sorted(ledger.stored.items()) if p.startswith(_FOLDERS) and s.modified_s < before_s)
    found = tuple(Orphan(s, why) for s, why in _unnamed(store, ledger, old))
    return Orphans(found, tuple(sorted(store.leftovers(before_s))), tuple(ledger.problems))


def remove_orphans(store: Store, clock: Clock, lease: Lease, listed: Orphans, grace_s: float = GRACE_S) -> Removed:
    """Remove what was listed and is still an orphan, under the lease, so that no run writes meanwhile.

    Raises:
        StoreError: a record is damaged; what it names could be removed by mistake.
        LeaseHeldError: another run has taken the dataset over.
    """
    _require_sound(store, listed.problems)
    removed: list[Orphan] = []
    for start in range(0, len(listed.files), BATCH):
        lease.renew()
        # read anew for every batch: a worker of a run that died may still commit a unit
        ledger = read_ledger(store)
        _require_sound(store, ledger.problems)
        batch = [o for o in listed.files[start : start + BATCH] if ledger.stored.get(o.stored.path) == o.stored]
        still = {s.path for s, _ in _unnamed(store, ledger, (o.stored for o in batch))}
        for orphan in batch:
            if orphan.stored.path in still and store.size(orphan.stored.path) == orphan.stored.bytes:
                store.delete(orphan.stored.path)
                removed.append(orphan)
    lease.renew()
    leftovers = store.remove_leftovers(clock.now_s() - grace_s) if listed.leftovers else 0
    gone = {o.stored.path for o in removed}
    return Removed(tuple(removed), tuple(o.stored.path for o in listed.files if o.stored.path not in gone), leftovers)


def _require_sound(store: Store, problems: Iterable[Problem]) -> None:
    found = list(problems)
    if found:
        raise StoreError(
            f"{store.uri}: nothing is removed while records are damaged, as nobody knows what they name: {found[0]} "
            f"({len(found)} in all)"
        )


def _unnamed(store: Store, ledger: Ledger, stored: Iterable[Stored]) -> Iterator[tuple[Stored, str]]:
    """Yield the files that nothing names, with the reason."""
    standing = standing_lease(store)
    live: dict[str, str] = {}
    if standing is not None:
        live = {"lease": f"{LEASES}{standing.number:06d}.json", "beat": beat_path(str(standing.holder.get("run")))}
    beats = [s for p, s in ledger.stored.items() if p.startswith("runs/") and not p.startswith(LEASES)]
    # the last run's, even where a lease was taken since, for a removal like this one
    newest = max(beats, key=lambda s: s.modified_s).path if beats else ""
    splits = {p for p in ledger.stored if p.startswith(SPLITS) and p.endswith(".json")}
    kept = {*ledger.claims, *ledger.exports, *ledger.side_cars, *splits, *live.values(), newest, *_enrolled(ledger)}
    for entry in stored:
        if entry.path not in kept:
            why = _why(entry.path, ledger.receipts)
            if why:
                yield entry, why


def _enrolled(ledger: Ledger) -> set[str]:
    """Return the files of enrolled identities that make units refer to: their receipts name ordinals, not files."""
    made = {
        enrolled_path(int(r.unit["generation"]), private=private).removesuffix(".parquet")
        for r in ledger.receipts.values()
        if r.unit["stage"] == Stage.MAKE.value
        for private in (False, True)
    }
    return {p for p in ledger.stored if parsed(p.removesuffix(".parquet"))[0] in made}


def _why(path: str, receipts: Mapping[str, object]) -> str | None:
    """Return why a file that no record names is an orphan, or None where it is none."""
    if path.startswith("quarantine/"):
        # deaths count for as long as their unit is open
        unit = path.removeprefix("quarantine/").removesuffix(".json").rpartition("-")[0]
        return "its unit is committed" if unit in receipts else None
    if path.startswith(LEASES):
        return "an older lease"
    if path.startswith("runs/"):
        return "the heartbeat of an older run"
    if path.startswith("versions/"):
        return None if re.fullmatch(r"versions/[^/]+/manifest\.(?:json|c2pa)", path) else "no manifest names it"
    if path.startswith("exports/"):
        return "no manifest of an export names it"
    if path.startswith(SIDE_CARS):
        return "no record of a side-car names it"
    if path.startswith(SPLITS):
        return "no record of a split names it"
    return "no receipt names it"
