"""Reading what is published: versions, their manifests, their indexes."""

from __future__ import annotations

from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import IndexRow, Manifest, manifest_path
from pipeline.domain.ports import SegmentWriter, Store
from pipeline.domain.twins import without_twins


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


def read_manifests(store: Store) -> list[Manifest]:
    """Return the manifests of all published versions, oldest first; raises StoreError where bytes are none."""
    return [read_manifest(store, version) for version in versions(store)]


def read_newest(store: Store) -> Manifest | None:
    """Return the newest version's manifest, None where none is published; raises StoreError where bytes are none."""
    there = versions(store)
    return read_manifest(store, there[-1]) if there else None


def published_rows(segments: SegmentWriter, store: Store, manifest: Manifest) -> list[IndexRow]:
    """Return the index of a version, twins included.

    Raises:
        OutputError: the version was retired by an erasure.
        StoreError: the index is missing or damaged.
    """
    path = next((f.path for f in manifest.files if f.path.startswith(f"versions/{manifest.version}/index-")), None)
    if path is None:
        raise StoreError(f"{manifest.path}: names no index; restore it from a copy")
    try:
        return segments.read_index(store, path)
    except FileNotFoundError:
        newest = read_newest(store)
        if newest is not None and len(newest.tombstones) > len(manifest.tombstones):
            raise OutputError(
                f"{store.uri}: version {manifest.version} was retired when something was erased, and has no index any "
                f"more; name a newer one, {newest.version} is the newest"
            ) from None
        raise StoreError(f"{path}: missing; restore it from a copy") from None


def image_rows(segments: SegmentWriter, store: Store, manifest: Manifest) -> list[IndexRow]:
    """Return the index of a version without hard-condition twins: what templates, quotas and figures rest on."""
    return without_twins(published_rows(segments, store, manifest))


def is_whole(store: Store, manifest: Manifest | None) -> bool:
    """Return whether index and documents of a version are there, by size."""
    if manifest is None:
        return False
    own = [f for f in (*manifest.files, *manifest.documents) if f.path.startswith(f"versions/{manifest.version}/")]
    return all(store.size(f.path) == f.bytes for f in own)
