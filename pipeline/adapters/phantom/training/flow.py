"""Trains the flow transformer on the latents of draw A, told who each picture shows and how.

Pictures of people at another age are learnt from too. Who somebody is, is told from pictures at their own age alone, so
that an age is asked for and does not slip in with the identity.

With `ranks` 2 a second process computes half of every step; the two halves are added, and since adding two numbers
does not depend on their order, one process doing both halves gives the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from pipeline.adapters.phantom.networks import CONDITIONS, FlowTransformer, scale_conditions
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.autoencoder import encode
from pipeline.adapters.phantom.training.config import AGED_DRAWS, GENERATOR_DRAWS, Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import load_draws
from pipeline.adapters.phantom.training.recognition import embed, load_recogniser

_HALVES = 2
_DROP_ALL, _DROP_IDENTITY, _DROP_CONDITION = 0.08, 0.05, 0.15
_MUON_RATE, _ADAM_RATE = 0.02, 1.5e-3
_FACE_PX = (56.0, 62.0, 24.0)
"""Column, row and radius of where eyes, nose and mouth are in an aligned picture of 112 pixels."""


def prepare(config: Training) -> None:
    """Write what the flow is trained on: latents, their moments, and an embedding of every picture that tells who."""
    path = config.home / "flow_data.npz"
    if path.exists():
        return
    latents, moments = encode(config, (*GENERATOR_DRAWS, *AGED_DRAWS))
    emb_ND = embed(load_recogniser(config, "conditioning"), load_draws(config, GENERATOR_DRAWS).faces_NHWC)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, latents=latents, moments=moments, emb=emb_ND)
    partial.replace(path)


def fresh_flow(config: Training) -> FlowTransformer:
    """Return an untrained flow."""
    rng = config.rng("flow", 2**31)
    made = loop.initialised(lambda: FlowTransformer(latent_channels=config.latent_channels), rng)
    assert isinstance(made, FlowTransformer)
    return made


def load_flow(config: Training) -> FlowTransformer:
    """Return the averaged flow after its last part."""
    loaded = loop.load_trained(config, "likeness", fresh_flow(config), averaged=True)
    assert isinstance(loaded, FlowTransformer)
    return loaded


def velocity_loss(velocity: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error, up to five times as heavy at the face as in the corners, 1 on average.

    What is the best velocity does not depend on weights that are the same for every picture; what the net spends its
    parameters on does.
    """
    side = velocity.shape[-1]
    place = (torch.arange(side) + 0.5) * (112.0 / side)
    column, row, radius = _FACE_PX
    weight = 1.0 + 4.0 * torch.exp(-((place[None] - column) ** 2 + (place[:, None] - row) ** 2) / (2 * radius**2))
    return (weight / weight.mean() * (velocity - wanted).square()).mean()


class Batches:
    """Makes batches of what `prepare` wrote from the generator of a step."""

    def __init__(self, config: Training) -> None:
        with np.load(config.home / "flow_data.npz") as data:
            self.moments = tensor_of(data["moments"])
            self.latents: npt.NDArray[np.float16] = data["latents"]
            self.emb_ND: npt.NDArray[np.float32] = data["emb"]
        own, aged = (load_draws(config, names, faces_too=False) for names in (GENERATOR_DRAWS, AGED_DRAWS))
        self.first_row = np.searchsorted(own.owner_N, np.arange(own.owner_N[-1] + 1))
        self.pictures = np.bincount(own.owner_N)
        self.traits_IT = own.identities_NT[self.first_row]
        self.owner_N = np.concatenate([own.owner_N, owners_of_aged(config)])
        wanted = [np.concatenate([drawn.truth(name) for drawn in (own, aged)]) for name, _, _ in CONDITIONS]
        self.asked_NK: npt.NDArray[np.float32] = np.stack(wanted, axis=1)
        self.wanted_NK = scale_conditions(tensor_of(self.asked_NK))

    def half(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (clean latents, noise, sigma, who, has identity, wanted and mask side by side)."""
        rows = rng.integers(0, len(self.owner_N), size)
        scale = self.moments[:, None, :, None, None]
        clean = (tensor_of(self.latents[rows].astype(np.float32)) - scale[0]) / scale[1]
        noise = tensor_of(rng.standard_normal(clean.shape, dtype=np.float32))
        # Logit-normal times: the middle of the way is the hard part (Esser et al. 2024, arXiv:2403.03206).
        sigma = tensor_of((1 / (1 + np.exp(-rng.standard_normal(size)))).astype(np.float32))
        has = np.ones((size, 1 + len(CONDITIONS)), dtype=np.float32)
        has[rng.random(size) < _DROP_IDENTITY, 0] = 0
        has[:, 1:][rng.random((size, len(CONDITIONS))) < _DROP_CONDITION] = 0
        has[rng.random(size) < _DROP_CONDITION, 1:] = 0
        has[rng.random(size) < _DROP_ALL] = 0
        flags = tensor_of(has)
        asked = torch.cat((self.wanted_NK[rows], flags[:, 1:]), dim=1)
        return clean, noise, sigma, tensor_of(self.template(self.owner_N[rows], rng)), flags[:, 0], asked

    def template(
        self, owners: npt.NDArray[np.int64], rng: np.random.Generator, whole: bool = False
    ) -> npt.NDArray[np.float32]:
        """Templates of one to all pictures of each identity (`whole`: of all): the flow must bear any quality."""
        who = np.empty((len(owners), self.emb_ND.shape[1]), dtype=np.float32)
        for place, owner in enumerate(owners):
            count = self.pictures[owner]
            used = count if whole or rng.random() < 0.6 else int(rng.integers(1, count + 1))
            mean = self.emb_ND[self.first_row[owner] + rng.permutation(count)[:used]].mean(axis=0)
            who[place] = mean / np.linalg.norm(mean)
        return who


def owners_of_aged(config: Training) -> npt.NDArray[np.int64]:
    """Whose the pictures of the aged draws are, numbered as the people of the generator's draws are."""
    begins = np.cumsum([0, *(config.draws[name].identities for name in GENERATOR_DRAWS)])
    aged = [config.draws[name] for name in AGED_DRAWS]
    return np.concatenate(
        [
            begins[GENERATOR_DRAWS.index(draw.people_of)] + np.repeat(np.arange(draw.identities), draw.pictures)
            for draw in aged
        ]
    )


def optimisers_of(flow: FlowTransformer, share: float, *, calm: float = 1.0) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices (at `calm` times its usual rate) and AdamW for everything else."""
    inner = [(n, p) for n, p in flow.named_parameters() if n.startswith("blocks") and p.ndim == 2]
    matrices = [p for n, p in inner if "modulation" not in n]
    chosen = {id(p) for p in matrices}
    muon = loop.Muon(matrices, lr=_MUON_RATE * share * calm)
    return [muon, loop.adamw([p for p in flow.parameters() if id(p) not in chosen], _ADAM_RATE * share, 0.0)]


def train_flow(config: Training, ranks: int = 1) -> None:
    """Train in one process, or in two that share every step."""
    prepare(config)
    if ranks == 1:
        _train(0, 1, config)
        return
    meeting = config.home / "flow.meeting"
    meeting.unlink(missing_ok=True)
    spawn(_train, args=(ranks, config), nprocs=ranks)  # type: ignore[no-untyped-call]


def _train(rank: int, ranks: int, config: Training) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        meeting = (config.home / "flow.meeting").resolve()
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    schedule, batches, flow = config.flow, Batches(config), fresh_flow(config)
    optimisers = optimisers_of(flow, schedule.rate)
    parameters = list(flow.parameters())

    def step(number: int, _: np.random.Generator) -> dict[str, float]:
        losses: list[float] = []
        flow.zero_grad(set_to_none=True)
        for half in range(rank, _HALVES, ranks):
            rng = config.rng("flow", number, half)
            clean, noise, sigma, who, given, asked = batches.half(schedule.batch // _HALVES, rng)
            at = sigma[:, None, None, None]
            wanted, has = asked.chunk(2, dim=1)
            noisy = (1 - at) * clean + at * noise
            velocity = flow(noisy, sigma, who, given, wanted, has)
            loss = velocity_loss(velocity, noise - clean)
            losses.append(float(loss.detach()))
            (loss / _HALVES).backward()  # type: ignore[no-untyped-call]
        if ranks > 1:
            joined = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            dist.all_reduce(joined)
            parts = torch.split(joined, [p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        return {"loss": float(np.mean(losses)), "grad_norm": float(norm)}

    loop.run(
        "flow", config, schedule, step, stream="flow", models={"model": flow}, optimisers=optimisers,
        average=loop.Average(flow), quiet=rank > 0,
    )  # fmt: skip
    if ranks > 1:
        dist.destroy_process_group()
