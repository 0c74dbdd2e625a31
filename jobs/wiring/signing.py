"""Signing: a version's manifest by a C2PA sidecar beside it, and exported images by credentials inside each."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.wiring.local_files import UnreadableError, read_whole
from jobs.wiring.parts import open_dataset
from pipeline.domain.errors import OutputError, StoreError, UserError
from pipeline.domain.privacy import REAL_PEOPLE, of_real_people

if TYPE_CHECKING:
    from pipeline.adapters.signing import Signer
    from pipeline.domain.manifest import Manifest
    from pipeline.domain.ports import Store
    from pipeline.flow.ledger import Problem

LARGEST_PEM_bytes = 16 << 20
"""More than the certificates of every authority that there is."""
NOT_COPIED = "manifest.json"
"""The digest list of an export: its digests are not those of signed images."""


def signer_of(cert: str | None, key: str | None, tsa: str | None) -> Signer:
    """Return what signs with the certificate and key in these files.

    Raises:
        UserError: a file is not given, cannot be read, or is none that can sign.
    """
    from pipeline.adapters.signing import Signer

    if cert is None or key is None:
        raise UserError("signing needs --cert with the certificates and --key with the private key, both in PEM")
    return Signer(_read("--cert", cert), _read("--key", key), tsa)


def sidecar_path(version: str) -> str:
    """Return where the signature of a version's manifest lies."""
    return f"versions/{version}/manifest.c2pa"


def sign_dataset(uri: str, version: str | None, signer: Signer, *, replace: bool) -> dict[str, Any]:
    """Sign the manifest of a version of the dataset at `uri`, the newest by default; return what was signed."""
    return sign_on(open_dataset(uri), version, signer, replace=replace)


def sign_on(store: Store, version: str | None, signer: Signer, *, replace: bool = False) -> dict[str, Any]:
    """Sign the manifest of a version of a dataset on a store that is open already.

    Raises:
        UserError: it is signed already, and `replace` was not asked for.
        OutputError: no such version is published here.
        LeaseHeldError: another run holds the dataset.
    """
    from pipeline.adapters.machine import SystemClock, holder, is_dead
    from pipeline.adapters.signing import CAPTURED, DATA
    from pipeline.flow.lease import acquire

    manifest = _manifest(store, version)
    path = sidecar_path(manifest.version)
    lease = acquire(store, SystemClock(), holder(f"sign-{uuid.uuid4().hex[:9]}"), is_dead)
    try:
        if store.size(path) is not None and not replace:
            raise UserError(f"{path}: stands already; --replace signs anew, --check says by whom it was signed")
        data = store.get(manifest.path)
        made = CAPTURED if of_real_people(manifest) else DATA
        sidecar = signer.sidecar(data, f"{manifest.name} {manifest.version}", _claim(manifest), made)
        lease.renew()
        store.put(path, sidecar)
    finally:
        lease.release()
    return {"signed": path, **signature_on(store, manifest.version)}


def check_signature(uri: str, version: str | None, trust: str | None) -> dict[str, Any]:
    """Return what is to be said of the signature of a version's manifest; `trust` is a file of root certificates."""
    from pipeline.adapters.stores import open_store

    roots = _read("--trust", trust) if trust else b""
    return signature_on(open_store(uri, writable=False), version, roots)


def signature_on(store: Store, version: str | None, roots_pem: bytes = b"") -> dict[str, Any]:
    """Return the same of a dataset on a store that is open already.

    `ok` is whether the signature holds for the manifest as it stands, the manifest states the digest that was signed,
    and, where roots are given, one of them vouches for the signer.

    Raises:
        StoreError: there is no signature, or it cannot be read.
    """
    from pipeline.adapters.signing import SIDECAR_OF, check

    manifest = _manifest(store, version)
    path = sidecar_path(manifest.version)
    try:
        sidecar = store.get(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: not signed; sign it with: facemint sign URI --cert CHAIN --key KEY") from None
    try:
        found = check(store.get(manifest.path), SIDECAR_OF, sidecar, roots_pem)
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None
    fits = found.claim.get("digest") == manifest.digest
    return {
        "uri": store.uri,
        "version": manifest.version,
        "digest": manifest.digest,
        "state": found.state,
        "signer": found.signer,
        "time": found.time,
        "failures": [*found.failures, *([] if fits else ["the digest that was signed is another one"])],
        "ok": fits and found.state == "Trusted" if roots_pem else fits and found.state in ("Valid", "Trusted"),
    }


def signature_problems(store: Store, versions: Sequence[str]) -> list[Problem]:
    """Return what is wrong with the signatures of versions; nothing where none is signed, or nobody here can tell."""
    from pipeline.flow.ledger import Problem
    from pipeline.flow.remedies import RESTORE

    out = []
    for path in (sidecar_path(version) for version in versions):
        if store.size(path) is None:
            continue
        try:
            found = signature_on(store, path.split("/")[1])
        except UserError:
            return []
        except StoreError as error:
            out.append(Problem(path, str(error).removeprefix(f"{path}: "), "the signature of its manifest", RESTORE))
            continue
        if not found["ok"]:
            why = "; ".join(found["failures"]) or found["state"]
            out.append(
                Problem(path, f"does not hold ({why})", "the signature of its manifest", f"{RESTORE}, or sign anew")
            )
    return out


def sign_images(folder: str, out: str, signer: Signer) -> dict[str, Any]:
    """Write signed copies of the JPEGs of an exported folder, and copies of its other files but the digest list.

    Files that stand below `out` already are left alone, so a killed run goes on where it was.

    Raises:
        UserError: there are no JPEGs, or one does not say that it was generated: only what is known to be is signed.
        OutputError: `out` lies inside the folder, or cannot be written.
    """
    from pipeline.adapters.codec import source_type

    source, target = Path(folder).resolve(), Path(out).resolve()
    if not source.is_dir():
        raise UserError(f"--images {folder}: no folder is there; give an export of images, such as imagefolder")
    if target == source or source in target.parents:
        raise OutputError(f"--out {out}: lies in the folder of the images; name a place of its own")
    _require_made(source)
    signed = stood = copied = 0
    try:
        files = _files(source)
        if not any(_is_jpeg(path) for path in files):
            raise UserError(f"--images {folder}: holds no JPEG; give an export of images, such as imagefolder")
        for path in files:
            where = target / path.relative_to(source)
            if where.exists():
                stood += 1
                continue
            if not _is_jpeg(path):
                _place(where, path)
                copied += 1
                continue
            data = path.read_bytes()
            said = source_type(data)
            if said is None:
                raise UserError(f"{path}: does not say that it was generated; only what a run of ours made is signed")
            _place(where, signer.jpeg(data, path.name, said))
            signed += 1
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {error.strerror}; name a place that can be written") from None
    return {"images": folder, "out": out, "signed": signed, "stood": stood, "copied": copied}


def _require_made(source: Path) -> None:
    """Refuse an export of photographs of real people: credentials would say that facemint made them."""
    try:
        said = json.loads((source / NOT_COPIED).read_bytes())
    except (OSError, ValueError):
        return
    if isinstance(said, dict) and said.get(REAL_PEOPLE):
        raise UserError(
            f"--images {source}: an export of photographs of real people, which no run of ours made; sign the version "
            "that they are of instead"
        )


def _files(source: Path) -> list[Path]:
    return [p for p in sorted(source.rglob("*")) if p.is_file() and p.name != NOT_COPIED]


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")


def _place(where: Path, what: Path | bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    where.parent.mkdir(parents=True, exist_ok=True)
    trial = where.with_name(f".{where.name}.{uuid.uuid4().hex[:8]}")
    try:
        if isinstance(what, bytes):
            trial.write_bytes(what)
        else:
            shutil.copyfile(what, trial)
        trial.replace(where)
    finally:
        trial.unlink(missing_ok=True)


def _manifest(store: Store, version: str | None) -> Manifest:
    from jobs import examine

    # a named one although an erasure is not finished: `verify` checks the signature of every version that stands
    return examine.newest_manifest(store) if version is None else examine.named_manifest(store, version)


def _claim(manifest: Manifest) -> dict[str, Any]:
    """Return what the signature says of the dataset, beside binding its manifest."""
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "images": manifest.counts["images"],
        "identities": manifest.counts["identities"],
        "generator": manifest.models.get("generator", {}).get("name", ""),
        "licence": manifest.use.get("licence") or "not stated",
    }


def _read(option: str, path: str) -> bytes:
    try:
        return read_whole(path, LARGEST_PEM_bytes, "give a PEM file")
    except UnreadableError as error:
        raise UserError(f"{option} {path}: {error}") from None
