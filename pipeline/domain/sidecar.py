"""A side-car: numbers about the stored images of one unit that were added after it was made.

Its segment stays as it is. A side-car holds what one measure, or one more recogniser, finds in the images that were
accepted; the dataset's digest does not cover it.

Legend: N images, E dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.records import Float32, Measures


@dataclass(frozen=True, slots=True, eq=False)
class SideCar:
    """What was added about one unit's images.

    Attributes:
        unit: name of the unit whose images were read.
        keys: N keys, in the order of the unit's rows.
        measures: per image its numbers; one that came out NaN or infinite is not there, so no filter can pass it.
        embedding_NE: float32 rows of unit length; a row of NaN where an image could not be embedded; shape (N, 0)
            where no recogniser was asked.
        about: who found this: name, model, digest, options, names of the measures; JSON-ready.
    """

    unit: str
    keys: tuple[str, ...]
    measures: tuple[Measures, ...] = field(repr=False)
    embedding_NE: Float32 = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)
