"""What confines a process in which foreign bytes are read: how it is started, what it sees, how much it may use.

There are two such processes: one decodes images, one reads pickles. What fences both in stands here once, so that a gap
that is closed for one is closed for the other. Adapters that share nothing else import this module; it imports none of
them, and nothing beyond the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

_KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR")
"""What such a process sees of the environment of the one that starts it: nobody's secrets lie beside foreign bytes."""


def command(module: str, told: Mapping[str, Any]) -> list[str]:
    """Return the command that runs a module of this package, which is told one JSON object as its argument."""
    # -P: the working directory of whoever runs this must not lend its modules to the child
    return [sys.executable, "-P", "-m", module, json.dumps(told)]


def environment() -> dict[str, str]:
    """Return an environment in which the process starts and finds this package, and no credential of anybody's."""
    import pipeline

    root = str(Path(str(pipeline.__file__)).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # each thread of a numerical library reserves address space, and none of them is used there
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return kept | one | {"PYTHONPATH": os.pathsep.join([root, known] if known else [root])}


def ending(code: int) -> str:
    """Return how a process ended, in words, from its return code: `SIGSEGV`, `signal 40`, `exit status 3`."""
    if code >= 0:
        return f"exit status {code}"
    # most of the signals for real time have no name
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def answers() -> BinaryIO:
    """Return this process's standard output, for answers alone: what libraries print from now on goes nowhere."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return out


def limit(what: int, most: int, *, for_good: bool = True) -> None:
    """Set a limit of this process, within the hard one that whoever started it has set and nobody may raise.

    Args:
        what: `resource.RLIMIT_...`.
        most: how much of it.
        for_good: nor may this process raise it again, unless it is a root that kept CAP_SYS_RESOURCE, which containers
            take away. False for a limit that is raised later: its soft limit alone is set.
    """
    _, hard = resource.getrlimit(what)
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (soft, soft if for_good else hard))


def address_space_bytes() -> int:
    """Return how much address space this process has, 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0
