"""Fences around a process that reads what nobody vouches for: limits, a network of its own, an audit hook."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Any

from pipeline.adapters.confining import address_space_bytes, limit

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
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, address_space_bytes() + 4 * file_bytes + (1 << 30))
    limit(resource.RLIMIT_FSIZE, 2 * file_bytes + (64 << 20))
    # the soft limit alone ends it with a signal that says why
    limit(resource.RLIMIT_CPU, 60 + file_bytes // (10 << 20), for_good=False)


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


__all__ = ["alone_on_the_network", "limit_resources", "watch"]
