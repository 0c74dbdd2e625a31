"""Brings weights from a bucket or a hub into the cache, one process of a machine at a time, and checks what arrived."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

from pipeline.adapters.models.cache import ModelCache
from pipeline.adapters.models.places import HUB, HubFile, hub_file, shown
from pipeline.domain.errors import ModelError
from pipeline.domain.weights import WeightsRef

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK_BYTES = 8 << 20
_SECONDS = 20.0
"""How long a hub may take to answer before it counts as out of reach."""


def fetch(ref: WeightsRef, cache: ModelCache) -> Path:
    """Return the cache's file with a reference's bytes, fetched unless another process has brought them meanwhile.

    Raises:
        ModelError: it is not there, out of reach, holds other bytes than stated, or there is no room for it.
    """
    what = shown(ref.uri)
    hub = hub_file(ref.uri) if ref.uri.startswith(HUB) else None
    try:
        with cache.arriving(ref.uri) as folder:
            digest = ref.sha256 or cache.digest_at(ref.uri)
            found = cache.find(digest) if digest else None
            if found is not None:
                return found
            try:
                part = _from_hub(hub, folder, what) if hub else _from_store(ref.uri, folder, what)
                return _kept(part, ref, cache, folder)
            except OSError:
                # what half arrived would keep the room that somebody has to make
                cache.clear(folder)
                raise
    except OSError as error:
        if error.errno in _FULL:
            raise ModelError(
                f"{what}: there is no room for it in {cache.root} ({os.strerror(error.errno or 0)}); make room, or "
                "name another folder in FACEMINT_MODELS"
            ) from None
        raise ModelError(
            f"{what}: the model cache {cache.root} cannot be written ({error.strerror or error}); name another folder "
            "in FACEMINT_MODELS"
        ) from None


def _kept(part: Path, ref: WeightsRef, cache: ModelCache, folder: Path) -> Path:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if ref.sha256 is not None and found != ref.sha256:
        cache.clear(folder)
        raise ModelError(
            f"{shown(ref.uri)}: arrived with SHA-256 {found[:12]}..., {ref.sha256[:12]}... is stated; nothing was "
            "kept: fetch it again, and if it stays so the file there is another one than the recipe means"
        )
    path = cache.keep(part, ref.uri, found)
    cache.clear(folder)
    return path


def _from_store(uri: str, folder: Path, what: str) -> Path:
    """Copy an fsspec address into a folder; failures of this machine's disk stay OSError, the others are ours."""
    import fsspec

    part = folder / "part"
    try:
        source = fsspec.open(uri, "rb").open()
    except Exception as error:  # noqa: BLE001
        # every library behind fsspec has exceptions of its own
        raise _out_of_reach(error, what) from None
    with source, part.open("wb") as target:
        while data := _read(source, what):
            target.write(data)
    return part


def _read(source: Any, what: str) -> bytes:
    try:
        data: bytes = source.read(_CHUNK_BYTES)
    except Exception as error:  # noqa: BLE001
        # as above: a connection may end in many ways
        raise _out_of_reach(error, what) from None
    return data


def _from_hub(hub: HubFile, folder: Path, what: str) -> Path:
    """Download a file of a hub at a commit; failures of this machine's disk stay OSError, the others are ours."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # whoever asked is told in one line how it ended
    disable_progress_bars()
    logging.set_verbosity(50)
    try:
        return Path(
            hf_hub_download(
                hub.repository, hub.file, revision=hub.commit, local_dir=folder,
                endpoint=os.environ.get("HF_ENDPOINT"), etag_timeout=_SECONDS,
            )
        )  # fmt: skip
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise _out_of_reach(error, what) from None


def _out_of_reach(error: Exception, what: str) -> ModelError:
    """Return what a failure of a library that fetches means; its message may hold a secret, and is not repeated."""
    names = _names(error)
    if names & {"GatedRepoError", "PermissionError", "NoCredentialsError", "LocalTokenNotFoundError"}:
        return ModelError(f"{what}: may not be read; accept its licence there, and set the credentials it needs")
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ClientConnectionError", "TimeoutError"}:
        return _no_network(what)
    if names & {"EntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError", "FileNotFoundError"}:
        return ModelError(f"{what}: there is no such file; check the address (a private one needs credentials)")
    if "ImportError" in names or (isinstance(error, ValueError) and "rotocol" in str(error)):
        scheme = what.partition("://")[0]
        return ModelError(f"{what}: {scheme} addresses need a package that is not installed; install it, or use a path")
    return _no_network(what, type(error).__name__)


def _names(error: BaseException | None) -> set[str]:
    """Return the names of an exception's classes, and of what it was made of: no file, because of no connection."""
    found: set[str] = set()
    while error is not None:
        found |= {c.__name__ for c in type(error).__mro__}
        error = error.__cause__
    return found


def _no_network(what: str, name: str = "") -> ModelError:
    told = f" ({name})" if name else ""
    return ModelError(
        f"{what}: cannot be reached{told}; check the network, or fetch it on a machine that has one and give its path"
    )


__all__ = ["fetch"]
