"""The networks that are trained: a small residual net for the CPU, and IR-SE50.

Pictures are float32 NCHW in -1..1; an embedding is float32 (N, E), not scaled to unit length, because verification
sums those of a picture and of its mirror image before it scales. Batch norms use running statistics outside training,
so that a row's embedding does not depend on its neighbours.

Sources: residual nets (He et al. 2016, arXiv:1512.03385); IR units and the output layer BN-dropout-FC-BN (Deng et al.
2019, arXiv:1801.07698, section 3.1); squeeze and excitation (Hu et al. 2018, arXiv:1709.01507).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.trainers.options import IrSe50Node, SmallNode, TrainingOptions

_IR_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
"""Channels and units of the four stages of a net of 50 layers."""


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class KeyedDropout(nn.Module):
    """Dropout whose mask comes from a generator that is handed in before each step, never from torch's global one."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._generator: torch.Generator | None = None

    def key(self, rng: np.random.Generator, device: torch.device) -> None:
        """Take the next step's draw."""
        self._generator = torch.Generator(device)
        self._generator.manual_seed(int(rng.integers(2**63)))

    def forward(self, x: Tensor) -> Tensor:
        """Drop values in training, and scale the others so that sums stay what they were."""
        if not self.training or not self._share:
            return x
        assert self._generator is not None, "a step begins with key()"
        kept = torch.empty_like(x).bernoulli_(1 - self._share, generator=self._generator)
        return x * kept / (1 - self._share)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.outer = _conv(channels, channels, 3), _conv(channels, channels, 3)
        self.act = nn.PReLU(channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.outer(self.act(self.inner(x_NCHW)))  # type: ignore[no-any-return]


class SmallNet(nn.Module):
    """A residual net whose first step folds pixels into channels, so that no layer runs at full resolution."""

    def __init__(self, node: SmallNode, side_px: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(node.shrink)]
        channels = 3 * node.shrink**2
        for width in node.widths:
            layers += [_conv(channels, width, 3, stride=2), nn.PReLU(width)]
            layers += [_Residual(width) for _ in range(node.blocks)]
            channels = width
        places = (side_px // (node.shrink * 2 ** len(node.widths))) ** 2
        self.body = nn.Sequential(*layers, _conv(channels, 32, 1), nn.Flatten())
        self.head = nn.Sequential(
            KeyedDropout(node.dropout),
            nn.Linear(32 * places, node.embedding, bias=False),
            nn.BatchNorm1d(node.embedding),
        )

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures to embeddings (N, E)."""
        return self.head(self.body(faces_NCHW))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Squeeze and excitation: each channel is weighed by what all channels hold on average."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.up = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        pooled = x_NCHW.mean(dim=(2, 3), keepdim=True)
        return x_NCHW * self.up(F.relu(self.down(pooled))).sigmoid()  # type: ignore[no-any-return]


class _Skipping(nn.Module):
    """Every so-many-th pixel either way: a max pooling of one pixel, whose backward pass is deterministic anywhere."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self._stride = stride

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW[:, :, :: self._stride, :: self._stride]


class _ImprovedUnit(nn.Module):
    """BN, conv, PReLU, conv with the stride, BN, attention; the shortcut skips pixels, or also widens."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            _conv(outputs, outputs, 3, stride),
            _Attention(outputs),
        )
        self.shortcut = _Skipping(stride) if inputs == outputs else _conv(inputs, outputs, 1, stride)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.path(x_NCHW) + self.shortcut(x_NCHW)  # type: ignore[no-any-return]


class IrSe50(nn.Module):
    """The net of the published comparisons: crops of 112 pixels, 7 x 7 places before the output layer."""

    def __init__(self, node: IrSe50Node) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 64, 3), nn.PReLU(64)]
        channels = 64
        for width, units in _IR_STAGES:
            for unit in range(units):
                layers.append(_ImprovedUnit(channels, width, 1 if unit else 2))
                channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels),
            KeyedDropout(node.dropout),
            nn.Flatten(),
            nn.Linear(channels * 49, node.embedding),
            nn.BatchNorm1d(node.embedding),
        )

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures (N, 3, 112, 112) to embeddings (N, E)."""
        return self.head(self.body(faces_NCHW))  # type: ignore[no-any-return]


def build(options: TrainingOptions, rng: np.random.Generator) -> nn.Module:
    """Return the recipe's network with weights drawn from `rng`, on the CPU, ready to train."""
    node = options.network
    if isinstance(node, SmallNode):
        return initialised(lambda: SmallNet(node, options.side_px), rng)
    return initialised(lambda: IrSe50(node), rng)


def initialised(build: Callable[[], nn.Module], rng: np.random.Generator) -> nn.Module:
    """Return a module whose weights come from `rng` alone: He et al. 2015 for matrices and filters, no global draw.

    Gains of norms are 1 and slopes of rectifiers 0.25, biases 0, as their papers say.
    """
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu")
    for module in model.modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            with torch.no_grad():
                _fill(module, name, tensor, rng)
    return model


def _fill(module: nn.Module, name: str, tensor: Tensor, rng: np.random.Generator) -> None:
    if isinstance(module, nn.PReLU):
        tensor.fill_(0.25)
    elif tensor.ndim >= 2:
        drawn = rng.standard_normal(tuple(tensor.shape), dtype=np.float32)
        tensor.copy_(torch.from_numpy(drawn * np.float32(_spread(tensor.shape))))
    else:
        # norms: gain and running variance 1, the rest 0, as the count of batches
        tensor.fill_(1.0 if name in ("weight", "running_var") else 0.0)


def _spread(shape: Sequence[int]) -> float:
    fan_in = int(np.prod(shape[1:]))
    return float((2.0 / fan_in) ** 0.5)


def parameters(model: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in model.parameters())
