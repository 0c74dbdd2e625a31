"""The lease: one driver at a time per dataset, on any store that can create a file if absent.

Leases are numbered files, `runs/lease-000003.json`; the highest number holds. Taking over means creating the next
number, which exactly one contender can. A holder renews by rewriting its own file and looks for a higher number
before it trusts its hold, so a driver that was paused past its expiry finds itself replaced and stops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.domain.errors import LeaseHeldError, StoreError
from pipeline.domain.manifest import canonical_json
from pipeline.domain.ports import Clock, Store

PREFIX = "runs/lease-"
DURATION_S = 60.0


@dataclass(slots=True)
class Lease:
    """A held lease."""

    store: Store
    clock: Clock
    number: int
    holder: Mapping[str, Any]
    renewed_s: float = 0.0
    """When it was last written."""

    @property
    def path(self) -> str:
        """Return the file of this lease."""
        return f"{PREFIX}{self.number:06d}.json"

    def renew(self) -> None:
        """Extend the lease.

        Raises:
            LeaseHeldError: another run has taken over.
        """
        self.require()
        now_s = self.clock.now_s()
        self.store.put(self.path, _body(self.holder, now_s + DURATION_S))
        self.renewed_s = now_s

    def require(self) -> None:
        """Raise LeaseHeldError unless this lease is still the newest, StoreError where it is gone."""
        newest = _newest_seen_by(self.store, self.number)
        if newest != self.number:
            raise LeaseHeldError(
                f"another run took this dataset over ({PREFIX}{newest:06d}.json) after this one was silent for more "
                f"than {DURATION_S:.0f} s; this run stops, run the command again to follow it"
            )

    def release(self) -> None:
        """Let go: the next run need not wait for the expiry."""
        if _newest(self.store) == self.number:
            self.store.put(self.path, _body(self.holder, 0.0))


def acquire(
    store: Store, clock: Clock, holder: Mapping[str, Any], is_dead: Callable[[Mapping[str, Any]], bool]
) -> Lease:
    """Take the lease of a dataset.

    Args:
        store: the dataset.
        clock: time.
        holder: who takes it: host, process, run.
        is_dead: holder -> True where that process is known to be gone, so nobody waits for its expiry.

    Raises:
        LeaseHeldError: another run holds it.
    """
    newest = _newest(store)
    if newest:
        standing = _read(store, f"{PREFIX}{newest:06d}.json")
        left_s, who = standing["expires_s"] - clock.now_s(), standing["holder"]
        if left_s > 0 and not is_dead(who):
            until = datetime.fromtimestamp(standing["expires_s"], UTC).strftime("%H:%M:%S")
            raise LeaseHeldError(
                f"{store.uri}: run {who.get('run')} on {who.get('host')} (process {who.get('pid')}) holds this dataset "
                f"until {until} UTC, {left_s:.0f} s from now, and renews that while it lives; wait for it, or stop it"
            )
    now_s = clock.now_s()
    lease = Lease(store, clock, newest + 1, dict(holder), now_s)
    if not store.put_if_absent(lease.path, _body(holder, now_s + DURATION_S)):
        raise LeaseHeldError(f"{store.uri}: another run took this dataset at the same moment; run the command again")
    return lease


def _newest(store: Store) -> int:
    names = [p.removeprefix(PREFIX).removesuffix(".json") for p in store.list(PREFIX) if p.endswith(".json")]
    return max((int(n) for n in names if n.isdecimal()), default=0)


def _newest_seen_by(store: Store, number: int) -> int:
    """Return the newest number, for the holder of `number`; without that one the store has lost what it held."""
    newest = _newest(store)
    if newest < number:
        raise StoreError(
            f"{store.uri}: {PREFIX}{number:06d}.json, the lease of this run, is gone; look whether the disk is mounted "
            "or somebody cleared the directory, and run again: finished units are kept"
        )
    return newest


def _read(store: Store, path: str) -> dict[str, Any]:
    """Return a lease's expiry and holder; one that cannot be read has expired, its holder would be rewriting it."""
    try:
        raw = json.loads(store.get(path))
        return {"expires_s": float(raw["expires_s"]), "holder": dict(raw["holder"])}
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return {"expires_s": 0.0, "holder": {}}


def _body(holder: Mapping[str, Any], expires_s: float) -> bytes:
    return canonical_json({"holder": dict(holder), "expires_s": round(expires_s, 3)})


def guard_of(store: Store, number: int) -> Callable[[], None]:
    """Return a check, for workers, that lease `number` is still the newest one."""

    def guard() -> None:
        newest = _newest_seen_by(store, number)
        if newest != number:
            raise LeaseHeldError(f"{store.uri}: lease {number} was replaced by {newest}; this worker's run is over")

    return guard
