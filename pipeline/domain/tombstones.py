"""Tombstones: the bare numbers of what was erased, so that it is never planned again. No key, no name, no vector.

Every version carries those of the version before it. They stand in the manifest as a list, one entry each: `12` for an
identity, `[12, 7, 2]` for the image of identity 12 in slot 7 at attempt 2, `{"candidate": 30}` for a candidate identity
that nobody was enrolled from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What was erased.

    Attributes:
        identities: ordinals, rising.
        images: (identity, slot, attempt) of single images, rising.
        candidates: numbers of candidate identities that were erased without having been enrolled, rising.
    """

    identities: tuple[int, ...] = ()
    images: tuple[tuple[int, int, int], ...] = ()
    candidates: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return how many entries there are; whatever is erased adds at least one."""
        return len(self.identities) + len(self.images) + len(self.candidates)

    def __or__(self, other: Tombstones) -> Tombstones:
        """Return the entries of both."""
        return Tombstones(
            tuple(sorted({*self.identities, *other.identities})),
            tuple(sorted({*self.images, *other.images})),
            tuple(sorted({*self.candidates, *other.candidates})),
        )

    def __sub__(self, other: Tombstones) -> Tombstones:
        """Return the entries that the other does not have."""
        return Tombstones(
            tuple(sorted({*self.identities} - {*other.identities})),
            tuple(sorted({*self.images} - {*other.images})),
            tuple(sorted({*self.candidates} - {*other.candidates})),
        )

    @property
    def slots(self) -> frozenset[tuple[int, int]]:
        """Return the (identity, slot) pairs of single images."""
        return frozenset((identity, slot) for identity, slot, _ in self.images)

    def to_list(self) -> list[Any]:
        """Return the entries, JSON-ready."""
        return [*self.identities, *(list(image) for image in self.images), *({"candidate": c} for c in self.candidates)]

    @classmethod
    def from_list(cls, raw: Iterable[Any]) -> Tombstones:
        """Return what `to_list` wrote; raises KeyError, TypeError or ValueError on others."""
        identities, images, candidates = [], [], []
        for entry in raw:
            if isinstance(entry, Mapping):
                candidates.append(int(entry["candidate"]))
            elif isinstance(entry, list):
                identity, slot, attempt = entry
                images.append((int(identity), int(slot), int(attempt)))
            else:
                identities.append(int(entry))
        return cls(tuple(sorted(identities)), tuple(sorted(images)), tuple(sorted(candidates)))
