"""The audit: what is about to be published is re-read and held against what was promised.

Per unit (on the workers): every file is hashed again, every stored image decodes, counts add up, keys are unique, and
the auditor, a recogniser that no filter ever used, embeds the images. Over all (on the driver): quotas, labels,
balance with the reader's confusion, and similarity figures under judge and auditor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.balance import Targets, adjusted_shares, confusion_of_cells, wilson_interval
from pipeline.domain.calibration import Calibration, equal_error_rate
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, receipt_path, segment_path, sha256_hex
from pipeline.domain.records import Cell, Float32, unit_rows
from pipeline.flow.commit import read_receipt
from pipeline.flow.parts import Parts, embed_fixed


def audit_unit(unit_name: str, parts: Parts) -> dict[str, Any]:
    """Re-read one committed make unit; return its keys with judge and auditor embeddings of the accepted images.

    Raises:
        StoreError: a file is altered, an image does not decode, or the rows do not add up.
    """
    receipt = read_receipt(parts.store, receipt_path(unit_name))
    for entry in receipt.files:
        if sha256_hex(parts.store.get(entry.path)) != entry.sha256:
            raise StoreError(f"{entry.path}: its bytes are not those of its receipt; run `facemint verify --deep`")
    rows = parts.segments.read_rows(parts.store, unit_name)
    counts = Counts.of((r["accepted"], r["off_target"], tuple(r["reasons"])) for r in rows)
    if counts != receipt.counts:
        raise StoreError(f"{unit_name}: the rows count {counts.to_dict()}, the receipt says {receipt.counts.to_dict()}")
    places = parts.segments.locate(parts.store, unit_name)
    accepted = [r for r in rows if r["accepted"]]
    if set(places) != {r["key"] for r in accepted} or len({r["key"] for r in rows}) != len(rows):
        raise StoreError(f"{unit_name}: stored images and accepted rows differ, or a key appears twice")
    faces = []
    for row in accepted:
        offset, length = places[row["key"]]
        data = parts.store.get_range(segment_path(unit_name, "tar"), offset, length)
        try:
            faces.append(parts.codec.decode(data))
        except ValueError as error:
            raise StoreError(f"{unit_name}: image {row['key']} does not decode: {error}") from None
    empty = np.empty((0, parts.auditor.space.dimensions), np.float32)
    auditor = embed_fixed(parts.auditor, np.stack(faces), parts.judge_batch) if faces else empty
    judge = np.stack([r["embedding"] for r in accepted]) if accepted else empty
    return {
        "unit": unit_name,
        "keys": [r["key"] for r in accepted],
        "places": {k: list(v) for k, v in places.items()},
        "judge": judge,
        "auditor": auditor,
    }


def similarity_figures(emb_NE: Float32, labels_N: npt.NDArray[np.int64], calibration: Calibration) -> dict[str, Any]:
    """Return how alike the images of one identity, and of different ones, are under one recogniser.

    All genuine pairs; impostor pairs are exhaustive up to 4,000 images and an even subset of rows beyond.
    """
    step = max(1, -(-len(emb_NE) // 4000))
    emb, labels = emb_NE[::step], labels_N[::step]
    cos = emb @ emb.T
    upper = np.triu(np.ones_like(cos, bool), 1)
    same = labels[:, None] == labels[None, :]
    genuine, impostor = cos[same & upper], cos[~same & upper]
    if not genuine.size or not impostor.size:
        return {"n_genuine": int(genuine.size), "n_impostor": int(impostor.size)}
    ids = np.unique(labels_N)
    templates = unit_rows(np.stack([emb_NE[labels_N == i].mean(axis=0) for i in ids]), "templates")
    others = templates @ templates.T
    np.fill_diagonal(others, -1.0)
    pair = calibration.pairs["sample/sample"]
    levels = {f"{f:g}": float((impostor >= c).mean()) for f, c in zip(pair.fmr, pair.cos, strict=True)}
    return {
        "recogniser": calibration.space.name,
        "n_genuine": int(genuine.size),
        "n_impostor": int(impostor.size),
        "genuine_mean_cos": float(genuine.mean()),
        "impostor_mean_cos": float(impostor.mean()),
        "eer": equal_error_rate(genuine, impostor),
        "fmr_in_set_at_calibrated_fmr": levels,
        "nearest_other_template_cos_max": float(others.max()),
        "nearest_other_template_cos_median": float(np.median(others.max(axis=1))),
    }


def balance_figures(
    cells: Sequence[Cell],
    quota: Mapping[Cell, int],
    targets: Targets,
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, Any]:
    """Return asked and reached identities per cell, with intervals, and the shares adjusted for the reader's errors."""
    reached = Counter(cells)
    total = len(cells)
    names = list(targets.cells)
    read = np.array([reached[c] / max(total, 1) for c in names])
    figures: dict[str, Any] = {
        "by": [name for name, _ in targets.fields],
        "exact": all(reached[c] == n for c, n in quota.items()),
        "cells": [],
    }
    fields = [name for name, _ in targets.fields]
    known = bool(fields) and all(f in confusion for f in fields)
    adjusted = adjusted_shares(read, confusion_of_cells(names, fields, confusion)) if known else None
    for n, cell in enumerate(names):
        low, high = wilson_interval(reached[cell], total)
        figures["cells"].append(
            {
                "cell": str(cell),
                "asked": quota.get(cell, 0),
                "reached": reached[cell],
                "share": float(read[n]),
                "share_95": [low, high],
                "adjusted_share": None if adjusted is None else float(adjusted[n]),
            }
        )
    return figures
