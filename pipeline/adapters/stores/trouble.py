"""What a remote store's failure means, and how long to go on asking.

Every library behind fsspec has exceptions of its own. They are read here by class name, error code and HTTP status,
so that none of those libraries is imported. Their messages are never repeated: an address in one may hold a secret.
"""

from __future__ import annotations

import errno
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pipeline.domain.errors import FacemintError, OutputError, RetryableStoreError, StoreError

_FULL_CODES = {"BucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}
_NO_PLACE_CODES = {"InvalidBucketName", "NoSuchBucket"}
_DENIED_CODES = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
_PASSING_CODES = {
    "BadDigest",  # damaged on the way
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",  # damaged on the way
}
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_PASSING_CLASSES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",  # what botocore makes of a connection that fails, closes or stalls
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",
    "TimeoutError",
}
_DENIED_CLASSES = {
    "ClientAuthenticationError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "PermissionError",
    "ProfileNotFound",
    "TokenRetrievalError",
}
_PASSING_ERRNO = {errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE}
_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Kind(Enum):
    """What a failed request says."""

    EXISTS = auto()
    ABSENT = auto()
    BEYOND_THE_END = auto()
    UNSUPPORTED = auto()
    PASSING = auto()
    FULL = auto()
    DENIED = auto()
    NO_PLACE = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failed request: its kind, and a reason that is safe to show."""

    kind: Kind
    reason: str

    def error(self, what: str) -> FacemintError:
        """Return the error that ends the call; `what` says whose, which verb and which path."""
        told = f"{what} ({self.reason})"
        if self.kind is Kind.DENIED:
            return OutputError(
                f"{told}; the credentials in the environment must allow to list, read, write and delete there: "
                "set or renew them"
            )
        if self.kind in (Kind.NO_PLACE, Kind.ABSENT):
            return OutputError(
                f"{told}; there is no such bucket or folder: create it, or correct the address and the endpoint"
            )
        if self.kind is Kind.FULL:
            return StoreError(f"{told}; make room there, or lift the quota, and run again: finished units are kept")
        if self.kind is Kind.PASSING:
            return RetryableStoreError(f"{told}; asked again until patience ended, the same call may succeed later")
        return StoreError(f"{told}; check the store and run again: finished units are kept")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a request is repeated; nothing below this repeats a request that was answered.

    The longest that one request can take is `total_s` and one try more, which is ended by `connect_s` or, where
    nothing comes for so long, by `read_s`.
    """

    tries: int = 8
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0
    total_s: float = 60.0
    connect_s: float = 5.0
    read_s: float = 20.0

    def pauses(self) -> Iterator[None]:
        """Yield once per try, sleeping in between, until tries or time are used up."""
        began_s, wait_s = time.monotonic(), self.first_wait_s
        for left in reversed(range(self.tries)):
            yield
            if not left or time.monotonic() - began_s > self.total_s:
                return
            # half to all of it, by chance: writers that collided must not collide again
            time.sleep(wait_s * (0.5 + uuid.uuid4().int % 1000 / 2000))
            wait_s = min(2 * wait_s, self.longest_wait_s)


def diagnose(error: BaseException) -> Trouble:
    """Return what an exception of a remote file system means."""
    code, status = _answer_of(error)
    reason = _reason(error, code, status)
    for kind, codes, statuses in (
        (Kind.FULL, _FULL_CODES, {507}),
        (Kind.NO_PLACE, _NO_PLACE_CODES, set()),
        (Kind.EXISTS, {"PreconditionFailed"}, {412}),
        (Kind.PASSING, _PASSING_CODES, _PASSING_STATUS),
        (Kind.DENIED, _DENIED_CODES, {401, 403}),
        (Kind.ABSENT, set(), {404}),
        (Kind.BEYOND_THE_END, {"InvalidRange"}, {416}),
        (Kind.UNSUPPORTED, {"NotImplemented"}, {501}),
    ):
        if code in codes or status in statuses:
            return Trouble(kind, reason)
    if status:
        return Trouble(Kind.OTHER, reason)
    return Trouble(_kind_of_class(error), reason)


def _kind_of_class(error: BaseException) -> Kind:
    names = _names(error)
    number = getattr(error, "errno", None)
    if "FileExistsError" in names:
        return Kind.EXISTS
    if "FileNotFoundError" in names or "IsADirectoryError" in names or "NotADirectoryError" in names:
        return Kind.ABSENT
    if "NotImplementedError" in names:
        return Kind.UNSUPPORTED
    if names & _DENIED_CLASSES:
        return Kind.DENIED
    if names & _PASSING_CLASSES or number in _PASSING_ERRNO:
        return Kind.PASSING
    return Kind.FULL if number in _FULL_ERRNO else Kind.OTHER


def _names(error: BaseException) -> set[str]:
    return {c.__name__ for c in type(error).__mro__}


def _answer_of(error: BaseException) -> tuple[str, int]:
    """Return the error code and HTTP status of an answer, from the exception or from what it was made of."""
    here: BaseException | None = error
    while here is not None:
        response: Any = getattr(here, "response", None)
        if isinstance(response, dict):
            told, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
            return str(told.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
        if _names(here) & _PASSING_CLASSES:
            # aiohttp numbers its own failures too: a body that breaks off is no answer with status 400
            return "", 0
        for name in ("status", "status_code", "code"):
            number = getattr(here, name, None)
            if isinstance(number, int) and 400 <= number < 600:
                return "", number
        here = here.__cause__
    return "", 0


def _reason(error: BaseException, code: str, status: int) -> str:
    """Return the code, status or class of a failure, never its message."""
    # a code is the server's word: nothing but a plain word of it is repeated
    plain = code if re.fullmatch(r"[A-Za-z][A-Za-z0-9.]{0,60}", code) else ""
    if status:
        return f"{plain}, HTTP {status}" if plain else f"HTTP {status}"
    number = errno.errorcode.get(getattr(error, "errno", None) or 0)
    return f"{type(error).__name__}, {number}" if number else type(error).__name__


def missing_package(scheme: str) -> str:
    """Return what to say where the library of a scheme of addresses is not installed."""
    from fsspec.registry import known_implementations

    if scheme in ("s3", "s3a"):
        return "s3 addresses need the package s3fs, which is not installed; pip install 'facemint[s3]'"
    about = known_implementations.get(scheme, {}).get("err", "")
    return f"{scheme} addresses need a package that is not installed; fsspec says: {about}"
