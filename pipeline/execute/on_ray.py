"""The Ray executor: long-lived actors that hold their models and pull units from a queue kept by the driver.

The only file that imports Ray. At most two units are in flight per actor, so that the next one waits at the actor
while the last is written. Restarts and retries are ours, not Ray's: a worker that dies on a living node counts
against the unit it was working on, three deaths quarantine that unit and the run goes on; node loss counts against
nobody. A unit that outlasts its limit is taken back and its actor replaced.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.domain.errors import FacemintError, QuarantinedError, UserError, WorkerStartError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Worker
from pipeline.domain.unit import Unit

IN_FLIGHT = 2
DEATHS_ALLOWED = 3
T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Actor:
    handle: Any
    node: Any
    """Reference to the id of the node it runs on."""
    queue: deque[tuple[Any, Any]] = field(default_factory=deque)
    """(reference, job) in the order in which the actor works them."""
    since_s: float = 0.0


class RayExecutor:
    """Implements `ports.Executor` on a Ray cluster.

    Args:
        make_worker: builds a worker inside an actor's process; pickled to it.
        workers: how many actors; None for one per CPU of the cluster.
        address: a cluster's address; None starts Ray on this machine.
        unit_limit_s: a unit running longer is taken back.
        on_death: told (unit name, deaths so far) before a unit is issued again.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        *,
        workers: int | None = None,
        address: str | None = None,
        unit_limit_s: float = 3600.0,
        on_death: Callable[[str, int], None] | None = None,
    ) -> None:
        """Keep the settings; Ray starts when a worker is first needed."""
        self._make_worker = make_worker
        self._wanted = workers
        self._address = address
        self._limit_s = unit_limit_s
        self._on_death = on_death
        self._actors: list[_Actor] = []
        self._deaths: Counter[str] = Counter()
        self._started_ray = False

    def device_kinds(self) -> set[str]:
        """Return the device kinds of the actors."""
        import ray

        self._start()
        try:
            return set(ray.get([a.handle.device_kind.remote() for a in self._actors]))
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayActorError as error:
            raise WorkerStartError(
                f"a worker died while it started ({str(error).splitlines()[0]}); "
                "look at memory and Ray's logs on its node, then run the command again"
            ) from None

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield receipts as they come; units that killed three workers are named at the end.

        Raises:
            QuarantinedError: after every other unit is done.
        """
        yield from self._map(units, "work", lambda unit: unit.name)

    def audit(self, unit_names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield findings as they come."""
        yield from self._map(unit_names, "audit", lambda name: name)

    def close(self) -> None:
        """Stop the actors, and Ray where this executor started it."""
        if not self._actors and not self._started_ray:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors.clear()
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def _map(self, jobs: Sequence[T], method: str, name_of: Callable[[T], str]) -> Iterator[Any]:
        import ray

        self._start()
        waiting = deque(jobs)
        quarantined: list[str] = []
        while waiting or any(a.queue for a in self._actors):
            for actor in self._actors:
                while waiting and len(actor.queue) < IN_FLIGHT and self._fair(actor, waiting):
                    job = waiting.popleft()
                    if not actor.queue:
                        actor.since_s = time.monotonic()
                    actor.queue.append((getattr(actor.handle, method).remote(job), job))
            refs = [a.queue[0][0] for a in self._actors if a.queue]
            ready, _ = ray.wait(refs, num_returns=1, timeout=5.0)
            for actor in list(self._actors):
                if not actor.queue:
                    continue
                if actor.queue[0][0] in ready:
                    ref, job = actor.queue[0]
                    try:
                        outcome = ray.get(ref)
                    except ray.exceptions.RayTaskError as error:
                        raise _cause(error) from None
                    except ray.exceptions.RayActorError as error:
                        self._bury(actor, waiting, quarantined, name_of, str(error))
                        continue
                    actor.queue.popleft()
                    actor.since_s = time.monotonic()
                    yield outcome
                elif time.monotonic() - actor.since_s > self._limit_s:
                    ray.kill(actor.handle)
                    self._bury(actor, waiting, quarantined, name_of, f"no result in {self._limit_s:.0f} s")
        if quarantined:
            raise QuarantinedError(
                f"{len(quarantined)} units are quarantined after {DEATHS_ALLOWED} worker deaths each: "
                f"{', '.join(sorted(quarantined))}; every other unit is done; mend the cause and run the command again"
            )

    def _fair(self, actor: _Actor, waiting: deque[T]) -> bool:
        """Keep the last jobs for idle actors: a second job in flight would wait while another actor has none."""
        return not actor.queue or len(waiting) >= len(self._actors)

    def _bury(
        self, actor: _Actor, waiting: deque[T], quarantined: list[str], name_of: Callable[[T], str], why: str
    ) -> None:
        """Replace a dead actor and put its jobs back; the one it was working on bears the death, if its node lives."""
        self._actors.remove(actor)
        jobs = [job for _, job in actor.queue]
        if jobs and _on_living_node(actor):
            name = name_of(jobs[0])
            self._deaths[name] += 1
            if self._on_death is not None:
                self._on_death(name, self._deaths[name])
            logging.getLogger("facemint").warning("worker died on %s (%d): %s", name, self._deaths[name], why[:200])
            if self._deaths[name] >= DEATHS_ALLOWED:
                quarantined.append(name)
                jobs = jobs[1:]
        waiting.extendleft(reversed(jobs))
        self._actors.append(self._new_actor())

    def _start(self) -> None:
        if self._actors:
            return
        import ray

        if not ray.is_initialized():
            _quiet_environment()
            # one thread per worker: two OpenMP teams on shared cores are many times slower, and change summation order;
            # said for the job, not per actor, so that Ray can use the processes that it starts ahead
            env = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
            options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": env}
            if self._address is None:
                options |= {"include_dashboard": False, "num_cpus": max(self._wanted or 0, os.cpu_count() or 1)}
            try:
                ray.init(address=self._address or "local", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"compute.address: no Ray cluster at {self._address!r} ({error}); give the address of a running "
                    "cluster, or leave it out to start Ray on this machine"
                ) from None
            self._started_ray = True
        self._actors = [self._new_actor() for _ in range(self._wanted or max(1, int(_cluster_cpus())))]

    def _new_actor(self) -> _Actor:
        import ray

        # `num_cpus=1` books a core; where more workers than cores are asked for, they share
        cpus = _cluster_cpus()
        share = min(1.0, cpus / max(1, self._wanted or int(cpus)))
        remote = ray.remote(num_cpus=share, max_restarts=0, max_task_retries=0)
        handle: Any = remote(_RayWorker).remote(self._make_worker)
        return _Actor(handle, handle.node.remote(), since_s=time.monotonic())


class _RayWorker:
    """The actor: a worker behind Ray's calling convention.

    The worker is made at the first call, not in the constructor: an error of ours then arrives as itself, instead of
    as the death of an actor.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def device_kind(self) -> str:
        return self._started().device_kind()

    def work(self, unit: Unit) -> Receipt:
        return self._started().work(unit)

    def audit(self, unit_name: str) -> Mapping[str, Any]:
        return self._started().audit(unit_name)

    def _started(self) -> Worker:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker


def _quiet_environment() -> None:
    """Set what keeps a local Ray from asking for a token, phoning home or rebuilding the environment."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _cluster_cpus() -> float:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("CPU", 1.0)


def _on_living_node(actor: _Actor) -> bool:
    """Return whether a dead actor's node is alive: only then was the death the work's own."""
    import ray

    try:
        node = ray.get(actor.node, timeout=1.0)
    except ray.exceptions.RayError:
        # it died before it could say where it was: its constructor is at fault, not a node
        return True
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return any(n["NodeID"] == node and n["Alive"] for n in nodes)


def _cause(error: Any) -> Exception:
    """Return our own error where a task raised one, else Ray's, which holds the worker's traceback."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FacemintError) else error
