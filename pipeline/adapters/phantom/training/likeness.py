"""Teaches the trained flow, through its own sampler, to show the person it was asked for, and as it was asked.

The velocity loss spreads its attention over the whole picture; what makes a person is a few details of it, and least
of all on dark skin, whose pixels differ by little. So here the flow draws pictures as it will be used (guidance, few
steps), the conditioning recogniser says whom they show and the reader how, and the gradient goes back through the last
steps of the sampler (Clark et al. 2024, arXiv:2309.17400). Three things keep the rest as it was: the velocity loss goes
on, samples stay close to those of the flow as it came, and a picture that is alike enough hardly counts. The recogniser
sees mirrored pictures and both see shifted and noisy ones, so that patterns which only please one grid of filters do
not pay. The space is the one that the generator speaks anyway; judge, auditor and attribute model stay out of it.
Who is shown older or younger is asked to look like that age, and less to look like themselves.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom.networks import CONDITIONS, FlowTransformer, sigma_schedule
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.autoencoder import load_autoencoder
from pipeline.adapters.phantom.training.bank import tone_group
from pipeline.adapters.phantom.training.config import Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.flow import Batches, fresh_flow, optimisers_of, velocity_loss
from pipeline.adapters.phantom.training.reader import READS, load_reader, scaled
from pipeline.adapters.phantom.training.recognition import load_recogniser
from pipeline.adapters.phantom.traits import identity_column

_FIRST_STEP = 2  # sampler steps before this one settle pose and light; no gradient goes through them
_SOFTNESS_COS = 0.05
_TONE_SHARES = (0.25, 0.25, 0.5)
_HEED = {"light_ambient": 3.0, "smile": 1.5}  # how strong the soft light is shows least, and would be obeyed least
_AGE = [name for name, _, _ in CONDITIONS].index("age_offset_years")


class _Sampler:
    """Samples with gradients, and says how alike they are."""

    def __init__(self, config: Training, batches: Batches, flow: FlowTransformer) -> None:
        self.flow, self.before = flow, copy.deepcopy(flow).requires_grad_(False)
        self.decoder = load_autoencoder(config).decoder.requires_grad_(False)
        self.decoder.latent_mean.copy_(batches.moments[0])
        self.decoder.latent_spread.copy_(batches.moments[1])
        self.recogniser = load_recogniser(config, "conditioning").requires_grad_(False)
        self.batches, self.enough_cos = batches, config.likeness.enough_cos
        self.sigmas = sigma_schedule(int(config.sampler["steps"]), config.sampler["shift"])
        self.guidance = float(config.sampler["guidance"])
        self.reader = load_reader(config).requires_grad_(False)
        heed = np.array([_HEED.get(name, 1.0) for name, _, _ in READS], np.float32)
        self.heed_R = tensor_of(heed / heed.mean())
        groups = tone_group(batches.traits_IT[:, identity_column("skin_tone_mst")])
        self.members = [m for g in range(3) if len(m := np.flatnonzero(groups == g))]

    def losses(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the likeness that is missing, how far from what was asked, how far the flow moved, cosines (N,)."""
        shares = np.array(_TONE_SHARES[: len(self.members)])
        groups = rng.choice(len(self.members), count, p=shares / shares.sum())
        owners = np.array([rng.choice(self.members[g]) for g in groups])
        who, target = (tensor_of(self.batches.template(owners, rng, whole)) for whole in (False, True))
        rows = rng.integers(0, len(self.batches.wanted_NK), count)
        wanted = self.batches.wanted_NK[rows]
        latents, moved = self._sample(who, wanted, rng)
        pictures = self.decoder(latents).clamp(-1, 1)
        across, down = rng.integers(-2, 3, 2)
        pictures = torch.roll(pictures, (int(down), int(across)), (2, 3))
        grain = tensor_of(rng.standard_normal(pictures.shape, dtype=np.float32))
        pictures = pictures + float(rng.uniform(0, 0.04)) * grain
        read, shown = self.reader(pictures), self._shown(owners, rows)
        strayed = (F.smooth_l1_loss(read, shown, reduction="none", beta=0.1) * self.heed_R).mean()
        cos_N = (self.recogniser(pictures.flip(3) if rng.random() < 0.5 else pictures) * target).sum(1)
        lacking_N = _SOFTNESS_COS * F.softplus((self.enough_cos - cos_N) / _SOFTNESS_COS)
        missing = (lacking_N * (1 - wanted[:, _AGE].abs())).mean()
        return missing, strayed, moved, cos_N.detach()

    def _shown(self, owners: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Tensor:
        """What a reader should find in pictures of `owners` under the conditions of `rows`, (N, len(READS))."""
        asked, people = self.batches.asked_NK[rows], self.batches.traits_IT[owners]
        columns = {name: asked[:, place] for place, (name, _, _) in enumerate(CONDITIONS)}
        columns |= {name: people[:, identity_column(name)] for name in ("skin_tone_mst", "presentation")}
        age = people[:, identity_column("age_years")] + columns["age_offset_years"]
        columns["age_years"] = np.clip(age, 18.0, 80.0)
        return tensor_of(scaled(np.stack([columns[name] for name, _, _ in READS], axis=1)))

    def _sample(self, who: Tensor, wanted: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        n, steps = len(who), len(self.sigmas) - 1
        side, channels = self.flow.latent_side, self.flow.latent_channels
        latents = tensor_of(rng.standard_normal((n, channels, side, side), dtype=np.float32))
        first = int(rng.integers(min(_FIRST_STEP, steps - 1), steps))
        watched = {first, int(rng.integers(0, first)) if first else 0}
        given, absent, moved = torch.ones(n), torch.zeros_like(wanted), torch.zeros(())
        for number, (sigma, following) in enumerate(pairwise(self.sigmas)):
            asked = (latents, torch.full((n,), sigma), who, given, wanted, torch.ones_like(wanted))
            with torch.no_grad():
                free = self.flow(latents.detach(), asked[1], who, 0 * given, wanted, absent)
            with torch.set_grad_enabled(number >= first or number in watched):
                velocity = self.flow(*asked)
            if number in watched:
                with torch.no_grad():
                    as_it_was = self.before(*asked)
                moved = moved + (velocity - as_it_was).square().mean()
            if number < first:
                velocity = velocity.detach()
            latents = latents + (following - sigma) * (free + self.guidance * (velocity - free))
        return latents, moved


def train_likeness(config: Training) -> None:
    """Go on from the trained flow; the result is what is exported."""
    part, batches = config.likeness, Batches(config)
    flow = loop.load_trained(config, "flow", fresh_flow(config), averaged=True).train()
    assert isinstance(flow, FlowTransformer)
    sampler, optimisers = _Sampler(config, batches, flow), optimisers_of(flow, part.schedule.rate, calm=0.3)

    def step(number: int, _: np.random.Generator) -> dict[str, float]:
        rng = config.rng("likeness", number)
        clean, noise, sigma, who, given, asked = batches.half(part.schedule.batch, rng)
        at = sigma[:, None, None, None]
        wanted, has = asked.chunk(2, dim=1)
        velocity = flow((1 - at) * clean + at * noise, sigma, who, given, wanted, has)
        loss = velocity_loss(velocity, noise - clean)
        missing, strayed, moved, cos_N = sampler.losses(part.samples, rng)
        flow.zero_grad(set_to_none=True)
        (loss + missing + part.asked * strayed + part.kept * moved).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        figures = {"loss": loss, "moved": moved, "strayed": strayed, "alike_cos": cos_N.mean()}
        return {name: float(value.detach()) for name, value in figures.items()}

    loop.run(
        "likeness", config, part.schedule, step, stream="likeness", models={"model": flow}, optimisers=optimisers,
        average=loop.Average(flow, keep=0.98),
    )  # fmt: skip
