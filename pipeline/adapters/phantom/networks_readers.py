"""The networks that read faces: three recognisers of different architecture, and the attribute and quality model.

All take pictures as float32 NCHW in -1..1, 3 x 112 x 112. Recognisers return unit vectors (N, 128); they differ on
purpose (residual, depthwise, patch mixer; other stems, pooling, crops), so that what fools one need not fool another.
Batch norms use running statistics outside training, so a row's result does not depend on its neighbours.

Sources: residual nets (He et al. 2016, arXiv:1512.03385); MobileFaceNets (Chen et al. 2018, arXiv:1804.07573); ConvNeXt
(Liu et al. 2022, arXiv:2201.03545) and ConvMixer (Trockman and Kolter 2022, arXiv:2201.09792); margins (CosFace, Wang
et al. 2018, arXiv:1801.09414; ArcFace, Deng et al. 2019, arXiv:1801.07698).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_DIM = 128


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Plain(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.outer = _conv(channels, channels, 3), _conv(channels, channels, 3)
        self.act = nn.ReLU()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.outer(self.act(self.inner(x_NCHW)))  # type: ignore[no-any-return]


def lift(faces_NCHW: Tensor) -> Tensor:
    """Pictures in -1..1 to the logarithm of their light, again in -1..1.

    Light multiplies, so after a logarithm a detail is as strong on dark skin and in shadow as in full light.
    """
    return (1.0 + 3.0 * (faces_NCHW.clamp(-1.0, 1.0) + 1.0)).log() * (2.0 / math.log(7.0)) - 1.0


class ConditioningRecogniser(nn.Module):
    """Residual net; its space is the one the generator is told identities in. Other nets take its body, for as many
    `inputs` (channels of a picture) as they see.
    """

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4), _conv(16 * inputs, 32, 3), nn.ReLU(),
            _conv(32, 72, 3, stride=2), nn.ReLU(), _Plain(72), _Plain(72),
            _conv(72, 128, 3, stride=2), nn.ReLU(), _Plain(128), _Plain(128),
            _conv(128, 32, 1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(32 * 49, EMBEDDING_DIM, bias=False), nn.BatchNorm1d(EMBEDDING_DIM))

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures to unit vectors (N, 128)."""
        return F.normalize(self.head(self.body(lift(faces_NCHW))))


class _Inverted(nn.Module):
    """Widen, filter each channel on its own, narrow; with a shortcut where the shape allows."""

    def __init__(self, inputs: int, outputs: int, widen: int, stride: int = 1) -> None:
        super().__init__()
        hidden = widen * inputs
        self.path = nn.Sequential(
            _conv(inputs, hidden, 1), nn.ReLU(), _conv(hidden, hidden, 3, stride, groups=hidden), nn.ReLU(),
            _conv(hidden, outputs, 1),
        )  # fmt: skip
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW: Tensor = self.path(x_NCHW)
        return x_NCHW + out_NCHW if self.shortcut else out_NCHW


class JudgeRecogniser(nn.Module):
    """Depthwise-separable net with a global depthwise head; decides in filters and separation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 40, 6, stride=4, padding=1, bias=False), nn.BatchNorm2d(40), nn.ReLU(),
            _Inverted(40, 80, 2, stride=2), _Inverted(80, 80, 2), _Inverted(80, 80, 2), _Inverted(80, 112, 2, stride=2),
            _Inverted(112, 112, 3), _Inverted(112, 112, 3),
            _conv(112, 320, 1), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.Sequential(nn.Conv2d(320, 320, 7, groups=320, bias=False), nn.BatchNorm2d(320), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(320, EMBEDDING_DIM, bias=False), nn.BatchNorm1d(EMBEDDING_DIM))

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures to unit vectors (N, 128)."""
        return F.normalize(self.head(self.pool(self.body(faces_NCHW))))


class _Mixer(nn.Module):
    """A block of a patch mixer: a wide filter across places, then two layers across channels, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = _conv(channels, channels, 5, groups=channels)
        self.expand, self.act = nn.Conv2d(channels, 3 * channels, 1), nn.GELU()
        self.contract = _conv(3 * channels, channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.contract(self.act(self.expand(self.across(x_NCHW))))  # type: ignore[no-any-return]


class AuditorRecogniser(nn.Module):
    """Patch mixer over the inner 104 x 104 pixels with attention pooling; used by no filter and no training.

    Overlapping patches on a grid of 26 x 26 are merged two by two; all the mixing is done on 13 x 13 places.
    """

    def __init__(self, fine: int = 64, width: int = 128, depth: int = 6, queries: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, fine, 8, stride=4, padding=2, bias=False), nn.BatchNorm2d(fine), nn.GELU(),
            nn.Conv2d(fine, width, 2, stride=2, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.positions = nn.Parameter(torch.zeros(1, width, 13, 13))
        self.blocks = nn.Sequential(*(_Mixer(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.score, self.value = nn.Linear(width, queries), nn.Linear(width, 2 * width)
        self.head = nn.Sequential(
            nn.Linear(queries * 2 * width, EMBEDDING_DIM, bias=False), nn.BatchNorm1d(EMBEDDING_DIM)
        )

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures to unit vectors (N, 128)."""
        x_NCHW = self.blocks(self.stem(faces_NCHW[:, :, 4:-4, 4:-4]) + self.positions)
        x_NTC = self.norm(x_NCHW.flatten(2).transpose(1, 2))
        share_NQT = self.score(x_NTC).transpose(1, 2).softmax(dim=-1)
        return F.normalize(self.head((share_NQT @ self.value(x_NTC)).flatten(1)))


ATTRIBUTE_TARGETS: tuple[tuple[str, float, float], ...] = (
    ("presentation", 0.5, 0.5),
    ("skin_tone_mst", 5.5, 2.6),
    ("age_years", 49.0, 18.0),
    ("yaw_deg", 0.0, 17.0),
    ("pitch_deg", 0.0, 6.5),
    ("roll_deg", 0.0, 3.5),
    ("light_azimuth_deg", 0.0, 40.0),
    ("light_elevation_deg", 25.0, 15.0),
    ("light_ambient", 0.45, 0.11),
    ("smile", 0.35, 0.3),
    ("mouth_open", 0.2, 0.3),
    ("glasses", 0.5, 0.5),
    ("blur_px", 0.4, 0.5),
    ("noise_sigma", 2.5, 2.0),
    ("occlusion", 0.15, 0.2),
    ("occlusion_forehead", 0.15, 0.3),
    ("occlusion_eyes", 0.15, 0.3),
    ("occlusion_nose", 0.15, 0.3),
    ("occlusion_mouth", 0.15, 0.3),
    ("occlusion_cheeks", 0.15, 0.3),
    ("occlusion_chin", 0.15, 0.3),
    ("sunglasses", 0.5, 0.5),
    ("face_mask", 0.5, 0.5),
    ("hat", 0.5, 0.5),
    ("hand", 0.5, 0.5),
)
"""What the attribute model reads, in output order: name, centre and spread (value = centre + spread * output).

For those of `FLAG_TARGETS` the output is a logit; its sigmoid is the probability. Those of `SHARE_TARGETS` say how much
of the face, and of each of its regions, something hides: 0 none of it, 1 all.
"""
FLAG_TARGETS = ("presentation", "glasses", "sunglasses", "face_mask", "hat", "hand")
SHARE_TARGETS = tuple(name for name, _, _ in ATTRIBUTE_TARGETS if name.startswith("occlusion"))
SPREAD_TARGETS = tuple(name for name, _, _ in ATTRIBUTE_TARGETS if name not in FLAG_TARGETS)
"""Of these the model also says how far off it expects to be: the logarithm of a standard deviation, in units of the
target's own spread."""


class AttributeModel(nn.Module):
    """Residual net that reads attributes, pose, light, expression, sharpness, what is hidden and five landmarks.

    It sees the logarithm of green light beside the three colours, so that lines are as plain on dark skin as on light.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4), _conv(64, 48, 3), nn.ReLU(),
            _conv(48, 80, 3, stride=2), nn.ReLU(), _Plain(80), _Plain(80),
            _conv(80, 112, 3, stride=2), nn.ReLU(), _Plain(112),
            _conv(112, 20, 1), nn.Flatten(), nn.Linear(20 * 49, 128), nn.ReLU(),
        )  # fmt: skip
        self.values, self.points = nn.Linear(128, len(ATTRIBUTE_TARGETS)), nn.Linear(128, 10)
        self.spreads = nn.Linear(128, len(SPREAD_TARGETS))

    def forward(self, faces_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures to standardised values (N, 25), landmarks (N, 5, 2) as shares of the picture's side, and the
        logarithms of the values' spreads (N, 19), those of `SPREAD_TARGETS`.
        """
        hidden = self.body(torch.cat([faces_NCHW, lift(faces_NCHW[:, 1:2])], dim=1))
        points_N52 = 0.5 + 0.1 * self.points(hidden).view(-1, 5, 2)
        return self.values(hidden), points_N52, self.spreads(hidden).clamp(-4.0, 2.0)


RECOGNISERS: dict[str, type[nn.Module]] = {
    "conditioning": ConditioningRecogniser,
    "judge": JudgeRecogniser,
    "auditor": AuditorRecogniser,
}
