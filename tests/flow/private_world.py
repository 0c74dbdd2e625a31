"""A small curated dataset: a folder of sketches that count as photographs of people, and what was curated of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from jobs import wiring
from jobs.wiring.curating import curation_on
from pipeline.adapters.sketch import DIMENSIONS, SketchGenerator, SketchGeneratorOptions
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import unit_rows
from pipeline.execute.curating import curate
from pipeline.execute.run import Published
from tests.recipes import sketch_recipe
from tests.worlds import Silent

CLEAN = {
    "link": {"cos": 0.5}, "keep": {"cos": 0.5}, "merge": {"cos": 0.95}, "drop": {"cos": 0.9},
    "duplicates": {"bits": None, "cos": None},
}  # fmt: skip


def draw(folder: Path, people: range, images: int = 4) -> None:
    """Add pictures of people to a folder, `person-0003/photo-0001.png` each, with a caption beside it."""
    generator = SketchGenerator(SketchGeneratorOptions(use="sketch", noise=0.5))
    for person in people:
        rng = np.random.default_rng([77, person])
        vector = unit_rows(rng.standard_normal((1, DIMENSIONS)), "sketch").repeat(images, axis=0)
        noise = rng.standard_normal((images, *SketchGenerator.noise_shape), dtype=np.float32)
        faces = generator.generate(vector, [{}] * images, noise).astype(np.int16)
        # so little that no number changes much, and enough that no two pictures have the same bytes
        faces = np.clip(faces + rng.integers(-3, 4, faces.shape), 0, 255).astype(np.uint8)
        home = folder / f"person-{person:04d}"
        home.mkdir(parents=True, exist_ok=True)
        for number, face in enumerate(faces):
            Image.fromarray(face).save(home / f"photo-{number:04d}.png")
            (home / f"photo-{number:04d}.txt").write_text(f"caption of {person}, {number}")


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    """Return the checked recipe that curates a folder; `changes` replace top-level keys."""
    base = sketch_recipe()
    raw = {
        "kind": "curate",
        "name": "people",
        "seed": 7,
        "sources": [{"use": "folder", "path": str(folder), "licence": "CC BY 4.0", "lawful_basis": "consent"}],
        "curate": {"clean": CLEAN, "rows": 8, "buckets": 3},
        "filters": [{"use": "own-template", "fmr": 1e-2}],
        "balance": {"by": ["shape", "shade"], "marginal": {}},
        **{k: base[k] for k in ("judge", "auditor", "measures", "unit", "encoding", "exports", "compute")},
        **changes,
    }
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return wiring.load_recipe(str(path))


def curated(recipe: Recipe, store: Store) -> Published:
    """Run a curation to its end on a store."""
    session, kit = curation_on(recipe, store, Silent())
    try:
        published = curate(session, kit)
        assert published is not None
        return published
    finally:
        kit.decoder.close()  # type: ignore[attr-defined]
