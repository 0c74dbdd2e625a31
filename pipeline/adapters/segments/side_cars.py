"""Side-cars as parquet: one row per image, with its measures and, where a recogniser was asked, its embedding.

Legend: N images, E dimensions of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from pipeline.adapters.segments.files import altered, scratch
from pipeline.adapters.segments.reads import read_columns
from pipeline.adapters.segments.tables import Spec, pairs, write_table
from pipeline.domain.manifest import FileEntry
from pipeline.domain.ports import Store
from pipeline.domain.sidecar import SideCar

COLUMNS: Spec = {"key": "string", "measures": "map", "embedding": "vector?"}


def write_side_car(store: Store, path: str, car: SideCar) -> FileEntry:
    """Write a side-car; without embeddings the file has no such column.

    Raises:
        ValueError: keys, measures and embeddings differ in number, or a measure is not finite.
    """
    rows = len(car.keys)
    if len(car.measures) != rows or len(car.embedding_NE) != rows:
        raise ValueError(f"{path}: {rows} keys, {len(car.measures)} measures, {len(car.embedding_NE)} embeddings")
    embedded = car.embedding_NE.shape[1] > 0
    spec = COLUMNS if embedded else {k: v for k, v in COLUMNS.items() if k != "embedding"}
    sound_N = np.asarray(np.isfinite(car.embedding_NE).all(axis=1))
    dicts = (
        {
            "key": key,
            "measures": pairs(car.measures[n], key),
            **({"embedding": car.embedding_NE[n] if sound_N[n] else None} if embedded else {}),
        }
        for n, key in enumerate(car.keys)
    )
    about = json.dumps({**car.about, "embedded": embedded}, sort_keys=True)
    marks = {"facemint_unit": car.unit, "facemint_about": about}
    with scratch() as here:
        entry = write_table(here / "rows.parquet", path, spec, dicts, marks, car.embedding_NE.shape[1])
        store.put_file(path, here / "rows.parquet")
    return entry


def read_side_car(store: Store, path: str, unit: str) -> SideCar:
    """Return what `write_side_car` wrote.

    Raises:
        FileNotFoundError: `path` is absent.
        StoreError: the file is damaged, or not a side-car of this unit.
    """
    about: dict[str, object] = {}

    def check(marks: Mapping[str, str], where: str) -> None:
        if marks.get("facemint_unit") != unit or "facemint_about" not in marks:
            raise altered(where, f"it says that it belongs to unit {marks.get('facemint_unit')}")
        about.update(json.loads(marks["facemint_about"]))

    found = dict(read_columns(store, path, ["key", "measures"], check))
    keys = tuple(found["key"])
    emb = np.empty((len(keys), 0), np.float32)
    if about.pop("embedded"):
        emb = read_columns(store, path, ["embedding"], check)["embedding"]
        about.pop("embedded")
    return SideCar(unit, keys, tuple(dict(m) for m in found["measures"]), emb, about)
