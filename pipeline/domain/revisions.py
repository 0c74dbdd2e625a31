"""Revisions: what erasing writes beside a file and puts in its place, `make-g0-000003.r1` for `make-g0-000003`.

A revision is a segment of its own, with a receipt of its own, and holds what the one before it held without the erased.
Whoever reads by name finds the newest; this file alone says which that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_REVISED = re.compile(r"(?P<base>.+)\.r(?P<number>[1-9]\d*)")


def parsed(name: str) -> tuple[str, int]:
    """Return the name without its revision, and the number of the revision: 0 for what was never revised."""
    found = _REVISED.fullmatch(name)
    return (found["base"], int(found["number"])) if found else (name, 0)


def revised(name: str) -> str:
    """Return the name of the next revision."""
    base, number = parsed(name)
    return f"{base}.r{number + 1}"


def revised_path(path: str) -> str:
    """Return the path of the next revision of a file: `enrolled/g0.r1.parquet`."""
    stem, dot, suffix = path.rpartition(".")
    return f"{revised(stem)}{dot}{suffix}"


def newest(names: Iterable[str]) -> dict[str, str]:
    """Return name without revision -> the name of its newest revision, in the order of the names."""
    out: dict[str, str] = {}
    for name in names:
        base, number = parsed(name)
        if base not in out or number > parsed(out[base])[1]:
            out[base] = name
    return out
