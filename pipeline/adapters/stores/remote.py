"""Bytes in objects of any remote store that fsspec knows; S3 has a class of its own, `s3.S3Store`.

An object store shows an object when its last byte has arrived, so readers see whole objects only. One writer of
several wins where the store refuses to create what exists already. That is asked of each store once, when it is
opened for writing: an object is created, created again, removed. Where the second creation is let through, `exclusive`
is False, creating is looking first and writing then, and only the lease keeps two drivers apart. What fsspec knows
besides object stores (sftp, hdfs, ...) is used the same way, and may show a file before its last byte has arrived.

A reply can be lost after the object was stored, and libraries repeat requests unseen. So a refused creation says
nothing before the standing object was looked at: if it is what this very call wrote, it was created by it.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, overload

from pipeline.adapters.stores.paths import TEMPORARY, checked_path, checked_prefix, checked_range, exactly, is_path
from pipeline.adapters.stores.ranges import fetched
from pipeline.adapters.stores.sinks import spooled
from pipeline.adapters.stores.trouble import Kind, Patience, diagnose, missing_package
from pipeline.domain.errors import FacemintError, UserError
from pipeline.domain.ports import Stored
from pipeline.domain.storage import Range, Sink

T = TypeVar("T")
LARGEST_CREATED_bytes = 64 << 20
"""What is created if absent is a receipt, a lease, a manifest; larger things are put."""
CREATES_AT_ONCE = ("abfs", "abfss", "az", "gcs", "gs", "s3", "s3a")
"""Where fsspec's `mode="create"` is one conditional request; elsewhere it is looking first and writing then."""
BLOCK_bytes = 8 << 20
_BATCH = 512
_LOOKS = 3
_BUGS = (AssertionError, AttributeError, LookupError, MemoryError, NameError, TypeError)
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
_said: set[str] = set()


@dataclass(slots=True)
class _Connection:
    """A file system of this process: its event loop and its sockets do not survive a fork."""

    filesystem: Any
    process: int = field(default_factory=os.getpid)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)


_inherited: list[_Connection] = []
"""Kept by a forked process: closing what it inherited would disturb the parent, who shares the sockets."""


class FsspecStore:
    """Bytes in objects below one address. Safe to share between threads and to use on in a forked process.

    Args:
        uri: `scheme://place/prefix`; credentials and endpoint come from where the scheme's library looks for them.
        writable: false to read a dataset without writing anything, the probe included.
        patience: how often and how long a request is repeated.

    Raises:
        UserError: no such scheme, or its package is not installed.
        OutputError: the place does not exist, or may not be written.
        StoreError: it cannot be reached, or is full.
    """

    def __init__(self, uri: str, *, writable: bool = True, patience: Patience | None = None) -> None:
        self.uri = uri.rstrip("/")
        self._scheme = uri.partition("://")[0].lower()
        self._patience = patience or Patience()
        self._connection = self._connect()
        self._root = str(self._connection.filesystem._strip_protocol(self.uri)).rstrip("/")
        self._exclusive: bool | None = None
        if writable:
            self._probe()

    @property
    def exclusive(self) -> bool:
        """Return whether the probe found that the store refuses to create what exists; False where it never ran."""
        return bool(self._exclusive)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create `path`; return True, or False where it exists.

        After a lost reply the call finds its own object and returns True. Where the store cannot tell whose object
        stands there, equal bytes count as this call's: leases and receipts name their run, so no other writes them.

        Raises:
            ValueError: more bytes than one conditional request should carry.
        """
        checked_path(path)
        content = bytes(data)
        if len(content) > LARGEST_CREATED_bytes:
            raise ValueError(f"{path}: {len(content)} bytes; created if absent are at most {LARGEST_CREATED_bytes}")
        if self._exclusive is None:
            self._probe()
        if self._exclusive:
            return self._create(path, content)
        with self._connected().one_at_a_time:
            if self.size(path) is not None:
                return False
            self.put(path, content)
            return True

    def put(self, path: str, data: bytes) -> None:
        """Create or replace `path`: readers see the old or the new object, never a mixture."""
        place, content = self._at(path), bytes(data)
        self._ask("write", path, lambda fs: self._pipe(fs, place, content))

    def put_file(self, path: str, source: Path) -> None:
        """Create or replace `path` with the bytes of a local file, in bounded memory."""
        place = self._at(path)
        with Path(source).open("rb"):
            # opened first: an absent or unreadable source is the caller's error and not the store's
            self._upload(path, place, Path(source))

    def writing(self, path: str, *, about_bytes: int = 0) -> AbstractContextManager[Sink]:
        """Create or replace `path` by what is written within the block; it is gathered in a temporary file."""
        return spooled(checked_path(path), lambda local: self.put_file(path, local))

    def get(self, path: str) -> bytes:
        """Return the bytes; raises FileNotFoundError where absent."""
        place = self._at(path)
        found = self._ask("read", path, lambda fs: fs.cat_file(place), Kind.ABSENT)
        if isinstance(found, Kind):
            raise self._absent(path)
        return bytes(found)

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises StoreError where there are fewer."""
        checked_path(path)
        checked_range(offset, length)
        if not length:
            if self.size(path) is None:
                raise self._absent(path)
            return b""
        return exactly(self._read(path, offset, offset + length), path, offset, length)

    def get_ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Return what `get_range` does for each range, in the order asked; near ones in one request, many at once."""

        def cat(wanted: Sequence[Range]) -> Sequence[Any]:
            places = [self._at(path) for path, _, _ in wanted]
            return self._cat(places, [o for _, o, _ in wanted], [o + n for _, o, n in wanted])

        return fetched(ranges, cat, self.get_range)

    def blocks(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes from the first to the last, in ranges; a small file is one request."""
        start = 0
        while start % BLOCK_bytes == 0 and (block := self._read(path, start, start + BLOCK_bytes)):
            yield memoryview(block)
            start += len(block)

    def get_many(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return path -> bytes, many requests at once; absent ones are left out."""
        places = {p: self._at(p) for p in paths}
        out: dict[str, bytes] = {}
        names = list(places)
        for first in range(0, len(names), _BATCH):
            batch = names[first : first + _BATCH]
            wanted = [places[p] for p in batch]
            for path, found in zip(batch, self._cat(wanted, None, None), strict=True):
                if isinstance(found, bytes):
                    out[path] = found
                elif diagnose(found).kind is not Kind.ABSENT:
                    # asked again alone, with patience and, if need be, an error that names it
                    out |= self._get_if_there(path)
        return out

    def size(self, path: str) -> int | None:
        """Return the number of bytes, or None where absent."""
        place = self._at(path)
        found = self._ask("look up", path, lambda fs: self._size_at(fs, place), Kind.ABSENT)
        return None if isinstance(found, Kind) else found

    def list(self, prefix: str) -> list[str]:
        """Return every path that starts with `prefix`, sorted; asked of the store each time."""
        return [entry.path for entry in self.entries(prefix)]

    def entries(self, prefix: str) -> Sequence[Stored]:
        """Return what `list` does, with sizes and times, in one listing."""
        return sorted(e for e in self._listing(checked_prefix(prefix)) if is_path(e.path))

    def leftovers(self, before_s: float) -> Sequence[str]:
        """Return the probe objects that were written before that time and not removed."""
        return [e.path for e in self._abandoned(before_s)]

    def remove_leftovers(self, before_s: float) -> int:
        """Remove them; return how many."""
        found = self._abandoned(before_s)
        for entry in found:
            self._remove(entry.path, self._below(entry.path))
        return len(found)

    def delete(self, path: str) -> None:
        """Remove `path`; no error where absent."""
        self._remove(path, self._at(path))

    # ------------------------------------------------------------------------- what a kind of store does its own way

    def _settings(self) -> dict[str, Any]:
        """Return the options with which the file system is opened."""
        return {"skip_instance_cache": True, "use_listings_cache": False}

    def _filesystem(self) -> Any:
        """Return a file system that nobody else has."""
        import fsspec

        return fsspec.core.url_to_fs(self.uri, **self._settings())[0]

    def _create_once(self, filesystem: Any, place: str, content: bytes, call: str) -> None:
        """Make one conditional request; `call` is a word that no other call has."""
        filesystem.pipe_file(place, content, mode="create")

    def _is_of(self, path: str, content: bytes, call: str) -> bool | None:
        """Return whether the standing object is what a call wrote, or None where none stands any more."""
        return {path: content} == found if (found := self._get_if_there(path)) else None

    def _note_how_calls_are_told(self, place: str, call: str) -> None:
        """Look at an object just created, for what `_is_of` will need."""

    def _size_at(self, filesystem: Any, place: str) -> int | None:
        about = filesystem.info(place)
        return int(about["size"]) if about.get("type") == "file" else None

    def _pipe(self, filesystem: Any, place: str, content: bytes) -> None:
        self._make_folder(filesystem, place)
        filesystem.pipe_file(place, content)

    def _upload(self, path: str, place: str, source: Path) -> None:
        def put(filesystem: Any) -> None:
            self._make_folder(filesystem, place)
            filesystem.put_file(str(source), place)

        self._ask("write", path, put)

    def _make_folder(self, filesystem: Any, place: str) -> None:
        if self._scheme not in CREATES_AT_ONCE:
            # where folders are things; an object store would take the first of them for a bucket to be made
            filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)

    def _listing(self, prefix: str) -> Iterator[Stored]:
        """Yield what starts with `prefix`, whatever its name."""
        folder = self._below(prefix.rpartition("/")[0]).rstrip("/")
        found = self._ask("list", prefix, lambda fs: fs.find(folder, detail=True), Kind.ABSENT)
        for name, about in ({} if isinstance(found, Kind) else found).items():
            path = name.removeprefix(self._below(""))
            if about.get("type") == "file" and path.startswith(prefix):
                yield Stored(path, int(about["size"]), _seconds(about))

    # -------------------------------------------------------------------------------------------------- in common

    def _create(self, path: str, content: bytes) -> bool:
        place, call = self._at(path), uuid.uuid4().hex
        for _ in range(_LOOKS):
            found = self._ask("create", path, lambda fs: self._create_once(fs, place, content, call), Kind.EXISTS)
            if found is not Kind.EXISTS:
                return True
            ours = self._is_of(path, content, call)
            if ours is not None:
                return ours
            # what stood in the way was removed before it could be looked at
        return False

    def _below(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _at(self, path: str) -> str:
        return self._below(checked_path(path))

    def _absent(self, path: str) -> FileNotFoundError:
        return FileNotFoundError(2, f"no such file in {self.uri}", path)

    def _read(self, path: str, start: int, end: int) -> bytes:
        """Return what there is of a range."""
        place, ends = self._at(path), (Kind.ABSENT, Kind.BEYOND_THE_END)
        found = self._ask("read", path, lambda fs: fs.cat_file(place, start=start, end=end), *ends)
        if found is Kind.ABSENT:
            raise self._absent(path)
        return b"" if isinstance(found, Kind) else bytes(found)

    def _get_if_there(self, path: str) -> dict[str, bytes]:
        try:
            return {path: self.get(path)}
        except FileNotFoundError:
            return {}

    def _cat(self, places: Sequence[str], *bounds: Sequence[int] | None) -> Sequence[Any]:
        """Return the bytes of each place, from starts to ends if given, or the exception that stands in their way."""
        try:
            answers = self._connected().filesystem.cat_ranges([*places], *bounds, on_error="return")
        except (FacemintError, *_BUGS):
            raise
        except Exception as error:  # noqa: BLE001  # every library has its own; each place is asked again alone
            return [error] * len(places)
        return [bytes(a) if isinstance(a, bytes | bytearray | memoryview) else a for a in answers]

    def _remove(self, path: str, place: str) -> None:
        self._ask("delete", path, lambda fs: fs.rm_file(place), Kind.ABSENT)

    def _abandoned(self, before_s: float) -> Sequence[Stored]:
        return sorted(e for e in self._listing("runs/") if f"/{TEMPORARY}" in e.path and e.modified_s < before_s)

    @overload
    def _ask(self, doing: str, path: str, request: Callable[[Any], T]) -> T: ...

    @overload
    def _ask(self, doing: str, path: str, request: Callable[[Any], T], *expected: Kind) -> T | Kind: ...

    def _ask(self, doing: str, path: str, request: Callable[[Any], T], *expected: Kind) -> T | Kind:
        """Make a request, again where that may help; return its result or an expected refusal, raise any other."""
        for _ in self._patience.pauses():
            try:
                return request(self._connected().filesystem)
            except (FacemintError, *_BUGS):
                # somebody's wish to stop, or a mistake of ours: neither is the store's answer
                raise
            except Exception as error:  # noqa: BLE001  # every library has its own; `diagnose` knows them
                trouble = diagnose(error)
            if trouble.kind is not Kind.PASSING:
                break
        if trouble.kind in expected:
            return trouble.kind
        # not `from error`: its message may hold the endpoint's address, and that a password
        raise trouble.error(f"{self.uri}: cannot {doing} {path}".rstrip()) from None

    def _connected(self) -> _Connection:
        if self._connection.process != os.getpid():
            _inherited.append(self._connection)
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> _Connection:
        from fsspec.registry import get_filesystem_class

        try:
            get_filesystem_class(self._scheme)
        except ImportError:
            raise UserError(missing_package(self._scheme)) from None
        except ValueError:
            raise UserError(
                f"storage scheme {self._scheme!r}: unknown; a place is a path, file:///path, s3://bucket/prefix, or an "
                "address of another store that fsspec knows (gs, az, abfs, ...)"
            ) from None
        try:
            return _Connection(self._filesystem())
        except _BUGS:
            raise
        except Exception as error:  # noqa: BLE001  # every library has its own
            # nothing was asked of the store yet: what is wrong is what the environment says, or leaves out
            raise replace(diagnose(error), kind=Kind.DENIED).error(f"{self.uri}: cannot be opened") from None

    def _probe(self) -> None:
        """Find out whether a second creation is refused, and say it once per process where it is not."""
        self._exclusive = self._refuses_twins()
        if not self._exclusive and self.uri not in _said:
            _said.add(self.uri)
            logging.getLogger("facemint").warning(
                "%s: this store lets two writers create one object%s; only the lease keeps two runs apart: "
                "start one at a time",
                self.uri,
                "" if self._scheme in CREATES_AT_ONCE else ", and may show one before it is whole",
            )

    def _refuses_twins(self) -> bool:
        path, call = f"runs/{TEMPORARY}{uuid.uuid4().hex}", uuid.uuid4().hex
        place = self._below(path)

        def create(filesystem: Any) -> None:
            self._create_once(filesystem, place, call.encode(), call)

        asked = self._scheme in CREATES_AT_ONCE
        # EXISTS at the first try is the reply of a library that sent the request twice
        if not asked or self._ask("create", path, create, Kind.UNSUPPORTED, Kind.EXISTS) is Kind.UNSUPPORTED:
            asked = False
            self._ask("write", path, lambda fs: self._pipe(fs, place, call.encode()))
        try:
            if not asked:
                return False
            self._note_how_calls_are_told(place, call)
            return self._ask("create", path, create, Kind.EXISTS) is Kind.EXISTS
        finally:
            self._remove(path, place)


def _seconds(about: Mapping[str, Any]) -> float:
    """Return when an object was last written, by whichever name its library gives it."""
    told = next((about[name] for name in _TIMES if about.get(name)), 0.0)
    return told.timestamp() if isinstance(told, datetime) else float(told)
