"""From an address to the store that lies there."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.adapters.stores.local import LocalStore
from pipeline.adapters.stores.memory import MemoryStore
from pipeline.adapters.stores.paths import checked_path
from pipeline.adapters.stores.remote import FsspecStore
from pipeline.adapters.stores.s3 import S3Store
from pipeline.domain.errors import UserError
from pipeline.domain.ports import Store

NOT_STORES = ("http", "https", "local", "data")
"""What fsspec knows and what keeps no promise of a store."""
_named: dict[str, MemoryStore] = {}
_named_lock = threading.Lock()


def open_store(uri: str, *, writable: bool = True) -> Store:
    """Return the store at an address.

    A plain path or `file:///path`; `s3://bucket/prefix`; `gs://`, `az://`, `abfs://` or another scheme of fsspec whose
    package is installed; `memory://name` (for tests; one per process).

    Raises:
        UserError: an address that names no place, an unknown scheme, or one whose package is not installed.
        OutputError: the place cannot be used.
        StoreError: a remote place cannot be reached, or is full.
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
        address = checked_address(scheme, uri)
        return (S3Store if scheme in ("s3", "s3a") else FsspecStore)(address, writable=writable)
    if not uri.strip():
        raise UserError("the output place is empty; name a directory")
    if "://" in uri:
        raise UserError(
            "chained addresses (a::b://...) are not taken; name the store itself, such as s3://bucket/prefix"
        )
    return LocalStore(Path(uri).expanduser(), writable=writable)


def checked_address(scheme: str, uri: str) -> str:
    """Return a remote address, its scheme in lower case; raises UserError where it holds a secret or no place.

    The message names the scheme alone: what it refuses may be a password.
    """
    if scheme in NOT_STORES:
        raise UserError(f"storage scheme {scheme!r} is no store; name a path, file:///path or s3://bucket/prefix")
    place = uri.partition("://")[2].rstrip("/")
    host, _, below = place.partition("/")
    if "?" in uri or "#" in uri or (":" in host and "@" in host) or (scheme in ("s3", "s3a") and "@" in host):
        raise UserError(
            f"an address of scheme {scheme!r} holds a query or credentials; addresses are printed and kept, so set "
            "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...) and leave them out"
        )
    try:
        checked_path(place)
    except ValueError:
        raise UserError(
            f"an address of scheme {scheme!r} is {scheme}://bucket/prefix: a bucket, then parts joined by `/`, none of "
            "them empty, `.` or `..`"
        ) from None
    return f"{scheme}://{host}/{below}".rstrip("/")
