"""Bytes in a bucket of S3, or of a store that speaks its protocol, through s3fs.

Requests are made one by one through s3fs's `call_s3`, for three reasons. Its own verbs repeat requests unseen, create
empty files without the condition, and leave the parts of a lost upload behind. An error code and an HTTP status stay
readable. And an object can carry the word of the call that wrote it: a call whose reply was lost, or whose request
was sent twice by a library below, meets its own object as an existing one and knows it by that word.

Endpoint, region and credentials come from the usual AWS variables and files, never from the address.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.adapters.stores.remote import FsspecStore
from pipeline.adapters.stores.sinks import Parts
from pipeline.adapters.stores.trouble import Kind
from pipeline.domain.errors import FacemintError, StoreError
from pipeline.domain.ports import Stored
from pipeline.domain.storage import Sink

CALL = "facemint-call"
"""The metadata key under which an object carries the word of the call that wrote it."""
SMALL_bytes = 32 << 20
"""Up to here a file is one request; beyond, it goes up in parts."""
PART_bytes = 16 << 20
MOST_PARTS = 10_000
AT_ONCE = 4
"""Parts on their way at a time: an upload holds this many in memory."""
CONNECTIONS = 64


class S3Store(FsspecStore):
    """Bytes in objects of a bucket; arguments, errors and promises are those of `FsspecStore`."""

    _keeps_words = True

    def leftovers(self, before_s: float) -> Sequence[str]:
        """Return unfinished uploads begun before that time, and probe objects that were not removed."""
        uploads = [f"{path} (upload {upload})" for path, upload in self._uploads(before_s)]
        return sorted([*super().leftovers(before_s), *uploads])

    def remove_leftovers(self, before_s: float) -> int:
        """Remove them; return how many."""
        uploads = self._uploads(before_s)
        for path, upload in uploads:
            self._abort(path, upload)
        return super().remove_leftovers(before_s) + len(uploads)

    def deleted_versions(self) -> Sequence[str]:
        """Return `path (version ...)` of every kept version of an object that was deleted; none without versioning."""
        marks = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
        deleted, kept = set[str](), list[tuple[str, str]]()
        for page in self._pages("list_object_versions", "", marks):
            deleted |= {about["Key"] for about in page.get("DeleteMarkers", []) if about["IsLatest"]}
            kept += [(about["Key"], str(about["VersionId"])) for about in page.get("Versions", [])]
        return sorted(f"{self._path_of(key)} (version {version})" for key, version in kept if key in deleted)

    def _settings(self) -> dict[str, Any]:
        config = {
            "connect_timeout": self._patience.connect_s,
            "read_timeout": self._patience.read_s,
            # repeating is done in one place, `_ask`, so that its bound is known
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": CONNECTIONS,
        }
        # at more than 1, s3fs asks for the size before it reads
        return {**super()._settings(), "config_kwargs": config, "max_concurrency": 1}

    def _filesystem(self) -> Any:
        filesystem = super()._filesystem()
        filesystem.retries = 1
        return filesystem

    def _create_once(self, filesystem: Any, place: str, content: bytes, call: str) -> None:
        filesystem.call_s3("put_object", **_named(place), Body=content, IfNoneMatch="*", Metadata={CALL: call})

    def _is_of(self, path: str, content: bytes, call: str) -> bool | None:
        found = self._ask("look up", path, lambda fs: self._head(fs, self._at(path)), Kind.ABSENT)
        if isinstance(found, Kind):
            return None
        if not self._keeps_words:
            return super()._is_of(path, content, call)
        return _word_of(found) == call

    def _note_how_calls_are_told(self, place: str, call: str) -> None:
        found = self._ask("look up", place, lambda fs: self._head(fs, place))
        self._keeps_words = not isinstance(found, Kind) and _word_of(found) == call

    def _size_at(self, filesystem: Any, place: str) -> int | None:
        return int(self._head(filesystem, place)["ContentLength"])

    def _head(self, filesystem: Any, place: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = filesystem.call_s3("head_object", **_named(place))
        return found

    def _pipe(self, filesystem: Any, place: str, content: bytes) -> None:
        filesystem.call_s3("put_object", **_named(place), Body=content)

    def _remove(self, path: str, place: str) -> None:
        self._ask("delete", path, lambda fs: fs.call_s3("delete_object", **_named(place)), Kind.ABSENT)

    def _upload(self, path: str, place: str, source: Path) -> None:
        size_bytes = source.stat().st_size
        if size_bytes <= SMALL_bytes:
            content = source.read_bytes()
            self._ask("write", path, lambda fs: self._pipe(fs, place, content))
            return
        call = uuid.uuid4().hex
        upload = self._begin(path, call)
        try:
            parts = self._send_parts(path, source, size_bytes, upload)
            self._complete(path, upload, parts, call)
        except BaseException:
            # what was paid for in vain must not go on costing; what this cannot remove, `leftovers` shows
            with suppress(FacemintError):
                self._abort(path, upload)
            raise

    @contextmanager
    def writing(self, path: str, *, about_bytes: int = 0) -> Iterator[Sink]:
        """Create or replace `path` by what is written within the block: its parts go up while it grows."""
        growing = _Growing(self, path, max(PART_bytes, -(-2 * about_bytes // MOST_PARTS)))
        try:
            self._at(path)
            yield growing
            growing.finish()
        finally:
            growing.close()

    def _begin(self, path: str, call: str) -> str:
        place = self._at(path)
        begun = self._ask(
            "write", path, lambda fs: fs.call_s3("create_multipart_upload", **_named(place), Metadata={CALL: call})
        )
        return str(begun["UploadId"])

    def _send_part(self, path: str, upload: str, number: int, content: bytes) -> Mapping[str, Any]:
        address = {**_named(self._at(path)), "UploadId": upload, "PartNumber": number}
        sent = self._ask("write", path, lambda fs: fs.call_s3("upload_part", **address, Body=content), Kind.ABSENT)
        if isinstance(sent, Kind):
            raise self._swept_away(path)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    def _send_parts(self, path: str, source: Path, size_bytes: int, upload: str) -> Sequence[Mapping[str, Any]]:
        part_bytes = max(PART_bytes, -(-size_bytes // MOST_PARTS))

        def send(number: int) -> Mapping[str, Any]:
            with source.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                content = file.read(part_bytes)
            return self._send_part(path, upload, number, content)

        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            return [*pool.map(send, range(1, -(-size_bytes // part_bytes) + 1))]
        finally:
            pool.shutdown(cancel_futures=True)

    def _complete(self, path: str, upload: str, parts: Sequence[Mapping[str, Any]], call: str) -> None:
        place = self._at(path)
        done = self._ask(
            "write",
            path,
            lambda fs: fs.call_s3(
                "complete_multipart_upload", **_named(place), UploadId=upload, MultipartUpload={"Parts": [*parts]}
            ),
            Kind.ABSENT,
        )
        # no such upload: the reply to an earlier try was lost, or somebody removed the upload as a leftover
        if done is Kind.ABSENT and not self._is_of(path, b"", call):
            raise self._swept_away(path)

    def _swept_away(self, path: str) -> StoreError:
        return StoreError(
            f"{self.uri}: cannot write {path} (the upload was removed while it went on); run again, and remove "
            "leftovers only with a grace age longer than an upload takes"
        )

    def _abort(self, path: str, upload: str) -> None:
        address = _named(self._below(path))
        self._ask(
            "delete", path, lambda fs: fs.call_s3("abort_multipart_upload", **address, UploadId=upload), Kind.ABSENT
        )

    def _uploads(self, before_s: float) -> list[tuple[str, str]]:
        """Return path and name of every upload begun before a time, in order."""
        marks = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        pages = self._pages("list_multipart_uploads", "", marks)
        found = (about for page in pages for about in page.get("Uploads", []))
        old = (about for about in found if about["Initiated"].timestamp() < before_s)
        return sorted((self._path_of(about["Key"]), str(about["UploadId"])) for about in old)

    def _listing(self, prefix: str) -> Iterator[Stored]:
        for page in self._pages("list_objects_v2", prefix, {"ContinuationToken": "NextContinuationToken"}):
            for about in page.get("Contents", []):
                yield Stored(self._path_of(about["Key"]), int(about["Size"]), about["LastModified"].timestamp())

    def _pages(self, method: str, prefix: str, marks: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a listing; `marks` says which request field continues from which field of a page."""
        address = _named(self._below(prefix))
        asked = {"Bucket": address["Bucket"], "Prefix": address["Key"]}
        while True:
            page: Mapping[str, Any] = self._ask("list", prefix, partial(_call, method, asked))
            yield page
            if not page.get("IsTruncated"):
                return
            asked = {**asked, **{field: page[came] for field, came in marks.items()}}

    def _path_of(self, key: str) -> str:
        return key.removeprefix(_named(self._below(""))["Key"])


class _Growing:
    """An object that grows: what stays small is one request, the rest goes up in parts."""

    def __init__(self, store: S3Store, path: str, part_bytes: int) -> None:
        self._store, self._path, self._part_bytes = store, path, part_bytes
        self._call, self._small = uuid.uuid4().hex, bytearray()
        self._upload = ""
        self._parts: Parts | None = None

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        if self._parts is None:
            self._small += data
            if len(self._small) <= SMALL_bytes:
                return
            self._upload = self._store._begin(self._path, self._call)
            self._parts = Parts(self._part_bytes, self._send, AT_ONCE)
            data, self._small = bytes(self._small), bytearray()
        self._parts.write(data)

    def finish(self) -> None:
        """Let the object stand."""
        if self._parts is None:
            self._store.put(self._path, bytes(self._small))
        else:
            self._store._complete(self._path, self._upload, self._parts.finish(), self._call)
            self._upload = ""

    def close(self) -> None:
        """Remove what went up in vain: it must not go on costing; what this cannot remove, `leftovers` shows."""
        if self._parts is not None:
            self._parts.close()
        if self._upload:
            with suppress(FacemintError):
                self._store._abort(self._path, self._upload)

    def _send(self, number: int, content: bytes) -> Mapping[str, Any]:
        if number > MOST_PARTS:
            raise StoreError(
                f"{self._store.uri}: cannot write {self._path} (more than {MOST_PARTS:,} parts of "
                f"{self._part_bytes:,} bytes); ask for smaller shards"
            )
        return self._store._send_part(self._path, self._upload, number, content)


def _call(method: str, about: Mapping[str, Any], filesystem: Any) -> Any:
    return filesystem.call_s3(method, **about)


def _named(place: str) -> dict[str, str]:
    bucket, _, key = place.partition("/")
    return {"Bucket": bucket, "Key": key}


def _word_of(head: Mapping[str, Any]) -> str | None:
    return {k.lower(): v for k, v in head.get("Metadata", {}).items()}.get(CALL)
