"""Measures the shipped weights on draw E, which nothing was trained or calibrated on, and notes it in the card.

Everything is read back from the weights folder, so the figures are those of the files that are shipped.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks import CONDITIONS, decode_pixels, sample_latents
from pipeline.adapters.phantom.training.attributes import read
from pipeline.adapters.phantom.training.augment import jpeg, to_input
from pipeline.adapters.phantom.training.config import ROLES, Training
from pipeline.adapters.phantom.training.draws import Drawn, load_draws
from pipeline.adapters.phantom.training.export import MODELS, write_card
from pipeline.adapters.phantom.training.groups import Array, by_group, groups_of, rounded
from pipeline.adapters.phantom.training.measure_attributes import measure_attributes
from pipeline.adapters.phantom.training.measure_generator import (
    FEW_STEPS,
    eer_of_groups,
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

    only: models to measure anew; the card's other figures stay. A recogniser comes with what it says of generator and
        bank, the generator with all that is said of it; what the attribute model reads in generated pictures comes
        with these, and not with the attribute model.
    """
    drawn, wanted, content = _held_out(config), set(only or MODELS), loading.card()
    stored, kept = jpeg(drawn.faces_NHWC, 95), content["figures"] if only else {}
    figures: dict[str, Any] = {"command": "python -m pipeline.adapters.phantom.training measure"}
    if wanted - {"attributes"}:
        figures |= _of_people(config, drawn, stored)
    if not wanted & {"generator", "bank"}:  # what other recognisers say of these is still true
        for part in figures.keys() & {"recognisers", "generator", "variety", "bank"}:
            figures[part] = kept[part] | {role: figures[part][role] for role in ROLES if role in wanted}
    if "attributes" in wanted:
        figures["attributes"], content["models"]["attributes"]["confusion"] = measure_attributes(config, drawn, stored)
    if "generator" in wanted:
        figures["speed"] = _speed(config)
    content["figures"] = kept | figures
    for name, facts in _row_independence(stored, wanted).items():
        content["models"][name] |= facts
    write_card(folder, content)


def _of_people(config: Training, drawn: Drawn, stored: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What the recognisers say of rendered pictures and of the generator's."""
    embeddings = {role: embed(loading.load_recogniser(role), stored) for role in ROLES}
    return {
        "recognisers": {role: _recognition(embeddings[role], drawn) for role in ROLES},
        "generator": measure_generator(config, drawn, embeddings),
        "variety": measure_variety(config, drawn, embeddings),
        "bank": measure_bank(config),
    }


def _held_out(config: Training) -> Drawn:
    drawn = load_draws(config, ("E",))
    use = drawn.owner_N < config.held_out
    faces, points, owner = drawn.faces_NHWC[use], drawn.landmarks_N52[use], drawn.owner_N[use]
    return Drawn(faces, points, owner, drawn.identities_NT[use], drawn.nuisances_NC[use])


def _recognition(emb_ND: Array, drawn: Drawn) -> dict[str, Any]:
    """How well a recogniser tells held-out people apart; `matched` impostors are alike in presentation, tone and age.

    By group: EER among the people of that group alone, and how often two pictures of somebody of that group miss the
    threshold that everybody shares.
    """
    genuine, impostor, left, right = pairs(emb_ND, drawn.owner_N)
    alike = np.ones(len(left), dtype=bool)
    for name, gap in (("presentation", 0.5), ("skin_tone_mst", 1.0), ("age_years", 9.0)):
        truth = drawn.truth(name)
        alike &= np.abs(truth[left] - truth[right]) < gap
    threshold = float(np.quantile(impostor, 0.999))
    own = own_pairs(emb_ND, drawn.owner_N)
    missed_I, groups = np.array([(mine < threshold).mean() for mine in own]), groups_of(drawn)

    def matched(of: npt.NDArray[np.bool_]) -> float:
        mine, inside = np.concatenate([own[i] for i in np.flatnonzero(of)]), of[drawn.owner_N]
        others = impostor[alike & inside[left] & inside[right]]
        return rounded(equal_error_rate(mine, others)) if len(others) else 0.0

    return {
        "eer": rounded(equal_error_rate(genuine, impostor)),
        "eer_matched_impostors": rounded(equal_error_rate(genuine, impostor[alike])),
        "fnmr_at_fmr_1e-3": rounded((genuine < threshold).mean()),
        "eer_by_group": eer_of_groups(emb_ND, drawn.owner_N, groups),
        "eer_matched_impostors_by_group": by_group(groups, matched),
        "fnmr_by_group": by_group(groups, lambda of: rounded(missed_I[of].mean())),
        "n_genuine": len(genuine),
        "n_impostor": len(impostor),
        "n_impostor_matched": int(alike.sum()),
    }


def _row_independence(stored: npt.NDArray[np.uint8], wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """Does a row of the models that are wanted change with its place, its neighbours or the padding of a batch of 16
    or 8?
    """
    pictures = stored[np.arange(32) % len(stored)]

    def reader(model: nn.Module) -> Any:
        def outputs(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
            with torch.no_grad():
                out = model(to_input(pictures[rows]))
            return (out[0] if isinstance(out, tuple) else out).numpy()  # type: ignore[no-any-return]

        return outputs

    calls = {role: reader(loading.load_recogniser(role)) for role in ROLES if role in wanted}
    if "attributes" in wanted:
        calls["attributes"] = reader(loading.load_attributes())
    if "generator" in wanted:
        calls["generator"] = _generating()
    return {name: _stability(call) for name, call in calls.items()}


def _generating() -> Any:
    """Return what makes the given rows of 32 pictures, before their pixels are rounded."""
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

    return generate


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
