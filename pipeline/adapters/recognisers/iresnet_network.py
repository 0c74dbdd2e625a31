"""iResNet, the network of ArcFace and its successors, and the two ways in which published files name its tensors.

Legend: N rows, C channels, H W image axes, E dimensions (512).
Sources: I. C. Duta et al., "Improved Residual Networks for Image and Video Recognition", ICPR 2020, arXiv:2004.04989;
J. Deng et al., "ArcFace", CVPR 2019, arXiv:1801.07698; Q. Meng et al., "MagFace", CVPR 2021, arXiv:2103.06627; M. Kim
et al., "AdaFace", CVPR 2022, arXiv:2204.00964.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Layout = Literal["arcface", "adaface"]
DIMENSIONS = 512
SIDE_PX = 112
STAGES: Mapping[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
"""Depth -> blocks of each stage."""
WIDTHS = (64, 128, 256, 512)
_GRID = SIDE_PX // 16


class Block(nn.Module):
    """Normalise, convolve, normalise, bend, convolve, normalise; plus its input, halved and widened where need be."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, eps: float, pooled: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=eps)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps=eps)
        self.downsample: nn.Module | None = None
        if stride > 1 and pooled and inputs == outputs:
            self.downsample = nn.MaxPool2d(1, stride)
        elif stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs, eps=eps)
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output."""
        out_NCHW = self.prelu(self.bn2(self.conv1(self.bn1(x_NCHW))))
        out_NCHW = self.bn3(self.conv2(out_NCHW))
        kept_NCHW = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        return out_NCHW + kept_NCHW  # type: ignore[no-any-return]


class IResNet(nn.Module):
    """Crops (N, 3, 112, 112), scaled and ordered as the weights expect, to raw features (N, 512).

    The length of a feature means something: with MagFace's and AdaFace's weights it grows with the quality of the face.

    Args:
        depth: 18, 34, 50, 100 or 200.
        layout: whose shortcuts it has: in AdaFace's the first stage halves its input by taking every second pixel,
            in ArcFace's and MagFace's by a convolution.
        eps: of every batch norm: 1e-5, but 2e-5 in MagFace's own code.
    """

    def __init__(self, depth: int, layout: Layout = "arcface", eps: float = 1e-5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0], eps=eps)
        self.prelu = nn.PReLU(WIDTHS[0])
        inputs = WIDTHS[0]
        for number, (width, blocks) in enumerate(zip(WIDTHS, STAGES[depth], strict=True), 1):
            stage = [
                Block(inputs if first else width, width, 2 if first else 1, eps=eps, pooled=layout == "adaface")
                for first in (True, *(False,) * (blocks - 1))
            ]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            inputs = width
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1], eps=eps)
        self.fc = nn.Linear(WIDTHS[-1] * _GRID * _GRID, DIMENSIONS)
        self.features = nn.BatchNorm1d(DIMENSIONS, eps=eps, affine=layout == "arcface")

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Return raw features, float of the network's precision, shape (N, 512)."""
        return self.features(self.fc(self.bn2(self.trunk(faces_NCHW)).flatten(1)))  # type: ignore[no-any-return]

    def trunk(self, faces_NCHW: Tensor) -> Tensor:
        """Return what the last stage gives, shape (N, 512, 7, 7)."""
        x_NCHW = self.prelu(self.bn1(self.conv1(faces_NCHW)))
        for number in range(1, len(WIDTHS) + 1):
            x_NCHW = self.get_submodule(f"layer{number}")(x_NCHW)
        return x_NCHW  # type: ignore[no-any-return]


_BLOCK_PARTS = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")
_OUTER = {
    "conv1": "input_layer.0", "bn1": "input_layer.1", "prelu": "input_layer.2",
    "bn2": "output_layer.0", "fc": "output_layer.3", "features": "output_layer.4",
}  # fmt: skip
_IN_BLOCK = re.compile(r"layer(?P<stage>\d)\.(?P<block>\d+)\.(?P<part>\w+)\.(?P<rest>.+)")


def stored_name(name: str, depth: int, layout: Layout) -> str:
    """Return how files of a layout call one of our tensors: AdaFace numbers all blocks through, and parts by place."""
    if layout == "arcface":
        return name
    found = _IN_BLOCK.fullmatch(name)
    if found is None:
        part, _, rest = name.partition(".")
        return f"{_OUTER[part]}.{rest}"
    number = sum(STAGES[depth][: int(found["stage"]) - 1]) + int(found["block"])
    if found["part"] == "downsample":
        return f"body.{number}.shortcut_layer.{found['rest']}"
    return f"body.{number}.res_layer.{_BLOCK_PARTS.index(found['part'])}.{found['rest']}"


def empty(depth: int, layout: Layout, eps: float) -> IResNet:
    """Return the network without memory for its tensors: their names and shapes."""
    with torch.device("meta"):
        return IResNet(depth, layout, eps)


def stored_shapes(network: IResNet, depth: int, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors that a file of a layout has for this network; step counters left out."""
    return {
        stored_name(name, depth, layout): tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def filled(network: IResNet, tensors: Mapping[str, Tensor], depth: int, layout: Layout) -> IResNet:
    """Return an empty network with a file's tensors, ready to compute: frozen, float32, in evaluation mode."""
    state = {
        name: torch.zeros((), dtype=torch.int64)
        if name.endswith("num_batches_tracked")
        else tensors[stored_name(name, depth, layout)].float()
        for name in network.state_dict()
    }
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


__all__ = ["DIMENSIONS", "SIDE_PX", "STAGES", "IResNet", "Layout", "empty", "filled", "stored_name", "stored_shapes"]
