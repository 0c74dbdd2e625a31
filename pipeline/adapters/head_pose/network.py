"""6DRepNet: a RepVGG network, folded for use, that gives a head's rotation as six numbers.

Legend: N rows, C channels, H W image axes.
Sources: T. Hempel et al., "6D Rotation Representation for Unconstrained Head Pose Estimation", ICIP 2022,
arXiv:2202.12555; X. Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, arXiv:2101.03697 (B1g2:
table 2 and section 3.4, every second layer in two groups); Y. Zhou et al., "On the Continuity of Rotation
Representations in Neural Networks", CVPR 2019, arXiv:1812.07035.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = Literal["repvgg-b1g2", "reduced"]
SIDE_PX = 224
BLOCKS: Mapping[Size, tuple[int, int, int, int]] = {"repvgg-b1g2": (4, 6, 16, 1), "reduced": (1, 1, 1, 1)}
WIDTHS: Mapping[Size, tuple[int, int, int, int, int]] = {
    "repvgg-b1g2": (64, 128, 256, 512, 2048),
    "reduced": (8, 8, 16, 16, 32),
}
"""Channels of the first layer and of the four stages."""
SIX = 6


class Block(nn.Module):
    """A convolution of 3 x 3 and what bends it: what is left of a RepVGG block whose branches were folded into one."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.rbr_reparam = nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu(self.rbr_reparam(x_NCHW))


class HeadPose(nn.Module):
    """Faces (N, 3, 224, 224), scaled as ImageNet's are, to six numbers each; named as in the published file."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        first, *widths = WIDTHS[size]
        self.layer0 = Block(3, first, 2, 1)
        inputs, number = first, 1
        for stage, (width, blocks) in enumerate(zip(widths, BLOCKS[size], strict=True), 1):
            made = []
            for block in range(blocks):
                # layers count on over the stages, and those of even number have two groups
                made.append(Block(inputs, width, 1 if block else 2, 1 if number % 2 else 2))
                inputs, number = width, number + 1
            self.add_module(f"layer{stage}", nn.Sequential(*made))
        self.linear_reg = nn.Linear(inputs, SIX)

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Return the six numbers of each row, shape (N, 6)."""
        x_NCHW = self.layer0(faces_NCHW)
        for stage in range(1, 5):
            x_NCHW = self.get_submodule(f"layer{stage}")(x_NCHW)
        return self.linear_reg(x_NCHW.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def rotations(six_N6: Tensor) -> Tensor:
    """Return the rotation matrices (N, 3, 3) that six numbers stand for: two columns, made perpendicular; a third."""
    first, second = six_N6[:, :3], six_N6[:, 3:]
    x_N3 = F.normalize(first, dim=1)
    z_N3 = F.normalize(torch.linalg.cross(x_N3, second, dim=1), dim=1)
    y_N3 = torch.linalg.cross(z_N3, x_N3, dim=1)
    return torch.stack((x_N3, y_N3, z_N3), dim=2)


def yaw_deg(rotations_N33: Tensor) -> Tensor:
    """Return the angle about the second axis, of the angles z-y-x of rotations, degrees from -90 to 90, shape (N,)."""
    level = torch.hypot(rotations_N33[:, 0, 0], rotations_N33[:, 1, 0])
    return torch.rad2deg(torch.atan2(-rotations_N33[:, 2, 0], level))


def empty(size: Size) -> HeadPose:
    """Return the network without memory for its tensors: their names and shapes."""
    with torch.device("meta"):
        return HeadPose(size)


def shapes(network: HeadPose) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of its tensors."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def filled(network: HeadPose, tensors: Mapping[str, Tensor]) -> HeadPose:
    """Return an empty network with a file's tensors, ready to compute: frozen, float32, in evaluation mode."""
    network.load_state_dict({name: tensors[name].float() for name in network.state_dict()}, assign=True)
    return network.eval().requires_grad_(False)


__all__ = ["BLOCKS", "SIDE_PX", "WIDTHS", "HeadPose", "Size", "empty", "filled", "rotations", "shapes", "yaw_deg"]
