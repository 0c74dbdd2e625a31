"""A measure under a labeller's name, so that two models may answer about one attribute in one dataset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.domain.labels import sourced
from pipeline.domain.ports import Measurer
from pipeline.domain.records import UInt8


class Sourced:
    """Implements `ports.Measurer`: another measurer whose names say who answers, `shade@second=dark`.

    Its attributes and their confusion are those of the measurer, under `field@labeller`; the card is unchanged, as the
    model behind it is.
    """

    def __init__(self, measurer: Measurer, labeller: str) -> None:
        """Rename what the measurer gives; raises ValueError where that has a source already."""
        self.measurer, self.labeller, self.card = measurer, labeller, measurer.card
        self.alignment: str | None = getattr(measurer, "alignment", None)
        self._renamed = {name: sourced(name, labeller) for name in measurer.names}
        self.names = tuple(self._renamed.values())
        self.attributes: Mapping[str, tuple[str, ...]] = {
            sourced(field, labeller): values for field, values in measurer.attributes.items()
        }
        self.confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {
            sourced(field, labeller): rows for field, rows in measurer.confusion.items()
        }

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return what the measurer does, under the labeller's names."""
        found = self.measurer.measure(faces_NHWC)
        return {renamed: found[name] for name, renamed in self._renamed.items()}
