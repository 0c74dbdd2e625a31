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
from pipeline.domain.unit import Stage
from pipeline.flow.commit import read_receipt
from pipeline.flow.parts import Parts, embed_fixed


def audit_unit(unit_name: str, parts: Parts) -> dict[str, Any]:
    """Re-read one committed unit; return its keys with judge and auditor embeddings of the accepted images.

    An enrol unit has no images: its rows are counted, and the findings are empty.

    Raises:
        StoreError: a file is altered, an image does not decode, or the rows do not add up.
    """
    receipt = read_receipt(parts.store, receipt_path(unit_name))
    for entry in receipt.files:
        if sha256_hex(parts.store.get(entry.path)) != entry.sha256:
            raise StoreError(
                f"{entry.path}: its bytes are not those of its receipt; restore it from a copy, or delete "
                f"{receipt.path} to have its unit made again"
            )
    rows = parts.segments.read_rows(parts.store, unit_name)
    images = receipt.unit["stage"] == Stage.MAKE.value
    counts = Counts.of((r["accepted"], images and r["off_target"], tuple(r["reasons"])) for r in rows)
    if counts != receipt.counts:
        raise StoreError(f"{unit_name}: the rows count {counts.to_dict()}, the receipt says {receipt.counts.to_dict()}")
    if not images:
        return {"unit": unit_name, "keys": [], "places": {}}
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
    empty = np.empty((0, 0), np.float32)
    auditor = embed_fixed(parts.auditor, np.stack(faces), parts.auditor_batch) if faces else empty
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

    Genuine pairs are all pairs within an identity (an even subset of 200 images where it has more); impostor pairs are
    exhaustive up to 4,000 images and those of an even subset of rows beyond.
    """
    order = np.argsort(labels_N, kind="stable")
    owned = np.split(order, np.flatnonzero(np.diff(labels_N[order])) + 1)
    genuine = np.concatenate([_pairs_within(emb_NE[rows]) for rows in owned])
    step = max(1, -(-len(emb_NE) // 4000))
    emb, labels = emb_NE[::step], labels_N[::step]
    other = np.triu(labels[:, None] != labels[None, :], 1)
    impostor = (emb @ emb.T)[other]
    if not genuine.size or not impostor.size:
        return {"n_genuine": int(genuine.size), "n_impostor": int(impostor.size)}
    nearest = _nearest_other(unit_rows(np.stack([emb_NE[rows].mean(axis=0) for rows in owned]), "templates"))
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
        "nearest_other_template_cos_max": float(nearest.max()),
        "nearest_other_template_cos_median": float(np.median(nearest)),
    }


def _pairs_within(emb_KE: Float32) -> Float32:
    """Return the cosines of all pairs of one identity's images, of an even subset of 200 where it has more."""
    emb = emb_KE[:: max(1, -(-len(emb_KE) // 200))]
    pairs: Float32 = (emb @ emb.T)[np.triu_indices(len(emb), 1)]
    return pairs


def _nearest_other(templates_ME: Float32, block: int = 1024) -> Float32:
    """Return each template's largest cosine to another one, in memory of one block of rows."""
    out = []
    for start in range(0, len(templates_ME), block):
        cos = templates_ME[start : start + block] @ templates_ME.T
        rows = np.arange(len(cos))
        cos[rows, start + rows] = -1.0
        out.append(cos.max(axis=1))
    return np.concatenate(out)


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
