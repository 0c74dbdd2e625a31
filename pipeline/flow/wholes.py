"""Whole pictures: what a generator drew before the crop was cut from it, stored beside the crop where the recipe asks.

A unit keeps one of every accepted image but twins, or of none; its receipt says how many. Their alignment is none:
they are as they were made. Nothing was measured of them but the crop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import IndexRow, Receipt, segment_path, sha256_hex
from pipeline.domain.ports import Codec, SegmentWriter, Store
from pipeline.domain.records import Whole
from pipeline.domain.twins import is_twin

KEPT = "whole_pictures"
"""In the counts of a manifest, and in what an export is told: how many of the version's images have theirs."""


def wholes_of(segments: SegmentWriter, store: Store, receipt: Receipt) -> dict[str, Whole] | None:
    """Return key -> whole picture of a make unit's images; None where its receipt says that it keeps none."""
    return (segments.read_wholes(store, receipt.name) or {}) if receipt.counts.wholes else None


def whole_bytes(tar: bytes, whole: Whole) -> bytes:
    """Return a whole picture out of its unit's tar."""
    return tar[whole.offset : whole.offset + whole.length]


def altered_wholes(tar: bytes, wholes: Mapping[str, Whole]) -> list[str]:
    """Return the keys whose whole picture has other bytes than its row names, sorted."""
    return sorted(key for key, whole in wholes.items() if sha256_hex(whole_bytes(tar, whole)) != whole.sha256)


def undecodable_wholes(tar: bytes, wholes: Mapping[str, Whole], codec: Codec) -> list[str]:
    """Return the keys whose whole picture does not decode, sorted."""
    out = []
    for key, whole in sorted(wholes.items()):
        try:
            codec.decode(whole_bytes(tar, whole))
        except ValueError:
            out.append(key)
    return out


def kept_of(keys: Iterable[str]) -> set[str]:
    """Return the keys of accepted images that have a whole picture where a unit keeps them: all but twins'."""
    return {key for key in keys if not is_twin(key)}


def require_wholes(name: str, tar: bytes, wholes: Mapping[str, Whole], keys: Collection[str], codec: Codec) -> None:
    """Refuse a unit whose whole pictures are not those of its accepted images, or are damaged.

    Args:
        name: of the unit.
        tar: its tar.
        wholes: as its rows have them.
        keys: of its accepted images, twins included.
        codec: decodes them.

    Raises:
        StoreError: one is missing, altered, or does not decode.
    """
    path = segment_path(name, "tar")
    if odd := wholes.keys() ^ kept_of(keys):
        raise StoreError(f"{path}: accepted rows and whole pictures differ in {min(odd)}; restore it from a copy")
    if bad := altered_wholes(tar, wholes) or undecodable_wholes(tar, wholes, codec):
        raise StoreError(f"{path}: the whole picture of {bad[0]} is not as it was written; restore it from a copy")


def published_wholes(rows: Iterable[IndexRow], known: Mapping[str, Receipt]) -> int:
    """Return how many of the images of an index have their whole picture stored beside them."""
    keeping = {name for name, receipt in known.items() if receipt.counts.wholes}
    return sum(row.segment in keeping and not is_twin(row.key) for row in rows)
