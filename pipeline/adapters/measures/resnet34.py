"""ResNet-34 with any number of outputs, its tensors named as torchvision names them: what published state dicts hold.

Source: K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1, 34 layers.

Legend: N rows, C channels, H W image axes, L outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTHS, _BLOCKS = (64, 128, 256, 512), (3, 4, 6, 3)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a way past them, which is widened where they are."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x_NCHW)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x_NCHW))


class ResNet34(nn.Module):
    """Float32 pictures NCHW in, `outputs` numbers each out; in evaluation a row depends on nothing but itself."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for number, (width, blocks) in enumerate(zip(_WIDTHS, _BLOCKS, strict=True)):
            layers = [_Block(inputs if n == 0 else width, width, 2 if n == 0 and number else 1) for n in range(blocks)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*layers))
            inputs = width
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return one row of L numbers per picture."""
        x_NCHW = self.maxpool(torch.relu(self.bn1(self.conv1(x_NCHW))))
        for number in range(len(_WIDTHS)):
            x_NCHW = getattr(self, f"layer{number + 1}")(x_NCHW)
        out: Tensor = self.fc(x_NCHW.mean(dim=(2, 3)))
        return out
