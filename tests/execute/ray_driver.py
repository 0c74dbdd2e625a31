"""A driver in a process of its own, for tests that stop it or take nodes from its cluster.

Run as `python -m tests.execute.ray_driver MODE FOLDER`; the last line it writes is JSON about what came out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    OMP_NUM_THREADS="1",
)
# the suite's own patience, which nobody else's Ray has
os.environ.pop("RAY_timeout_ms_task_wait_for_death_info", None)
import pipeline.execute.workers as pool
from pipeline.domain.errors import FacemintError
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.stop import Stop, on_signals
from tests.execute.toys import Toy, units
from tests.worlds import Silent

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
UNITS = 40
ALONE = ("stop", "late")
"""Modes with a Ray that the executor starts."""


def cluster_of(nodes: int) -> tuple[Any, list[Any]]:
    """Start a head without CPUs and so many nodes with one."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    return cluster, [cluster.add_node(**NODE) for _ in range(nodes)]


def raylet(node: Any) -> Any:
    """Return the process that speaks for a node."""
    return next(p for kind, infos in node.all_processes.items() if "raylet" in kind for p in infos).process


def change(mode: str, cluster: Any, nodes: list[Any]) -> None:
    """Do to the cluster what the mode says."""
    if mode in ("node", "drained"):
        cluster.remove_node(nodes[1], allow_graceful=mode == "drained")
    elif mode == "raylet":
        raylet(nodes[1]).kill()
    elif mode == "all":
        for node in nodes:
            cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(**NODE)
    elif mode == "grow":
        cluster.add_node(**NODE)
    elif mode == "notice":
        notify(cluster.address, nodes[1].node_id)


def notify(address: str, node: str) -> None:
    """Announce that a node will be taken away in two minutes, as clouds do of spot machines."""
    words = ["--address", address, "--node-id", node, "--deadline-remaining-seconds", "120"]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    ray = Path(sys.executable).parent / "ray"
    subprocess.run([str(ray), "drain-node", *words, *why], check=True, capture_output=True, timeout=60)


def freeze(seconds: float) -> None:
    """Let the process that speaks for this machine's Ray stand still for a while, as on a machine with other work."""
    from ray._private import worker

    spokesman = raylet(worker._global_node)
    spokesman.send_signal(signal.SIGSTOP)
    threading.Timer(seconds, spokesman.send_signal, [signal.SIGCONT]).start()


def main(mode: str, folder: Path) -> int:
    """Work the units while something happens; write what came out and return the exit status."""
    pool.CLUSTER_LOOK_S = 1.0
    cluster, nodes = (None, []) if mode in ALONE else cluster_of(1 if mode == "grow" else 2)
    # its worker's first unit, so that no answer to an earlier one is lost with it: then nobody would be blamed
    toy, stop = Toy(folder, {0: "kill 1"} if mode == "late" else {}, seconds=0.5), Stop()
    executor = RayExecutor(
        toy,
        # the pool of a cluster grows with it; alone on a machine, how many it has must not decide what is seen
        workers=None if cluster else 2,
        address=cluster.address if cluster else None,
        unit_limit_s=60.0,
        quarantine=toy.quarantine,
        stop=stop,
        observer=(seen := Silent()),
    )
    done: list[str] = []
    status, error = 0, ""
    with on_signals(stop):
        try:
            executor.device_kinds()
            if mode == "late":
                freeze(4.0)
            for receipt in executor.run(units(*range(6 if mode == "late" else UNITS))):
                done.append(receipt.name)
                if len(done) == 4 and mode == "stop":
                    os.kill(os.getpid(), signal.SIGTERM)
                elif len(done) == 4 and cluster:
                    change(mode, cluster, nodes)
        except FacemintError as raised:
            status, error = raised.exit_status, str(raised)
        finally:
            executor.close()
    pids = {line.split()[0] for n in range(UNITS) for line in toy.tries(n)}
    deaths = toy.store.list("quarantine/")
    lost = [[facts["by"], facts["why"]] for kind, facts in seen.seen if kind == "lost"]
    told = json.dumps({"done": done, "error": error, "deaths": deaths, "pids": sorted(pids), "lost": lost})
    sys.stdout.write(f"{told}\n")
    if cluster:
        cluster.shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
