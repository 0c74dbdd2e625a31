"""Percentiles of a learned score: raw scores of two models, or two versions, cannot be compared; ranks can.

A file of `facemint quantiles` states 101 reference quantiles per score: the raw score at 0, 1, ..., 100 % of a
population of faces, and by which model, with which options, on which crops it was measured. A recipe that names such a
file holds its content from where it is read: a path means something on one machine alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, field_validator

from pipeline.domain.labels import LabelName
from pipeline.domain.section import FileContent, Section

Float64 = npt.NDArray[np.float64]
QUANTILES = 101
FEWEST = QUANTILES
"""Faces of a population: with fewer, two quantiles would be one face's score."""
CHANGES_NO_SCORE = frozenset({
    "use", "labeller", "percentiles", "alignment", "path", "weights", "device", "name", "licence", "commercial",
    "source",
})  # fmt: skip
"""Options of measures that say where a model lies and what it is called; every other one may change a score.

The alignment is stated on its own, for every measure, and the weights by the digest on the card."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(strict=True)]


class ScoredBy(Section):
    """Which measure scored a population, and how."""

    use: str
    """The measure, as recipes name it."""
    sha256: Digest
    """That of the measure's card."""
    epoch: int
    options: dict[str, Any]
    """Those that may change a score; see `settling_options`."""
    alignment: str
    """Of the crops."""


class Population(Section):
    """The faces among whom a percentile is one."""

    source: str
    digest: Digest
    """Over label, name and pixels of every face, those that are left out included."""
    images: Annotated[int, Field(ge=FEWEST)]
    left_out: Annotated[int, Field(ge=0)] = 0
    """Faces of the source beside them: files that could not be read, and scores that were no number."""


class Percentiles(FileContent):
    """What `facemint quantiles` writes: the reference quantiles of one measure's scores among one population."""

    model: ScoredBy
    population: Population
    quantiles: Annotated[dict[str, tuple[Number, ...]], Field(min_length=1)]
    """Score -> its 101 quantiles."""

    @field_validator("quantiles")
    @classmethod
    def _are_quantiles(cls, value: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for name, quantiles in value.items():
            require_quantiles(quantiles, name)
        return value

    @property
    def among(self) -> str:
        """Return the population in words, for a card: `2,000 faces of lfw (3f2a91c0d4e8)`."""
        return f"{self.population.images:,} faces of {self.population.source} ({self.population.digest[:12]})"


def settling_options(node: BaseModel) -> dict[str, Any]:
    """Return the options of a measure, JSON-ready, that its scores follow from beside weights, alignment and code."""
    return {k: v for k, v in node.model_dump(mode="json").items() if k not in CHANGES_NO_SCORE}


def percentile_name(score: str) -> str:
    """Return the measure that is a score's percentile: `fiqa` -> `fiqa_percentile`, `fiqa@b` -> `fiqa_percentile@b`."""
    parts = LabelName.parse(score)
    return str(LabelName(f"{parts.field}_percentile", parts.labeller, parts.value))


def quantiles_of(scores_N: npt.ArrayLike) -> tuple[float, ...]:
    """Return the 101 reference quantiles of a population's raw scores, linear between neighbours.

    Raises:
        ValueError: no score, or one that is not finite.
    """
    scores = np.asarray(scores_N, np.float64).ravel()
    if not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"{scores.size} scores, some perhaps not finite; quantiles are those of finite scores")
    return tuple(np.quantile(scores, np.linspace(0.0, 1.0, QUANTILES)).tolist())


def require_quantiles(quantiles: Sequence[float], whose: str) -> Float64:
    """Return quantiles as an array; raises ValueError unless they are 101 finite numbers that never fall."""
    found = np.asarray(quantiles, np.float64)
    if found.shape != (QUANTILES,) or not np.isfinite(found).all() or (np.diff(found) < 0).any():
        raise ValueError(
            f"{whose}: {found.size} quantiles; a card states 101 finite ones, each at least the one before"
        )
    return found


def percentile_of(raw_N: npt.ArrayLike, quantiles_101: Float64) -> Float64:
    """Return where raw scores stand among the reference population, 0 to 100 %, rising with the score.

    Between two quantiles it is linear; a score that many of the population share has the middle of their places; below
    the first it is 0, above the last 100, and NaN stays NaN.
    """
    raw = np.asarray(raw_N, np.float64)
    below, upto = (np.searchsorted(quantiles_101, raw, side) for side in ("left", "right"))
    last = QUANTILES - 1
    low, high = quantiles_101[np.clip(below - 1, 0, last)], quantiles_101[np.clip(below, 0, last)]
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below - 1 + (raw - low) / (high - low)
    place = np.where(upto > below, (below + upto - 1) / 2, between)
    place = np.where(raw < quantiles_101[0], 0.0, np.where(raw > quantiles_101[-1], float(last), place))
    return np.where(np.isnan(raw), np.nan, place)
