"""Writes a sheet of phantoms by skin tone, presentation and age, for a person to look at.

Run: python -m pipeline.adapters.phantom.gallery SHEET.png [SEED]
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.adapters.phantom.renderer import render
from pipeline.adapters.phantom.traits import (
    FloatArray,
    identity_column,
    nuisance_column,
    sample_identities,
    sample_nuisances,
)
from pipeline.domain.rng import Key, Stream


def demographic_rows(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """60 phantoms: for each of the ten tones, two presentations by three ages; moderate pose and light."""
    count = 60
    pool = sample_identities(4000, rng)
    rows = []
    for tone in range(1, 11):
        for masculine in (False, True):
            for age in (25.0, 48.0, 72.0):
                is_side = (pool[:, identity_column("presentation")] > 0.5) == masculine
                near = (np.abs(pool[:, identity_column("age_years")] - age) < 7) & (
                    np.abs(pool[:, identity_column("skin_tone_mst")] - tone) < 0.8
                )
                pick = pool[rng.choice(np.flatnonzero(is_side & near))].copy()
                pick[identity_column("skin_tone_mst")] = tone
                rows.append(pick)
    nuisances = sample_nuisances(count, rng)
    for name, most in (("yaw_deg", 25.0), ("light_azimuth_deg", 60.0)):
        column = nuisance_column(name)
        nuisances[:, column] = np.clip(nuisances[:, column], -most, most)
    return np.stack(rows).astype(np.float32), nuisances


def sheet(faces_NHWC: npt.NDArray[np.uint8], columns: int) -> Image.Image:
    """Tile pictures row by row."""
    n, h, w, _ = faces_NHWC.shape
    rows = -(-n // columns)
    canvas = np.full((rows * h, columns * w, 3), 255, dtype=np.uint8)
    for index, face in enumerate(faces_NHWC):
        r, c = divmod(index, columns)
        canvas[r * h : (r + 1) * h, c * w : (c + 1) * w] = face
    return Image.fromarray(canvas)


def main(arguments: list[str]) -> None:
    """Render the sheet: ten columns of tones, six rows of presentation and age."""
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    identities, nuisances = demographic_rows(Key(seed, Stream.PREVIEW).generator())
    faces = render(identities, nuisances, supersample=2.0).faces_NHWC
    by_tone = faces.reshape(10, 6, *faces.shape[1:]).swapaxes(0, 1).reshape(faces.shape)
    sheet(by_tone, 10).save(arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
