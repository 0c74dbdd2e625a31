"""The folder of a machine in which fetched weights lie: named by their digest, brought once, re-checked cheaply.

blobs/<sha256>          the bytes, read-only; one file however many addresses name it
addresses/<hash>.json   which digest an address had when it was fetched
digests/<hash>.json     size, time and inode of a file when it was hashed: while these stand its digest is known
arriving/<hash>/        what is being fetched; begun again or gone on with after a kill
locks/<hash>.lock       held by whoever fetches; others wait and then find the bytes here
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.adapters.models.places import shown
from pipeline.domain.manifest import sha256_hex


class ModelCache:
    """Keeps bytes by digest. A folder that is not there is made when something arrives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[dict[str, int], str]] = {}

    def blob(self, sha256: str) -> Path:
        """Return where bytes of a digest lie, or would lie."""
        return self.root / "blobs" / sha256

    def find(self, sha256: str) -> Path | None:
        """Return the file with these bytes; None where it is not here. One that is found altered is removed."""
        path = self.blob(sha256)
        if not path.is_file():
            return None
        if self.digest(path) == sha256:
            return path
        self._drop(path)
        return None

    def digest_at(self, uri: str) -> str | None:
        """Return the digest of what an address held when it was fetched; None where it never was."""
        told = _read_json(self._address(uri)).get("sha256")
        return told if isinstance(told, str) else None

    def addresses(self) -> dict[str, dict[str, Any]]:
        """Return address, without its secrets -> `sha256` and `bytes`, of everything that was fetched, sorted."""
        found = [_read_json(path) for path in (self.root / "addresses").glob("*.json")]
        return {told["uri"]: told for told in sorted(found, key=lambda t: str(t.get("uri"))) if "uri" in told}

    def altered(self) -> dict[str, bool]:
        """Return digest -> whether its bytes are others now, of everything that is kept; every byte is read.

        Raises:
            OSError: one cannot be read.
        """
        kept = sorted((self.root / "blobs").glob("*"))
        return {path.name: self.digest(path, afresh=True) != path.name for path in kept}

    def digest(self, path: Path, *, afresh: bool = False) -> str:
        """Return the SHA-256 of a file; hashed again only where its size, time or inode is another than it was.

        With `afresh` it is hashed whatever these are.

        Raises:
            OSError: it cannot be read.
        """
        seen = _fingerprint(path)
        note = self._note(path)
        kept = None if afresh else self._known.get(str(path))
        if kept is None and not afresh:
            told = _read_json(note)
            kept = (told["seen"], told["sha256"]) if {"seen", "sha256"} <= told.keys() else None
        if kept is None or kept[0] != seen:
            with path.open("rb") as file:
                kept = (seen, hashlib.file_digest(file, "sha256").hexdigest())
            with suppress(OSError):
                # a folder that cannot be written costs time, and nothing else
                _write_json(note, {"path": str(path), "seen": seen, "sha256": kept[1]})
        self._known[str(path)] = kept
        return kept[1]

    @contextmanager
    def arriving(self, uri: str) -> Iterator[Path]:
        """Hold the right to fetch an address, and yield the folder to fetch into: one process of a machine at a time.

        Raises:
            OSError: the cache cannot be written.
        """
        from filelock import FileLock

        name = sha256_hex(uri.encode())
        folder = self.root / "arriving" / name
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{name}.lock"):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            with suppress(OSError):
                # what another process brought meanwhile needs none; what is half fetched stays, and is gone on with
                folder.rmdir()

    def clear(self, folder: Path) -> None:
        """Remove what has arrived in part, to give its room back."""
        shutil.rmtree(folder, ignore_errors=True)

    def keep(self, part: Path, uri: str, sha256: str) -> Path:
        """Move a file that has arrived whole to its place, durably, and remember the address.

        Raises:
            OSError: the cache cannot be written.
        """
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o444)
        path = self.blob(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        size = part.stat().st_size
        part.replace(path)
        _write_json(self._note(path), {"path": str(path), "seen": _fingerprint(path), "sha256": sha256})
        _write_json(self._address(uri), {"uri": shown(uri), "sha256": sha256, "bytes": size})
        return path

    def _note(self, path: Path) -> Path:
        return self.root / "digests" / f"{sha256_hex(str(path.absolute()).encode())}.json"

    def _address(self, uri: str) -> Path:
        return self.root / "addresses" / f"{sha256_hex(uri.encode())}.json"

    def _drop(self, path: Path) -> None:
        self._known.pop(str(path), None)
        with suppress(OSError):
            path.unlink()


def _fingerprint(path: Path) -> dict[str, int]:
    facts = path.stat()
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "inode": facts.st_ino}


def _read_json(path: Path) -> dict[str, Any]:
    """Return a note of the cache; nothing where there is none, or it was torn."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:9]}")
    part.write_text(json.dumps(content, sort_keys=True), "utf-8")
    part.replace(path)


__all__ = ["ModelCache"]
