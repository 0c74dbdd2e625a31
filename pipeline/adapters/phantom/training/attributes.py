"""Trains the attribute and quality model on draws that neither the generator nor its recogniser has seen.

A part of every batch comes from wide draws, where heads turn to profile and things cover faces; the rest are ordinary
pictures, in which nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom.networks_readers import (
    ATTRIBUTE_TARGETS,
    FLAG_TARGETS,
    SHARE_TARGETS,
    SPREAD_TARGETS,
    AttributeModel,
)
from pipeline.adapters.phantom.occluders import TINTED
from pipeline.adapters.phantom.training import loop
from pipeline.adapters.phantom.training.augment import roughen, to_input
from pipeline.adapters.phantom.training.config import Round, Training
from pipeline.adapters.phantom.training.device import tensor_of
from pipeline.adapters.phantom.training.draws import Drawn, load_draws, load_truth
from pipeline.adapters.phantom.truth import REGIONS

_NAMES = tuple(name for name, _, _ in ATTRIBUTE_TARGETS)
_FLAGS = [_NAMES.index(name) for name in FLAG_TARGETS]
_VALUES = [_NAMES.index(name) for name in SPREAD_TARGETS]
_SPREAD = {name: spread for name, _, spread in ATTRIBUTE_TARGETS}
_MIRRORED = [_NAMES.index(name) for name in ("yaw_deg", "roll_deg", "light_azimuth_deg")]
_WEIGHTS = {"skin_tone_mst": 2.0, "age_years": 2.0, "yaw_deg": 1.5, "blur_px": 1.5} | dict.fromkeys(SHARE_TARGETS, 0.7)
WIDE_SHARE = 1 / 3
"""Of every batch, where there are wide draws beside ordinary ones."""


def train_attributes(config: Training) -> None:
    """Train the model in its rounds; blur and noise are the draw's own, so that they can be read back."""
    rng = config.rng("attributes", 2**31)
    model = loop.initialised(AttributeModel, rng).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for number, part in enumerate(config.attributes):
        name = "attributes" if part is config.attributes[-1] else f"attributes-{number + 1}"
        _fit(config, name, number, model, _optimisers(model, part))


def _optimisers(model: nn.Module, part: Round) -> list[torch.optim.Optimizer]:
    if not part.muon:
        return [loop.adamw(model.parameters(), part.schedule.rate, 0.03)]
    return loop.muon_and_adamw(model, part.schedule.rate)


def truth_of(config: Training, names: tuple[str, ...], drawn: Drawn) -> dict[str, npt.NDArray[np.float32]]:
    """Return what is true of every picture of some draws, target by target, each (N,); flags are 0 or 1.

    Shares are NaN where they are not known: of a region of which the picture shows nothing, and, in ordinary draws, of
    what the frames of glasses may hide. `occlusion` is the mean over the regions that are in sight. Lenses hide the
    eyes, and so are sunglasses, from `occluders.TINTED` on.

    Args:
        config: the configuration that the draws are of.
        names: the draws.
        drawn: those draws as `load_draws` returns them, or their first pictures.
    """
    count, glasses = len(drawn.owner_N), drawn.truth("glasses") > 0.5
    hidden_NR = load_truth(config, names)[1][:count].copy()
    framed = glasses & ~wide_pictures(config, names)[:count]
    hidden_NR[framed[:, None] & np.isin(REGIONS, ("eyes", "nose", "cheeks"))] = np.nan
    with np.errstate(invalid="ignore"):  # of a picture that shows no region at all nothing is known
        share = np.nansum(hidden_NR, axis=1) / np.float32(~np.isnan(hidden_NR)).sum(axis=1)
    told = {"occlusion": np.where(framed, np.float32(np.nan), share)}
    told |= {f"occlusion_{region}": hidden_NR[:, place] for place, region in enumerate(REGIONS)}
    told["sunglasses"] = (glasses & (drawn.truth("glasses_tint") >= TINTED)).astype(np.float32)
    told |= {name: (drawn.truth(name) > 0.5).astype(np.float32) for name in FLAG_TARGETS if name not in told}
    return {name: told[name] if name in told else drawn.truth(name) for name in _NAMES}


def wide_pictures(config: Training, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Return which pictures (N,) of some draws, one after the other, are of wide draws."""
    draws = [config.draws[name] for name in names]
    return np.repeat([draw.wide for draw in draws], [draw.identities * draw.pictures for draw in draws])


def batch_rows(
    ordinary: npt.NDArray[np.int64], wide: npt.NDArray[np.int64], batch: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the rows of one batch, sorted: `WIDE_SHARE` of them wide ones, as far as there are rows of both kinds."""
    share = WIDE_SHARE if len(ordinary) and len(wide) else float(len(wide) > 0)
    of_wide = min(round(share * batch), len(wide))
    parts = ((wide, of_wide), (ordinary, min(batch - of_wide, len(ordinary))))
    return np.sort(np.concatenate([rng.choice(rows, size=size, replace=False) for rows, size in parts if size]))


def _fit(
    config: Training, name: str, number: int, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    part = config.attributes[number]
    drawn, schedule = load_draws(config, part.draws), part.schedule
    truth = truth_of(config, part.draws, drawn)
    truth_NK = np.stack([(truth[name] - centre) / spread for name, centre, spread in ATTRIBUTE_TARGETS], axis=1)
    seen_N5, _ = load_truth(config, part.draws)
    wide_N = wide_pictures(config, part.draws)
    ordinary, wide = np.flatnonzero(~wide_N), np.flatnonzero(wide_N)

    def step(at: int, rng: np.random.Generator) -> dict[str, float]:
        rng = config.rng("attributes", number, at) if number else rng
        rows = batch_rows(ordinary, wide, schedule.batch, rng)
        faces, wanted, points = drawn.faces_NHWC[rows], truth_NK[rows].copy(), drawn.landmarks_N52[rows] / 112.0
        mirrored = rng.random(len(rows)) < 0.5
        faces[mirrored] = faces[mirrored, :, ::-1]
        wanted[:, _MIRRORED] *= np.where(mirrored, -1, 1)[:, None]
        points[mirrored] = mirror_points(points[mirrored])
        seen = np.where(mirrored[:, None], seen_N5[rows][:, _SWAPPED], seen_N5[rows])
        rough = roughen(faces, drawn.truth("blur_px")[rows], drawn.truth("noise_sigma")[rows], rng)
        parts = losses(
            model.train()(to_input(rough)), *(tensor_of(x.astype(np.float32)) for x in (wanted, points, seen))
        )
        loss = 1.6 * parts["values"] + parts["flags"] + 0.3 * parts["points"] + 0.15 * parts["unsure"]
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimiser in optimisers:
            optimiser.step()
        return {key: float(value.detach()) for key, value in parts.items()}

    loop.run(
        name, config, schedule, step, stream="attributes", models={"model": model}, optimisers=optimisers
    )  # fmt: skip


def losses(
    outputs: tuple[Tensor, Tensor, Tensor], wanted_NK: Tensor, points_N52: Tensor, seen_N5: Tensor
) -> dict[str, Tensor]:
    """Return the parts of a batch's loss. What is not known (NaN) and points that are not seen (0) do not count."""
    read_NK, found_N52, spreads = outputs
    told = ~wanted_NK[:, _VALUES].isnan()
    target = wanted_NK[:, _VALUES].nan_to_num()
    weights = told * tensor_of(np.array([_WEIGHTS.get(_NAMES[i], 1.0) for i in _VALUES], np.float32))
    off = F.smooth_l1_loss(read_NK[:, _VALUES], target, reduction="none", beta=0.5)
    # What is read is not bent by how sure the model is: only the spread learns from this part.
    missed = (target - read_NK[:, _VALUES]).detach()
    unsure = spreads + 0.5 * (missed / spreads.exp()).square()
    # The picture is shifted by at most two pixels on the way; the landmarks' mean error cannot fall below that.
    spots = (found_N52 - points_N52).abs().mean(dim=2) * seen_N5
    return {
        "values": (weights * off).sum() / weights.sum(),
        "flags": F.binary_cross_entropy_with_logits(read_NK[:, _FLAGS], (wanted_NK[:, _FLAGS] > 0).float()),
        "points": 20 * spots.sum() / seen_N5.sum().clamp(min=1.0),
        "unsure": (told * unsure).sum() / told.sum(),
    }


_SWAPPED = [1, 0, 2, 4, 3]  # eyes and mouth corners of a mirrored picture


def mirror_points(points_N52: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Landmarks (shares of the side) of the mirrored picture: left and right swap names."""
    swapped = points_N52[:, _SWAPPED].copy()
    swapped[..., 0] = 111.0 / 112.0 - swapped[..., 0]
    return swapped


@torch.no_grad()
def read(model: nn.Module, faces_NHWC: npt.NDArray[np.uint8], batch: int = 16) -> dict[str, npt.NDArray[np.float32]]:
    """Return every target in its own unit (probabilities for the flags, shares 0..1), each of shape (N,), and under
    `<name>_sd` how far off the model expects to be.
    """
    parts = [model(to_input(faces_NHWC[start : start + batch])) for start in range(0, len(faces_NHWC), batch)]
    outputs, spreads = (torch.cat([part[n] for part in parts]).cpu() for n in (0, 2))
    found = {}
    for place, name in enumerate(SPREAD_TARGETS):
        found[f"{name}_sd"] = (_SPREAD[name] * spreads[:, place].exp()).numpy()
    for column, (name, centre, spread) in enumerate(ATTRIBUTE_TARGETS):
        value = outputs[:, column]
        found[name] = (value.sigmoid() if name in FLAG_TARGETS else centre + spread * value).numpy()
        if name in SHARE_TARGETS:
            found[name] = found[name].clip(0.0, 1.0)
    return found


def load_attributes(config: Training) -> nn.Module:
    """Return the trained model, from its checkpoint."""
    return loop.load_trained(config, "attributes", AttributeModel())
