"""Files of this machine that verbs write: whole or not at all."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline.domain.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path


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
