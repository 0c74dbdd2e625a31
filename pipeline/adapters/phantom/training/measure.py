"""Measures the shipped weights on draw E, which nothing was trained or calibrated on, and notes it in the card.

Everything is read back from the weights folder, so the figures are those of the files that are shipped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks import (
    CONDITIONS,
    decode_pixels,
    sample_latents,
    scale_conditions,
    sigma_schedule,
)
from pipeline.adapters.phantom.training.attributes import read
from pipeline.adapters.phantom.training.augment import jpeg, to_input
from pipeline.adapters.phantom.training.bank import CELLS, PRESENTATIONS, TONE_GROUPS, cell_of, tone_group
from pipeline.adapters.phantom.training.config import ROLES, Training
from pipeline.adapters.phantom.training.draws import Drawn, load_draws
from pipeline.adapters.phantom.training.export import write_card
from pipeline.adapters.phantom.training.recognition import embed
from pipeline.domain.calibration import Calibration, equal_error_rate

Array = npt.NDArray[np.floating]
_BATCH = 16


class Generator:
    """The shipped generator as one call, for measuring."""

    def __init__(self) -> None:
        self.flow, self.decoder = loading.load_flow(), loading.load_decoder()
        sampler = loading.card()["models"]["generator"]["sampler"]
        self.sigmas = sigma_schedule(int(sampler["steps"]), sampler["shift"])
        self.guidance = float(sampler["guidance"])

    def make(self, who_ND: Array, wanted_NK: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Faces (N, 112, 112, 3) of unit vectors and conditions (NaN where absent), through JPEG 95."""
        faces = []
        for start in range(0, len(who_ND), _BATCH):
            who = torch.from_numpy(who_ND[start : start + _BATCH].astype(np.float32))
            asked = torch.from_numpy(wanted_NK[start : start + _BATCH].astype(np.float32))
            side = self.flow.latent_side
            noise = rng.standard_normal((len(who), self.flow.latent_channels, side, side), dtype=np.float32)
            has = (~asked.isnan()).float()
            latents = sample_latents(
                self.flow, torch.from_numpy(noise), who, scale_conditions(asked.nan_to_num()), has,
                sigmas=self.sigmas, guidance=self.guidance,
            )  # fmt: skip
            faces.append(decode_pixels(self.decoder, latents))
        return jpeg(np.concatenate(faces), 95)


def measure_all(config: Training, folder: Path, only: Sequence[str] = ()) -> None:
    """Measure recognisers, attributes, generator, bank and row independence; write them into the card.

    only: recognisers to measure anew, with what they say of generator and bank; the card's other figures stay.
    """
    drawn = _held_out(config)
    figures: dict[str, Any] = {"command": "python -m pipeline.adapters.phantom.training measure"}
    stored = jpeg(drawn.faces_NHWC, 95)
    embeddings = {role: embed(loading.load_recogniser(role), stored) for role in ROLES}
    figures["recognisers"] = {role: _recognition(embeddings[role], drawn) for role in ROLES}
    figures["generator"], faces = _generator(config, drawn, embeddings)
    figures["bank"] = _bank(config)
    stable = _row_independence(stored)
    content = loading.card()
    if only:
        stable = {role: stable[role] for role in only}
        for part in ("recognisers", "generator", "bank"):
            content["figures"][part] |= {role: figures[part][role] for role in only}
    else:
        figures["attributes"], confusion = _attributes(drawn, stored)
        figures["speed"] = _speed(config)
        content["figures"] = figures
        content["models"]["attributes"]["confusion"] = confusion
        content["models"]["attributes"]["skin_tone_sigma_mst"] = figures["attributes"]["skin_tone_mst_spread"]
    for name, facts in stable.items():
        content["models"][name] |= facts
    write_card(folder, content)
    contact_sheet(faces[:96], config.home / "generated.png")


def _held_out(config: Training) -> Drawn:
    drawn = load_draws(config, ("E",))
    use = drawn.owner_N < config.held_out
    faces, points, owner = drawn.faces_NHWC[use], drawn.landmarks_N52[use], drawn.owner_N[use]
    return Drawn(faces, points, owner, drawn.identities_NT[use], drawn.nuisances_NC[use])


def _pairs(emb_ND: Array, owner_N: npt.NDArray[np.int64]) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    first, second = np.triu_indices(len(emb_ND), 1)
    cos = np.einsum("nd,nd->n", emb_ND[first], emb_ND[second])
    same = owner_N[first] == owner_N[second]
    return cos[same], cos[~same], np.stack([first[~same], second[~same]])


def _recognition(emb_ND: Array, drawn: Drawn) -> dict[str, float]:
    genuine, impostor, pairs = _pairs(emb_ND, drawn.owner_N)
    left, right = pairs
    alike = np.ones(len(left), dtype=bool)
    for name, gap in (("presentation", 0.5), ("skin_tone_mst", 1.0), ("age_years", 9.0)):
        truth = drawn.truth(name)
        alike &= np.abs(truth[left] - truth[right]) < gap
    threshold = float(np.quantile(impostor, 0.999))
    return {
        "eer": _round(equal_error_rate(genuine, impostor)),
        "eer_matched_impostors": _round(equal_error_rate(genuine, impostor[alike])),
        "fnmr_at_fmr_1e-3": _round((genuine < threshold).mean()),
        "n_genuine": len(genuine),
        "n_impostor": len(impostor),
    }


def _attributes(drawn: Drawn, stored: npt.NDArray[np.uint8]) -> tuple[dict[str, float], dict[str, Any]]:
    found = read(loading.load_attributes(), stored)
    truth = {name: drawn.truth(name) for name in found}
    figures = {
        "presentation_accuracy": _round(((found["presentation"] > 0.5) == (truth["presentation"] > 0.5)).mean()),
        "tone_group_accuracy": _round(
            (tone_group(found["skin_tone_mst"]) == tone_group(truth["skin_tone_mst"])).mean()
        ),
        "glasses_accuracy": _round(((found["glasses"] > 0.5) == (truth["glasses"] > 0.5)).mean()),
    }
    for name in sorted(set(found) - {"presentation", "glasses", "blur_px", "noise_sigma"}):
        figures[f"{name}_mean_error"] = _round(np.abs(found[name] - truth[name]).mean())
    figures["skin_tone_mst_spread"] = _round(np.std(found["skin_tone_mst"] - truth["skin_tone_mst"]))
    pooled = {name: _by_identity(found[name], drawn.owner_N) for name in ("presentation", "skin_tone_mst")}
    true_of = {name: _by_identity(truth[name], drawn.owner_N) for name in pooled}
    figures["presentation_accuracy_of_means"] = _round(
        ((pooled["presentation"] > 0.5) == (true_of["presentation"] > 0.5)).mean()
    )
    figures["tone_group_accuracy_of_means"] = _round(
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


def _by_identity(values_N: Array, owner_N: npt.NDArray[np.int64]) -> Array:
    return np.bincount(owner_N, weights=values_N) / np.bincount(owner_N)


def _confusion(
    true_N: npt.NDArray[Any], read_N: npt.NDArray[Any], names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """True value -> read value -> share, over means of an identity's rendered pictures."""
    out = {}
    for t, true_name in enumerate(names):
        mine = read_N[true_N == t]
        out[true_name] = {name: _round((mine == r).mean()) if len(mine) else 0.0 for r, name in enumerate(names)}
    return out


def _templates(emb_ND: Array, owner_N: npt.NDArray[np.int64], k: int) -> Array:
    rows = [np.flatnonzero(owner_N == i)[:k] for i in range(owner_N[-1] + 1)]
    means = np.stack([emb_ND[r].mean(0) for r in rows])
    return means / np.linalg.norm(means, axis=1, keepdims=True)  # type: ignore[no-any-return]


def _generator(
    config: Training, drawn: Drawn, embeddings: dict[str, npt.NDArray[np.float32]]
) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    """Pictures of held-out identities from their templates of four, conditions of other rows of the draw."""
    rng = config.rng("measure", 0)
    people = int(drawn.owner_N[-1]) + 1
    who = np.repeat(_templates(embeddings["conditioning"], drawn.owner_N, 4), 3, axis=0)
    owner = np.repeat(np.arange(people), 3)
    rows = rng.integers(0, len(drawn.owner_N), len(owner))
    asked = {name: drawn.truth(name)[rows] for name, _, _ in CONDITIONS}
    faces = Generator().make(who, np.stack(list(asked.values()), axis=1), rng)
    tones = _by_identity(drawn.truth("skin_tone_mst"), drawn.owner_N)[owner]
    figures: dict[str, Any] = {"identities": people, "pictures": len(faces)}
    for role in ROLES:
        threshold = _strict_cos(role)
        references = _templates(embeddings[role], drawn.owner_N, 4)
        cos = embed(loading.load_recogniser(role), faces) @ references.T
        own = cos[np.arange(len(owner)), owner]
        genuine, impostor, _ = _pairs(embed(loading.load_recogniser(role), faces), owner)
        figures[role] = {
            "own_match_at_fmr_1e-3": _round((own >= threshold).mean()),
            "own_mean_cos": _round(own.mean()),
            "rank_1": _round((cos.argmax(1) == owner).mean()),
            "eer_within_set": _round(equal_error_rate(genuine, impostor)),
            "own_match_by_tone": {
                name: _round((own[tone_group(tones) == g] >= threshold).mean()) for g, name in enumerate(TONE_GROUPS)
            },
        }
    found = read(loading.load_attributes(), faces)
    figures["adherence_r"] = {name: _round(np.corrcoef(found[name], asked[name])[0, 1]) for name in asked}
    for name in ("skin_tone_mst", "age_years", "presentation"):
        truth = _by_identity(drawn.truth(name), drawn.owner_N)[owner]
        figures["adherence_r"][name] = _round(np.corrcoef(found[name], truth)[0, 1])
    figures["yaw_mean_error_deg"] = _round(np.abs(found["yaw_deg"] - asked["yaw_deg"]).mean())
    figures["blur_px_mean"] = _round(found["blur_px"].mean())
    return figures, faces


def _strict_cos(role: str) -> float:
    """The cosine at FMR 1e-3 between a picture and a template of four (or the strictest level that was calibrated)."""
    calibration = Calibration.from_dict(loading.calibration(role))
    kind = "sample/template4"
    return calibration.threshold_cos(max(1e-3, calibration.pairs[kind].fmr[-1]), kind)


def _bank(config: Training) -> dict[str, Any]:
    """New identities from each cell's Gaussian: are they read as their cell, consistent, and distinct?"""
    bank, generator, rng = loading.load_bank(), Generator(), config.rng("measure", 1)
    each, shots = 24, 4
    drawn = []
    for c in range(1, len(CELLS)):
        z = rng.standard_normal((each, bank.mean_CD.shape[1]))
        drawn.append(bank.mean_CD[c] + z @ bank.factor_CDD[c].T)
    who = np.concatenate(drawn)
    who /= np.linalg.norm(who, axis=1, keepdims=True)
    cell = np.repeat(np.arange(1, len(CELLS)), each)
    owner = np.repeat(np.arange(len(who)), shots)
    faces = generator.make(who[owner], probe_conditions(len(owner), rng), rng)
    contact_sheet(faces[:: 2 * shots], config.home / "bank.png")
    found = read(loading.load_attributes(), faces)
    got = cell_of(_by_identity(found["presentation"], owner), _by_identity(found["skin_tone_mst"], owner))
    figures: dict[str, Any] = {"identities": len(who), "pictures_each": shots}
    figures["read_as_own_cell"] = _round((got == cell).mean())
    figures["by_cell"] = {name: _round((got == cell)[cell == c].mean()) for c, name in enumerate(CELLS) if c}
    for role in ROLES:
        emb_ND = embed(loading.load_recogniser(role), faces)
        genuine, impostor, _ = _pairs(emb_ND, owner)
        means = _templates(emb_ND, owner, shots)
        others = means @ means.T - 2 * np.eye(len(means))
        threshold = _strict_cos(role)
        own = (emb_ND * means[owner]).sum(1)
        figures[role] = {
            "eer_within_set": _round(equal_error_rate(genuine, impostor)),
            "own_mean_cos": _round(own.mean()),
            "nearest_other_median_cos": _round(np.median(others.max(1))),
            "nearest_other_above_fmr_1e-3": _round((others.max(1) >= threshold).mean()),
        }
    return figures


def probe_conditions(count: int, rng: np.random.Generator) -> Array:
    """Everyday conditions (count, K): mild pose and light, some smiles, a few glasses."""
    values = {
        "yaw_deg": 12 * rng.standard_normal(count), "pitch_deg": 5 * rng.standard_normal(count),
        "roll_deg": 2 * rng.standard_normal(count), "light_azimuth_deg": 30 * rng.standard_normal(count),
        "light_elevation_deg": 25 + 10 * rng.standard_normal(count), "light_ambient": rng.uniform(0.35, 0.55, count),
        "smile": rng.random(count), "mouth_open": 0.3 * rng.random(count),
        "glasses": (rng.random(count) < 0.1).astype(float),
    }  # fmt: skip
    return np.stack([values[name] for name, _, _ in CONDITIONS], axis=1)


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
    generator, rng = Generator(), config.rng("measure", 2)
    who = loading.load_bank().means_ND[:8].repeat(8, axis=0)[:64]
    asked = probe_conditions(len(who), rng)
    generator.make(who[:16], asked[:16], rng)
    started = time.perf_counter()
    faces = generator.make(who, asked, rng)
    made = time.perf_counter()
    embed(loading.load_recogniser("judge"), faces)
    read(loading.load_attributes(), faces)
    done = time.perf_counter()
    return {
        "generated_per_s": _round(len(faces) / (made - started)),
        "judged_and_measured_per_s": _round(len(faces) / (done - made)),
    }


def contact_sheet(faces_NHWC: npt.NDArray[np.uint8], path: Path, columns: int = 12) -> None:
    """Write faces side by side, for looking at."""
    whole = len(faces_NHWC) // columns * columns or len(faces_NHWC)
    rows = [np.concatenate(list(faces_NHWC[i : i + columns]), axis=1) for i in range(0, whole, min(columns, whole))]
    Image.fromarray(np.concatenate(rows)).save(path)


def _round(value: Any) -> float:
    return round(float(value), 4)
