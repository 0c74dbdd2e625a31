"""Measures the shipped weights on draw E, which nothing was trained or calibrated on, and notes it in the card.

Everything is read back from the weights folder, so the figures are those of the files that are shipped.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks import CONDITIONS, decode_pixels, sample_latents
from pipeline.adapters.phantom.networks_readers import ATTRIBUTE_TARGETS, SPREAD_TARGETS
from pipeline.adapters.phantom.training.attributes import read
from pipeline.adapters.phantom.training.augment import jpeg, to_input
from pipeline.adapters.phantom.training.bank import PRESENTATIONS, TONE_GROUPS, tone_group
from pipeline.adapters.phantom.training.config import ROLES, Training
from pipeline.adapters.phantom.training.draws import Drawn, load_draws
from pipeline.adapters.phantom.training.export import write_card
from pipeline.adapters.phantom.training.groups import Array, by_group, by_identity, groups_of, rounded
from pipeline.adapters.phantom.training.measure_generator import (
    FEW_STEPS,
    measure_bank,
    measure_generator,
    measure_variety,
    own_pairs,
    pairs,
)
from pipeline.adapters.phantom.training.recognition import embed
from pipeline.adapters.phantom.training.sampling import Generator, probe_conditions
from pipeline.domain.calibration import equal_error_rate


def measure_all(config: Training, folder: Path, only: Sequence[str] = ()) -> None:
    """Measure recognisers, attributes, generator, bank and row independence; write them into the card.

    only: recognisers to measure anew, with what they say of generator and bank; the card's other figures stay.
    """
    drawn = _held_out(config)
    figures: dict[str, Any] = {"command": "python -m pipeline.adapters.phantom.training measure"}
    stored = jpeg(drawn.faces_NHWC, 95)
    embeddings = {role: embed(loading.load_recogniser(role), stored) for role in ROLES}
    figures["recognisers"] = {role: _recognition(embeddings[role], drawn) for role in ROLES}
    figures["generator"] = measure_generator(config, drawn, embeddings)
    figures["variety"] = measure_variety(config, drawn, embeddings)
    figures["bank"] = measure_bank(config)
    stable = _row_independence(stored)
    content = loading.card()
    if only:
        stable = {role: stable[role] for role in only}
        for part in ("recognisers", "generator", "variety", "bank"):
            content["figures"][part] |= {role: figures[part][role] for role in only}
    else:
        figures["attributes"], confusion = _attributes(drawn, stored)
        figures["speed"] = _speed(config)
        content["figures"] = figures
        content["models"]["attributes"]["confusion"] = confusion
    for name, facts in stable.items():
        content["models"][name] |= facts
    write_card(folder, content)


def _held_out(config: Training) -> Drawn:
    drawn = load_draws(config, ("E",))
    use = drawn.owner_N < config.held_out
    faces, points, owner = drawn.faces_NHWC[use], drawn.landmarks_N52[use], drawn.owner_N[use]
    return Drawn(faces, points, owner, drawn.identities_NT[use], drawn.nuisances_NC[use])


def _recognition(emb_ND: Array, drawn: Drawn) -> dict[str, Any]:
    """How well a recogniser tells held-out people apart; `matched` impostors are alike in presentation, tone and age.

    By group: how often two pictures of somebody of that group miss the threshold that everybody shares.
    """
    genuine, impostor, left, right = pairs(emb_ND, drawn.owner_N)
    alike = np.ones(len(left), dtype=bool)
    for name, gap in (("presentation", 0.5), ("skin_tone_mst", 1.0), ("age_years", 9.0)):
        truth = drawn.truth(name)
        alike &= np.abs(truth[left] - truth[right]) < gap
    threshold = float(np.quantile(impostor, 0.999))
    missed_I = np.array([(own < threshold).mean() for own in own_pairs(emb_ND, drawn.owner_N)])
    return {
        "eer": rounded(equal_error_rate(genuine, impostor)),
        "eer_matched_impostors": rounded(equal_error_rate(genuine, impostor[alike])),
        "fnmr_at_fmr_1e-3": rounded((genuine < threshold).mean()),
        "fnmr_by_group": by_group(groups_of(drawn), lambda of: rounded(missed_I[of].mean())),
        "n_genuine": len(genuine),
        "n_impostor": len(impostor),
        "n_impostor_matched": int(alike.sum()),
    }


def _attributes(drawn: Drawn, stored: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is read beside what is true. `r` is the best that the generator's adherence can show."""
    found = read(loading.load_attributes(), stored)
    truth = {name: drawn.truth(name) for name, _, _ in ATTRIBUTE_TARGETS}
    figures: dict[str, Any] = {
        "presentation_accuracy": rounded(((found["presentation"] > 0.5) == (truth["presentation"] > 0.5)).mean()),
        "tone_group_accuracy": rounded(
            (tone_group(found["skin_tone_mst"]) == tone_group(truth["skin_tone_mst"])).mean()
        ),
        "glasses_accuracy": rounded(((found["glasses"] > 0.5) == (truth["glasses"] > 0.5)).mean()),
        "r": {name: rounded(np.corrcoef(found[name], truth[name])[0, 1]) for name in sorted(truth)},
    }
    errors = {name: found[name] - truth[name] for name in SPREAD_TARGETS}
    for name in sorted(set(SPREAD_TARGETS) - {"blur_px", "noise_sigma"}):
        figures[f"{name}_mean_error"] = rounded(np.abs(errors[name]).mean())
    figures["within_90_interval"] = {
        name: rounded((np.abs(error) <= 1.645 * found[f"{name}_sd"]).mean()) for name, error in errors.items()
    }
    groups = groups_of(drawn)
    for name in ("age_years", "yaw_deg", "skin_tone_mst"):
        off_I = by_identity(np.abs(errors[name]), drawn.owner_N)
        figures[f"{name}_mean_error_by_group"] = by_group(groups, functools.partial(_mean_of, off_I))
    pooled = {name: by_identity(found[name], drawn.owner_N) for name in ("presentation", "skin_tone_mst")}
    true_of = {name: by_identity(truth[name], drawn.owner_N) for name in pooled}
    figures["presentation_accuracy_of_means"] = rounded(
        ((pooled["presentation"] > 0.5) == (true_of["presentation"] > 0.5)).mean()
    )
    figures["tone_group_accuracy_of_means"] = rounded(
        (tone_group(pooled["skin_tone_mst"]) == tone_group(true_of["skin_tone_mst"])).mean()
    )
    confusion = {
        "perceived_gender_presentation": _confusion(
            (true_of["presentation"] > 0.5).astype(int), (pooled["presentation"] > 0.5).astype(int), PRESENTATIONS
        ),
        "est_skin_tone_group": _confusion(
            tone_group(true_of["skin_tone_mst"]), tone_group(pooled["skin_tone_mst"]), TONE_GROUPS
        ),
    }
    return figures, confusion


def _mean_of(values_I: Array, of: npt.NDArray[np.bool_]) -> float:
    return rounded(values_I[of].mean())


def _confusion(
    true_N: npt.NDArray[Any], read_N: npt.NDArray[Any], names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """True value -> read value -> share, over means of an identity's rendered pictures."""
    out = {}
    for t, true_name in enumerate(names):
        mine = read_N[true_N == t]
        # not rounded: the shares of a row sum to one
        out[true_name] = {name: float((mine == r).mean()) if len(mine) else 0.0 for r, name in enumerate(names)}
    return out


def _row_independence(stored: npt.NDArray[np.uint8]) -> dict[str, dict[str, Any]]:
    """Does a row change with its place, its neighbours or the padding of a batch of 16 or 8?"""
    generator, rng = Generator(), np.random.Generator(np.random.Philox(7))
    bank = loading.load_bank()
    side, channels = generator.flow.latent_side, generator.flow.latent_channels
    noise = torch.from_numpy(rng.standard_normal((32, channels, side, side), dtype=np.float32))
    who, asked = torch.from_numpy(bank.means_ND[np.arange(32) % len(bank.means_ND)]), torch.zeros(32, len(CONDITIONS))

    def generate(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        latents = sample_latents(
            generator.flow, noise[rows], who[rows], asked[rows], torch.ones(len(rows), len(CONDITIONS)),
            sigmas=generator.sigmas, guidance=generator.guidance,
        )  # fmt: skip
        return decode_pixels(generator.decoder, latents).astype(np.float32)

    pictures = stored[np.arange(32) % len(stored)]

    def reader(model: nn.Module) -> Any:
        def outputs(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
            with torch.no_grad():
                out = model(to_input(pictures[rows]))
            return (out[0] if isinstance(out, tuple) else out).numpy()  # type: ignore[no-any-return]

        return outputs

    calls = {role: reader(loading.load_recogniser(role)) for role in ROLES}
    calls |= {"attributes": reader(loading.load_attributes()), "generator": generate}
    return {name: _stability(call) for name, call in calls.items()}


def _stability(call: Any) -> dict[str, Any]:
    exact, worst = True, 1.0
    for size in (8, 16):
        plain = call(np.arange(size))
        shifted = call(np.roll(np.arange(size), 3))[(np.arange(size) + 3) % size]
        company = call(np.concatenate([np.arange(size // 2), np.arange(16, 16 + size // 2)]))[: size // 2]
        padded = call(np.concatenate([np.arange(size // 2), np.zeros(size // 2, dtype=np.int64)]))[: size // 2]
        for other in (shifted, company, padded):
            mine, its = plain[: len(other)].reshape(len(other), -1), other.reshape(len(other), -1)
            exact &= bool(np.array_equal(mine, its))
            lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(its, axis=1)
            worst = min(worst, float(((mine * its).sum(1) / lengths).min()))
    return {"row_independent": exact, "row_worst_cos": round(worst, 7)}


def _speed(config: Training) -> dict[str, float]:
    """Pictures per second of one process with one thread, batch 16: a rough figure of this machine at this hour."""
    rng = config.rng("measure", 2)
    who = loading.load_bank().means_ND[:8].repeat(8, axis=0)[:64]
    asked = probe_conditions(len(who), rng)

    def seconds(generator: Generator) -> tuple[float, npt.NDArray[np.uint8]]:
        generator.make(who[:16], asked[:16], rng)
        began_s = time.perf_counter()
        faces = generator.make(who, asked, rng)
        return time.perf_counter() - began_s, faces

    usual_s, faces = seconds(Generator())
    few_s, _ = seconds(Generator(FEW_STEPS))
    began_s = time.perf_counter()
    embed(loading.load_recogniser("judge"), faces)
    read(loading.load_attributes(), faces)
    read_s = time.perf_counter() - began_s
    return {
        "generated_per_s": rounded(len(faces) / usual_s),
        "generated_in_few_steps_per_s": rounded(len(faces) / few_s),
        "judged_and_measured_per_s": rounded(len(faces) / read_s),
    }
