"""Numbers about an identity's other images: they follow from the order in which a unit made its candidates.

An image's siblings are the published images of its identity and those that fill other slots so far, a slot's fallback
included, since it may be kept yet. Making and judging again replay the same rule over the same embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.domain.records import Float32, Sample
from pipeline.flow.window import Outcome

COUNT, NEAREST, MEAN, MEAN_BEFORE = "siblings", "nearest_sibling_cos", "sibling_mean_cos", "sibling_mean_cos_before"
SIBLING_MEASURES = (COUNT, NEAREST, MEAN, MEAN_BEFORE)
"""How many siblings there are; the largest cosine to one; the mean cosine of all pairs with this image, and without it.

A number that has no pair to rest on is -1.
"""


@dataclass(slots=True)
class _Family:
    published_KE: Float32
    slots: dict[int, Float32] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)

    def others(self, slot: int) -> Float32:
        """Return the embeddings of the siblings of an image of `slot`, (K, E), published ones first, then by slot."""
        rows = [emb for number, emb in sorted(self.slots.items()) if number != slot]
        return np.concatenate([self.published_KE, np.stack(rows)]) if rows else self.published_KE


@dataclass(slots=True)
class Siblings:
    """What a unit knows of its identities' images, candidate by candidate in the order in which they were made.

    Args:
        published: ordinal -> embeddings of its published images, (K, E); absent where it has none.
    """

    published: Mapping[int, Float32]
    _families: dict[int, _Family] = field(default_factory=dict)

    def numbers(self, sample: Sample) -> dict[str, float]:
        """Return SIBLING_MEASURES of a sample, as of now."""
        others = self._family(sample).others(sample.slot).astype(np.float64)
        count = len(others)
        if not count:
            return {COUNT: 0.0, NEAREST: -1.0, MEAN: -1.0, MEAN_BEFORE: -1.0}
        # summed in index order, so that the numbers are the same however many siblings share the product
        cos = np.cumsum(others * sample.embedding_E.astype(np.float64), axis=1)[:, -1]
        total = np.cumsum(others, axis=0)[-1]
        pairs = (float(np.cumsum(total**2)[-1]) - float(np.cumsum(np.cumsum(others**2, axis=1)[:, -1])[-1])) / 2
        with_it = pairs + float(np.cumsum(cos)[-1])
        before = pairs / (count * (count - 1) / 2) if count > 1 else -1.0
        return {
            COUNT: float(count),
            NEAREST: float(cos.max()),
            MEAN: with_it / (count * (count + 1) / 2),
            MEAN_BEFORE: before,
        }

    def settle(self, sample: Sample, outcome: Outcome) -> None:
        """Take note of what became of a sample; the first of a slot that is accepted fills it."""
        family = self._family(sample)
        if outcome is Outcome.ACCEPTED and sample.slot not in family.filled:
            family.slots[sample.slot] = sample.embedding_E
            family.filled.add(sample.slot)
        elif outcome is Outcome.MISSED_CONDITION:
            family.slots.setdefault(sample.slot, sample.embedding_E)

    def forget(self, identity: int) -> None:
        """Let go of an identity that is closed."""
        self._families.pop(identity, None)

    def _family(self, sample: Sample) -> _Family:
        if sample.identity not in self._families:
            nothing = np.empty((0, len(sample.embedding_E)), np.float32)
            self._families[sample.identity] = _Family(self.published.get(sample.identity, nothing))
        return self._families[sample.identity]
