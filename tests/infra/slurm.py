"""A Slurm of one node that a test starts and ends: munged, slurmctld and slurmd, on loopback, in their own folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
PATIENCE_s = 60.0


def why_not() -> str | None:
    """Return why Slurm cannot be started here; None where it can."""
    lacking = [name for name in PROGRAMS if _found(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: slurmctld slurmd slurm-client munge)"
    return None if os.geteuid() == 0 else "slurmd starts jobs as root alone"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run Slurm while the block lasts; give the environment in which its commands find it."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(_configuration(folder))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    running = [subprocess.Popen(_munged(folder), env=environment, stderr=subprocess.DEVNULL)]
    try:
        _wait((folder / "munge" / "socket").exists, "munged")
        for name in ("slurmctld", "slurmd"):
            with (folder / f"{name}.out").open("wb") as log:
                running.append(subprocess.Popen([_found(name) or name, "-D"], env=environment, stdout=log, stderr=log))
        _wait(lambda: "idle" in _told(["sinfo", "--noheader", "--format=%T"], environment), "slurmctld and slurmd")
        yield environment
    finally:
        _told(["scancel", "--full", "--signal=KILL", "--state=RUNNING"], environment)
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _configuration(folder: Path) -> str:
    host, cpus = socket.gethostname().partition(".")[0], os.cpu_count() or 1
    control, node = _free_port(), _free_port()
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": control,
        "SlurmdPort": node,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        # a job that is queued again waits for its old credential to expire: two minutes, unless told otherwise
        "AuthInfo": f"socket={folder}/munge/socket,cred_expire=5",
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "MpiDefault": "none",
        "ReturnToService": 2,
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=2",
        "KillWait": 30,
    }
    nodes = [
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN",
        f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    ]
    return "\n".join([*(f"{name}={value}" for name, value in lines.items()), *nodes, ""])


def _munged(folder: Path) -> list[str]:
    own = folder / "munge"
    words = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return [
        _found("munged") or "",
        "--foreground",
        "--force",
        *(f"--{name}={own / file}" for name, file in words.items()),
    ]


def _found(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _told(words: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout


def _wait(done: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_s
    while not done():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what} did not start within {PATIENCE_s:.0f} s")
        time.sleep(0.2)
