"""Where bytes live: a store in memory, which is the model, and one in a local or mounted directory.

A write is seen as a whole or not at all. Locally: a temporary file in the same directory, written and flushed
to disk, then linked (create if absent: the kernel lets exactly one writer win) or renamed (replace), then the
directory is flushed. Temporary names start with `.tmp-` and are never listed, so a killed writer leaves
nothing that a reader could take for data.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from pipeline.domain.errors import FacemintError, OutputError, RetryableStoreError, StoreError, UserError
from pipeline.domain.ports import Store

TEMPORARY = ".tmp-"
"""How temporary names begin; no path may use it."""
COPY_BLOCK_bytes = 1 << 20
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


def checked_path(path: str) -> str:
    """Return `path` unchanged if it is one that a store accepts; raises ValueError otherwise."""
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(p in ("", ".", "..") or p.startswith(TEMPORARY) for p in parts):
        raise ValueError(
            f"store path {path!r}: a path is relative, its parts are joined by `/`, and no part is empty, "
            f"`.`, `..`, holds a backslash or begins with {TEMPORARY!r}"
        )
    return path


def checked_prefix(prefix: str) -> str:
    """Return `prefix` unchanged if some path could start with it; raises ValueError otherwise."""
    checked_path(prefix + "x")
    return prefix


def _exactly(data: bytes, path: str, offset: int, length: int) -> bytes:
    if len(data) != length:
        raise StoreError(
            f"{path}: {length} bytes asked for at offset {offset}, {len(data)} are there; the file is "
            "shorter than what refers to it: restore it from a copy, or make its unit again"
        )
    return data


def _checked_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0:
        raise ValueError(f"range of {length} bytes at offset {offset}: both are at least 0")


class MemoryStore:
    """Bytes in a dictionary: what every other store must behave like. Safe to share between threads."""

    def __init__(self, uri: str = "memory://") -> None:
        self.uri = uri
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return False where it exists already."""
        checked_path(path)
        with self._lock:
            if path in self._files:
                return False
            # a copy: a caller that goes on filling its bytearray must not change what is stored
            self._files[path] = bytes(data)
            return True

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path`."""
        with self._lock:
            self._files[checked_path(path)] = bytes(data)

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file."""
        self.put(path, Path(source).read_bytes())

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        with self._lock:
            if checked_path(path) not in self._files:
                raise FileNotFoundError(errno.ENOENT, "no such file in this store", path)
            return self._files[path]

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises StoreError where there are fewer."""
        _checked_range(offset, length)
        return _exactly(self.get(path)[offset : offset + length], path, offset, length)

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        with self._lock:
            data = self._files.get(checked_path(path))
        return None if data is None else len(data)

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted."""
        checked_prefix(prefix)
        with self._lock:
            return sorted(p for p in self._files if p.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        with self._lock:
            self._files.pop(checked_path(path), None)


class LocalStore:
    """Bytes in files below one directory, on a local disk or a mounted file system with hard links.

    Args:
        root: the directory. Created, and tried with a temporary file, unless `writable` is false.
        writable: false to read a dataset without touching its directory.

    Raises:
        OutputError: `root` is a file, or cannot be created or written.
    """

    def __init__(self, root: str | os.PathLike[str], *, writable: bool = True) -> None:
        self.root = Path(root).absolute()
        self.uri = str(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise OutputError(f"{self.root}: is a file where a dataset's directory is expected; name a directory")
        if writable:
            self._try_writing()

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

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        with self._reading(path) as file:
            return file.read()

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises StoreError where there are fewer."""
        _checked_range(offset, length)
        with self._reading(path) as file:
            file.seek(offset)
            return _exactly(file.read(length), path, offset, length)

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        try:
            found = self._at(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failure(error, "look up", path) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted; directories that are links are followed."""
        folder = checked_prefix(prefix).rpartition("/")[0]
        return sorted(p for p in self._walk(self.root / folder) if p.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        target = self._at(path)
        try:
            target.unlink()
            _flush_directory(target.parent)
        except (FileNotFoundError, NotADirectoryError):
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
    def _reading(self, path: str) -> Iterator[BinaryIO]:
        target = self._at(path)
        try:
            with target.open("rb") as file:
                yield file
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(errno.ENOENT, f"no such file in {self.uri}", path) from None
        except OSError as error:
            raise self._failure(error, "read", path) from error

    def _walk(self, folder: Path) -> Iterator[str]:
        def stop(error: OSError) -> None:
            # os.walk skips what it cannot read; a listing with holes would have finished work done again
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise self._failure(error, "list", str(folder)) from error

        for here, folders, names in os.walk(folder, onerror=stop, followlinks=True):
            folders[:] = [f for f in folders if not _points_upwards(Path(here, f))]
            for name in names:
                if not name.startswith(TEMPORARY):
                    yield Path(here, name).relative_to(self.root).as_posix()

    def _failure(self, error: OSError, doing: str, path: str) -> FacemintError:
        what = f"{self.uri}: cannot {doing} {path} ({_why(error)})"
        if error.errno in _NOT_OURS:
            return OutputError(f"{what}; the dataset's directory must be readable and writable: change its permissions")
        if error.errno in _FULL:
            return StoreError(f"{what}; make room there, or lift the quota, and run again: finished units are kept")
        if error.errno in _MAY_PASS:
            return RetryableStoreError(f"{what}; the same call may succeed later")
        return StoreError(f"{what}; check the disk or the mount and run again: finished units are kept")


class PrefixedStore:
    """The part of another store that lies below a prefix, as a store of its own: an export's target."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._below = checked_path(prefix.rstrip("/")) + "/"
        self.uri = f"{store.uri.rstrip('/')}/{self._below}".rstrip("/")

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return False where it exists already."""
        return self._store.put_if_absent(self._at(path), data)

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path`."""
        self._store.put(self._at(path), data)

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file."""
        self._store.put_file(self._at(path), source)

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        return self._store.get(self._at(path))

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        return self._store.get_range(self._at(path), offset, length)

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        return self._store.size(self._at(path))

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted, without the part that this store hides."""
        found = self._store.list(self._below + checked_prefix(prefix))
        return [p.removeprefix(self._below) for p in found]

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        self._store.delete(self._at(path))

    def _at(self, path: str) -> str:
        return self._below + checked_path(path)


_named: dict[str, MemoryStore] = {}
_named_lock = threading.Lock()


def open_store(uri: str, *, writable: bool = True) -> Store:
    """Return the store at a plain path, `file:///path`, or `memory://name` (for tests; one per process).

    Raises:
        UserError: another scheme. The message names the scheme alone: an address may hold a secret.
        OutputError: the directory cannot be used.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    scheme = match.group(1).lower() if match else ""
    if scheme == "memory":
        with _named_lock:
            return _named.setdefault(uri, MemoryStore(uri))
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise UserError(f"{uri}: a file address has three slashes: file:///absolute/path")
        return LocalStore(unquote(parts.path), writable=writable)
    if scheme:
        raise UserError(
            f"storage scheme {scheme!r} is not part of this version, which stores at a plain path, "
            "file:///path or memory://name; mount the bucket and give the path where it is mounted"
        )
    if not uri.strip():
        raise UserError("the output place is empty; name a directory")
    return LocalStore(Path(uri).expanduser(), writable=writable)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


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
