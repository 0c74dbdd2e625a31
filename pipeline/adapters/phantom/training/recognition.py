"""Trains the three recognisers, each on its own draws with its own margin, and embeds pictures with a trained one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom import traits
from pipeline.adapters.phantom.networks_readers import EMBEDDING_DIM, RECOGNISERS
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.augment import roughen, to_input
from pipeline.adapters.phantom.training.config import Schedule, Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import Drawn, load_draws

_SCALE = 24.0
_PER_IDENTITY = 3  # pictures of one identity in a batch, so that genuine pairs meet


class _Classes(nn.Module):
    """One unit direction per training identity, and a reader of `reads` traits; thrown away after training."""

    def __init__(self, count: int, reads: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(F.normalize(nn.init.normal_(torch.empty(count, EMBEDDING_DIM))))
        self.read = nn.Linear(EMBEDDING_DIM, reads)


def cosface(cos_NI: Tensor, owner_N: Tensor, margin: float) -> Tensor:
    """Subtract the margin from the own class's cosine (Wang et al. 2018)."""
    return cos_NI - margin * F.one_hot(owner_N, cos_NI.shape[1])


def arcface(cos_NI: Tensor, owner_N: Tensor, margin: float) -> Tensor:
    """Add the margin to the own class's angle (Deng et al. 2019)."""
    own = cos_NI.gather(1, owner_N[:, None]).clamp(-0.999, 0.999)
    # Past pi - margin the cosine would rise again; there a straight line goes on.
    turned = torch.where(own > -math.cos(margin), (own.acos() + margin).cos(), own - margin * math.sin(margin))
    return cos_NI.scatter(1, owner_N[:, None], turned)


_MARGINS: dict[str, tuple[Callable[[Tensor, Tensor, float], Tensor], float]] = {
    "conditioning": (cosface, 0.35),
    "judge": (arcface, 0.40),
    "auditor": (cosface, 0.30),
}
_TRAIT_SHARE = 20.0
"""Weight of reading the identity's exact traits off the vector: the most of what a net learns, so that it is not bound
to the identities it was trained on, and a vector says all that makes a person."""
_SIDED = ("hair_part", "mole_x")  # a mirrored picture has the other sign, so only the size counts


def _standard_traits(drawn: Drawn) -> Tensor:
    """Return the identity's fields of every picture, (N, T), each with mean 0 and spread 1 over the draw."""
    values = drawn.identities_NT.copy()
    sided = [traits.identity_column(name) for name in _SIDED]
    values[:, sided] = np.abs(values[:, sided])
    return tensor_of((values - values.mean(0)) / values.std(0).clip(1e-3))


def train_recogniser(config: Training, role: str) -> None:
    """Train one recogniser in its rounds; each later one starts with every class at the mean of its pictures."""
    rng = config.rng(role, 2**31)
    model = loop.initialised(RECOGNISERS[role], rng).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rounds = config.recognisers[role]
    for number, part in enumerate(rounds):
        drawn = load_draws(config, part.draws)
        reads = drawn.identities_NT.shape[1]
        classes = loop.initialised(functools.partial(_Classes, int(drawn.owner_N[-1]) + 1, reads), rng)
        assert isinstance(classes, _Classes)
        name = role if part is rounds[-1] else f"{role}-{number + 1}"
        if number and not (config.home / "checkpoints" / f"{name}.pt").exists():
            _centre_classes(drawn, model, classes)
        optimisers = (_muon if part.muon else _plain)(part.schedule, model, classes)
        _fit(config, role, name, number, drawn, model, classes, optimisers)


def _plain(schedule: Schedule, model: nn.Module, classes: _Classes) -> list[torch.optim.Optimizer]:
    optimiser = loop.adamw(model.parameters(), 2e-3 * schedule.rate, 0.05)
    optimiser.add_param_group({"params": list(classes.parameters()), "lr": 1e-2 * schedule.rate, "weight_decay": 0.0})
    return [optimiser]


def _muon(schedule: Schedule, model: nn.Module, classes: _Classes) -> list[torch.optim.Optimizer]:
    # Depthwise filters are single rows, with nothing to orthogonalise; first layers and heads are no inner layers.
    inner = [p for n, p in model.named_parameters() if p.ndim > 1 and p.shape[1] > 3 and not n.startswith("head")]
    chosen = {id(p) for p in inner}
    outer = loop.adamw([p for p in model.parameters() if id(p) not in chosen], 1e-3 * schedule.rate, 0.02)
    outer.add_param_group({"params": list(classes.parameters()), "lr": 5e-3 * schedule.rate, "weight_decay": 0.0})
    return [loop.Muon(inner, lr=0.02 * schedule.rate), outer]


def _fit(
    config: Training,
    role: str,
    name: str,
    number: int,
    drawn: Drawn,
    model: nn.Module,
    classes: _Classes,
    optimisers: list[torch.optim.Optimizer],
) -> None:
    """One round: in the first the margin grows from nothing, because at first the classes are still nowhere."""
    margin_of, full_margin = _MARGINS[role]
    schedule = config.recognisers[role][number].schedule
    first_row = np.searchsorted(drawn.owner_N, np.arange(len(classes.centres)))
    pictures = np.bincount(drawn.owner_N)
    wanted_NT = _standard_traits(drawn)

    def step(at: int, rng: np.random.Generator) -> dict[str, float]:
        rng = config.rng(role, number, at) if number else rng
        rows, owner = _identity_batch(first_row, pictures, schedule.batch, rng)
        faces = to_input(_rough_rows(drawn, rows, rng))
        emb_ND = model.train()(faces)
        cos_NI = emb_ND @ F.normalize(classes.centres).T
        share = at / schedule.steps
        margin = full_margin * (0.5 + 0.5 * share if number else share)
        target = tensor_of(owner)
        loss = F.cross_entropy(_SCALE * margin_of(cos_NI, target, margin), target)
        loss = loss + 0.5 * _pairs_in_batch(emb_ND, target)
        missed = F.mse_loss(classes.read(EMBEDDING_DIM**0.5 * emb_ND), wanted_NT[rows])
        loss = loss + _TRAIT_SHARE * missed
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimiser in optimisers:
            optimiser.step()
        hits = (cos_NI.argmax(1) == target).float().mean()
        return {"loss": float(loss.detach()), "hits": float(hits), "traits": float(missed.detach())}

    models: dict[str, nn.Module] = {"model": model, "classes": classes}
    loop.run(name, config, schedule, step, stream=role, models=models, optimisers=optimisers)


@torch.no_grad()
def _centre_classes(drawn: Drawn, model: nn.Module, classes: _Classes) -> None:
    """Put every class direction at the mean of its pictures."""
    emb_ND = tensor_of(embed(model.eval(), drawn.faces_NHWC))
    sums = torch.zeros_like(classes.centres).index_add_(0, tensor_of(drawn.owner_N), emb_ND)
    classes.centres.copy_(F.normalize(sums))


def _identity_batch(
    first_row: npt.NDArray[np.int64], pictures: npt.NDArray[np.int64], batch: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows and owners: some identities, `_PER_IDENTITY` different pictures of each where it has them."""
    chosen = rng.choice(len(first_row), size=min(-(-batch // _PER_IDENTITY), len(first_row)), replace=False)
    rows = [first_row[i] + rng.permutation(pictures[i])[:_PER_IDENTITY] for i in chosen]
    owner = np.concatenate([np.full(len(r), i) for r, i in zip(rows, chosen, strict=True)])
    return np.concatenate(rows)[:batch], owner[:batch]


def _pairs_in_batch(emb_ND: Tensor, owner_N: Tensor) -> Tensor:
    """Supervised contrastive loss over the batch (Khosla et al. 2020, arXiv:2004.11362): ties pictures directly."""
    n = len(emb_ND)
    logits = 16.0 * emb_ND @ emb_ND.T - 1e4 * torch.eye(n)
    same = (owner_N[:, None] == owner_N[None, :]).float() - torch.eye(n)
    share = logits - logits.logsumexp(dim=1, keepdim=True)
    return -((share * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def _rough_rows(drawn: Drawn, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Pictures as a recogniser meets them: half are mirrored (that is the same person), a third is degraded."""
    faces = drawn.faces_NHWC[rows]
    mirrored = rng.random(len(rows)) < 0.5
    faces[mirrored] = faces[mirrored, :, ::-1]
    degraded = rng.random(len(rows)) < 0.35
    blur = np.where(degraded, drawn.truth("blur_px")[rows] + 0.3 * rng.random(len(rows)), 0.0).astype(np.float32)
    noise = np.where(degraded, drawn.truth("noise_sigma")[rows], 0.0).astype(np.float32)
    return roughen(faces, blur, noise, rng)


@torch.no_grad()
def embed(model: nn.Module, faces_NHWC: npt.NDArray[np.uint8], batch: int = 16) -> npt.NDArray[np.float32]:
    """Return unit vectors (N, 128) of uint8 pictures, in batches."""
    parts = [model(to_input(faces_NHWC[start : start + batch])) for start in range(0, len(faces_NHWC), batch)]
    return torch.cat(parts).cpu().numpy()


def load_recogniser(config: Training, role: str) -> nn.Module:
    """Return a trained recogniser, from its checkpoint."""
    return loop.load_trained(config, role, RECOGNISERS[role]())
