"""A Ray cluster of two nodes on one machine, each with an address of its own in a network of its own.

The nodes are network namespaces on a bridge. Their processes are real, `ray start` starts them, and cutting a node off
takes its link down: nothing is told to anybody, as where a machine or its switch fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

METRICS_PORT = 8090
OBJECT_STORE_BYTES = 80 * 2**20
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_metrics_report_interval_ms": "1000",
    "OMP_NUM_THREADS": "1",
}


def why_not() -> str | None:
    """Return why two nodes cannot be had here; None where they can."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return "needs root and iproute2, for network namespaces"
    tried = subprocess.run(["ip", "netns", "add", f"fmt{os.getpid()}"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces cannot be made here ({tried.stderr.strip()})"
    _run("ip", "netns", "del", f"fmt{os.getpid()}")
    return None


@dataclass
class TwoNodes:
    """The cluster.

    Attributes:
        folder: where logs are kept.
        mark: part of every name that is made, so that several can stand at once.
    """

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:6])
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        """Return the name of the bridge."""
        return f"fmb{self.mark}"

    def node(self, number: int) -> str:
        """Return the namespace of a node; 1 is the head."""
        return f"fmn{self.mark}-{number}"

    def address(self, number: int) -> str:
        """Return a node's address; 0 is that of this process."""
        return f"10.213.77.{number + 1}"

    @property
    def dashboard(self) -> str:
        """Return where jobs are submitted."""
        return f"http://{self.address(1)}:8265"

    def endpoint(self, number: int) -> str:
        """Return where a node's metrics are."""
        return f"{self.address(number)}:{METRICS_PORT}"

    def cut(self, number: int) -> None:
        """Take a node's link down."""
        _run("ip", "-n", self.node(number), "link", "set", "eth0", "down")

    def processes(self, number: int) -> list[int]:
        """Return the processes of a node."""
        told = subprocess.run(
            ["ip", "netns", "pids", self.node(number)], capture_output=True, text=True, check=False
        ).stdout
        return [int(pid) for pid in told.split()]

    def running_as(self, number: int, *words: str) -> list[int]:
        """Return the processes of a node whose command line has all these words in it."""
        found = []
        for pid in self.processes(number):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if all(word in line for word in words):
                    found.append(pid)
        return found

    def up(self) -> None:
        """Make networks and start Ray on both nodes, one CPU each."""
        _run("ip", "link", "add", self.bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.address(0)}/24", "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")
        for number in (1, 2):
            self._connect(number)
        common = [
            "--num-cpus=1",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--metrics-export-port={METRICS_PORT}",
        ]
        head = ["--head", "--port=6379", "--dashboard-host=0.0.0.0", f"--temp-dir={self.folder / 'ray'}"]
        self._ray(1, *head, *common)
        _until(lambda: _answers(f"{self.dashboard}/api/version"), "Ray's head")
        self._ray(2, f"--address={self.address(1)}:6379", *common)
        for number in (1, 2):
            _until(lambda n=number: _answers(f"http://{self.endpoint(n)}/metrics"), f"the metrics of node {number}")  # type: ignore[misc]

    def down(self) -> None:
        """End every process of both nodes, and take the networks away."""
        for number in (1, 2):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                for pid in self.processes(number):
                    with suppress(ProcessLookupError):
                        os.kill(pid, sign)
                deadline_s = time.monotonic() + 5
                while self.processes(number) and time.monotonic() < deadline_s:
                    time.sleep(0.1)
            subprocess.run(["ip", "link", "del", f"fmv{self.mark}-{number}"], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", self.node(number)], capture_output=True, check=False)
        for process in self.running:
            process.wait(timeout=10)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)

    def _connect(self, number: int) -> None:
        name, here = self.node(number), f"fmv{self.mark}-{number}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", here, "master", self.bridge, "up")
        _run("ip", "-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", device, "up")

    def _ray(self, number: int, *words: str) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        start = ["ip", "netns", "exec", self.node(number), ray, "start", "--block", "--disable-usage-stats"]
        # the drain of a node that is shut down in order is not what is tried here
        environment = {**os.environ, **SETTINGS, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (self.folder / f"node-{number}.log").open("wb") as log:
            self.running.append(
                subprocess.Popen(
                    [*start, f"--node-ip-address={self.address(number)}", *words],
                    env={**environment, "PATH": path},
                    stdout=log,
                    stderr=log,
                )
            )


@contextmanager
def two_nodes(folder: Path) -> Iterator[TwoNodes]:
    """Run a cluster while the block lasts."""
    cluster = TwoNodes(folder)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - http alone
        return bool(answer.status == 200)
    return False


def _until(good: object, what: str, within_s: float = 90.0) -> None:
    assert callable(good)
    deadline_s = time.monotonic() + within_s
    while not good():
        assert time.monotonic() < deadline_s, f"{what} did not come up"
        time.sleep(0.3)
