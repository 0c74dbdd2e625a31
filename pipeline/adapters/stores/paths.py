"""What every store asks of a path, a prefix and a range, so that all of them refuse the same ones in the same words."""

from __future__ import annotations

from pipeline.domain.errors import StoreError

TEMPORARY = ".tmp-"
"""How temporary names begin; no path may use it."""


def checked_path(path: str) -> str:
    """Return `path` unchanged if it is one that a store accepts; raises ValueError otherwise."""
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(p in ("", ".", "..") or p.startswith(TEMPORARY) for p in parts):
        raise ValueError(
            f"store path {path!r}: a path is relative, its parts are joined by `/`, and no part is empty, "
            f"`.`, `..`, holds a backslash or begins with {TEMPORARY!r}"
        )
    return path


def is_path(name: str) -> bool:
    """Return whether a store accepts a name; others in a listing are somebody else's, or temporary."""
    try:
        return bool(checked_path(name))
    except ValueError:
        return False


def checked_prefix(prefix: str) -> str:
    """Return `prefix` unchanged if some path could start with it; raises ValueError otherwise."""
    checked_path(prefix + "x")
    return prefix


def checked_range(offset: int, length: int) -> None:
    """Raise ValueError where a range is negative: it would count from the end."""
    if offset < 0 or length < 0:
        raise ValueError(f"range of {length} bytes at offset {offset}: both are at least 0")


def exactly(data: bytes, path: str, offset: int, length: int) -> bytes:
    """Return `data` unchanged if it is `length` bytes long; raises StoreError otherwise."""
    if len(data) != length:
        raise StoreError(
            f"{path}: {length} bytes asked for at offset {offset}, {len(data)} are there; the file is "
            "shorter than what refers to it: restore it from a copy, or make its unit again"
        )
    return data
