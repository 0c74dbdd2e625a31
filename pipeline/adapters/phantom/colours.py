"""Colours of phantoms in linear light: Monk skin tones, hair, eyes, lips, and the fixed noise texture."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch.nn import functional

from pipeline.adapters.phantom.heads import Tensor, Traits, smoothstep

_MONK = ["f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420"]
HAIR_SRGB = ["1a1615", "2e201a", "50351f", "7a3f24", "9a7245", "cfae76"]
_EYES = ["2a1710", "4e2c17", "7a5a2c", "5d7a45", "4a7ba6", "8a9aa6"]
_GREY_HAIR = "b4b2b0"


def to_linear(srgb: Tensor) -> Tensor:
    """sRGB values 0..1 to linear light."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light (clipped to 0..1) to sRGB values 0..1."""
    v = linear.clamp(0.0, 1.0)
    return torch.where(v <= 0.0031308, v * 12.92, 1.055 * v.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _linear_table(codes: list[str], device: torch.device) -> Tensor:
    rows = [[int(code[i : i + 2], 16) / 255.0 for i in (0, 2, 4)] for code in codes]
    return to_linear(torch.tensor(rows, dtype=torch.float32, device=device))


def ramp(codes: list[str], position_N1: Tensor) -> Tensor:
    """Linear-light (N, 3) colours at position 0..1 along evenly spaced sRGB hex codes."""
    table = _linear_table(codes, position_N1.device)
    place = position_N1.squeeze(1).clamp(0.0, 1.0) * (len(codes) - 1)
    index = place.floor().clamp(max=len(codes) - 2).long()
    share = (place - index).unsqueeze(1)
    return table[index] * (1.0 - share) + table[index + 1] * share


def skin_colour(t: Traits) -> Tensor:
    """Albedo (N, 3), linear: the Monk swatch, moved a little along warm-cool by the undertone.

    The lightest swatches are near paper white and the darkest near neutral black as printed; skin in a
    photograph keeps some red in both, so every tone gets the same small warm shift in ratio.
    """
    base = ramp(_MONK, (t["skin_tone_mst"] - 1.0) / 9.0)
    u = t["undertone"]
    warm = torch.cat([1.0 + 0.02 * u, 1.0 - 0.01 * u, 1.0 - 0.09 * u], dim=1)
    dark = smoothstep(7.5, 9.5, t["skin_tone_mst"])
    fair = smoothstep(4.5, 2.5, t["skin_tone_mst"])
    red = torch.cat([1.0 + 0.42 * dark, 0.85 + 0.07 * dark - 0.05 * fair, 0.80 - 0.06 * dark - 0.10 * fair], dim=1)
    return base * warm * red


def hair_colour(t: Traits) -> Tensor:
    """Hair albedo (N, 3), linear, before grey."""
    return ramp(HAIR_SRGB, t["hair_colour"])


def grey_colour(t: Traits) -> Tensor:
    """Grey hair albedo (N, 3), linear."""
    return ramp([_GREY_HAIR, _GREY_HAIR], t["hair_colour"])


def iris_colour(t: Traits) -> Tensor:
    """Iris albedo (N, 3), linear."""
    return ramp(_EYES, t["eye_colour"])


def lip_colour(t: Traits, skin_N3: Tensor) -> Tensor:
    """Natural lip albedo (N, 3): rosy over light skin, plum to rose over dark skin, never the skin's own colour."""
    hue, dark = t["lip_hue"], smoothstep(5.0, 9.0, t["skin_tone_mst"])
    light = torch.cat([0.80 + 0.04 * hue, 0.50 - 0.12 * hue, 0.50 - 0.04 * hue], dim=1)
    deep = torch.cat([1.12 + 0.45 * hue, 0.74 + 0.1 * hue, 0.86 + 0.22 * hue], dim=1)
    return skin_N3 * (light + dark * (deep - light)) + dark * 0.008


@functools.cache
def _texture(device: torch.device) -> Tensor:
    """A fixed tile (1, 4, 257, 257) of smooth noise, each channel with mean 0 and standard deviation 1."""
    # A constant of the world, not a draw: the same tile for every phantom, run and machine.
    rng = np.random.Generator(np.random.PCG64(7))
    freq = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
    channels = []
    for cutoff in (0.30, 0.15, 0.07, 0.03):
        spectrum = np.fft.fft2(rng.standard_normal((256, 256))) * np.exp(-((freq / cutoff) ** 2))
        wave = np.fft.ifft2(spectrum).real
        wave = (wave - wave.mean()) / wave.std()
        channels.append(np.pad(wave, ((0, 1), (0, 1)), mode="wrap"))
    return torch.tensor(np.stack(channels)[None], dtype=torch.float32, device=device)


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Fixed noise (N, 4, P) at texture coordinates u, v (N, P), period 1; channel 0 is finest."""
    grid = torch.stack([u - u.floor(), v - v.floor()], dim=-1) * 2.0 - 1.0
    tile = _texture(u.device).expand(u.shape[0], -1, -1, -1)
    return functional.grid_sample(tile, grid.unsqueeze(1), mode="bilinear", align_corners=True).squeeze(2)
