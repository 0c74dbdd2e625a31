"""A gate per node: the first process that loads something does so alone, and those that follow find it at hand.

Eight workers that start on a node at once would read the same weights eight times across the network. The first reads
them into the node's cache and memory; the others then go together. A lock is given up by the kernel when its process
dies, so a worker that dies loading holds up nobody.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

FRESH_S = 3600.0
"""For so long what was loaded is taken to be at hand still."""


@contextmanager
def first_alone(key: str, folder: Path | None = None) -> Iterator[bool]:
    """Hold the gate of `key` while the block lasts where nobody loaded it lately; yield whether that is so.

    Args:
        key: what is loaded: letters, digits and dashes.
        folder: of this node, where the gates are; by default one of this user's among the temporary files.
    """
    place = folder or Path(tempfile.gettempdir()) / f"facemint-{os.getuid()}"
    done, lock = place / f"{key}.loaded", FileLock(place / f"{key}.lock")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        # a folder that cannot be written keeps nobody from working
        yield True
        return
    try:
        first = not _is_fresh(done)
        if first:
            yield True
            done.touch()
    finally:
        lock.release()
    if not first:
        yield False


def _is_fresh(done: Path) -> bool:
    try:
        return time.time() - done.stat().st_mtime < FRESH_S
    except FileNotFoundError:
        return False
