"""An executor over a pool of workers in processes of their own: who gets which unit, and what a lost worker costs.

It knows no engine: where the processes come from is a `Cluster` (`on_ray.py` has one). At most two units are in flight
per worker: the second waits there while the first is worked. A worker is given units once it has said that it stands,
so a loss is either one of starting or one of a unit. What it costs:

    a process of ours died     counts against the unit that was worked; three such deaths quarantine it
    its node was lost          nobody's fault: the unit is issued again
    killed for want of memory  nobody's fault while other workers of ours were on that node, and the pool shrinks by
                               one; counts where it had the node for itself
    no result within the limit counts; the worker is killed and replaced
    a notice came              nobody's fault: its node is given nothing new, and the worker goes when its unit is done

The second unit in flight is innocent in every case. A worker may be lost with its last answer unsent: a unit whose
receipt lies in the store is done, and then nobody is blamed, as the next may or may not have begun; it is issued first
and alone to blame the next time. A worker given up for lost may still leave a receipt: it equals the other one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.domain.errors import WorkerStartError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Observer
from pipeline.domain.unit import Unit
from pipeline.execute.cluster import Cluster, Loss, Lost, Raised
from pipeline.execute.hands import Hand
from pipeline.execute.idling import Idling
from pipeline.execute.queue import UnitQueue
from pipeline.execute.restarts import MemoryKills, Restarts
from pipeline.execute.stop import Stop
from pipeline.flow.quarantine import Quarantine

IN_FLIGHT = 2
POLL_S = 0.25
"""How long the driver waits at most before it looks at stop, limits and the cluster."""
IDLE_S = 2.0
"""A worker that said nothing for so long is asked whether it lives before it gets a unit that could be blamed."""
CLUSTER_LOOK_S = 10.0
"""How often the size of the cluster is read."""
LEAVING_LOOK_S = 2.0
"""How often it is asked which nodes are about to be taken away; notices come half a minute ahead, or more."""
STARTING = 16
"""Workers that may load their models at the same time."""
GATHER_S = 60.0
"""How long `device_kinds` waits for workers that find no room, when others are ready."""
ROOM_S = 600.0
"""How long a run waits for room on the cluster when it has no worker at all."""
LACK_S = 30.0
"""How long it waits before it says that no living node could ever give room: one that could may still join."""
log = logging.getLogger("facemint")


class WorkersExecutor:
    """Implements `ports.Executor` on a cluster.

    Args:
        cluster: where the processes come from.
        workers: how many; None for one per CPU, also of nodes that join later.
        unit_limit_s: a unit running longer is taken back, as is a worker that takes longer to load.
        quarantine: where deaths are written, and which units are left out.
        stop: once asked, no unit is issued; those being worked are waited for.
        observer: told of every worker that is lost, as `lost`.
        idle_s: workers with nothing to do for so long are let go; None keeps them.
        min_workers: so many are kept all the same.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        workers: int | None,
        unit_limit_s: float,
        quarantine: Quarantine,
        stop: Stop,
        observer: Observer | None = None,
        idle_s: float | None = None,
        min_workers: int = 0,
    ) -> None:
        """Keep the settings; the cluster opens when a worker is first needed."""
        self._observer, self._min_workers = observer, min_workers
        self._idling = Idling(idle_s, self._release)
        self._spent_s = 0.0
        self._leaving: set[str] = set()
        self._leaving_seen_s = -math.inf
        self._cluster = cluster
        self._workers = workers
        self._limit_s = unit_limit_s
        self._quarantine = quarantine
        self._stop = stop
        self._hands: list[Hand] = []
        self._restarts = Restarts()
        self._memory = MemoryKills()
        self._fewer = 0
        self._kinds: set[str] | None = None
        self._room, self._looked_s = 0.0, -math.inf
        self._hopeful_s = 0.0
        """When a worker was last placed or at work."""
        self._told_lack = False

    @property
    def workers(self) -> int:
        """Return how many workers stand."""
        return sum(hand.ready for hand in self._hands)

    def worker_seconds(self) -> float:
        """Return for how long workers have been held, summed over them, those that load among them."""
        now_s = time.monotonic()
        return self._spent_s + sum(now_s - h.placed_s for h in tuple(self._hands) if h.facts)

    def device_kinds(self) -> set[str]:
        """Return the device kinds of the workers; from then on one of another kind is turned away.

        Raises:
            WorkerStartError: workers die while they start, or find no room.
            InterruptedRunError: the run was asked to stop.
        """
        begun_s = self._open()
        try:
            while not self._gathered(time.monotonic() - begun_s):
                self._stop.check()
                self._fill(self._wanted())
                self._collect(None)
        except BaseException as error:
            self._abandon(error)
            raise
        if (few := self.workers) < (many := self._wanted()):
            log.warning("%d of %d workers found room, each with %s; others wait", few, many, self._cluster.asked())
        self._idling.begin()
        self._kinds = (self._kinds or set()) | {h.facts["device_kind"] for h in self._hands if h.ready}
        return set(self._kinds)

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield receipts as they come.

        Raises:
            QuarantinedError: units killed three workers each; raised after every other unit is done.
            InterruptedRunError: the run was asked to stop; raised after the units being worked.
            WorkerStartError: workers die while they start, or find no room.
            FacemintError: whatever a worker raised; what may pass is tried again first.
        """
        queue = UnitQueue(units, self._quarantine)
        if len(queue) and not self._stop.look():
            self._open()
        try:
            while len(queue) or self._busy():
                if self._stop.look() and not self._drain():
                    break
                self._feed(queue)
                receipts = self._collect(queue)
                # before the receipts go to the caller, who may take time
                self._feed(queue)
                yield from receipts
            self._stop.check()
        except BaseException as error:
            self._abandon(error)
            raise
        self._idling.begin()
        queue.finish()

    def close(self) -> None:
        """Kill the workers and leave the cluster."""
        self._idling.end()
        self._dismiss_all()
        self._cluster.close()

    # ------------------------------------------------------------------------------------------- units

    def _feed(self, queue: UnitQueue) -> None:
        """Give every idle worker a unit, then a second one to those that work; the last units wait for idle workers."""
        if self._stop.look():
            self._drain()
            return
        self._retreat(queue)
        self._fill(min(self._wanted(), len(queue) + self._busy()))
        staying = [h for h in self._hands if h.ready and h.facts["node"] not in self._leaving]
        for hand in staying:
            if not hand.queue and queue.ready:
                if time.monotonic() - hand.since_s > IDLE_S:
                    hand.hello, hand.since_s = self._cluster.call(hand.handle, "hello"), time.monotonic()
                else:
                    self._give(hand, queue)
        for hand in staying:
            if hand.ready and 0 < len(hand.queue) < IN_FLIGHT and queue.ready >= len(self._hands):
                self._give(hand, queue)

    def _retreat(self, queue: UnitQueue) -> None:
        """Leave nodes that are about to go, each worker when its unit is done, and workers that nothing is left for."""
        if time.monotonic() - self._leaving_seen_s > LEAVING_LOOK_S:
            self._leaving, self._leaving_seen_s = self._cluster.leaving(), time.monotonic()
        for hand in [h for h in self._hands if h.facts.get("node") in self._leaving]:
            while len(hand.queue) > 1:
                queue.put_back([hand.queue.pop()[1]])
            if not hand.queue:
                self._tell_lost(hand, Lost(Loss.NOTICE, "its node is about to be taken away"), None)
                self._dismiss(hand)
        if not len(queue):
            self._release()

    def _release(self) -> None:
        """Let workers go that have had nothing to do for long enough, down to the number that is kept."""
        now_s = time.monotonic()
        idle = [h for h in self._hands if h.ready and not h.queue and self._idling.is_over(now_s - h.since_s)]
        for hand in idle[: max(0, len(self._hands) - self._min_workers)]:
            self._dismiss(hand)

    def _give(self, hand: Hand, queue: UnitQueue) -> None:
        unit = queue.take()
        assert unit is not None
        if not hand.queue:
            hand.since_s = time.monotonic()
        hand.queue.append((self._cluster.call(hand.handle, "work", unit), unit))

    def _busy(self) -> int:
        return sum(len(h.queue) for h in self._hands)

    def _drain(self) -> bool:
        """Forget the units that wait behind others, and let each worker go once the one it works is done; return
        whether to wait for those.

        A worker may begin the one behind before it is let go, a moment later: that is killed with it, or leaves a
        receipt that the next run finds. Ray's `cancel` does not help (2.60, tried twice): the call is worked all the
        same, `is_canceled` is False in it, and its answer is lost.
        """
        for hand in tuple(self._hands):
            while len(hand.queue) > 1:
                hand.queue.pop()
            if not hand.queue:
                self._dismiss(hand)
        return self._busy() > 0 and not self._stop.overdue

    def _collect(self, queue: UnitQueue | None) -> list[Receipt]:
        """Wait for a moment, hear the workers that answer, and let those go that are over their limit."""
        self._check_hope()
        waiting = {h.awaited: h for h in self._hands if h.awaited is not None}
        if not waiting:
            time.sleep(POLL_S)
            return []
        answered = self._cluster.answered(list(waiting), POLL_S)
        receipts = [receipt for call in answered for receipt in self._hear(waiting.pop(call), call, queue)]
        for hand in waiting.values():
            if hand.facts and time.monotonic() - hand.since_s > self._limit_s:
                receipts += self._bury(hand, Lost(Loss.PROCESS, f"no result in {self._limit_s:g} s"), queue)
        return receipts

    def _hear(self, hand: Hand, call: Any, queue: UnitQueue | None) -> list[Receipt]:
        """Take in a worker's answer; return the receipts that it brings."""
        answer = self._cluster.answer(call, hand.facts.get("node"))
        if isinstance(answer, Lost):
            return self._bury(hand, answer, queue)
        hand.since_s = time.monotonic()
        if not hand.ready:
            self._greet(hand, answer)
            return []
        _, unit = hand.queue.popleft()
        if isinstance(answer, Raised):
            assert queue is not None
            queue.failed(unit, answer.error)
            return []
        assert isinstance(answer, Receipt)
        return [answer]

    # ------------------------------------------------------------------------------------------ losses

    def _bury(self, hand: Hand, lost: Lost, queue: UnitQueue | None) -> list[Receipt]:
        """Let a worker go. The unit that it worked bears the death where that is its own; the others are put back."""
        self._looked_s = -math.inf
        self._dismiss(hand)
        innocent = lost.by in (Loss.NODE, Loss.NOTICE) or (lost.by is Loss.MEMORY and self._had_company(hand))
        units = [unit for _, unit in hand.queue]
        self._tell_lost(hand, lost, units[0] if units else None)
        if queue is None or not units:
            if "device_kind" not in hand.facts and not innocent:
                self._start_failed(f"a worker died while it started ({lost.why}); look at memory and logs on its node")
            return []
        receipt = self._quarantine.done_after_all(units[0])
        if receipt is not None:
            units.pop(0)
        elif innocent:
            facts = {"unit": units[0].name, "worker": dict(hand.facts)}
            log.warning("%s is issued again, its worker was lost: %s", units[0].name, lost.why, extra=facts)
        else:
            queue.died(units[0], lost.why, hand.facts)
            if self._observer is not None:
                self._observer.event("death", unit=units[0].name, why=lost.why, worker=dict(hand.facts))
            units.pop(0)
        queue.put_back(units)
        return [] if receipt is None else [receipt]

    def _tell_lost(self, hand: Hand, lost: Lost, unit: Unit | None) -> None:
        if self._observer is not None:
            facts = {"unit": unit.name if unit else None, "worker": dict(hand.facts)}
            self._observer.event("lost", by=lost.by.name.lower(), why=lost.why, **facts)

    def _had_company(self, hand: Hand) -> bool:
        """Return whether a worker killed for want of memory shared its node with ours; if so go on with one less."""
        node = hand.facts.get("node")
        neighbours = sum(h.facts.get("node") == node for h in self._hands)
        if not self._memory.had_company(str(node), neighbours, hand.since_s, time.monotonic()):
            return False
        self._fewer += self._wanted() > 1
        log.warning(
            "a worker was killed for want of memory; going on with %d; set compute.workers lower", self._wanted()
        )
        return True

    def _dismiss(self, hand: Hand) -> None:
        self._hands.remove(hand)
        self._spent_s += time.monotonic() - hand.placed_s if hand.facts else 0.0
        self._cluster.dismiss(hand.handle)

    def _abandon(self, error: BaseException) -> None:
        """Kill the workers: nobody wants what is in flight; as every write is whole nothing half-visible is left."""
        self._dismiss_all()
        if isinstance(error, SystemError):
            # what a signal handler raised while the engine's C code ran arrives as that
            self._stop.check()

    def _dismiss_all(self) -> None:
        while self._hands:
            self._dismiss(self._hands[-1])

    # ---------------------------------------------------------------------------------------- starting

    def _open(self) -> float:
        self._idling.end()
        self._cluster.open()
        self._hopeful_s = time.monotonic()
        return self._hopeful_s

    def _fill(self, number: int) -> None:
        """Ask for workers until there are `number`, a few at a time and with pauses after failures."""
        while len(self._hands) < number and sum(not h.ready for h in self._hands) < STARTING:
            if not self._restarts.may_start(time.monotonic()):
                return
            handle = self._cluster.hire(self._workers)
            self._hands.append(Hand(handle, self._cluster.call(handle, "where"), self._cluster.call(handle, "hello")))

    def _greet(self, hand: Hand, answer: Any) -> None:
        """Take note of where a worker is, then of its device kind."""
        if isinstance(answer, Raised):
            if not answer.error.retryable:
                raise answer.error
            self._dismiss(hand)
            self._restarts.failed(answer.error, time.monotonic())
        elif not hand.facts:
            hand.facts = dict(answer)
            self._hopeful_s = hand.placed_s = time.monotonic()
        elif self._kinds is not None and answer not in self._kinds:
            self._dismiss(hand)
            self._start_failed(
                f"a worker on {hand.facts['host']} is of device kind {answer}, the others are of "
                f"{', '.join(sorted(self._kinds))}; take that node out of the cluster"
            )
        else:
            hand.facts["device_kind"], hand.hello = answer, None
            self._restarts.succeeded()

    def _start_failed(self, message: str) -> None:
        log.warning("%s", message)
        self._restarts.failed(WorkerStartError(f"{message}, then run the command again"), time.monotonic())

    def _check_hope(self) -> None:
        """Raise where no worker works and none can be had; say beforehand, once, that no node could hold one."""
        if any(h.ready for h in self._hands):
            self._hopeful_s = time.monotonic()
            return
        if self._restarts.exhausted and self._restarts.last_error is not None:
            raise self._restarts.last_error
        waited_s = 0.0 if any(h.facts for h in self._hands) else time.monotonic() - self._hopeful_s
        due = waited_s > ROOM_S or (waited_s > LACK_S and not self._told_lack)
        lack = self._cluster.lack() if due else ""
        if waited_s > ROOM_S:
            raise WorkerStartError(
                f"no worker found room on the cluster for {ROOM_S:g} s: {self._wanted()} are wanted, each with "
                f"{self._cluster.asked()}, and living nodes have room for {self._room:g}{lack and f' ({lack})'}; add "
                "nodes, free some or ask for less, then run the same command again to resume"
            )
        self._told_lack |= due
        if lack:
            log.warning("%s; waiting up to %g s for one that has to join", lack, ROOM_S)

    def _gathered(self, waited_s: float) -> bool:
        """Return whether every worker is ready, or all that find room."""
        ready = sum(h.ready for h in self._hands)
        loading = any(h.facts and not h.ready for h in self._hands)
        return ready >= self._wanted() or (ready > 0 and not loading and waited_s > GATHER_S)

    def _wanted(self) -> int:
        """Return how many workers there shall be; without a number given, one per CPU, looked up now and then."""
        if time.monotonic() - self._looked_s > CLUSTER_LOOK_S:
            self._room, self._looked_s = self._cluster.room(), time.monotonic()
        return max(1, (self._workers or int(self._room)) - self._fewer)
