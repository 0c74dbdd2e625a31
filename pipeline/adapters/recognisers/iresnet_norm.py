"""The length of a face's feature as a measure: networks trained as MagFace and AdaFace are make it grow with quality.

Sources: Q. Meng et al., "MagFace", CVPR 2021, arXiv:2103.06627 (lengths of 10 to 40); M. Kim et al., "AdaFace", CVPR
2022, arXiv:2204.00964. The number means something within one set of weights alone: give percentiles, not bounds, where
another one may take its place.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.adapters.recognisers.iresnet import FaceNetwork, NetworkOptions
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8
from pipeline.domain.weights import Weights


class IResNetNormOptions(MeasureNode, NetworkOptions):
    """Which network's features are measured."""

    rehearses: ClassVar[Mapping[str, Any]] = {"depth": 18, "device": "cpu"}
    use: Literal["iresnet-norm"] = "iresnet-norm"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,60}$")] = "feature-norm"
    """What the model is called in the record."""
    alignment: Literal["arcface-112", "phantom-112"] = "arcface-112"


class IResNetNorm:
    """Implements `ports.Measurer`: `feature_norm`, 0 and up; NaN where the network gives no number."""

    names = ("feature_norm",)
    attributes: Mapping[str, tuple[str, ...]] = {}
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: IResNetNormOptions, weights: Weights) -> None:
        """Read what is said of the weights; they load at the first batch."""
        self.network = FaceNetwork(options, weights)
        self.card = self.network.card(options.name)
        self.alignment = options.alignment

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return the length of each row's feature, float64 of shape (N,)."""
        if not len(faces_NHWC):
            return {self.names[0]: np.empty(0)}
        raw_NE = self.network.of_faces(faces_NHWC).astype(np.float64)
        return {self.names[0]: np.sqrt(np.einsum("ne,ne->n", raw_NE, raw_NE))}


__all__ = ["IResNetNorm", "IResNetNormOptions"]
