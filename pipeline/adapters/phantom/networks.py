"""The phantom generator's networks: a convolutional autoencoder and a flow-matching transformer over its latents.

Shapes: N rows, H x W pixels, C channels, T tokens, D the identity vector's length, K conditions. Pictures are float32
NCHW in -1..1. Every operation treats a row of the batch on its own (no batch statistics), at training time too.

Sources: latent diffusion (Rombach et al. 2022, arXiv:2112.10752); rectified flow (Liu et al. 2022, arXiv:2209.03003);
transformer with zero-initialised adaptive norms (Peebles and Xie 2022, arXiv:2212.09748); classifier-free guidance
(Ho and Salimans 2022, arXiv:2207.12598). The time convention is that of diffusers' `FlowMatchEulerDiscreteScheduler`:
sigma 1 is noise, sigma 0 is data, velocity = noise - data. Its Euler step is one line, and importing it costs three
seconds in every worker, so the line stands here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONDITIONS: tuple[tuple[str, float, float], ...] = (
    ("yaw_deg", -45.0, 45.0),
    ("pitch_deg", -20.0, 20.0),
    ("roll_deg", -10.0, 10.0),
    ("light_azimuth_deg", -90.0, 90.0),
    ("light_elevation_deg", -10.0, 60.0),
    ("light_ambient", 0.2, 0.7),
    ("smile", 0.0, 1.0),
    ("mouth_open", 0.0, 1.0),
    ("glasses", 0.0, 1.0),
    ("age_offset_years", -20.0, 20.0),
)
"""What the generator can be asked for besides who it is: name, lowest and highest value (units in the name)."""


class PositionNorm(nn.Module):
    """Layer norm over the channels of each position (N, C, H, W): free of batch and of picture size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Normalise; a channels-last input stays channels-last."""
        x_NHWC = x_NCHW.permute(0, 2, 3, 1)
        return F.layer_norm(x_NHWC, self.weight.shape, self.weight, self.bias, 1e-5).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PositionNorm(channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.outer.weight, std=0.2 / math.sqrt(9 * channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.outer(F.silu(self.inner(self.norm(x_NCHW))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Pictures (N, 3, H, W) to latents (N, latent_channels, H/8, W/8). Needed for training only."""

    def __init__(self, latent_channels: int, widths: Sequence[int] = (64, 112)) -> None:
        super().__init__()
        low, high = widths
        self.stem = nn.Conv2d(48, low, 3, padding=1)
        self.down = nn.Conv2d(4 * low, high, 1)
        self.coarse = nn.Sequential(_Residual(high), _Residual(high))
        self.out = nn.Conv2d(high, latent_channels, 1)

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """float32 pictures in -1..1 to latents of about unit variance (not standardised)."""
        x_NCHW = F.silu(self.stem(F.pixel_unshuffle(faces_NCHW, 4)))
        return self.out(self.coarse(self.down(F.pixel_unshuffle(x_NCHW, 2))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latents (N, latent_channels, h, w) to pictures (N, 3, 8h, 8w); no convolution runs at full resolution."""

    latent_mean: Tensor
    latent_spread: Tensor

    def __init__(self, latent_channels: int, widths: Sequence[int] = (96, 64, 32)) -> None:
        super().__init__()
        low, middle, high = widths
        # Latents arrive standardised; training leaves these at 0 and 1, the exported weights hold the true moments.
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_spread", torch.ones(latent_channels))
        self.stem = nn.Conv2d(latent_channels, low, 3, padding=1)
        self.coarse = nn.Sequential(_Residual(low), _Residual(low))
        self.up_middle = nn.Conv2d(low, 4 * middle, 1)
        self.middle = _Residual(middle)
        self.up_high = nn.Conv2d(middle, 4 * high, 1)
        self.high = _Residual(high)
        self.norm = PositionNorm(high)
        self.out = nn.Conv2d(high, 12, 3, padding=1)

    def forward(self, latents_NCHW: Tensor) -> Tensor:
        """Latents to float32 pictures, nominally in -1..1 (not clamped)."""
        raw_NCHW = latents_NCHW * self.latent_spread[:, None, None] + self.latent_mean[:, None, None]
        x_NCHW = self.coarse(self.stem(raw_NCHW))
        x_NCHW = self.middle(F.pixel_shuffle(self.up_middle(x_NCHW), 2))
        x_NCHW = self.high(F.pixel_shuffle(self.up_high(x_NCHW), 2))
        return F.pixel_shuffle(self.out(F.silu(self.norm(x_NCHW))), 2)


class _Block(nn.Module):
    """One transformer block whose norms are scaled, shifted and gated by the condition vector."""

    def __init__(self, width: int, heads: int, condition_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.expand = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(3 * width, width)
        self.modulation = nn.Linear(condition_width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_NTC: Tensor, condition_NC: Tensor) -> Tensor:
        n, t, c = x_NTC.shape
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition_NC)[:, None].chunk(6, dim=-1)
        h_NTC = F.layer_norm(x_NTC, (c,)) * (1 + scale_a) + shift_a
        q, k, v = self.qkv(h_NTC).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        # Unit-variance queries and keys keep the attention logits bounded under large updates.
        q, k = F.rms_norm(q, (c // self.heads,)), F.rms_norm(k, (c // self.heads,))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x_NTC = x_NTC + gate_a * self.mix(mixed)
        h_NTC = F.layer_norm(x_NTC, (c,)) * (1 + scale_m) + shift_m
        return x_NTC + gate_m * self.contract(F.relu(self.expand(h_NTC)).square())  # type: ignore[no-any-return]


class FlowTransformer(nn.Module):
    """The velocity of a noisy latent, given who it is and how it should look; each condition may be absent."""

    def __init__(
        self,
        *,
        latent_channels: int,
        latent_side: int = 14,
        identity_dim: int = 128,
        width: int = 192,
        depth: int = 5,
        heads: int = 6,
        condition_width: int = 160,
        extra_tokens: int = 3,
    ) -> None:
        super().__init__()
        self.latent_channels, self.latent_side, self.identity_dim = latent_channels, latent_side, identity_dim
        self.extra_tokens = extra_tokens
        tokens = (latent_side // 2) ** 2
        self.patch_in = nn.Linear(4 * latent_channels, width)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(1, tokens + extra_tokens, width), std=0.02))
        self.no_identity = nn.Parameter(torch.zeros(identity_dim))
        self.time_in = nn.Sequential(
            nn.Linear(64, condition_width), nn.SiLU(), nn.Linear(condition_width, condition_width)
        )
        self.identity_in = nn.Linear(identity_dim + 2 * len(CONDITIONS), 2 * condition_width)
        self.identity_out = nn.Linear(2 * condition_width, condition_width)
        self.identity_tokens = nn.Linear(2 * condition_width, extra_tokens * width)
        self.blocks = nn.ModuleList(_Block(width, heads, condition_width) for _ in range(depth))
        self.last_modulation = nn.Linear(condition_width, 2 * width)
        self.patch_out = nn.Linear(width, 4 * latent_channels)
        for layer in (self.last_modulation, self.patch_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        noisy_NCHW: Tensor,
        sigma_N: Tensor,
        identity_ND: Tensor,
        has_identity_N: Tensor,
        wanted_NK: Tensor,
        has_NK: Tensor,
    ) -> Tensor:
        """Velocity (noise - data) of `noisy_NCHW`, same shape.

        Args: `sigma_N` 0..1; `identity_ND` unit vectors; `has_identity_N`, `has_NK` 1.0 where given, 0.0 where absent;
        `wanted_NK` conditions scaled to -1..1 (see `scale_conditions`).
        """
        has_N1 = has_identity_N[:, None]
        who_ND = has_N1 * identity_ND * math.sqrt(self.identity_dim) + (1 - has_N1) * self.no_identity
        asked_NC = F.silu(self.identity_in(torch.cat((who_ND, wanted_NK * has_NK, has_NK), dim=1)))
        condition_NC = F.silu(self.identity_out(asked_NC) + self.time_in(_fourier(sigma_N, 64)))
        n, side, c = len(noisy_NCHW), self.latent_side // 2, self.latent_channels
        patches = noisy_NCHW.view(n, c, side, 2, side, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, side * side, 4 * c)
        extra_NTC = self.identity_tokens(asked_NC).view(n, self.extra_tokens, -1)
        x_NTC = torch.cat((extra_NTC, self.patch_in(patches)), dim=1) + self.positions
        for block in self.blocks:
            x_NTC = block(x_NTC, condition_NC)
        shift, scale = self.last_modulation(condition_NC)[:, None].chunk(2, dim=-1)
        x_NTC = F.layer_norm(x_NTC[:, self.extra_tokens :], x_NTC.shape[-1:]) * (1 + scale) + shift
        out = self.patch_out(x_NTC).view(n, side, side, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(n, c, self.latent_side, self.latent_side)  # type: ignore[no-any-return]


def _fourier(sigma_N: Tensor, size: int) -> Tensor:
    rates = torch.exp(torch.linspace(math.log(1.0), math.log(200.0), size // 2, dtype=torch.float32))
    angle = sigma_N[:, None] * rates.to(sigma_N.device)
    return torch.cat((angle.cos(), angle.sin()), dim=1)


def scale_conditions(values_NK: Tensor) -> Tensor:
    """Conditions in their own units (columns as in `CONDITIONS`) to -1..1, clamped to the trained range."""
    low = torch.tensor([low for _, low, _ in CONDITIONS], dtype=torch.float32)
    high = torch.tensor([high for _, _, high in CONDITIONS], dtype=torch.float32)
    return (2 * (values_NK - low) / (high - low) - 1).clamp(-1, 1)


def sigma_schedule(steps: int, shift: float = 1.0) -> list[float]:
    """`steps + 1` values from 1 down to 0; `shift` > 1 spends more steps near the noise (diffusers' static shift)."""
    even = [1 - step / steps for step in range(steps + 1)]
    return [shift * sigma / (1 + (shift - 1) * sigma) for sigma in even]


@torch.no_grad()
def sample_latents(
    flow: FlowTransformer,
    noise_NCHW: Tensor,
    identity_ND: Tensor,
    wanted_NK: Tensor,
    has_NK: Tensor,
    *,
    sigmas: Sequence[float],
    guidance: float,
) -> Tensor:
    """Standardised latents from noise by Euler steps along the guided velocity; nothing is drawn in here.

    Args: `noise_NCHW` standard normal; `identity_ND` unit vectors; `wanted_NK` scaled to -1..1; `has_NK` 1.0 where
    the condition is asked for; `guidance` 1 follows the conditional velocity, above 1 leads away from the free one.
    """
    n, guided = len(noise_NCHW), guidance != 1.0
    latents_NCHW = noise_NCHW
    who, asked, has = identity_ND, wanted_NK, has_NK
    given_N = torch.ones(n)
    if guided:
        who, asked = who.repeat(2, 1), asked.repeat(2, 1)
        has, given_N = torch.cat((has, torch.zeros_like(has))), torch.cat((given_N, torch.zeros(n)))
    for sigma, following in pairwise(sigmas):
        doubled = latents_NCHW.repeat(2, 1, 1, 1) if guided else latents_NCHW
        velocity = flow(doubled, torch.full((len(doubled),), sigma), who, given_N, asked, has)
        if guided:
            wanted, free = velocity.chunk(2)
            velocity = free + guidance * (wanted - free)
        latents_NCHW = latents_NCHW + (following - sigma) * velocity
    return latents_NCHW


@torch.no_grad()
def decode_pixels(decoder: Decoder, latents_NCHW: Tensor) -> npt.NDArray[np.uint8]:
    """Standardised latents to uint8 RGB faces (N, H, W, 3), rounded and clamped."""
    shades = ((decoder(latents_NCHW).permute(0, 2, 3, 1) + 1.0) * 127.5).round().clamp(0, 255)
    faces_NHWC: npt.NDArray[np.uint8] = shades.to(torch.uint8).contiguous().numpy()
    return faces_NHWC
