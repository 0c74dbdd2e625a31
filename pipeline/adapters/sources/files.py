"""The files below a root, local or in a store, listed and read so that nothing in them can stop or mislead a run.

A crawl's folders hold what nobody planned: named pipes that hang whoever opens them, links in circles or out of the
folder, names that are no text, files without permission, files that change while they are read. Each becomes a fault of
one input.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.intake import Fault, Unreadable
from pipeline.domain.ports import Store

_DEEPEST = 64
"""Folders within folders that are followed."""
_MOST_WAYS = 16
"""Ways, by links, on which one folder is walked: links that fork at every level would double the listing each time."""
LARGEST_bytes = 1_000_000_000
"""The most that is read into memory at once; images are far smaller, and limited again when they are decoded."""
_AT_ONCE_bytes = 8 << 20
Inode = tuple[int, int]
"""Device and number: which folder it is, by whatever name."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file: where, how large, its stamp, and why it cannot be read where that is clear already."""

    path: str
    bytes: int = 0
    stamp: str = ""
    fault: Unreadable | None = None


class Files(Protocol):
    """What sources read from."""

    name: str

    def walk(self) -> Iterator[Found]:
        """Yield every file: those of a folder by name, then its folders by name, by code point."""
        ...

    def open(self, path: str, stamp: str, *, scattered: bool = False) -> BinaryIO | Unreadable:
        """Return a file open for reading and seeking, if it still has this stamp.

        `scattered` says that reads will jump about, so that little is read ahead.
        """
        ...

    def read(self, path: str, offset: int, length: int, stamp: str) -> bytes | Unreadable:
        """Return `length` bytes from `offset` (all where it is -1), if the file still has this stamp."""
        ...


class LocalFiles:
    """Implements `Files` below a local folder.

    Links are followed to regular files and folders inside the root; those that lead out of it are faults, unless
    `links_out` allows them, because a crawl could otherwise have any file of the machine read.

    Raises:
        UserError: `root` is no folder.
    """

    def __init__(self, root: Path, *, links_out: bool = False) -> None:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UserError(f"{root}: {what}; a source of images is a folder")
        self.name = str(root)
        self._root, self._links_out = root.resolve(), links_out

    def walk(self) -> Iterator[Found]:
        """Yield every file: those of a folder by name, then its folders by name, by code point."""
        yield from self._folder("", (), Counter(), linked=False)

    def open(self, path: str, stamp: str, *, scattered: bool = False) -> BinaryIO | Unreadable:
        """Return a file open for reading and seeking, if it still has this stamp."""
        handle = self._opened(path, stamp)
        ahead = 1 << (12 if scattered else 20)
        return handle if isinstance(handle, Unreadable) else os.fdopen(handle, "rb", buffering=ahead)

    def read(self, path: str, offset: int, length: int, stamp: str) -> bytes | Unreadable:
        """Return bytes of a file; never waits for a pipe."""
        handle = self._opened(path, stamp)
        if isinstance(handle, Unreadable):
            return handle
        try:
            before = os.fstat(handle)
            size = before.st_size - offset if length < 0 else length
            found = _too_large(size) or _whole(handle, offset, size)
            if stamp and _stamp(os.fstat(handle)) != _stamp(before):
                # half of it may be of the one, half of the other
                return Unreadable(Fault.CHANGED, "changed while it was read")
            return found
        except OSError as error:
            return fault_of(error)
        finally:
            os.close(handle)

    def _opened(self, path: str, stamp: str) -> int | Unreadable:
        try:
            # non-blocking: what was a file when it was listed may be a pipe by now
            handle = os.open(self._root / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return Unreadable(Fault.GONE, "no such file")
        except (OSError, ValueError) as error:
            return fault_of(error)
        now = os.fstat(handle)
        if not stat.S_ISREG(now.st_mode):
            os.close(handle)
            return Unreadable(Fault.NOT_A_FILE, _kind_of(now.st_mode))
        if stamp and _stamp(now) != stamp:
            os.close(handle)
            return Unreadable(Fault.CHANGED, f"{now.st_size:,} bytes, changed at {now.st_mtime_ns / 1e9:.3f} s")
        return handle

    def _folder(self, path: str, above: tuple[Inode, ...], ways: Counter[Inode], *, linked: bool) -> Iterator[Found]:
        full = self._root / path
        try:
            here = full.stat()
            mine = (here.st_dev, here.st_ino)
            # a folder in its own place is always walked
            ways[mine] += linked
            if fault := _dead_end(mine, above, ways[mine] if linked else 0):
                yield Found(path, fault=fault)
                return
            with os.scandir(full) as entries:
                # files first: what belongs to an image lies beside it
                listed = sorted(entries, key=lambda e: (_is_folder(e), e.name))
        except OSError as error:
            yield Found(path or ".", fault=fault_of(error))
            return
        for entry in listed:
            inner = f"{path}/{entry.name}" if path else entry.name
            yield from self._entry(entry, inner, (*above, mine), ways, linked=linked)

    def _entry(
        self, entry: os.DirEntry[str], path: str, above: tuple[Inode, ...], ways: Counter[Inode], *, linked: bool
    ) -> Iterator[Found]:
        try:
            if entry.is_symlink() and (fault := self._link_fault(entry)):
                yield Found(path, fault=fault)
            elif entry.is_dir():
                yield from self._folder(path, above, ways, linked=linked or entry.is_symlink())
            else:
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield Found(path, found.st_size, _stamp(found))
                else:
                    yield Found(path, fault=Unreadable(Fault.NOT_A_FILE, _kind_of(found.st_mode)))
        except OSError as error:
            yield Found(path, fault=fault_of(error))

    def _link_fault(self, entry: os.DirEntry[str]) -> Unreadable | None:
        try:
            target = Path(entry.path).resolve(strict=True)
        except (RuntimeError, OSError) as error:
            loops = isinstance(error, RuntimeError) or error.errno == errno.ELOOP
            where = Fault.LINK_LOOP if loops else Fault.LINK_BROKEN
            return Unreadable(where, f"a link to {str(Path(entry.path).readlink())!r}")
        if not self._links_out and not target.is_relative_to(self._root):
            return Unreadable(Fault.LINK_LEADS_OUT, "a link to a place outside the source")
        return None


class StoreFiles:
    """Implements `Files` over a store: S3, or any address that a store opens."""

    def __init__(self, store: Store) -> None:
        self.name = store.uri
        self._store = store
        self._stamps: dict[str, str] | None = None

    def walk(self) -> Iterator[Found]:
        """Yield every object, in the order in which files of a folder come."""
        for entry in sorted(self._store.entries(""), key=lambda e: (e.path.split("/")[:-1], e.path)):
            yield Found(entry.path, entry.bytes, f"{entry.bytes}:{entry.modified_s:.6f}")

    def open(self, path: str, stamp: str, *, scattered: bool = False) -> BinaryIO | Unreadable:
        """Return an object that is fetched range by range as it is read."""
        size = self._size(path, stamp)
        if isinstance(size, Unreadable):
            return size
        # each fetch costs a round trip, however little it brings
        ahead = _AT_ONCE_bytes >> 3 if scattered else _AT_ONCE_bytes
        return cast("BinaryIO", io.BufferedReader(_Ranges(self._store, path, size), ahead))

    def read(self, path: str, offset: int, length: int, stamp: str) -> bytes | Unreadable:
        """Return bytes of an object; one listing for all of them says what has changed."""
        size = self._size(path, stamp)
        if isinstance(size, Unreadable):
            return size
        try:
            wanted = size - offset if length < 0 else length
            return _too_large(wanted) or self._store.get_range(path, offset, wanted)
        except FileNotFoundError:
            return Unreadable(Fault.GONE, "no such object")
        except StoreError as error:
            if error.retryable:
                raise
            return Unreadable(Fault.READ_FAILED, str(error))

    def _size(self, path: str, stamp: str) -> int | Unreadable:
        if self._stamps is None:
            self._stamps = {found.path: found.stamp for found in self.walk()}
        now = self._stamps.get(path)
        if now is None:
            return Unreadable(Fault.GONE, "no such object")
        size = now.partition(":")[0]
        return Unreadable(Fault.CHANGED, f"{int(size):,} bytes") if stamp and now != stamp else int(size)


class _Ranges(io.RawIOBase):
    """One object of a store as a seekable stream."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store, self._path, self._size, self._at = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._at))
        if length:
            buffer[:length] = self._store.get_range(self._path, self._at, length)
        self._at += length
        return length


def _too_large(length: int) -> Unreadable | None:
    if length <= LARGEST_bytes:
        return None
    return Unreadable(Fault.TOO_LARGE, f"{length:,} bytes; at most {LARGEST_bytes:,} are read")


def _dead_end(mine: Inode, above: tuple[Inode, ...], ways: int) -> Unreadable | None:
    if mine in above:
        return Unreadable(Fault.LINK_LOOP, "leads to a folder that it lies in")
    if ways > _MOST_WAYS:
        return Unreadable(Fault.LINK_LOOP, f"links lead to this folder on more than {_MOST_WAYS} ways")
    if len(above) > _DEEPEST:
        return Unreadable(Fault.TOO_DEEP, f"more than {_DEEPEST} folders within folders")
    return None


def _whole(handle: int, offset: int, length: int) -> bytes | Unreadable:
    parts, got = [], 0
    while got < length:
        part = os.pread(handle, min(length - got, _AT_ONCE_bytes), offset + got)
        if not part:
            return Unreadable(Fault.CHANGED, f"{got:,} of {length:,} bytes from {offset:,}")
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_mtime_ns}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _kind_of(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return next((name for test, name in kinds if test(mode)), "a device")


def fault_of(error: OSError | ValueError) -> Unreadable:
    """Return what an error of the system means for the input that it came from."""
    if isinstance(error, ValueError):
        return Unreadable(Fault.READ_FAILED, str(error))
    said = error.strerror or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unreadable(Fault.NOT_ALLOWED, said)
    if error.errno == errno.ELOOP:
        return Unreadable(Fault.LINK_LOOP, said)
    if error.errno == errno.ENOENT:
        return Unreadable(Fault.GONE, said)
    return Unreadable(Fault.READ_FAILED, said)
