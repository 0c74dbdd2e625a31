"""Trains the attribute and quality model on draws that neither the generator nor its recogniser has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.adapters.phantom.networks_readers import (
    ATTRIBUTE_TARGETS,
    FLAG_TARGETS,
    SPREAD_TARGETS,
    AttributeModel,
)
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.augment import roughen, to_input
from pipeline.adapters.phantom.training.config import Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import load_draws

_NAMES = tuple(name for name, _, _ in ATTRIBUTE_TARGETS)
_FLAGS = [_NAMES.index(name) for name in FLAG_TARGETS]
_VALUES = [i for i in range(len(_NAMES)) if i not in _FLAGS]
_SPREAD = {name: spread for name, _, spread in ATTRIBUTE_TARGETS}
_MIRRORED = [_NAMES.index(name) for name in ("yaw_deg", "roll_deg", "light_azimuth_deg")]
_WEIGHTS = {"skin_tone_mst": 2.0, "yaw_deg": 1.5, "blur_px": 1.5}


def train_attributes(config: Training) -> None:
    """Train the model in its rounds; blur and noise are the draw's own, so that they can be read back."""
    rng = config.rng("attributes", 2**31)
    model = loop.initialised(AttributeModel, rng).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for number, part in enumerate(config.attributes):
        optimisers = [loop.adamw(model.parameters(), part.schedule.rate, 0.03)]
        name = "attributes" if part is config.attributes[-1] else f"attributes-{number + 1}"
        _fit(config, name, number, model, optimisers)


def _fit(
    config: Training, name: str, number: int, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    part = config.attributes[number]
    drawn, schedule = load_draws(config, part.draws), part.schedule
    truth_NK = np.stack([(drawn.truth(name) - centre) / spread for name, centre, spread in ATTRIBUTE_TARGETS], axis=1)
    weights = torch.tensor([_WEIGHTS.get(_NAMES[i], 1.0) for i in _VALUES])
    count = len(drawn.owner_N)

    def step(at: int, rng: np.random.Generator) -> dict[str, float]:
        rng = config.rng("attributes", number, at) if number else rng
        rows = np.sort(rng.choice(count, size=min(schedule.batch, count), replace=False))
        faces, wanted, points = drawn.faces_NHWC[rows], truth_NK[rows].copy(), drawn.landmarks_N52[rows] / 112.0
        mirrored = rng.random(len(rows)) < 0.5
        faces[mirrored] = faces[mirrored, :, ::-1]
        wanted[:, _MIRRORED] *= np.where(mirrored, -1, 1)[:, None]
        points[mirrored] = mirror_points(points[mirrored])
        rough = roughen(faces, drawn.truth("blur_px")[rows], drawn.truth("noise_sigma")[rows], rng)
        values, found, spreads = model.train()(to_input(rough))
        target = tensor_of(wanted.astype(np.float32))
        exact = (weights * F.smooth_l1_loss(values[:, _VALUES], target[:, _VALUES], reduction="none", beta=0.5)).mean()
        flags = F.binary_cross_entropy_with_logits(values[:, _FLAGS], (target[:, _FLAGS] > 0).float())
        # The picture is shifted by at most two pixels on the way; the landmarks' mean error cannot fall below that.
        spots = (found - tensor_of(points.astype(np.float32))).abs().mean() * 20
        # What is read is not bent by how sure the model is: only the spread learns from this part.
        missed = (target[:, _VALUES] - values[:, _VALUES]).detach()
        unsure = (spreads + 0.5 * (missed / spreads.exp()).square()).mean()
        loss = exact + 0.4 * flags + 0.3 * spots + 0.1 * unsure
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimiser in optimisers:
            optimiser.step()
        figures = {"values": exact, "flags": flags, "points": spots, "unsure": unsure}
        return {key: float(value.detach()) for key, value in figures.items()}

    loop.run(
        name, config, schedule, step, stream="attributes", models={"model": model}, optimisers=optimisers
    )  # fmt: skip


def mirror_points(points_N52: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Landmarks (shares of the side) of the mirrored picture: left and right swap names."""
    swapped = points_N52[:, [1, 0, 2, 4, 3]].copy()
    swapped[..., 0] = 111.0 / 112.0 - swapped[..., 0]
    return swapped


@torch.no_grad()
def read(model: nn.Module, faces_NHWC: npt.NDArray[np.uint8], batch: int = 16) -> dict[str, npt.NDArray[np.float32]]:
    """Return every target in its own unit (probabilities for the flags), each of shape (N,), and under `<name>_sd`
    how far off the model expects to be.
    """
    parts = [model(to_input(faces_NHWC[start : start + batch])) for start in range(0, len(faces_NHWC), batch)]
    outputs, spreads = (torch.cat([part[n] for part in parts]).cpu() for n in (0, 2))
    found = {}
    for place, name in enumerate(SPREAD_TARGETS):
        found[f"{name}_sd"] = (_SPREAD[name] * spreads[:, place].exp()).numpy()
    for column, (name, centre, spread) in enumerate(ATTRIBUTE_TARGETS):
        value = outputs[:, column]
        found[name] = (value.sigmoid() if name in FLAG_TARGETS else centre + spread * value).numpy()
    return found


def load_attributes(config: Training) -> nn.Module:
    """Return the trained model, from its checkpoint."""
    return loop.load_trained(config, "attributes", AttributeModel())
