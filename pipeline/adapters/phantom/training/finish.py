"""Trains the decoder once more, on latents that the finished flow sampled: pictures as sharp as renders, for everybody.

An autoencoder shows what is likely on average, so what cannot be foreseen to the pixel (pores, beards, wrinkles, locks)
comes out smooth, most of all on old and bearded faces. Here every latent was sampled for a person and conditions that
were also rendered, so it is known how much detail the picture should have, and where. Four things are asked: that much
detail, on two scales; detail that a critic takes for a render's, and without the decoder's grid; the person (the
conditioning recogniser says); and, for what is coarser than a few pixels, the picture that the decoder drew before.
What a group of people lacks of its renders' sharpness has a price that rises until it lacks nothing.
Half of every batch are latents of true renders, where the picture itself is known.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom.networks import CONDITIONS, Decoder, sample_latents, scale_conditions, sigma_schedule
from pipeline.adapters.phantom.networks_readers import lift
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.augment import to_input
from pipeline.adapters.phantom.training.autoencoder import (
    Critic,
    encode,
    focus,
    load_autoencoder,
    off_neighbours,
    picture_loss,
)
from pipeline.adapters.phantom.training.config import FINISH_DRAWS, Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import load_draws
from pipeline.adapters.phantom.training.flow import load_flow
from pipeline.adapters.phantom.training.groups import BEARDED, GROUPINGS, grouped
from pipeline.adapters.phantom.training.recognition import embed, load_recogniser
from pipeline.adapters.phantom.training.sharpness import Prices, aims, sharpness

_BATCH = 16
_BLOCK_PX = 8  # what one place of the latents is drawn as
_MORE_BEARDED = 2.5  # one face in eight has a beard, and of all that is smoothed beards are smoothed most
_OLD_YEARS, _HEED = 45.0, 2.2  # what is asked of wrinkled and bearded faces counts for more
_ENOUGH = 6e-4  # of the window's mean light: detail below this is nothing


def detail(faces_NCHW: Tensor) -> list[Tensor]:
    """How much detail there is in squares of 12 pixels, at one and at two pixels: means of the Laplacian's size.

    Relative to the light of the whole picture, since a dark face has the same edges at a smaller size.
    """
    grey = (faces_NCHW.mean(1, keepdim=True) + 1.0) / 2
    grey = grey / (grey.mean((2, 3), keepdim=True) + 0.03)
    found = []
    for coarse in (grey, F.avg_pool2d(grey, 2)):
        inner = 4 * coarse[..., 1:-1, 1:-1] - coarse[..., :-2, 1:-1] - coarse[..., 2:, 1:-1]
        size = (inner - coarse[..., 1:-1, :-2] - coarse[..., 1:-1, 2:]).abs()
        found.append(F.avg_pool2d(size, 12, 6) + _ENOUGH)
    return found


def detail_loss(made_NCHW: Tensor, true_NCHW: Tensor, weight_N1HW: Tensor) -> Tensor:
    """How many times too little or too much detail there is, square by square and on the face as a whole, (N,)."""
    loss_N = torch.zeros(len(made_NCHW))
    for made, true in zip(detail(made_NCHW), detail(true_NCHW), strict=True):
        weight = F.interpolate(weight_N1HW, made.shape[2:], mode="area") - 0.8
        weight = weight / weight.sum((2, 3), keepdim=True)
        loss_N = loss_N + 0.5 * (weight * (made / true).log().abs()).sum((1, 2, 3))
        loss_N = loss_N + ((weight * made).sum((1, 2, 3)) / (weight * true).sum((1, 2, 3))).log().square()
    return loss_N


def grid(faces_NCHW: Tensor) -> Tensor:
    """How strong a pattern is that all pictures share and that repeats with the decoder's blocks: renders have none."""
    n, channels, height, width = faces_NCHW.shape
    blocks = (n, channels, height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX)
    return off_neighbours(faces_NCHW).view(blocks).mean((0, 2, 4)).abs().mean()


@torch.no_grad()
def sample_pool(config: Training) -> None:
    """Write `finish_data.npz`: latents of the finished flow for every picture of the draws, latents of the pictures
    themselves, and their embeddings. Each is sampled for what the other pictures of its person say of them.
    """
    path = config.home / "finish_data.npz"
    if path.exists():
        return
    drawn, flow, rng = load_draws(config, FINISH_DRAWS), load_flow(config), config.rng("finish", 2**31)
    emb_ND = embed(load_recogniser(config, "conditioning"), drawn.faces_NHWC)
    who_ND = tensor_of(others(emb_ND, drawn.owner_N))
    asked_NK = np.stack([drawn.truth(name) for name, _, _ in CONDITIONS], axis=1).astype(np.float32)
    wanted_NK = scale_conditions(tensor_of(asked_NK))
    sigmas = sigma_schedule(int(config.sampler["steps"]), config.sampler["shift"])
    guidance = float(config.sampler["guidance"])
    shape, parts = (flow.latent_channels, flow.latent_side, flow.latent_side), []
    for start in range(0, len(emb_ND), _BATCH):
        who, wanted = who_ND[start : start + _BATCH], wanted_NK[start : start + _BATCH]
        noise = tensor_of(rng.standard_normal((len(who), *shape), dtype=np.float32))
        has = torch.ones_like(wanted)
        parts.append(sample_latents(flow, noise, who, wanted, has, sigmas=sigmas, guidance=guidance))
    encoded, _ = encode(config, FINISH_DRAWS)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, latents=torch.cat(parts).half().cpu().numpy(), encoded=encoded, emb=emb_ND)
    partial.replace(path)


def others(emb_ND: npt.NDArray[np.float32], owner_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return of every picture the unit mean of the other pictures of its person; everybody has two or more."""
    return _unit(_sums(emb_ND, owner_N) - emb_ND)


def _sums(emb_ND: npt.NDArray[np.float32], owner_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.stack([emb_ND[owner_N == owner].sum(0) for owner in range(int(owner_N[-1]) + 1)])[owner_N]


def _unit(vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), dtype=np.float32)


class _Some(NamedTuple):
    """A batch of pictures: their latents, renders, weights of places, templates of whom they show, how much each is
    heeded, which groups each is of, how much more often than evenly it is drawn, and how sharp it should be.
    """

    latents: Tensor
    true_NCHW: Tensor
    weight_N1HW: Tensor
    who_ND: Tensor
    heed_N: Tensor
    member_NG: Tensor
    share_N: Tensor
    aim_N: Tensor


class _Pairs:
    """Makes batches: latents, the renders they belong to, weights of places, and whose they are."""

    def __init__(self, config: Training) -> None:
        drawn = load_draws(config, FINISH_DRAWS)
        with np.load(config.home / "flow_data.npz") as data:
            self.moments = tensor_of(data["moments"])
        with np.load(config.home / "finish_data.npz") as data:
            self.latents: npt.NDArray[np.float16] = data["latents"]
            self.encoded: npt.NDArray[np.float16] = data["encoded"]
            emb_ND: npt.NDArray[np.float32] = data["emb"]
        self.faces_NHWC, self.landmarks_N52 = drawn.faces_NHWC, drawn.landmarks_N52
        self.who_ND = _unit(_sums(emb_ND, drawn.owner_N))
        bearded = drawn.truth("beard") >= BEARDED
        share_N = 1.0 + _MORE_BEARDED * bearded
        self.share_N = share_N / share_N.sum()
        self.heed_N = np.where(bearded | (drawn.truth("age_years") >= _OLD_YEARS), _HEED, 1.0).astype(np.float32)
        members = [places[:, None] == np.arange(len(GROUPINGS[name])) for name, places in grouped(drawn.truth).items()]
        self.member_NG = np.concatenate(members, axis=1).astype(np.float32)
        self.aim_N: npt.NDArray[np.float32]
        """How sharp every sampled picture should come out, once `aim` has said so."""

    @torch.no_grad()
    def aim(self, before: Decoder) -> None:
        """Set how sharp pictures should be, beginning from those that a decoder draws.

        Locks and lines of a sampled picture are others than those of the render it is paired with: the two differ in
        sharpness by a fifth, and a group's mean over a batch by more than groups shall. So every picture's aim is what
        `before` draws of it, and what its groups' renders have beyond that; by group, aims and renders agree.
        """
        drawn, rendered = [], []
        for start in range(0, len(self.latents), _BATCH):
            some = slice(start, start + _BATCH)
            drawn.append(sharpness(before(tensor_of(self.latents[some].astype(np.float32)))))
            rendered.append(sharpness(to_input(self.faces_NHWC[some])))
        drawn_N, rendered_N = (torch.cat(parts).double().cpu().numpy() for parts in (drawn, rendered))
        self.aim_N = aims(drawn_N, rendered_N, self.member_NG)

    def some(self, size: int, rng: np.random.Generator) -> _Some:
        """Return pictures to learn from; the first half of the latents were sampled, the others encoded."""
        count = len(self.latents)
        chosen = rng.choice(count, size=min(size, count), replace=False, p=self.share_N)
        scale = self.moments[:, None, :, None, None]
        half = len(chosen) // 2
        known = (tensor_of(self.encoded[chosen[half:]].astype(np.float32)) - scale[0]) / scale[1]
        noise = tensor_of(rng.standard_normal(known.shape, dtype=np.float32))
        made = tensor_of(self.latents[chosen[:half]].astype(np.float32))
        latents = torch.cat((made, known + 0.1 * noise))
        share_N = (self.share_N[chosen] * count).astype(np.float32)
        return _Some(
            latents, to_input(self.faces_NHWC[chosen]), focus(self.landmarks_N52[chosen]),
            tensor_of(self.who_ND[chosen]), tensor_of(self.heed_N[chosen]), tensor_of(self.member_NG[chosen]),
            tensor_of(share_N), tensor_of(self.aim_N[chosen]),
        )  # fmt: skip


def train_finish(config: Training) -> None:
    """Go on from the trained decoder; the result is what is exported."""
    sample_pool(config)
    pairs, schedule = _Pairs(config), config.finish
    decoder = load_autoencoder(config).decoder
    decoder.latent_mean.copy_(pairs.moments[0])
    decoder.latent_spread.copy_(pairs.moments[1])
    before = copy.deepcopy(decoder).requires_grad_(False)
    pairs.aim(before)
    recogniser = load_recogniser(config, "conditioning").requires_grad_(False)
    critic = loop.initialised(lambda: Critic(grain=True), config.rng("finish", 2**31 + 1))
    decoding = loop.adamw(decoder.parameters(), schedule.rate, 0.0)
    prices = Prices(pairs.member_NG.shape[1]).to(torch.get_default_device())
    judging = torch.optim.AdamW(critic.parameters(), lr=1e-3, betas=(0.5, 0.98))

    def step(number: int, rng: np.random.Generator) -> dict[str, float]:
        latents, true, weight, who, heed_N, member_NG, share_N, aim_N = pairs.some(schedule.batch, rng)
        half = len(latents) // 2
        made = decoder(latents)
        with torch.no_grad():
            old = before(latents[:half])
        doubt = (F.relu(1 - critic(true)) + F.relu(1 + critic(made.detach()))).mean()
        judging.zero_grad(set_to_none=True)
        doubt.backward()  # type: ignore[no-untyped-call]
        judging.step()
        lacking = (heed_N * detail_loss(made, true, weight)).mean()
        exact = picture_loss(made[half:], true[half:], weight[half:])
        kept = (F.avg_pool2d(lift(made[:half]), 4) - F.avg_pool2d(lift(old), 4)).abs().mean()
        alike = (recogniser(made) * who).sum(1).mean()
        fooled = -critic(made).mean()
        smooth_N = (aim_N[:half] - sharpness(made[:half])) / aim_N.mean()
        cost = prices.cost(smooth_N, member_NG[:half])
        prices.rise(smooth_N, member_NG[:half], share_N[:half])
        share = min(1.0, max(0, number - 100) / 150)  # the critic first learns what renders look like
        pattern = grid(made)
        loss = (
            0.7 * lacking + 0.4 * exact + 2.0 * kept + 0.5 * (1 - alike) + 80.0 * pattern + 0.06 * share * fooled + cost
        )
        decoding.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        decoding.step()
        figures = {
            "lacking": lacking,
            "smooth": smooth_N.mean(),
            "exact": exact,
            "kept": kept,
            "alike_cos": alike,
            "grid": pattern,
            "doubt": doubt,
        }
        return {name: float(value.detach()) for name, value in figures.items()}

    models: dict[str, nn.Module] = {"model": decoder, "critic": critic, "prices": prices}
    loop.run("finish", config, schedule, step, stream="finish", models=models, optimisers=[decoding, judging])


def load_finished(config: Training) -> Decoder:
    """Return the decoder of standardised latents as it is shipped."""
    loaded = loop.load_trained(config, "finish", Decoder(config.latent_channels))
    assert isinstance(loaded, Decoder)
    return loaded
