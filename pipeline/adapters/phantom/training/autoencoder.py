"""Trains the autoencoder on crops around the face, then the decoder alone on whole pictures, for detail.

Clean, sharp renders only: blurred training pictures teach an L1 loss to blur. Errors near the eyes and mouth count
more (the landmarks are known); the encoder's latents get a little noise, so that the decoder forgives the generator's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom.networks import Decoder, Encoder
from pipeline.adapters.phantom.networks_readers import lift
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.augment import to_input
from pipeline.adapters.phantom.training.config import Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import Drawn, load_draws
from pipeline.adapters.phantom.training.recognition import load_recogniser

CROPS_DRAWS = ("A1", "A2", "A3")  # many pictures of each, dark tones more often than others
_CROP_PX = 64
_LATENT_NOISE = 0.12


class Autoencoder(nn.Module):
    """Encoder and decoder together, as they are trained."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(latent_channels), Decoder(latent_channels)


class Critic(nn.Module):
    """A small patch discriminator: says of each patch of 22 pixels whether it was rendered.

    With `grain` it is shown apart, and larger, what differs from a pixel's neighbours.
    """

    def __init__(self, *, grain: bool = False) -> None:
        super().__init__()
        self.grain = grain
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(24 if grain else 12, 32, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 64, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 1, 1),
        )  # fmt: skip

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures in -1..1 to one value per patch, high for renders."""
        if self.grain:
            faces_NCHW = torch.cat((faces_NCHW, 8.0 * off_neighbours(faces_NCHW)), dim=1)
        return self.layers(faces_NCHW)  # type: ignore[no-any-return]


def off_neighbours(faces_NCHW: Tensor) -> Tensor:
    """What every pixel has above the mean of the nine around it."""
    return faces_NCHW - F.avg_pool2d(faces_NCHW, 3, 1, 1, count_include_pad=False)


def focus(landmarks_N52: npt.NDArray[np.float32], size_px: int = 112) -> Tensor:
    """Weights (N, 1, size, size): 1 anywhere, about 5 on eyes, 3 on nose and mouth."""
    grid = torch.arange(size_px, dtype=torch.float32)
    points = tensor_of(landmarks_N52)
    weight = torch.ones(len(points), size_px, size_px)
    for index, (gain, radius_px) in enumerate(((4.0, 7.0), (4.0, 7.0), (1.5, 8.0), (2.0, 7.0), (2.0, 7.0))):
        x, y = points[:, index, 0, None, None], points[:, index, 1, None, None]
        distance = (grid[None, None, :] - x) ** 2 + 1.6 * (grid[None, :, None] - y) ** 2
        weight = weight + gain * torch.exp(-distance / (2 * radius_px**2))
    return weight[:, None]


def picture_loss(made_NCHW: Tensor, true_NCHW: Tensor, weight_N1HW: Tensor) -> Tensor:
    """Weighted L1 of values and of their differences at one and two pixels (edges matter more than levels)."""
    return 0.5 * (_error(made_NCHW, true_NCHW, weight_N1HW) + _error(lift(made_NCHW), lift(true_NCHW), weight_N1HW))


def _error(made_NCHW: Tensor, true_NCHW: Tensor, weight_N1HW: Tensor) -> Tensor:
    error = made_NCHW - true_NCHW
    loss = (weight_N1HW * error.abs()).mean()
    for gap, share in ((1, 1.0), (2, 0.5)):
        across, down = error[..., gap:] - error[..., :-gap], error[..., gap:, :] - error[..., :-gap, :]
        loss = loss + share * (weight_N1HW[..., gap:] * across.abs()).mean()
        loss = loss + share * (weight_N1HW[..., gap:, :] * down.abs()).mean()
    return loss


def _crops(drawn: Drawn, batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random squares of random pictures, more often around the face, with their weights."""
    rows = rng.choice(len(drawn.owner_N), size=min(batch, len(drawn.owner_N)), replace=False)
    faces, points = drawn.faces_NHWC[rows], drawn.landmarks_N52[rows]
    weights = focus(points)
    spread = 112 - _CROP_PX
    centred = np.clip(rng.normal((24.0, 30.0), 12.0, (len(rows), 2)), 0, spread)
    corner = np.where(rng.random((len(rows), 1)) < 0.25, rng.uniform(0, spread, (len(rows), 2)), centred).astype(int)
    squares = [f[y : y + _CROP_PX, x : x + _CROP_PX] for f, (x, y) in zip(faces, corner, strict=True)]
    masks = [w[:, y : y + _CROP_PX, x : x + _CROP_PX] for w, (x, y) in zip(weights, corner, strict=True)]
    pictures, mask = to_input(np.stack(squares)), torch.stack(masks)
    mirrored = tensor_of(rng.random(len(rows)) < 0.5)[:, None, None, None]
    return torch.where(mirrored, pictures.flip(3), pictures), torch.where(mirrored, mask.flip(3), mask)


def _latents(model: nn.Module, pictures: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Clean latents and noisy ones; the noise is a share of the batch's own spread."""
    clean = model.encoder(pictures)  # type: ignore[operator]
    noise = tensor_of(rng.standard_normal(clean.shape, dtype=np.float32))
    return clean, clean + _LATENT_NOISE * clean.detach().std() * noise


def train_crops(config: Training) -> None:
    """First phase: squares of 64 pixels. It settles the latents, so the flow can train beside the second."""
    drawn, schedule = load_draws(config, CROPS_DRAWS), config.crops
    model = _fresh(config)
    optimiser = loop.adamw(model.parameters(), schedule.rate, 0.01)

    def step(number: int, rng: np.random.Generator) -> dict[str, float]:
        del number
        pictures, weight = _crops(drawn, schedule.batch, rng)
        clean, noisy = _latents(model, pictures, rng)
        loss = picture_loss(model.decoder(noisy), pictures, weight)  # type: ignore[operator]
        _descend(loss + 1e-3 * clean.square().mean(), model, optimiser)
        return {"loss": float(loss.detach())}

    loop.run("crops", config, schedule, step, stream="autoencoder", models={"model": model}, optimisers=[optimiser])


def train_decoder(config: Training) -> None:
    """Second phase: latents stay; the decoder learns whole pictures that recogniser and critic take for renders."""
    drawn, schedule = load_draws(config, CROPS_DRAWS), config.decoder
    model = loop.load_trained(config, "crops", _fresh(config))
    recogniser = load_recogniser(config, "conditioning").requires_grad_(False)
    critic = loop.initialised(Critic, config.rng("decoder", 2**31))
    decoder = model.decoder
    decoding = loop.adamw(decoder.parameters(), schedule.rate, 0.0)  # type: ignore[union-attr]
    judging = torch.optim.AdamW(critic.parameters(), lr=schedule.rate, betas=(0.5, 0.98))

    def step(number: int, rng: np.random.Generator) -> dict[str, float]:
        rows = rng.choice(len(drawn.owner_N), size=min(schedule.batch, len(drawn.owner_N)), replace=False)
        pictures, weight = to_input(drawn.faces_NHWC[rows]), focus(drawn.landmarks_N52[rows])
        with torch.no_grad():
            _, noisy = _latents(model, pictures, rng)
        made = decoder(noisy)  # type: ignore[operator]
        real, fake = critic(pictures), critic(made.detach())
        doubt = (F.relu(1 - real) + F.relu(1 + fake)).mean()
        judging.zero_grad(set_to_none=True)
        doubt.backward()  # type: ignore[no-untyped-call]
        judging.step()
        loss = picture_loss(made, pictures, weight)
        alike = (recogniser(made) * recogniser(pictures)).sum(1).mean()
        # The critic first learns what renders look like; only then is it listened to.
        fooled = 0.03 * min(1.0, max(0, number - 200) / 150) * (-critic(made)).mean()
        _descend(loss + 0.3 * (1 - alike) + fooled, decoder, decoding)  # type: ignore[arg-type]
        return {"loss": float(loss.detach()), "alike_cos": float(alike.detach()), "doubt": float(doubt.detach())}

    models: dict[str, nn.Module] = {"model": model, "critic": critic}
    loop.run("decoder", config, schedule, step, stream="decoder", models=models, optimisers=[decoding, judging])


def _descend(loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def _fresh(config: Training) -> nn.Module:
    made = loop.initialised(lambda: Autoencoder(config.latent_channels), config.rng("autoencoder", 2**31))
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def load_autoencoder(config: Training) -> Autoencoder:
    """Return encoder and the latest decoder there is."""
    newest = next(n for n in ("decoder", "crops") if (config.home / "checkpoints" / f"{n}.pt").exists())
    loaded = loop.load_trained(config, newest, Autoencoder(config.latent_channels))
    assert isinstance(loaded, Autoencoder)
    return loaded


@torch.no_grad()
def encode(config: Training, names: tuple[str, ...]) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """Return latents (N, C, 14, 14) of clean pictures as they come, and their (2, C) mean and spread."""
    model, drawn = load_autoencoder(config), load_draws(config, names)
    parts = [
        model.encoder(to_input(drawn.faces_NHWC[start : start + 16])) for start in range(0, len(drawn.owner_N), 16)
    ]
    latents = torch.cat(parts).contiguous()
    moments = torch.stack([latents.mean((0, 2, 3)), latents.std((0, 2, 3))])
    return latents.half().cpu().numpy(), moments.cpu().numpy()
