"""How a run shows that it lives: facts about its progress, a heartbeat that carries them, and their reading elsewhere.

`Progress` listens to the events of a run and keeps bounded facts; a view on a terminal and the heartbeat in the store
show the same ones. The heartbeat renews the lease, so a driver that is silent for a lease's length can be replaced.
"""

from __future__ import annotations

import json
import statistics
import threading
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.errors import FacemintError, LeaseHeldError
from pipeline.domain.manifest import Receipt, canonical_json
from pipeline.domain.ports import Clock, Observer, Store
from pipeline.domain.unit import Stage
from pipeline.flow.lease import DURATION_S, PREFIX, Lease

BEAT_S = DURATION_S / 4
"""Between two heartbeats: a lease lasts several, so one lost beat ends no run."""
RECENT_S = 300.0
"""Speed is that of the units which ended within this time, or of the last few where fewer did."""
RECENT_UNITS = 8
TOP_REASONS = 5
KEPT_STAGES = 12
KEPT_DURATIONS = 64


class Tee:
    """Implements `ports.Observer`: hands every event to several observers."""

    def __init__(self, *observers: Observer) -> None:
        """Keep who is told, in the order in which they are."""
        self._observers = observers

    def event(self, kind: str, **facts: Any) -> None:
        """Pass one event on."""
        for observer in self._observers:
            observer.event(kind, **facts)


@dataclass(slots=True)
class _Stage:
    """A stage, or a round of one."""

    name: str
    total: int
    done: int
    before: int
    started_s: float
    round: int | None = None
    generation: int | None = None
    ended_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "round": self.round,
            "generation": self.generation,
            "done": self.done,
            "total": self.total,
            "before": self.before,
            "started_s": round(self.started_s, 3),
            "ended_s": None if self.ended_s is None else round(self.ended_s, 3),
        }


@dataclass(slots=True)
class _Tally:
    """What became of the candidates that this run made in a stage."""

    candidates: int = 0
    accepted: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, receipt: Receipt) -> None:
        self.candidates += receipt.counts.candidates
        self.accepted += receipt.counts.accepted
        self.refused += receipt.counts.refused
        self.reasons.update(receipt.counts.reasons)

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidates": self.candidates,
            "accepted": self.accepted,
            "refused": self.refused,
            "reasons": top_reasons(self.reasons),
        }


def top_reasons(reasons: Mapping[str, int], number: int = TOP_REASONS) -> dict[str, int]:
    """Return the most frequent reasons, most frequent first; equal ones by name."""
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:number])


class Progress:
    """Implements `ports.Observer`: how far a run is, in bounded memory; safe to read from another thread.

    Args:
        clock: time.
        who: the run, host and process that works, as a lease's holder states them.
    """

    def __init__(self, clock: Clock, who: Mapping[str, Any] | None = None) -> None:
        self._clock = clock
        self._who = {name: (who or {}).get(name) for name in ("run", "host", "pid")}
        self._lock = threading.Lock()
        self._started_s = self._last_s = clock.now_s()
        self._stages: deque[_Stage] = deque(maxlen=KEPT_STAGES)
        self._tallies: dict[str, _Tally] = {}
        self._durations: deque[float] = deque(maxlen=KEPT_DURATIONS)
        # (time, images of the unit that ended then); the first is the moment from which the others are counted
        self._marks: deque[tuple[float, int]] = deque(maxlen=4096)
        self._speed: float | None = None
        self._making_s = 0.0
        self._workers: int | None = None
        self._enrolled: dict[str, int] | None = None
        self._round: dict[str, int] | None = None

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of one event; kinds that it does not know only show that the run lives."""
        with self._lock:
            self._last_s = self._clock.now_s()
            if kind == "stage":
                self._begin(facts)
            elif kind == "unit" and self._stages:
                self._count(facts["receipt"])
            elif kind == "step" and self._stages:
                self._stages[-1].done += 1
            elif kind == "workers":
                self._workers = int(facts["number"])
            elif kind == "enrolled":
                have, wanted = facts["have"], facts["wanted"]
                enough = sum(min(have.get(cell, 0), n) for cell, n in wanted.items())
                self._enrolled = {"have": enough, "wanted": sum(wanted.values())}
            elif kind == "round":
                self._round = {"number": facts["number"], "filled": facts["filled"], "failed": len(facts["failed"])}

    def finish(self) -> None:
        """End the stage that is running, as the next one would."""
        with self._lock:
            self._end(self._clock.now_s())

    def to_dict(self) -> dict[str, Any]:
        """Return everything that is known, ready for JSON."""
        with self._lock:
            stage = self._stages[-1] if self._stages else None
            counted = next((s for s in ("make", "enrol") if s in self._tallies), None)
            return {
                **self._who,
                "started_s": round(self._started_s, 3),
                "last_event_s": round(self._last_s, 3),
                "workers": self._workers,
                "stage": stage.name if stage else None,
                "round": stage.round if stage else None,
                "generation": stage.generation if stage else None,
                "units_done": stage.done if stage else 0,
                "units_total": stage.total if stage else 0,
                "eta_s": self._eta_s(),
                "images_per_s": self._speed,
                "making_s": round(self._making_s + self._making_now_s(), 3),
                "counted": counted,
                **self._tallies.get(counted or "", _Tally()).to_dict(),
                "enrolled": self._enrolled,
                "round_closed": self._round,
                "stages": [s.to_dict() for s in self._stages],
            }

    def _begin(self, facts: Mapping[str, Any]) -> None:
        if not self._stages or self._stages[-1].name != facts["name"]:
            # units of another stage take another time
            self._durations.clear()
            self._speed = None
        self._end(self._last_s)
        done = int(facts["done"])
        number, generation = facts.get("round"), facts.get("generation")
        self._stages.append(_Stage(facts["name"], int(facts["total"]), done, done, self._last_s, number, generation))
        self._marks.clear()
        self._marks.append((self._last_s, 0))

    def _end(self, now_s: float) -> None:
        if not self._stages or self._stages[-1].ended_s is not None:
            return
        self._making_s += self._making_now_s()
        stage = self._stages[-1]
        stage.ended_s = now_s
        if stage.total == 1:
            # publishing and exporting are one step, which ends with the stage
            stage.done = stage.total

    def _count(self, receipt: Receipt) -> None:
        stage = str(receipt.unit["stage"])
        self._stages[-1].done += 1
        if stage in (Stage.ENROL.value, Stage.MAKE.value):
            self._tallies.setdefault(stage, _Tally()).add(receipt)
        self._marks.append((self._last_s, receipt.counts.candidates if stage == Stage.MAKE.value else 0))
        while len(self._marks) > RECENT_UNITS + 1 and self._marks[1][0] < self._last_s - RECENT_S:
            self._marks.popleft()
        images, seconds = sum(n for _, n in self._marks) - self._marks[0][1], self._last_s - self._marks[0][0]
        if images and seconds > 0:
            self._speed = round(images / seconds, 3)
        with suppress(KeyError, TypeError, ValueError):
            self._durations.append(max(0.0, float(receipt.run["end_s"]) - float(receipt.run["start_s"])))

    def _making_now_s(self) -> float:
        """Return how long the running stage has made images, up to its last unit; 0 where it makes none."""
        if not self._stages or self._stages[-1].ended_s is not None or self._stages[-1].name != Stage.MAKE.value:
            return 0.0
        return self._marks[-1][0] - self._stages[-1].started_s

    def _eta_s(self) -> float | None:
        """Return how long the stage will still take; None where no unit of it has ended, or one is overdue."""
        if not self._stages or not self._durations or not self._workers:
            return None
        stage = self._stages[-1]
        remaining = stage.total - stage.done
        if remaining <= 0 or stage.ended_s is not None:
            return 0.0
        each_s = statistics.median(self._durations)
        # the last units run side by side, but no faster than one
        whole_s = max(each_s, remaining * each_s / self._workers)
        left_s = whole_s - (self._clock.now_s() - self._marks[-1][0])
        return round(left_s, 1) if left_s >= 0 else None


class Heartbeat:
    """Renews the lease while a run lasts, says in `runs/<run>.json` how far it is, and lets the lease go at the end.

    It outlives a store that fails for a while: the lease lasts several beats, and work that cannot be stored ends the
    run by itself. Where another run took over, it falls silent; the guard before the next receipt says so.
    """

    def __init__(
        self, lease: Lease, store: Store, clock: Clock, progress: Progress, interval_s: float = BEAT_S
    ) -> None:
        self._lease, self._store, self._clock, self._progress = lease, store, clock, progress
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        with suppress(FacemintError):
            self._tell(None)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)
        if not self._thread.is_alive():
            # a store that fails now has failed the run already, and its error is the one to show
            with suppress(FacemintError):
                self._tell(_ended(error))
        with suppress(FacemintError):
            self._lease.release()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._lease.renew()
                self._tell(None)
            except LeaseHeldError:
                return
            except FacemintError:
                continue

    def _tell(self, ended: str | None) -> None:
        body = {**self._progress.to_dict(), "seen_s": round(self._clock.now_s(), 3), "ended": ended}
        self._store.put(beat_path(str(self._lease.holder["run"])), canonical_json(body))


def _ended(error: BaseException | None) -> str:
    if error is None:
        return "done"
    if isinstance(error, FacemintError):
        return " ".join(str(error).split())[:200]
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else type(error).__name__


def beat_path(run: str) -> str:
    """Return where a run's heartbeat lies."""
    return f"runs/{run}.json"


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest lease of a dataset, and what its holder last said.

    Attributes:
        number: of the lease.
        holder: run, host and process that took it.
        expires_s: until when it holds, seconds since the epoch; 0 where it was let go.
        beat: the holder's heartbeat, as `Heartbeat` wrote it; empty where there is none.
    """

    number: int
    holder: Mapping[str, Any]
    expires_s: float
    beat: Mapping[str, Any]

    def seen_s(self) -> float:
        """Return when its holder last gave a sign of life."""
        # a beat that failed to be stored leaves the renewal as the later sign
        return max(float(self.beat.get("seen_s") or 0.0), self.expires_s - DURATION_S)


def standing_lease(store: Store) -> Standing | None:
    """Return the newest lease with its holder's heartbeat, from one short listing; None where nobody ever held it."""
    names = [p.removeprefix(PREFIX).removesuffix(".json") for p in store.list(PREFIX) if p.endswith(".json")]
    number = max((int(n) for n in names if n.isdecimal()), default=0)
    if not number:
        return None
    raw = _read(store, f"{PREFIX}{number:06d}.json")
    holder = raw.get("holder") if isinstance(raw.get("holder"), dict) else {}
    expires = raw.get("expires_s")
    run = (holder or {}).get("run")
    return Standing(
        number=number,
        holder=holder or {},
        expires_s=float(expires) if isinstance(expires, int | float) else 0.0,
        beat=_read(store, beat_path(run)) if isinstance(run, str) and "/" not in run and run else {},
    )


def _read(store: Store, path: str) -> dict[str, Any]:
    """Return a small JSON object; an empty one where it is absent or damaged: nothing hangs on it."""
    try:
        raw = json.loads(store.get(path))
    except (FileNotFoundError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
