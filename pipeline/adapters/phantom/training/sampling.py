"""The shipped generator as one call, everyday conditions to ask it for, and sheets of pictures to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks import (
    CONDITIONS,
    decode_pixels,
    sample_latents,
    scale_conditions,
    sigma_schedule,
)
from pipeline.adapters.phantom.training.augment import jpeg

Array = npt.NDArray[np.floating]
_BATCH = 16


class Generator:
    """The shipped generator as one call, for measuring.

    Args:
        steps: steps of the sampler; None for the card's.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.flow, self.decoder = loading.load_flow(), loading.load_decoder()
        sampler = loading.card()["models"]["generator"]["sampler"]
        self.sigmas = sigma_schedule(steps or int(sampler["steps"]), sampler["shift"])
        self.guidance = float(sampler["guidance"])

    def make(
        self, who_ND: Array, wanted_NK: Array, rng: np.random.Generator, *, one_noise: bool = False
    ) -> npt.NDArray[np.uint8]:
        """Faces (N, 112, 112, 3) of unit vectors and conditions (NaN where absent), through JPEG 95.

        With `one_noise` all begin with the same noise.
        """
        faces = []
        shape = (self.flow.latent_channels, self.flow.latent_side, self.flow.latent_side)
        noise_NCHW = rng.standard_normal((1 if one_noise else len(who_ND), *shape), dtype=np.float32)
        for start in range(0, len(who_ND), _BATCH):
            who = torch.from_numpy(who_ND[start : start + _BATCH].astype(np.float32))
            asked = torch.from_numpy(wanted_NK[start : start + _BATCH].astype(np.float32))
            noise = noise_NCHW[:1].repeat(len(who), axis=0) if one_noise else noise_NCHW[start : start + _BATCH]
            has = (~asked.isnan()).float()
            latents = sample_latents(
                self.flow, torch.from_numpy(noise), who, scale_conditions(asked.nan_to_num()), has,
                sigmas=self.sigmas, guidance=self.guidance,
            )  # fmt: skip
            faces.append(decode_pixels(self.decoder, latents))
        return jpeg(np.concatenate(faces), 95)


def probe_conditions(count: int, rng: np.random.Generator) -> Array:
    """Everyday conditions (count, K): mild pose and light, some smiles, a few glasses."""
    values = {
        "yaw_deg": 12 * rng.standard_normal(count), "pitch_deg": 5 * rng.standard_normal(count),
        "roll_deg": 2 * rng.standard_normal(count), "light_azimuth_deg": 30 * rng.standard_normal(count),
        "light_elevation_deg": 25 + 10 * rng.standard_normal(count), "light_ambient": rng.uniform(0.35, 0.55, count),
        "smile": rng.random(count), "mouth_open": 0.3 * rng.random(count),
        "glasses": (rng.random(count) < 0.1).astype(float), "age_offset_years": np.zeros(count),
    }  # fmt: skip
    return np.stack([values[name] for name, _, _ in CONDITIONS], axis=1)


def contact_sheet(faces_NHWC: npt.NDArray[np.uint8], path: Path, columns: int = 12) -> None:
    """Write faces side by side, for looking at."""
    whole = len(faces_NHWC) // columns * columns or len(faces_NHWC)
    rows = [np.concatenate(list(faces_NHWC[i : i + columns]), axis=1) for i in range(0, whole, min(columns, whole))]
    Image.fromarray(np.concatenate(rows)).save(path)
