"""Writes sheets of phantoms for a person to look at: by skin tone, presentation and age, by pose, light, and covering.

Run: python -m pipeline.adapters.phantom.gallery FOLDER [SEED]
or:  python -m pipeline.adapters.phantom.gallery SHEET.png [SEED]

The first writes every sheet into a folder, the second only the sheet of tones. In the sweeps a row is one person:

    tones.png       ten columns of Monk tones; rows: feminine and masculine, young, middle-aged and old
    pose.png        yaw from -90 to 90 degrees, then pitch from -30 to 30
    light.png       key light from left to right, soft, then with hard and with soft shadows
    expression.png  smile, open mouth, raised brows, narrowed eyes, by degrees
    age.png         the same people from 20 years younger to 20 years older
    covered.png     glasses, sunglasses, masks, caps, headscarf and hands, each at four poses
    covered_by_tone.png  one covering a row, over the ten tones
    occlusion.png   the classes of the pixels of covered.png, black where nothing is covered
    random.png      drawn as for training, with the wide conditions
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.adapters.phantom.renderer import render, render_with_truth
from pipeline.adapters.phantom.traits import (
    NUISANCE_FIELDS,
    FloatArray,
    identity_column,
    nuisance_column,
    sample_identities,
    sample_nuisances,
)
from pipeline.adapters.phantom.wide import widen
from pipeline.domain.rng import Key, Stream

_SUPERSAMPLE = 2.0
_PLAIN = {
    "scale": 1.0, "exposure": 1.0, "light_ambient": 0.42, "light_elevation_deg": 25.0, "light_azimuth_deg": 20.0,
    "background_r": 0.45, "background_g": 0.50, "background_b": 0.55,
    "cloth_r": 0.20, "cloth_g": 0.25, "cloth_b": 0.40, "collar": 0.5, "glasses_dark": 0.7,
    "mask_r": 0.62, "mask_g": 0.80, "mask_b": 0.90, "hat_r": 0.55, "hat_g": 0.16, "hat_b": 0.20,
}  # fmt: skip
COVERINGS: tuple[Mapping[str, float], ...] = (
    {"glasses": 1.0},
    {"glasses": 1.0, "glasses_tint": 1.0, "glasses_round": 0.7, "glasses_size": 0.8},
    {"face_mask": 1.0},
    {"face_mask": 2.0, "mask_r": 0.15, "mask_g": 0.16, "mask_b": 0.2, "mask_drop": 0.8},
    {"hat": 1.0, "hat_low": 0.6},
    {"hat": 2.0, "hat_low": 0.4, "hat_r": 0.12, "hat_g": 0.2, "hat_b": 0.45},
    {"hat": 3.0, "hat_r": 0.55, "hat_g": 0.5, "hat_b": 0.45},
    {"hand": 1.0, "hand_side": 1.0},
    {"hand": 2.0, "hand_side": -1.0},
)
_PAINTS = np.array(
    [[0, 0, 0], [230, 60, 50], [70, 190, 90], [60, 110, 240], [240, 210, 60], [220, 90, 220]], dtype=np.uint8
)


def plain_rows(count: int, **values: float) -> FloatArray:
    """Nuisance rows of a frontal, neutral, clear picture, with the given values set."""
    rows = np.zeros((count, len(NUISANCE_FIELDS)), dtype=np.float32)
    for name, value in (_PLAIN | values).items():
        rows[:, nuisance_column(name)] = value
    return rows


def demographic_rows(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """60 phantoms: for each of the ten tones, two presentations by three ages; moderate pose and light."""
    count = 60
    pool = sample_identities(4000, rng)
    rows = [
        _somebody(pool, tone, masculine, age, rng)
        for tone in range(1, 11)
        for masculine in (False, True)
        for age in (25.0, 48.0, 72.0)
    ]
    nuisances = sample_nuisances(count, rng)
    for name, most in (("yaw_deg", 25.0), ("light_azimuth_deg", 60.0)):
        column = nuisance_column(name)
        nuisances[:, column] = np.clip(nuisances[:, column], -most, most)
    return np.stack(rows).astype(np.float32), nuisances


def _somebody(pool: FloatArray, tone: float, masculine: bool, age: float, rng: np.random.Generator) -> FloatArray:
    is_side = (pool[:, identity_column("presentation")] > 0.5) == masculine
    near = (np.abs(pool[:, identity_column("age_years")] - age) < 7) & (
        np.abs(pool[:, identity_column("skin_tone_mst")] - tone) < 0.8
    )
    pick: FloatArray = pool[rng.choice(np.flatnonzero(is_side & near))].copy()
    pick[identity_column("skin_tone_mst")] = tone
    return pick


def people(rng: np.random.Generator) -> FloatArray:
    """Eight phantoms over tones, ages and presentations, for sweeps."""
    pool = sample_identities(4000, rng)
    return np.stack(
        [
            _somebody(pool, tone, bool(index % 2), age, rng)
            for index, (tone, age) in enumerate(
                ((2, 24), (3, 68), (5, 35), (6, 52), (7, 72), (8, 28), (9, 45), (10, 66))
            )
        ]
    )


def sheet(faces_NHWC: npt.NDArray[np.uint8], columns: int) -> Image.Image:
    """Tile pictures row by row."""
    n, h, w, _ = faces_NHWC.shape
    rows = -(-n // columns)
    canvas = np.full((rows * h, columns * w, 3), 255, dtype=np.uint8)
    for index, face in enumerate(faces_NHWC):
        r, c = divmod(index, columns)
        canvas[r * h : (r + 1) * h, c * w : (c + 1) * w] = face
    return Image.fromarray(canvas)


def _grid(who: FloatArray, steps: Sequence[Mapping[str, float]]) -> tuple[FloatArray, FloatArray]:
    """A row of steps for every person."""
    how = np.concatenate([plain_rows(1, **step) for step in steps])
    return np.repeat(who, len(steps), axis=0), np.tile(how, (len(who), 1))


def _drawn(who: FloatArray, steps: Sequence[Mapping[str, float]]) -> Image.Image:
    return sheet(render(*_grid(who, steps), supersample=_SUPERSAMPLE).faces_NHWC, len(steps))


def pose_steps() -> list[dict[str, float]]:
    """Yaw through both profiles, then pitch."""
    turns = [{"yaw_deg": float(yaw)} for yaw in (-90, -70, -50, -25, 0, 25, 50, 70, 90)]
    return turns + [{"pitch_deg": float(p)} for p in (-30, -15, 15, 30)] + [{"yaw_deg": 60.0, "pitch_deg": 25.0}]


def light_steps() -> list[dict[str, float]]:
    """Key light around the head: soft, with hard shadows, and with soft ones."""
    around = [{"light_azimuth_deg": float(a), "light_ambient": 0.28} for a in (-80, -40, 0, 40, 80)]
    hard = [step | {"shadow": 1.0, "shadow_softness": 0.1} for step in around]
    soft = [step | {"shadow": 1.0, "shadow_softness": 0.8} for step in (around[1], around[3])]
    return around + hard + soft + [{"light_elevation_deg": 60.0, "light_ambient": 0.25, "shadow": 1.0}]


def expression_steps() -> list[dict[str, float]]:
    """Each part of an expression by degrees, then some together."""
    single = [{name: amount} for name in ("smile", "mouth_open", "brow_raise") for amount in (0.35, 0.7, 1.0)]
    together = [{"smile": 1.0, "mouth_open": 0.5}, {"smile": 1.0, "mouth_open": 0.5, "yaw_deg": 75.0}]
    return [*single, {"eye_close": 0.5}, *together]


def age_steps() -> list[dict[str, float]]:
    """The same person from 20 years younger to 20 years older."""
    return [{"age_offset_years": float(years)} for years in range(-20, 21, 5)]


def _covered(who: FloatArray) -> tuple[Image.Image, Image.Image]:
    """Every covering at four poses on four people, and the classes of its pixels."""
    poses: tuple[Mapping[str, float], ...] = ({}, {"yaw_deg": 35.0}, {"yaw_deg": -65.0}, {"yaw_deg": 90.0})
    steps = [{**covering, **pose} for covering in COVERINGS for pose in poses]
    identities = np.stack([who[(2 * row + column) % len(who)] for row in range(len(COVERINGS)) for column in range(4)])
    how = np.concatenate([plain_rows(1, **step) for step in steps])
    drawn, hidden = render_with_truth(identities, how, supersample=_SUPERSAMPLE)
    return sheet(drawn.faces_NHWC, 12), sheet(_PAINTS[hidden.occlusion_NHW], 12)


def _covered_by_tone(who: FloatArray) -> Image.Image:
    person = np.repeat(who[2:3], 10, axis=0)
    person[:, identity_column("skin_tone_mst")] = np.arange(1, 11)
    rows = [render(person, plain_rows(10, yaw_deg=15.0, **cover)).faces_NHWC for cover in COVERINGS]
    return sheet(np.concatenate(rows), 10)


def _tones(seed: int) -> Image.Image:
    identities, nuisances = demographic_rows(Key(seed, Stream.PREVIEW).generator())
    faces = render(identities, nuisances, supersample=_SUPERSAMPLE).faces_NHWC
    return sheet(faces.reshape(10, 6, *faces.shape[1:]).swapaxes(0, 1).reshape(faces.shape), 10)


def _random(seed: int) -> Image.Image:
    rng = Key(seed, Stream.PREVIEW, 2).generator()
    identities = sample_identities(96, rng)
    return sheet(render(identities, widen(sample_nuisances(96, rng), rng)).faces_NHWC, 12)


def write_all(folder: Path, seed: int) -> list[Path]:
    """Write every sheet into a folder; returns the paths."""
    who = people(Key(seed, Stream.PREVIEW, 1).generator())
    covered = _covered(who)
    sheets: dict[str, Callable[[], Image.Image]] = {
        "tones": lambda: _tones(seed),
        "pose": lambda: _drawn(who, pose_steps()),
        "light": lambda: _drawn(who, light_steps()),
        "expression": lambda: _drawn(who, expression_steps()),
        "age": lambda: _drawn(who, age_steps()),
        "covered": lambda: covered[0],
        "covered_by_tone": lambda: _covered_by_tone(who),
        "occlusion": lambda: covered[1],
        "random": lambda: _random(seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in sheets.items():
        draw().save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in sheets]


def main(arguments: list[str]) -> None:
    """Write one sheet or all of them, as the module says."""
    if not arguments:
        raise SystemExit("gallery: where to is not said; give a folder for every sheet, or SHEET.png for tones alone")
    torch.set_num_threads(1)  # small batches: a second thread costs more than it brings
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    where = Path(arguments[0])
    if where.suffix == ".png":
        _tones(seed).save(where)
    else:
        sys.stdout.writelines(f"{path}\n" for path in write_all(where, seed))


if __name__ == "__main__":
    main(sys.argv[1:])
