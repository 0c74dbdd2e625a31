"""A score with its rank beside it: what makes the scores of a quality model comparable.

    quality = EDifFIQA(options)                # names = ("ediffiqa",), measure() gives the raw score
    with_ranks = Ranked(quality, {"ediffiqa": QUANTILES}, "10,000 faces of lfw", alignment="arcface-112")

then gives `ediffiqa` and `ediffiqa_percentile`. Recipes have it by naming a file of quantiles: `percentiles: FILE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.percentiles import percentile_name, percentile_of, require_quantiles
from pipeline.domain.ports import Measurer
from pipeline.domain.records import UInt8


class Ranked:
    """Implements `ports.Measurer`: a measurer with `<name>_percentile` (0..100) beside each score that has quantiles.

    Its card says of which population, and its digest covers the quantiles, for other quantiles are other numbers.
    """

    def __init__(
        self,
        measurer: Measurer,
        quantiles: Mapping[str, Sequence[float]],
        population: str,
        *,
        alignment: str | None = None,
    ) -> None:
        """Take a measurer, and the 101 reference quantiles of some of its scores over a population.

        Args:
            measurer: gives the scores.
            quantiles: score -> its quantiles.
            population: whose scores they are, for the card.
            alignment: of the population's crops, where it is known: the only one in which a rank is one, also of a
                score that can be taken of any crop.

        Raises:
            ValueError: a score that the measurer does not give, or quantiles that are none.
        """
        unknown = sorted(set(quantiles) - set(measurer.names))
        if unknown:
            raise ValueError(
                f"quantiles of {', '.join(unknown)}; {measurer.card.name} gives {', '.join(measurer.names)}"
            )
        self.measurer = measurer
        self._quantiles = {n: require_quantiles(quantiles[n], n) for n in measurer.names if n in quantiles}
        self.names = (*measurer.names, *map(percentile_name, self._quantiles))
        self.alignment: str | None = alignment or getattr(measurer, "alignment", None)
        self.attributes, self.confusion = measurer.attributes, measurer.confusion
        covered = {"model": measurer.card.sha256, "quantiles": {n: q.tolist() for n, q in self._quantiles.items()}}
        self.card = replace(
            measurer.card,
            sha256=sha256_hex(canonical_json(covered)),
            source=f"{measurer.card.source}; percentiles among {population}",
        )

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return what the measurer does, and the percentile of each score that has quantiles."""
        found = dict(self.measurer.measure(faces_NHWC))
        ranks = {percentile_name(name): percentile_of(found[name], q) for name, q in self._quantiles.items()}
        return found | ranks
