"""Publishing: an index over unchanged segments, documents, and last the manifest, created if absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import (
    FileEntry,
    IndexRow,
    Manifest,
    Receipt,
    manifest_path,
    sha256_hex,
    version_name,
)
from pipeline.domain.ports import SegmentWriter, Store
from pipeline.domain.records import Identity
from pipeline.flow.parts import Parts
from pipeline.flow.rounds import Standing


def index_rows(
    standing: Standing, identities: Mapping[int, Identity], places: Mapping[str, Mapping[str, Sequence[int]]]
) -> list[IndexRow]:
    """Return the index: dense labels in ordinal order, an identity's images in slot order.

    Args:
        standing: which identities are filled, by which images.
        identities: enrolled identities by ordinal.
        places: unit name -> key -> (offset, length) of the image in the unit's tar.
    """
    rows = []
    for label, ordinal in enumerate(sorted(standing.filled)):
        unit = standing.unit_of[ordinal]
        for _, key in sorted(standing.images[ordinal].items()):
            offset, length = places[unit][key]
            cell = str(identities[ordinal].cell)
            rows.append(IndexRow(label, key, ordinal, cell, unit, offset, length))
    return rows


def publish(
    parts: Parts,
    rows: Sequence[IndexRow],
    receipts: Sequence[Receipt],
    about: Mapping[str, Any],
    documents: Callable[[Manifest], Mapping[str, bytes]],
) -> Manifest:
    """Write index and documents, then create the manifest; return it.

    Args:
        parts: the ports.
        rows: the index.
        receipts: every receipt of the dataset; their segments are what the version stands on.
        about: `counts`, `figures`, `models` for the manifest.
        documents: the version without documents -> file name -> bytes of its card, contact sheet and the like.

    Raises:
        StoreError: another manifest of this version with other content exists.
    """
    version = version_name(1)
    index = parts.segments.write_index(parts.store, version, rows)
    files = tuple(sorted([index, *(f for r in receipts for f in r.files)]))
    bare = Manifest(
        version=version,
        parent=None,
        name=parts.recipe.name,
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        files=files,
        documents=(),
        counts=about["counts"],
        figures=about["figures"],
        models=about["models"],
        use=parts.recipe.use.model_dump(mode="json"),
    )
    entries = []
    for name, data in sorted(documents(bare).items()):
        path = f"versions/{version}/{name}"
        parts.store.put(path, data)
        entries.append(FileEntry(path, sha256_hex(data), len(data)))
    manifest = replace(bare, documents=tuple(entries))
    parts.guard()
    if not parts.store.put_if_absent(manifest.path, manifest.to_json()):
        standing = read_manifest(parts.store, version)
        if standing.digest != manifest.digest:
            raise StoreError(
                f"{manifest.path}: a manifest with digest {standing.digest[:12]} exists, this run made "
                f"{manifest.digest[:12]}; verify the dataset, or write to another --out"
            )
        return standing
    return manifest


def versions(store: Store) -> list[str]:
    """Return the published versions, oldest first."""
    paths = [p for p in store.list("versions/") if p.endswith("/manifest.json")]
    return sorted(p.split("/")[1] for p in paths)


def read_manifest(store: Store, version: str) -> Manifest:
    """Return a version's manifest; raises StoreError where its bytes are none."""
    path = manifest_path(version)
    try:
        return Manifest.from_json(store.get(path))
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; versions here: {', '.join(versions(store)) or 'none'}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not a manifest ({type(error).__name__}); restore it from a copy") from None


def published_rows(segments: SegmentWriter, store: Store, manifest: Manifest) -> list[IndexRow]:
    """Return the index of a version; raises StoreError where it is not there."""
    path = next((f.path for f in manifest.files if f.path.startswith(f"versions/{manifest.version}/index-")), None)
    if path is None:
        raise StoreError(f"{manifest.path}: names no index; restore it from a copy")
    try:
        return segments.read_index(store, path)
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; restore it from a copy") from None
