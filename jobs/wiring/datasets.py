"""Datasets that stand: what the verbs that look at one are made of."""

from __future__ import annotations

import functools
import uuid
from typing import TYPE_CHECKING, Any

from jobs.wiring.signing import signature_problems

if TYPE_CHECKING:
    from pipeline.domain.manifest import Manifest
    from pipeline.domain.ports import Observer


def card_dict(card: Any) -> dict[str, Any]:
    """Return what manifests say of a component."""
    return {
        "name": card.name,
        "sha256": card.sha256,
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "source": card.source,
        "epoch": card.epoch,
        "row_independent": card.row_independent,
    }


def dataset_status(uri: str) -> dict[str, Any]:
    """Return what `facemint status` shows."""
    from jobs import examine
    from pipeline.adapters.machine import SystemClock
    from pipeline.adapters.stores import open_store

    return examine.status(open_store(uri, writable=False), SystemClock())


def verify_dataset(
    uri: str, observer: Observer, *, deep: bool, decode: bool, gc: bool, remove: bool, grace_h: float
) -> dict[str, Any]:
    """Return what `facemint verify` shows; with `gc` also what nothing names, removed where that is asked for."""
    from jobs import examine
    from pipeline.adapters.codec import JpegCodec
    from pipeline.adapters.machine import SystemClock, holder, is_dead
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.stores import open_store
    from pipeline.flow.lease import acquire

    store, clock = open_store(uri, writable=gc and remove), SystemClock()
    facts = examine.verify(store, Segments(), JpegCodec(), deep=deep, decode=decode, observer=observer)
    if deep:
        unsound = signature_problems(store, facts["versions"])
        facts["problems"] += [str(p) for p in unsound]
        facts["damaged"] = sorted({*facts["damaged"], *(p.path for p in unsound)})
    if not gc:
        return facts
    take = functools.partial(acquire, store, clock, holder(f"gc-{uuid.uuid4().hex[:9]}"), is_dead) if remove else None
    return {**facts, "gc": examine.collect(store, clock, grace_h=grace_h, take_lease=take)}


def newest_manifest(uri: str) -> Manifest:
    """Return the newest published version of the dataset at `uri`."""
    from jobs import examine
    from pipeline.adapters.stores import open_store

    return examine.newest_manifest(open_store(uri, writable=False))
