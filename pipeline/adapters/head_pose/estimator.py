"""The yaw of heads, read by 6DRepNet with gradients: a network that loads at its first use.

Legend: N rows, C channels, H W image axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pipeline.domain.section import Section
from pipeline.domain.weights import LoadedAtUse, Weights, WeightsRef

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue over ImageNet, in 0..1: how the network reads pixels."""


class HeadPoseOptions(Section):
    """Which network, with which weights, and which way it counts."""

    weights: WeightsRef
    size: Literal["repvgg-b1g2", "reduced"] = "repvgg-b1g2"
    positive: Literal["left", "right"] = "left"
    """The side of the picture to which a head is turned that the network gives a positive yaw."""


class HeadPoseEstimator:
    """Reads yaws.

    Raises (at first use):
        ModelError: the weights are missing, unsafe, or of another network.
    """

    def __init__(self, options: HeadPoseOptions, weights: Weights) -> None:
        self._options, self._weights = options, weights
        self._network = LoadedAtUse(self._loaded)

    def yaw_deg(self, pictures_NCHW: Tensor) -> Tensor:
        """Return degrees, shape (N,), positive to the right of the picture, of RGB pictures in -1..1.

        Gradients flow to the pictures, never to weights. The network moves to the pictures' device; it computes in
        float32.
        """
        import torch.nn.functional as F

        from pipeline.adapters.head_pose import network as nets

        network = self._network.on(pictures_NCHW.device)
        side = (nets.SIDE_PX, nets.SIDE_PX)
        large = F.interpolate(pictures_NCHW.float(), side, mode="bilinear", align_corners=False)
        mean, std = (large.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        read: Tensor = nets.yaw_deg(nets.rotations(network((large * 0.5 + 0.5 - mean) / std)))
        return read if self._options.positive == "right" else -read

    def _loaded(self) -> Any:
        import torch

        from pipeline.adapters.head_pose import network as nets

        # what is loaded in inference mode could never be differentiated through
        with torch.inference_mode(mode=False):
            network = nets.empty(self._options.size)
            return nets.filled(network, self._weights.tensors(self._options.weights, nets.shapes(network)))


__all__ = ["HeadPoseEstimator", "HeadPoseOptions"]
