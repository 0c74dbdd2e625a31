"""What a version says of leakage: how near its images and templates come to the galleries, under every recogniser.

Judge and screening recogniser decided something and are reported for what they saw; the auditor decided nothing, and is
reported as the witness. The nearest pairs are kept for review under `private/` and never published.

Legend: N images of the version, M identities, E embedding dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.leakage import (
    AUDITOR,
    COPY_BITS,
    JUDGE,
    SAMPLES,
    SCREENING,
    comparison_figures,
    measure_name,
    nearest_pairs,
)
from pipeline.domain.manifest import IndexRow, canonical_json, segment_path, sha256_hex
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Float32, template_of
from pipeline.execute.galleries import settings_said
from pipeline.execute.session import Session
from pipeline.flow.leakage import PAIRS, SIDES, Screen
from pipeline.flow.parts import Parts, embed_fixed

NOT_SCREENED = "not screened: no gallery was given"


def leakage_figures(
    session: Session, rows: Sequence[IndexRow], judge_NE: Float32, auditor_NE: Float32
) -> dict[str, Any] | str:
    """Return the leakage table of a version, and keep its nearest pairs.

    Args:
        session: the run.
        rows: the N index rows that are reported on, in the order of the embeddings.
        judge_NE: their embeddings under the judge.
        auditor_NE: and under the auditor.
    """
    screen = session.parts.screen
    if screen is None:
        return NOT_SCREENED
    near = _measured(session.parts, screen, rows)
    owners = np.array([r.identity for r in rows], np.int64)
    emb = {JUDGE: judge_NE, AUDITOR: auditor_NE}
    found: dict[str, Any] = {}
    for role in screen.readers:
        table = _samples(screen, role, near, auditor_NE)
        if role in emb and screen.reference(role) is not None:
            table |= _templates(screen, role, emb[role], owners, session.parts.recipe.identities.images_per_identity)
        found[role] = {"decides": role in screen.roles, "compared": table or "no gallery can be compared under it"}
    copies = screen.settings.copies
    return {
        "galleries": settings_said(screen),
        "mode": screen.settings.mode,
        "images_refused": _refuses_images(session.parts.recipe),
        "images": len(rows),
        "identities": len(np.unique(owners)),
        "found": found,
        "copies": _copies(near[COPY_BITS], copies.bits) if copies else "not looked for",
        "private": {
            "limits": _entry(screen.limits_path, session.parts.store.get(screen.limits_path)),
            "pairs": _keep_pairs(session.parts, screen, rows, near, emb),
        },
    }


def _measured(parts: Parts, screen: Screen, rows: Sequence[IndexRow]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the numbers that were measured when the images were made, by measure, in the order of `rows`."""
    place = {row.key: n for n, row in enumerate(rows)}
    out = {name: np.full(len(rows), np.nan) for name in screen.measures}
    for segment in sorted({row.segment for row in rows}):
        columns = parts.segments.read_columns(parts.store, segment, ["key", "measures"])
        for key, measures in zip(columns["key"], columns["measures"], strict=True):
            if key in place:
                for name, values in out.items():
                    values[place[key]] = measures.get(name, np.nan)
    return out


def _samples(
    screen: Screen, role: str, near: dict[str, npt.NDArray[np.float64]], auditor_NE: Float32
) -> dict[str, Any]:
    """Return the rows of the table about images, and add what the auditor sees to `near`."""
    reference = screen.reference(role)
    if reference is None:
        return {}
    out = {}
    for side in SIDES:
        name = measure_name(side, role)
        if role == AUDITOR:
            near[name] = reference.nearest(side, auditor_NE)[0].astype(np.float64)
        out[f"images to {side}"] = comparison_figures(near[name], screen.limits(role, 1)[side])
    return out


def _templates(
    screen: Screen, role: str, emb_NE: Float32, owners: npt.NDArray[np.int64], images: int
) -> dict[str, Any]:
    reference = screen.reference(role)
    assert reference is not None
    by_owner: dict[int, list[int]] = defaultdict(list)
    for n, owner in enumerate(owners.tolist()):
        by_owner[owner].append(n)
    templates = np.stack([template_of(emb_NE[mine]) for _, mine in sorted(by_owner.items())])
    limits = screen.limits(role, images)
    return {
        f"templates to {side}": comparison_figures(reference.nearest(side, templates)[0], limits[side])
        for side in SIDES
    }


def _refuses_images(recipe: Recipe) -> bool:
    """Return whether a flagged image is refused: `leakage` alone refuses people, its filter refuses images."""
    return any(node.use == "leakage" and getattr(node, "mode", "refuse") == "refuse" for node in recipe.filters)


def _copies(bits_N: npt.NDArray[np.float64], most: int) -> dict[str, Any]:
    return {
        "bits": most,
        "flagged": int((~(bits_N > most)).sum()),
        "least": float(bits_N.min()),
        "p0.1": float(np.quantile(bits_N, 0.001)),
    }


def _keep_pairs(
    parts: Parts,
    screen: Screen,
    rows: Sequence[IndexRow],
    near: Mapping[str, npt.NDArray[np.float64]],
    emb: Mapping[str, Float32],
) -> dict[str, Any]:
    """Write the nearest pairs of images under each recogniser; return where, with their digest."""
    kept: dict[str, Any] = {}
    for role in screen.readers:
        reference, name = screen.reference(role), measure_name(SAMPLES, role)
        if reference is None or not screen.settings.keep_pairs:
            continue
        top = nearest_pairs(near[name], screen.settings.keep_pairs)
        probes = emb[role][top] if role in emb else _screened(parts, screen, [rows[n] for n in top])
        best, where = reference.nearest(SAMPLES, probes)
        kept[role] = [
            {"key": rows[n].key, "gallery": reference.name_of(SAMPLES, int(row)), "cos": float(cos)}
            for n, row, cos in zip(top, where, best, strict=True)
        ]
    data = canonical_json(kept)
    path = f"{PAIRS}pairs-{sha256_hex(data)[:16]}.json"
    parts.guard()
    parts.store.put_if_absent(path, data)
    return _entry(path, data)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"path": path, "sha256": sha256_hex(data), "bytes": len(data)}


def _screened(parts: Parts, screen: Screen, rows: Sequence[IndexRow]) -> Float32:
    """Return images under the screening recogniser, whose embeddings are not kept, decoded anew."""
    reader = screen.readers[SCREENING]
    faces = [
        parts.codec.decode(parts.store.get_range(segment_path(r.segment, "tar"), r.offset, r.length)) for r in rows
    ]
    return embed_fixed(reader.recogniser, np.stack(faces), reader.batch)
