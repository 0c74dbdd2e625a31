"""The machine a worker runs on: its device kind, its threads, its clock."""

from __future__ import annotations

import importlib
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NAMES = {"PIL": "pillow"}


class SystemClock:
    """Implements `ports.Clock`."""

    def now_s(self) -> float:
        """Return seconds since the epoch."""
        return time.time()


def single_thread() -> None:
    """Hold torch to one thread in this process: more change the order of sums, and fight over shared cores."""
    import torch

    torch.set_num_threads(1)


def device_kind(also: Sequence[str] = ()) -> str:
    """Return what decides bytes: CPU model and instruction level, and the versions of the libraries that compute.

    `also` are modules that compute for this recipe and not for every one.

    The model, because the libraries choose their kernels by vendor and family too: two processors with the same
    instructions were seen to give different last bits.
    """
    import numpy
    import PIL
    import pyarrow
    import scipy
    import simplejpeg
    import torch

    level = torch.backends.cpu.get_cpu_capability()
    # twins are made by Pillow and scipy, and every table is written by pyarrow, which signs it with its version
    counted = (torch, numpy, scipy, PIL, simplejpeg, pyarrow)
    libraries = ", ".join(f"{_NAMES.get(m.__name__, m.__name__)} {m.__version__}" for m in counted)
    libraries += "".join(f", {name} {importlib.import_module(name).__version__}" for name in also)
    return f"cpu {level} ({_cpu_model()}), {libraries}"


def _cpu_model() -> str:
    """Return vendor, family and model as the kernel tells them; what the platform says where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = [facts[name] for name in ("vendor_id", "cpu family", "model") if name in facts]
    return " ".join(known) or platform.machine()


def holder(run: str) -> dict[str, Any]:
    """Return who takes a lease: this host, boot and process."""
    return {"run": run, "host": socket.gethostname(), "boot": _boot(), "pid": os.getpid()}


def is_dead(who: Mapping[str, Any]) -> bool:
    """Return whether a lease's holder is known to be gone: a process of this very boot that no longer runs."""
    if who.get("host") != socket.gethostname() or who.get("boot") != _boot():
        return False
    try:
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False


def _boot() -> str:
    """Return the boot and the namespace in which process numbers mean something: containers share the first alone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown"
