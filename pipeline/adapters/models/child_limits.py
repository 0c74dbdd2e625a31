"""Fences around a process that reads what nobody vouches for: limits, a network of its own, an audit hook."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any

_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000
_REFUSED = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "os.kill", "pty.", "ftplib.")
_REFUSED_EXACTLY = {
    "os.system", "os.startfile", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.symlink", "os.link",
    "os.chmod", "os.chown", "os.putenv", "shutil.rmtree", "webbrowser.open",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def alone_on_the_network() -> bool:
    """Give this process a network in which nobody is, before it has threads; False where the kernel refuses.

    Root keeps its rights over files, so for root it is the network alone; anybody else needs a user space for it.
    """
    kind = _NEW_NETWORK if os.geteuid() == 0 else _NEW_NETWORK | _NEW_USER
    try:
        return bool(ctypes.CDLL(None, use_errno=True).unshare(kind) == 0)
    except (OSError, AttributeError):
        return False


def limit_resources(file_bytes: int) -> None:
    """Set limits that reading and writing tensors of a file of this size stays within."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, _address_space_bytes() + 4 * file_bytes + (1 << 30))
    _limit(resource.RLIMIT_FSIZE, 2 * file_bytes + (64 << 20))
    _limit(resource.RLIMIT_CPU, 60 + file_bytes // (10 << 20))


def watch(target: str) -> None:
    """Refuse, from now on and for good, processes, sockets, and writing to any file but one."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _REFUSED_EXACTLY or event.startswith(_REFUSED):
            raise PermissionError(f"{event} is refused while a file is converted")
        if event == "open" and _writes(arguments) and str(arguments[0]) != target:
            raise PermissionError("writing to another file is refused while a file is converted")

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _path, mode, flags = (*arguments, None, None)[:3]
    if isinstance(mode, str) and any(letter in mode for letter in "wax+"):
        return True
    return isinstance(flags, int) and bool(flags & _WRITING)


def _limit(what: int, most: int) -> None:
    """Set a soft limit, within the hard one that whoever started this has set and nobody may raise."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _address_space_bytes() -> int:
    """Return how much address space this process has, 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0


__all__ = ["alone_on_the_network", "limit_resources", "watch"]
