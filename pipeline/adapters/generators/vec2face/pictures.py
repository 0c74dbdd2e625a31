"""The convolutional decoder of Vec2Face: a grid of 7 x 7 tokens in, a picture of 112 x 112 pixels out.

Its layers are those of a VQGAN decoder without attention (Esser et al., CVPR 2021), named as in the published
checkpoints. Two things are peculiar to Vec2Face: convolutions of residual blocks have no bias, and where a block
changes the number of channels its shortcut reads the block's own output, so that the input goes no other way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
NORM_EPS = 1e-6
MULTIPLES = (1, 1, 2, 2, 4)
"""Channels of each level, from full size down, in units of the decoder's width."""


class ResBlock(nn.Module):
    """Norm, swish and convolution, twice, added to what came in."""

    def __init__(self, inside: int, outside: int) -> None:
        """Make a block from `inside` to `outside` channels."""
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inside, NORM_EPS)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, outside, NORM_EPS)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(outside, outside, 1, bias=False) if inside != outside else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output; its input does not pass where the number of channels changes."""
        h = self.conv1(F.silu(self.norm1(x_NCHW)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (x_NCHW if self.nin_shortcut is None else self.nin_shortcut(h))
        return out


class Upsample(nn.Module):
    """Doubles the sides by repeating pixels, then convolves: computed on the small picture, in 4/9 of the products.

    Where every pixel stands twice in a row, three taps in that row fall on two different pixels. So each of the four
    pixels that one becomes is a convolution of the small picture with 2 x 2 taps, sums of the 3 x 3.
    """

    def __init__(self, channels: int) -> None:
        """Make the convolution, as checkpoints have it."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self._taps: Tensor | None
        self.register_buffer("_taps", None, persistent=False)

    def fold(self) -> None:
        """Sum the taps for what the weights are now; called when they have loaded, before they are cast."""
        weight = self.conv.weight.detach().double()
        taps = [_pairs(_pairs(weight, 2, down), 3, right) for down in (0, 1) for right in (0, 1)]
        self._taps = torch.cat(taps).to(self.conv.weight.dtype)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the picture at twice the size."""
        if self._taps is None:
            out: Tensor = self.conv(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest"))
            return out
        rows, channels, high, wide = x_NCHW.shape
        assert self.conv.bias is not None
        # one row and one column more than the picture has: each of the four takes its own corner of them
        four = F.conv2d(x_NCHW, self._taps, self.conv.bias.repeat(4), padding=1).permute(0, 2, 3, 1)
        four = four.view(rows, high + 1, wide + 1, 2, 2, channels)
        lines = [
            torch.stack([four[:, down : down + high, right : right + wide, down, right] for right in (0, 1)], dim=3)
            for down in (0, 1)
        ]
        doubled = torch.stack(lines, dim=2).view(rows, 2 * high, 2 * wide, channels)
        return doubled.permute(0, 3, 1, 2)


class Level(nn.Module):
    """Two residual blocks, and the way to the next larger size."""

    def __init__(self, inside: int, outside: int, *, last: bool) -> None:
        """Make a level; the last has the full size already."""
        super().__init__()
        self.block = nn.ModuleList([ResBlock(inside, outside), ResBlock(outside, outside)])
        self.upsample = None if last else Upsample(outside)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the picture of the next level."""
        for block in self.block:
            x_NCHW = block(x_NCHW)
        return x_NCHW if self.upsample is None else self.upsample(x_NCHW)


class Middle(nn.Module):
    """Two residual blocks at the smallest size."""

    def __init__(self, channels: int) -> None:
        """Make the blocks."""
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return what both blocks make of it."""
        out: Tensor = self.block_2(self.block_1(x_NCHW))
        return out


class PictureDecoder(nn.Module):
    """Five levels from a grid of latents to a picture sixteen times as wide."""

    def __init__(self, latent: int, width: int) -> None:
        """Make the layers: `latent` channels in, `width` of them at full size, three out."""
        super().__init__()
        channels = [width * m for m in MULTIPLES]
        self.conv_in = nn.Conv2d(latent, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1])
        insides = [*channels[1:], channels[-1]]
        self.up = nn.ModuleList(Level(insides[n], channels[n], last=n == 0) for n in range(len(channels)))
        self.norm_out = nn.GroupNorm(GROUPS, channels[0], NORM_EPS)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def fold(self) -> None:
        """Prepare the levels' upsampling, once the weights have loaded."""
        for module in self.modules():
            if isinstance(module, Upsample):
                module.fold()

    def forward(self, latent_NCHW: Tensor) -> Tensor:
        """Return pictures_NCHW."""
        x_NCHW = self.mid(self.conv_in(latent_NCHW))
        for level in reversed(self.up):
            x_NCHW = level(x_NCHW)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x_NCHW)))
        return out


def _pairs(weight: Tensor, axis: int, second: int) -> Tensor:
    """Return the two taps, of three along an axis, that the first or second copy of a pixel is made with."""
    before, here, after = weight.unbind(axis)
    return torch.stack([before + here, after] if second else [before, here + after], dim=axis)


__all__ = ["PictureDecoder"]
