"""What goes, as a question that is asked of every row: is this one of what is to be erased?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.domain.manifest import Receipt
from pipeline.domain.records import minted_key
from pipeline.domain.tombstones import Tombstones
from pipeline.domain.twins import parent_of
from pipeline.domain.unit import Stage

Image = tuple[int, int, int]
"""(identity, slot, attempt)."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What is to be erased.

    Attributes:
        identities: ordinals.
        images: single images; their twins go with them.
        candidates: numbers of candidate identities, those of the identities among them.
    """

    identities: frozenset[int]
    images: frozenset[Image]
    candidates: frozenset[int]

    @classmethod
    def of(cls, stones: Tombstones, candidates: Iterable[int]) -> Gone:
        """Return what tombstones stand for."""
        return cls(frozenset(stones.identities), frozenset(stones.images), frozenset(candidates))

    def takes(self, key: str) -> bool:
        """Return whether the image of this key goes."""
        image = image_of(key)
        return image[0] in self.identities or image in self.images

    def touches(self, receipt: Receipt) -> bool:
        """Return whether a unit of enrolment or making may hold something of it, by what its receipt says."""
        unit = receipt.unit
        if unit["stage"] == Stage.ENROL.value:
            return any(candidate in self.candidates for candidate, _ in unit["proposals"])
        if unit["stage"] != Stage.MAKE.value:
            return False
        mine = set(unit["ordinals"])
        return bool(mine & self.identities) or any(identity in mine for identity, _, _ in self.images)

    def kept(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the rows of a make unit that stay, by their `key`."""
        return [row for row in rows if not self.takes(row["key"])]


def image_of(key: str) -> Image:
    """Return identity, slot and attempt of a minted image's key; a twin has those of the image it was made of.

    Raises:
        ValueError: the key is not one of a minted image.
    """
    parent = parent_of(key) or key
    try:
        identity, slot, attempt = (int(part[1:]) for part in parent.split("-"))
    except ValueError:
        raise ValueError(f"{key!r} is no key of a minted image") from None
    if minted_key(identity, slot, attempt) != parent:
        raise ValueError(f"{key!r} is no key of a minted image")
    return identity, slot, attempt
