"""Numbers about an identity's other images: they follow from the order in which a unit made its candidates.

An image's siblings are the published images of its identity and those that fill other slots so far, a slot's fallback
included, since it may be kept yet. Making and judging again replay the same rule over the same embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import Float32, Sample
from pipeline.flow.window import Outcome

Float64 = npt.NDArray[np.float64]
COUNT, NEAREST, MEAN, MEAN_BEFORE = "siblings", "nearest_sibling_cos", "sibling_mean_cos", "sibling_mean_cos_before"
SIBLING_MEASURES = (COUNT, NEAREST, MEAN, MEAN_BEFORE)
"""How many siblings there are; the largest cosine to one; the mean cosine of all pairs with this image, and without it.

A number that has no pair to rest on is -1.
"""


class _Family:
    def __init__(self, published_KE: Float32) -> None:
        """Take the published images; each embedding is widened, and its square worked out, once."""
        self._published_KE = published_KE.astype(np.float64)
        self._published_square = _added([_square(row_E) for row_E in self._published_KE])
        self._slots: dict[int, tuple[Float64, float]] = {}
        self._filled: set[int] = set()

    def others(self, slot: int) -> tuple[Float64, float]:
        """Return the siblings of an image of `slot`, (K, E), published ones first, then by slot; and their squares."""
        mine = [known for number, known in sorted(self._slots.items()) if number != slot]
        rows = [row_E[None] for row_E, _ in mine]
        return np.concatenate([self._published_KE, *rows]), _added([self._published_square, *(s for _, s in mine)])

    def settle(self, slot: int, emb_E: Float32, outcome: Outcome) -> None:
        accepted = outcome is Outcome.ACCEPTED and slot not in self._filled
        if accepted or (outcome is Outcome.MISSED_CONDITION and slot not in self._slots):
            row_E = emb_E.astype(np.float64)
            self._slots[slot] = row_E, _square(row_E)
        if accepted:
            self._filled.add(slot)


def _square(row_E: Float64) -> float:
    return float(np.cumsum(row_E * row_E)[-1])


def _added(values: Sequence[float]) -> float:
    """Return the sum, added up in the order given."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0


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
        others_KE, squares = self._family(sample).others(sample.slot)
        count = len(others_KE)
        if not count:
            return {COUNT: 0.0, NEAREST: -1.0, MEAN: -1.0, MEAN_BEFORE: -1.0}
        # summed in index order, so that the numbers are the same however many siblings share the product
        cos = np.cumsum(others_KE * sample.embedding_E.astype(np.float64), axis=1)[:, -1]
        # the cosines of all pairs, from the square of the sum: row is added to row, in index order too
        pairs = (_square(others_KE.sum(axis=0)) - squares) / 2
        with_it = pairs + _added(cos.tolist())
        before = pairs / (count * (count - 1) / 2) if count > 1 else -1.0
        return {
            COUNT: float(count),
            NEAREST: float(cos.max()),
            MEAN: with_it / (count * (count + 1) / 2),
            MEAN_BEFORE: before,
        }

    def settle(self, sample: Sample, outcome: Outcome) -> None:
        """Take note of what became of a sample; the first of a slot that is accepted fills it."""
        self._family(sample).settle(sample.slot, sample.embedding_E, outcome)

    def forget(self, identity: int) -> None:
        """Let go of an identity that is closed."""
        self._families.pop(identity, None)

    def _family(self, sample: Sample) -> _Family:
        if sample.identity not in self._families:
            nothing = np.empty((0, len(sample.embedding_E)), np.float32)
            self._families[sample.identity] = _Family(self.published.get(sample.identity, nothing))
        return self._families[sample.identity]
