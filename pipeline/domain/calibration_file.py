"""A recogniser's calibration from a file, as a recipe holds it: its content and its digest, never only its path.

A path means something on one machine alone. So a recipe that names a file is resolved where it is read: the content
goes into the recipe, with its digest, and from there to every worker and into the dataset. The digest of the judge's
is fingerprinted, because it decides what a threshold given as a rate is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import CalibrationError, SpaceMismatchError
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.recipe import Node
from pipeline.domain.section import PATH_OR_NOTHING, FileContent
from pipeline.domain.space import Space


class CalibrationFile(FileContent):
    """What a file of `facemint calibrate` said when the recipe was read."""

    file: str
    """Its name, for messages."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the content as canonical JSON."""
    content: dict[str, Any]

    @model_validator(mode="after")
    def _unaltered(self) -> CalibrationFile:
        found = digest_of(self.content)
        if found != self.sha256:
            raise ValueError(
                f"the content of {self.file} has SHA-256 {found[:12]}... where {self.sha256[:12]}... is stated"
            )
        return self

    def calibration(self, space: Space) -> Calibration:
        """Return the calibration, which has to be one of this space.

        Raises:
            CalibrationError: the content is no calibration.
            SpaceMismatchError: it was measured with other weights or another alignment.
        """
        found = calibration_of(self.content, self.file)
        try:
            space.require_same(found.space, self.file)
        except SpaceMismatchError as error:
            raise SpaceMismatchError(
                f"calibration {error.args[0].partition(';')[0]}; calibrate this recogniser: facemint calibrate"
            ) from None
        return found


class RecogniserNode(Node):
    """Base of every recogniser's options."""

    calibration: Annotated[CalibrationFile | None, PATH_OR_NOTHING] = None
    """A file that `facemint calibrate` wrote for this recogniser; left out: the one that it ships with."""


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a calibration's content as canonical JSON."""
    return sha256_hex(canonical_json(content))


def calibration_of(content: Mapping[str, Any], where: str) -> Calibration:
    """Return the calibration that a file's content holds; raises CalibrationError where it is none."""
    try:
        found = Calibration.from_dict(content)
        for name, pair in found.pairs.items():
            _require_levels(name, pair.fmr, pair.cos, pair.fnmr)
        for name, blocks in found.one_to_many.items():
            for block in blocks:
                _require_rising(name, block.quantile, block.cos)
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            f"{where}: is no calibration ({type(error).__name__}: {error}); make one with facemint calibrate"
        ) from None


def _require_levels(name: str, fmr: Sequence[float], cos: Sequence[float], fnmr: Sequence[float]) -> None:
    """Raise ValueError unless FMR falls while cosine and FNMR rise, all of them finite."""
    _require_rising(name, [-f for f in fmr], cos)
    if len(fnmr) != len(cos) or not all(0 <= rate <= 1 for rate in (*fmr, *fnmr)):
        raise ValueError(f"{name}: a rate outside [0, 1], or not one per level")


def _require_rising(name: str, places: Sequence[float], cos: Sequence[float]) -> None:
    """Raise ValueError unless places rise, and cosines with them; NaN does neither."""
    rises = all(a < b for a, b in pairwise(places)) and all(a <= b for a, b in pairwise(cos))
    if len(places) != len(cos) or not rises or not all(math.isfinite(v) for v in (*places, *cos)):
        raise ValueError(f"{name}: cosines do not rise with their levels")
