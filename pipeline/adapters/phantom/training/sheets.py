"""Sheets of generated pictures for a person to look at: every cell, and one condition at a time turned up.

Each row of a sweep is one new person and one noise, so that what changes along it is what was asked for.
"""

from __future__ import annotations

import numpy as np

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks import CONDITIONS
from pipeline.adapters.phantom.training.bank import CELLS
from pipeline.adapters.phantom.training.config import Training
from pipeline.adapters.phantom.training.measure_generator import minted_people
from pipeline.adapters.phantom.training.sampling import Array, Generator, contact_sheet

_COLUMNS = 9
_PLAIN = {
    "yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "light_azimuth_deg": 20.0, "light_elevation_deg": 25.0,
    "light_ambient": 0.45, "smile": 0.2, "mouth_open": 0.0, "glasses": 0.0,
    "age_offset_years": 0.0,
}  # fmt: skip
SWEEPS = {
    "pose": "yaw_deg", "pitch": "pitch_deg", "light": "light_azimuth_deg", "height": "light_elevation_deg",
    "ambient": "light_ambient", "smile": "smile", "mouth": "mouth_open", "glasses": "glasses",
    "age": "age_offset_years",
}  # fmt: skip
"""Sheet -> the condition that runs from its lowest to its highest value along the rows."""


def write_sheets(config: Training) -> None:
    """Write `cells.png` and one sheet per sweep into `sheets/` of the working folder."""
    folder = config.home / "sheets"
    folder.mkdir(exist_ok=True)
    faces, cell, _ = minted_people(16 if config.held_out > 16 else 2, 1, config.rng("measure", 4))
    contact_sheet(faces[np.argsort(cell, kind="stable")], folder / "cells.png", columns=16)
    bank, generator = loading.load_bank(), Generator()
    rng = config.rng("measure", 5)
    cells = np.arange(1, len(CELLS))
    who = bank.mean_CD[cells] + np.einsum("nij,nj->ni", bank.factor_CDD[cells], rng.standard_normal((len(cells), 128)))
    who /= np.linalg.norm(who, axis=1, keepdims=True)
    for number, (name, swept) in enumerate(SWEEPS.items()):
        rows = []
        for n in range(len(cells)):
            same = np.repeat(who[n : n + 1], _COLUMNS, axis=0)
            rows.append(generator.make(same, _sweep(swept), config.rng("measure", 6, number, n), one_noise=True))
        contact_sheet(np.concatenate(rows), folder / f"{name}.png", columns=_COLUMNS)


def _sweep(swept: str) -> Array:
    """Plain conditions, one of which runs over its range, (columns, K)."""
    values = np.array([[_PLAIN[name] for name, _, _ in CONDITIONS]]).repeat(_COLUMNS, axis=0)
    column = [name for name, _, _ in CONDITIONS].index(swept)
    _, low, high = CONDITIONS[column]
    values[:, column] = np.linspace(low, high, _COLUMNS)
    return values
