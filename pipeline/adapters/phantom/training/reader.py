"""Trains a reader of pose, light, expression, age and tone on the generator's own draws: it teaches the flow to obey.

It never measures anything. What measures is the attribute model, another net that learnt from other people's pictures,
so that what pleases the reader alone shows as what it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom.networks import CONDITIONS
from pipeline.adapters.phantom.networks_readers import ConditioningRecogniser, lift
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.augment import roughen, to_input
from pipeline.adapters.phantom.training.config import AGED_DRAWS, GENERATOR_DRAWS, Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import load_draws

_SHOWN = tuple(field for field in CONDITIONS if field[0] != "age_offset_years")
READS = (*_SHOWN, ("age_years", 18.0, 80.0), ("skin_tone_mst", 1.0, 10.0), ("presentation", 0.0, 1.0))
"""What is read, with the range that is scaled to -1..1. An age is seen in a picture, an offset is not."""


class Reader(nn.Module):
    """A residual net like the conditioning recogniser's, with values at its end; it sees light and its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ConditioningRecogniser(inputs=6).body
        self.head = nn.Sequential(nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, len(READS)))

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Pictures in -1..1 to what they show (N, len(READS)), as `scaled` gives it."""
        return self.head(self.body(torch.cat([faces_NCHW, lift(faces_NCHW)], dim=1)))  # type: ignore[no-any-return]


def scaled(values_NR: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Values in their own units, columns as in `READS`, to -1..1."""
    low, high = (np.array([field[end] for field in READS]) for end in (1, 2))
    return np.asarray(2 * (values_NR - low) / (high - low) - 1, dtype=np.float32)


def train_reader(config: Training) -> None:
    """Train on clean, mirrored and slightly shifted pictures."""
    drawn, schedule = load_draws(config, (*GENERATOR_DRAWS, *AGED_DRAWS)), config.reader
    truth_NR = scaled(np.stack([drawn.truth(name) for name, _, _ in READS], axis=1))
    sign = np.array([-1.0 if name in ("yaw_deg", "roll_deg", "light_azimuth_deg") else 1.0 for name, _, _ in READS])
    model = loop.initialised(Reader, config.rng("reader", 2**31)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = loop.muon_and_adamw(model, schedule.rate)
    count = len(drawn.owner_N)

    def step(number: int, rng: np.random.Generator) -> dict[str, float]:
        del number
        rows = np.sort(rng.choice(count, size=min(schedule.batch, count), replace=False))
        mirrored = rng.random(len(rows)) < 0.5
        faces = drawn.faces_NHWC[rows]
        faces[mirrored] = faces[mirrored, :, ::-1]
        target = tensor_of((truth_NR[rows] * np.where(mirrored[:, None], sign, 1.0)).astype(np.float32))
        soft = (0.5 * rng.random(len(rows)) * (rng.random(len(rows)) < 0.3)).astype(np.float32)
        rough = roughen(faces, soft, (4.0 * rng.random(len(rows))).astype(np.float32), rng)
        loss = F.smooth_l1_loss(model.train()(to_input(rough)), target, beta=0.1)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimiser in optimisers:
            optimiser.step()
        return {"loss": float(loss.detach())}

    loop.run("reader", config, schedule, step, stream="reader", models={"model": model}, optimisers=optimisers)


def load_reader(config: Training) -> nn.Module:
    """Return the trained reader."""
    return loop.load_trained(config, "reader", Reader())
