"""Bytes in files, on a local disk or a mounted file system.

A write is seen as a whole or not at all: a temporary file in the same directory, written and flushed to disk, then
linked (create if absent: the kernel lets exactly one writer win) or renamed (replace), then the directory is flushed.
Temporary names start with `.tmp-` and are never listed, so a killed writer leaves nothing that a reader could take
for data.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.adapters.stores.paths import TEMPORARY, checked_path, checked_prefix, checked_range, exactly, is_path
from pipeline.adapters.stores.ranges import by_path, joined
from pipeline.domain.errors import FacemintError, OutputError, RetryableStoreError, StoreError
from pipeline.domain.ports import Stored
from pipeline.domain.storage import Range, Sink

COPY_BLOCK_bytes = 1 << 20
NEAR_bytes = 1 << 14
"""Gaps up to this long are read along with what lies around them: they cost no more than another call."""
RANGE_bytes = 1 << 22
"""No read is made longer than this by joining."""
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAY_PASS = (
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
_GONE = (FileNotFoundError, NotADirectoryError)


class LocalStore:
    """Bytes in files below one directory, on a local disk or a mounted file system with hard links.

    Args:
        root: the directory. Created, and tried with a temporary file, unless `writable` is false.
        writable: false to read a dataset without touching its directory.

    Raises:
        OutputError: `root` is a file, or cannot be created or written.
    """

    exclusive = True

    def __init__(self, root: str | os.PathLike[str], *, writable: bool = True) -> None:
        self.root = Path(root).absolute()
        self.uri = str(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise OutputError(f"{self.root}: is a file where a dataset's directory is expected; name a directory")
        self._place: tuple[int, int] | None = None
        """The directory that was opened for writing: device and number."""
        if writable:
            self._try_writing()
            self._place = _identity(self.root)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return True, or False where it exists; of several writers exactly one gets True."""
        target = self._at(path)
        if target.is_file():
            return False
        try:
            self._write(path, io.BytesIO(data), self._link)
        except FileExistsError:
            if target.is_dir():
                raise StoreError(f"{self.uri}: {path} is a directory where a file is expected; remove it") from None
            return False
        return True

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path`: readers see the old or the new bytes, never a mixture."""
        self._write(path, io.BytesIO(data), os.replace)

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file, in bounded memory."""
        with Path(source).open("rb") as content:
            self._write(path, content, os.replace)

    @contextmanager
    def writing(self, path: str, *, about_bytes: int = 0) -> Iterator[Sink]:
        """Create or replace `path` by what is written within the block; a temporary file beside it grows meanwhile."""
        self._require_place()
        target = self._at(path)
        trial = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        with self._failing("write", path):
            _make_directory(target.parent)
            file = trial.open("xb", buffering=0)
        try:
            with file:
                yield _Growing(file, partial(self._failing, "write", path))
                with self._failing("write", path):
                    os.fsync(file.fileno())
            with self._failing("write", path):
                trial.replace(target)
                _flush_directory(target.parent)
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        with self._reading(path) as file:
            return file.read()

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises StoreError where there are fewer."""
        checked_range(offset, length)
        with self._reading(path) as file:
            file.seek(offset)
            return exactly(file.read(length), path, offset, length)

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Return what `get_range` does for each range, in the order asked; each file is read from front to back."""
        found = [b""] * len(ranges)
        for path, places in by_path(ranges):
            with self._reading(path) as file:
                handle = file.fileno()
                for start, end, together in joined(ranges, places, near_bytes=NEAR_bytes, most_bytes=RANGE_bytes):
                    data = _bytes_at(handle, start, end - start)
                    if len(together) == 1:
                        found[together[0]] = exactly(data, path, start, end - start)
                        continue
                    for place in together:
                        first, length = ranges[place][1] - start, ranges[place][2]
                        found[place] = exactly(data[first : first + length], path, start + first, length)
        return found

    def blocks(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes from the first to the last, all through one buffer."""
        buffer = memoryview(bytearray(COPY_BLOCK_bytes))
        with self._reading(path) as file:
            while got := os.readv(file.fileno(), [buffer]):
                yield buffer[:got]

    def get_many(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return path -> bytes; absent ones are left out."""
        found = {}
        for path in paths:
            with suppress(FileNotFoundError):
                found[path] = self.get(path)
        return found

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        try:
            found = self._at(path).stat()
        except _GONE:
            self._require_place()
            return None
        except OSError as error:
            raise self._failure(error, "look up", path) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted; directories that are links are followed."""
        return sorted(path for path, _ in self._files(checked_prefix(prefix)))

    def entries(self, prefix: str) -> Sequence[Stored]:
        """Return what `list` does, with sizes and times."""
        found = ((path, self._stat(file)) for path, file in self._files(checked_prefix(prefix)))
        return sorted(Stored(path, known.st_size, known.st_mtime) for path, known in found if known)

    def leftovers(self, before_s: float) -> Sequence[str]:
        """Return the temporary files that were last written before that time."""
        found = ((path, self._stat(file)) for path, file in self._walk("", ""))
        old = (path for path, known in found if known and known.st_mtime < before_s)
        return sorted(path for path in old if path.rpartition("/")[2].startswith(TEMPORARY))

    def remove_leftovers(self, before_s: float) -> int:
        """Remove them; return how many."""
        removed = 0
        for path in self.leftovers(before_s):
            try:
                (self.root / path).unlink()
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._failure(error, "delete", path) from error
        return removed

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        target = self._at(path)
        try:
            target.unlink()
            _flush_directory(target.parent)
        except _GONE:
            self._require_place()
            return
        except OSError as error:
            # a directory is not an object of this store: as an object the path is absent
            if not target.is_dir():
                raise self._failure(error, "delete", path) from error

    def _at(self, path: str) -> Path:
        return self.root / checked_path(path)

    def _try_writing(self) -> None:
        trial = self.root / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            trial.touch(exist_ok=False)
            trial.unlink()
        except OSError as error:
            raise OutputError(
                f"{self.root}: cannot be written ({_why(error)}); a dataset's directory must be writable: "
                "choose another place or change its permissions"
            ) from error

    def _write(self, path: str, content: BinaryIO, place: Callable[[Path, Path], None]) -> None:
        """Write `content` beside `path` and `place` it there; FileExistsError from `place` passes through."""
        self._require_place()
        target = self._at(path)
        trial = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            _make_directory(target.parent)
            try:
                # not tempfile: its mode 0600 would shut out the group that shares the dataset
                with trial.open("xb") as file:
                    shutil.copyfileobj(content, file, COPY_BLOCK_bytes)
                    file.flush()
                    os.fsync(file.fileno())
                place(trial, target)
            finally:
                trial.unlink(missing_ok=True)
            _flush_directory(target.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._failure(error, "write", path) from error

    def _link(self, trial: Path, target: Path) -> None:
        try:
            os.link(trial, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise OutputError(
                    f"{self.root}: this file system refuses hard links ({_why(error)}), without which two "
                    "writers cannot be kept apart; choose a place on a file system that has them"
                ) from error
            raise

    @contextmanager
    def _failing(self, doing: str, path: str) -> Iterator[None]:
        """Turn an error of the disk into ours."""
        try:
            yield
        except OSError as error:
            raise self._failure(error, doing, path) from error

    @contextmanager
    def _reading(self, path: str) -> Iterator[BinaryIO]:
        target = self._at(path)
        try:
            with target.open("rb") as file:
                yield file
        except (*_GONE, IsADirectoryError):
            self._require_place()
            raise FileNotFoundError(errno.ENOENT, f"no such file in {self.uri}", path) from None
        except OSError as error:
            raise self._failure(error, "read", path) from error

    def _files(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the path of every file that starts with `prefix`, temporary ones left out."""
        return ((path, file) for path, file in self._walk(prefix.rpartition("/")[0], prefix) if is_path(path))

    def _walk(self, folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield every file below `folder` whose path starts with `prefix`, with what the directory says of it."""
        here = self.root / folder
        try:
            with os.scandir(here) as found:
                for entry in found:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if not path.startswith(prefix):
                        continue
                    if entry.is_file():
                        yield path, entry
                    elif entry.is_dir() and not (entry.is_symlink() and _points_upwards(Path(entry.path))):
                        yield from self._walk(path, prefix)
        except _GONE:
            self._require_place()
            return
        except OSError as error:
            # a listing with holes would have finished work done again
            raise self._failure(error, "list", str(here)) from error

    def _require_place(self) -> None:
        """Raise StoreError where another directory, or none, is where the one was that this store opened.

        A disk that was unmounted leaves an empty directory behind: nothing may be written into it, and what is missing
        there was not deleted.
        """
        if self._place is not None and _identity(self.root) != self._place:
            raise StoreError(
                f"{self.uri}: is not the directory any more that this run began with; look whether its disk is "
                "mounted, and run again: finished units are kept"
            )

    def _stat(self, file: os.DirEntry[str]) -> os.stat_result | None:
        """Return size and time of a file, or None where it vanished since it was listed."""
        try:
            return file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error, "look up", file.path) from error

    def _failure(self, error: OSError, doing: str, path: str) -> FacemintError:
        what = f"{self.uri}: cannot {doing} {path} ({_why(error)})"
        if error.errno in _NOT_OURS:
            return OutputError(f"{what}; the dataset's directory must be readable and writable: change its permissions")
        if error.errno in _FULL:
            return StoreError(f"{what}; make room there, or lift the quota, and run again: finished units are kept")
        if error.errno in _MAY_PASS:
            return RetryableStoreError(f"{what}; the same call may succeed later")
        return StoreError(f"{what}; check the disk or the mount and run again: finished units are kept")


class _Growing:
    """A temporary file that becomes one of the store's."""

    def __init__(self, file: io.FileIO, failing: Callable[[], AbstractContextManager[None]]) -> None:
        self._file, self._failing = file, failing

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        rest = memoryview(data)
        with self._failing():
            while rest:
                # an unbuffered file may take less than it is given
                rest = rest[self._file.write(rest) :]


def _bytes_at(handle: int, offset: int, length: int) -> bytes:
    """Return bytes of an open file; fewer where it ends."""
    data = os.pread(handle, length, offset)
    while 0 < len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
        data += more
    return data


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a directory from another one at the same path, or None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _points_upwards(path: Path) -> bool:
    """Return whether a linked directory contains itself, so that following it would never end."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _make_directory(path: Path) -> None:
    """Create a directory with its parents, each flushed into the one above it."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
        _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    """Make a new, replaced or removed name last through a loss of power."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network mounts cannot flush a directory; they make names durable themselves
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)
