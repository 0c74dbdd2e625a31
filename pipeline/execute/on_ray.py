"""The Ray executor: workers are actors of a Ray cluster. The only file that imports Ray.

Restarts and retries are ours (`workers.py`), not Ray's. How Ray 2.60 tells of a lost actor, tried by killing each:

    ActorDiedError, node alive           the process died: SIGKILL, a crash, exit, the kernel's memory killer
    ActorDiedError, node gone/preempted  the node was drained, stopped or stopped answering
    ActorUnavailableError                the connection broke: mostly a node that vanished at one blow, which Ray
                                         itself calls dead only up to 15 s later
    OutOfMemoryError                     Ray's memory monitor; it picks the worker that began last, not the largest
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.domain.errors import FacemintError, UserError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Worker
from pipeline.domain.unit import Unit
from pipeline.execute.cluster import Loss, Lost, Raised
from pipeline.execute.stop import Stop
from pipeline.execute.workers import WorkersExecutor
from pipeline.flow.quarantine import Quarantine


class RayExecutor(WorkersExecutor):
    """Implements `ports.Executor` on a Ray cluster.

    Args:
        make_worker: builds a worker inside an actor's process; pickled to it.
        workers: how many actors; None for one per CPU of the cluster, also of nodes that join later.
        address: a cluster's address; None starts Ray on this machine, or uses the one that runs in this process.
        unit_limit_s: a unit running longer is taken back, as is a worker that takes longer to load.
        quarantine: where deaths are written, and which units are left out.
        stop: once asked, no unit is issued; those being worked are waited for.
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
    ) -> None:
        """Keep the settings; Ray starts when a worker is first needed."""
        cluster = RayCluster(make_worker, address)
        super().__init__(cluster, workers=workers, unit_limit_s=unit_limit_s, quarantine=quarantine, stop=stop)


class RayCluster:
    """Implements `cluster.Cluster`: a worker is an actor, a call an object reference."""

    def __init__(self, make_worker: Callable[[], Worker], address: str | None) -> None:
        """Keep what to run and where."""
        self._make_worker = make_worker
        self._address = address
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

    def close(self) -> None:
        """Stop Ray where `open` started it."""
        if not self._started:
            return
        import ray

        ray.shutdown()
        self._started = False

    def cpus(self) -> float:
        """Return the CPUs of the living nodes."""
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return resources.get("CPU", 0.0)

    def hire(self, workers: int | None) -> Any:
        """Create an actor. It books a CPU of somebody's cluster; on this machine as many share one as are asked for."""
        import ray

        shared_by = 1 if self._address or not workers else math.ceil(workers / max(1.0, self.cpus()))
        remote = ray.remote(num_cpus=1.0 / shared_by, max_restarts=0, max_task_retries=0)
        return remote(_RayWorker).remote(self._make_worker)

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
            raise
        except told.OutOfMemoryError as error:
            return Lost(Loss.MEMORY, _gist(error))
        except told.ActorDiedError as error:
            # where the actor had not said yet where it is, Ray's words are all there is
            node_lost = error.preempted or "its node has died" in str(error) or (node is not None and not _lives(node))
            return Lost(Loss.NODE if node_lost else Loss.PROCESS, _gist(error))
        except (told.RayActorError, told.NodeDiedError, told.ObjectLostError) as error:
            return Lost(Loss.NODE, _gist(error))

    def dismiss(self, handle: Any) -> None:
        """Kill an actor; one whose cluster is gone is gone with it."""
        import ray

        if ray.is_initialized():
            ray.kill(handle)


class _RayWorker:
    """The actor: a worker behind Ray's calling convention.

    The worker is made by a call, not in the constructor: an error of ours then arrives as itself, instead of as the
    death of an actor.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def where(self) -> dict[str, Any]:
        import ray

        return {"node": str(ray.get_runtime_context().get_node_id()), "host": socket.gethostname(), "pid": os.getpid()}

    def hello(self) -> str:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker.device_kind()

    def work(self, unit: Unit) -> Receipt:
        assert self._worker is not None
        return self._worker.work(unit)


def _quiet_environment() -> None:
    """Set what keeps a local Ray from asking for a token, phoning home or rebuilding the environment."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _lives(node: str) -> bool:
    """Return whether the cluster counts a node as alive."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return any(n["NodeID"] == node and n["Alive"] for n in nodes)


def _gist(error: Exception) -> str:
    """Return the line of a message of Ray's that tells the cause, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if " because " in line or "were killed" in line), lines[0])
    return told.partition("Worker exit detail: ")[2][:160] or told[:160]
