"""The Ray executor: workers are actors of a Ray cluster. The only file that imports Ray.

Restarts and retries are ours (`workers.py`), not Ray's. How Ray 2.60 tells of a lost actor, tried by killing each:

    ActorDiedError, node alive           the process died: SIGKILL, a crash, exit, the kernel's memory killer
    ActorDiedError, node gone/preempted  the node was drained, stopped or stopped answering
    ActorUnavailableError                the connection broke: mostly a node that vanished at one blow, which Ray
                                         itself calls dead only up to 15 s later
    OutOfMemoryError                     Ray's memory monitor; it picks the worker that began last, not the largest

A notice that a node is about to be taken away comes in two ways. A node that drains (`ray drain-node`, an autoscaler, a
pod whose `ray start --block` got SIGTERM) is listed as such. A worker's own process may get SIGTERM: it ends the unit
in hand if that takes no longer than `NOTICE_S`, gives back what it has otherwise, and takes nothing new.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from pipeline.domain.errors import FacemintError, UserError, WorkerStartError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Observer, Worker
from pipeline.domain.unit import Unit
from pipeline.execute.cluster import Loss, Lost, Raised
from pipeline.execute.demand import Demand, Node
from pipeline.execute.metrics import COMMON, METRICS, SECONDS, Book, Kind, Metric
from pipeline.execute.stop import Stop
from pipeline.execute.workers import WorkersExecutor
from pipeline.flow.quarantine import Quarantine

NOTICE_S = 20.0
"""How long a worker that got SIGTERM goes on with its unit; Kubernetes kills after 30 s unless told otherwise."""
DEATH_TOLD_MS = 20_000
"""How long a Ray on this machine may take to tell that a worker died. Its own default is 1 s, after which the worker is
`unavailable`: that reads as a lost node and blames no unit, and a busy machine takes longer."""


class RayExecutor(WorkersExecutor):
    """Implements `ports.Executor` on a Ray cluster.

    Args:
        make_worker: builds a worker inside an actor's process; pickled to it.
        workers: how many actors; None for one per CPU of the cluster, also of nodes that join later.
        address: a cluster's address; None starts Ray on this machine, or uses the one that runs in this process.
        unit_limit_s: a unit running longer is taken back, as is a worker that takes longer to load.
        quarantine: where deaths are written, and which units are left out.
        stop: once asked, no unit is issued; those being worked are waited for.
        demand: what a worker books.
        common: labels of the metrics that workers tell: `dataset` and `run`; without them they tell none.
        notice_s: how long a worker that got SIGTERM goes on with its unit.
        observer: told of every worker that is lost.
        idle_s: workers with nothing to do for so long are let go.
        min_workers: so many are kept all the same.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        *,
        workers: int | None,
        address: str | None,
        unit_limit_s: float,
        quarantine: Quarantine,
        stop: Stop,
        demand: Demand | None = None,
        common: Mapping[str, str] | None = None,
        notice_s: float = NOTICE_S,
        observer: Observer | None = None,
        idle_s: float | None = None,
        min_workers: int = 0,
    ) -> None:
        """Keep the settings; Ray starts when a worker is first needed."""
        cluster = RayCluster(make_worker, address, demand or Demand(), dict(common or {}), notice_s)
        super().__init__(
            cluster, workers=workers, unit_limit_s=unit_limit_s, quarantine=quarantine, stop=stop,
            observer=observer, idle_s=idle_s, min_workers=min_workers,
        )  # fmt: skip


class RayCluster:
    """Implements `cluster.Cluster`: a worker is an actor, a call an object reference."""

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        address: str | None,
        demand: Demand,
        common: Mapping[str, str],
        notice_s: float,
    ) -> None:
        """Keep what to run and where."""
        self._make_worker = make_worker
        self._address = address
        # who starts Ray here has chosen this machine, whatever it is called
        self._demand = demand if address else replace(demand, cpus=1.0, labels={})
        self._common, self._notice_s = common, notice_s
        self._started = False

    def open(self) -> None:
        """Start Ray here, or join the cluster at the address, where this process has none yet."""
        import ray

        if ray.is_initialized():
            return
        _quiet_environment()
        # one thread per worker: two OpenMP teams on shared cores are many times slower, and change summation order;
        # said for the job, not per actor, so that Ray can use the processes that it starts ahead
        env = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": env}
        if self._address is None:
            options |= {"include_dashboard": False, "num_cpus": os.cpu_count() or 1}
            options["_system_config"] = {"timeout_ms_task_wait_for_death_info": DEATH_TOLD_MS}
        before = signal.getsignal(signal.SIGTERM)
        self._started = True
        try:
            ray.init(address=self._address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"compute.address: no Ray cluster at {self._address!r} ({error}); give the address of a running "
                "cluster, or leave it out to start Ray on this machine"
            ) from None
        finally:
            # Ray puts its own handler in place of ours; SIGTERM would then end a run without draining it
            if threading.current_thread() is threading.main_thread() and callable(before):
                signal.signal(signal.SIGTERM, before)
        if self._address is None and (lack := self.lack()):
            raise UserError(
                f"{lack}, and no other node can join a Ray that is started here; ask for less, or give the address of "
                "a cluster that has it"
            )

    def close(self) -> None:
        """Stop Ray where `open` started it."""
        if not self._started:
            return
        import ray

        ray.shutdown()
        self._started = False

    def room(self) -> float:
        """Return how many workers fit on the living nodes, taken each for itself."""
        return float(sum(self._demand.fit(node) for node in _living()))

    def asked(self) -> str:
        """Return in words what a worker books."""
        return self._demand.told()

    def lack(self) -> str:
        """Return why no living node could hold a worker; empty where one could."""
        return self._demand.lack(_living())

    def leaving(self) -> set[str]:
        """Return the nodes that drain. Ray tells it its own libraries only, so one that does not tell has none."""
        from ray._private import state

        told = getattr(state.state, "get_draining_nodes", None)
        return set(told()) if told is not None else set()

    def hire(self, workers: int | None) -> Any:
        """Create an actor. It books CPUs of somebody's cluster; on this machine as many share one as are asked for."""
        import ray

        demand = self._demand
        if workers and not self._address:
            demand = replace(demand, cpus=1.0 / math.ceil(workers / max(1.0, sum(node.cpus for node in _living()))))
        actor = ray.remote(**actor_options(demand))(_RayWorker)
        return actor.remote(self._make_worker, self._common, self._notice_s)

    def call(self, handle: Any, method: str, *args: Any) -> Any:
        """Call an actor's method."""
        return getattr(handle, method).remote(*args)

    def answered(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return what is there, waiting for the first at most so long."""
        import ray

        ready, _ = ray.wait(list(calls), num_returns=1, timeout=timeout_s)
        if ready and len(calls) > 1:
            # Ray stops at the number asked for, however many are there
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return list(ready)

    def answer(self, call: Any, node: str | None) -> Any:
        """Return a result, an error of ours, or what became of the actor; an error of nobody's is raised."""
        import ray

        told = ray.exceptions
        try:
            return ray.get(call)
        except told.RayTaskError as error:
            if isinstance(error.cause, FacemintError):
                return Raised(error.cause)
            if isinstance(error.cause, LeavingError):
                return Lost(Loss.NOTICE, str(error.cause))
            raise
        except told.OutOfMemoryError as error:
            return Lost(Loss.MEMORY, _gist(error))
        except told.ActorDiedError as error:
            # where the actor had not said yet where it is, Ray's words are all there is
            node_lost = error.preempted or "its node has died" in str(error) or (node is not None and not _lives(node))
            return Lost(Loss.NODE if node_lost else Loss.PROCESS, _gist(error))
        except told.ActorUnschedulableError as error:
            # a label that names one node, `ray.io/node-id`: Ray waits for no other
            why = self.lack() or _gist(error)
            return Raised(WorkerStartError(f"{why}; ask for less, or for another node, then run the command again"))
        except (told.RayActorError, told.NodeDiedError, told.ObjectLostError) as error:
            return Lost(Loss.NODE, _gist(error))

    def dismiss(self, handle: Any) -> None:
        """Kill an actor; one whose cluster is gone is gone with it."""
        import ray

        if ray.is_initialized():
            ray.kill(handle)


def actor_options(demand: Demand) -> dict[str, Any]:
    """Return how Ray is told of a demand. Memory is booked, not fenced: what Ray keeps is that bookings fit a node."""
    options: dict[str, Any] = {"num_cpus": demand.cpus, "max_restarts": 0, "max_task_retries": 0}
    if demand.gpus:
        options["num_gpus"] = demand.gpus
    if demand.memory_bytes:
        options["memory"] = demand.memory_bytes
    if demand.labels:
        options["label_selector"] = dict(demand.labels)
    return options


class LeavingError(Exception):
    """A worker that got a notice gives its unit back."""


class _Noticed(BaseException):
    """What ends a unit that takes longer than the notice; of no class that foreign code would catch."""


class _RayWorker:
    """The actor: a worker behind Ray's calling convention.

    The worker is made by a call, not in the constructor: an error of ours then arrives as itself, instead of as the
    death of an actor.
    """

    def __init__(self, make_worker: Callable[[], Worker], common: Mapping[str, str], notice_s: float) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._told = RayMetrics(common) if set(COMMON) == set(common) else None
        self._notice_s = notice_s
        self._noticed = self._working = False
        self._ended_s = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_notice)
        signal.signal(signal.SIGALRM, self._on_time_up)

    def where(self) -> dict[str, Any]:
        import ray

        return {"node": str(ray.get_runtime_context().get_node_id()), "host": socket.gethostname(), "pid": os.getpid()}

    def hello(self) -> str:
        if self._worker is None:
            began_s = time.monotonic()
            self._worker = self._make_worker()
            self._ended_s = time.monotonic()
            self._tell("worker_load_seconds", self._ended_s - began_s)
        return self._worker.device_kind()

    def work(self, unit: Unit) -> Receipt:
        assert self._worker is not None
        if self._noticed:
            raise LeavingError("it got SIGTERM")
        began_s = time.monotonic()
        try:
            self._working = True
            return self._worker.work(unit)
        except _Noticed:
            raise LeavingError(f"it got SIGTERM, and {self._notice_s:g} s did not suffice for its unit") from None
        finally:
            self._working = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            now_s = time.monotonic()
            self._tell("worker_busy_seconds", now_s - began_s)
            self._tell("device_busy_ratio", (now_s - began_s) / max(1e-9, now_s - self._ended_s))
            self._ended_s = now_s

    def _tell(self, name: str, value: float) -> None:
        if self._told is not None:
            assert self._worker is not None
            self._told.tell(name, value, {"device": self._worker.device_kind().partition(",")[0]})

    def _on_notice(self, _signum: int, _frame: FrameType | None) -> None:
        self._noticed = True
        if self._working:
            signal.setitimer(signal.ITIMER_REAL, self._notice_s)

    def _on_time_up(self, _signum: int, _frame: FrameType | None) -> None:
        if self._working:
            raise _Noticed


class RayMetrics:
    """Implements `metering.Sink`: registers metrics with Ray, which serves those of all processes of a node together.

    Args:
        common: values of the labels that all metrics have.
    """

    def __init__(self, common: Mapping[str, str]) -> None:
        self._common = dict(common)
        self._registered: dict[str, Any] = {}
        self._handed: dict[tuple[str, tuple[str, ...]], float] = {}

    def write(self, book: Book) -> None:
        """Hand on what changed since the last time; nothing where Ray does not run in this process."""
        import ray

        if not ray.is_initialized():
            return
        for key, number in book.numbers().items():
            name, values = key
            counts = METRICS[name].kind is Kind.COUNTER
            more = number - self._handed.get(key, 0.0) if counts else number
            self._handed[key] = number
            self.tell(name, more, dict(zip(METRICS[name].labels, values, strict=True)))
        for name, values, number in book.observed():
            self.tell(name, number, dict(zip(METRICS[name].labels, values, strict=True)))

    def tell(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter, set a gauge, or count a value in a histogram."""
        metric = METRICS[name]
        if name not in self._registered:
            self._registered[name] = _register(metric)
        handle, every = self._registered[name], {**self._common, **labels}
        if metric.kind is Kind.GAUGE:
            handle.set(value, tags=every)
        elif metric.kind is Kind.HISTOGRAM:
            handle.observe(value, tags=every)
        elif value > 0:
            handle.inc(value, tags=every)


def _register(metric: Metric) -> Any:
    from ray.util import metrics

    keys = (*COMMON, *metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        return metrics.Histogram(metric.name, metric.help, boundaries=list(SECONDS), tag_keys=keys)
    kind = metrics.Gauge if metric.kind is Kind.GAUGE else metrics.Counter
    return kind(metric.name, metric.help, tag_keys=keys)


def _quiet_environment() -> None:
    """Set what keeps a local Ray from asking for a token, phoning home or rebuilding the environment."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _alive() -> list[dict[str, Any]]:
    """Return what Ray says of the nodes that it counts as alive."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _lives(node: str) -> bool:
    """Return whether the cluster counts a node as alive."""
    return any(n["NodeID"] == node for n in _alive())


def _living() -> list[Node]:
    """Return what the living nodes have."""
    return [
        Node(has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0), node.get("Labels") or {})
        for node in _alive()
        for has in (node["Resources"],)
    ]


def _gist(error: Exception) -> str:
    """Return the line of a message of Ray's that tells the cause, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if " because " in line or "were killed" in line), lines[0])
    return told.partition("Worker exit detail: ")[2][:160] or told[:160]
