"""An executor over a pool of workers in processes of their own: who gets which unit, and what a lost worker costs.

It knows no engine: where the processes come from is a `Cluster` (`on_ray.py` has one). At most two units are in flight
per worker: the second waits there while the first is worked. A worker is given units once it has said that it stands,
so a loss is either one of starting or one of a unit. What it costs:

    a process of ours died     counts against the unit that was worked; three such deaths quarantine it
    its node was lost          nobody's fault: the unit is issued again
    killed for want of memory  nobody's fault while other workers of ours were on that node, and the pool shrinks by
                               one; counts where it had the node for itself
    no result within the limit counts; the worker is killed and replaced

The second unit in flight is innocent in every case. A worker may be lost with its last answer unsent: a unit whose
receipt lies in the store is done, and then nobody is blamed, as the next may or may not have begun; it is issued first
and alone to blame the next time. A worker given up for lost may still leave a receipt: it equals the other one.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.errors import WorkerStartError
from pipeline.domain.manifest import Receipt
from pipeline.domain.unit import Unit
from pipeline.execute.cluster import Cluster, Loss, Lost, Raised
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
STARTING = 16
"""Workers that may load their models at the same time."""
GATHER_S = 60.0
"""How long `device_kinds` waits for workers that find no room, when others are ready."""
ROOM_S = 600.0
"""How long a run waits for room on the cluster when it has no worker at all."""
log = logging.getLogger("facemint")


@dataclass(slots=True, eq=False)
class _Hand:
    """One worker, as the driver sees it."""

    handle: Any
    where: Any
    """Call that tells node, host and process: answered once it is placed."""
    hello: Any
    """Call that tells the device kind: answered once it stands; made again after idling; None when answered."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Node, host, process, then device kind; empty until it is placed."""
    queue: deque[tuple[Any, Unit]] = field(default_factory=deque)
    """(call, unit) in the order in which it works them."""
    since_s: float = 0.0
    """When it began what it does: when it was placed, last answered, or was given a unit while idle."""

    @property
    def awaited(self) -> Any:
        """Return the call that it answers next, or None where it idles."""
        if not self.facts:
            return self.where
        return self.hello if self.hello is not None else self.queue[0][0] if self.queue else None

    @property
    def ready(self) -> bool:
        """Return whether it can be given units."""
        return bool(self.facts) and self.hello is None


class WorkersExecutor:
    """Implements `ports.Executor` on a cluster.

    Args:
        cluster: where the processes come from.
        workers: how many; None for one per CPU, also of nodes that join later.
        unit_limit_s: a unit running longer is taken back, as is a worker that takes longer to load.
        quarantine: where deaths are written, and which units are left out.
        stop: once asked, no unit is issued; those being worked are waited for.
    """

    def __init__(
        self, cluster: Cluster, *, workers: int | None, unit_limit_s: float, quarantine: Quarantine, stop: Stop
    ) -> None:
        """Keep the settings; the cluster opens when a worker is first needed."""
        self._cluster = cluster
        self._workers = workers
        self._limit_s = unit_limit_s
        self._quarantine = quarantine
        self._stop = stop
        self._hands: list[_Hand] = []
        self._restarts = Restarts()
        self._memory = MemoryKills()
        self._fewer = 0
        self._kinds: set[str] | None = None
        self._cpus, self._looked_s = 0.0, -math.inf
        self._hopeful_s = 0.0
        """When a worker was last placed or at work."""

    @property
    def workers(self) -> int:
        """Return how many workers stand."""
        return sum(hand.ready for hand in self._hands)

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
        if len(queue) and not self._stop.asked:
            self._open()
        try:
            while len(queue) or self._busy():
                if self._stop.asked and not self._drain():
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
        queue.finish()

    def close(self) -> None:
        """Kill the workers and leave the cluster."""
        self._dismiss_all()
        self._cluster.close()

    # ------------------------------------------------------------------------------------------- units

    def _feed(self, queue: UnitQueue) -> None:
        """Give every idle worker a unit, then a second one to those that work; the last units wait for idle workers."""
        if self._stop.asked:
            return
        self._fill(min(self._wanted(), len(queue) + self._busy()))
        for hand in self._hands:
            if hand.ready and not hand.queue and queue.ready:
                if time.monotonic() - hand.since_s > IDLE_S:
                    hand.hello, hand.since_s = self._cluster.call(hand.handle, "hello"), time.monotonic()
                else:
                    self._give(hand, queue)
        for hand in self._hands:
            if hand.ready and 0 < len(hand.queue) < IN_FLIGHT and queue.ready >= len(self._hands):
                self._give(hand, queue)

    def _give(self, hand: _Hand, queue: UnitQueue) -> None:
        unit = queue.take()
        assert unit is not None
        if not hand.queue:
            hand.since_s = time.monotonic()
        hand.queue.append((self._cluster.call(hand.handle, "work", unit), unit))

    def _busy(self) -> int:
        return sum(len(h.queue) for h in self._hands)

    def _drain(self) -> bool:
        """Forget the units that wait behind others; return whether to wait for those being worked."""
        for hand in self._hands:
            while len(hand.queue) > 1:
                hand.queue.pop()
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

    def _hear(self, hand: _Hand, call: Any, queue: UnitQueue | None) -> list[Receipt]:
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

    def _bury(self, hand: _Hand, lost: Lost, queue: UnitQueue | None) -> list[Receipt]:
        """Let a worker go. The unit that it worked bears the death where that is its own; the others are put back."""
        self._looked_s = -math.inf
        self._dismiss(hand)
        innocent = lost.by is Loss.NODE or (lost.by is Loss.MEMORY and self._had_company(hand))
        units = [unit for _, unit in hand.queue]
        if queue is None or not units:
            if "device_kind" not in hand.facts and not innocent:
                self._start_failed(f"a worker died while it started ({lost.why}); look at memory and logs on its node")
            return []
        receipt = self._quarantine.done_after_all(units[0])
        if receipt is not None:
            units.pop(0)
        elif innocent:
            log.warning("%s is issued again, its worker was lost: %s", units[0].name, lost.why)
        else:
            queue.died(units.pop(0), lost.why, hand.facts)
        queue.put_back(units)
        return [] if receipt is None else [receipt]

    def _had_company(self, hand: _Hand) -> bool:
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

    def _dismiss(self, hand: _Hand) -> None:
        self._hands.remove(hand)
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
        self._cluster.open()
        self._hopeful_s = time.monotonic()
        return self._hopeful_s

    def _fill(self, number: int) -> None:
        """Ask for workers until there are `number`, a few at a time and with pauses after failures."""
        while len(self._hands) < number and sum(not h.ready for h in self._hands) < STARTING:
            if not self._restarts.may_start(time.monotonic()):
                return
            handle = self._cluster.hire(self._workers)
            self._hands.append(_Hand(handle, self._cluster.call(handle, "where"), self._cluster.call(handle, "hello")))

    def _greet(self, hand: _Hand, answer: Any) -> None:
        """Take note of where a worker is, then of its device kind."""
        if isinstance(answer, Raised):
            if not answer.error.retryable:
                raise answer.error
            self._dismiss(hand)
            self._restarts.failed(answer.error, time.monotonic())
        elif not hand.facts:
            hand.facts = dict(answer)
            self._hopeful_s = time.monotonic()
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
        """Raise where no worker works and none can be had."""
        if any(h.ready for h in self._hands):
            self._hopeful_s = time.monotonic()
            return
        if self._restarts.exhausted and self._restarts.last_error is not None:
            raise self._restarts.last_error
        if not any(h.facts for h in self._hands) and time.monotonic() - self._hopeful_s > ROOM_S:
            raise WorkerStartError(
                f"no worker found room on the cluster for {ROOM_S:g} s: {self._wanted()} are wanted, {self._cpus:g} "
                "CPUs are alive; add nodes or free CPUs, then run the same command again to resume"
            )

    def _gathered(self, waited_s: float) -> bool:
        """Return whether every worker is ready, or all that find room."""
        ready = sum(h.ready for h in self._hands)
        loading = any(h.facts and not h.ready for h in self._hands)
        return ready >= self._wanted() or (ready > 0 and not loading and waited_s > GATHER_S)

    def _wanted(self) -> int:
        """Return how many workers there shall be; without a number given, one per CPU, looked up now and then."""
        if time.monotonic() - self._looked_s > CLUSTER_LOOK_S:
            self._cpus, self._looked_s = self._cluster.cpus(), time.monotonic()
        return max(1, (self._workers or int(self._cpus)) - self._fewer)
