"""Files of this machine that verbs read and write: whole, or not at all."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.domain.errors import OutputError

LARGEST_IMAGE_bytes = 64 << 20
"""A file larger than this is no picture of a face and is not read to its end."""


class UnreadableError(ValueError):
    """A file cannot be read whole; says why, and what to name instead, to be put behind whoever named it."""


def read_whole(path: str, most_bytes: int, allowed: str) -> bytes:
    """Return the bytes of a file; `~` is the home folder.

    Args:
        path: as a person named it.
        most_bytes: how many it may have.
        allowed: how messages end: what to name instead.

    Raises:
        UnreadableError: it is missing, cannot be read, or is too large.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(most_bytes + 1)
    except (OSError, RuntimeError, ValueError) as error:
        # beside OSError: `~somebody` who has no home here, a name with a zero byte
        raise UnreadableError(f"cannot be read ({_reason(error)}); {allowed}") from None
    if len(data) > most_bytes:
        raise UnreadableError(f"has more than the {most_bytes:,} bytes that are read; {allowed}")
    return data


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def local_file(out: str) -> Path:
    """Return a file that a verb will write or replace; raises OutputError where it cannot be one of this machine."""
    if "://" in out:
        raise OutputError(f"--out {out}: is no file of this machine; name one")
    try:
        path = Path(out).expanduser()
        if path.is_dir():
            raise OutputError(f"--out {out}: is a folder; name a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"--out {out}: there is no folder {path.parent}; make it first")
    except (OSError, RuntimeError) as error:
        # `~somebody` who has no home here, a name that is too long, a folder that may not be looked into
        raise OutputError(f"--out {out}: cannot be written ({_reason(error)}); name another place") from None
    return path


def free_file(out: str) -> Path:
    """Return a file that a verb will write; raises OutputError as `local_file` does, and where it is there already."""
    path = local_file(out)
    if path.exists():
        raise OutputError(f"--out {out}: is there already; name another file, or remove it")
    return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read, whole or not at all; raises OutputError where that fails."""
    write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Create or replace a file: whoever reads it meanwhile sees the old one or the new one, never half of it.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:9]}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(f"--out {path}: cannot be written ({error.strerror}); name another place") from None
