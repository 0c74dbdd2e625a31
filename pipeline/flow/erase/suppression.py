"""Suppression: salted digests of what was erased, so that the same bytes are known again should somebody bring them.

They lie under `private/`, which no export and no digest of the dataset covers. A digest tells nothing of what it is of,
and without the salt beside it not even whether two erasures were of the same. It stops the same file or vector; other
pictures of a person it does not stop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.ports import Store

PREFIX = "private/suppressed/"


def suppress(store: Store, number: int, salt: str, digests: Iterable[str]) -> str:
    """Write the entry of an erasure where it is absent; return its path.

    Args:
        store: the dataset.
        number: that of the erasure.
        salt: drawn for this entry.
        digests: SHA-256 of each image and vector.
    """
    path = f"{PREFIX}{number:06d}.json"
    salted = sorted({sha256_hex(f"{salt}{digest}".encode()) for digest in digests})
    store.put_if_absent(path, canonical_json({"schema": 1, "salt": salt, "sha256": salted}))
    return path


class Suppressed:
    """The digests of what was erased from a dataset, read once."""

    def __init__(self, store: Store) -> None:
        """Read every entry.

        Raises:
            StoreError: an entry is damaged.
        """
        self._entries: list[tuple[str, frozenset[str]]] = []
        for path, entry in sorted(store.get_many(store.list(PREFIX)).items()):
            try:
                raw = json.loads(entry)
                self._entries.append((str(raw["salt"]), frozenset(raw["sha256"])))
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path}: not an entry of suppression ({type(error).__name__}); restore it") from None

    def __contains__(self, digest: str) -> bool:
        """Return whether the bytes with this SHA-256 were erased."""
        return any(sha256_hex(f"{salt}{digest}".encode()) in known for salt, known in self._entries)
