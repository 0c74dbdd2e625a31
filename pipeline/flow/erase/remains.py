"""What a store keeps of what was deleted: a bucket with versioning does, until somebody removes the versions there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pipeline.domain.errors import FacemintError
from pipeline.domain.ports import Store


@runtime_checkable
class KeepsVersions(Protocol):
    """A store that may keep older versions of what was deleted or written over."""

    def deleted_versions(self) -> Sequence[str]:
        """Return `path (version ...)` of everything deleted that is still kept; nothing where versioning is off."""
        ...


def remaining_versions(store: Store) -> list[str]:
    """Return which older versions of deleted objects a store still keeps, one line each.

    Where it does not say, the one line says that: an erasure does not fail because listing versions is not permitted.
    """
    if not isinstance(store, KeepsVersions):
        return []
    try:
        return list(store.deleted_versions())
    except FacemintError as error:
        return [f"any, as the store does not tell which versions it keeps ({error})"]
