"""FairFace as a measure: estimates of appearance by a ResNet-34, from a state dict that the user has.

Its 18 outputs are three questions, each with a softmax of its own: 7 of perceived race, 2 of gender presentation
(masculine first, where InsightFace's model has feminine first), 9 of apparent age. The order of the first seven is the
model's; the data set on the Hugging Face hub numbers the same words in another order, so that a label from there is no
index here. What is estimated is how a face looks to this model, never who somebody is or says to be.

It was trained on chips that dlib cuts by the eyes and the base of the nose, padded by a quarter and scaled to 224 px:
the alignment `fairface-224`, which shows less forehead and more chin than `arcface-112`. From a crop of the latter the
chip is cut as far as it goes, at half its resolution, and its lowest rows, 9 % of its height, repeat the crop's last
one. That is off its training data, so hand it chips of the photograph where there is one.
Source: K. Karkkainen and J. Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age", WACV 2021;
github.com/dchen236/FairFace (`res34_fair_align_multi_7_20190809.pt`), data and models CC BY 4.0.

Legend: N rows, H W C image axes, L outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.measures.crops import require_faces
from pipeline.domain.landmarks import alignment
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8
from pipeline.domain.weights import Weights, WeightsRef

RACE, PRESENTATION, AGE = "perceived_race_fairface7", "perceived_gender_presentation", "apparent_age_group"
ORDER: Mapping[str, tuple[str, ...]] = {
    RACE: ("white", "black", "latino_hispanic", "east_asian", "southeast_asian", "indian", "middle_eastern"),
    PRESENTATION: ("masculine", "feminine"),
    AGE: ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+"),
}
"""Field -> its values in the order of the model's outputs, field after field."""
HUB_RACES = ("east_asian", "indian", "black", "white", "middle_eastern", "latino_hispanic", "southeast_asian")
"""What the numbers 0 to 6 mean in the data set HuggingFaceM4/FairFace: not the model's order."""
CHIP = "fairface-224"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FairFaceOptions(MeasureNode):
    """FairFace's ResNet-34, as the state dict that its authors publish."""

    use: Literal["fairface"] = "fairface"
    weights: WeightsRef
    alignment: Literal["arcface-112", "fairface-224"] = "arcface-112"
    """What faces are aligned to when they come: `fairface-224` is what it was trained on."""


class FairFace:
    """Implements `ports.Measurer`; `FairFace(options, weights)`. Each face goes through the network alone."""

    attributes = ORDER
    names = tuple(f"{field}={value}" for field, values in ORDER.items() for value in values)
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: FairFaceOptions, weights: Weights) -> None:
        self._ref, self._weights = options.weights, weights
        self.alignment = options.alignment
        self.card = ModelCard(
            name="fairface-resnet34",
            sha256=weights.sha256(options.weights),
            licence="CC-BY-4.0",
            source="github.com/dchen236/FairFace",
            commercial_use=True,
            row_independent=True,
            epoch=1,
        )

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one float64 array of shape (N,) per name; the values of a field sum to 1.

        Raises:
            ModelError: the weights are missing, or of another network.
        """
        require_faces(faces_NHWC)
        rows = [self._outputs(face) for face in faces_NHWC]
        raw_NL = np.asarray(rows, np.float64).reshape(len(faces_NHWC), len(self.names))
        out: dict[str, npt.NDArray[np.float64]] = {}
        at = 0
        for field, values in ORDER.items():
            shares = _softmax(raw_NL[:, at : at + len(values)])
            out |= {f"{field}={value}": shares[:, n] for n, value in enumerate(values)}
            at += len(values)
        return out

    def _outputs(self, face_HWC: UInt8) -> npt.NDArray[np.float32]:
        import torch

        blob_NCHW = torch.from_numpy(chip(face_HWC, self.alignment))[None]
        with torch.inference_mode():
            out: npt.NDArray[np.float32] = self._network(blob_NCHW)[0].numpy()
        return out

    @cached_property
    def _network(self) -> Any:
        import torch

        from pipeline.adapters.measures.resnet34 import ResNet34

        # without memory until the weights come: what it would be filled with is thrown away
        with torch.device("meta"):
            network = ResNet34(len(self.names))
        own = {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        network.load_state_dict(dict(self._weights.tensors(self._ref, own)), strict=False, assign=True)
        return network.eval()


def chip(face_HWC: UInt8, name: str) -> npt.NDArray[np.float32]:
    """Return the chip that the network looks at, float32 CHW, scaled as it was trained, from a crop of an alignment.

    Both alignments differ by a size and a shift alone, so rows and columns are sampled apart, bilinearly; beyond the
    crop its edge goes on.
    """
    height_px, width_px = face_HWC.shape[:2]
    side_px = alignment(CHIP).side_px
    there, here = alignment(CHIP).points_in(side_px, side_px), alignment(name).points_in(width_px, height_px)
    scale = (here[1, 0] - here[0, 0]) / (there[1, 0] - there[0, 0])
    shift = here[:2].mean(axis=0) - scale * there[:2].mean(axis=0)
    across, down = (
        _samples(side_px, scale, float(shift[axis]), size) for axis, size in ((0, width_px), (1, height_px))
    )
    planes_CHW = np.ascontiguousarray(face_HWC.transpose(2, 0, 1)).astype(np.float32) / np.float32(255.0)
    chip_CHW = down @ planes_CHW @ across.T
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (_MEAN, _STD))
    return np.ascontiguousarray((chip_CHW - mean) / std, np.float32)


def _samples(side_px: int, scale: float, shift_px: float, size_px: int) -> npt.NDArray[np.float32]:
    """Return what a pixel of the chip takes of each pixel of a line of the crop, shape (side, size); rows sum to 1."""
    place = np.clip(scale * np.arange(side_px) + shift_px, 0.0, size_px - 1.0)
    low = np.minimum(place.astype(np.int64), size_px - 2)
    taken = np.zeros((side_px, size_px), np.float32)
    rows = np.arange(side_px)
    taken[rows, low] = 1.0 - (place - low)
    taken[rows, low + 1] = place - low
    return taken


def _softmax(scores_NL: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(scores_NL - scores_NL.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)
