"""Crawls of the sketch world: folders of made-up people's pictures, and recipes that curate them in a second."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs import wiring
from jobs.wiring.curating import check_curation, completed
from pipeline.adapters.decoding import decode
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.sketch import SketchGenerator, SketchGeneratorOptions
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.intake import Decoded, DecodeLimits, Refusal
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.execute.curating import curate
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import Published
from pipeline.execute.settling import Reviewed
from pipeline.flow.curating.worker import CurateWorker
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.versions import image_rows, read_manifest, versions
from tests.worlds import Silent


def picture(person: int, image: int) -> np.ndarray:
    """Return a picture of a made-up person, uint8 RGB (32, 32, 3), the same for equal numbers."""
    rng = np.random.default_rng([person, 1])
    vector = rng.standard_normal(16)
    noise = np.random.default_rng([person, 2, image]).standard_normal((1, *SketchGenerator.noise_shape))
    made = SketchGenerator(SketchGeneratorOptions(use="sketch", noise=0.25)).generate(
        (vector / np.linalg.norm(vector) * 2)[None].astype(np.float32), [{}], noise.astype(np.float32)
    )
    return np.asarray(made[0])


def blend(one: int, other: int, image: int) -> np.ndarray:
    """Return a picture of somebody who looks like two made-up people."""
    both = 0.55 * picture(one, image).astype(np.float64) + 0.45 * picture(other, image)
    return both.round().astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Return a picture as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def crawl(root: Path, people: Mapping[str, range], first: int = 0) -> Path:
    """Write a folder per person with the images of these numbers; a person is who it is by name. Return the root."""
    for name, images in people.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            (folder / f"{image:03d}.png").write_bytes(png(picture(number_of(name) + first, image)))
    return root


def number_of(name: str) -> int:
    """Return the number of a made-up person: `p07` is 7, whatever follows a dash."""
    return int(name.partition("-")[0].removeprefix("p"))


GROUND = {"licence": "CC0-1.0", "lawful_basis": "nobody of it is a person"}


def crawl_recipe(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe that curates a crawl; `changes` replace top-level keys."""
    recipe: dict[str, Any] = {
        "kind": "curate",
        "name": "crawl",
        "seed": 7,
        "sources": [{"use": "folder", "path": str(root), **GROUND}],
        "judge": {"use": "sketch-judge"},
        "auditor": {"use": "sketch-auditor"},
        "measures": [{"use": "sketch"}],
        "filters": [],
        "curate": {
            "clean": {
                "link": {"cos": 0.8}, "keep": {"cos": 0.8}, "merge": {"cos": 0.97}, "drop": None, "template_images": 2,
                "duplicates": {"bits": None, "cos": None},
            },
            "rows": 8,
            "buckets": 3,
        },
        "unit": {"identities": 3},
        "encoding": {"use": "jpeg"},
        "compute": {"executor": "inline"},
    }  # fmt: skip
    return {**recipe, **changes}


def crawled(root: Path, **changes: Any) -> Recipe:
    """Return a validated recipe that curates a crawl."""
    found = parse_recipe(wiring.full_model(), crawl_recipe(root, **changes), "test")
    whole = parse_recipe(wiring.full_model(), completed(found.model_dump(mode="json"), found), "test")
    check_curation(whole, "test")
    return whole


class PlainDecoder:
    """Decodes in this process: sketches endanger nobody, and a child process takes a second to start."""

    def decode(self, data: bytes) -> Decoded | Refusal:
        """Return pixels, or why there are none."""
        return decode(data, DecodeLimits())


def gather(recipe: Recipe, store: Store | None = None, reviewed: Reviewed | None = None, **options: Any) -> Published:
    """Curate to the end on a store, inline; where `reviewed` holds, nothing is returned."""
    target = store if store is not None else MemoryStore()
    session, kit = wiring.curation_on(recipe, target, Silent(), **options)
    plain = dataclasses.replace(kit, decoder=PlainDecoder())
    quarantine = Quarantine(target, session.parts.clock)
    worker = functools.partial(CurateWorker, session.parts, lambda: plain)
    executor = InlineExecutor(worker, stop=session.stop, quarantine=quarantine)
    return curate(dataclasses.replace(session, executor=executor), plain, reviewed)


def outcomes(store: Store) -> dict[str, tuple[int | None, str]]:
    """Return path of every input -> its label in the newest version, or None and why."""
    tables = ParquetTables()
    manifest = read_manifest(store, versions(store)[-1])
    rows = image_rows(Segments(), store, manifest)
    labels = {(r.identity, int(r.key.split("-")[1][1:])): r.label for r in rows}
    out: dict[str, tuple[int | None, str]] = {}
    for generation in range(manifest.generation + 1):
        path = f"private/sources/s{generation + 1:06d}.parquet"
        if store.size(path) is None:
            continue
        listed = tables.read(store, path, ["row", "path"])
        names = dict(zip(listed["row"].tolist(), (os.fsdecode(p) for p in listed["path"]), strict=True))
        told = tables.read(store, f"private/between/g{generation}.parquet", ["row", "reason", "identity", "slot"])
        numbers = zip(*(told[k].tolist() for k in ("row", "identity", "slot")), strict=True)
        for (row, identity, slot), reason in zip(numbers, told["reason"], strict=True):
            label = labels.get((identity, slot))
            out[names[row]] = (label, "" if label is not None else reason or "filter")
    return out
