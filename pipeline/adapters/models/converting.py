"""Turns a pickle into safetensors: in a process of its own, which may read that one file and write that other."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.adapters import confining
from pipeline.adapters.models.reading import kind_of
from pipeline.domain.errors import ModelError, OutputError

_SLOWEST_BYTES_PER_S = 2 << 20
_HOSTILE = (
    "__builtin__.", "builtins.", "code.", "commands.", "importlib.", "nt.", "operator.", "os.", "posix.", "pty.",
    "runpy.", "shutil.", "socket.", "subprocess.", "sys.", "webbrowser.",
)  # fmt: skip
"""What no bookkeeping asks for."""


def convert_file(source: Path, target: Path, *, section: str = "", ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Write the tensors of a pickle as safetensors, and return the child's answer: tensors, bytes, what was left out.

    Args:
        source: a file that torch.save wrote.
        target: a file that is not there yet.
        section: take this group of tensors alone, and its name off theirs.
        ignore: names (`module.Class`, or `module.` for all below) of further bookkeeping to leave out.

    Raises:
        ModelError: the file is missing, no pickle, holds no tensors, or asks for what no state dict needs.
        OutputError: the target exists, or cannot be written.
    """
    _require(source, target)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:9]}.part")
    told = {"source": str(source), "target": str(part), "section": section, "ignore": list(ignore)}
    try:
        answer = _asked(told, source)
        if "tensors" not in answer:
            raise _refusal(answer, source, section)
        try:
            part.replace(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror}); name another file") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return answer


def _require(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ModelError(f"{source}: no such file; give the path of a file that torch.save wrote")
    if target.exists():
        raise OutputError(f"{target}: is there already; name another file, or remove it")
    if not os.access(target.absolute().parent, os.W_OK):
        raise OutputError(f"{target}: its folder is not there, or cannot be written; name another file")
    try:
        kind = kind_of(source)
    except OSError as error:
        raise ModelError(f"{source}: cannot be read ({error.strerror}); check its permissions") from None
    if kind == "safetensors":
        raise ModelError(f"{source}: holds safetensors already; use it as it is")
    if kind == "unknown":
        raise ModelError(f"{source}: is no file that torch.save wrote; convert takes nothing else")


def _asked(told: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the child's answer; how it died is an answer too."""
    command = confining.command("pipeline.adapters.models.convert_child", told)
    most_s = 120 + source.stat().st_size // _SLOWEST_BYTES_PER_S
    try:
        done = subprocess.run(  # noqa: S603
            command,
            env=confining.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=most_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {most_s} s"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"failed": f"the process that read it ended with {confining.ending(done.returncode)}"}
    return answer


def _refusal(answer: dict[str, Any], source: Path, section: str) -> ModelError:
    if "refused" in answer:
        name = str(answer["refused"])
        told = f"{source}: asks for {name}, which no state dict needs; it is not converted, and nothing of it was run"
        if name.startswith(_HOSTILE):
            return ModelError(f"{told}; that is what files do which mean harm: delete it, and get another copy")
        return ModelError(f"{told}; where that is bookkeeping of its author's, leave it out: --ignore {name}")
    if "empty" in answer:
        groups = ", ".join(answer["empty"]) or "nothing"
        asked = f"no section {section!r} with tensors" if section else "no tensors"
        return ModelError(f"{source}: holds {asked}; it holds {groups}")
    return ModelError(
        f"{source}: cannot be converted ({answer.get('failed')}); get another copy, or a state dict alone"
    )


__all__ = ["convert_file"]
